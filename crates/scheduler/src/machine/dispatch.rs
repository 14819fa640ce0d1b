//! Sending: which lane's turn it is, which worker gets the job, and what the job says.

use std::time::Duration;

use job::deliver::{DeliverRecipient, DeliverRequest};
use mail::MessageId;
use queue::ReportKind;
use socket::PeerId;

use super::backlog::{Message, Place, Slot, Stand};
use super::channel::ChannelId;
use super::lane::{Entry, LaneId};
use super::{Now, Scheduler, Send, Turn, report, retry};

/// How long after its deadline an unanswered job is sent again while its connection lives: an agent waits ten minutes for
/// the answer to the final dot (RFC 5321 section 4.5.3.2.6), and its answer takes its way.
pub(super) const OVERDUE_MS: u64 = 11 * 60_000;
/// From so many strikes on a message's jobs go out alone.
const ALONE_STRIKES: u32 = job::strike::ALONE_FROM_STRIKES;
/// From so many times of sending on, those of jobs that have ended are forgotten when they are most.
const SENT_MANY: usize = 4096;

/// A job that is sent, or waits to go out alone.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) slot: Slot,
    pub(crate) id: MessageId,
    pub(crate) lane: LaneId,
    pub(crate) channel: ChannelId,
    /// The worker it was sent to; none yet while it waits to go out alone.
    pub(crate) peer: Option<PeerId>,
    pub(crate) pid: u32,
    /// Indexes of the recipients it delivers to, or reports about.
    pub(crate) recipients: Vec<u32>,
    pub(crate) report: Option<ReportKind>,
    pub(crate) sent: Now,
    pub(crate) deadline_ms: u64,
    /// Whether it counts among its channel's slow jobs.
    pub(crate) slow: bool,
    /// Whether it has been unanswered for so long that its lane counts as slow.
    pub(crate) long: bool,
    /// Whether it was given up, so that its recipients may be in hand elsewhere; a late answer still counts.
    pub(crate) given_up: bool,
    /// Whether nothing else was in the worker's hand.
    pub(crate) alone: bool,
    /// Whether its worker's crash has been counted against it.
    pub(crate) struck: bool,
}

/// What came of a lane's turn.
enum Sent {
    /// A job went out, or there was none.
    Done,
    /// No worker has room.
    NoRoom,
}

impl Scheduler {
    /// Sends what may be sent in every channel in which something changed.
    pub(super) fn dispatch(&mut self, turn: &mut Turn<'_>) {
        for id in std::mem::take(&mut self.stirred) {
            self.lanes.channel_mut(id).stirred = false;
            self.dispatch_channel(turn, id);
        }
    }

    fn dispatch_channel(&mut self, turn: &mut Turn<'_>, id: ChannelId) {
        self.send_alone(turn, id);
        let channel = self.lanes.channel_mut(id);
        let idle = channel.good.is_empty() && channel.slow.is_empty() && channel.alone.is_empty();
        if !idle && !channel.wanted {
            channel.wanted = true;
            turn.actions.connect.push(id);
        }
        while self.lanes.channel(id).has_room() {
            let Some(lane) = self.lanes.channel_mut(id).next_lane() else { break };
            if let Some(lane) = self.lanes.get_mut(lane) {
                lane.queued = None;
            }
            match self.send_from(turn, lane) {
                // To the end of the ring that it belongs to now, if it has more to send.
                Sent::Done => self.refresh(turn.now, lane),
                Sent::NoRoom => {
                    self.refresh(turn.now, lane);
                    break;
                }
            }
        }
        self.send_alone(turn, id);
    }

    /// Sends the lane's next job.
    fn send_from(&mut self, turn: &mut Turn<'_>, id: LaneId) -> Sent {
        let Some(lane) = self.lanes.get(id) else { return Sent::Done };
        let ready = lane.ready_at(&self.settings).is_some_and(|at| at <= turn.now.mono);
        let Some(first) = lane.waiting.first().copied().filter(|_| ready) else {
            return Sent::Done;
        };
        let alone = self.backlog.message(first.slot).strikes >= ALONE_STRIKES;
        let mut peer = None;
        if !alone {
            peer = self.choose(id);
            if peer.is_none() {
                return Sent::NoRoom;
            }
        }
        let number = self.job_next;
        self.job_next += 1;
        let taken = self.take_from(turn.now, id, first, number);
        let (report, recipients) = match report::kind_of(first.index) {
            Some(kind) => match self.report_recipients(turn, first.slot, kind) {
                Some(recipients) => (Some(kind), recipients),
                None => return Sent::Done,
            },
            None => (None, taken),
        };
        let lane = self.lanes.lane_mut(id);
        lane.active += 1;
        lane.active_recipients += recipients.len() as u32;
        let job = Job {
            slot: first.slot,
            id: self.backlog.message(first.slot).id,
            lane: id,
            channel: lane.channel,
            peer: None,
            pid: 0,
            recipients,
            report,
            sent: turn.now,
            deadline_ms: 0,
            slow: false,
            long: false,
            given_up: false,
            alone,
            struck: false,
        };
        match peer {
            Some(peer) => self.send(turn, number, job, peer),
            None => {
                let channel = job.channel;
                self.lanes.channel_mut(channel).alone.push_back(number);
                self.stir(channel);
                self.jobs.insert(number, job);
            }
        }
        Sent::Done
    }

