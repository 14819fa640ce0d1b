//! The harness against itself: its client, its sinks and Postfix, without Grange between them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use tests::{
    Answer, Burst, Client, Event, HttpServer, Network, Postfix, Postgres, Sink, SmtpSink, burst,
    find, free_port, open_to, run, until,
};

#[test]
fn a_burst_reaches_the_sink() {
    let port = free_port();
    let sink = Sink::start(port.number);
    let Burst { accepted, unsure, .. } = burst(port.number, 200, 8, "recipient@sink.example");
    assert_eq!((accepted.len(), unsure.len()), (200, 0));
    assert!(sink.tokens().keys().eq(accepted.iter()));
    let received = sink.received();
    assert!(received.iter().all(|message| message.recipients == ["<recipient@sink.example>"]));
}

#[test]
fn the_sink_does_as_it_is_told() {
    let port = free_port();
    let sink = Sink::scripted(port.number, |event| match event {
        Event::Command(line) if line.starts_with("RCPT TO:<no") => {
            Answer::Say("550-5.1.1 no\n550 5.1.1 never".to_owned())
        }
        Event::Message(message) if message.data.contains("drop") => Answer::Last(Vec::new()),
        _ => Answer::Usual,
    });
    let mut client = Client::ready(port.number);
    let reply = client.message("a@b.test", &["nobody@b.test"], "x").expect("a reply");
    assert_eq!((reply.code, reply.lines.len()), (550, 2));
    client.expect("RSET", 250);
    assert_eq!(client.message("a@b.test", &["c@b.test"], "kept").expect("a reply").code, 250);
    assert!(client.message("a@b.test", &["c@b.test"], "drop").is_err());
    assert_eq!(sink.received().len(), 1);
    drop(sink);
    assert!(Client::open(port.number).is_err(), "a sink that is dropped lets go of its port");
}

#[test]
fn smtp_sink_counts() {
    let port = free_port();
    let sink = SmtpSink::start(port.number);
    let mut source = Command::new(find("smtp-source"));
    let sent = run(source.args(["-s", "5", "-m", "50", &format!("127.0.0.1:{}", port.number)]));
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));
    until("smtp-sink has 50", || (sink.messages() == 50).then_some(()));
}

#[test]
fn postfix_delivers_and_relays() {
    let port = free_port();
    let sink = Sink::start(port.number);
    let postfix = Postfix::start(port.number);
    let mut client = Client::ready(postfix.port.number);
    for recipient in ["bob@postfix.example", "carol@sink.example"] {
        let reply = client
            .message("alice@source.example", &[recipient], "Subject: x\r\n\r\nx")
            .expect("a reply");
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    sink.wait(1);
    until("the mailbox has one", || (postfix.delivered() == 1).then_some(()));
    assert!(
        postfix
            .mailbox()
            .iter()
            .all(|message| message.contains("Delivered-To: bob@postfix.example"))
    );
}

#[test]
fn a_post_that_ends_early_was_not_made() {
    let web = HttpServer::start(Duration::ZERO);
    let post = |bytes: &[u8]| {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, web.port)).expect("it listens");
        stream.write_all(bytes).expect("written");
        stream.shutdown(std::net::Shutdown::Write).expect("closed");
        let mut answer = String::new();
        // Whoever did not make a post is not answered.
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    let whole = b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nbody";
    for length in 0..whole.len() {
        assert_eq!(post(&whole[..length]), "", "{length} bytes");
    }
    assert!(post(whole).starts_with("HTTP/1.1 200"));
    assert_eq!(web.posts().len(), 1);
}

#[test]
fn hosts_reach_each_other_until_they_are_cut() {
    let mut network = Network::new();
    let (one, two) = (network.host("one"), network.host("two"));
    let server = SocketAddr::from((two.address, 2525));
    let sink = two.within(|| Sink::at(server, |_| Answer::Usual));
    let greeted = || one.within(|| Client::open_at(server).and_then(|mut client| client.reply()));
    assert_eq!(greeted().expect("it is reached").code, 220);
    two.cut();
    assert!(greeted().is_err());
    two.mend();
    one.part(&two);
    assert!(greeted().is_err());
    one.rejoin(&two);
    assert_eq!(greeted().expect("it is reached again").code, 220);
    drop(sink);
}

#[test]
fn a_standby_has_what_was_committed_and_can_be_promoted() {
    let folder = tempfile::tempdir().expect("a scratch directory");
    open_to(folder.path(), 0o755);
    let mut network = Network::new();
    let (one, two) = (network.host("one"), network.host("two"));
    let mut first = Postgres::primary(&one, &folder.path().join("one"), "ANY 1 (two)");
    let second = Postgres::standby(&two, &folder.path().join("two"), one.address, "two");
    first.sql("CREATE TABLE t (n int)");
    first.sql("INSERT INTO t VALUES (7)");
    first.kill();
    second.promote();
    assert_eq!(second.sql("SELECT n FROM t"), "7");
    second.sql("INSERT INTO t VALUES (8)");
}
