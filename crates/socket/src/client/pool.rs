//! All connections of a client: which to use, when to make one, what waits.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

use super::connection::{Connection, FarmState, OnAnswer};
use super::place::{Place, Places};
use super::{CallError, ClientSettings, GIVE_UP_LATER, Peer, PeerId, SendError, SendOptions, dial};
use crate::frame::{FRAME_BYTES, LINE_BYTES_MAX};
use crate::link::End;
use crate::{Conversation, Request, STANDSTILL};

/// Deadlines are looked at this often at most.
const TICK: Duration = Duration::from_millis(50);
/// So many crashes are remembered, not to be told twice.
const CRASHES_KEPT: usize = 256;

/// Is told the process id of a worker that crashed.
type OnCrash = Rc<dyn Fn(u32)>;

pub(super) struct Pool<C: Conversation> {
    places: RefCell<Vec<Rc<Place>>>,
    /// How many places of other hosts it has had.
    hosts: Cell<u32>,
    pub(super) settings: ClientSettings,
    connections: RefCell<Vec<Rc<Connection<C>>>>,
    /// Connections that have ended, whose servers may still act on what they were asked.
    cut_off: RefCell<Vec<Rc<Connection<C>>>>,
    /// Wakes the timekeeper, when something is due before it would look.
    due: Rc<Notify>,
    next_look: Cell<Option<Instant>>,
    timekeeping: Cell<bool>,
    room: Notify,
    waiting: Cell<usize>,
    version: Cell<u64>,
    watchers: RefCell<Vec<Waker>>,
    on_crash: RefCell<Vec<OnCrash>>,
    crashes: RefCell<Vec<u32>>,
    dropped: Cell<u64>,
    rotation: Cell<usize>,
    params: Cell<Vec<u8>>,
    next_peer: Cell<u64>,
    this: Weak<Self>,
}

impl<C: Conversation> Pool<C> {
    pub(super) fn new(places: &Places, settings: ClientSettings) -> Rc<Self> {
        let hosts = Cell::new(0);
        Rc::new_cyclic(|this| Self {
            places: RefCell::new(Place::arrange(places, &[], &hosts)),
            hosts,
            settings,
            connections: RefCell::default(),
            cut_off: RefCell::default(),
            due: Rc::default(),
            next_look: Cell::new(None),
            timekeeping: Cell::new(false),
            room: Notify::new(),
            waiting: Cell::new(0),
            version: Cell::new(0),
            watchers: RefCell::default(),
            on_crash: RefCell::default(),
            crashes: RefCell::default(),
            dropped: Cell::new(0),
            rotation: Cell::new(0),
            params: Cell::default(),
            next_peer: Cell::new(0),
            this: this.clone(),
        })
    }

    // ── connections ──

    /// Sees to it that a connection for each worker is up or being made.
    pub(super) fn want(&self) {
        for place in self.places.borrow().iter() {
            if self.lacks(place) && !place.dialling.replace(true) {
                let guard = DialGuard { pool: self.this.clone(), place: Rc::clone(place) };
                tokio::task::spawn_local(dial::dial(guard));
            }
        }
    }

    /// Connects to these places from now on: connections to others take no more requests, and close when their answers have come.
    pub(super) fn move_to(&self, places: &Places) {
        let arranged = Place::arrange(places, &self.places.borrow(), &self.hosts);
        let before = self.places.replace(arranged);
        let connections = self.connections.borrow().clone();
        let is_used = !connections.is_empty() || before.iter().any(|place| place.dialling.get());
        for place in &before {
            if !self.places.borrow().iter().any(|kept| Rc::ptr_eq(kept, place)) {
                place.left.set(true);
                place.redial.notify_one();
            }
        }
        for connection in connections.iter().filter(|connection| connection.place.left.get()) {
            connection.begin_drain(self);
        }
        if is_used {
            self.want();
        }
    }

    /// A connection takes no more requests. If it was the last, the dialling tasks do not finish their pauses first: whoever has
    /// something to send waits for one of them.
    pub(super) fn lost_one(&self) {
        self.want();
        let connections = self.connections.borrow();
        if !connections.iter().any(|connection| connection.takes_requests()) {
            self.places.borrow().iter().for_each(|place| place.redial.notify_one());
        }
    }

