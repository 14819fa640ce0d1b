//! Each kind of process in turn is ended with SIGKILL under load: what got `250` arrives, and little arrives twice.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use tests::{Answer, Event, Running, Sink, Site, burst, count_tokens, until, until_within};

/// Messages sent around each killing.
const MESSAGES: usize = 1500;
/// Sessions that send them.
const SESSIONS: usize = 20;

/// A lane's concurrency at most: what may be at the next hop, its answer unheard, when a process dies.
const IN_FLIGHT_MAX: usize = 20;

/// Requeue takes up what is older than twice the route deadline, ten seconds.
const ARRIVAL: Duration = Duration::from_secs(120);

#[test]
fn a_worker_of_smtpserver() {
    kill("smtpserver", Role::Worker);
}

#[test]
fn a_worker_of_router() {
    kill("router", Role::Worker);
}

#[test]
fn the_scheduler() {
    kill("scheduler", Role::Worker);
}

#[test]
fn a_worker_of_the_smtp_agents() {
    kill("smtp", Role::Worker);
}

#[test]
fn the_manager_of_smtpserver() {
    kill("smtpserver", Role::Manager);
}

#[test]
fn the_manager_of_router() {
    kill("router", Role::Manager);
}

#[test]
fn the_manager_of_the_scheduler() {
    kill("scheduler", Role::Manager);
}

#[test]
fn the_manager_of_the_smtp_agents() {
    kill("smtp", Role::Manager);
}

#[test]
fn the_manager_of_requeue() {
    kill("requeue", Role::Manager);
}

#[test]
fn the_program_itself() {
    let site = Site::new();
    let sink = Sink::start(site.sink.number);
    let first = site.start();
    let port = site.smtp.number;
    let sending = std::thread::spawn(move || burst(port, MESSAGES, SESSIONS, ELSEWHERE));
    sink.wait(MESSAGES / 4);
    let family = tests::descendants(first.pid());
    first.signal(first.pid(), Signal::KILL);
    // What it started sees its end and drains.
    until("its managers and workers end", || {
        family.iter().all(|pid| matches!(tests::state_of(*pid), None | Some('Z'))).then_some(())
    });
    let second = site.start();
    let sent = sending.join().expect("the load goes through");
    arrive(&site, &sent, || sink.tokens());
    assert!(second.stop().success());
}

#[test]
fn a_worker_of_contentfilter() {
    let site = Site::new().replace(
        "filters = []",
        r#"filters = [{ name = "noise", body = "nothing of the kind", action = "reject" }]"#,
    );
    let sink = Sink::start(site.sink.number);
    kill_in(&site, "contentfilter", Role::Worker, ELSEWHERE, || sink.tokens());
}

#[test]
fn a_worker_of_the_local_agents() {
    let site = Site::new();
    kill_in(&site, "local", Role::Worker, "recipient@example.test", || {
        let mailbox = site.mailbox("example.test", "recipient");
        let tokens = count_tokens(mailbox.iter().map(String::as_str));
        assert!(tokens.values().all(|count| *count == 1), "a Maildir has each message once");
        tokens
    });
}

#[test]
fn a_worker_of_the_error_agents() {
    let site = Site::new();
    let sink = Sink::scripted(site.sink.number, |event| match event {
        Event::Command(line) if line.contains("RCPT TO:<refused@") => {
            Answer::Say("550 5.1.1 Nobody".to_owned())
        }
        _ => Answer::Usual,
    });
    // What arrives are the reports, to the sender.
    kill_in(&site, "error", Role::Worker, "refused@sink.example", || sink.tokens());
}

/// Somebody whose mail goes to the sink.
const ELSEWHERE: &str = "recipient@sink.example";

#[derive(Clone, Copy)]
enum Role {
    Manager,
    Worker,
}

fn kill(farm: &str, role: Role) {
    let site = Site::new();
    let sink = Sink::start(site.sink.number);
    kill_in(&site, farm, role, ELSEWHERE, || sink.tokens());
}

/// Kills a process of a farm while mail for `recipient` is sent; `arrived` counts what has come, by its tokens.
fn kill_in(
    site: &Site,
    farm: &str,
    role: Role,
    recipient: &'static str,
    arrived: impl Fn() -> BTreeMap<String, usize>,
) {
    let grange = site.start();
    let port = site.smtp.number;
    let sending = std::thread::spawn(move || burst(port, MESSAGES, SESSIONS, recipient));
    until("some mail has come", || (arrived().len() >= MESSAGES / 4).then_some(()));
    let victim = victim(&grange, farm, role);
    grange.signal(victim, Signal::KILL);
    until("another takes its place", || {
        let next = grange.farm_if_any(farm)?;
        let manager = next["manager"].as_u64().is_some_and(|pid| pid != u64::from(victim));
        let workers = next["workers"].as_array()?;
        let replaced = workers.iter().all(|worker| worker["pid"] != victim);
        (manager && replaced && next["alive"] == true).then_some(())
    });
    let sent = sending.join().expect("the load goes through");
    arrive(site, &sent, arrived);
    assert!(grange.stop().success());
}

fn victim(grange: &Running<'_>, farm: &str, role: Role) -> u32 {
    match role {
        Role::Manager => grange.manager(farm),
        Role::Worker => *grange.workers(farm).first().expect("a ready worker"),
    }
}

fn arrive(site: &Site, sent: &tests::Burst, arrived: impl Fn() -> BTreeMap<String, usize>) {
    until_within(ARRIVAL, "what got 250 arrives", || {
        let tokens = arrived();
        sent.accepted.iter().all(|token| tokens.contains_key(token)).then_some(())
    });
    site.wait_empty();
    let tokens = arrived();
    let strangers: Vec<_> = tokens
        .keys()
        .filter(|token| !sent.accepted.contains(*token) && !sent.unsure.contains(*token))
        .collect();
    assert!(strangers.is_empty(), "came without having been sent: {strangers:?}");
    let duplicates: usize = tokens.values().map(|count| count - 1).sum();
    assert!(duplicates <= IN_FLIGHT_MAX, "{duplicates} duplicates");
}
