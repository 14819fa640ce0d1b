//! Where things wait: recipients and reports in their lanes, lanes in their channel's rings or in the timers.

use mail::{MessageId, Timestamp};
use queue::{Record, ReportKind, State};

use super::backlog::{Place, Slot, Stand};
use super::channel::{Channel, ChannelId, Peer, Ring};
use super::lane::{Entry, LaneId, NEVER};
use super::{Now, Scheduler, Turn, report, retry};

/// A lane with late recipients is not looked through more often than this, in milliseconds.
const REVIEW_MS_MIN: u64 = 60_000;

impl Scheduler {
    /// Puts everything of a message where its state says.
    pub(super) fn place_message(&mut self, turn: &mut Turn<'_>, slot: Slot) {
        if self.backlog.message(slot).has_ended() {
            self.retire(turn, slot);
            return;
        }
        self.suspend_fresh();
        for position in 0..self.backlog.message(slot).recipients.len() {
            let message = self.backlog.message(slot);
            let index = message.recipients.get(position).map(|recipient| recipient.index);
            if let Some(index) = index {
                self.place(turn.now, slot, index);
            }
        }
        self.note_hold(turn.now, slot);
        self.place_reports(turn, slot);
    }

    /// Puts a recipient that is not in hand where its state says.
    pub(super) fn place(&mut self, now: Now, slot: Slot, index: u32) {
        let message = self.backlog.message(slot);
        let Some(recipient) = message.recipient(index) else { return };
        let may_wait = message.hold.is_none() && matches!(recipient.stand, Stand::Open);
        let due = self.due(now, recipient.next);
        match recipient.place {
            Place::InHand(_) => {}
            Place::Parked if may_wait => self.wait(now, slot, index, due),
            Place::Parked => {}
            Place::Waiting(_) => {
                self.unwait(now, slot, index);
                if may_wait {
                    self.wait(now, slot, index, due);
                }
            }
        }
    }

    /// A point of the wall clock on the monotonic one: never further away than the longest wait there is.
    pub(super) fn due(&self, now: Now, at: Timestamp) -> u64 {
        let wait = at.millis().saturating_sub(now.wall.millis());
        now.mono.saturating_add(wait.min(retry::longest(&self.settings)))
    }

    /// Has a recipient wait in its lane.
    pub(super) fn wait(&mut self, now: Now, slot: Slot, index: u32, due: u64) {
        let due = due.max(self.not_before(&self.backlog.message(slot).id));
        let message = self.backlog.message_mut(slot);
        let accepted_at = message.accepted_at;
        let Some(recipient) = message.recipient_mut(index) else { return };
        recipient.place = Place::Waiting(due);
        let (lane, reported) = (recipient.lane, recipient.delay_reported);
        self.enter(now, lane, Entry { due, accepted_at, slot, index }, !reported);
    }

    /// Puts an entry into a lane.
    pub(super) fn enter(&mut self, now: Now, id: LaneId, entry: Entry, may_be_late: bool) {
        let lane = self.lanes.lane_mut(id);
        lane.oldest = lane.oldest.min(entry.accepted_at);
        if may_be_late {
            lane.oldest_unreported = lane.oldest_unreported.min(entry.accepted_at);
        }
        lane.waiting.insert(entry);
        if lane.queued.is_none() {
            self.refresh(now, id);
        }
    }

    /// Takes a waiting recipient out of its lane.
    pub(super) fn unwait(&mut self, now: Now, slot: Slot, index: u32) {
        let message = self.backlog.message_mut(slot);
        let accepted_at = message.accepted_at;
        let Some(recipient) = message.recipient_mut(index) else { return };
        let lane = recipient.lane;
        if let Place::Waiting(due) = recipient.place {
            recipient.place = Place::Parked;
            self.leave(now, lane, Entry { due, accepted_at, slot, index });
        }
    }

    /// Takes an entry out of a lane.
    pub(super) fn leave(&mut self, now: Now, id: LaneId, entry: Entry) {
        let lane = self.lanes.lane_mut(id);
        let removed = lane.waiting.remove(&entry);
        debug_assert!(removed, "what waits stands in its lane");
        if lane.waiting.is_empty() {
            lane.oldest = NEVER;
            lane.oldest_unreported = NEVER;
        }
        self.refresh(now, id);
    }

