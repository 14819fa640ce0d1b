//! `grange status`: farms and workers from the scoreboards, the queue from the scheduler.

use std::process::ExitCode;
use std::time::Duration;

use farm::scoreboard;
use job::admin::{Admin, AdminAnswer, AdminRequest, Nothing, Status};
use job::farms::FarmStanding;
use serde::Serialize;

use super::{Failure, ask_within, block_on, table};
use crate::configuration::Configuration;
use crate::{cli, farms, standing};

/// A scheduler that does not answer so soon keeps nobody from seeing how the farms stand.
const SOON: Duration = Duration::from_secs(3);

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    farms: Vec<FarmStanding>,
    queue: Option<Status>,
}

/// Shows how it stands.
pub(super) fn run(configuration: &Configuration, output: cli::Output) -> Result<ExitCode, Failure> {
    let run_dir = &configuration.top.run_dir;
    let views = scoreboard::read_all(run_dir).map_err(|error| {
        Failure::Unavailable(format!("no scoreboards in {}: {error}", run_dir.display()))
    })?;
    let request = AdminRequest::Status(Nothing {});
    let (queue, silent) =
        match block_on(ask_within::<Admin>(run_dir, "scheduler.admin", &request, SOON))? {
            Ok(AdminAnswer::Status(status)) => (Some(*status), None),
            Ok(_) => (None, Some("the scheduler gave an answer to another question".to_owned())),
            Err(failure) => (None, Some(failure.to_string())),
        };
    // A file that is wrong names no farm: what runs is shown.
    let names = if configuration.is_whole { farms::names(configuration) } else { Vec::new() };
    let farms = standing::of(&names, &views);
    let running = farms.iter().any(|farm| farm.alive);
    if output.json {
        table::json(&Report { farms, queue })?;
    } else {
        print_farms(&farms)?;
        println!();
        match (&queue, silent) {
            (Some(status), _) => print_queue(status),
            (None, why) => println!("queue: unknown, {}", why.unwrap_or_default()),
        }
    }
    Ok(if running { ExitCode::SUCCESS } else { ExitCode::from(69) })
}

fn print_farms(farms: &[FarmStanding]) -> std::io::Result<()> {
    let mut rows = Vec::new();
    for farm in farms {
        let state = if farm.alive { "running" } else { "stopped" };
        rows.push(vec![
            farm.farm.clone(),
            state.to_owned(),
            farm.manager.map_or_else(String::new, |pid| pid.to_string()),
            String::new(),
            String::new(),
            if farm.alive { format!("{} crashes", farm.crashes) } else { String::new() },
            String::new(),
        ]);
        for worker in &farm.workers {
            rows.push(vec![
                format!("  {}", worker.worker),
                worker.state.clone(),
                worker.pid.to_string(),
                format!("{}/{}", worker.jobs, worker.capacity),
                worker.connections.to_string(),
                worker.jobs_done.to_string(),
                format!("{}%", worker.load / 10),
            ]);
        }
    }
    table::print(&["FARM", "STATE", "PID", "JOBS", "CONNECTIONS", "DONE", "LOAD"], &rows)
}

fn print_queue(status: &Status) {
    let oldest = status.oldest.map(|oldest| format!(", oldest {}", table::ago(oldest)));
    println!(
        "queue: {} messages, {} recipients, {} being delivered, {} held{}",
        status.messages,
        status.recipients,
        status.active,
        status.held,
        oldest.unwrap_or_default()
    );
    println!("lanes: {}, {} backing off", status.lanes, status.lanes_backing_off);
    println!(
        "since the scheduler started: {} enqueued, {} delivered, {} deferred, {} failed, {} reports",
        status.enqueued, status.delivered, status.deferred, status.failed, status.reports
    );
}
