//! SIGHUP: a new generation of workers with new settings, or new settings for the one worker there is.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;

use serde_json::value::RawValue;

use super::{
    Farm, InPlace, Manager, ManagerError, Mode, NamedSocket, TcpListen, owners, settings_json,
    slots_needed, tally_buckets,
};
use crate::handover::{self, ToWorker};
use crate::setup;

impl Manager<'_> {
    /// Asks for the farm anew and takes it over; whatever fails is logged and leaves the farm as it is.
    pub(super) fn reload_now(&mut self) {
        if self.stopping {
            return;
        }
        self.notifier.reloading();
        let result = (self.reload)()
            .and_then(|farm| self.take_over(farm).map_err(|error| error.to_string()));
        match result {
            Ok(()) => {
                tracing::info!(farm = %self.farm.name, generation = self.generation, "reloaded");
            }
            Err(error) => {
                tracing::error!(farm = %self.farm.name, error, "not reloaded: the old settings stay");
            }
        }
        if self.told_ready {
            self.notifier.ready();
        }
    }

    fn take_over(&mut self, farm: Farm) -> Result<(), ManagerError> {
        if farm.name != self.farm.name
            || farm.run_dir != self.farm.run_dir
            || farm.data_dir != self.farm.data_dir
        {
            let what = "a farm's name, run_dir and data_dir change only by a restart";
            return Err(ManagerError::Setup(what.to_owned()));
        }
        let settings = settings_json(&farm.settings)?;
        farm.check_keys()?;
        let in_place = farm.mode == Mode::One
            && is_same_but_settings(&farm, &self.farm)
            && change_in_place(&farm.in_place, &self.settings, &settings);
        self.renew(&farm)?;
        self.settings = settings;
        self.farm = farm;
        if in_place && self.hand_settings() {
            return Ok(());
        }
        self.supersede();
        Ok(())
    }

    /// Begins a new generation: the old one serves on until the new one is ready.
    pub(super) fn supersede(&mut self) {
        self.generation += 1;
        self.wanted = self.wanted.clamp(self.farm.workers.start, self.farm.workers.max);
        if !matches!(self.farm.mode, Mode::OnDemand { .. }) {
            for child in &mut self.children {
                child.superseded = true;
            }
        }
    }

    /// Takes up new sockets, listeners and scoreboard before it lets go of any old one, so that failure changes nothing.
    pub(super) fn renew(&mut self, farm: &Farm) -> Result<(), ManagerError> {
        let tcp = self.listeners_of(farm)?;
        let mut new = Vec::new();
        let made = self.bind_new(farm, &mut new).and_then(|()| self.renew_board(farm));
        if let Err(error) = made {
            unbind(&farm.run_dir, new.iter().map(|(socket, _)| socket));
            return Err(error);
        }
        let gone = self.sockets.extract_if(.., |(socket, _)| !farm.sockets.contains(socket));
        unbind(&farm.run_dir, gone.collect::<Vec<_>>().iter().map(|(socket, _)| socket));
        self.sockets.extend(new);
        self.tcp = tcp;
        Ok(())
    }

    fn listeners_of(&self, farm: &Farm) -> Result<Vec<(TcpListen, Rc<TcpListener>)>, ManagerError> {
        let mut tcp = Vec::new();
        for listen in farm.listens() {
            let kept = self.tcp.iter().find(|(old, _)| old.address == listen.address);
            let listener = match kept {
                // The supervisor's is preferred: it may have bound anew.
                Some((_, listener)) if !self.inherited.contains_key(&listen.address) => {
                    listener.clone()
                }
                _ => self.listener(&listen, setup::bind_tcp)?,
            };
            tcp.push((listen, listener));
        }
        Ok(tcp)
    }

    fn bind_new(
        &self,
        farm: &Farm,
        new: &mut Vec<(NamedSocket, UnixListener)>,
    ) -> Result<(), ManagerError> {
        for socket in &farm.sockets {
            if !self.sockets.iter().any(|(old, _)| old == socket) {
                let listener = setup::bind_named(&farm.run_dir, socket, owners(farm))?;
                new.push((socket.clone(), listener));
            }
        }
        Ok(())
    }

    /// A farm that has grown, or counts other things, gets a new scoreboard; the old generation keeps its own.
    fn renew_board(&mut self, farm: &Farm) -> Result<(), ManagerError> {
        if slots_needed(farm) <= self.board.slot_count()
            && tally_buckets(farm) == self.board.tally_buckets()
            && farm.counters == self.board.counter_names()
            && self.board.has_notices()
        {
            return Ok(());
        }
        let board = super::make_board(farm)?;
        board.continue_from(&self.board);
        self.board = Rc::new(board);
        Ok(())
    }

    /// Hands new settings to the one worker; says whether there was one that could take them. One that is just starting finds
    /// them when it is ready.
    fn hand_settings(&self) -> bool {
        let Some(child) = self.children.iter().find(|child| child.is_current()) else {
            return false;
        };
        let give = |what: &ToWorker, text: &[u8]| {
            let memory = sys::sealed_memfd("grange-settings", text)?;
            handover::tell(&child.control, what, &[memory.as_fd()])
        };
        let given = serde_json::to_vec(&self.farm.places)
            .map_err(Into::into)
            .and_then(|places| give(&ToWorker::Places, &places))
            .and_then(|()| give(&ToWorker::Settings, self.settings.get().as_bytes()));
        if let Err(error) = &given {
            tracing::warn!(farm = %self.farm.name, %error, "cannot hand settings over: the worker is replaced");
        }
        given.is_ok()
    }
}

fn unbind<'a>(run_dir: &Path, sockets: impl Iterator<Item = &'a NamedSocket>) {
    for socket in sockets {
        let _ = std::fs::remove_file(setup::socket_path(run_dir, socket));
    }
}

/// Whether settings differ only in what a worker can take while it runs.
fn change_in_place(taken: &InPlace, old: &RawValue, new: &RawValue) -> bool {
    let InPlace::Member(name) = taken else {
        return true;
    };
    type Members = BTreeMap<String, serde_json::Value>;
    let rest = |settings: &RawValue| {
        let mut members: Members = serde_json::from_str(settings.get()).ok()?;
        members.remove(name);
        Some(members)
    };
    rest(old) == rest(new)
}

fn is_same_but_settings(one: &Farm, other: &Farm) -> bool {
    one.workers == other.workers
        && one.sockets == other.sockets
        && one.tcp == other.tcp
        && one.jobs == other.jobs
        && one.callers == other.callers
        && one.keys == other.keys
        && one.counters == other.counters
        && one.user == other.user
        && one.admin_group == other.admin_group
        && one.mode == other.mode
}
