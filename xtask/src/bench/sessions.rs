//! `bench sessions`: what farms and sessions that do nothing cost, and whether clients that are slow on purpose keep others out.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Scratch;
use super::contender::Contender;
use super::load::free_port;
use super::measure::median;
use super::memory;
use super::options::Options;
use super::speak::{Session, connect};
use crate::process::output;
use crate::{Failure, packages};

/// Clients that send a byte a minute.
const SLOW: usize = 5000;
/// How long after a byte a slow client sends its next.
const BYTE_EVERY: Duration = Duration::from_secs(60);
/// Threads that connect as fast as they can, and for how long in each round.
const HURRIED: usize = 8;
const HURRY: Duration = Duration::from_secs(4);
/// How long processes are given to settle before their memory is read.
const SETTLE: Duration = Duration::from_secs(3);
/// Descriptors that we need at most.
const DESCRIPTORS: usize = 16_000;
const KIBIBYTE: f64 = 1024.0;

/// Measures and prints.
pub(super) fn run(words: &[&str]) -> Result<bool, Failure> {
    let options = Options { sessions: 10_000, ..Options::default() }.parse(words)?;
    packages::provide()?;
    let scratch = Scratch::new("sessions", options.journal)?;
    let result = measure(&options, &scratch.folder);
    scratch.end(result.map(drop))
}

/// What was measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures {
    /// All farms, with nothing to do.
    pub(super) idle_mebibytes: f64,
    /// What each of many idle sessions adds.
    pub(super) session_kibibytes: f64,
    /// Connections served a second beside slow clients, as a part of those without.
    pub(super) beside_slow: f64,
}

/// Runs all and prints it.
pub(super) fn measure(options: &Options, folder: &Path) -> Result<Figures, Failure> {
    let pid = std::process::id().to_string();
    let limit = format!("--nofile={DESCRIPTORS}:");
    output(Command::new("prlimit").args(["--pid", &pid, &limit]))?;
    let port = free_port()?;
    let quiet = Contender::start("grange", &folder.join("quiet"), port)?;
    let pid = quiet.pids().first().copied().ok_or("a server without a process")?;
    std::thread::sleep(SETTLE);
    let empty = memory::of_tree(pid)?;
    let idle_mebibytes = empty as f64 / KIBIBYTE / KIBIBYTE;
    println!("all farms idle: {idle_mebibytes:.1} MiB");
    let mut sessions = Vec::with_capacity(options.sessions);
    for _ in 0..options.sessions {
        sessions.push(Session::open(quiet.port)?);
    }
    std::thread::sleep(SETTLE);
    let full = memory::of_tree(pid)?;
    let session_kibibytes = full.saturating_sub(empty) as f64 / options.sessions as f64 / KIBIBYTE;
    println!("{} idle sessions: {session_kibibytes:.1} KiB each", options.sessions);
    drop(sessions);
    let beside_slow = beside_slow(options, folder, &quiet, port)?;
    Ok(Figures { idle_mebibytes, session_kibibytes, beside_slow })
}

fn beside_slow(
    options: &Options,
    folder: &Path,
    quiet: &Contender,
    port: u16,
) -> Result<f64, Failure> {
    let beset = Contender::start("grange", &folder.join("beset"), port)?;
    let slow = Slow::start(beset.port)?;
    let mut ratios = Vec::new();
    for round in 0..=options.rounds {
        let (without, with) = (hurry(quiet.port)?, hurry(beset.port)?);
        // The first is to warm up.
        if round > 0 {
            println!(
                "new connections a second: {without:.0} without slow clients, {with:.0} beside {SLOW}"
            );
            ratios.push(with / without);
        }
    }
    slow.end()?;
    let ratio = median(ratios);
    println!("beside slow clients: {:.1} % of the connections", ratio * 100.0);
    Ok(ratio)
}

/// Connects, is greeted and leaves, again and again; says how often a second.
fn hurry(port: u16) -> Result<f64, Failure> {
    let begun = Instant::now();
    let threads: Vec<JoinHandle<Result<usize, String>>> = (0..HURRIED)
        .map(|_| {
            std::thread::spawn(move || {
                let mut count = 0;
                while begun.elapsed() < HURRY {
                    let mut session = Session::open(port).map_err(|error| error.to_string())?;
                    session.say("QUIT\r\n", "221").map_err(|error| error.to_string())?;
                    count += 1;
                }
                Ok(count)
            })
        })
        .collect();
    let mut count = 0;
    for thread in threads {
        count += thread.join().map_err(|_| "a client panicked")??;
    }
    Ok(count as f64 / begun.elapsed().as_secs_f64())
}

/// Clients that were greeted and now send a command, a byte a minute.
struct Slow {
    done: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<()>>,
}

impl Slow {
    fn start(port: u16) -> Result<Self, Failure> {
        let mut streams: Vec<TcpStream> = Vec::with_capacity(SLOW);
        for _ in 0..SLOW {
            let mut stream = connect(port)?;
            let mut greeting = [0; 256];
            if stream.read(&mut greeting)? == 0 {
                return Err("a slow client was turned away".into());
            }
            streams.push(stream);
        }
        let done = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&done);
        let thread = std::thread::spawn(move || {
            let mut next = Instant::now();
            while !told.load(Ordering::Acquire) {
                if next <= Instant::now() {
                    next += BYTE_EVERY;
                    streams.iter_mut().try_for_each(|stream| stream.write_all(b"N"))?;
                }
                std::thread::park_timeout(BYTE_EVERY);
            }
            Ok(())
        });
        Ok(Self { done, thread })
    }

    fn end(self) -> Result<(), Failure> {
        self.done.store(true, Ordering::Release);
        self.thread.thread().unpark();
        Ok(self.thread.join().map_err(|_| "the slow clients panicked")??)
    }
}
