//! `bench relay` and `bench accept`: smtp-source through a mail server to smtp-sink, for Grange and Postfix in the same run.
//!
//! Rounds are interleaved, so that a machine whose speed drifts does so for everyone, and medians are compared. A last round, whose
//! speed does not count, is watched: system calls, syncs, memory. `accept` is the same without a next hop: mail is only taken.
//! `relay --authenticated` has half of the mail verified and half of it signed, and looks at samples.

use std::path::Path;
use std::time::{Duration, Instant};

use super::Scratch;
use super::authenticated::Authenticated;
use super::contender::{Contender, How, NAMES};
use super::counts::{self, Counter};
use super::database::{Counted, Database, RoundTrips};
use super::load::{Sink, free_port, send};
use super::measure::{machine_cpu, median};
use super::memory::Watch;
use super::options::Options;
use super::plot::{self, Group};
use super::samples::{self, Examined};
use super::speak;
use crate::{Failure, packages, usage};

/// What stands above the numbers of a round.
const HEADINGS: &str =
    "  accepted/s  relayed/s  CPU µs a message  calls a message  syncs a message  memory MiB";
/// Messages sent to each contender before the first round, so that its processes run and its caches are warm.
const WARM_UP: usize = 500;
/// So many recipients of a message are sent on in one transaction by all contenders, by Postfix's default: a message arrives once.
const RECIPIENTS_TOGETHER: usize = 50;
/// How long after a round the database's counts are read.
const DATABASE_SETTLES: Duration = Duration::from_secs(2);
const MEBIBYTE: f64 = 1024.0 * 1024.0;

/// What becomes of the mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// It goes on to a sink, and the round ends when all has arrived.
    Relay,
    /// Nobody listens at the next hop; the round ends when all was accepted.
    Accept,
}

/// Measures relaying and prints the table.
pub(super) fn run(words: &[&str]) -> Result<bool, Failure> {
    let (own, others): (Vec<&str>, Vec<&str>) =
        words.iter().partition(|word| **word == AUTHENTICATED);
    let options = Options { authenticated: !own.is_empty(), ..Options::default() };
    alone("relay", Way::Relay, options.parse(&others)?)
}

/// Measures accepting alone and prints the table.
pub(super) fn run_accept(words: &[&str]) -> Result<bool, Failure> {
    alone("accept", Way::Accept, Options::default().parse(words)?)
}

/// An option of `relay` alone.
const AUTHENTICATED: &str = "--authenticated";

fn alone(name: &str, way: Way, options: Options) -> Result<bool, Failure> {
    options.chosen(NAMES)?;
    if options.recipients > RECIPIENTS_TOGETHER {
        return Err(usage(format!("--recipients may be {RECIPIENTS_TOGETHER} at most")));
    }
    packages::provide()?;
    if options.authenticated {
        packages::provide_signer()?;
    }
    let scratch = Scratch::new(name, options.journal)?;
    let result = measure(&options, way, &scratch.folder).and_then(|figures| {
        let Some(file) = options.plot.as_deref() else { return Ok(()) };
        plot::write(file, &format!("{name}: {}", options.load()), &groups(&figures))
    });
    scratch.end(result)
}

/// What a contender came to: medians of its rounds, and what was watched.
#[derive(Debug, Clone, Copy)]
pub(super) struct Figures {
    pub(super) name: &'static str,
    pub(super) accepted_per_second: f64,
    pub(super) relayed_per_second: f64,
    pub(super) cpu_micros: f64,
    /// What the last round was watched for.
    pub(super) watched: Watched,
}

/// The figures of one contender.
pub(super) fn of<'a>(figures: &'a [Figures], name: &str) -> Option<&'a Figures> {
    figures.iter().find(|figures| figures.name == name)
}

