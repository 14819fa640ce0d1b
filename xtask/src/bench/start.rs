//! `bench start`: what a start costs with a large queue, and what each recipient in it takes of the scheduler's memory.
//!
//! ```text
//! backlog (tests/examples) ──▶ a queue on disk ──▶ grange run ──▶ first 250 · all scheduled · memory · stop
//! ```
//!
//! Everything stays on this machine: every lane's host is an address of 127/8, and no name is looked up. The queue has just been
//! written, so it is read from the system's cache.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::grange::{self, Grange};
use super::measure::machine_cpu;
use super::speak::{Session, body};
use super::{Scratch, numbers};
use crate::Failure;
use crate::process::{cargo, is_root, output, succeeds, target_dir};

/// Where nobody listens: no message of the backlog is for the route that leads there.
const SINK: u16 = 9;
/// How long a start may take until it is called off.
const START_MAX: Duration = Duration::from_secs(120);
/// How often the status is asked, which takes CPU of its own.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long memory is given to settle before it is read.
const SETTLE: Duration = Duration::from_secs(3);
/// How much more mail has passed through in the last case than is there.
const PASSED_TIMES: usize = 10;
/// Recipients of a message in the case of large ones.
const LARGE: usize = 100;

/// What the benchmark may be told.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Options {
    /// Messages; 0: as many as recipients, and then as many as make a hundred recipients each.
    messages: usize,
    recipients: usize,
    lanes: usize,
    /// Messages that have come and gone before the last start; 0 leaves that case out.
    passed: usize,
    /// Seconds until the recipients are due; 0: all are when it starts.
    wait: usize,
}

impl Options {
    fn parse(words: &[&str]) -> Result<Self, Failure> {
        let mut options = Self {
            messages: 0,
            recipients: 1_000_000,
            lanes: 10_000,
            passed: usize::MAX,
            wait: 14_400,
        };
        numbers(
            words,
            &mut [
                ("--messages", &mut options.messages),
                ("--recipients", &mut options.recipients),
                ("--lanes", &mut options.lanes),
                ("--passed", &mut options.passed),
                ("--wait", &mut options.wait),
            ],
        )?;
        options.passed = match options.passed {
            usize::MAX => options.recipients.saturating_mul(PASSED_TIMES),
            passed => passed,
        };
        Ok(options)
    }

    /// What is measured, one after the other.
    fn cases(&self) -> Vec<Case> {
        let case = |messages, recipients, passed| Case { messages, recipients, passed };
        let mut cases = vec![case(0, 0, 0)];
        if self.messages > 0 {
            cases.push(case(self.messages, self.recipients, 0));
        } else {
            cases.push(case(self.recipients, self.recipients, 0));
            cases.push(case((self.recipients / LARGE).max(1), self.recipients, 0));
        }
        if self.passed > 0 {
            let messages = if self.messages > 0 { self.messages } else { self.recipients };
            cases.push(case(messages, self.recipients, self.passed));
        }
        cases
    }
}

/// A queue, and what has passed through it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Case {
    pub(super) messages: usize,
    pub(super) recipients: usize,
    pub(super) passed: usize,
}

/// Measures every case and prints the table.
pub(super) fn run(words: &[&str]) -> Result<bool, Failure> {
    let options = Options::parse(words)?;
    let binary = grange::build()?;
    let backlog = Backlog::build()?;
    let scratch = Scratch::new("start", false)?;
    let result = measure(&options, &binary, &backlog, &scratch.folder);
    scratch.end(result)
}

/// The program that makes queues.
pub(super) struct Backlog {
    program: PathBuf,
}

impl Backlog {
    /// Builds it.
    pub(super) fn build() -> Result<Self, Failure> {
        let words = ["build", "--quiet", "--release", "--package", "tests", "--example", "backlog"];
        if !succeeds(&mut cargo(&words))? {
            return Err("the backlog maker does not build".into());
        }
        Ok(Self { program: target_dir()?.join("release/examples/backlog") })
    }

