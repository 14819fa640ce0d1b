//! Load and faults together, for as long as one likes: `torture --minutes 10 [--seed 7]`.
//!
//! Mail flows through a site whose disk is small and whose segments are smaller. Meanwhile one fault follows another: kills of
//! workers, of managers, of everything; processes stopped and continued; fault points; disks that are full or fail; next hops that
//! go away; reloads, upgrades and restarts. At the end everything that got `250` must have arrived, and what arrived twice must be
//! explained by a fault between its two arrivals.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::{
    Answer, Burst, Event, Faults, Mail, Mount, Running, Sink, Site, Traffic, descendants, now_ms,
    program, token_of, until,
};

const USAGE: &str = "usage: torture [--minutes 10] [--seed NUMBER]";

/// Sessions that send, and how long each pauses between two messages.
const SESSIONS: usize = 8;
const PAUSE: Duration = Duration::from_millis(40);
/// The longest quiet between two faults.
const QUIET_MAX_MS: u64 = 2500;
/// How long the last message may take once all faults are over.
const ARRIVAL: Duration = Duration::from_secs(240);
/// What was in hand when a fault came may have arrived so long before it is known that it did.
const WINDOW_MS: u64 = 2000;
/// How much of each message is kept: its head, and a report's with the head that it returns.
const KEPT_BYTES: usize = 4096;

/// Farms whose workers may be struck.
const FARMS: &[&str] =
    &["smtpserver", "contentfilter", "router", "scheduler", "smtp", "local", "error", "requeue"];
/// Points at which whoever comes by is killed.
const POINTS: &[&str] = &[
    "segment.write.after",
    "segment.sync.before",
    "segment.sync.after",
    "segment.create.after",
    "stripe.sync_dir.before",
    "next.rename.before",
    "body.write.after",
    "body.sync.after",
    "ledger.write.before",
    "ledger.write.after",
    "ledger.sync.before",
    "ledger.sync.after",
    "ledger.create.after",
    "ledger.unlink.before",
    "segment.unlink.before",
    "body.unlink.before",
    "smtpserver.commit.before",
    "smtpserver.commit.after",
    "smtpserver.route.after",
    "contentfilter.inspect.before",
    "router.route.before",
    "router.enqueue.after",
    "scheduler.answer.before",
    "scheduler.answer.after",
    "smtp.deliver.before",
    "smtp.dot.before",
    "smtp.dot.after",
    "smtp.answer.before",
    "smtp.answer.after",
    "local.link.before",
    "local.link.after",
    "local.answer.before",
    "error.deliver.before",
    "error.commit.before",
    "error.commit.after",
    "error.answer.before",
    "requeue.route.after",
];
/// Operations that fail for a while, and how.
const FAILING: &[(&str, &str)] = &[
    ("segment.write.before", "EIO"),
    ("segment.sync.before", "EIO"),
    ("segment.create.before", "ENOSPC"),
    ("stripe.sync_dir.before", "EIO"),
    ("next.create.before", "EROFS"),
    ("body.write.before", "ENOSPC"),
    ("body.sync.before", "EIO"),
    ("ledger.write.before", "EIO"),
    ("ledger.sync.before", "EIO"),
    ("local.sync_dir.before", "EIO"),
];

fn main() -> ExitCode {
    let Some((minutes, seed)) = arguments() else {
        eprintln!("{USAGE}");
        return ExitCode::from(64);
    };
    println!("torture: {minutes} minutes, seed {seed}");
    let site = site();
    let mount = Mount::tmpfs(site.path("data"), "size=500m,mode=755");
    let away = Arc::new(AtomicBool::new(false));
    let sink = sink(&site, Arc::clone(&away));
    let mut torture = Torture {
        faults: site.faults(),
        grange: Some(site.start()),
        site: &site,
        mount,
        away,
        chance: seed,
        done: Vec::new(),
        other: other_program(&site),
    };
    let traffic = Traffic::start(site.smtp.number, SESSIONS, PAUSE, mix);
    let end = Instant::now() + Duration::from_secs(60 * minutes);
    while Instant::now() < end {
        torture.fault();
        let quiet = torture.draw(QUIET_MAX_MS);
        std::thread::sleep(Duration::from_millis(quiet));
    }
    println!("all faults are over");
    let more = traffic.accepted() + 100;
    until("mail flows when all is over", || (traffic.accepted() >= more).then_some(()));
    let sent = traffic.stop();
    if torture.reckon(&sent, &sink) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn arguments() -> Option<(u64, u64)> {
    let (mut minutes, mut seed) = (10, now_ms() % 1_000_000);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let number = words.next()?.parse().ok()?;
        match word.as_str() {
            "--minutes" => minutes = number,
            "--seed" => seed = number,
            _ => return None,
        }
    }
    Some((minutes, seed))
}