/// Runs all rounds and prints them.
pub(super) fn measure(options: &Options, way: Way, folder: &Path) -> Result<Vec<Figures>, Failure> {
    let mail = options.authenticated.then(|| Authenticated::start(options, folder)).transpose()?;
    let mut lanes = Vec::new();
    for name in options.chosen(NAMES)? {
        lanes.push(Lane::start(name, way, folder, options, mail.as_ref())?);
    }
    println!("{}; medians of {} rounds", options.load(), options.rounds);
    for lane in &mut lanes {
        println!("{:<8} {}", lane.contender.name, lane.contender.version);
        lane.round(options, WARM_UP.min(options.messages))?;
        lane.rounds.clear();
    }
    println!("\n{:<16} {HEADINGS}", "");
    for number in 1..=options.rounds {
        for lane in &mut lanes {
            lane.round(options, options.messages)?;
            println!("{:<16} {}", format!("{} {number}", lane.contender.name), lane.figures(1));
        }
    }
    let counts = counts::available();
    for lane in &mut lanes {
        lane.watch(options, folder, counts)?;
    }
    for lane in &lanes {
        lane.examine(options, folder)?;
    }
    let figures: Vec<Figures> = lanes.iter().map(|lane| lane.figures(options.rounds)).collect();
    table(&figures);
    Ok(figures)
}

/// A contender with a sink of its own and what its rounds came to.
struct Lane<'a> {
    // Dropped in this order: the server first, so that it does not complain of its sink.
    contender: Contender,
    sink: Option<Sink>,
    /// Mail that is verified and signed, and who takes samples of it.
    examined: Option<(&'a Authenticated, speak::Sink)>,
    rounds: Vec<Round>,
    watched: Watched,
}

/// What one round came to.
#[derive(Debug, Clone, Copy)]
struct Round {
    accepted_per_second: f64,
    relayed_per_second: f64,
    cpu_micros: f64,
}

/// What was watched in the last round; calls and syncs are a message's, and not known where the machine does not let us count.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Watched {
    pub(super) calls: Option<f64>,
    pub(super) syncs: Option<f64>,
    /// The most memory that the server's processes had together.
    pub(super) memory_bytes: u64,
}

impl<'a> Lane<'a> {
    fn start(
        name: &'static str,
        way: Way,
        folder: &Path,
        options: &Options,
        mail: Option<&'a Authenticated>,
    ) -> Result<Self, Failure> {
        let sink = if way == Way::Relay || name == "floor" { Some(Sink::start()?) } else { None };
        let port = match &sink {
            Some(sink) => sink.port,
            None => free_port()?,
        };
        let examined = match mail {
            Some(mail) => Some((mail, speak::Sink::keeping()?)),
            None => None,
        };
        let how = How {
            database: options.database,
            examined: examined.as_ref().map(|(mail, sink)| Examined { mail, samples: sink.port }),
        };
        let contender = Contender::start_as(name, folder, port, how)?;
        Ok(Self { contender, sink, examined, rounds: Vec::new(), watched: Watched::default() })
    }

    fn round(&mut self, options: &Options, messages: usize) -> Result<(), Failure> {
        let wanted = self.sink.as_ref().map(|sink| sink.messages() + messages as u64);
        let (begun, cpu) = (Instant::now(), machine_cpu()?);
        let sent = match &self.examined {
            Some((mail, _)) => {
                mail.send(options, messages, self.contender.port, self.contender.is_floor())
            }
            None => send(options, messages, self.contender.port),
        };
        sent.map_err(|error| self.contender.blame(&error))?;
        let accepted = begun.elapsed();
        if let (Some(sink), Some(wanted)) = (self.sink.as_mut(), wanted) {
            sink.wait(wanted).map_err(|error| self.contender.blame(&error))?;
        }
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

    /// One more round, looked at while it runs; its speed does not count.
    fn watch(&mut self, options: &Options, folder: &Path, counts: bool) -> Result<(), Failure> {
        let counter = if counts { Some(Counter::start(folder.join("counts"))?) } else { None };
        let memory = Watch::start(self.contender.pids());
        let stored = self.contender.database().map(|database| Stored::begin(database, folder));
        let stored = stored.transpose()?;
        self.round(options, options.messages)?;
        self.rounds.pop();
        if let (Some(stored), Some(database)) = (stored, self.contender.database()) {
            stored.end(database, options.messages as f64)?;
        }
        if let Some(counter) = counter {
            let counts = counter.stop()?;
            let messages = options.messages as f64;
            self.watched.calls = Some(counts.calls / messages);
            self.watched.syncs = Some(counts.syncs / messages);
        }
        self.watched.memory_bytes = memory.stop();
        Ok(())
    }

    /// Sends one more round, beside which samples are taken and looked at.
    fn examine(&self, options: &Options, folder: &Path) -> Result<(), Failure> {
        let (Some((mail, sink)), false) = (&self.examined, self.contender.is_floor()) else {
            return Ok(());
        };
        let port = self.contender.port;
        let load = || mail.send(options, options.messages, port, false);
        samples::examine(mail, &self.contender, sink, folder, load)
            .map_err(|error| self.contender.blame(&error))
    }

    /// The medians of the last rounds.
    fn figures(&self, last: usize) -> Figures {
        let rounds = self.rounds.iter().rev().take(last);
        let over = |field: fn(&Round) -> f64| median(rounds.clone().map(field).collect());
        Figures {
            name: self.contender.name,
            accepted_per_second: over(|round| round.accepted_per_second),
            relayed_per_second: over(|round| round.relayed_per_second),
            cpu_micros: over(|round| round.cpu_micros),
            watched: self.watched,
        }
    }
}

/// What a database is watched for.
struct Stored {
    before: Counted,
    trips: Option<RoundTrips>,
}

impl Stored {
    fn begin(database: &Database, folder: &Path) -> Result<Self, Failure> {
        let trips = counts::available()
            .then(|| RoundTrips::start(database, folder.join("round-trips")))
            .transpose()?;
        Ok(Self { before: database.counted()?, trips })
    }