    fn choose(&mut self, id: LaneId) -> Option<PeerId> {
        let channel = self.lanes.lane(id).channel;
        let mut warm = std::mem::take(&mut self.lanes.lane_mut(id).warm);
        let peer = self.lanes.channel(channel).choose(&mut warm);
        self.lanes.lane_mut(id).warm = warm;
        peer
    }

    /// Takes the first entry of a lane and, for a recipient, those of the same message that follow it and are due.
    fn take_from(&mut self, now: Now, id: LaneId, first: Entry, number: u64) -> Vec<u32> {
        let lane = self.lanes.lane_mut(id);
        let limit = self.settings.job_recipients.min(lane.job_recipients).max(1) as usize;
        let limit = if report::is_report(first.index) { 1 } else { limit };
        let mut taken = Vec::with_capacity(1);
        while taken.len() < limit
            && let Some(entry) = lane.waiting.first().copied()
            && entry.slot == first.slot
            && entry.due <= now.mono
            && report::is_report(entry.index) == report::is_report(first.index)
        {
            lane.waiting.pop_first();
            taken.push(entry.index);
        }
        if lane.waiting.is_empty() {
            lane.oldest = super::lane::NEVER;
            lane.oldest_unreported = super::lane::NEVER;
        }
        let message = self.backlog.message_mut(first.slot);
        for index in &taken {
            match report::kind_of(*index) {
                Some(kind) => {
                    if let Some(owing) = message.owing_mut(kind) {
                        owing.place = Place::InHand(number);
                    }
                }
                None => {
                    if let Some(recipient) = message.recipient_mut(*index) {
                        recipient.place = Place::InHand(number);
                    }
                }
            }
        }
        taken
    }

    /// Sends a job to a worker that has room for it.
    fn send(&mut self, turn: &mut Turn<'_>, number: u64, mut job: Job, peer: PeerId) {
        let request = self.request(&job);
        job.deadline_ms = self.deadline_ms(request.size);
        job.sent = turn.now;
        job.slow = self.lanes.lane(job.lane).is_slow(turn.now);
        job.peer = Some(peer);
        let channel = self.lanes.channel_mut(job.channel);
        channel.in_use += 1;
        channel.slow_in_use += u32::from(job.slow);
        channel.sent.push_back((turn.now.mono, number));
        if channel.sent.len() >= SENT_MANY.max(4 * channel.in_use as usize) {
            let jobs = &self.jobs;
            channel.sent.retain(|(_, sent)| *sent == number || jobs.contains_key(sent));
        }
        if let Some(connected) = channel.peer_mut(peer) {
            connected.outstanding += 1;
            job.pid = connected.peer.pid;
        }
        self.in_hand += 1;
        self.in_hand_recipients += job.recipients.len() as u64;
        self.counts.jobs += 1;
        turn.actions.jobs.push(Send {
            job: number,
            channel: job.channel,
            peer,
            deadline: Duration::from_millis(job.deadline_ms),
            request,
        });
        self.jobs.insert(number, job);
    }

    /// Sends the next job that goes out alone, if its worker has nothing else in hand.
    fn send_alone(&mut self, turn: &mut Turn<'_>, id: ChannelId) {
        if self.lanes.channel(id).alone_job.is_some() {
            return;
        }
        while let Some(number) = self.lanes.channel(id).alone.front().copied() {
            let job = self.jobs.get(&number);
            let message = job.and_then(|job| self.backlog.same(job.slot, &job.id));
            if message.is_none_or(|message| message.hold.is_some()) {
                self.lanes.channel_mut(id).alone.pop_front();
                self.take_back(turn, number);
                continue;
            }
            if self.drop_ended(turn.now, number) == 0 {
                self.lanes.channel_mut(id).alone.pop_front();
                self.take_back(turn, number);
                continue;
            }
            let chosen = self.lanes.channel_mut(id).choose_alone(turn.now.mono);
            let Some((peer, undisturbed)) = chosen else { return };
            let channel = self.lanes.channel_mut(id);
            channel.alone.pop_front();
            channel.alone_job = Some(number);
            if let Some(mut job) = self.jobs.remove(&number) {
                // With a job in hand that was given up, nobody can say which of them kills the worker.
                job.alone = undisturbed;
                self.send(turn, number, job, peer);
            }
            return;
        }
        // Nothing goes out alone any more: no worker is kept free.
        self.lanes.channel_mut(id).forget_alone();
    }

