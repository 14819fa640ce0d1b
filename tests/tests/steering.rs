//! The operator's hand on the queue: hold, release, retry, remove, bounce, reroute, suspend, resume.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use serde_json::Value;
use tests::{Client, Running, Sink, Site, until};

/// A site whose next hop is away, so that mail stays in the queue, with one message for each of these recipients; and their ids.
fn waiting<'site>(site: &'site Site, recipients: &[&str]) -> (Running<'site>, Vec<String>) {
    let grange = site.start();
    let mut client = Client::ready(site.smtp.number);
    let ids = recipients.iter().map(|recipient| {
        let message = format!(
            "Subject: x\r\nMessage-ID: <{}>\r\n\r\nLine\r\n",
            recipient.replace('@', ".at@")
        );
        let reply = client.message("alice@example.test", &[recipient], &message).expect("a reply");
        reply.queued_as().expect("the reply names the message")
    });
    let ids: Vec<String> = ids.collect();
    until("the scheduler knows them", || {
        let queued = site.queued();
        let routed = queued.iter().filter(|message| message["state"] != "accepted").count();
        (routed == ids.len()).then_some(())
    });
    (grange, ids)
}

fn state(site: &Site, id: &str) -> Option<Value> {
    let output = site.run(&["queue", "show", id, "--json"]);
    serde_json::from_slice(&output.stdout).ok()
}

/// How many messages a change concerned.
fn changed(site: &Site, arguments: &[&str]) -> u64 {
    let mut all = vec!["queue"];
    all.extend_from_slice(arguments);
    all.push("--json");
    site.json(&all)["messages"].as_u64().expect("a number of messages")
}

#[test]
fn held_mail_waits_until_it_is_released() {
    let site = Site::new();
    let (grange, ids) = waiting(&site, &["one@sink.example", "two@sink.example"]);
    assert_eq!(changed(&site, &["hold", &ids[0], "--reason", "looks odd"]), 1);
    let shown = state(&site, &ids[0]).expect("it is there");
    assert_eq!((&shown["state"], &shown["hold"]), (&"held".into(), &"looks odd".into()), "{shown}");
    let listed = site.json(&["queue", "list", "--held", "--json"]);
    assert_eq!(listed["messages"].as_array().map(Vec::len), Some(1), "{listed}");

    let sink = Sink::start(site.sink.number);
    assert_eq!(changed(&site, &["retry", "--all"]), 2);
    sink.wait(1);
    until("only the held one is left", || (site.queued().len() == 1).then_some(()));
    assert_eq!(sink.received().len(), 1);
    assert_eq!(changed(&site, &["release", &ids[0]]), 1);
    sink.wait(2);
    site.wait_empty();
    assert!(grange.stop().success());
}

#[test]
fn a_hold_outlives_a_restart() {
    let site = Site::new();
    let (grange, ids) = waiting(&site, &["one@sink.example"]);
    assert_eq!(changed(&site, &["hold", &ids[0]]), 1);
    assert!(grange.stop().success());
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    assert_eq!(state(&site, &ids[0]).expect("it is there")["state"], "held");
    assert_eq!(changed(&site, &["release", "--all"]), 1);
    sink.wait(1);
    site.wait_empty();
    assert!(grange.stop().success());
}

#[test]
fn removed_mail_is_gone_and_bounced_mail_reported() {
    let site = Site::new();
    let (grange, ids) =
        waiting(&site, &["one@sink.example", "two@sink.example", "three@other.example"]);
    assert_eq!(changed(&site, &["remove", &ids[0]]), 1);
    assert!(state(&site, &ids[0]).is_none(), "it is gone");
    let again = site.run(&["queue", "remove", &ids[0]]);
    assert_eq!(again.status.code(), Some(66), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(
        changed(&site, &["bounce", "--domain", "other.example", "--reason", "no longer wanted"]),
        1
    );
    let report = until("the sender hears of it", || site.mailbox("example.test", "alice").pop());
    assert!(
        report.contains("three@other.example") && report.contains("no longer wanted"),
        "{report}"
    );
    assert!(!report.contains("one@sink.example"), "nobody is told of what was removed: {report}");
    let left: Vec<Value> = site.queued();
    assert_eq!(left.len(), 1);
    assert_eq!(left[0]["id"], ids[1].as_str());
    assert_eq!(changed(&site, &["remove", "--sender", "alice@example.test"]), 1);
    site.wait_empty();
    assert!(grange.stop().success());
}

#[test]
fn a_change_needs_to_be_told_what_to_change() {
    let site = Site::new();
    let (grange, _) = waiting(&site, &["one@sink.example"]);
    let output = site.run(&["queue", "remove"]);
    assert!(!output.status.success(), "nothing selected is not everything");
    assert_eq!(site.queued().len(), 1);
    let output = site.run(&["queue", "show", "00000000000000000000"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("00000000000000000000"));
    assert!(grange.stop().success());
}

#[test]
fn a_suspended_lane_waits_and_the_others_go() {
    let site = Site::new();
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let lane = format!("smtp/[127.0.0.1]:{}", site.sink.number);
    site.ok(&["queue", "suspend", &lane]);
    let mut client = Client::ready(site.smtp.number);
    for recipient in ["one@sink.example", "bob@example.test"] {
        let reply = client
            .message("alice@example.test", &[recipient], "Subject: x\r\n\r\n")
            .expect("a reply");
        assert_eq!(reply.code, 250);
    }
    until("the other lane goes", || site.mailbox("example.test", "bob").pop());
    let summary = until("the suspended lane is shown", || {
        let summary = site.ok(&["queue", "summary"]);
        summary.contains("suspended").then_some(summary)
    });
    assert!(summary.contains(&site.sink.number.to_string()), "{summary}");
    assert!(sink.received().is_empty());
    site.ok(&["queue", "resume", &lane]);
    sink.wait(1);
    site.wait_empty();
    assert!(grange.stop().success());
}

#[test]
fn reroute_asks_the_router_again() {
    let site = Site::new();
    let (grange, ids) = waiting(&site, &["one@sink.example"]);
    // The operator finds the next hop dead and writes another into the configuration.
    let other = tests::free_port();
    let text = site.text().replace(
        &format!("[127.0.0.1]:{}", site.sink.number),
        &format!("[127.0.0.1]:{}", other.number),
    );
    std::fs::write(site.config(), text).expect("written");
    let sink = Sink::start(other.number);
    grange.signal(grange.pid(), rustix::process::Signal::HUP);
    until("the new configuration routes", || {
        let _ = site.run(&["queue", "reroute", &ids[0], "--json"]);
        (!sink.received().is_empty()).then_some(())
    });
    site.wait_empty();
    assert_eq!(sink.received().len(), 1);
    assert!(grange.stop().success());
}
