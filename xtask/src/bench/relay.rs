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
use std::process::Command;
use std::time::Instant;

use super::Options;
use super::grange::Grange;
use super::load::{Sink, send};
use super::measure::{machine_cpu, median};
use super::postfix::Postfix;
use crate::process::{output, target_dir};
use crate::{Failure, packages, usage};

/// The contenders, in the order of every round.
const NAMES: &[&str] = &["floor", "grange", "postfix"];

/// What stands above the numbers of a round.
const HEADINGS: &str = "  accepted/s    relayed/s   CPU µs a message";

/// Messages sent to each contender before the first round, so that its processes run and its caches are warm.
const WARM_UP: usize = 500;

/// Measures and prints the table.
pub(super) fn run(options: &Options) -> Result<bool, Failure> {
    if let Some(only) = options.only.as_deref().filter(|only| !NAMES.contains(only)) {
        return Err(usage(format!("no contender {only}; there are {}", NAMES.join(", "))));
    }
    packages::provide()?;
    let mut scratch = target_dir()?.join("bench");
    if !is_passable(&scratch)? {
        println!("{} is closed to the contenders' users: using {ELSEWHERE}", scratch.display());
        scratch = ELSEWHERE.into();
    }
    let folder = scratch.join(format!("relay-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    open_to_all(&folder)?;
    let result = measure(options, &folder);
    if result.is_ok() {
        std::fs::remove_dir_all(&folder)?;
    } else {
        eprintln!("xtask: configurations and logs are kept in {}", folder.display());
    }
    result.map(|()| true)
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

/// Where a round's files are when the target directory is closed to other users: on disk, unlike what /tmp may be.
const ELSEWHERE: &str = "/var/tmp/grange-bench";

/// Whether every folder above lets any user through.
fn is_passable(folder: &Path) -> Result<bool, Failure> {
    use std::os::unix::fs::PermissionsExt;
    for above in folder.ancestors().skip(1).filter(|above| above.is_absolute()) {
        if above.try_exists()? && above.metadata()?.permissions().mode() & 0o001 == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Makes a folder passable for the users that the contenders run as.
fn open_to_all(folder: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755))?;
    Ok(())
}

fn file_system(folder: &Path) -> Result<String, Failure> {
    let table = output(Command::new("df").arg("--output=fstype").arg(folder))?;
    Ok(table.lines().nth(1).unwrap_or("unknown").trim().to_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_folder_below_a_closed_one_is_not_passable() {
        let closed = std::env::temp_dir().join(format!("xtask-closed-{}", std::process::id()));
        let below = closed.join("a/b");
        std::fs::create_dir_all(&below).expect("a folder");
        for (mode, passable) in [(0o755, true), (0o700, false)] {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(&closed, mode).expect("our own");
            assert_eq!(is_passable(&below).expect("it is there"), passable);
        }
        std::fs::remove_dir_all(&closed).expect("our own");
    }

    #[test]
    fn an_unknown_contender_is_refused() {
        let options = Options::parse(&["--only", "typo"]).expect("good options");
        let refused = run(&options).expect_err("nobody by that name").to_string();
        assert!(refused.contains("no contender typo"), "{refused}");
    }
}
