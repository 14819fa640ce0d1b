//! `grange status`: farms and workers from the scoreboards, the queue from the scheduler.

use std::process::ExitCode;
use std::time::Duration;

use farm::scoreboard::{self, View, WorkerState};
use job::admin::{Admin, AdminAnswer, AdminRequest, Nothing, Status};
use serde::Serialize;

use super::{Failure, ask_within, block_on, table};
use crate::configuration::Configuration;
use crate::{cli, farms};

/// A scheduler that does not answer so soon keeps nobody from seeing how the farms stand.
const SOON: Duration = Duration::from_secs(3);

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    farms: Vec<FarmReport>,
    queue: Option<Status>,
}

#[derive(Serialize)]
struct FarmReport {
    farm: String,
    /// Its manager's process id; none while it has no manager.
    manager: Option<u32>,
    alive: bool,
    /// Its workers are started for one pass each, when somebody asks or it is time.
    on_demand: bool,
    crashes: u64,
    counters: serde_json::Map<String, serde_json::Value>,
    workers: Vec<WorkerReport>,
}

#[derive(Serialize)]
struct WorkerReport {
    worker: String,
    pid: u32,
    generation: u32,
    state: &'static str,
    jobs: u32,
    connections: u32,
    capacity: u32,
    jobs_done: u64,
    load: u32,
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
    let farms = reports(&names, &views);
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

/// What there is to say of every farm that the configuration names, also of those that do not run, and of any other that does.
fn reports(names: &[String], views: &[View]) -> Vec<FarmReport> {
    let others = views.iter().map(|view| &view.farm).filter(|farm| !names.contains(farm));
    let all = names.iter().chain(others);
    all.map(|name| match views.iter().find(|view| view.farm == *name) {
        Some(view) => report(view),
        None => FarmReport {
            farm: name.clone(),
            manager: None,
            alive: false,
            on_demand: false,
            crashes: 0,
            counters: serde_json::Map::new(),
            workers: Vec::new(),
        },
    })
    .collect()
}

fn report(view: &View) -> FarmReport {
    let counters = view.counters.iter().enumerate().map(|(index, name)| {
        (name.clone(), serde_json::Value::from(crate::metrics::total(view, index)))
    });
    FarmReport {
        farm: view.farm.clone(),
        manager: Some(view.manager),
        // A dead manager's scoreboard is not read at all.
        alive: true,
        on_demand: view.on_demand,
        crashes: view.crashes,
        counters: counters.collect(),
        workers: view
            .workers
            .iter()
            .map(|line| WorkerReport {
                worker: line.worker.clone(),
                pid: line.pid,
                generation: line.generation,
                state: match line.state {
                    WorkerState::Starting => "starting",
                    WorkerState::Ready => "ready",
                    WorkerState::Draining => "draining",
                    WorkerState::Standby => "standby",
                },
                jobs: line.jobs,
                connections: line.connections,
                capacity: line.capacity,
                jobs_done: line.jobs_done,
                load: line.load,
            })
            .collect(),
    }
}

fn print_farms(farms: &[FarmReport]) -> std::io::Result<()> {
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
                worker.state.to_owned(),
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
