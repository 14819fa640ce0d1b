//! `grange status`: farms and workers from the scoreboards, the queue from the scheduler.

use std::io::ErrorKind;
use std::process::ExitCode;
use std::task::Poll;
use std::time::Duration;

use farm::scoreboard;
use job::admin::{Admin, AdminAnswer, AdminRequest, Nothing, Status};
use job::farms::{FarmStatus, Farms, FarmsAnswer, FarmsRequest};
use serde::Serialize;

use super::{Failure, ask_at, ask_within, block_on, remote_places, table};
use crate::cluster::Host;
use crate::configuration::Configuration;
use crate::{cli, cluster, farms, status};

/// A scheduler that does not answer so soon keeps nobody from seeing how the farms stand.
const SOON: Duration = Duration::from_secs(3);

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    /// This host's.
    farms: Vec<FarmStatus>,
    /// Every host of the cluster; none without one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<HostReport>,
    queue: Option<Status>,
}

/// How a host stands, or why that is not known.
#[derive(Serialize)]
struct HostReport {
    host: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    farms: Vec<FarmStatus>,
}

/// Shows how it stands.
pub(super) fn run(configuration: &Configuration, output: cli::Output) -> Result<ExitCode, Failure> {
    let run_dir = &configuration.top.run_dir;
    let views = scoreboard::read_all(run_dir);
    let views = match views {
        // Other hosts may be looked at from one where nothing runs.
        Err(error) if configuration.cluster.is_on() && error.kind() == ErrorKind::NotFound => {
            Vec::new()
        }
        views => views.map_err(|error| {
            Failure::Unavailable(format!("no scoreboards in {}: {error}", run_dir.display()))
        })?,
    };
    // A file that is wrong names no farm: what runs is shown.
    let names = if configuration.is_whole { farms::names(configuration) } else { Vec::new() };
    let farms = status::of(&names, &views);
    let (queue, silent, hosts) = block_on(async {
        let request = AdminRequest::Status(Nothing {});
        let queue = ask_within::<Admin>(configuration, "scheduler.admin", &request, SOON).await;
        let (queue, silent) = match queue {
            Ok(AdminAnswer::Status(status)) => (Some(*status), None),
            Ok(_) => (None, Some("the scheduler gave an answer to another question".to_owned())),
            Err(failure) => (None, Some(failure.to_string())),
        };
        (queue, silent, hosts(configuration, &farms).await)
    })?;
    let of_others = hosts.iter().flat_map(|host| &host.farms);
    let running = farms.iter().chain(of_others).any(|farm| farm.alive);
    if output.json {
        table::json(&Report { farms, hosts, queue })?;
    } else {
        match hosts.is_empty() {
            true => print_farms(&farms)?,
            false => print_hosts(&hosts)?,
        }
        println!();
        match (&queue, silent) {
            (Some(status), _) => print_queue(status),
            (None, why) => println!("queue: unknown, {}", why.unwrap_or_default()),
        }
    }
    Ok(if running { ExitCode::SUCCESS } else { ExitCode::from(69) })
}

/// Every host of the cluster, in the order of the configuration; this one as it was seen here.
async fn hosts(configuration: &Configuration, here: &[FarmStatus]) -> Vec<HostReport> {
    let (top, cluster) = (&configuration.top, &configuration.cluster);
    let each = cluster.hosts.iter().map(|host| async {
        if host.name == cluster.here(&top.hostname) {
            return HostReport {
                host: host.name.clone(),
                version: Some(env!("CARGO_PKG_VERSION").to_owned()),
                error: None,
                farms: here.to_vec(),
            };
        }
        match ask_host(configuration, host).await {
            Ok(FarmsAnswer { host, version, farms }) => {
                HostReport { host, version: Some(version), error: None, farms }
            }
            Err(failure) => HostReport {
                host: host.name.clone(),
                version: None,
                error: Some(failure.to_string()),
                farms: Vec::new(),
            },
        }
    });
    let mut asked: Vec<_> = each.map(Box::pin).collect();
    let mut reports: Vec<Option<HostReport>> = asked.iter().map(|_| None).collect();
    // All at once: a silent host keeps nobody from seeing the others.
    std::future::poll_fn(|context| {
        for (asked, report) in asked.iter_mut().zip(&mut reports) {
            if report.is_none()
                && let Poll::Ready(answer) = asked.as_mut().poll(context)
            {
                *report = Some(answer);
            }
        }
        if reports.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    reports.into_iter().flatten().collect()
}

async fn ask_host(configuration: &Configuration, host: &Host) -> Result<FarmsAnswer, Failure> {
    let address = configuration.cluster.address(host, cluster::STATUS);
    let places = remote_places(configuration, status::SOCKET, address.into_iter().collect())?;
    let request = FarmsRequest {};
    ask_at::<Farms>(configuration, places, status::SOCKET, &request, SOON).await
}

fn print_hosts(hosts: &[HostReport]) -> std::io::Result<()> {
    for (place, host) in hosts.iter().enumerate() {
        if place > 0 {
            println!();
        }
        let HostReport { host, version, error, farms } = host;
        match (version, error) {
            (_, Some(error)) => println!("{host}: {}", table::plain(error)),
            (version, None) => {
                println!("{host}, grange {}", table::plain(version.as_deref().unwrap_or_default()));
                print_farms(farms)?;
            }
        }
    }
    Ok(())
}

fn print_farms(farms: &[FarmStatus]) -> std::io::Result<()> {
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
    table::print(&["FARM", "STATE", "PID", "JOBS", "CONNECTIONS", "DONE", "LOAD"], &rows)?;
    let workers = farms.iter().flat_map(|farm| &farm.workers);
    let notices: Vec<String> = workers
        .filter_map(|worker| Some(format!("{}: {}", worker.worker, worker.notice.as_ref()?)))
        .collect();
    if !notices.is_empty() {
        println!();
    }
    for notice in notices {
        println!("{}", table::plain(&notice));
    }
    Ok(())
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
