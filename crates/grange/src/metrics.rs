//! Metrics in Prometheus' text format: scoreboards and the scheduler's counters, on the command line and over HTTP.
//!
//! The farm `metrics` has one worker, which holds nothing: each scrape reads the scoreboards and asks the scheduler.

mod families;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use config::Problem;
use farm::scoreboard::{self, View};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use job::admin::{Admin, AdminAnswer, AdminRequest, Nothing, Status};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use socket::{Client, ClientSettings};

use crate::command::Failure;
use crate::configuration::Configuration;

/// The `[metrics]` section.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The address that answers `GET /metrics`, as in `127.0.0.1:9925`. Default: none.
    pub listen: Option<SocketAddr>,
}

impl Settings {
    /// Checks for contradictions.
    pub fn check(&self) -> Result<(), Problem> {
        match self.listen {
            Some(address) if address.port() == 0 => {
                let wrong = format!("{address} has no port");
                Err(Problem::new("metrics.listen", wrong, "an address and a port"))
            }
            _ => Ok(()),
        }
    }
}

/// What the metrics worker is handed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Assignment {
    /// Where the scoreboards are.
    pub run_dir: PathBuf,
}

/// The name by which the worker knows its listener.
pub const LISTENER: &str = "metrics";
/// How long a scrape waits for the scheduler.
const SCHEDULER_DEADLINE: Duration = Duration::from_secs(2);
/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// `grange metrics`.
pub fn print(configuration: &Configuration) -> Result<ExitCode, Failure> {
    let run_dir = &configuration.top.run_dir;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    let places = crate::command::places(configuration, "scheduler.admin")?;
    let text =
        runtime.block_on(async { scrape(run_dir, &Client::new(places, client_settings())).await });
    let scraped = text.map_err(|error| {
        Failure::Unavailable(format!("no scoreboards in {}: {error}", run_dir.display()))
    })?;
    if let Some(silence) = scraped.silence {
        eprintln!("grange: the scheduler does not answer: {silence}");
    }
    print!("{}", scraped.text);
    Ok(ExitCode::SUCCESS)
}

fn client_settings() -> ClientSettings {
    ClientSettings { deadline: SCHEDULER_DEADLINE, waiting_max: 64, ..ClientSettings::default() }
}

/// The worker of the farm `metrics`.
pub async fn run(worker: farm::Worker, assignment: Assignment) -> Result<(), farm::WorkerError> {
    let scheduler = worker.client::<Admin>("admin/scheduler.admin", client_settings());
    let assignment = Rc::new(assignment);
    worker.accept(LISTENER, move |stream, _, connection| {
        let scheduler = scheduler.clone();
        let assignment = Rc::clone(&assignment);
        tokio::task::spawn_local(async move {
            let answer = service_fn(move |request| {
                respond(request, Rc::clone(&assignment), scheduler.clone())
            });
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST_TIMEOUT)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            if let Err(error) = served {
                tracing::debug!(%error, "a scrape ended early");
            }
            drop(connection);
        });
    })?;
    worker.ready();
    worker.drained().await;
    Ok(())
}

async fn respond(
    request: Request<Incoming>,
    assignment: Rc<Assignment>,
    scheduler: Client<Admin>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let answer = |status, kind: &'static str, text: String| {
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = status;
        let kind = hyper::header::HeaderValue::from_static(kind);
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, kind);
        Ok(response)
    };
    if request.method() != Method::GET || request.uri().path() != "/metrics" {
        return answer(StatusCode::NOT_FOUND, PLAIN, "there is only GET /metrics\n".to_owned());
    }
    match scrape(&assignment.run_dir, &scheduler).await {
        Ok(scraped) => {
            if let Some(silence) = scraped.silence {
                tracing::warn!(error = silence, "the scheduler does not answer a scrape");
            }
            answer(StatusCode::OK, OPEN_METRICS, scraped.text)
        }
        Err(error) => answer(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{error}\n")),
    }
}

/// What metrics are, by HTTP's name.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What everything else is.
const PLAIN: &str = "text/plain; charset=utf-8";

/// What a scrape found.
struct Scraped {
    text: String,
    /// Why the scheduler said nothing.
    silence: Option<String>,
}

async fn scrape(run_dir: &Path, scheduler: &Client<Admin>) -> std::io::Result<Scraped> {
    let views = scoreboard::read_all(run_dir)?;
    let (status, silence) = match scheduler.call(&AdminRequest::Status(Nothing {})).await {
        Ok(AdminAnswer::Status(status)) => (Some(status), None),
        Ok(_) => (None, Some("it gave an answer to another question".to_owned())),
        Err(error) => (None, Some(error.to_string())),
    };
    Ok(Scraped { text: text_of(&views, status.as_deref())?, silence })
}