    /// Sees whether a lane can send: into its channel's ring if so, else into the timers if time will make it ready.
    pub(super) fn refresh(&mut self, now: Now, id: LaneId) {
        let Some(lane) = self.lanes.get_mut(id) else { return };
        let ready_at = lane.ready_at(&self.settings);
        let ready = ready_at.is_some_and(|at| at <= now.mono);
        let ring = if lane.is_slow(now) { Ring::Slow } else { Ring::Good };
        if ready && lane.queued.is_none_or(|(present, _)| present != ring) {
            // One that became proven while it stood among the slow ones stands there no longer.
            let (before, channel) = (lane.queued, lane.channel);
            let place = self.lanes.channel_mut(channel).enter(ring, id, before);
            self.lanes.lane_mut(id).queued = Some((ring, place));
            self.stir(channel);
        }
        self.set_timer(id, ready_at.filter(|_| !ready));
    }

    fn set_timer(&mut self, id: LaneId, ready_at: Option<u64>) {
        let lane = self.lanes.lane_mut(id);
        let wanted = match (ready_at, lane.review_at) {
            (Some(ready), Some(review)) => Some(ready.min(review)),
            (ready, review) => ready.or(review),
        };
        if lane.timer == wanted {
            return;
        }
        if let Some(before) = lane.timer {
            self.timers.remove(&(before, id));
        }
        if let Some(at) = wanted {
            self.timers.insert((at, id));
        }
        lane.timer = wanted;
    }

    /// Has a channel looked at when this turn ends.
    pub(super) fn stir(&mut self, id: ChannelId) {
        let channel = self.lanes.channel_mut(id);
        if !channel.stirred {
            channel.stirred = true;
            self.stirred.push(id);
        }
    }

    pub(super) fn stir_all(&mut self) {
        let all: Vec<ChannelId> = self.lanes.channels_mut().map(|(id, _)| id).collect();
        for id in all {
            self.stir(id);
        }
    }

    pub(super) fn set_peers(&mut self, id: ChannelId, peers: &[Peer]) {
        self.lanes.channel_mut(id).set_peers(peers);
        self.stir(id);
    }

    /// Does everything whose time has come.
    pub(super) fn run_timers(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now;
        self.grace = self.grace.filter(|grace| grace.until > now.mono);
        self.end_suspensions(now);
        while let Some((at, id)) = self.timers.first().copied().filter(|(at, _)| *at <= now.mono) {
            self.timers.remove(&(at, id));
            let Some(lane) = self.lanes.get_mut(id).filter(|lane| lane.timer == Some(at)) else {
                continue;
            };
            lane.timer = None;
            if lane.review_at.is_some_and(|review| review <= now.mono) {
                lane.review_at = None;
                self.review(turn, id);
            }
            self.refresh(now, id);
        }
        self.note_slow(now);
        self.give_up_overdue(turn);
        while let Some((at, slot, id)) =
            self.quarantine.first().copied().filter(|e| e.0 <= now.mono)
        {
            self.quarantine.remove(&(at, slot, id));
            self.remove_held(turn, slot, id);
        }
        self.parts.forget_old(now.mono);
        self.end_waits(now);
    }

    /// Lets jobs go again to workers that got none for long enough.
    fn end_waits(&mut self, now: Now) {
        let mut stirred = Vec::new();
        for (id, channel) in self.lanes.channels_mut() {
            if channel.wake().is_some_and(|at| at <= now.mono) {
                channel.end_waits(now.mono);
                stirred.push(id);
            }
        }
        for id in stirred {
            self.stir(id);
        }
    }

    /// Plans when to look for those in a lane whose senders are to be told of the delay.
    pub(super) fn plan_review(&mut self, now: Now, id: LaneId) {
        let notice = retry::millis(self.settings.delay_notice);
        let lane = self.lanes.lane_mut(id);
        if notice == 0 || lane.oldest_unreported == NEVER {
            return;
        }
        let late = lane.oldest_unreported.millis().saturating_add(notice);
        let wait = late.saturating_sub(now.wall.millis()).min(notice);
        let at = now.mono.saturating_add(wait);
        if lane.review_at.is_none_or(|planned| at < planned) {
            lane.review_at = Some(at);
            let ready_at = lane.ready_at(&self.settings).filter(|at| *at > now.mono);
            self.set_timer(id, ready_at);
        }
    }