    /// Takes out of a job that waits to go out alone whom an operator ended or held meanwhile; says how many are left.
    fn drop_ended(&mut self, now: Now, number: u64) -> usize {
        let Some(job) = self.jobs.get_mut(&number) else { return 0 };
        if job.report.is_some() {
            return job.recipients.len();
        }
        let (slot, lane) = (job.slot, job.lane);
        let message = self.backlog.message(slot);
        let is_open = |index: &u32| {
            let recipient = message.recipient(*index);
            recipient.is_some_and(|recipient| matches!(recipient.stand, Stand::Open))
        };
        let (left, ended): (Vec<u32>, Vec<u32>) = job.recipients.iter().partition(|i| is_open(i));
        let count = left.len();
        job.recipients = left;
        self.lanes.lane_mut(lane).active_recipients -= ended.len() as u32;
        for index in ended {
            self.free_recipient(now, number, slot, index, now.mono);
        }
        count
    }

    fn deadline_ms(&self, size: u64) -> u64 {
        let longer = u128::from(size) * 1000 / u128::from(self.settings.deadline_rate.0.max(1));
        let longer = u64::try_from(longer).unwrap_or(u64::MAX);
        retry::millis(self.settings.deadline).saturating_add(longer)
    }

    /// What the agent is told.
    fn request(&self, job: &Job) -> DeliverRequest {
        let message = self.backlog.message(job.slot);
        let lane = self.lanes.lane(job.lane);
        let attempt = match job.report {
            Some(kind) => message.owing(kind).map_or(0, |owing| owing.count),
            None => tried(message, &job.recipients),
        };
        let recipients = job
            .recipients
            .iter()
            .filter_map(|index| message.recipient(*index))
            .map(|recipient| DeliverRecipient {
                index: recipient.index,
                address: recipient.address.clone(),
                original: recipient.original().cloned(),
                user: recipient.user().to_owned(),
                notify: recipient.notify(),
                orcpt: recipient.orcpt().map(Into::into),
                outcome: job.report.and_then(|_| self.reported_outcome(recipient)),
            })
            .collect();
        DeliverRequest {
            handle: message.handle.clone(),
            id: message.id,
            sender: message.sender.clone(),
            size: message.size,
            accepted_at: message.accepted_at,
            body: message.body,
            smtputf8: message.smtputf8,
            ret: message.ret,
            envid: message.envid.as_deref().map(Into::into),
            host: lane.host.to_string(),
            attempt: attempt.saturating_add(1),
            routing: message.routing,
            settled: None,
            recipients,
            report: job.report.map(|kind| self.report(message, kind)),
        }
    }

    /// Marks jobs that have been unanswered for long: their lanes count as slow.
    pub(super) fn note_slow(&mut self, now: Now) {
        let slow_after = retry::millis(self.settings.slow_after);
        for (_, channel) in self.lanes.channels_mut() {
            let mut long: Vec<u64> = Vec::new();
            while let Some((at, number)) = channel.sent.front().copied()
                && at.saturating_add(slow_after) <= now.mono
            {
                channel.sent.pop_front();
                long.push(number);
            }
            if long.is_empty() {
                continue;
            }
            for number in long {
                let Some(job) = self.jobs.get_mut(&number) else { continue };
                job.long = true;
                channel.slow_in_use += u32::from(!job.slow);
                job.slow = true;
                let at = job.sent.mono.saturating_add(job.deadline_ms).saturating_add(OVERDUE_MS);
                self.overdue.insert((at, number));
                self.slow_lanes.push(job.lane);
            }
        }
        for lane in std::mem::take(&mut self.slow_lanes) {
            self.lanes.lane_mut(lane).long += 1;
        }
    }

    /// Sends the recipients of jobs again that have been unanswered for too long; their answers still count if they come.
    pub(super) fn give_up_overdue(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now;
        while let Some((at, number)) = self.overdue.first().copied().filter(|e| e.0 <= now.mono) {
            self.overdue.remove(&(at, number));
            let Some(mut job) = self.jobs.remove(&number) else { continue };
            let (id, recipients) = (job.id, job.recipients.len());
            tracing::warn!(%id, recipients, "no answer in time: to be sent again");
            self.leave_lane(turn.now, &job);
            self.free_recipients(turn, number, &job, turn.now.mono);
            let channel = self.lanes.channel_mut(job.channel);
            channel.end_alone(number);
            if let Some(connected) = job.peer.and_then(|peer| channel.peer_mut(peer)) {
                connected.given_up += 1;
                if connected.full_until > 0 {
                    connected.full_until = connected.rests_until(now.mono);
                }
            }
            self.stir(job.channel);
            job.given_up = true;
            self.jobs.insert(number, job);
        }
    }
}

/// How often the recipient tried most often was tried.
fn tried(message: &Message, recipients: &[u32]) -> u32 {
    recipients
        .iter()
        .filter_map(|index| message.recipient(*index))
        .filter(|recipient| matches!(recipient.stand, Stand::Open))
        .map(|recipient| recipient.count)
        .max()
        .unwrap_or(0)
}
