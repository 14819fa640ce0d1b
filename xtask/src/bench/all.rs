//! `bench all`: every measure that has a goal, in one run, beside its goal.

use std::path::Path;

use super::options::Options;
use super::relay::{self, Figures, Way};
use super::{Scratch, beside, latency, plot, sessions, start};
use crate::{Failure, packages};

/// CPU milliseconds of the tools themselves on the machine that the goals were set on.
const FLOOR_MS: f64 = 0.32;
/// Bytes of a large message.
const LARGE: usize = 100 * 1024;

/// Measures all and prints the table.
pub(super) fn run(words: &[&str]) -> Result<bool, Failure> {
    let options = Options { rounds: 5, ..Options::default() }.parse(words)?;
    packages::provide()?;
    // The first needs root: without it nothing is left behind.
    let journaled = Scratch::new("journaled", true)?;
    let scratch = Scratch::new("all", false)?;
    let result = measure(&options, &scratch.folder, &journaled.folder);
    let journal = if result.is_ok() { Ok(()) } else { Err("see the other's".into()) };
    let ended = journaled.end(journal);
    scratch.end(result.and_then(|()| ended.map(drop)))
}

fn measure(options: &Options, folder: &Path, journaled: &Path) -> Result<(), Failure> {
    let mut table = Table::default();
    let floor = relays(options, folder, &mut table)?;
    println!("the tools themselves: {floor:.0} µs a message");
    relay_elsewhere(options, folder, journaled, &mut table)?;
    accepting(options, folder, &mut table)?;
    resting(options, folder, &mut table)?;
    burdened(options, folder, &mut table)?;
    let mut starts = Vec::new();
    for number in 0..options.rounds {
        starts.push(start::empty(&folder.join(format!("start-{number}")))?);
    }
    table.at_most("start to first 250, empty queue, s", super::measure::median(starts), 0.5, 0.2);
    table.print();
    match options.plot.as_deref() {
        Some(file) => plot::write(file, "Grange and Postfix", &table.groups),
        None => Ok(()),
    }
}

/// Relaying 4 KiB; says what the tools themselves cost a message: a client that connects for each, and a server that need not.
fn relays(options: &Options, folder: &Path, table: &mut Table) -> Result<f64, Failure> {
    let mut floor = 0.0;
    for sessions in [20, 50] {
        let single = Options { sessions, ..options.clone() };
        let once = relay::measure(&single, Way::Relay, &folder.join(format!("once-{sessions}")))?;
        let reusing = Options { reuse: true, ..single };
        let reused =
            relay::measure(&reusing, Way::Relay, &folder.join(format!("reused-{sessions}")))?;
        floor = of(&once, "floor")?.cpu_micros + of(&reused, "floor")?.cpu_micros;
        let name = format!("relay 4 KiB, {sessions} sessions");
        table.ratio(&name, &once, 7.0, 10.0)?;
        let cpu = of(&once, "grange")?.cpu_micros / floor;
        table.at_most(&format!("{name}: CPU / floor's"), cpu, 1.9, 1.4);
        let (cpu, scale) = (of(&reused, "grange")?.cpu_micros / 1000.0, floor / 1000.0 / FLOOR_MS);
        let name = format!("{name} reused: CPU ms a message");
        table.at_most(&name, cpu, 0.45 * scale, 0.25 * scale);
        if let Some(syncs) = of(&once, "grange")?.watched.syncs.filter(|_| sessions == 50) {
            // The ledger's are counted too.
            table.at_most("syncs a message, 50 sessions", syncs, 0.25, 0.15);
        }
        table.groups.extend(relay::groups(&once));
    }
    Ok(floor)
}

fn relay_elsewhere(
    options: &Options,
    folder: &Path,
    journaled: &Path,
    table: &mut Table,
) -> Result<(), Failure> {
    for sessions in [20, 50] {
        let options = Options { sessions, ..options.clone() };
        let figures = relay::measure(&options, Way::Relay, &journaled.join(format!("{sessions}")))?;
        table.ratio(
            &format!("relay 4 KiB, {sessions} sessions, journaled ext4"),
            &figures,
            6.0,
            9.0,
        )?;
    }
    let large =
        Options { length: LARGE, messages: (options.messages / 5).max(1), ..options.clone() };
    let figures = relay::measure(&large, Way::Relay, &folder.join("large"))?;
    table.ratio("relay 100 KiB, 20 sessions", &figures, 3.0, 5.0)
}

