//! The executable: the table of farms, settings composed, the command line.
//!
//! One program plays every role. A manager executes it as `grange worker NAME`; everything else is the command line of
//! `cli`. This crate alone names every stage, agent and store.

#![allow(unreachable_pub, reason = "nothing outside a program reaches into it")]

#[macro_use]
mod print;

mod cli;
mod cluster;
mod command;
mod configuration;
mod farms;
mod logging;
mod metrics;
mod privilege;
mod status;
mod stores;
mod transfer;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "worker") {
        return worker::main();
    }
    command::main(cli::parse())
}