    /// Whether a worker of a place is without a connection of ours.
    pub(super) fn lacks(&self, place: &Rc<Place>) -> bool {
        self.up_at(place) < place.workers() as usize
    }

    pub(super) fn has_other_places(&self) -> bool {
        self.places.borrow().len() > 1
    }

    /// Connections to a place that take requests.
    fn up_at(&self, place: &Rc<Place>) -> usize {
        let connections = self.connections.borrow();
        let is_up = |connection: &&Rc<Connection<C>>| {
            connection.takes_requests() && Rc::ptr_eq(&connection.place, place)
        };
        connections.iter().filter(is_up).count()
    }

    /// Whether this process has a connection of ours already.
    pub(super) fn has(&self, process: u32) -> bool {
        let connections = self.connections.borrow();
        connections.iter().any(|one| one.takes_requests() && one.process == process)
    }

    pub(super) fn next_peer(&self) -> PeerId {
        let id = self.next_peer.get() + 1;
        self.next_peer.set(id);
        PeerId(id)
    }

    pub(super) fn came(&self, connection: Rc<Connection<C>>, state: &FarmState) {
        let place = Rc::clone(&connection.place);
        if !state.crashed.iter().any(|pid| place.process(*pid) == connection.process) {
            // The number is a living process's again.
            self.crashes.borrow_mut().retain(|process| *process != connection.process);
        }
        self.connections.borrow_mut().push(connection);
        self.farm_changed(&place, state);
        self.room.notify_waiters();
        self.changed();
    }

    /// A connection has ended. What it was asked is lost then; or, where the server may still act on it, when that time is over. A
    /// server that closed in order acts no more.
    pub(super) fn gone(&self, connection: &Rc<Connection<C>>, end: &End) {
        self.connections.borrow_mut().retain(|other| !Rc::ptr_eq(other, connection));
        match connection.acts_until().filter(|_| !matches!(end, End::Eof)) {
            None => connection.lose_all(),
            Some(until) => {
                self.cut_off.borrow_mut().push(connection.clone());
                let (this, connection) = (self.this.clone(), connection.clone());
                tokio::task::spawn_local(async move {
                    tokio::time::sleep_until(until.into()).await;
                    if let Some(pool) = this.upgrade() {
                        pool.cut_off.borrow_mut().retain(|other| !Rc::ptr_eq(other, &connection));
                    }
                    connection.lose_all();
                });
            }
        }
        self.lost_one();
        self.changed();
    }

    pub(super) fn farm_changed(&self, place: &Place, state: &FarmState) {
        if place.has_grown(state) {
            place.redial.notify_one();
        }
        for process in state.crashed.iter().map(|pid| place.process(*pid)) {
            let is_new = {
                let mut crashes = self.crashes.borrow_mut();
                let is_new = !crashes.contains(&process);
                if is_new {
                    crashes.push(process);
                    let surplus = crashes.len().saturating_sub(CRASHES_KEPT);
                    crashes.drain(..surplus);
                }
                is_new
            };
            if is_new {
                let callbacks = self.on_crash.borrow().clone();
                for on_crash in callbacks {
                    on_crash(process);
                }
            }
        }
        self.want();
    }

    pub(super) fn on_crash(&self, on_crash: OnCrash) {
        self.on_crash.borrow_mut().push(on_crash);
    }

    pub(super) fn peers(&self) -> Vec<Peer> {
        self.connections.borrow().iter().map(|connection| connection.peer()).collect()
    }

    pub(super) fn outstanding(&self) -> usize {
        let (connections, cut_off) = (self.connections.borrow(), self.cut_off.borrow());
        let all = connections.iter().chain(cut_off.iter());
        all.map(|connection| connection.outstanding() as usize).sum()
    }

    // ── requests ──

    /// Sends now or gives the callback back.
    pub(super) fn send(
        &self,
        request: &C::Request,
        options: &SendOptions,
        on_answer: OnAnswer<C>,
    ) -> Result<PeerId, (SendError, OnAnswer<C>)> {
        self.want();
        let mut params = self.params.take();
        params.clear();
        // Chosen before anything is written out as JSON: a hint without room costs nothing.
        let result = match self.choose(options.to, 0) {
            Err(error) => Err((error, on_answer)),
            Ok(chosen) => {
                request.write_params(&mut params);
                self.send_params(chosen, request.method(), &params, options, on_answer)
            }
        };
        self.params.set(params);
        result
    }

