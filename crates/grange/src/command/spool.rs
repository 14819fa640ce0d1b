//! `grange spool …`: looks at the files of the embedded queue.

use std::process::ExitCode;

use queue_spool::Report;

use super::{Failure, stored_somewhere, table};
use crate::cli;
use crate::configuration::Configuration;
use crate::stores;

/// Runs a command on the spool.
pub(super) fn run(configuration: &Configuration, command: cli::Spool) -> Result<ExitCode, Failure> {
    match command {
        cli::Spool::Check(output) => {
            stored_somewhere(configuration)?;
            stores::check_version(configuration)?;
            let report =
                queue_spool::check(&configuration.top.data_dir).map_err(anyhow::Error::from)?;
            if output.json {
                table::json(&report)?;
            } else {
                print(&report);
            }
            Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(65) })
        }
    }
}

fn print(report: &Report) {
    for segment in &report.segments {
        let state = if segment.sealed { "sealed" } else { "open" };
        println!(
            "{}  {state}, {} records, {} messages, {}",
            segment.segment,
            segment.records,
            segment.messages,
            table::size(segment.bytes)
        );
        for damage in &segment.damage {
            let id = damage.id.as_deref().unwrap_or("no message is known to be concerned");
            let kind = if damage.torn_end { "torn end" } else { "DAMAGE" };
            println!(
                "  {kind} at {}, {} bytes: {} ({id})",
                damage.offset, damage.bytes, damage.what
            );
        }
    }
    for moved in &report.moved {
        let id = moved.id.as_deref().unwrap_or("no message is known to be concerned");
        println!("{}  moved, {} ({id})", moved.moved, table::size(moved.bytes));
        if let Some(damage) = &moved.damage {
            println!("  DAMAGE: {damage}");
        }
    }
    for log in &report.logs {
        let replayed = if log.replayed { "replayed" } else { "behind the checkpoint" };
        println!("ledger {}  {} valid, {replayed}", log.log, table::size(log.valid_bytes));
    }
    if let Some(damage) = &report.ledger_damage {
        println!("ledger  DAMAGE: {damage}");
    }
    for body in &report.unnamed_bodies {
        println!("{body}  named by no accept record; a writer may be at work on it");
    }
    let verdict = if report.is_sound() { "sound" } else { "DAMAGED" };
    println!("{} messages in {}: {verdict}", report.messages, table::size(report.bytes));
}
