//! Apache's settings of a farm.

use config::Problem;
use serde::{Deserialize, Serialize};

/// How many workers a farm has and what each takes on: `workers = { … }` in every stage's section.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Workers {
    /// Workers started at once (Apache: StartServers).
    pub start: u32,
    /// The most workers (MaxRequestWorkers); more than the machine has cores only cost. Default: the number of cores.
    pub max: u32,
    /// Fewer spare workers than this: one more is started (MinSpareServers).
    pub spare_min: u32,
    /// More spare workers than this: one is drained (MaxSpareServers).
    pub spare_max: u32,
    /// After so many jobs a worker is replaced (MaxConnectionsPerChild); 0 never.
    pub jobs_max: u64,
    /// Sessions or jobs a worker holds at once.
    pub concurrency: u32,
}

impl Default for Workers {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32);
        Self {
            start: 1,
            max: cores,
            // With none, a farm that is busy would never grow.
            spare_min: 1,
            spare_max: cores.max(1),
            jobs_max: 0,
            concurrency: 1000,
        }
    }
}

impl Workers {
    /// The most workers any farm may have: the scoreboard's size.
    pub const MAX: u32 = 256;

    /// Checks for contradictions; `key` is where these settings stand, as in `smtpserver.workers`.
    pub fn check(&self, key: &str) -> Result<(), Problem> {
        let wrong = |name: &str, wrong: String, right: &str| {
            Err(Problem::new(format!("{key}.{name}"), wrong, right))
        };
        if self.max == 0 || self.max > Self::MAX {
            return wrong("max", format!("{} workers", self.max), "a number from 1 to 256");
        }
        if self.start == 0 || self.start > self.max {
            return wrong(
                "start",
                format!("{} with max = {}", self.start, self.max),
                "a number from 1 to max",
            );
        }
        if self.spare_min > self.spare_max {
            return wrong(
                "spare_min",
                format!("{} is more than spare_max = {}", self.spare_min, self.spare_max),
                "a number up to spare_max",
            );
        }
        if self.concurrency == 0 || self.concurrency > 1_000_000 {
            return wrong(
                "concurrency",
                self.concurrency.to_string(),
                "a number from 1 to 1000000",
            );
        }
        Ok(())
    }
}