fn text_of(views: &[View], status: Option<&Status>) -> std::io::Result<String> {
    let mut registry = Registry::with_prefix("grange");
    register_farms(&mut registry, views);
    register_counters(&mut registry, views);
    let up = Gauge::<i64>::default();
    up.set(status.is_some().into());
    registry.register("scheduler_up", "Whether the scheduler answered this scrape", up);
    if let Some(status) = status {
        register_queue(&mut registry, status);
    }
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)
        .map_err(std::io::Error::other)?;
    Ok(text)
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfFarm {
    farm: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfWorker {
    farm: String,
    worker: String,
}

/// A counter's total over all workers of a farm, those that have ended included.
pub fn total(view: &View, counter: usize) -> u64 {
    let living = view.workers.iter().filter_map(|line| line.counters.get(counter));
    view.ended.get(counter).copied().unwrap_or(0) + living.sum::<u64>()
}

fn register_farms(registry: &mut Registry, views: &[View]) {
    let crashes = Family::<OfFarm, Counter>::default();
    let notices = Family::<OfFarm, Gauge>::default();
    let jobs = Family::<OfWorker, Gauge>::default();
    let connections = Family::<OfWorker, Gauge>::default();
    let capacity = Family::<OfWorker, Gauge>::default();
    let done = Family::<OfWorker, Counter>::default();
    for view in views {
        let of_farm = OfFarm { farm: view.farm.clone() };
        crashes.get_or_create(&of_farm).inc_by(view.crashes);
        let told = view.workers.iter().filter(|line| line.notice.is_some()).count();
        notices.get_or_create(&of_farm).set(i64::try_from(told).unwrap_or(i64::MAX));
        for line in &view.workers {
            let of_worker = OfWorker { farm: view.farm.clone(), worker: line.worker.clone() };
            jobs.get_or_create(&of_worker).set(line.jobs.into());
            connections.get_or_create(&of_worker).set(line.connections.into());
            capacity.get_or_create(&of_worker).set(line.capacity.into());
            done.get_or_create(&of_worker).inc_by(line.jobs_done);
        }
    }
    registry.register("farm_crashes", "Workers that crashed", crashes);
    let help =
        "Workers that have something to tell, as a filter left out; `grange status` says what";
    registry.register("farm_notices", help, notices);
    registry.register("worker_jobs", "Jobs or sessions in hand", jobs);
    registry.register("worker_connections", "Connections in hand", connections);
    registry.register("worker_capacity", "Jobs or sessions a worker may hold", capacity);
    registry.register("worker_jobs_done", "Jobs done since the worker started", done);
}

/// Registers what the farms count, each stage's under its own name: what they count is not the same.
fn register_counters(registry: &mut Registry, views: &[View]) {
    let mut counters: BTreeMap<(&str, &str), Family<OfFarm, Counter>> = BTreeMap::new();
    for view in views {
        for (index, name) in view.counters.iter().enumerate() {
            let name = name.strip_suffix("_total").unwrap_or(name);
            let family = counters.entry((families::stage(&view.farm), name)).or_default();
            let of_farm = OfFarm { farm: view.farm.clone() };
            family.get_or_create(&of_farm).inc_by(total(view, index));
        }
    }
    for ((stage, name), family) in counters {
        registry.register(format!("{stage}_{name}"), families::help(stage, name), family);
    }
}

fn register_queue(registry: &mut Registry, status: &Status) {
    let gauges = [
        ("queue_messages", "Messages in the queue", status.messages),
        ("queue_recipients", "Recipients that are not final", status.recipients),
        ("queue_active", "Recipients being delivered", status.active),
        ("queue_held", "Messages held", status.held),
        ("queue_lanes", "Lanes", status.lanes),
        ("queue_lanes_backing_off", "Lanes backing off", status.lanes_backing_off),
    ];
    // None is not the same as long ago.
    let oldest = status.oldest.map(|oldest| {
        let help = "When the oldest message was accepted, in Unix time";
        ("queue_oldest_accepted_timestamp_seconds", help, oldest.millis() / 1000)
    });
    for (name, help, value) in gauges.into_iter().chain(oldest) {
        let gauge = Gauge::<i64>::default();
        gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        registry.register(name, help, gauge);
    }
}

#[cfg(test)]
mod tests;
