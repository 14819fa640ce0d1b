//! `grange status`: farms and workers from the scoreboards, the queue from the scheduler.

use std::process::ExitCode;

use farm::scoreboard::{self, View, WorkerState};
use job::admin::{Admin, AdminAnswer, AdminRequest, Nothing, Status};
use serde::Serialize;

use super::{Failure, ask, block_on, table};
use crate::cli;
use crate::configuration::Configuration;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    farms: Vec<FarmReport>,
    queue: Option<Status>,
}

#[derive(Serialize)]
struct FarmReport {
    farm: String,
    manager: u32,
    alive: bool,
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
    let (queue, silent) = match block_on(ask::<Admin>(run_dir, "scheduler.admin", &request))? {
        Ok(AdminAnswer::Status(status)) => (Some(*status), None),
        Ok(_) => (None, Some("the scheduler gave an answer to another question".to_owned())),
        Err(failure) => (None, Some(failure.to_string())),
    };
    let farms: Vec<FarmReport> = views.iter().map(report).collect();
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

fn report(view: &View) -> FarmReport {
    let counters = view.counters.iter().enumerate().map(|(index, name)| {
        (name.clone(), serde_json::Value::from(crate::metrics::total(view, index)))
    });
    FarmReport {
        farm: view.farm.clone(),
        manager: view.manager,
        alive: is_alive(view.manager),
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

fn is_alive(pid: u32) -> bool {
    std::fs::metadata(format!("/proc/{pid}")).is_ok()
}

fn print_farms(farms: &[FarmReport]) -> std::io::Result<()> {
    let mut rows = Vec::new();
    for farm in farms {
        let state = if farm.alive { "running" } else { "stopped" };
        rows.push(vec![
            farm.farm.clone(),
            state.to_owned(),
            farm.manager.to_string(),
            String::new(),
            String::new(),
            format!("{} crashes", farm.crashes),
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
