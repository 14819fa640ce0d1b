//! Apache's settings of a farm.

use config::Problem;
use serde::{Deserialize, Deserializer, Serialize};

/// How many workers a farm has and what each takes on: `workers = { … }` in every stage's section.
///
/// A table that names only some keys leaves the others at the farm's defaults: a stage whose defaults are not those of
/// [`Workers::default`] reads its table with [`Workers::over`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Workers {
    /// Workers started at once (Apache: StartServers). Default: 1.
    pub start: u32,
    /// The most workers (MaxRequestWorkers); more than the machine has cores only cost. Default: the number of cores.
    pub max: u32,
    /// Fewer spare workers than this: one more is started (MinSpareServers). Default: 1.
    pub spare_min: u32,
    /// More spare workers than this: one is drained (MaxSpareServers). Default: the number of cores.
    pub spare_max: u32,
    /// After so many jobs a worker is replaced (MaxConnectionsPerChild); 0 never. Default: 0.
    pub jobs_max: u64,
    /// Sessions or jobs a worker holds at once. Default: 1000; in `[smtpserver]` and `[scheduler]` 10000.
    pub concurrency: u32,
}

/// A table as it is written: what it does not name is as the farm's defaults say.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table, as in { start = 1, max = 4 }")]
struct Partial {
    start: Option<u32>,
    max: Option<u32>,
    spare_min: Option<u32>,
    spare_max: Option<u32>,
    jobs_max: Option<u64>,
    concurrency: Option<u32>,
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::over(Self::default(), deserializer)
    }
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

    /// Reads a table that stands over a farm's own defaults, for serde's `deserialize_with`.
    pub fn over<'de, D: Deserializer<'de>>(
        default: Self,
        deserializer: D,
    ) -> Result<Self, D::Error> {
        let given = Partial::deserialize(deserializer)?;
        Ok(Self {
            start: given.start.unwrap_or(default.start),
            max: given.max.unwrap_or(default.max),
            spare_min: given.spare_min.unwrap_or(default.spare_min),
            spare_max: given.spare_max.unwrap_or(default.spare_max),
            jobs_max: given.jobs_max.unwrap_or(default.jobs_max),
            concurrency: given.concurrency.unwrap_or(default.concurrency),
        })
    }

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

#[cfg(test)]
mod tests;
