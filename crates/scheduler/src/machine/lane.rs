//! Lanes: all recipients with the same channel and host, and how well that destination does.
//!
//! ```text
//!            first job            success                          failure of the destination
//!  unproven ───────────▶ (slow) ───────────▶ proven, concurrency +1 ───────────▶ backing off until its time
//!                                                ▲                                   │ one probe
//!                                                └──────────── success ──────────────┤
//!                                                              failure: next step ───┘
//! ```

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use mail::{Reply, Timestamp};
use socket::PeerId;

use super::backlog::Slot;
use super::channel::{Channel, ChannelId, Ring};
use super::{Now, retry};
use crate::Settings;

/// Lanes without a recipient that are remembered for their open connections and their concurrency.
const IDLE_LANES_MAX: usize = 10_000;

/// A lane; used again after the lane has gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LaneId(pub(crate) u32);

/// Something that waits in a lane, in the order in which it is taken: by when it is due, then by the age of its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) due: u64,
    pub(crate) accepted_at: Timestamp,
    pub(crate) slot: Slot,
    /// A recipient's index, or a report's number (see [`super::report`]).
    pub(crate) index: u32,
}

/// A lane.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) channel: ChannelId,
    pub(crate) host: Rc<str>,
    /// Recipients in memory that name it, final ones too.
    references: u32,
    /// Since which rest it is without a recipient.
    idle: Option<u64>,
    pub(crate) waiting: BTreeSet<Entry>,
    /// Jobs in hand.
    pub(crate) active: u32,
    /// Recipients in those jobs.
    pub(crate) active_recipients: u32,
    /// Jobs it may have in hand when it does not back off.
    pub(crate) concurrency: u32,
    /// Failures of the destination in a row.
    pub(crate) failures: u32,
    /// When the last of them was.
    pub(crate) failed_at: Now,
    /// When the next job may go out: the back-off, or a pause that the destination asked for.
    pub(crate) not_before: u64,
    pub(crate) suspended: bool,
    /// When it last did well.
    pub(crate) proven_at: Option<u64>,
    /// Jobs in hand that have been unanswered for long.
    pub(crate) long: u32,
    /// What the destination last said when it failed.
    pub(crate) last: Option<Rc<Reply>>,
    /// Workers with an open connection to the host, the longest unused first.
    pub(crate) warm: VecDeque<PeerId>,
    /// No message that waits here was accepted before.
    pub(crate) oldest: Timestamp,
    /// None of those whose delay is still to be reported was accepted before.
    pub(crate) oldest_unreported: Timestamp,
    /// When those that wait are to be looked at for late ones.
    pub(crate) review_at: Option<u64>,
    /// When it stands in the scheduler's timers.
    pub(crate) timer: Option<u64>,
    /// The ring of its channel in which it stands, and its place there.
    pub(crate) queued: Option<(Ring, u64)>,
    /// Recipients in one job: lowered when a job did not fit into a frame.
    pub(crate) job_recipients: u32,
}

/// How long a lane that did well counts as connected without another success, in milliseconds.
const PROVEN_MS: u64 = 5 * 60_000;
/// A time later than any.
pub(crate) const NEVER: Timestamp = Timestamp::from_millis(u64::MAX);

impl Lane {
    /// Whether any recipient in memory names it.
    pub(crate) fn is_used(&self) -> bool {
        self.references > 0
    }

    fn new(channel: ChannelId, host: Rc<str>) -> Self {
        Self {
            channel,
            host,
            references: 0,
            idle: None,
            waiting: BTreeSet::new(),
            active: 0,
            active_recipients: 0,
            concurrency: 0,
            failures: 0,
            failed_at: Now::default(),
            not_before: 0,
            suspended: false,
            proven_at: None,
            long: 0,
            last: None,
            warm: VecDeque::new(),
            oldest: NEVER,
            oldest_unreported: NEVER,
            review_at: None,
            timer: None,
            queued: None,
            job_recipients: u32::MAX,
        }
    }

    /// How many jobs it may have in hand now: a single probe while it backs off.
    pub(crate) fn limit(&self, settings: &Settings) -> u32 {
        if self.failures > 0 {
            1
        } else {
            self.concurrency.clamp(settings.lane_start, settings.lane_max)
        }
    }