    /// Prints what it cost the database, a message.
    fn end(self, database: &Database, messages: f64) -> Result<(), Failure> {
        // The last of what is stored goes, and the server adds up, a moment after the last message has arrived.
        std::thread::sleep(DATABASE_SETTLES);
        let trips = self.trips.map(RoundTrips::stop).transpose()?;
        let after = database.counted()?;
        let trips = trips.map_or("-".into(), |trips| format!("{:.2}", trips / messages));
        println!(
            "database, a message: {:.2} rows written, {:.3} transactions, {trips} round trips, {:.0} bytes of WAL, {:.0} µs of CPU",
            (after.rows - self.before.rows) / messages,
            (after.transactions - self.before.transactions) / messages,
            (after.wal_bytes - self.before.wal_bytes) / messages,
            after.cpu.saturating_sub(self.before.cpu).as_secs_f64() * 1e6 / messages,
        );
        Ok(())
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { accepted_per_second, relayed_per_second, cpu_micros, watched, .. } = self;
        let Watched { calls, syncs, memory_bytes } = watched;
        let known = |value: &Option<f64>| value.map_or("-".into(), |value| format!("{value:.2}"));
        write!(
            formatter,
            "{accepted_per_second:>12.0} {relayed_per_second:>10.0} {cpu_micros:>17.0} {:>15} {:>16} {:>11.1}",
            known(calls),
            known(syncs),
            *memory_bytes as f64 / MEBIBYTE,
        )
    }
}

fn table(figures: &[Figures]) {
    println!("\n{:<16} {HEADINGS}", "median");
    for one in figures {
        println!("{:<16} {one}", one.name);
    }
    if let (Some(grange), Some(postfix)) = (of(figures, "grange"), of(figures, "postfix")) {
        println!(
            "{:<16} {:>11.1}× {:>9.1}× {:>16.2}×\n",
            "grange/postfix",
            grange.accepted_per_second / postfix.accepted_per_second,
            grange.relayed_per_second / postfix.relayed_per_second,
            grange.cpu_micros / postfix.cpu_micros,
        );
    }
}

/// The table as bars.
pub(super) fn groups(figures: &[Figures]) -> Vec<Group> {
    let group = |title: &str, field: fn(&Figures) -> f64| Group {
        title: title.to_owned(),
        bars: figures.iter().map(|one| (one.name.to_owned(), field(one))).collect(),
    };
    vec![
        group("accepted a second", |one| one.accepted_per_second),
        group("relayed a second", |one| one.relayed_per_second),
        group("machine CPU a message, µs", |one| one.cpu_micros),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_contender_is_refused() {
        let refused = run(&["--only", "typo"]).expect_err("nobody by that name").to_string();
        assert!(refused.contains("no contender typo"), "{refused}");
    }

    #[test]
    fn mail_is_authenticated_by_relay_alone() {
        let refused = run(&["--authenticated", "--only", "typo"]).expect_err("nobody by that name");
        assert!(refused.to_string().contains("no contender typo"), "{refused}");
        let refused = run_accept(&["--authenticated"]).expect_err("not known");
        assert!(refused.to_string().contains("does not know --authenticated"), "{refused}");
    }
}
