//! `bench relay`: smtp-source through a mail server to smtp-sink, for Grange and Postfix in the same run.
//!
//! ```text
//! floor    smtp-source ──────────────▶ smtp-sink     what the tools themselves cost
//! grange   smtp-source ──▶ Grange ───▶ smtp-sink
//! postfix  smtp-source ──▶ Postfix ──▶ smtp-sink
//! ```
//!
//! Rounds are interleaved, so that a machine whose speed drifts does so for everyone, and medians are compared.

use std::path::Path;
use std::time::Instant;

use super::grange::Grange;
use super::load::{Sink, send};
use super::measure::{machine_cpu, median};
use super::postfix::Postfix;
use super::{Scratch, file_system, numbers};
use crate::{Failure, packages, usage};

/// The contenders, in the order of every round.
const NAMES: &[&str] = &["floor", "grange", "postfix"];

/// What stands above the numbers of a round.
const HEADINGS: &str = "  accepted/s    relayed/s   CPU µs a message";

/// Messages sent to each contender before the first round, so that its processes run and its caches are warm.
const WARM_UP: usize = 500;

/// What the benchmark may be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// How often each contender is measured; the medians count.
    rounds: usize,
    /// Messages in a round.
    messages: usize,
    /// SMTP sessions at once.
    pub(super) sessions: usize,
    /// Bytes of a message.
    pub(super) length: usize,
    /// Only this contender, for a look at one alone.
    only: Option<String>,
}

impl Options {
    /// Whether a contender takes part.
    fn wants(&self, contender: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == contender)
    }

    fn parse(words: &[&str]) -> Result<Self, Failure> {
        let mut options =
            Self { rounds: 3, messages: 10_000, sessions: 20, length: 4096, only: None };
        let (named, counted): (Vec<&[&str]>, Vec<&[&str]>) =
            words.chunks(2).partition(|pair| pair.first() == Some(&"--only") && pair.len() == 2);
        options.only = named.last().and_then(|pair| pair.last()).map(|only| (*only).to_owned());
        numbers(
            &counted.concat(),
            &mut [
                ("--rounds", &mut options.rounds),
                ("--messages", &mut options.messages),
                ("--sessions", &mut options.sessions),
                ("--length", &mut options.length),
            ],
        )?;
        let all = [options.rounds, options.messages, options.sessions, options.length];
        if all.contains(&0) {
            return Err(usage("bench relay needs numbers from 1 on"));
        }
        Ok(options)
    }
}

/// Measures and prints the table.
pub(super) fn run(words: &[&str]) -> Result<bool, Failure> {
    let options = Options::parse(words)?;
    if let Some(only) = options.only.as_deref().filter(|only| !NAMES.contains(only)) {
        return Err(usage(format!("no contender {only}; there are {}", NAMES.join(", "))));
    }
    packages::provide()?;
    let scratch = Scratch::new("relay")?;
    let result = measure(&options, &scratch.folder);
    scratch.end(result)
}

fn measure(options: &Options, folder: &Path) -> Result<(), Failure> {
    let mut contenders = Vec::new();
    for name in NAMES.iter().filter(|name| options.wants(name)) {
        contenders.push(Contender::start(name, folder)?);
    }
    println!(
        "{} messages of {} bytes in {} sessions, medians of {} rounds; file system {}; {} CPUs",
        options.messages,
        options.length,
        options.sessions,
        options.rounds,
        file_system(folder)?,
        std::thread::available_parallelism()?,
    );
    for contender in &mut contenders {
        println!("{:<8} {}", contender.name, contender.version);
        contender.round(options, WARM_UP.min(options.messages))?;
        contender.rounds.clear();
    }
    println!("\n{:<16} {HEADINGS}", "");
    for number in 1..=options.rounds {
        for contender in &mut contenders {
            contender.round(options, options.messages)?;
            if let Some(round) = contender.rounds.last() {
                println!("{:<16} {round}", format!("{} {number}", contender.name));
            }
        }
    }
    table(&contenders);
    Ok(())
}