    /// When its next job may go out; nothing when only another event can tell.
    pub(crate) fn ready_at(&self, settings: &Settings) -> Option<u64> {
        if self.suspended || self.active >= self.limit(settings) {
            return None;
        }
        self.waiting.first().map(|first| first.due.max(self.not_before))
    }

    /// Whether it counts against the half of a channel that lanes may hold which are connecting, failed last time or wait long.
    pub(crate) fn is_slow(&self, now: Now) -> bool {
        let proven = self.proven_at.is_some_and(|at| now.mono.saturating_sub(at) < PROVEN_MS);
        self.failures > 0 || self.long > 0 || !proven
    }

    /// The destination did well in a job sent at `sent`. A success that was on its way before a failure proves nothing.
    pub(crate) fn succeeded(&mut self, sent: u64, delivered: bool, now: Now, settings: &Settings) {
        if self.failures > 0 && sent <= self.failed_at.mono {
            return;
        }
        if self.failures > 0 {
            self.failures = 0;
            self.not_before = self.not_before.min(now.mono);
        }
        self.proven_at = Some(now.mono);
        self.last = None;
        if delivered {
            self.concurrency = (self.limit(settings) + 1).min(settings.lane_max);
        }
    }

    /// The destination failed a job sent at `sent`. Says, when this is not one more of a burst already counted, since when
    /// it has failed through a whole back-off.
    pub(crate) fn failed(
        &mut self,
        sent: u64,
        reply: Reply,
        now: Now,
        settings: &Settings,
        chance: u64,
    ) -> Option<Option<Timestamp>> {
        self.last = Some(Rc::new(reply));
        self.warm.clear();
        if self.failures > 0 && sent <= self.failed_at.mono {
            return None;
        }
        let through = (self.failures > 0).then_some(self.failed_at.wall);
        self.failures = self.failures.saturating_add(1);
        self.failed_at = now;
        self.concurrency = settings.lane_start;
        let wait = retry::jittered(retry::delay(settings, self.failures), chance);
        self.not_before = self.not_before.max(now.mono.saturating_add(wait));
        Some(through)
    }
}

/// All lanes and channels.
#[derive(Default)]
pub(crate) struct Lanes {
    lanes: Vec<Option<Box<Lane>>>,
    free: Vec<LaneId>,
    /// Lanes at rest, each with the number of its rest; those that were needed again meanwhile are passed over.
    idle: VecDeque<(LaneId, u64)>,
    rests: u64,
    idle_count: usize,
    names: BTreeMap<String, ChannelId>,
    channels: Vec<Channel>,
    hosts: Vec<HashMap<Rc<str>, LaneId>>,
    /// Lanes made since they were last asked for: their suspension is to be looked up.
    pub(crate) fresh: Vec<LaneId>,
}

impl Lanes {
    /// How many lanes have recipients or jobs.
    pub(crate) fn used(&self) -> usize {
        self.lanes.len() - self.free.len() - self.idle_count
    }

    /// The channel of that name, made if there is none.
    pub(crate) fn channel_id(&mut self, name: &str) -> ChannelId {
        if let Some(id) = self.names.get(name) {
            return *id;
        }
        let id = ChannelId(u32::try_from(self.channels.len()).expect("fewer channels than 2^32"));
        self.channels.push(Channel::new(name));
        self.hosts.push(HashMap::new());
        self.names.insert(name.to_owned(), id);
        id
    }

    /// A channel.
    pub(crate) fn channel(&self, id: ChannelId) -> &Channel {
        self.channels.get(id.0 as usize).expect("channels are never removed")
    }

    /// A channel, to be changed.
    pub(crate) fn channel_mut(&mut self, id: ChannelId) -> &mut Channel {
        self.channels.get_mut(id.0 as usize).expect("channels are never removed")
    }

    /// Every channel.
    pub(crate) fn channels_mut(&mut self) -> impl Iterator<Item = (ChannelId, &mut Channel)> {
        (0..).map(ChannelId).zip(self.channels.iter_mut())
    }

