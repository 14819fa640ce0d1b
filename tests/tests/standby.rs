//! Two instances on one database: one scheduler has the queue, the other stands by.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use queue_postgres::testing::{Options, Proxy, Server};
use rustix::process::Signal;
use serde_json::Value;
use tests::{Answer, Client, Event, Running, Sink, Site, until};

/// How long the lease lasts, and in what a take-over is to happen then.
const LEASE: Duration = Duration::from_secs(3);

/// A site whose queue is in a database.
fn site(url: &str) -> Site {
    let database = "[queue.postgres]\nmay_lose = [\"fsync\"]\nlease = \"3s\"\nlease_renewal = \"500ms\"\n\
        lease_margin = \"1s\"\nstandby_look = \"100ms\"\n";
    let grace = "[scheduler]\ntakeover_grace = \"2s\"";
    Site::new()
        .replace("store = \"spool\"", &format!("store = \"{url}\"\n{database}"))
        .replace("[scheduler]", grace)
}

/// The state of the scheduler's worker, and its process.
fn scheduler(grange: &Running<'_>) -> Option<(String, u32)> {
    let farm = grange.farm_if_any("scheduler")?;
    let worker = &farm["workers"][0];
    Some((worker["state"].as_str()?.to_owned(), u32::try_from(worker["pid"].as_u64()?).ok()?))
}

fn wait_for(grange: &Running<'_>, wanted: &str) -> u32 {
    until(&format!("the scheduler is {wanted}"), || {
        scheduler(grange).filter(|(state, _)| state == wanted).map(|(_, pid)| pid)
    })
}

fn send(site: &Site, token: &str) {
    let mut client = Client::ready(site.smtp.number);
    let text = format!("Subject: x\r\nMessage-ID: <{token}@source.example>\r\n\r\nA line.\r\n");
    let reply = client.message("alice@example.test", &["bob@sink.example"], &text);
    assert!(reply.expect("a reply").queued_as().is_some());
}

fn crashes(grange: &Running<'_>) -> Value {
    grange.farm("scheduler")["crashes"].clone()
}

#[test]
fn one_scheduler_works_and_another_takes_over() {
    let server = Server::start(Options::default());
    let proxy = Proxy::start(&server.socket());
    let url = proxy.url(&server.database());
    let (here, there) = (site(&url), site(&url));
    let takes_mail = Arc::new(AtomicBool::new(false));
    let takes = takes_mail.clone();
    let sink = Sink::scripted(here.sink.number, move |event| match event {
        Event::Command(line) if line.starts_with("RCPT") && !takes.load(Relaxed) => {
            Answer::Say("450 4.2.0 later".into())
        }
        _ => Answer::Usual,
    });
    let grange = here.start();
    wait_for(&grange, "ready");
    let other = there.spawn(&["run", "--only", "scheduler"]);
    wait_for(&other, "standby");
    send(&here, "first");
    until("it was tried", || {
        let tried =
            |message: &Value| message["recipients"][0]["state"]["open"]["count"].as_u64() > Some(0);
        here.queued().iter().any(tried).then_some(())
    });
    wait_for(&other, "standby");

    // Stopped in order, it hands over at once, with what is queued.
    let begun = Instant::now();
    assert!(grange.stop().success());
    wait_for(&other, "ready");
    assert!(begun.elapsed() < LEASE + Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(there.queued().len(), 1);
    let grange = here.spawn(&["run"]);
    wait_for(&grange, "standby");
    send(&here, "second");

    // Killed, its lease runs out: the next one waits for outcomes, and then delivers both.
    takes_mail.store(true, Relaxed);
    let victim = wait_for(&other, "ready");
    other.signal(victim, Signal::KILL);
    until("one of them has it", || {
        let ready = |it: &Running<'_>| scheduler(it).is_some_and(|(state, _)| state == "ready");
        (ready(&grange) || ready(&other)).then_some(())
    });
    assert!(other.stop().success());
    wait_for(&grange, "ready");
    sink.wait(2);
    here.wait_empty();
    assert_eq!(sink.tokens().values().copied().collect::<Vec<_>>(), [1, 1], "{:?}", sink.tokens());

    // Cut off from the database for long, it stands by again, and that is no crash.
    let before = crashes(&grange);
    drop(server);
    let worker = wait_for(&grange, "standby");
    assert_eq!(crashes(&grange), before);
    assert!(worker != victim);
    assert!(grange.stop().success());
}
