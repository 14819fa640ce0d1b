//! Nothing accepted is lost, and nothing comes twice, when everything is stopped and started again.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::{Burst, Client, Sink, Site, burst, until, until_within};

/// Messages accepted before the stop; `GRANGE_TEST_MESSAGES` asks for another number.
const MESSAGES: usize = 5000;

/// Requeue takes up what is older than twice the route deadline, ten seconds.
const ARRIVAL: Duration = Duration::from_secs(180);

/// A start's first message, also on a machine that has other things to do; a scheduler that is waited for would take five seconds.
const ACCEPTED: Duration = Duration::from_secs(4);

#[test]
fn the_sink_was_off() {
    let site = Site::new();
    let grange = site.start();
    let burst = accept(&site);
    assert!(grange.stop().success());

    let grange = site.start();
    let sink = Sink::start(site.sink.number);
    arrive_once(&site, &sink, &burst);
    assert!(grange.stop().success());
}

#[test]
fn the_scheduler_was_off() {
    let site = Site::new();
    let sink = Sink::start(site.sink.number);
    let grange = site.start_only(&["smtpserver", "router", "requeue", "smtp", "local", "error"]);
    let burst = accept(&site);

    let queued = site.queued();
    assert_eq!(queued.len(), burst.accepted.len(), "all are seen without a scheduler");
    assert!(queued.iter().all(|message| message["state"] == "accepted"), "{:?}", queued.first());
    assert!(sink.received().is_empty());
    assert!(grange.stop().success());

    let grange = site.start();
    arrive_once(&site, &sink, &burst);
    assert!(grange.stop().success());
}

/// One that has a million messages to load is as good as stopped for some seconds.
#[test]
fn mail_is_accepted_while_the_scheduler_loads() {
    let site = Site::new();
    let faults = site.faults();
    faults.arm("scheduler.replay.before", "stop");
    let begun = Instant::now();
    let grange = site.spawn(&["run"]);
    let accepted = until("a message is accepted", || {
        let text = "Message-ID: <early@source.example>\r\nSubject: early\r\n\r\n";
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, site.smtp.number))
            .is_ok()
            .then(|| Client::ready(site.smtp.number))?;
        let sent = client.message("a@source.example", &["user@example.test"], text);
        (sent.expect("a reply").code == 250).then(|| begun.elapsed())
    });
    assert!(accepted < ACCEPTED, "only after {accepted:?}");
    let scheduler = faults.wait("scheduler.replay.before", 1).pid;
    grange.wait_ready(|farm| farm == "smtpserver");
    assert!(site.mailbox("example.test", "user").is_empty());

    grange.signal(scheduler, Signal::CONT);
    until_within(ARRIVAL, "it arrives", || site.mailbox("example.test", "user").pop());
    site.wait_empty();
    assert!(grange.stop().success());
}

fn accept(site: &Site) -> Burst {
    let messages = std::env::var("GRANGE_TEST_MESSAGES")
        .map_or(MESSAGES, |number| number.parse().expect("GRANGE_TEST_MESSAGES is a number"));
    let burst = burst(site.smtp.number, messages, 20, "recipient@sink.example");
    assert_eq!(burst.accepted.len(), messages);
    assert!(burst.unsure.is_empty(), "no connection was lost");
    burst
}

fn arrive_once(site: &Site, sink: &Sink, burst: &Burst) {
    until_within(ARRIVAL, "every message arrives", || {
        (sink.received().len() >= burst.accepted.len()).then_some(())
    });
    site.wait_empty();
    let tokens = sink.tokens();
    let twice: Vec<_> = tokens.iter().filter(|(_, count)| **count != 1).collect();
    assert!(twice.is_empty(), "came more than once: {twice:?}");
    assert!(tokens.keys().eq(burst.accepted.iter()), "what came is what was accepted");
}
