//! `bench latency`: how long a message takes, from its last byte to `250` and from there to the next hop.
//!
//! As many clients as sessions, each sending one message after the other in one session; they and the sink are our own, since
//! Postfix's tools do not tell. Figures are of all messages of a round, and medians of the rounds.

use std::path::Path;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::Scratch;
use super::contender::{Contender, NAMES};
use super::measure::{median, percentile};
use super::options::Options;
use super::speak::{Session, Sink, body};
use crate::{Failure, packages};

/// How long the last message may take to its next hop.
const ARRIVAL_MAX: Duration = Duration::from_secs(120);
/// The parts of the messages that were at least so fast.
const PARTS: [f64; 3] = [0.5, 0.99, 0.999];

/// Measures and prints the table.
pub(super) fn run(words: &[&str]) -> Result<bool, Failure> {
    let options = Options { sessions: 50, ..Options::default() }.parse(words)?;
    options.chosen(NAMES)?;
    packages::provide()?;
    let scratch = Scratch::new("latency", options.journal)?;
    let result = measure(&options, &scratch.folder);
    scratch.end(result.map(drop))
}

/// Milliseconds that a contender's messages took, for each of [`PARTS`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Figures {
    pub(super) name: &'static str,
    /// From the last byte to `250`.
    pub(super) accepted_ms: [f64; 3],
    /// From `250` to the next hop's `250`.
    pub(super) arrived_ms: [f64; 3],
}

/// Runs all rounds and prints them.
pub(super) fn measure(options: &Options, folder: &Path) -> Result<Vec<Figures>, Failure> {
    let mut lanes = Vec::new();
    for name in options.chosen(NAMES)? {
        let sink = Sink::start()?;
        let contender = Contender::start(name, folder, sink.port)?;
        lanes.push((contender, sink, Vec::new()));
    }
    println!(
        "{}; medians of {} rounds",
        Options { reuse: true, ..options.clone() }.load(),
        options.rounds
    );
    println!("\n{:<16} {:>34}   {:>34}", "", "last byte to 250, ms", "250 to the next hop, ms");
    println!(
        "{:<16} {:>10} {:>11} {:>11}   {:>10} {:>11} {:>11}",
        "", "p50", "p99", "p99.9", "p50", "p99", "p99.9"
    );
    for number in 0..=options.rounds {
        for (contender, sink, rounds) in &mut lanes {
            let figures =
                round(options, contender, sink).map_err(|error| contender.blame(&error))?;
            // The first is to warm up.
            if number > 0 {
                println!("{:<16} {figures}", format!("{} {number}", contender.name));
                rounds.push(figures);
            }
        }
    }
    println!("\nmedian");
    let figures: Vec<Figures> = lanes.iter().map(|(_, _, rounds)| medians(rounds)).collect();
    for one in &figures {
        println!("{:<16} {one}", one.name);
    }
    Ok(figures)
}

fn round(options: &Options, contender: &Contender, sink: &Sink) -> Result<Figures, Failure> {
    let each = (options.messages / options.sessions).max(1);
    let before = sink.count();
    let body = body(options.length);
    let clients: Vec<_> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..options.sessions)
            .map(|client| {
                let body = &body;
                let first = (before + client * each) as u64;
                scope.spawn(move || {
                    send(contender.port, first..first + each as u64, body)
                        .map_err(|error| error.to_string())
                })
            })
            .collect();
        clients.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    let mut sent = Vec::new();
    for client in clients {
        sent.extend(client.map_err(|_| "a client panicked")??);
    }
    let until = Instant::now() + ARRIVAL_MAX;
    while sink.count() < before + sent.len() {
        if Instant::now() > until {
            return Err(format!("{} of {} arrived", sink.count() - before, sent.len()).into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let arrivals = sink.arrivals.lock().unwrap_or_else(PoisonError::into_inner);
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let accepted = sent.iter().map(|one| ms(one.accepted - one.sent)).collect();
    let arrived = sent
        .iter()
        .filter_map(|one| {
            Some(ms(arrivals.get(&one.token)?.saturating_duration_since(one.accepted)))
        })
        .collect();
    let of = |values: Vec<f64>| percentile(values, PARTS);
    Ok(Figures { name: contender.name, accepted_ms: of(accepted), arrived_ms: of(arrived) })
}

struct Sent {
    token: u64,
    sent: Instant,
    accepted: Instant,
}

fn send(port: u16, tokens: std::ops::Range<u64>, body: &[u8]) -> Result<Vec<Sent>, Failure> {
    let mut session = Session::open(port)?;
    let mut all = Vec::new();
    for token in tokens {
        let (sent, accepted) = session.message("recipient@sink.example", token, body)?;
        all.push(Sent { token, sent, accepted });
    }
    session.say("QUIT\r\n", "221")?;
    Ok(all)
}

fn medians(rounds: &[Figures]) -> Figures {
    let mut result = rounds.first().copied().unwrap_or_default();
    for part in 0..PARTS.len() {
        let over = |field: fn(&Figures) -> [f64; 3]| {
            median(rounds.iter().filter_map(|one| field(one).get(part).copied()).collect())
        };
        let (accepted, arrived) = (over(|one| one.accepted_ms), over(|one| one.arrived_ms));
        if let (Some(a), Some(b)) =
            (result.accepted_ms.get_mut(part), result.arrived_ms.get_mut(part))
        {
            (*a, *b) = (accepted, arrived);
        }
    }
    result
}

impl std::fmt::Display for Figures {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c] = self.accepted_ms;
        let [d, e, f] = self.arrived_ms;
        write!(formatter, "{a:>10.2} {b:>11.2} {c:>11.2}   {d:>10.2} {e:>11.2} {f:>11.2}")
    }
}
