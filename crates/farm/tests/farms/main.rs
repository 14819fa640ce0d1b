//! Real farms of real processes: this program is the supervisor, the manager and the worker of its farms, and the tests that
//! drive them.

// This target is its own test harness, so the linter does not know that it is a test.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod echo;
mod hosts;
mod program;
mod support;
mod tests;
mod upgrade;

/// Runs whatever the arguments say this process is.
fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        Some("worker") => program::worker(),
        Some("farm") => program::manager(&arguments),
        Some("connect") => program::connect(&arguments),
        Some("run") => program::supervisor(&arguments),
        _ => support::run_all(&[tests::ALL, upgrade::ALL, hosts::ALL].concat(), &arguments),
    }
}
