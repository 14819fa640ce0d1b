//! Postfix relays into Grange and receives from it; whoever delivers last answers NOTIFY=SUCCESS.

use std::process::Command;
use std::time::Duration;

use tests::{Client, Postfix, Site, find, run, until, until_within};

/// Messages in each direction.
const MESSAGES: usize = 1000;

#[test]
fn postfix_relays_into_grange() {
    let site = Site::new();
    let postfix = Postfix::start(site.smtp.number);
    let grange = site.start();
    source(postfix.port.number, "bob@example.test");
    wished(postfix.port.number, "carol@example.test");
    arrive("Grange's mailbox", || site.mailbox("example.test", "bob").len());
    let report =
        until("a report of success", || site.mailbox("example.test", "alice").into_iter().next());
    assert!(
        report.contains("Reporting-MTA: dns; mta.example.test"),
        "Grange delivered last:\n{report}"
    );
    assert!(report.contains("Action: delivered"), "{report}");
    assert!(report.contains("Original-Envelope-Id: QQ314159"), "{report}");
    site.wait_empty();
    assert_eq!(site.mailbox("example.test", "bob").len(), MESSAGES);
    assert_eq!(site.mailbox("example.test", "carol").len(), 1);
    assert_eq!(site.mailbox("example.test", "alice").len(), 1, "one report, and none of Postfix's");
    assert!(grange.stop().success());
}

#[test]
fn grange_relays_into_postfix() {
    let site = Site::new();
    let postfix = Postfix::start(site.smtp.number);
    let route = format!(
        "  {{ domain = \"postfix.example\", channel = \"smtp\", host = \"[127.0.0.1]:{}\" }},\n  {{ domain = \"*\"",
        postfix.port.number
    );
    let site = site.replace("  { domain = \"*\"", &route);
    let grange = site.start();
    source(site.smtp.number, "bob@postfix.example");
    wished(site.smtp.number, "bob@postfix.example");
    arrive("Postfix's mailbox", || postfix.delivered().saturating_sub(1));
    // Postfix sends its report to alice through Grange.
    let report =
        until("a report of success", || site.mailbox("example.test", "alice").into_iter().next());
    assert!(
        report.contains("Reporting-MTA: dns; postfix.example.test"),
        "Postfix delivered last:\n{report}"
    );
    assert!(report.contains("Action: delivered"), "{report}");
    assert!(report.contains("Original-Envelope-Id: QQ314159"), "{report}");
    site.wait_empty();
    assert_eq!(postfix.delivered(), MESSAGES + 1);
    assert_eq!(site.mailbox("example.test", "alice").len(), 1, "one report, and none of Grange's");
    let handed_on = postfix.mailbox();
    assert!(
        handed_on.iter().all(|message| message.contains("by mta.example.test")),
        "each came through Grange"
    );
    assert!(grange.stop().success());
}

fn source(port: u16, recipient: &str) {
    let mut source = Command::new(find("smtp-source"));
    source.args(["-s", "10", "-m", &MESSAGES.to_string(), "-l", "2000"]);
    source.args(["-f", "alice@example.test", "-t", recipient, &format!("127.0.0.1:{port}")]);
    let sent = run(&mut source);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
}

/// Sends a message whose sender wants to hear of its delivery.
fn wished(port: u16, recipient: &str) {
    let mut client = Client::ready(port);
    client.expect("MAIL FROM:<alice@example.test> RET=HDRS ENVID=QQ314159", 250);
    client.expect(
        &format!("RCPT TO:<{recipient}> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;{recipient}"),
        250,
    );
    client.expect("DATA", 354);
    client.expect("Subject: wished\r\n\r\nLine\r\n.", 250);
    client.expect("QUIT", 221);
}

fn arrive(what: &str, count: impl Fn() -> usize) {
    until_within(Duration::from_secs(120), &format!("{what} has all"), || {
        (count() >= MESSAGES).then_some(())
    });
}