    fn send_params(
        &self,
        chosen: Rc<Connection<C>>,
        method: &str,
        params: &[u8],
        options: &SendOptions,
        on_answer: OnAnswer<C>,
    ) -> Result<PeerId, (SendError, OnAnswer<C>)> {
        if params.len() + FRAME_BYTES > LINE_BYTES_MAX {
            return Err((SendError::TooLong, on_answer));
        }
        let connection = if chosen.has_room(params.len()) {
            chosen
        } else {
            match self.choose(options.to, params.len()) {
                Ok(connection) => connection,
                Err(error) => return Err((error, on_answer)),
            }
        };
        self.rotation.set(self.rotation.get().wrapping_add(1));
        let deadline = options.deadline.unwrap_or(self.settings.deadline);
        let now = Instant::now();
        let expires = options.give_up.then(|| now + deadline + GIVE_UP_LATER);
        connection.send(method, (deadline, options.alone), params, expires, on_answer);
        let silent = now + super::connection::SILENCE;
        self.look_at(expires.map_or(silent, |expires| expires.min(silent)));
        Ok(connection.id)
    }

    /// The connection with the fewest unanswered requests, equals by turns.
    fn choose(&self, to: Option<PeerId>, bytes: usize) -> Result<Rc<Connection<C>>, SendError> {
        let connections = self.connections.borrow();
        if let Some(to) = to {
            let is_it = |one: &&Rc<Connection<C>>| one.id == to && one.takes_requests();
            let only = connections.iter().find(is_it).ok_or(SendError::Disconnected)?;
            return if only.has_room(bytes) { Ok(only.clone()) } else { Err(SendError::Full) };
        }
        let mut best: Option<&Rc<Connection<C>>> = None;
        let mut any_up = false;
        let start = self.rotation.get() % connections.len().max(1);
        let rotated = connections.iter().skip(start).chain(connections.iter().take(start));
        for connection in rotated {
            if !connection.takes_requests() {
                continue;
            }
            any_up = true;
            let is_better = best.is_none_or(|best| connection.outstanding() < best.outstanding());
            if is_better && connection.has_room(bytes) {
                best = Some(connection);
            }
        }
        match best {
            Some(best) => Ok(best.clone()),
            None if any_up => Err(SendError::Full),
            None => Err(SendError::Disconnected),
        }
    }

