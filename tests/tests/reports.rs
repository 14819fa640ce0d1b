//! Refusals, delays and dead hosts: what the sender is told, and what is tried again.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tests::{Answer, Client, Event, Sink, Site, free_port, python, until};

/// Prints what Python's `email` makes of a report, as JSON.
const PARSE: &str = r#"
import email, email.policy, json, sys
message = email.message_from_file(open(sys.argv[1], encoding='utf-8'), policy=email.policy.default)
parts = list(message.iter_parts())
status = parts[1].get_payload()
fields = [dict((name.lower(), str(value)) for name, value in block.items()) for block in status]
print(json.dumps({
    'type': message.get_content_type(), 'report': message.get_param('report-type'),
    'from': str(message['From']), 'to': str(message['To']), 'subject': str(message['Subject']),
    'return_path': str(message['Return-Path']), 'auto': str(message['Auto-Submitted']),
    'parts': [part.get_content_type() for part in parts],
    'text': parts[0].get_content(), 'status': fields,
    'original': parts[2].as_string(), 'defects': [str(defect) for part in message.walk() for defect in part.defects],
}))
"#;

#[test]
fn a_refused_recipient_is_reported_in_three_parts() {
    let site = Site::new();
    let sink = refusing(&site, "550 5.1.1 no such user <é>");
    let grange = site.start();
    let mut client = Client::ready(site.smtp.number);
    let reply = client
        .message(
            "alice@example.test",
            &["nobody@sink.example", "somebody@sink.example"],
            "Subject: hello\r\n\r\nLine\r\n",
        )
        .expect("a reply");
    assert_eq!(reply.code, 250, "{reply:?}");
    let id = reply.queued_as().expect("the reply names the message");

    let report = report(&site, "alice");
    assert_eq!(report["type"], "multipart/report");
    assert_eq!(report["report"], "delivery-status");
    assert_eq!(report["parts"][1], "message/delivery-status");
    assert!(
        report["parts"][2] == "message/rfc822" || report["parts"][2] == "text/rfc822-headers",
        "{report}"
    );
    assert_eq!(report["return_path"], "<>");
    assert_eq!(report["auto"], "auto-replied");
    assert_eq!(report["defects"], serde_json::json!([]));
    let status = report["status"].as_array().expect("blocks of fields");
    assert_eq!(status.len(), 2, "the message and its one failed recipient: {report}");
    assert_eq!(status[0]["reporting-mta"], "dns; mta.example.test");
    assert_eq!(status[1]["final-recipient"], "rfc822; nobody@sink.example");
    assert_eq!(status[1]["action"], "failed");
    assert_eq!(status[1]["status"], "5.1.1");
    let diagnostic = status[1]["diagnostic-code"].as_str().expect("the remote's words");
    assert!(diagnostic.starts_with("smtp; 550 5.1.1 no such user"), "{diagnostic}");
    assert!(report["original"].as_str().expect("a text").contains("Subject: hello"));

    sink.wait(1);
    site.wait_empty();
    assert_eq!(sink.received().len(), 1, "the other recipient was served");
    assert!(site.log().contains(&id), "the log tells of the message");
    assert!(grange.stop().success());
}

#[test]
fn a_report_is_never_reported_on() {
    let site = Site::new();
    let _sink = refusing(&site, "550 5.1.1 no such user");
    let grange = site.start();
    let mut client = Client::ready(site.smtp.number);
    // The sender is refused too: its report fails, and that is the end of it.
    let reply = client
        .message("nobody@other.example", &["nobody@sink.example"], "Subject: x\r\n\r\n")
        .expect("a reply");
    assert_eq!(reply.code, 250, "{reply:?}");
    site.wait_empty();
    let status = site.json(&["status", "--json"]);
    assert_eq!(status["queue"]["reports"], 1, "{status}");
    assert!(grange.stop().success());
}

#[test]
fn a_temporary_refusal_is_tried_again_by_the_schedule() {
    let site = Site::new();
    let attempts = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&attempts);
    let sink = Sink::scripted(site.sink.number, move |event| match event {
        Event::Command(line) if line.to_ascii_uppercase().starts_with("RCPT") => {
            let mut attempts = seen.lock().expect("no panic");
            attempts.push(Instant::now());
            match attempts.len() {
                1..=2 => Answer::Say("451 4.3.0 later".to_owned()),
                _ => Answer::Usual,
            }
        }
        _ => Answer::Usual,
    });
    let grange = site.start();
    let mut client = Client::ready(site.smtp.number);
    let reply = client
        .message("alice@example.test", &["bob@sink.example"], "Subject: x\r\n\r\n")
        .expect("a reply");
    let id = reply.queued_as().expect("the reply names the message");
    until("the message waits for its next attempt", || {
        let shown = site.run(&["queue", "show", &id, "--json"]);
        let message: Value = serde_json::from_slice(&shown.stdout).ok()?;
        let attempt = &message["recipients"][0]["state"]["open"];
        (attempt["count"] == 1 && attempt["last"]["status"] == "4.3.0").then_some(())
    });
    sink.wait(1);
    site.wait_empty();
    let attempts = attempts.lock().expect("no panic");
    let gaps: Vec<Duration> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // retry = ["1s", "2s"], ±20 %.
    assert_eq!(gaps.len(), 2, "three attempts: {gaps:?}");
    assert!(gaps[0] >= Duration::from_millis(700), "{gaps:?}");
    assert!(gaps[1] >= Duration::from_millis(1500), "{gaps:?}");
    assert!(site.mailbox("example.test", "alice").is_empty(), "the sender hears nothing of it");
    assert!(grange.stop().success());
}

