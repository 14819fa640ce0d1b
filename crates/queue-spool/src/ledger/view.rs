//! The ledger for someone who only wants to look, while no scheduler runs.

use std::path::Path;
use std::sync::Mutex;

use queue::{Handle, LedgerError, Standing};

use super::log::{self, failed};
use super::reclaim;
use super::standing::Standings;
use crate::disk::RealDisk;
use crate::place::Layout;

/// What the ledger on disk knows of messages. Read once; it does not follow what is written later.
pub struct LedgerView(Standings);

impl LedgerView {
    /// What was known of a message when the ledger was read.
    pub fn standing(&self, handle: &Handle) -> Standing {
        self.0.standing(handle)
    }
}

/// Reads the ledger without a right to write it: no lock is taken and nothing is changed.
pub fn read_standings(data_dir: &Path) -> Result<LedgerView, LedgerError> {
    let layout = Layout::new(data_dir);
    let standings = Mutex::<Standings>::default();
    let found = log::find_beside_writer(&RealDisk, &layout)?;
    let mut endings = Vec::new();
    for part in found.logs.get(found.start..).unwrap_or_default() {
        log::replay(part, &layout, &standings, &mut |_| {}, &mut endings)?;
    }
    let survey = reclaim::survey(&RealDisk, &layout);
    let found = survey.map_err(|error| failed(&layout.intake(), error))?;
    let mut standings = standings.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    standings.survey(found);
    Ok(LedgerView(standings))
}