/// Every way through the program is taken, and every border crossed often.
fn site() -> Site {
    let queue = concat!(
        "store = \"spool\"\nsegment_bytes = \"512KiB\"\nbody_file_bytes_min = \"32KiB\"\n",
        "seal_after = \"2s\"\nledger_bytes = \"64KiB\""
    );
    Site::new()
        .replace("store = \"spool\"", queue)
        .replace("[router]", "[requeue]\nevery = \"10s\"\n\n[router]\nenqueue_deadline = \"1s\"")
        .replace(
            "filters = []",
            r#"filters = [{ name = "noise", body = "nothing of the kind", action = "reject" }]"#,
        )
}

fn sink(site: &Site, away: Arc<AtomicBool>) -> Sink {
    Sink::keeping(site.sink.number, KEPT_BYTES, move |event| match event {
        Event::Connect if away.load(Ordering::Relaxed) => {
            Answer::Last(b"421 4.3.2 not now\r\n".to_vec())
        }
        Event::Command(line) if line.contains("RCPT TO:<refused@") => {
            Answer::Say("550 5.1.1 Nobody".to_owned())
        }
        Event::Command(line) if line.contains("RCPT TO:<busy@") && !now_ms().is_multiple_of(3) => {
            Answer::Say("451 4.3.0 later".to_owned())
        }
        _ => Answer::Usual,
    })
}

fn mix(number: usize) -> Mail {
    match number % 20 {
        0..8 => Mail::to("recipient@sink.example"),
        8..13 => Mail::to("recipient@example.test"),
        13..15 => Mail::to("refused@sink.example"),
        15..19 => Mail::to("busy@sink.example"),
        _ => Mail { lines: 2000, ..Mail::to("large@sink.example") },
    }
}

/// The program at another place, to upgrade to.
fn other_program(site: &Site) -> PathBuf {
    let other = site.path("grange.other");
    std::fs::copy(program(), &other).expect("the program can be copied");
    other
}

/// What was done, and from when to when, in milliseconds since 1970.
struct Done {
    kind: &'static str,
    what: String,
    from_ms: u64,
    to_ms: u64,
}

impl Done {
    /// Whether it may have sent a message twice to a next hop. What an operator does in good order must not, nor must a next hop
    /// that is away, nor a disk under a mailbox.
    fn may_double(&self) -> bool {
        let struck = !self.what.is_empty() && !self.what.contains("nobody");
        let is_fault = self.kind.starts_with("kill") || self.kind == "stop";
        let is_disk = self.kind.ends_with("the disk") && !self.what.starts_with("local.");
        struck && (is_fault || is_disk)
    }
}

struct Torture<'site> {
    site: &'site Site,
    grange: Option<Running<'site>>,
    mount: Mount,
    faults: Faults,
    /// Whether the next hop is.
    away: Arc<AtomicBool>,
    chance: u64,
    done: Vec<Done>,
    other: PathBuf,
}

