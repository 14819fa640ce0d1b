//! Asking what runs in a `run_dir` to go on as another program, and seeing that it does.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sys::Signal;

use crate::scoreboard::{self, View};
use crate::{setup, succession};

/// How often it is looked whether all have gone on.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What an upgrade has done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Process ids of the supervisors, as before the upgrade.
    pub supervisors: Vec<u32>,
    /// The farms, in alphabetical order.
    pub farms: Vec<Upgraded>,
}

/// One farm after an upgrade.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upgraded {
    /// The farm's name.
    pub farm: String,
    /// Its manager's process id.
    pub manager: u32,
    /// The manager did not go on but was started anew: its workers were told to finish and end.
    pub restarted: bool,
    /// The generation of workers that the new program has begun.
    pub generation: u32,
    /// Workers of that generation that are ready.
    pub ready: u32,
    /// Workers of the program before that finish what they have in hand.
    pub draining: u32,
}

/// Why an upgrade was not done, or not everywhere.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// Nothing was running.
    #[error("nothing runs in {0}")]
    NotRunning(PathBuf),
    /// The program may not be used, or nobody could be asked; nothing has changed.
    #[error("{0}")]
    Refused(String),
    /// Some did not go on in time, and their log says why; whoever is not named did.
    #[error("not upgraded: {}", .0.join("; "))]
    Stayed(Vec<String>),
}

/// Asks all supervisors and managers in `run_dir` to go on as `program`, and waits until they do and their workers are ready. Of
/// `farms` only those are waited for that run by now; of these, none may be missing afterwards. Connections, sessions and jobs in
/// hand are kept: workers of the old program finish them, as at a reload.
///
/// # Errors
///
/// See [`UpgradeError`]. After `patience` it is [`UpgradeError::Stayed`].
pub fn upgrade(
    run_dir: &Path,
    program: &Path,
    farms: &[String],
    patience: Duration,
) -> Result<Report, UpgradeError> {
    let refused = |what: &str, error: io::Error| UpgradeError::Refused(format!("{what}: {error}"));
    let supervisors = setup::supervisors(run_dir)
        .map_err(|error| refused("cannot look for supervisors", error))?;
    let mut before = scoreboard::read_all(run_dir).unwrap_or_default();
    if supervisors.is_empty() && before.is_empty() {
        return Err(UpgradeError::NotRunning(run_dir.to_owned()));
    }
    succession::open_program(program).map_err(UpgradeError::Refused)?;
    ask(run_dir, program).map_err(|error| refused("cannot leave the request in run_dir", error))?;
    // A supervisor asks its managers itself.
    let alone = before.iter().map(|view| view.manager);
    let alone =
        alone.filter(|pid| parent(*pid).is_none_or(|parent| !supervisors.contains(&parent)));
    for pid in supervisors.iter().copied().chain(alone) {
        sys::send_signal(pid, Signal::Upgrade)
            .map_err(|error| refused(&format!("cannot signal process {pid}"), error))?;
    }
    before.retain(|view| farms.contains(&view.farm));
    let end = Instant::now() + patience;
    loop {
        let now = scoreboard::read_all(run_dir).unwrap_or_default();
        let missing = missing(&supervisors, &before, &now, program);
        if missing.is_empty() || Instant::now() >= end {
            let _ = std::fs::remove_file(run_dir.join(succession::REQUEST_FILE));
            if !missing.is_empty() {
                return Err(UpgradeError::Stayed(missing));
            }
            let reports = now.iter().map(|view| report(view, &before));
            return Ok(Report { farms: reports.collect(), supervisors });
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// Leaves the program's path where those who are signalled look for it.
fn ask(run_dir: &Path, program: &Path) -> io::Result<()> {
    let path = run_dir.join(succession::REQUEST_FILE);
    let temporary = path.with_extension("new");
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file: File =
        File::options().write(true).create_new(true).mode(0o644).open(&temporary)?;
    file.set_permissions(PermissionsExt::from_mode(0o644))?;
    let text = program.to_str().ok_or_else(|| io::Error::other("its path is not UTF-8"))?;
    file.write_all(format!("{text}\n").as_bytes())?;
    std::fs::rename(&temporary, &path)
}

/// Who has not gone on yet, in words.
fn missing(supervisors: &[u32], before: &[View], now: &[View], program: &Path) -> Vec<String> {
    let mut missing = Vec::new();
    for pid in supervisors {
        if !sys::same_program(*pid, program) {
            missing.push(format!("grange run (process {pid}) runs the program that it ran before"));
        }
    }
    for was in before {
        let name = &was.farm;
        let Some(view) = now.iter().find(|view| view.farm == *name) else {
            missing.push(format!("farm {name}: its manager has ended"));
            continue;
        };
        let is_anew = view.manager != was.manager || view.generation > was.generation;
        if !is_anew || !sys::same_program(view.manager, program) {
            let pid = view.manager;
            missing.push(format!(
                "farm {name}: its manager (process {pid}) runs the program that it ran before"
            ));
            continue;
        }
        if view.on_demand {
            // A pass of the old program ends when it is done.
            continue;
        }
        let upgraded = report(view, before);
        let ready = |view: &View| view.workers.iter().any(|line| line.state.is_up());
        let lost = ready(was) && upgraded.ready == 0 && upgraded.draining == 0;
        // Of the old program, some still take new jobs: the new ones are not ready.
        let old = view
            .workers
            .iter()
            .any(|line| line.state.is_up() && line.generation != view.generation);
        if lost || old {
            missing.push(format!("farm {name}: the workers of the new program are not ready"));
        }
    }
    missing
}

fn report(view: &View, before: &[View]) -> Upgraded {
    let was = before.iter().find(|was| was.farm == view.farm);
    let (new, old): (Vec<_>, Vec<_>) =
        view.workers.iter().partition(|line| line.generation == view.generation);
    let ready = new.iter().filter(|line| line.state.is_up());
    Upgraded {
        farm: view.farm.clone(),
        manager: view.manager,
        restarted: was.is_some_and(|was| was.manager != view.manager),
        generation: view.generation,
        ready: ready.count() as u32,
        draining: old.len() as u32,
    }
}

fn parent(pid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}
