//! `grange spool …`: looks at the files of the embedded queue.

use std::process::ExitCode;

use queue_spool::{Finding, RepairError, RepairMode, Repaired, Report};

use super::{Failure, may_write, stored_somewhere, table};
use crate::cli;
use crate::configuration::Configuration;

/// Runs a command on the spool.
pub(super) fn run(configuration: &Configuration, command: cli::Spool) -> Result<ExitCode, Failure> {
    if configuration.queue.is_database() {
        let text = "the queue is in a database, not in a spool: see grange store check";
        return Err(Failure::Usage(text.to_owned()));
    }
    match command {
        cli::Spool::Repair { dry_run, output } => repair(configuration, dry_run, output.json),
        cli::Spool::Check(output) => {
            stored_somewhere(configuration)?;
            configuration.stores().check_version()?;
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

fn repair(configuration: &Configuration, dry_run: bool, json: bool) -> Result<ExitCode, Failure> {
    stored_somewhere(configuration)?;
    may_write(configuration)?;
    let data_dir = &configuration.top.data_dir;
    let mode = if dry_run { RepairMode::Say } else { RepairMode::Do };
    let repaired = queue_spool::repair(data_dir, mode).map_err(|error| match error {
        RepairError::Busy(_) => Failure::Refused(error.to_string()),
        RepairError::Open(error) => Failure::System(error.into()),
    })?;
    if json {
        table::json(&repaired)?;
    } else {
        print_steps(&repaired, dry_run);
    }
    let is_sound = repaired.left.iter().all(|finding| !finding.damage);
    Ok(if is_sound { ExitCode::SUCCESS } else { ExitCode::from(65) })
}

fn print_steps(repaired: &Repaired, dry_run: bool) {
    for step in &repaired.steps {
        let id = step.id.as_deref().map(|id| format!(", message {id}")).unwrap_or_default();
        println!("{}", table::plain(&format!("{}{id}: {}", step.file, step.what)));
    }
    let verb = if dry_run { "would be done; nothing was changed" } else { "done" };
    println!("{} steps {verb}; what a check finds now:", repaired.steps.len());
    repaired.left.iter().for_each(print_finding);
    if repaired.left.is_empty() {
        println!("nothing");
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
    }
    for moved in &report.moved {
        let id = moved.id.as_deref().unwrap_or("no message is known to be concerned");
        println!("{}  moved, {} ({id})", moved.moved, table::size(moved.bytes));
    }
    for log in &report.logs {
        let replayed = if log.replayed { "replayed" } else { "behind the checkpoint" };
        println!("ledger {}  {} valid, {replayed}", log.log, table::size(log.valid_bytes));
    }
    report.findings.iter().for_each(print_finding);
    let verdict = if report.is_sound() { "sound" } else { "DAMAGED" };
    println!("{} messages in {}: {verdict}", report.messages, table::size(report.bytes));
}

/// One finding on one line.
fn print_finding(finding: &Finding) {
    let kind = if finding.damage { "DAMAGE" } else { "note" };
    let at = finding.offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
    let id = finding.id.as_deref().map(|id| format!(", message {id}")).unwrap_or_default();
    let Finding { file, what, means, .. } = finding;
    println!("{}", table::plain(&format!("{kind}  {file}{at}{id}: {what}: {means}")));
}