impl<'site> Torture<'site> {
    /// A number below `bound`.
    fn draw(&mut self, bound: u64) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.chance;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (value ^ (value >> 31)) % bound
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let place = self.draw(from.len() as u64) as usize;
        *from.get(place).expect("the list is not empty")
    }

    fn grange(&self) -> &Running<'site> {
        self.grange.as_ref().expect("it runs between two faults")
    }

    fn fault(&mut self) {
        let from_ms = now_ms();
        let (kind, what) = match self.draw(100) {
            0..22 => self.kill_workers(1),
            22..30 => self.kill_workers(4),
            30..36 => self.kill_a_manager(),
            36..39 => self.kill_everything(),
            39..47 => self.stop_and_go_on(),
            47..72 => self.strike_at_a_point(),
            72..78 => self.fill_the_disk(),
            78..86 => self.fail_the_disk(),
            86..90 => self.take_the_next_hop_away(),
            90..95 => self.reload(),
            95..98 => self.upgrade(),
            _ => self.restart(),
        };
        let to_ms = now_ms();
        println!("{:>8} ms  {kind}: {what}", to_ms - from_ms);
        self.done.push(Done { kind, what, from_ms, to_ms });
    }

    /// The workers of a farm that there are now, ready or not.
    fn workers(&self, farm: &str) -> Vec<u32> {
        let farm = self.grange().farm_if_any(farm).unwrap_or_default();
        let workers = farm["workers"].as_array().cloned().unwrap_or_default();
        let pid = |worker: &serde_json::Value| u32::try_from(worker["pid"].as_u64()?).ok();
        workers.iter().filter_map(pid).filter(|pid| *pid > 0).collect()
    }

    fn a_worker(&mut self) -> Option<(&'static str, u32)> {
        let farm = self.pick(FARMS);
        let workers = self.workers(farm);
        (!workers.is_empty()).then(|| (farm, self.pick(&workers)))
    }

    fn kill_workers(&mut self, count: usize) -> (&'static str, String) {
        let victims: Vec<_> = (0..count).filter_map(|_| self.a_worker()).collect();
        for (_, pid) in &victims {
            self.grange().try_signal(*pid, Signal::KILL);
        }
        ("kill", victims.iter().map(|(farm, _)| *farm).collect::<Vec<_>>().join(", "))
    }

    fn kill_a_manager(&mut self) -> (&'static str, String) {
        let farm = self.pick(FARMS);
        let manager = self.grange().farm_if_any(farm).and_then(|farm| farm["manager"].as_u64());
        if let Some(pid) = manager.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0) {
            self.grange().try_signal(pid, Signal::KILL);
        }
        ("kill a manager", farm.to_owned())
    }

    fn kill_everything(&mut self) -> (&'static str, String) {
        let mut grange = self.grange.take().expect("it runs between two faults");
        let mut family = descendants(grange.pid());
        family.push(grange.pid());
        for pid in &family {
            grange.try_signal(*pid, Signal::KILL);
        }
        until("it ends", || grange.process().ended());
        until("all its processes end", || {
            family.iter().all(|pid| matches!(tests::state_of(*pid), None | Some('Z'))).then_some(())
        });
        drop(grange);
        self.grange = Some(self.site.start());
        ("kill everything", format!("{} processes", family.len()))
    }

    fn stop_and_go_on(&mut self) -> (&'static str, String) {
        let Some((farm, pid)) = self.a_worker() else { return ("stop", "nobody".to_owned()) };
        // One in four longer than it takes to be given up.
        let long = self.draw(4) == 0;
        let span = if long { 32_000 + self.draw(5000) } else { 50 + self.draw(3000) };
        self.grange().try_signal(pid, Signal::STOP);
        std::thread::sleep(Duration::from_millis(span));
        self.grange().try_signal(pid, Signal::CONT);
        ("stop", format!("{farm} for {span} ms"))
    }

    fn strike_at_a_point(&mut self) -> (&'static str, String) {
        let point = self.pick(POINTS);
        self.faults.arm(point, "kill");
        let begun = Instant::now();
        let mut struck = false;
        while !struck && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
            struck = !self.faults.is_armed(point);
        }
        struck |= !self.faults.disarm(point);
        (
            "kill at a point",
            format!("{point}{}", if struck { "" } else { ", which nobody came by" }),
        )
    }

    fn fill_the_disk(&mut self) -> (&'static str, String) {
        let leave = self.pick(&[0, 0, 1 << 20, 60 << 20]);
        let ballast = self.mount.fill("ballast", leave);
        std::thread::sleep(Duration::from_millis(500 + self.draw(4000)));
        std::fs::remove_file(ballast).expect("our own file");
        ("fill the disk", format!("up to {leave} bytes"))
    }

    fn fail_the_disk(&mut self) -> (&'static str, String) {
        let (point, errno) = self.pick(FAILING);
        self.faults.arm(point, &format!("{errno} always"));
        std::thread::sleep(Duration::from_millis(200 + self.draw(3000)));
        self.faults.disarm(point);
        ("fail the disk", format!("{point} {errno}"))
    }

    fn take_the_next_hop_away(&mut self) -> (&'static str, String) {
        self.away.store(true, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(500 + self.draw(4000)));
        self.away.store(false, Ordering::Relaxed);
        ("next hop away", String::new())
    }

    fn reload(&mut self) -> (&'static str, String) {
        let pid = self.grange().pid();
        self.grange().signal(pid, Signal::HUP);
        ("reload", String::new())
    }

    fn upgrade(&mut self) -> (&'static str, String) {
        let mut command = std::process::Command::new(&self.other);
        let output = tests::run(command.arg("upgrade").arg("--config").arg(self.site.config()));
        let told = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ("upgrade", if output.status.success() { String::new() } else { told })
    }

    fn restart(&mut self) -> (&'static str, String) {
        let mut grange = self.grange.take().expect("it runs between two faults");
        let status = grange.process().stop();
        drop(grange);
        self.grange = Some(self.site.start());
        ("restart", status.to_string())
    }

    /// Compares what was accepted with what arrived, and says whether all is well.
    fn reckon(&mut self, sent: &Burst, sink: &Sink) -> bool {
        let missing = self.await_arrival(sent, sink);
        if missing.is_empty() {
            self.site.wait_empty();
        }
        let arrivals = self.arrivals(sink);
        let known = |token: &String| {
            [&sent.accepted, &sent.unsure, &sent.refused].iter().any(|set| set.contains(token))
        };
        let strangers = arrivals.keys().filter(|token| !known(token)).count();
        let refused = arrivals.keys().filter(|token| sent.refused.contains(*token)).count();
        let doubles: Vec<_> = arrivals.iter().filter(|(_, times)| times.len() > 1).collect();
        let copies: usize = doubles.iter().map(|(_, times)| times.len() - 1).sum();
        let mut kinds: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for done in &self.done {
            kinds.entry(done.kind).or_default().0 += 1;
        }
        let mut unexplained = Vec::new();
        for (token, times) in doubles {
            match self.explanation(times) {
                Some(done) => {
                    println!("{token} came {} times: {} {}", times.len(), done.kind, done.what);
                    kinds.entry(done.kind).or_default().1 += 1;
                }
                None => unexplained.push((token.clone(), times.clone())),
            }
        }
        println!("\n{:<18} {:>6} {:>22}", "fault", "times", "messages came twice by");
        for (kind, (times, doubled)) in &kinds {
            println!("{kind:<18} {times:>6} {doubled:>22}");
        }
        let held = self.site.json(&["queue", "list", "--held", "--json"]);
        let held = held["messages"].as_array().map_or(0, Vec::len);
        println!(
            "\narrived though its client had been refused: {refused}; came without having been sent: {strangers}; held: {held}"
        );
        for token in missing.iter().take(20) {
            println!("missing: {token}");
        }
        for (token, times) in unexplained.iter().take(20) {
            println!("unexplained: {token} at {times:?}");
        }
        println!(
            "accepted {}, missing {}, duplicates {copies}, unexplained {}",
            sent.accepted.len(),
            missing.len(),
            unexplained.len()
        );
        missing.is_empty() && unexplained.is_empty() && strangers == 0 && held == 0
    }

    /// Waits until everything with `250` has come; gives what has not.
    fn await_arrival(&self, sent: &Burst, sink: &Sink) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let arrived: BTreeSet<String> = self.arrivals(sink).into_keys().collect();
            let missing: Vec<String> = sent.accepted.difference(&arrived).cloned().collect();
            if missing.is_empty() || begun.elapsed() >= ARRIVAL {
                return missing;
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// When each token arrived, at the next hop and in the mailbox.
    fn arrivals(&self, sink: &Sink) -> BTreeMap<String, Vec<u64>> {
        let mut arrivals: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        let mut note = |message: &str, at_ms| {
            let token = token_of(message).unwrap_or("none").to_owned();
            arrivals.entry(token).or_default().push(at_ms);
        };
        for message in sink.received().iter() {
            note(&message.data, message.at_ms);
        }
        for message in self.site.mailbox("example.test", "recipient") {
            note(&message, 0);
        }
        arrivals
    }

    /// A fault between the first and the last arrival of a message.
    fn explanation(&self, times: &[u64]) -> Option<&Done> {
        let (first, last) = (times.iter().min()?, times.iter().max()?);
        // In a mailbox nothing comes twice.
        let explains = |done: &&Done| {
            let meets = done.from_ms <= *last && done.to_ms.saturating_add(WINDOW_MS) >= *first;
            meets && done.may_double() && *first > 0
        };
        self.done.iter().find(explains)
    }
}

impl Drop for Torture<'_> {
    fn drop(&mut self) {
        if let Some(grange) = self.grange.take() {
            grange.stop();
        }
    }
}