    /// Makes a queue in the data directory of a server's folder; its recipients' hosts are addresses of 127/8.
    pub(super) fn make(
        &self,
        lanes: usize,
        wait_seconds: usize,
        case: Case,
        home: &Path,
    ) -> Result<(), Failure> {
        let data = home.join("data");
        std::fs::create_dir_all(&data)?;
        let mut command = Command::new(&self.program);
        command.arg(&data);
        for (name, number) in [
            ("--messages", case.messages),
            ("--recipients", case.recipients),
            ("--lanes", lanes),
            ("--passed", case.passed),
            ("--wait", wait_seconds),
        ] {
            command.arg(name).arg(number.to_string());
        }
        output(&mut command)?;
        if is_root() {
            output(Command::new("chown").args(["-R", "nobody:"]).arg(&data))?;
        }
        Ok(())
    }
}

fn measure(
    options: &Options,
    binary: &Path,
    backlog: &Backlog,
    folder: &Path,
) -> Result<(), Failure> {
    println!(
        "{} recipients in {} lanes; queue in the system's cache\n",
        options.recipients, options.lanes,
    );
    println!(
        "{:>9} {:>10} {:>10} | {:>9} {:>11} {:>9} {:>9} {:>8} | {:>8} {:>8} {:>8}",
        "messages",
        "recipients",
        "passed",
        "first 250",
        "all in lane",
        "scheduler",
        "machine",
        "stop",
        "PSS",
        "RSS",
        "RSS peak",
    );
    println!(
        "{:>9} {:>10} {:>10} | {:>9} {:>11} {:>9} {:>9} {:>8} | {:>26}",
        "", "", "", "s", "s", "CPU s", "CPU s", "s", "bytes a recipient",
    );
    let mut empty = Memory::default();
    for case in options.cases() {
        let home = folder.join(format!("{}-{}-{}", case.messages, case.recipients, case.passed));
        if case.recipients > 0 {
            backlog.make(options.lanes, options.wait, case, &home)?;
        }
        let start = start(binary, &home, case)?;
        if case.recipients == 0 {
            empty = start.memory;
        }
        println!("{}", row(case, &start, &empty));
        std::fs::remove_dir_all(&home)?;
    }
    println!(
        "\nan empty queue's scheduler takes {} KiB PSS, {} KiB RSS: subtracted above",
        empty.pss_kib, empty.rss_kib
    );
    Ok(())
}

/// Seconds from a start with an empty queue to the first `250`.
pub(super) fn empty(folder: &Path) -> Result<f64, Failure> {
    let binary = grange::build()?;
    std::fs::create_dir_all(folder)?;
    let case = Case { messages: 0, recipients: 0, passed: 0 };
    let first = start(&binary, folder, case)?.first_250;
    std::fs::remove_dir_all(folder)?;
    Ok(first.as_secs_f64())
}

/// What one start came to.
struct Start {
    first_250: Duration,
    scheduled: Duration,
    scheduler_cpu: Duration,
    machine_cpu: Duration,
    memory: Memory,
    stop: Duration,
}

fn start(binary: &Path, home: &Path, case: Case) -> Result<Start, Failure> {
    let cpu = machine_cpu()?;
    let begun = Instant::now();
    let mut grange = Grange::spawn(binary, home, SINK, "")?;
    let within = |what: &str| match begun.elapsed() > START_MAX {
        true => Err(Failure::from(format!("not {what} after {} s", START_MAX.as_secs()))),
        false => Ok(()),
    };
    while send_one(grange.port).is_err() {
        grange.child.alive()?;
        within("taking mail")?;
        std::thread::sleep(Duration::from_millis(5));
    }
    let first_250 = begun.elapsed();
    let scheduler = loop {
        let status = grange.status(binary)?;
        let queue = status.split_once("\"queue\":{").map(|(_, queue)| queue);
        let recipients = queue.and_then(|queue| number_after(queue, "\"recipients\":"));
        let farm = status.split_once("\"farm\":\"scheduler\"").map(|(_, farm)| farm);
        let pid = farm.and_then(|farm| number_after(farm, "\"pid\":"));
        if let Some((_, pid)) = recipients.filter(|n| *n >= case.recipients as u64).zip(pid) {
            break pid;
        }
        grange.child.alive()?;
        within("scheduled")?;
        std::thread::sleep(LOOK_EVERY);
    };
    let scheduled = begun.elapsed();
    let machine_cpu = machine_cpu()?.saturating_sub(cpu);
    let scheduler_cpu = process_cpu(scheduler)?;
    std::thread::sleep(SETTLE);
    let memory = Memory::of(scheduler)?;
    let stop = grange.child.stop(START_MAX)?;
    Ok(Start { first_250, scheduled, scheduler_cpu, machine_cpu, memory, stop })
}

