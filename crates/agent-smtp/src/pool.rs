//! Connections that wait for their lane's next message.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::connection::Connection;
use crate::settings::{Settings, Timeouts};

/// Idle connections by the lane's host, the one that was used last at the end.
pub(crate) struct Pool {
    idle: RefCell<HashMap<String, Vec<Idle>>>,
    /// How many there are, at most [`Pool::idle_max`].
    count: Cell<usize>,
    idle_max: usize,
    idle_time: Duration,
    deliveries_max: u32,
    age_max: Duration,
    timeouts: Timeouts,
    /// A task sweeps: it lives as long as there is anything to sweep.
    sweeping: Cell<bool>,
}

struct Idle {
    connection: Box<Connection>,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            idle: RefCell::default(),
            count: Cell::new(0),
            idle_max: usize::try_from(settings.workers.concurrency).unwrap_or(usize::MAX),
            idle_time: settings.reuse_idle.0,
            deliveries_max: settings.reuse_deliveries_max,
            age_max: settings.reuse_age_max.0,
            timeouts: settings.timeouts.clone(),
            sweeping: Cell::new(false),
        }
    }

    /// Takes a connection to the lane's host that is still quiet; those that are not are dropped.
    pub(crate) fn take(&self, host: &str) -> Option<Box<Connection>> {
        let mut idle = self.idle.borrow_mut();
        let connections = idle.get_mut(host)?;
        let now = Instant::now();
        while let Some(Idle { connection, since }) = connections.pop() {
            self.count.set(self.count.get() - 1);
            if now.duration_since(since) <= self.idle_time && connection.is_quiet() {
                return Some(connection);
            }
        }
        None
    }

    /// Whether a connection may carry another message.
    pub(crate) fn may_go_on(&self, connection: &Connection, now: Instant) -> bool {
        connection.deliveries < self.deliveries_max
            && now.duration_since(connection.since) < self.age_max
    }

    /// Keeps an idle connection for the lane's next message, or says goodbye to it.
    pub(crate) fn put(self: &Rc<Self>, host: &str, mut connection: Box<Connection>) {
        let now = Instant::now();
        let full = self.count.get() >= self.idle_max;
        if full || self.idle_time.is_zero() || !self.may_go_on(&connection, now) {
            let pool = Rc::clone(self);
            tokio::task::spawn_local(async move { connection.quit(&pool.timeouts).await });
            return;
        }
        connection.rest();
        self.count.set(self.count.get() + 1);
        let mut idle = self.idle.borrow_mut();
        let entry = Idle { connection, since: now };
        match idle.get_mut(host) {
            Some(connections) => connections.push(entry),
            None => drop(idle.insert(host.to_owned(), vec![entry])),
        }
        if !self.sweeping.replace(true) {
            tokio::task::spawn_local(Rc::clone(self).sweep());
        }
    }

    /// Says goodbye to every idle connection.
    pub(crate) async fn close(&self, timeouts: &Timeouts) {
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        self.count.set(0);
        let timeouts = Rc::new(timeouts.clone());
        let mut quitting = JoinSet::new();
        for Idle { connection, .. } in idle.into_values().flatten() {
            let timeouts = Rc::clone(&timeouts);
            quitting.spawn_local(async move { connection.quit(&timeouts).await });
        }
        while quitting.join_next().await.is_some() {}
    }

    /// Closes what has waited long enough, until nothing waits.
    async fn sweep(self: Rc<Self>) {
        while let Some(oldest) = self.oldest() {
            tokio::time::sleep_until((oldest + self.idle_time).into()).await;
            for Idle { connection, .. } in self.expired(Instant::now()) {
                let pool = Rc::clone(&self);
                tokio::task::spawn_local(async move { connection.quit(&pool.timeouts).await });
            }
        }
        self.sweeping.set(false);
    }

    fn oldest(&self) -> Option<Instant> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|_, connections| !connections.is_empty());
        idle.values().filter_map(|connections| connections.first()).map(|idle| idle.since).min()
    }

    fn expired(&self, now: Instant) -> Vec<Idle> {
        let mut expired = Vec::new();
        self.idle.borrow_mut().retain(|_, connections| {
            let is_fresh = |idle: &Idle| now.saturating_duration_since(idle.since) < self.idle_time;
            // The oldest stand in front.
            let stale = connections.iter().take_while(|idle| !is_fresh(idle)).count();
            expired.extend(connections.drain(..stale));
            !connections.is_empty()
        });
        self.count.set(self.count.get() - expired.len());
        expired
    }
}