    /// Owes a report of delay for those that wait in a lane for too long and were tried, or could not be because the lane failed.
    fn review(&mut self, turn: &mut Turn<'_>, id: LaneId) {
        let notice = retry::millis(self.settings.delay_notice);
        if notice == 0 {
            return;
        }
        let lane = self.lanes.lane(id);
        let failing = lane.failures > 0;
        let mut late: Vec<(Slot, u32)> = Vec::new();
        let mut oldest = NEVER;
        for entry in lane.waiting.iter().filter(|entry| !report::is_report(entry.index)) {
            if entry.accepted_at.millis().saturating_add(notice) > turn.now.wall.millis() {
                // Whether it is to be reported then is seen then: most need not be unpacked.
                oldest = oldest.min(entry.accepted_at);
                continue;
            }
            let message = self.backlog.look(entry.slot);
            let Some(recipient) = message.recipient(entry.index) else { continue };
            let told = recipient.notify().unwrap_or(mail::Notify::DEFAULT).delay;
            let tried = failing || recipient.count > 0;
            if tried && told && !recipient.delay_reported && message.sender.is_some() {
                late.push((entry.slot, entry.index));
            }
        }
        late.sort_unstable();
        for group in late.chunk_by(|left, right| left.0 == right.0) {
            let Some((slot, _)) = group.first() else { continue };
            let recipients = group.iter().map(|(_, index)| *index).collect();
            self.owe(turn, *slot, ReportKind::Delay, recipients, turn.now.wall);
        }
        let lane = self.lanes.lane_mut(id);
        lane.oldest_unreported = oldest;
        if oldest != NEVER {
            let late = oldest.millis().saturating_add(notice);
            let wait = late
                .saturating_sub(turn.now.wall.millis())
                .clamp(REVIEW_MS_MIN, notice.max(REVIEW_MS_MIN));
            lane.review_at = Some(turn.now.mono.saturating_add(wait));
        }
    }

    /// Fails those that wait in a lane which has failed through a whole back-off, from before `through` on, since they expired.
    pub(super) fn expire_waiting(&mut self, turn: &mut Turn<'_>, id: LaneId, through: Timestamp) {
        let expire = self.settings.expire.0;
        let lane = self.lanes.lane(id);
        if lane.oldest.after(expire) > through {
            return;
        }
        let mut oldest = NEVER;
        let mut expired: Vec<(Slot, u32)> = Vec::new();
        for entry in lane.waiting.iter().filter(|entry| !report::is_report(entry.index)) {
            if entry.accepted_at.after(expire) <= through {
                expired.push((entry.slot, entry.index));
            } else {
                oldest = oldest.min(entry.accepted_at);
            }
        }
        let last = lane.last.clone();
        self.lanes.lane_mut(id).oldest = oldest;
        expired.sort_unstable();
        for group in expired.chunk_by(|left, right| left.0 == right.0) {
            let Some((slot, _)) = group.first() else { continue };
            let message = self.backlog.message(*slot);
            let changes = group
                .iter()
                .filter_map(|(_, index)| message.recipient(*index))
                .map(|recipient| {
                    let last = recipient.last.as_deref().or(last.as_deref());
                    (recipient.index, State::Failed(self.expired(last)))
                })
                .collect();
            self.counts.expired += group.len() as u64;
            self.change(turn, *slot, changes);
        }
    }

    /// Remembers when a message that came held, or with held recipients, is to be removed. What an operator or a strike holds
    /// is never removed by itself.
    pub(super) fn note_hold(&mut self, now: Now, slot: Slot) {
        let Some(span) = self.settings.quarantine_expire else { return };
        if !self.backlog.has_hold(slot) {
            return;
        }
        let message = self.backlog.look(slot);
        if message.quarantined || message.recipients.iter().any(|r| r.quarantined) {
            let at = message.accepted_at.after(span.0);
            let wait = at.millis().saturating_sub(now.wall.millis());
            self.quarantine.insert((now.mono.saturating_add(wait), slot, message.id));
        }
    }