/// A way from source to sink.
struct Contender {
    name: &'static str,
    version: String,
    port: u16,
    rounds: Vec<Round>,
    // Dropped in this order: the server first, so that it does not complain of its sink.
    _server: Option<Box<dyn std::any::Any>>,
    sink: Sink,
}

/// What one round of a contender came to.
#[derive(Debug, Clone, Copy)]
struct Round {
    accepted_per_second: f64,
    relayed_per_second: f64,
    cpu_micros: f64,
}

impl Contender {
    fn start(name: &'static str, folder: &Path) -> Result<Self, Failure> {
        let sink = Sink::start()?;
        let folder = folder.join(name);
        let mut contender = Self {
            name,
            version: String::from("straight to the sink: what the tools themselves cost"),
            port: sink.port,
            rounds: Vec::new(),
            _server: None,
            sink,
        };
        match name {
            "grange" => {
                let grange = Grange::start(&folder, contender.sink.port)?;
                (contender.port, contender.version) = (grange.port, grange.version.clone());
                contender._server = Some(Box::new(grange));
            }
            "postfix" => {
                let postfix = Postfix::start(&folder, contender.sink.port)?;
                (contender.port, contender.version) = (postfix.port, postfix.version.clone());
                contender._server = Some(Box::new(postfix));
            }
            _ => {}
        }
        Ok(contender)
    }

    fn round(&mut self, options: &Options, messages: usize) -> Result<(), Failure> {
        let wanted = self.sink.messages() + messages as u64;
        let (begun, cpu) = (Instant::now(), machine_cpu()?);
        send(options, messages, self.port)
            .map_err(|failure| format!("{}: {failure}", self.name))?;
        let accepted = begun.elapsed();
        self.sink.wait(wanted).map_err(|failure| format!("{}: {failure}", self.name))?;
        let relayed = begun.elapsed();
        let cpu = machine_cpu()?.saturating_sub(cpu);
        let count = messages as f64;
        self.rounds.push(Round {
            accepted_per_second: count / accepted.as_secs_f64(),
            relayed_per_second: count / relayed.as_secs_f64(),
            cpu_micros: cpu.as_secs_f64() * 1e6 / count,
        });
        Ok(())
    }

    fn median(&self) -> Round {
        let over = |field: fn(&Round) -> f64| median(self.rounds.iter().map(field).collect());
        Round {
            accepted_per_second: over(|round| round.accepted_per_second),
            relayed_per_second: over(|round| round.relayed_per_second),
            cpu_micros: over(|round| round.cpu_micros),
        }
    }
}

impl std::fmt::Display for Round {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { accepted_per_second, relayed_per_second, cpu_micros } = self;
        write!(
            formatter,
            "{accepted_per_second:>12.0} {relayed_per_second:>12.0} {cpu_micros:>18.0}"
        )
    }
}

fn table(contenders: &[Contender]) {
    println!("\n{:<16} {HEADINGS}", "median");
    for contender in contenders {
        println!("{:<16} {}", contender.name, contender.median());
    }
    let of =
        |name| contenders.iter().find(|contender| contender.name == name).map(Contender::median);
    if let (Some(grange), Some(postfix)) = (of("grange"), of("postfix")) {
        println!(
            "{:<16} {:>11.1}× {:>11.1}× {:>17.2}×",
            "grange/postfix",
            grange.accepted_per_second / postfix.accepted_per_second,
            grange.relayed_per_second / postfix.relayed_per_second,
            grange.cpu_micros / postfix.cpu_micros,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_or_refused() {
        let options =
            Options::parse(&["--rounds", "1", "--messages", "500"]).expect("good options");
        assert_eq!((options.rounds, options.messages, options.sessions), (1, 500, 20));
        assert!(options.wants("grange"));
        for wrong in
            [&["--rounds"][..], &["--rounds", "0"], &["--speed", "9"], &["--messages", "x"]]
        {
            assert!(Options::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn an_unknown_contender_is_refused() {
        let refused = run(&["--only", "typo"]).expect_err("nobody by that name").to_string();
        assert!(refused.contains("no contender typo"), "{refused}");
    }
}
