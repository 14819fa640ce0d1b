//! Channels: the connected workers of a farm of agents, their slots, and the lanes that wait for one.

use std::collections::{BTreeMap, VecDeque};

use socket::PeerId;

use super::lane::LaneId;

/// How long a worker gets nothing that has no room and owes no answer, in milliseconds.
const FULL_MS: u64 = 200;
/// How long a worker is kept free at first for a job that goes out alone, in milliseconds; then as long none is.
const ALONE_MS: u64 = 60_000;
/// The longest that it is, after several times in vain.
const ALONE_MS_MAX: u64 = 240_000;

/// A channel; never removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChannelId(pub(crate) u32);

impl ChannelId {
    /// Its number: channels are numbered from 0 as they become known.
    pub fn number(self) -> usize {
        self.0 as usize
    }
}

/// A connected worker of a channel, as the shell saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The connection.
    pub id: PeerId,
    /// The worker's process.
    pub pid: u32,
    /// How many jobs it takes at once.
    pub window: u32,
    /// Whether it takes no more.
    pub draining: bool,
}

/// The same with what this end counts.
#[derive(Debug)]
pub(crate) struct Connected {
    pub(crate) peer: Peer,
    /// Jobs sent and not answered.
    pub(crate) outstanding: u32,
    /// Those of them that were given up: they hold a slot, and nobody waits for them.
    pub(crate) given_up: u32,
    /// It had no room for a job though it should have: until then it gets none, in milliseconds; 0 when it may. While it owes an
    /// answer that is [`u64::MAX`], since the answer comes first.
    pub(crate) full_until: u64,
}

impl Connected {
    /// How long one without room is left alone: until its next answer or, when it owes none, for a moment.
    pub(crate) fn rests_until(&self, now: u64) -> u64 {
        if self.outstanding > self.given_up { u64::MAX } else { now.saturating_add(FULL_MS) }
    }
}

/// The rings in which lanes wait for their turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ring {
    /// Of lanes that do well.
    Good,
    /// Of those that are connecting, failed last time or wait long.
    Slow,
}

/// A channel.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) name: String,
    /// Whether it is one of the configuration.
    pub(crate) configured: bool,
    /// The most jobs in hand in all its workers; 0 is no limit.
    pub(crate) slots_max: u32,
    pub(crate) peers: Vec<Connected>,
    /// Jobs sent and not answered.
    pub(crate) in_use: u32,
    /// Jobs of slow lanes among them.
    pub(crate) slow_in_use: u32,
    /// Lanes ready to send that do well, and those that are slow; each once, by its place.
    pub(crate) good: BTreeMap<u64, LaneId>,
    pub(crate) slow: BTreeMap<u64, LaneId>,
    /// The next place in a ring.
    place_next: u64,
    /// Whether a slow lane had the last turn.
    slow_was_last: bool,
    /// Whether something changed that may let a lane send.
    pub(crate) stirred: bool,
    /// Whether the shell was asked to connect.
    pub(crate) wanted: bool,
    /// Jobs that go out alone, in order.
    pub(crate) alone: VecDeque<u64>,
    /// The worker that is kept free for them.
    alone_peer: Option<PeerId>,
    /// Since when it is, or from when on one may be kept free again.
    alone_since: u64,
    /// How long one is kept free, and then none, in milliseconds.
    alone_span: u64,
    /// The one of them that is in that worker's hand.
    pub(crate) alone_job: Option<u64>,
    /// When each job was sent, in order, until it counts as slow.
    pub(crate) sent: VecDeque<(u64, u64)>,
}