    fn remove_held(&mut self, turn: &mut Turn<'_>, slot: Slot, id: MessageId) {
        let Some(message) = self.backlog.same(slot, &id) else { return };
        let whole = message.hold.is_some() && message.quarantined;
        if message.hold.is_some() && !whole {
            return;
        }
        let removed: Vec<(u32, State)> = message
            .recipients
            .iter()
            .filter(|r| match r.stand {
                Stand::Open => whole,
                Stand::Held(_) => r.quarantined,
                _ => false,
            })
            .map(|recipient| (recipient.index, State::Removed))
            .collect();
        if removed.is_empty() {
            return;
        }
        tracing::info!(id = %id, recipients = removed.len(), "held for too long: removed");
        if whole {
            self.record(turn, Record::Hold { id, reason: None });
        }
        self.change(turn, slot, removed);
    }

    /// Looks up whether lanes made since the last call are suspended.
    pub(super) fn suspend_fresh(&mut self) {
        for id in std::mem::take(&mut self.lanes.fresh) {
            if !self.backlog.suspended.is_empty() {
                self.look_up_suspension(id);
            }
        }
    }

    fn look_up_suspension(&mut self, id: LaneId) {
        let Some(lane) = self.lanes.get(id) else { return };
        let channel = self.lanes.channel_name(lane.channel).to_owned();
        let host = Some(lane.host.to_string());
        let suspended = self.backlog.suspended.contains_key(&(channel.clone(), None))
            || self.backlog.suspended.contains_key(&(channel, host));
        self.lanes.lane_mut(id).suspended = suspended;
    }

    /// Makes the lanes follow the suspensions that are written down.
    pub(super) fn take_suspensions(&mut self, now: Now) {
        self.lanes.fresh.clear();
        let all: Vec<LaneId> = self.lanes.iter().map(|(id, _)| id).collect();
        for id in all {
            self.look_up_suspension(id);
            self.refresh(now, id);
        }
    }

    /// Plans the ends of the suspensions that were replayed.
    pub(super) fn begin_suspensions(&mut self, turn: &Turn<'_>) {
        let now = turn.now;
        let all: Vec<_> =
            self.backlog.suspended.iter().map(|(lane, until)| (lane.clone(), *until)).collect();
        for (lane, until) in all {
            self.plan_resume(now, lane, until);
        }
        self.end_suspensions(now);
        self.take_suspensions(now);
    }

    /// Plans the end of a suspension.
    pub(super) fn plan_resume(
        &mut self,
        now: Now,
        lane: (String, Option<String>),
        until: Timestamp,
    ) {
        if until == NEVER {
            self.suspensions.remove(&lane);
        } else {
            let wait = until.millis().saturating_sub(now.wall.millis());
            self.suspensions.insert(lane, now.mono.saturating_add(wait));
        }
    }

    fn end_suspensions(&mut self, now: Now) {
        let ended: Vec<_> = self
            .suspensions
            .iter()
            .filter(|(_, at)| **at <= now.mono)
            .map(|(lane, _)| lane.clone())
            .collect();
        for lane in &ended {
            self.suspensions.remove(lane);
            self.backlog.suspended.remove(lane);
        }
        if !ended.is_empty() {
            self.take_suspensions(now);
        }
    }

    /// When the next thing is due.
    pub(super) fn wake(&mut self) -> Option<u64> {
        let slow_after = retry::millis(self.settings.slow_after);
        let workers = self.lanes.channels().filter_map(Channel::wake).min();
        let (jobs, parts) = (&self.jobs, self.parts.first_forgotten());
        let slow = self.lanes.channels_mut().filter_map(|(_, channel)| {
            while channel.sent.front().is_some_and(|(_, job)| !jobs.contains_key(job)) {
                channel.sent.pop_front();
            }
            channel.sent.front().map(|(at, _)| at.saturating_add(slow_after))
        });
        [
            slow.min(),
            workers,
            self.timers.first().map(|(at, _)| *at),
            self.overdue.first().map(|(at, _)| *at),
            self.quarantine.first().map(|(at, ..)| *at),
            self.suspensions.values().min().copied(),
            parts,
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
