//! Whoever comes by a fault point first is killed there with SIGKILL, before and after every step that is to last, one point
//! after the other: what got `250` arrives, and what arrives twice was in somebody's hands.
//!
//! The points stand in the program (`fault::point`) and around every operation on a spool's disk (`queue-spool`'s `disk/faulty.rs`).

use std::collections::BTreeMap;
use std::time::Duration;

use tests::{Answer, Event, Faults, Mail, Sink, Site, Traffic, count_tokens, until, until_within};

/// Sessions that send, and how long each pauses between two messages.
const SESSIONS: usize = 6;
const PAUSE: Duration = Duration::from_millis(20);

/// A lane's concurrency at most: what may be at the next hop, its answer unheard, when a process dies.
const IN_FLIGHT_MAX: usize = 20;

/// How long the last message may take.
const ARRIVAL: Duration = Duration::from_secs(60);

#[test]
fn segments() {
    kill_at(&[
        "next.create.before",
        "next.create.after",
        "next.write.after",
        "next.sync.after",
        "next.rename.before",
        "next.rename.after",
        "segment.create.before",
        "segment.create.after",
        "segment.write.before",
        "segment.write.after",
        "segment.sync.before",
        "segment.sync.after",
        "stripe.sync_dir.before",
        "stripe.sync_dir.after",
    ]);
}

#[test]
fn bodies_of_their_own() {
    kill_at(&[
        "body.create.before",
        "body.create.after",
        "body.write.before",
        "body.write.after",
        "body.sync.before",
        "body.sync.after",
    ]);
}

#[test]
fn space_given_back() {
    kill_at(&[
        "segment.unlink.before",
        "segment.unlink.after",
        "body.unlink.before",
        "body.unlink.after",
    ]);
}

#[test]
fn the_ledger() {
    kill_at(&[
        "ledger.write.before",
        "ledger.write.after",
        "ledger.sync.before",
        "ledger.sync.after",
    ]);
}

#[test]
fn the_ledgers_checkpoints() {
    // A scheduler that was killed writes one when it is back.
    kill_again_at(&[
        "ledger.create.before",
        "ledger.create.after",
        "ledger.preallocate.before",
        "ledger.preallocate.after",
        "ledger.sync.before",
        "ledger.sync.after",
        "ledger.sync_dir.before",
        "ledger.sync_dir.after",
        "ledger.unlink.before",
        "ledger.unlink.after",
    ]);
}

#[test]
fn the_stages() {
    kill_at(&[
        "smtpserver.commit.before",
        "smtpserver.commit.after",
        "smtpserver.route.after",
        "contentfilter.inspect.before",
        "contentfilter.inspect.after",
        "router.route.before",
        "router.enqueue.after",
        "scheduler.answer.before",
        "scheduler.answer.after",
    ]);
}

#[test]
fn requeue() {
    let point = "requeue.route.after";
    let site = site();
    let life = Life::begin(&site);
    life.faults.arm(point, "kill");
    // Whoever dies here has accepted messages that nobody else knows.
    life.faults.arm("smtpserver.commit.after", "kill");
    life.faults.wait(point, 1);
    life.end(2);
}

#[test]
fn the_agents() {
    kill_at(&[
        "smtp.deliver.before",
        "smtp.dot.before",
        "smtp.dot.after",
        "smtp.answer.before",
        "smtp.answer.after",
        "local.deliver.before",
        "local.link.before",
        "local.link.after",
        "local.answer.before",
        "local.answer.after",
    ]);
}

#[test]
fn reports() {
    kill_at(&[
        "error.deliver.before",
        "error.commit.before",
        "error.commit.after",
        "error.answer.before",
        "error.answer.after",
    ]);
}

/// Each point in a life of its own.
fn kill_at(points: &[&str]) {
    for point in points {
        let site = site();
        let life = Life::begin(&site);
        life.faults.arm(point, "kill");
        life.faults.wait(point, 1);
        eprintln!("killed at {point}");
        life.end(1);
    }
}

