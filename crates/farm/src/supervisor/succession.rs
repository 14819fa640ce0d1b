//! A supervisor that goes on as another program: what it leaves, and how it takes that up again.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sys::{Process, SignalFd};

use super::{Farm, Manager, Plan, Supervisor, failed};
use crate::manager::ManagerError;
use crate::notify::Notifier;
use crate::setup::{self, Mark};
use crate::succession::{self, Listeners, Succession};

/// A supervisor's state; descriptors by their numbers. Changing what anything here means needs a new version in [`succession`].
#[derive(Serialize, Deserialize)]
pub(super) struct Held {
    run_dir: PathBuf,
    data_dir: PathBuf,
    instance: i32,
    mark: i32,
    told_ready: bool,
    farms: Vec<HeldFarm>,
}

#[derive(Serialize, Deserialize)]
struct HeldFarm {
    name: String,
    begun: bool,
    ready: bool,
    manager: Option<HeldManager>,
}

#[derive(Serialize, Deserialize)]
struct HeldManager {
    pid: u32,
    control: i32,
    deaf: bool,
    terminated: bool,
}

impl Supervisor {
    /// SIGUSR2: goes on as the program that `run_dir/upgrade` names; returns only when that fails.
    pub(super) fn upgrade(&mut self) {
        self.notifier.reloading();
        let error = match self.rehearsed() {
            Ok(program) => self.execute(&program).to_string(),
            Err(error) => error,
        };
        tracing::error!(error, "not upgraded: the old program goes on");
        if self.told_ready {
            self.notifier.ready();
        }
    }

    fn rehearsed(&mut self) -> Result<File, String> {
        let Plan { run_dir, data_dir, .. } = &self.plan;
        let program = succession::requested(run_dir)?;
        succession::rehearse(&program, run_dir, data_dir, &mut self.notifier)?;
        Ok(program)
    }

    fn execute(&self, program: &File) -> io::Error {
        tracing::info!("going on as a new program");
        let mut succession = Succession::new(program);
        for (address, listener) in &self.tcp {
            succession.keep_tcp(*address, listener);
        }
        let mut farms = Vec::new();
        for farm in &self.farms {
            let manager = farm.manager.as_ref().map(|manager| HeldManager {
                pid: manager.process.pid(),
                control: succession.keep(manager.control.as_fd()),
                deaf: manager.deaf,
                terminated: manager.terminated,
            });
            let name = farm.name.clone();
            farms.push(HeldFarm { name, begun: farm.begun.is_some(), ready: farm.ready, manager });
        }
        let held = Held {
            run_dir: self.plan.run_dir.clone(),
            data_dir: self.plan.data_dir.clone(),
            instance: succession.keep(self.instance.as_fd()),
            mark: succession.keep(self.mark.file.as_fd()),
            told_ready: self.told_ready,
            farms,
        };
        succession.execute(&held)
    }
}

/// Takes up what the supervisor before left, and has its managers go on as this program.
pub(super) fn adopt(
    plan: Plan,
    signals: SignalFd,
    (listeners, held): (Listeners, Option<Held>),
) -> Result<Supervisor, ManagerError> {
    let here = |held: &Held| held.run_dir == plan.run_dir && held.data_dir == plan.data_dir;
    let user = plan.user.filter(|_| sys::effective_ids().0 == 0);
    let tcp = listeners.into_iter().collect();
    let now = Instant::now();
    let new = |tcp, instance, mark| Supervisor {
        farms: Vec::new(),
        signals,
        tcp,
        stopping: None,
        told_ready: false,
        notifier: Notifier::new(now),
        instance,
        mark,
        plan: plan.clone(),
    };
    let mut this = match held.filter(here) {
        Some(held) => {
            let take = |number| sys::take_descriptor(number).map(File::from);
            let instance = take(held.instance).map_err(failed("keep the lock"))?;
            let mark = take(held.mark).map_err(failed("keep its mark"))?;
            let mut this = new(tcp, instance, Mark::keep(&plan.run_dir, mark));
            this.told_ready = held.told_ready;
            this.farms = held.farms.into_iter().map(|farm| take_up(farm, now)).collect();
            this
        }
        None => {
            // Managers of the program before see that it has gone: they drain and end. New ones are started as they do.
            let instance = setup::lock_instance(&plan.data_dir, &plan.run_dir, user)?;
            new(tcp, instance, Mark::make(&plan.run_dir)?)
        }
    };
    // Whoever ended while nobody listened: the signal that said so may have been read by the program before.
    this.reap();
    this.bind_leniently();
    this.arrange_farms();
    let program = File::open("/proc/self/exe").map_err(failed("open this program"))?;
    this.tell_managers(Some(&program));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "upgraded");
    if this.told_ready {
        setup::settle();
        this.notifier.ready();
    }
    Ok(this)
}

fn take_up(held: HeldFarm, now: Instant) -> Farm {
    let mut farm = Farm::new(&held.name);
    farm.begun = held.begun.then_some(now);
    farm.ready = held.ready;
    if let Some(manager) = held.manager {
        match take_up_manager(&manager) {
            Ok(taken) => farm.manager = Some(taken),
            Err(error) => {
                tracing::error!(farm = %farm.name, pid = manager.pid, %error, "cannot keep a manager");
                farm.ready = false;
            }
        }
    }
    farm
}

fn take_up_manager(held: &HeldManager) -> io::Result<Manager> {
    let control = sys::take_descriptor(held.control)?;
    let process = Process::adopt(held.pid)?;
    Ok(Manager { process, control, deaf: held.deaf, terminated: held.terminated })
}