#[test]
fn a_dead_host_leaves_the_others_alone() {
    let dead = free_port();
    let site = Site::new();
    let route = format!(
        "  {{ domain = \"dead.example\", channel = \"smtp\", host = \"[127.0.0.1]:{}\" }},\n  {{ domain = \"*\"",
        dead.number
    );
    let site = site.replace("  { domain = \"*\"", &route);
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let mut client = Client::ready(site.smtp.number);
    for number in 0..50 {
        for domain in ["dead.example", "sink.example"] {
            let recipient = format!("r{number}@{domain}");
            let reply = client
                .message("alice@example.test", &[&recipient], "Subject: x\r\n\r\n")
                .expect("a reply");
            assert_eq!(reply.code, 250, "{reply:?}");
        }
    }
    sink.wait(50);
    let lane = format!("[127.0.0.1]:{}", dead.number);
    until("the dead lane backs off", || {
        let summary = site.json(&["queue", "summary", "--json"]);
        let text = summary.to_string();
        assert!(text.contains(&lane), "{text}");
        text.contains("backing off").then_some(())
    });
    let left = site.queued();
    assert_eq!(left.len(), 50, "those of the dead host wait");
    let shown = site.json(&["queue", "list", "--domain", "dead.example", "--limit", "1", "--json"]);
    assert_eq!(
        shown["messages"][0]["recipients"][0]["state"]["open"]["count"], 0,
        "the lane's clock moves, not the recipient's: {shown}"
    );

    let late = Sink::start(dead.number);
    late.wait(50);
    site.wait_empty();
    assert!(grange.stop().success());
}

#[test]
fn a_report_comes_when_a_message_expires() {
    let site = Site::new().replace("expire = \"5d\"", "expire = \"3s\"");
    let grange = site.start();
    let mut client = Client::ready(site.smtp.number);
    let reply = client
        .message("alice@example.test", &["bob@sink.example"], "Subject: x\r\n\r\n")
        .expect("a reply");
    assert_eq!(reply.code, 250, "{reply:?}");
    let report = report(&site, "alice");
    assert_eq!(report["status"][1]["action"], "failed", "{report}");
    site.wait_empty();
    assert!(grange.stop().success());
}

#[test]
fn eight_bit_and_dots_go_as_they_came() {
    let site = Site::new();
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let mut client = Client::ready(site.smtp.number);
    client.expect("MAIL FROM:<alice@example.test> BODY=8BITMIME SMTPUTF8", 250);
    client.expect("RCPT TO:<jörg@sink.example>", 250);
    client.expect("DATA", 354);
    client.write("Subject: grüße\r\n\r\n..one\r\n...\r\ntwo\r\n.\r\n".as_bytes()).expect("written");
    assert_eq!(client.reply().expect("a reply").code, 250);
    sink.wait(1);
    let received = sink.received().first().cloned().expect("a message");
    assert!(
        received.data.ends_with("Subject: grüße\r\n\r\n.one\r\n..\r\ntwo\r\n"),
        "{:?}",
        received.data
    );
    assert!(
        received.sender.contains("SMTPUTF8") && received.sender.contains("BODY=8BITMIME"),
        "{}",
        received.sender
    );
    assert!(grange.stop().success());
}

#[test]
fn smtputf8_that_is_not_offered_fails() {
    let site = Site::new();
    let sink = Sink::offering(site.sink.number, &["PIPELINING", "8BITMIME"], |_| Answer::Usual);
    let grange = site.start();
    let mut client = Client::ready(site.smtp.number);
    client.expect("MAIL FROM:<alice@example.test> BODY=8BITMIME SMTPUTF8", 250);
    client.expect("RCPT TO:<jörg@sink.example>", 250);
    client.expect("DATA", 354);
    client.write(b"Subject: x\r\n\r\n.\r\n").expect("written");
    assert_eq!(client.reply().expect("a reply").code, 250);
    let report = report(&site, "alice");
    assert_eq!(report["status"][1]["status"], "5.6.7", "{report}");
    assert!(sink.received().is_empty());
    assert!(grange.stop().success());
}

#[test]
fn one_transaction_serves_many_recipients() {
    let site = Site::new();
    let transactions = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&transactions);
    let sink = Sink::scripted(site.sink.number, move |event| {
        if let Event::Message(_) = event {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Answer::Usual
    });
    let grange = site.start();
    let mut client = Client::ready(site.smtp.number);
    let recipients: Vec<String> = (0..90).map(|number| format!("r{number}@sink.example")).collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let reply =
        client.message("alice@example.test", &recipients, "Subject: x\r\n\r\n").expect("a reply");
    assert_eq!(reply.code, 250, "{reply:?}");
    site.wait_empty();
    let served: usize = sink.received().iter().map(|message| message.recipients.len()).sum();
    assert_eq!(served, 90);
    assert!(transactions.load(Ordering::Relaxed) <= 2, "{transactions:?} transactions");
    assert!(grange.stop().success());
}

/// A sink that refuses recipients whose name begins with `nobody`.
fn refusing(site: &Site, reply: &'static str) -> Sink {
    Sink::scripted(site.sink.number, move |event| match event {
        Event::Command(line) if line.to_ascii_lowercase().contains("rcpt to:<nobody") => {
            Answer::Say(reply.to_owned())
        }
        _ => Answer::Usual,
    })
}

/// Waits for a report in a local mailbox and has Python take it apart.
fn report(site: &Site, user: &str) -> Value {
    let message =
        until("a report arrives", || site.mailbox("example.test", user).into_iter().next());
    let file = site.path(&format!("report-{user}"));
    std::fs::write(&file, message).expect("a scratch file");
    let text = python(PARSE, &[file.to_str().expect("a plain path")]);
    serde_json::from_str(&text).expect("JSON")
}
