//! The wall clock is set while mail flows and mail waits: back a day, forward a day, and back a second again and again. Ids stay
//! unique, nothing is retried in a storm, nothing expires early, nothing waits for a clock to come round again.
//!
//! The program runs under libfaketime, which gives it another wall clock and leaves the monotonic one alone.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tests::{Answer, Client, Event, Mail, Running, Sink, Site, Traffic, until, until_within};

/// Mail that waits while the clock is set.
const WAITING: usize = 50;
/// The waits between its attempts.
const RETRY: Duration = Duration::from_secs(4);

/// Seconds in a day.
const DAY: i64 = 86_400;

#[test]
fn set_back_a_day() {
    set(&[-DAY]);
}

/// By the clock all that waits is long expired; but it is tried before it is given up, and is taken.
#[test]
fn set_forward_a_day() {
    set(&[DAY]);
}

#[test]
fn a_second_counted_again_and_again() {
    set(&[-1, -2, -3, -4, -5, -6, -7, -8, -9, -10]);
}

#[test]
fn set_back_a_day_between_two_runs() {
    between_two_runs(-DAY);
}

#[test]
fn set_forward_a_day_between_two_runs() {
    between_two_runs(DAY);
}

/// A next hop that puts everything for `waits@` off until it is told to take it, and counts how often it is asked.
struct Hop {
    sink: Sink,
    takes: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
}

impl Hop {
    fn start(site: &Site) -> Self {
        let (takes, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (taking, asking) = (Arc::clone(&takes), Arc::clone(&asked));
        let sink = Sink::scripted(site.sink.number, move |event| match event {
            Event::Command(line) if line.contains("RCPT TO:<waits@") => {
                asking.fetch_add(1, Ordering::Relaxed);
                match taking.load(Ordering::Relaxed) {
                    true => Answer::Usual,
                    false => Answer::Say("451 4.3.0 later".to_owned()),
                }
            }
            _ => Answer::Usual,
        });
        Self { sink, takes, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Watches for a time: nobody is asked for more often than the schedule has it, and everybody is.
    fn watch(&self, site: &Site) {
        let (begun, before) = (Instant::now(), self.asked());
        until_within(4 * RETRY, "all that waits is tried again", || {
            (self.asked() >= before + WAITING).then_some(())
        });
        std::thread::sleep((2 * RETRY).saturating_sub(begun.elapsed()));
        let rounds = begun.elapsed().as_secs_f64() / (RETRY.as_secs_f64() * 0.8) + 2.0;
        let asked = self.asked() - before;
        assert!(asked as f64 <= rounds * WAITING as f64, "{asked} attempts: a storm");
        let queued = site.queued();
        assert_eq!(queued.len(), WAITING, "nothing has expired");
    }
}

/// The clock of a site's programs.
struct Clock {
    file: PathBuf,
}

impl Clock {
    fn new(site: &Site) -> Self {
        Self { file: site.path("clock") }
    }

    fn set(&self, seconds: i64) {
        let aside = self.file.with_extension("new");
        std::fs::write(&aside, format!("{seconds:+}\n")).expect("a file of our own");
        std::fs::rename(aside, &self.file).expect("a file of our own");
    }

    fn start<'site>(&self, site: &'site Site) -> Running<'site> {
        let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
        let library = std::fs::canonicalize(library)
            .expect("libfaketime is installed; as root, cargo xtask test installs it");
        let file = self.file.display().to_string();
        site.start_with(&[
            ("LD_PRELOAD", library.to_str().expect("a plain path")),
            ("FAKETIME_TIMESTAMP_FILE", &file),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_DONT_RESET", "1"),
        ])
    }
}

fn site() -> Site {
    Site::new()
        .replace(r#"retry = ["1s", "2s"]"#, r#"retry = ["4s"]"#)
        .replace(r#"expire = "5d""#, r#"expire = "2h""#)
}

/// Accepts what is to wait, and waits until each has been tried.
fn fill(site: &Site, hop: &Hop) {
    let mut client = Client::ready(site.smtp.number);
    for _ in 0..WAITING {
        let reply = client
            .message("sender@example.test", &["waits@sink.example"], "Subject: x\r\n\r\nx\r\n")
            .expect("a reply");
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    until("each has been tried", || (hop.asked() >= WAITING).then_some(()));
}

fn set(clocks: &[i64]) {
    let site = site();
    let clock = Clock::new(&site);
    clock.set(0);
    let hop = Hop::start(&site);
    let grange = clock.start(&site);
    fill(&site, &hop);
    let mix = |_| Mail::to("recipient@example.test");
    let traffic = Traffic::start(site.smtp.number, 4, Duration::from_millis(20), mix);
    for seconds in clocks {
        let accepted = traffic.accepted();
        until("mail flows", || (traffic.accepted() >= accepted + 50).then_some(()));
        hop.takes.store(*seconds > 0, Ordering::Relaxed);
        clock.set(*seconds);
    }
    let accepted = traffic.accepted();
    until("mail flows", || (traffic.accepted() >= accepted + 100).then_some(()));
    let sent = traffic.stop();
    // Whatever the clock says, mail that needs no waiting does not wait.
    until("what got 250 arrives", || {
        (site.mailbox("example.test", "recipient").len() >= sent.accepted.len()).then_some(())
    });
    let ids = accepted_ids(&site);
    assert_eq!(ids.len(), ids.iter().collect::<BTreeSet<_>>().len(), "every id is another");
    assert!(ids.len() >= sent.accepted.len());
    if clocks.iter().all(|seconds| *seconds < 0) {
        hop.watch(&site);
    }
    finish(&site, &hop, grange);
}

fn between_two_runs(seconds: i64) {
    let site = site();
    let clock = Clock::new(&site);
    clock.set(0);
    let hop = Hop::start(&site);
    let grange = clock.start(&site);
    fill(&site, &hop);
    assert!(grange.stop().success());
    clock.set(seconds);
    hop.takes.store(seconds > 0, Ordering::Relaxed);
    let grange = clock.start(&site);
    if seconds < 0 {
        hop.watch(&site);
    }
    finish(&site, &hop, grange);
}

/// The next hop takes what has waited: each once.
fn finish(site: &Site, hop: &Hop, grange: Running<'_>) {
    assert_eq!(
        site.mailbox("example.test", "sender"),
        Vec::<String>::new(),
        "nobody was told of a failure"
    );
    hop.takes.store(true, Ordering::Relaxed);
    site.wait_empty();
    assert_eq!(hop.sink.received().len(), WAITING);
    assert!(grange.stop().success());
}

/// The ids of all messages that were accepted, as the log has them.
fn accepted_ids(site: &Site) -> Vec<String> {
    let log = site.log();
    let accepted = log.lines().filter(|line| line.contains(" info accepted "));
    let id = |line: &str| {
        let (_, rest) = line.split_once(" id=")?;
        rest.split(' ').next().map(str::to_owned)
    };
    accepted.filter_map(id).collect()
}
