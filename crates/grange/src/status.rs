//! How the farms of this host stand, by their scoreboards: for `grange status`, and, as the farm `status`, for other hosts.

use std::path::PathBuf;
use std::rc::Rc;

use farm::scoreboard::{self, View, WorkerState};
use job::farms::{FarmStatus, Farms, FarmsAnswer, FarmsRequest, WorkerStatus};
use serde::{Deserialize, Serialize};
use socket::{ErrorObject, Responder, Service, codes};

/// The socket that other hosts ask.
pub const SOCKET: &str = "status.farms";

/// What the worker of the farm `status` is handed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Assignment {
    /// This host's name in the cluster.
    pub host: String,
    /// Where the scoreboards are.
    pub run_dir: PathBuf,
    /// The farms that this host runs.
    pub farms: Vec<String>,
}

/// The worker of the farm `status`: it holds nothing, and reads the scoreboards anew for each question.
pub async fn run(worker: farm::Worker, assignment: Assignment) -> Result<(), farm::WorkerError> {
    worker.serve::<Farms>(SOCKET, Rc::new(assignment))?;
    worker.ready();
    worker.drained().await;
    Ok(())
}

impl Service<Farms> for Assignment {
    fn call(&self, _request: FarmsRequest, responder: Responder<Farms>) {
        match scoreboard::read_all(&self.run_dir) {
            Ok(views) => responder.answer(&FarmsAnswer {
                host: self.host.clone(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                farms: of(&self.farms, &views),
            }),
            Err(error) => {
                let text = format!("no scoreboards in {}: {error}", self.run_dir.display());
                responder.refuse(ErrorObject::new(codes::INTERNAL, text));
            }
        }
    }
}

/// What there is to say of these farms, also of those that do not run, and of any other that does.
pub fn of(names: &[String], views: &[View]) -> Vec<FarmStatus> {
    let others = views.iter().map(|view| &view.farm).filter(|farm| !names.contains(farm));
    let all = names.iter().chain(others);
    all.map(|name| match views.iter().find(|view| view.farm == *name) {
        Some(view) => farm(view),
        None => FarmStatus {
            farm: name.clone(),
            manager: None,
            alive: false,
            on_demand: false,
            crashes: 0,
            counters: Default::default(),
            workers: Vec::new(),
        },
    })
    .collect()
}

fn farm(view: &View) -> FarmStatus {
    let counters = view.counters.iter().enumerate();
    FarmStatus {
        farm: view.farm.clone(),
        manager: Some(view.manager),
        // A dead manager's scoreboard is not read at all.
        alive: true,
        on_demand: view.on_demand,
        crashes: view.crashes,
        counters: counters
            .map(|(index, name)| (name.clone(), crate::metrics::total(view, index)))
            .collect(),
        workers: view
            .workers
            .iter()
            .map(|line| WorkerStatus {
                worker: line.worker.clone(),
                pid: line.pid,
                generation: line.generation,
                state: state(line.state).to_owned(),
                jobs: line.jobs,
                connections: line.connections,
                capacity: line.capacity,
                jobs_done: line.jobs_done,
                load: line.load,
                notice: line.notice.clone(),
            })
            .collect(),
    }
}

fn state(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Starting => "starting",
        WorkerState::Ready => "ready",
        WorkerState::Draining => "draining",
        WorkerState::Standby => "standby",
    }
}
