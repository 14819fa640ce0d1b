//! Sessions of each kind of reply, by swaks and by Python's smtplib.

use std::process::Command;

use tests::{Sink, Site, find, python, run};

/// A session through smtplib; prints what it was told, one line a step.
const SMTPLIB: &str = r#"
import smtplib, sys, email.message
server = smtplib.SMTP('127.0.0.1', int(sys.argv[1]), local_hostname='client.example', timeout=30)
code, text = server.ehlo()
print('ehlo', code, sorted(server.esmtp_features))
print('noop', *server.noop()[:1])
print('vrfy', *server.verify('alice@example.test')[:1])
print('rset', *server.rset()[:1])
message = email.message.EmailMessage()
message['From'], message['To'], message['Subject'] = 'alice@example.test', 'bob@example.test', 'grüße'
message.set_content('Line one\n.\n.two\n')
print('refused', server.send_message(message, to_addrs=['bob@example.test', 'carol@sink.example']))
for step, action in {
    'sender': lambda: server.docmd('MAIL', 'FROM:<not an address>'),
    'sequence': lambda: server.docmd('DATA'),
    'unknown': lambda: server.docmd('FROBNICATE'),
    'size': lambda: server.docmd('MAIL', 'FROM:<alice@example.test> SIZE=999999999999'),
}.items():
    print(step, action()[0])
try:
    server.sendmail('alice@example.test', ['bob'], 'Subject: x\r\n\r\nx')
except smtplib.SMTPRecipientsRefused as refused:
    print('recipient', refused.recipients['bob'][0])
print('quit', server.quit()[0])
"#;

#[test]
fn smtplib_completes_a_session() {
    let site = Site::new();
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let told = python(SMTPLIB, &[&site.smtp.number.to_string()]);
    let lines: Vec<&str> = told.lines().collect();
    for extension in ["pipelining", "size", "8bitmime", "enhancedstatuscodes", "smtputf8", "dsn"] {
        assert!(
            lines.first().is_some_and(|line| line.contains(&format!("'{extension}'"))),
            "{extension}: {told}"
        );
    }
    for line in [
        "noop 250",
        "vrfy 252",
        "rset 250",
        "refused {}",
        "sender 501",
        "sequence 503",
        "unknown 500",
        "size 552",
        "recipient 501",
        "quit 221",
    ] {
        assert!(lines.contains(&line), "{line}:\n{told}");
    }
    sink.wait(1);
    site.wait_empty();
    let mailbox = site.mailbox("example.test", "bob");
    assert_eq!(mailbox.len(), 1);
    let message = mailbox.first().expect("one message");
    assert!(message.starts_with("Return-Path: <alice@example.test>"), "{message}");
    assert!(message.contains("Delivered-To: bob@example.test"), "{message}");
    assert!(message.contains("Received: from client.example"), "{message}");
    assert!(message.replace("\r\n", "\n").ends_with("\n\nLine one\n.\n.two\n"), "{message}");
    assert!(grange.stop().success());
}

#[test]
fn swaks_completes_a_session() {
    let site = Site::new();
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let cases: &[(&[&str], i32)] = &[
        (&["--to", "bob@example.test,carol@sink.example"], 0),
        (&["--to", "bob@example.test", "--pipeline"], 0),
        (&["--to", "bob@example.test", "--protocol", "SMTP"], 0),
        // swaks ends with 24 when no recipient was accepted, with 23 when the sender was refused.
        (&["--to", "bob@"], 24),
        (&["--from", "a b@example.test", "--to", "bob@example.test"], 23),
    ];
    for (arguments, code) in cases {
        let mut swaks = Command::new(find("swaks"));
        swaks.args([
            "--server",
            &format!("127.0.0.1:{}", site.smtp.number),
            "--ehlo",
            "client.example",
        ]);
        if !arguments.contains(&"--from") {
            swaks.args(["--from", "alice@example.test"]);
        }
        let output = run(swaks.args(*arguments));
        let told = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(*code), "swaks {arguments:?}\n{told}");
    }
    sink.wait(1);
    site.wait_empty();
    assert_eq!(site.mailbox("example.test", "bob").len(), 3);
    assert!(grange.stop().success());
}

#[test]
fn strangers_may_not_relay() {
    let site =
        Site::new().replace("relay_from = [\"127.0.0.0/8\", \"::1/128\"]", "relay_from = []");
    let grange = site.start();
    let mut client = tests::Client::ready(site.smtp.number);
    client.expect("MAIL FROM:<alice@example.test>", 250);
    // Every way that has ever fooled a relay (A10).
    for recipient in [
        "carol@sink.example",
        "carol%sink.example@mta.example.test",
        "sink.example!carol@mta.example.test",
        "\"carol@sink.example\"@mta.example.test",
        "carol@[127.0.0.1]",
    ] {
        let reply = client.command(&format!("RCPT TO:<{recipient}>")).expect("a reply");
        assert_eq!(reply.code / 100, 5, "{recipient}: {reply:?}");
    }
    let reply = client.expect("RCPT TO:<carol@sink.example>", 554);
    assert!(reply.text().starts_with("5.7.1"), "{reply:?}");
    client.expect("RCPT TO:<bob@example.test>", 250);
    assert!(grange.stop().success());
}