impl Channel {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            configured: false,
            slots_max: 0,
            peers: Vec::new(),
            in_use: 0,
            slow_in_use: 0,
            good: BTreeMap::new(),
            slow: BTreeMap::new(),
            place_next: 0,
            slow_was_last: false,
            stirred: false,
            wanted: false,
            alone: VecDeque::new(),
            alone_peer: None,
            alone_since: 0,
            alone_span: ALONE_MS,
            alone_job: None,
            sent: VecDeque::new(),
        }
    }

    /// Takes over who is connected now; counts of those that stay are kept.
    pub(crate) fn set_peers(&mut self, peers: &[Peer]) {
        let before = std::mem::take(&mut self.peers);
        for peer in peers {
            let old = before.iter().find(|old| old.peer.id == peer.id);
            let (outstanding, given_up, full_until) =
                old.map_or((0, 0, 0), |old| (old.outstanding, old.given_up, old.full_until));
            self.peers.push(Connected { peer: *peer, outstanding, given_up, full_until });
        }
        if self.alone_peer.is_some_and(|id| self.peer_mut(id).is_none_or(|c| c.peer.draining)) {
            self.forget_alone();
        }
    }

    /// A connected worker.
    pub(crate) fn peer_mut(&mut self, id: PeerId) -> Option<&mut Connected> {
        self.peers.iter_mut().find(|connected| connected.peer.id == id)
    }

    /// The slots of all workers that take jobs.
    pub(crate) fn slots(&self) -> u32 {
        let windows = self
            .peers
            .iter()
            .filter(|connected| !connected.peer.draining)
            .fold(0u32, |sum, connected| sum.saturating_add(connected.peer.window));
        if self.slots_max == 0 { windows } else { windows.min(self.slots_max) }
    }

    /// Chooses a worker with room: the one that has a connection of the lane open, else the one with the fewest jobs in hand.
    pub(crate) fn choose(&self, warm: &mut VecDeque<PeerId>) -> Option<PeerId> {
        if self.slots_max > 0 && self.in_use >= self.slots_max {
            return None;
        }
        while let Some(warm) = warm.pop_front() {
            if self.with_room().any(|connected| connected.peer.id == warm) {
                return Some(warm);
            }
        }
        let free = self.with_room().min_by_key(|connected| connected.outstanding);
        free.map(|connected| connected.peer.id)
    }

    fn with_room(&self) -> impl Iterator<Item = &Connected> {
        self.peers.iter().filter(|connected| {
            !connected.peer.draining
                && connected.full_until == 0
                && connected.outstanding < connected.peer.window
                && self.alone_peer != Some(connected.peer.id)
        })
    }

    /// The job that went out alone has ended, or is waited for no longer.
    pub(crate) fn end_alone(&mut self, number: u64) {
        if self.alone_job == Some(number) {
            self.alone_job = None;
            self.forget_alone();
        }
    }

    /// Whether any worker has room.
    pub(crate) fn has_room(&self) -> bool {
        (self.slots_max == 0 || self.in_use < self.slots_max) && self.with_room().next().is_some()
    }

    /// Keeps a worker free for a job that goes out alone, and says which once it has nothing else in hand; also whether that is
    /// true of jobs that were given up.
    pub(crate) fn choose_alone(&mut self, now: u64) -> Option<(PeerId, bool)> {
        let takes = |one: &&Connected| {
            !one.peer.draining && one.full_until == 0 && one.outstanding < one.peer.window
        };
        let idle = self.peers.iter().filter(takes).find(|one| one.outstanding == one.given_up);
        if let Some(idle) = idle {
            let chosen = (idle.peer.id, idle.outstanding == 0);
            self.alone_peer = Some(idle.peer.id);
            return Some(chosen);
        }
        if self.alone_peer.is_none() && self.alone_since <= now {
            let fewest = self
                .peers
                .iter()
                .filter(|one| !one.peer.draining && one.given_up < one.peer.window)
                .min_by_key(|one| one.outstanding - one.given_up.min(one.outstanding))?;
            self.alone_peer = Some(fewest.peer.id);
            self.alone_since = now;
        }
        None
    }

    /// No worker is kept free any more.
    pub(crate) fn forget_alone(&mut self) {
        self.alone_peer = None;
        self.alone_since = 0;
        self.alone_span = ALONE_MS;
    }

    /// When it is time for [`Channel::end_waits`].
    pub(crate) fn wake(&self) -> Option<u64> {
        let full =
            self.peers.iter().map(|one| one.full_until).filter(|at| (1..u64::MAX).contains(at));
        full.chain(self.alone_wake()).min()
    }

    /// Ends what has lasted long enough: a worker without room may have some again, one that was kept free is for all again.
    pub(crate) fn end_waits(&mut self, now: u64) {
        for one in self.peers.iter_mut().filter(|one| one.full_until <= now) {
            one.full_until = 0;
        }
        if self.alone_wake().is_some_and(|at| at <= now) {
            self.end_reservation(now);
        }
    }

    /// When a worker has been kept free for long enough, or may be again.
    fn alone_wake(&self) -> Option<u64> {
        if self.alone.is_empty() || self.alone_job.is_some() {
            return None;
        }
        match self.alone_peer {
            Some(_) => Some(self.alone_since.saturating_add(self.alone_span)),
            None => (self.alone_since > 0).then_some(self.alone_since),
        }
    }

    /// A worker was kept free for long enough in vain, or none was for as long: the other now, and for longer.
    fn end_reservation(&mut self, now: u64) {
        if self.alone_peer.take().is_some() {
            self.alone_since = now.saturating_add(self.alone_span);
            self.alone_span = (self.alone_span * 2).min(ALONE_MS_MAX);
        } else {
            self.alone_since = 0;
        }
    }

    /// Puts a lane at the end of a ring, and takes it out of where it stood; says its place.
    pub(crate) fn enter(&mut self, ring: Ring, lane: LaneId, before: Option<(Ring, u64)>) -> u64 {
        if let Some((ring, place)) = before {
            self.leave(ring, place);
        }
        let place = self.place_next;
        self.place_next += 1;
        self.ring(ring).insert(place, lane);
        place
    }

    /// Takes a lane out of a ring.
    pub(crate) fn leave(&mut self, ring: Ring, place: u64) {
        self.ring(ring).remove(&place);
    }

    fn ring(&mut self, ring: Ring) -> &mut BTreeMap<u64, LaneId> {
        match ring {
            Ring::Good => &mut self.good,
            Ring::Slow => &mut self.slow,
        }
    }

    /// The lane whose turn it is: good and slow ones take turns, and slow ones may hold at most half of the slots.
    pub(crate) fn next_lane(&mut self) -> Option<LaneId> {
        let slow_may = !self.slow.is_empty() && self.slow_in_use < (self.slots() / 2).max(1);
        let slow = slow_may && (self.good.is_empty() || !self.slow_was_last);
        self.slow_was_last = slow;
        let ring = if slow { &mut self.slow } else { &mut self.good };
        ring.pop_first().map(|(_, lane)| lane)
    }
}
