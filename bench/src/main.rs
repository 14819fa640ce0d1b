//! What farms do in user space for one message, in one thread of one process, so many times over: for counting instructions.
//!
//! ```text
//!  receive ─ the server's session ─┐
//!  store ─── the spool's writer ───┤                          ┌─ send ─ the client's session
//!  jobs ──── verify, route, enqueue, deliver over sockets ────┤
//!  schedule ─ the scheduler's turns, and its ledger ──────────┘
//! ```
//!
//! The message has 4 KiB and one recipient. What is taken together under load is taken together here: [`TOGETHER`] messages.
//! `cargo xtask bench instructions` runs each part twice, with fewer and with more messages: the difference is theirs alone.
//!
//! Touches: a temporary folder, for the spool and for sockets. Never: the network, chance that is not the same each time.

#![forbid(unsafe_code)]

mod disk;
mod example;
mod jobs;
mod receive;
mod schedule;
mod send;
mod store;

use std::ops::Range;
use std::process::ExitCode;

/// How many messages come at once.
pub(crate) const TOGETHER: u32 = 8;

/// A part of the path, which handles so many messages.
type Part = fn(u32);

/// The parts, by name.
const PARTS: [(&str, Part); 5] = [
    ("receive", receive::run),
    ("jobs", jobs::run),
    ("store", store::run),
    ("schedule", schedule::run),
    ("send", send::run),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let asked = match arguments.as_slice() {
        [part, count] => PARTS.iter().find(|(name, _)| name == part).zip(count.parse().ok()),
        _ => None,
    };
    let Some(((_, run), count)) = asked else {
        let names = PARTS.map(|(name, _)| name).join("|");
        eprintln!("usage: hot_path {names} COUNT");
        return ExitCode::from(64);
    };
    run(count);
    ExitCode::SUCCESS
}

/// A runtime as a worker has it.
pub(crate) fn on_a_runtime(work: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default());
    runtime.expect("a runtime starts").block_on(work);
}

/// The numbers of so many messages, [`TOGETHER`] at a time.
pub(crate) fn rounds(count: u32) -> impl Iterator<Item = Range<u32>> {
    let firsts = (0..count).step_by(TOGETHER as usize);
    firsts.map(move |first| first..count.min(first + TOGETHER))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each part looks itself whether its messages came through.
    #[test]
    fn every_part_handles_its_messages() {
        for (name, run) in PARTS {
            eprintln!("{name}");
            run(2 * TOGETHER + 1);
        }
    }
}