fn accepting(options: &Options, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    let figures = relay::measure(options, Way::Accept, &folder.join("accept"))?;
    let part =
        of(&figures, "grange")?.accepted_per_second / of(&figures, "floor")?.accepted_per_second;
    table.at_least("accept only / floor", part, 0.6, 0.8);
    let options = Options { sessions: 50, ..options.clone() };
    let figures = latency::measure(&options, &folder.join("latency"))?;
    let p99 = |name: &str| {
        let one = figures.iter().find(|one| one.name == name).ok_or("a contender is missing");
        one.map(|one| one.accepted_ms[1])
    };
    table.at_most(
        "end of data to 250, p99 / Postfix's",
        p99("grange")? / p99("postfix")?,
        0.25,
        0.1,
    );
    Ok(())
}

fn resting(options: &Options, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    let options = Options { sessions: 10_000, ..options.clone() };
    let figures = sessions::measure(&options, &folder.join("sessions"))?;
    table.at_most("memory of all farms idle, MiB", figures.idle_mebibytes, 50.0, 25.0);
    table.at_most("memory of an idle session, KiB", figures.session_kibibytes, 24.0, 8.0);
    table.at_least("connections beside 5,000 slow clients", figures.beside_slow, 0.95, 0.99);
    Ok(())
}

fn burdened(options: &Options, folder: &Path, table: &mut Table) -> Result<(), Failure> {
    let part = beside::measure(options, &folder.join("backlog"), beside::backlog)?;
    table.at_least("relay beside 1,000,000 deferred", part, 0.9, 0.98);
    let part = beside::measure(options, &folder.join("isolation"), beside::isolation)?;
    table.at_least("relay beside a dead and a silent destination", part, 0.9, 0.98);
    Ok(())
}

fn of<'a>(figures: &'a [Figures], name: &str) -> Result<&'a Figures, Failure> {
    relay::of(figures, name).ok_or_else(|| format!("{name} is missing").into())
}

/// Lines of measures, and what is drawn.
#[derive(Default)]
struct Table {
    lines: Vec<Line>,
    groups: Vec<plot::Group>,
}

struct Line {
    measure: String,
    value: f64,
    must: f64,
    aim: f64,
    at_most: bool,
}

impl Table {
    fn ratio(
        &mut self,
        measure: &str,
        figures: &[Figures],
        must: f64,
        aim: f64,
    ) -> Result<(), Failure> {
        let rate = |name| of(figures, name).map(|one| one.relayed_per_second);
        self.at_least(
            &format!("{measure}, × Postfix"),
            rate("grange")? / rate("postfix")?,
            must,
            aim,
        );
        Ok(())
    }

    fn at_least(&mut self, measure: &str, value: f64, must: f64, aim: f64) {
        self.lines.push(Line { measure: measure.to_owned(), value, must, aim, at_most: false });
    }

    fn at_most(&mut self, measure: &str, value: f64, must: f64, aim: f64) {
        self.lines.push(Line { measure: measure.to_owned(), value, must, aim, at_most: true });
    }

    fn print(&self) {
        println!("\n{:<52} {:>9} {:>9} {:>9}", "measure", "measured", "must", "aim");
        for line in &self.lines {
            println!("{line}");
        }
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { measure, value, must, aim, at_most } = self;
        let holds = |goal: f64| if *at_most { *value <= goal } else { *value >= goal };
        let word = match (holds(*aim), holds(*must)) {
            (true, _) => "aim",
            (false, true) => "must",
            _ => "MISSED",
        };
        let sign = if *at_most { '≤' } else { '≥' };
        write!(formatter, "{measure:<52} {value:>9.3} {sign}{must:>8.3} {sign}{aim:>8.3}  {word}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_which_goal_was_reached() {
        let mut table = Table::default();
        table.at_least("speed", 8.0, 7.0, 10.0);
        table.at_most("cost", 0.1, 0.5, 0.2);
        table.at_most("memory", 60.0, 50.0, 25.0);
        let ends: Vec<String> = table.lines.iter().map(ToString::to_string).collect();
        for (line, end) in ends.iter().zip(["must", "aim", "MISSED"]) {
            assert!(line.ends_with(end), "{line}");
        }
    }
}
