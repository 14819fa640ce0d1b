//! Channels: the connected workers of a farm of agents, their slots, and the lanes that wait for one.

use std::collections::VecDeque;

use socket::PeerId;

use super::lane::LaneId;

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
}

/// A channel.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) name: String,
    /// The most jobs in hand in all its workers; 0 is no limit.
    pub(crate) slots_max: u32,
    pub(crate) peers: Vec<Connected>,
    /// Jobs sent and not answered.
    pub(crate) in_use: u32,
    /// Jobs of slow lanes among them.
    pub(crate) slow_in_use: u32,
    /// Lanes ready to send that do well, and those that are slow; each once, in turn.
    pub(crate) good: VecDeque<LaneId>,
    pub(crate) slow: VecDeque<LaneId>,
    /// Whether a slow lane had the last turn.
    slow_was_last: bool,
    /// Whether something changed that may let a lane send.
    pub(crate) stirred: bool,
    /// Whether the shell was asked to connect.
    pub(crate) wanted: bool,
    /// Jobs that go out alone, in order.
    pub(crate) alone: VecDeque<u64>,
    /// The worker that is kept free for them.
    pub(crate) alone_peer: Option<PeerId>,
    /// The one of them that is in that worker's hand.
    pub(crate) alone_job: Option<u64>,
    /// When each job was sent, in order, until it counts as slow.
    pub(crate) sent: VecDeque<(u64, u64)>,
}

impl Channel {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            slots_max: 0,
            peers: Vec::new(),
            in_use: 0,
            slow_in_use: 0,
            good: VecDeque::new(),
            slow: VecDeque::new(),
            slow_was_last: false,
            stirred: false,
            wanted: false,
            alone: VecDeque::new(),
            alone_peer: None,
            alone_job: None,
            sent: VecDeque::new(),
        }
    }

    /// Takes over who is connected now; counts of those that stay are kept.
    pub(crate) fn set_peers(&mut self, peers: &[Peer]) {
        let before = std::mem::take(&mut self.peers);
        for peer in peers {
            let outstanding = before
                .iter()
                .find(|old| old.peer.id == peer.id)
                .map_or(0, |connected| connected.outstanding);
            self.peers.push(Connected { peer: *peer, outstanding });
        }
        if self.alone_peer.is_some_and(|id| self.peer_mut(id).is_none_or(|c| c.peer.draining)) {
            self.alone_peer = None;
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
                && connected.outstanding < connected.peer.window
                && self.alone_peer != Some(connected.peer.id)
        })
    }

    /// The job that went out alone has ended, or is waited for no longer.
    pub(crate) fn end_alone(&mut self, number: u64) {
        if self.alone_job == Some(number) {
            self.alone_job = None;
            self.alone_peer = None;
        }
    }

    /// Whether any worker has room.
    pub(crate) fn has_room(&self) -> bool {
        (self.slots_max == 0 || self.in_use < self.slots_max) && self.with_room().next().is_some()
    }

    /// Keeps a worker free for a job that goes out alone, and says which once it has nothing else in hand.
    pub(crate) fn choose_alone(&mut self) -> Option<PeerId> {
        if self.alone_peer.is_none() {
            let fewest = self
                .peers
                .iter()
                .filter(|connected| !connected.peer.draining && connected.peer.window > 0)
                .min_by_key(|connected| connected.outstanding)?;
            self.alone_peer = Some(fewest.peer.id);
        }
        let id = self.alone_peer?;
        let free = self.peer_mut(id).is_some_and(|connected| connected.outstanding == 0);
        free.then_some(id)
    }

    /// The lane whose turn it is: good and slow ones take turns, and slow ones may hold at most half of the slots.
    pub(crate) fn next_lane(&mut self) -> Option<LaneId> {
        let slow_may = !self.slow.is_empty() && self.slow_in_use < (self.slots() / 2).max(1);
        let slow = slow_may && (self.good.is_empty() || !self.slow_was_last);
        self.slow_was_last = slow;
        if slow { self.slow.pop_front() } else { self.good.pop_front() }
    }
}
