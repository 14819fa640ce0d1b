//! The project's own commands: `cargo xtask test | tidy | plant | bench | torture | document`.
//!
//! Depends on the standard library alone, so that it is built in seconds and before anything else.

mod bench;
mod document;
mod fuzz;
mod packages;
mod plant;
mod process;
mod test;
mod tidy;
mod torture;

use std::path::PathBuf;
use std::process::ExitCode;

/// Why a command of ours could not do its work; the text is for people.
type Failure = Box<dyn std::error::Error>;

const USAGE: &str = "\
The project's own commands.

usage: cargo xtask test [--filter TEXT] [--fast]
           everything that a change must pass; ends with a line `N passed, N failed`
             --filter TEXT   only the step of that name (fmt, clippy, tidy, unit, simulation, system, fuzz, instructions), or the tests whose name holds TEXT
             --fast          without fmt, clippy and instructions, and with shorter fuzzing
       cargo xtask tidy
           the rules of the tree that can be checked: arrows between crates, words, golden frames, links
       cargo xtask document
           writes docs/configuration.md from the settings' doc comments
       cargo xtask plant
           plants bugs, one at a time, in a copy of the tree, and shows which invariant of the simulation catches each
       cargo xtask torture [--minutes 10] [--seed NUMBER]
           load and faults together: kills, stops, full and failing disks, reloads, upgrades; ends with what was accepted, is
           missing, and came twice
       cargo xtask bench relay|accept|latency|sessions|backlog|isolation|all
             [--rounds 3] [--messages 10000] [--sessions 20] [--length 4096] [--recipients 1] [--reuse] [--journal]
             [--only floor|grange|postfix] [--plot FILE.svg]
           relay      smtp-source through Grange, and through Postfix, to smtp-sink; with --store postgres Grange's queue is in a
                      database; with --authenticated half of the mail is verified and half is signed, for Postfix by OpenDKIM
           accept     the same without a next hop
           latency    from the last byte to 250, and from there to the next hop
           sessions   memory of idle farms and sessions; new connections beside slow clients
           backlog    relaying beside a million deferred recipients
           isolation  relaying beside a dead and a silent destination
           all        every measure that has a goal, five rounds, beside its goal
       cargo xtask bench start [--messages N] [--recipients 1000000] [--lanes 10000] [--passed N] [--wait 14400]
           how long a start takes with a large queue, and what that takes of the scheduler's memory; by default with a recipient a
           message, with a hundred, and after ten times as many messages have passed
       cargo xtask bench instructions
           how many instructions each part of a message's path takes, as valgrind counts them; fails when one is over its limit
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["test", options @ ..] => {
            test::Options::parse(options).and_then(|options| test::run(&options))
        }
        ["tidy"] => tidy::run(),
        ["document"] => document::run(),
        ["bench", name, options @ ..] => bench::run(name, options),
        ["plant"] => plant::run(),
        ["torture", options @ ..] => torture::run(options),
        ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(true)
        }
        _ => Err(usage("no such command")),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::from(if failure.is::<Usage>() { 64 } else { 1 })
        }
    }
}

/// The command line makes no sense; the usage is part of the message.
#[derive(Debug)]
struct Usage(String);

impl std::fmt::Display for Usage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}\n\n{USAGE}", self.0)
    }
}

impl std::error::Error for Usage {}

fn usage(wrong: impl Into<String>) -> Failure {
    Box::new(Usage(wrong.into()))
}

/// The repository's root: the folder above this crate, as the cargo that runs us says; a target directory may be shared.
fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let here = here.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    here.parent().map(PathBuf::from).unwrap_or(here)
}