/// Each point in a life of its own, in which the scheduler was killed before.
fn kill_again_at(points: &[&str]) {
    for point in points {
        let site = site();
        let life = Life::begin(&site);
        // Before the scheduler dies: the one that follows it may be quick.
        life.faults.arm(point, "kill");
        life.faults.arm("scheduler.answer.before", "kill");
        life.faults.wait(point, 1);
        life.faults.wait("scheduler.answer.before", 1);
        eprintln!("killed at {point}");
        life.end(2);
    }
}

/// Every way through the program is taken, and every border crossed often.
fn site() -> Site {
    Site::new()
        .replace(
            "store = \"spool\"",
            concat!(
                "store = \"spool\"\nsegment_bytes = \"256KiB\"\nbody_file_bytes_min = \"32KiB\"\n",
                "seal_after = \"1s\"\nledger_bytes = \"64KiB\""
            ),
        )
        .replace("[router]", "[requeue]\nevery = \"10s\"\n[router]\nenqueue_deadline = \"500ms\"")
        .replace(
            "filters = []",
            r#"filters = [{ name = "noise", body = "nothing of the kind", action = "reject" }]"#,
        )
}

/// One in three stays here, one in six is refused and reported, one in six is large.
fn mix(number: usize) -> Mail {
    match number % 6 {
        0 | 1 => Mail::to("recipient@sink.example"),
        2 | 3 => Mail::to("recipient@example.test"),
        4 => Mail::to("refused@sink.example"),
        _ => Mail { lines: 2000, ..Mail::to("large@sink.example") },
    }
}

/// A run of the program under a steady load.
struct Life<'site> {
    site: &'site Site,
    grange: tests::Running<'site>,
    sink: Sink,
    traffic: Traffic,
    faults: Faults,
}

impl<'site> Life<'site> {
    fn begin(site: &'site Site) -> Self {
        let faults = site.faults();
        let sink = Sink::scripted(site.sink.number, |event| match event {
            Event::Command(line) if line.contains("RCPT TO:<refused@") => {
                Answer::Say("550 5.1.1 Nobody".to_owned())
            }
            _ => Answer::Usual,
        });
        let grange = site.start();
        let traffic = Traffic::start(site.smtp.number, SESSIONS, PAUSE, mix);
        until("mail flows", || (traffic.accepted() >= 20).then_some(()));
        Self { site, grange, sink, traffic, faults }
    }

    /// Goes on for a little, then looks for everything that was accepted.
    ///
    /// Of each death there may be duplicates: after the first, what waited goes out at once, and the second may meet all of it.
    fn end(self, deaths: usize) {
        let Self { site, grange, sink, traffic, .. } = self;
        let more = traffic.accepted() + 30;
        until("mail flows again", || (traffic.accepted() >= more).then_some(()));
        let sent = traffic.stop();
        let arrived = || {
            let mailbox = site.mailbox("example.test", "recipient");
            let local = count_tokens(mailbox.iter().map(String::as_str));
            assert!(local.values().all(|count| *count == 1), "a Maildir has each message once");
            let mut arrived: BTreeMap<String, usize> = sink.tokens();
            for (token, count) in local {
                *arrived.entry(token).or_default() += count;
            }
            arrived
        };
        until_within(ARRIVAL, "what got 250 arrives", || {
            let arrived = arrived();
            sent.accepted.iter().all(|token| arrived.contains_key(token)).then_some(())
        });
        site.wait_empty();
        let arrived = arrived();
        let known = |token: &String| sent.accepted.contains(token) || sent.unsure.contains(token);
        let strangers: Vec<_> = arrived.keys().filter(|token| !known(token)).collect();
        assert!(strangers.is_empty(), "came without having been sent: {strangers:?}");
        let duplicates: usize = arrived.values().map(|count| count - 1).sum();
        assert!(duplicates <= deaths * IN_FLIGHT_MAX, "{duplicates} duplicates of {deaths} deaths");
        assert!(grange.stop().success());
    }
}