/// One SMTP session with one message, to its `250`.
fn send_one(port: u16) -> Result<(), Failure> {
    Session::open(port)?.message("user@example.test", 0, &body(100)).map(drop)
}

/// Memory of a process.
#[derive(Debug, Clone, Copy, Default)]
struct Memory {
    pss_kib: u64,
    rss_kib: u64,
    peak_kib: u64,
}

impl Memory {
    fn of(pid: u64) -> Result<Self, Failure> {
        let shares = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |text: &str, name: &str| {
            number_after(text, name).ok_or_else(|| Failure::from(format!("no {name}")))
        };
        Ok(Self {
            pss_kib: field(&shares, "\nPss:")?,
            rss_kib: field(&shares, "\nRss:")?,
            peak_kib: field(&status, "\nVmHWM:")?,
        })
    }
}

/// The number that follows a name, over spaces.
fn number_after(text: &str, name: &str) -> Option<u64> {
    let (_, rest) = text.split_once(name)?;
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest.get(..end)?.parse().ok()
}

fn process_cpu(pid: u64) -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("a process without a name")?;
    // Counted from the state: user and system time are the 12th and the 13th, in hundredths of a second.
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<_, _>>()?;
    Ok(Duration::from_millis(10 * ticks))
}

fn row(case: Case, start: &Start, empty: &Memory) -> String {
    let Case { messages, recipients, passed } = case;
    let each = |kib: u64, empty: u64| match recipients {
        0 => "-".to_owned(),
        many => (kib.saturating_sub(empty) * 1024 / many as u64).to_string(),
    };
    let Start { first_250, scheduled, scheduler_cpu, machine_cpu, memory, stop } = start;
    format!(
        "{messages:>9} {recipients:>10} {passed:>10} | {:>9.2} {:>11.1} {:>9.1} {:>9.1} {:>8.1} | {:>8} {:>8} {:>8}",
        first_250.as_secs_f64(),
        scheduled.as_secs_f64(),
        scheduler_cpu.as_secs_f64(),
        machine_cpu.as_secs_f64(),
        stop.as_secs_f64(),
        each(memory.pss_kib, empty.pss_kib),
        each(memory.rss_kib, empty.rss_kib),
        each(memory.peak_kib, empty.peak_kib),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_behind_their_names() {
        assert_eq!(number_after("Rss: 1 kB\nPss:    234 kB\n", "\nPss:"), Some(234));
        assert_eq!(number_after("{\"pid\":77}", "\"pid\":"), Some(77));
        assert_eq!(number_after("{\"pid\":null}", "\"pid\":"), None);
    }

    #[test]
    fn the_cases_are_those_of_the_promise_unless_told_otherwise() {
        let shapes = |words: &[&str]| -> Vec<(usize, usize, usize)> {
            let cases = Options::parse(words).expect("good options").cases();
            cases.iter().map(|case| (case.messages, case.recipients, case.passed)).collect()
        };
        let million = 1_000_000;
        let all = [(0, 0, 0), (million, million, 0), (10_000, million, 0)];
        assert_eq!(shapes(&["--passed", "0"]), all);
        assert_eq!(shapes(&[]).last(), Some(&(million, million, 10 * million)));
        let few = shapes(&["--messages", "5", "--recipients", "50", "--passed", "7"]);
        assert_eq!(few, [(0, 0, 0), (5, 50, 0), (5, 50, 7)]);
    }
}
