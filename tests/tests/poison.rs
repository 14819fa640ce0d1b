//! A message that kills whoever takes it in hand: at the third death it is held with its reason, and everything else flows on.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tests::{
    Answer, Client, Event, Mail, Running, Sink, Site, Traffic, burst, until, until_within,
};

/// Whose message it is.
const SENDER: &str = "poison@source.example";
/// Messages that are in the same hands meanwhile.
const INNOCENT: usize = 2000;
/// The culprit is held by then, whatever the back-off between its deaths.
const HELD: Duration = Duration::from_secs(60);
/// Everything arrives: what was struck waits for its turn alone, what was lost for requeue.
const ARRIVAL: Duration = Duration::from_secs(150);
/// A lane's concurrency at most: what may be at the next hop, its answer unheard, when an agent dies.
const IN_FLIGHT_MAX: usize = 20;

#[test]
fn in_router() {
    let site = site();
    let sink = Sink::start(site.sink.number);
    held(&site, "router", "bob@sink.example", || sink.tokens().len());
}

#[test]
fn in_the_scheduler() {
    let site = site();
    let sink = Sink::start(site.sink.number);
    held(&site, "scheduler", "bob@sink.example", || sink.tokens().len());
}

#[test]
fn in_the_smtp_agents() {
    let site = site();
    let sink = Sink::start(site.sink.number);
    held(&site, "smtp", "bob@sink.example", || sink.tokens().len());
}

#[test]
fn in_the_local_agents() {
    let site = site().replace(
        "  { domain = \"*\",",
        "  { domain = \"sink.example\", channel = \"local\", from = \"clients\" },\n  { domain = \"*\",",
    );
    held(&site, "local", "bob@example.test", || site.mailbox("sink.example", "innocent").len());
}

#[test]
fn in_the_error_agents() {
    let site = site();
    // The innocent are refused and reported, like it.
    let sink = Sink::scripted(site.sink.number, |event| match event {
        Event::Command(line) if line.contains("RCPT TO:<bob@") || line.contains("<innocent@") => {
            Answer::Say("550 5.1.1 Nobody".to_owned())
        }
        _ => Answer::Usual,
    });
    held(&site, "error", "bob@sink.example", || sink.tokens().len());
}

#[test]
fn in_a_content_filter_the_client_is_told() {
    let site = site().replace(
        "filters = []",
        r#"filters = [{ name = "noise", body = "nothing of the kind", action = "reject" }]"#,
    );
    let faults = site.faults();
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let traffic = Traffic::start(site.smtp.number, 10, Duration::ZERO, |_| Mail::to(ELSEWHERE));
    until("mail flows", || (traffic.accepted() >= 200).then_some(()));
    faults.poison("contentfilter", SENDER);
    let mut client = Client::ready(site.smtp.number);
    let reply = client.message(SENDER, &[ELSEWHERE], "Subject: x\r\n\r\n").expect("a reply");
    assert_eq!(reply.code, 451, "{reply:?}");
    assert_eq!(grange.farm("contentfilter")["crashes"], 3);
    let accepted = traffic.accepted();
    until("mail flows on", || (traffic.accepted() >= accepted + 200).then_some(()));
    let sent = traffic.stop();
    assert!(sent.refused.is_empty(), "nobody else is told no: {}", sent.refused.len());
    until_within(ARRIVAL, "all others arrive", || {
        let tokens = sink.tokens();
        sent.accepted.iter().all(|token| tokens.contains_key(token)).then_some(())
    });
    site.wait_empty();
    assert!(grange.stop().success());
}

#[test]
fn an_operator_may_kill_as_often_as_it_takes() {
    let site = site();
    let sink = slow_sink(&site);
    let grange = site.start();
    let port = site.smtp.number;
    let sending = std::thread::spawn(move || burst(port, INNOCENT, 20, ELSEWHERE));
    for farm in ["smtp", "router", "scheduler"] {
        for _ in 0..4 {
            let victims =
                until("it has workers", || Some(grange.workers(farm)).filter(|it| !it.is_empty()));
            victims.iter().for_each(|pid| grange.signal(*pid, Signal::KILL));
            until("others take their place", || {
                let workers = grange.workers(farm);
                (!workers.is_empty() && workers.iter().all(|pid| !victims.contains(pid)))
                    .then_some(())
            });
        }
    }
    let sent = sending.join().expect("the load goes through");
    until_within(ARRIVAL, "what got 250 arrives", || {
        let tokens = sink.tokens();
        sent.accepted.iter().all(|token| tokens.contains_key(token)).then_some(())
    });
    assert_eq!(held_now(&site), Vec::<Value>::new());
    assert!(!site.log().contains("crashed with this message in hand"), "a kill is no strike");
    site.wait_empty();
    assert!(grange.stop().success());
}

/// Somebody whose mail is innocent.
const ELSEWHERE: &str = "innocent@sink.example";

fn site() -> Site {
    Site::new()
        .replace("[router]", "[requeue]\nevery = \"10s\"\n[router]\nenqueue_deadline = \"500ms\"")
}

/// One that takes its time, so that much is in hand at once.
fn slow_sink(site: &Site) -> Sink {
    Sink::scripted(site.sink.number, |event| {
        if matches!(event, Event::Message(_)) {
            std::thread::sleep(Duration::from_millis(20));
        }
        Answer::Usual
    })
}

fn held_now(site: &Site) -> Vec<Value> {
    let page = site.json(&["queue", "list", "--held", "--json"]);
    page["messages"].as_array().cloned().expect("a list of messages")
}

/// One poisoned message among many: it alone is held, and goes when it is released to workers that can bear it.
fn held(site: &Site, stage: &str, recipient: &str, arrived: impl Fn() -> usize) {
    let faults = site.faults();
    let grange = site.start();
    let port = site.smtp.number;
    let sending = std::thread::spawn(move || burst(port, INNOCENT, 20, ELSEWHERE));
    until("some mail has come", || (arrived() >= INNOCENT / 10).then_some(()));
    faults.poison(stage, SENDER);
    let mut client = Client::ready(port);
    let reply = client.message(SENDER, &[recipient], "Subject: x\r\n\r\n").expect("a reply");
    let id = reply.queued_as().unwrap_or_else(|| panic!("{reply:?}"));
    let held = until_within(HELD, "it is held", || {
        let held = held_now(site);
        (!held.is_empty()).then_some(held)
    });
    assert_eq!(held.len(), 1, "it alone: {held:?}");
    assert_eq!(held[0]["id"], *id);
    let reason = held[0].to_string();
    assert!(reason.contains("killed its worker three times"), "it says why: {reason}");
    let sent = sending.join().expect("the load goes through");
    until_within(ARRIVAL, "all others arrive", || (arrived() >= sent.accepted.len()).then_some(()));
    until_within(ARRIVAL, "nothing else is left", || (site.queued().len() == 1).then_some(()));
    assert_eq!(held_now(site).len(), 1, "it alone");
    let died = crashes(&grange, stage);
    assert!((3..=4).contains(&died), "{died} deaths");
    assert!(arrived() <= sent.accepted.len() + sent.unsure.len() + 3 * IN_FLIGHT_MAX);
    assert!(faults.disarm(&format!("poison.{stage}")));
    site.ok(&["queue", "release", &id]);
    site.wait_empty();
    assert!(grange.stop().success());
}

fn crashes(grange: &Running<'_>, farm: &str) -> u64 {
    grange.farm(farm)["crashes"].as_u64().expect("a count")
}