    /// Every channel, to look at.
    pub(crate) fn channels(&self) -> impl Iterator<Item = &Channel> {
        self.channels.iter()
    }

    /// A channel's name.
    pub(crate) fn channel_name(&self, id: ChannelId) -> &str {
        &self.channel(id).name
    }

    /// The lane of a channel's name and a host, made if there is none; it stays until released as often as held.
    pub(crate) fn hold(&mut self, channel: &str, host: &str) -> LaneId {
        let channel = self.channel_id(channel);
        let id = match self.hosts.get(channel.0 as usize).and_then(|hosts| hosts.get(host)) {
            Some(id) => *id,
            None => self.make(channel, host),
        };
        let lane = self.lane_mut(id);
        lane.references += 1;
        if lane.idle.take().is_some() {
            self.idle_count -= 1;
        }
        id
    }

    fn make(&mut self, channel: ChannelId, host: &str) -> LaneId {
        let host: Rc<str> = host.into();
        let lane = Some(Box::new(Lane::new(channel, Rc::clone(&host))));
        let id = self.free.pop().unwrap_or_else(|| {
            self.lanes.push(None);
            LaneId(u32::try_from(self.lanes.len() - 1).expect("fewer lanes than 2^32"))
        });
        if let Some(place) = self.lanes.get_mut(id.0 as usize) {
            *place = lane;
        }
        if let Some(hosts) = self.hosts.get_mut(channel.0 as usize) {
            hosts.insert(host, id);
        }
        self.fresh.push(id);
        id
    }

    /// Lets go of a lane held. Without a recipient and a job it is remembered until too many are.
    pub(crate) fn release(&mut self, id: LaneId) {
        let lane = self.lane_mut(id);
        lane.references -= 1;
        self.rest(id);
    }

    /// Puts a lane that nobody needs into the list of those that may be forgotten, and forgets the one that rested longest.
    pub(crate) fn rest(&mut self, id: LaneId) {
        let rest = self.rests;
        let lane = self.lane_mut(id);
        let needed = lane.references > 0 || lane.active > 0 || !lane.waiting.is_empty();
        if needed || lane.idle.is_some() {
            return;
        }
        lane.idle = Some(rest);
        self.rests += 1;
        self.idle_count += 1;
        self.idle.push_back((id, rest));
        if self.idle.len() > IDLE_LANES_MAX
            && let Some((oldest, rest)) = self.idle.pop_front()
            && self.get(oldest).is_some_and(|lane| lane.idle == Some(rest))
        {
            self.forget(oldest);
        }
    }

    fn forget(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(id.0 as usize).and_then(Option::take) else { return };
        if let Some(hosts) = self.hosts.get_mut(lane.channel.0 as usize) {
            hosts.remove(&lane.host);
        }
        if let Some((ring, place)) = lane.queued {
            self.channel_mut(lane.channel).leave(ring, place);
        }
        self.idle_count -= 1;
        self.free.push(id);
    }

    /// Plans to look for late recipients no more.
    pub(crate) fn forget_reviews(&mut self) {
        self.lanes.iter_mut().flatten().for_each(|lane| lane.review_at = None);
    }

    /// A lane that is held.
    pub(crate) fn lane(&self, id: LaneId) -> &Lane {
        self.get(id).expect("a lane is kept while something names it")
    }

    /// A lane that is held, to be changed.
    pub(crate) fn lane_mut(&mut self, id: LaneId) -> &mut Lane {
        self.get_mut(id).expect("a lane is kept while something names it")
    }

    /// A lane, if it still is.
    pub(crate) fn get(&self, id: LaneId) -> Option<&Lane> {
        self.lanes.get(id.0 as usize)?.as_deref()
    }

    /// A lane, if it still is, to be changed.
    pub(crate) fn get_mut(&mut self, id: LaneId) -> Option<&mut Lane> {
        self.lanes.get_mut(id.0 as usize)?.as_deref_mut()
    }

    /// Every lane.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (LaneId, &Lane)> {
        (0..)
            .map(LaneId)
            .zip(&self.lanes)
            .filter_map(|(id, lane)| lane.as_deref().map(|lane| (id, lane)))
    }
}
