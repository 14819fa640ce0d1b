//! `farms`: how the farms of a host stand, for whoever looks at the whole cluster.
//!
//! ```text
//! command line, on any host ── farms {} ─▶ status
//!                           ◀─ {host, version, farms: [{farm, manager, workers: […] …} …]}
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use socket::{Conversation, single_request};

/// The conversation.
pub enum Farms {}

impl Conversation for Farms {
    const NAME: &'static str = "farms";
    const VERSIONS: &'static [u32] = &[1];
    type Request = FarmsRequest;
    type Answer = FarmsAnswer;
}

/// How do your farms stand?
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarmsRequest {}

single_request!(FarmsRequest, "farms");

/// How the farms of a host stand, by their scoreboards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarmsAnswer {
    /// The host's name in the cluster.
    pub host: String,
    /// The program's version there.
    pub version: String,
    /// Its farms.
    pub farms: Vec<FarmStatus>,
}

/// How a farm stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FarmStatus {
    /// Its name.
    pub farm: String,
    /// Its manager's process id; none while it has no manager.
    pub manager: Option<u32>,
    /// Whether its manager runs.
    pub alive: bool,
    /// Its workers are started for one pass each, when somebody asks or it is time.
    pub on_demand: bool,
    /// Workers that crashed since the manager started.
    pub crashes: u64,
    /// What it counts, by name.
    pub counters: BTreeMap<String, u64>,
    /// Its workers.
    pub workers: Vec<WorkerStatus>,
}

/// How a worker stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its name, `router/2`.
    pub worker: String,
    /// Its process id on its host.
    pub pid: u32,
    /// Its generation: higher after each reload.
    pub generation: u32,
    /// `starting`, `ready`, `draining`, `standby`.
    pub state: String,
    /// Jobs in hand.
    pub jobs: u32,
    /// Connections in hand.
    pub connections: u32,
    /// Sessions or jobs that it may hold at once.
    pub capacity: u32,
    /// Jobs that it has done.
    pub jobs_done: u64,
    /// How long its loop ran in the last second, in thousandths.
    pub load: u32,
    /// What it has to tell, such as a filter that is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}