    /// One request of [`super::Client::call`]: waits for room, sends, waits for the answer. Goes to the connection `to` if that takes it
    /// now, and leaves there which it went to.
    pub(super) async fn call_once(
        &self,
        request: &C::Request,
        alone: bool,
        to: &mut Option<PeerId>,
        end: Instant,
    ) -> Result<C::Answer, CallError> {
        let (sender, receiver) = oneshot::channel();
        let mut on_answer: OnAnswer<C> = Box::new(|answer| {
            // Nobody waits any more when the caller was dropped.
            let _ = sender.send(answer);
        });
        let mut waits = None;
        let mut behind = self.waiting.get() > 0;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let options = SendOptions { deadline: Some(left), give_up: true, alone, to: *to };
            let error = if behind {
                self.want();
                self.choose(*to, 0).err().unwrap_or(SendError::Full)
            } else {
                match self.send(request, &options, on_answer) {
                    Ok(peer) => {
                        *to = Some(peer);
                        break;
                    }
                    Err((error, callback)) => {
                        on_answer = callback;
                        error
                    }
                }
            };
            if error != SendError::TooLong && to.take().is_some() {
                continue;
            }
            let over = waits.is_none() && self.waiting.get() >= self.settings.waiting_max;
            if error == SendError::TooLong || left.is_zero() || over {
                return Err(error.into());
            }
            waits.get_or_insert_with(|| Waits::new(self));
            let room = tokio::time::timeout(left, self.room.notified());
            behind = room.await.is_err();
        }
        drop(waits);
        receiver.await.unwrap_or(Err(CallError::Deadline))
    }

    pub(super) fn room_became_free(&self, was_full: bool) {
        if self.waiting.get() > 0 {
            self.room.notify_one();
        }
        if was_full {
            self.changed();
        }
    }

    pub(super) fn count_dropped(&self) {
        self.dropped.set(self.dropped.get() + 1);
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    // ── time ──

    /// Sees to it that times are looked at by then.
    fn look_at(&self, when: Instant) {
        if self.next_look.get().is_some_and(|next| next <= when) {
            return;
        }
        self.next_look.set(Some(when));
        if self.timekeeping.replace(true) {
            self.due.notify_one();
        } else {
            tokio::task::spawn_local(keep_time(TimeGuard(self.this.clone()), self.due.clone()));
        }
    }

    /// Looks at all times. If this is much later than it should be, then this process was stopped, or its machine slept: nobody was
    /// silent in that time, for nobody listened.
    fn check_times(&self, late: Duration) {
        let now = Instant::now();
        self.next_look.set(None);
        let connections = self.connections.borrow().clone();
        if late > STANDSTILL {
            tracing::warn!(
                conversation = C::NAME,
                late_ms = late.as_millis() as u64,
                "this process stood still"
            );
            connections.iter().for_each(|connection| connection.forgive(now, late));
        }
        let next = connections.iter().filter_map(|connection| connection.check_times(now)).min();
        // A callback may have sent something meanwhile.
        let next = [next, self.next_look.get()].into_iter().flatten().min();
        let next = next.map(|next| next.max(now + TICK));
        self.next_look.set(next);
    }

    // ── changes ──

    pub(super) fn version(&self) -> u64 {
        self.version.get()
    }

    pub(super) fn changed(&self) {
        self.version.set(self.version.get() + 1);
        for waker in self.watchers.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_on_change(&self, cx: &Context<'_>) {
        let mut watchers = self.watchers.borrow_mut();
        if !watchers.iter().any(|waker| waker.will_wake(cx.waker())) {
            watchers.push(cx.waker().clone());
        }
    }
}

impl<C: Conversation> Drop for Pool<C> {
    fn drop(&mut self) {
        for connection in self.connections.take().into_iter().chain(self.cut_off.take()) {
            connection.link.close_when_flushed();
            connection.lose_all();
        }
        self.places.get_mut().iter().for_each(|place| place.redial.notify_one());
        self.due.notify_one();
    }
}

/// Marks one caller as waiting, as long as it lives.
struct Waits<'a, C: Conversation>(&'a Pool<C>);

impl<'a, C: Conversation> Waits<'a, C> {
    fn new(pool: &'a Pool<C>) -> Self {
        pool.waiting.set(pool.waiting.get() + 1);
        Self(pool)
    }
}

impl<C: Conversation> Drop for Waits<'_, C> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

/// The dialling task's hold on its pool: when the task ends, for whatever reason, another may be started.
pub(super) struct DialGuard<C: Conversation> {
    pool: Weak<Pool<C>>,
    pub(super) place: Rc<Place>,
}

impl<C: Conversation> DialGuard<C> {
    /// The pool, unless it has gone, or moved from this place.
    pub(super) fn pool(&self) -> Option<Rc<Pool<C>>> {
        self.pool.upgrade().filter(|_| !self.place.left.get())
    }
}

impl<C: Conversation> Drop for DialGuard<C> {
    fn drop(&mut self) {
        self.place.dialling.set(false);
    }
}

struct TimeGuard<C: Conversation>(Weak<Pool<C>>);

impl<C: Conversation> Drop for TimeGuard<C> {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.timekeeping.set(false);
            pool.next_look.set(None);
        }
    }
}

/// Looks at times as long as something is outstanding; ends when nothing is.
async fn keep_time<C: Conversation>(guard: TimeGuard<C>, due: Rc<Notify>) {
    loop {
        let next = match guard.0.upgrade() {
            None => return,
            Some(pool) => pool.next_look.get(),
        };
        let Some(next) = next else {
            return;
        };
        let is_due = tokio::time::timeout_at(next.into(), due.notified()).await.is_err();
        let late = Instant::now().saturating_duration_since(next);
        if is_due && late > STANDSTILL {
            // What came meanwhile is read first.
            tokio::time::sleep(TICK).await;
        }
        if is_due && let Some(pool) = guard.0.upgrade() {
            pool.check_times(late);
        }
    }
}
