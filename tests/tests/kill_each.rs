//! Each kind of process in turn is ended with SIGKILL under load: what got `250` arrives, and little arrives twice.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::time::Duration;

use rustix::process::Signal;
use tests::{Running, Sink, Site, burst, until, until_within};

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
    let sending =
        std::thread::spawn(move || burst(port, MESSAGES, SESSIONS, "recipient@sink.example"));
    sink.wait(MESSAGES / 4);
    let family = tests::descendants(first.pid());
    first.signal(first.pid(), Signal::KILL);
    // What it started sees its end and drains.
    until("its managers and workers end", || {
        family.iter().all(|pid| matches!(tests::state_of(*pid), None | Some('Z'))).then_some(())
    });
    let second = site.start();
    let sent = sending.join().expect("the load goes through");
    arrive(&site, &sink, &sent);
    assert!(second.stop().success());
}

#[derive(Clone, Copy)]
enum Role {
    Manager,
    Worker,
}

fn kill(farm: &str, role: Role) {
    let site = Site::new();
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let port = site.smtp.number;
    let sending =
        std::thread::spawn(move || burst(port, MESSAGES, SESSIONS, "recipient@sink.example"));
    sink.wait(MESSAGES / 4);
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
    arrive(&site, &sink, &sent);
    assert!(grange.stop().success());
}

fn victim(grange: &Running<'_>, farm: &str, role: Role) -> u32 {
    match role {
        Role::Manager => grange.manager(farm),
        Role::Worker => *grange.workers(farm).first().expect("a ready worker"),
    }
}

fn arrive(site: &Site, sink: &Sink, sent: &tests::Burst) {
    until_within(ARRIVAL, "what got 250 arrives", || {
        let tokens = sink.tokens();
        sent.accepted.iter().all(|token| tokens.contains_key(token)).then_some(())
    });
    site.wait_empty();
    let tokens = sink.tokens();
    let strangers: Vec<_> = tokens
        .keys()
        .filter(|token| !sent.accepted.contains(*token) && !sent.unsure.contains(*token))
        .collect();
    assert!(strangers.is_empty(), "came without having been sent: {strangers:?}");
    let duplicates: usize = tokens.values().map(|count| count - 1).sum();
    assert!(duplicates <= IN_FLIGHT_MAX, "{duplicates} duplicates");
}
