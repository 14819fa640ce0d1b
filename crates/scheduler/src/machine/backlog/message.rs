//! A live message in memory, and how each of its recipients stands.

mod packed;

use mail::{Address, BodyType, Delivered, MessageId, Notify, Reply, Ret, Timestamp};
use queue::{Attempt, Handle, Owed, Record, ReportKind, Routed, RoutedRecipient, State};

use crate::machine::lane::{LaneId, Lanes};

/// A live message.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) id: MessageId,
    pub(crate) handle: Handle,
    pub(crate) routing: u32,
    /// The routing number that an operator asked for.
    pub(crate) reroute: Option<u32>,
    pub(crate) sender: Option<Address>,
    pub(crate) size: u64,
    pub(crate) accepted_at: Timestamp,
    pub(crate) body: BodyType,
    pub(crate) smtputf8: bool,
    pub(crate) ret: Option<Ret>,
    pub(crate) envid: Option<Box<str>>,
    pub(crate) hold: Option<Box<str>>,
    /// Whether the hold came with the routing: only such a hold ends by itself.
    pub(crate) quarantined: bool,
    pub(crate) recipients: Vec<Recipient>,
    pub(crate) owing: Vec<Owing>,
    pub(crate) strikes: u32,
    /// Recipients not final.
    pub(crate) open: u32,
}

/// A recipient of a live message.
#[derive(Debug)]
pub(crate) struct Recipient {
    pub(crate) index: u32,
    pub(crate) lane: LaneId,
    pub(crate) address: Address,
    /// Nothing when it is the address.
    user: Option<Box<str>>,
    details: Option<Box<Details>>,
    pub(crate) count: u32,
    pub(crate) delay_reported: bool,
    /// Whether it came held with the routing.
    pub(crate) quarantined: bool,
    /// Not written down: connections lost with it in hand since the last answer.
    pub(crate) losses: u8,
    pub(crate) next: Timestamp,
    pub(crate) last: Option<Box<Reply>>,
    pub(crate) stand: Stand,
    /// Not written down: where it is at this moment.
    pub(crate) place: Place,
}

/// What most recipients lack.
#[derive(Debug)]
struct Details {
    original: Option<Address>,
    orcpt: Option<Box<str>>,
    notify: Option<Notify>,
}

/// [`State`] without what [`Recipient`] holds beside it.
#[derive(Debug)]
pub(crate) enum Stand {
    Open,
    Held(Box<str>),
    Delivered(Box<Delivered>),
    Failed(Box<Reply>),
    Removed,
}

/// Where an open recipient, or a report owed, is at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Place {
    /// Nowhere: final, held, or a report whose record has not been synced.
    #[default]
    Parked,
    /// In its lane, due at this point of the monotonic clock.
    Waiting(u64),
    /// In the job of this number.
    InHand(u64),
}

/// A report owed, one per kind and message.
#[derive(Debug)]
pub(crate) struct Owing {
    pub(crate) kind: ReportKind,
    pub(crate) recipients: Vec<u32>,
    pub(crate) due: Timestamp,
    /// Not written down: attempts at it that were deferred.
    pub(crate) count: u32,
    /// Not written down: connections lost with it in hand since the last answer.
    pub(crate) losses: u8,
    /// Not written down: when the first of those attempts was made, on the monotonic clock.
    pub(crate) tried_since: Option<u64>,
    /// Not written down: the batch of its last record.
    pub(crate) recorded: u64,
    /// Not written down.
    pub(crate) place: Place,
}

impl Owing {
    /// A report owed that waits for its record's sync.
    pub(super) fn new(kind: ReportKind, recipients: Vec<u32>, due: Timestamp) -> Self {
        Self {
            kind,
            recipients,
            due,
            count: 0,
            losses: 0,
            tried_since: None,
            recorded: 0,
            place: Place::Parked,
        }
    }
}

impl Message {
    /// A message as the ledger has it.
    pub(super) fn new(routed: &Routed, lanes: &mut Lanes) -> Self {
        let recipients: Vec<Recipient> =
            routed.recipients.iter().map(|routed| Recipient::new(routed, lanes)).collect();
        let open = recipients.iter().filter(|recipient| recipient.is_open()).count();
        Self {
            id: routed.id,
            handle: routed.handle.clone(),
            routing: routed.routing,
            reroute: None,
            sender: routed.sender.clone(),
            size: routed.size,
            accepted_at: routed.accepted_at,
            body: routed.body,
            smtputf8: routed.smtputf8,
            ret: routed.ret,
            envid: routed.envid.as_deref().map(Into::into),
            hold: routed.hold.as_deref().map(Into::into),
            quarantined: routed.hold.is_some(),
            recipients,
            owing: routed
                .owed
                .iter()
                .map(|owed| Owing::new(owed.kind, owed.recipients.clone(), owed.due))
                .collect(),
            strikes: routed.strikes,
            open: u32::try_from(open).unwrap_or(u32::MAX),
        }
    }

    /// The message as the ledger writes it.
    pub(crate) fn routed(&self, lanes: &Lanes) -> Routed {
        Routed {
            id: self.id,
            handle: self.handle.clone(),
            routing: self.routing,
            sender: self.sender.clone(),
            size: self.size,
            accepted_at: self.accepted_at,
            body: self.body,
            smtputf8: self.smtputf8,
            ret: self.ret,
            envid: self.envid.as_deref().map(Into::into),
            hold: self.hold.as_deref().map(Into::into),
            recipients: self.recipients.iter().map(|recipient| recipient.routed(lanes)).collect(),
            owed: self.owing.iter().map(Owing::owed).collect(),
            strikes: self.strikes,
        }
    }

    /// What is to be written behind [`Message::routed`], so that a hold which did not come with the routing never ends by
    /// itself.
    pub(crate) fn held_by_hand(&self, of: impl Fn(u32) -> bool) -> impl Iterator<Item = Record> {
        let id = self.id;
        let hold = self.hold.as_deref().filter(|_| !self.quarantined);
        let whole = hold.map(|reason| Record::Hold { id, reason: Some(reason.into()) });
        let recipients: Vec<(u32, State)> = self
            .recipients
            .iter()
            .filter(|recipient| matches!(recipient.stand, Stand::Held(_)) && !recipient.quarantined)
            .filter(|recipient| of(recipient.index))
            .map(|recipient| (recipient.index, recipient.state()))
            .collect();
        let some = (!recipients.is_empty()).then_some(Record::Outcome { id, recipients });
        whole.into_iter().chain(some)
    }

    /// The recipient of that index.
    pub(crate) fn recipient(&self, index: u32) -> Option<&Recipient> {
        self.position(index).and_then(|position| self.recipients.get(position))
    }

    /// The same, to be changed.
    pub(crate) fn recipient_mut(&mut self, index: u32) -> Option<&mut Recipient> {
        self.position(index).and_then(|position| self.recipients.get_mut(position))
    }

    /// Recipients are sorted by index, and mostly numbered without a gap.
    fn position(&self, index: u32) -> Option<usize> {
        let guess = index as usize;
        match self.recipients.get(guess) {
            Some(recipient) if recipient.index == index => Some(guess),
            _ => self.recipients.binary_search_by_key(&index, |recipient| recipient.index).ok(),
        }
    }

    /// The report of that kind that is owed.
    pub(crate) fn owing_mut(&mut self, kind: ReportKind) -> Option<&mut Owing> {
        self.owing.iter_mut().find(|owing| owing.kind == kind)
    }

    /// The same, to look at.
    pub(crate) fn owing(&self, kind: ReportKind) -> Option<&Owing> {
        self.owing.iter().find(|owing| owing.kind == kind)
    }

    /// Whether the message, or a recipient of it, is held.
    pub(crate) fn has_hold(&self) -> bool {
        self.hold.is_some() || self.recipients.iter().any(|r| matches!(r.stand, Stand::Held(_)))
    }

    /// Whether the message may be retired.
    pub(crate) fn has_ended(&self) -> bool {
        self.open == 0 && self.owing.is_empty()
    }
}

impl Owing {
    /// As the ledger writes it.
    fn owed(&self) -> Owed {
        Owed { kind: self.kind, recipients: self.recipients.clone(), due: self.due }
    }
}

impl Recipient {
    fn new(routed: &RoutedRecipient, lanes: &mut Lanes) -> Self {
        let details = (routed.original.is_some()
            || routed.orcpt.is_some()
            || routed.notify.is_some())
        .then(|| {
            Box::new(Details {
                original: routed.original.clone(),
                orcpt: routed.orcpt.as_deref().map(Into::into),
                notify: routed.notify,
            })
        });
        let user = (routed.user != routed.address.as_str()).then(|| routed.user.as_str().into());
        let mut recipient = Self {
            index: routed.index,
            lane: lanes.hold(&routed.channel, &routed.host),
            address: routed.address.clone(),
            user,
            details,
            count: 0,
            delay_reported: false,
            losses: 0,
            quarantined: matches!(routed.state, State::Held { .. }),
            next: Timestamp::default(),
            last: None,
            stand: Stand::Open,
            place: Place::Parked,
        };
        recipient.set_state(&routed.state);
        recipient
    }

    /// The recipient as the ledger writes it.
    pub(crate) fn routed(&self, lanes: &Lanes) -> RoutedRecipient {
        let lane = lanes.lane(self.lane);
        RoutedRecipient {
            index: self.index,
            address: self.address.clone(),
            original: self.original().cloned(),
            orcpt: self.orcpt().map(Into::into),
            notify: self.notify(),
            channel: lanes.channel_name(lane.channel).to_owned(),
            host: lane.host.to_string(),
            user: self.user().to_owned(),
            state: self.state(),
        }
    }

    /// Makes its state what the ledger says.
    pub(super) fn set_state(&mut self, state: &State) {
        match state {
            State::Open(attempt) => {
                self.set_attempt(attempt);
                self.stand = Stand::Open;
            }
            State::Held { reason, then } => {
                self.set_attempt(then);
                self.stand = Stand::Held(reason.as_str().into());
            }
            State::Delivered(delivered) => {
                self.stand = Stand::Delivered(Box::new(delivered.clone()))
            }
            State::Failed(reply) => self.stand = Stand::Failed(Box::new(reply.clone())),
            State::Removed => self.stand = Stand::Removed,
        }
        if !self.is_open() {
            self.set_attempt(&Attempt::default());
        }
    }

    fn set_attempt(&mut self, attempt: &Attempt) {
        self.count = attempt.count;
        self.next = attempt.next;
        self.last = attempt.last.clone().map(Box::new);
        self.delay_reported = attempt.delay_reported;
    }

    /// Its state as the ledger writes it.
    pub(crate) fn state(&self) -> State {
        match &self.stand {
            Stand::Open => State::Open(self.attempt()),
            Stand::Held(reason) => State::Held { reason: reason.to_string(), then: self.attempt() },
            Stand::Delivered(delivered) => State::Delivered((**delivered).clone()),
            Stand::Failed(reply) => State::Failed((**reply).clone()),
            Stand::Removed => State::Removed,
        }
    }

    /// How far its attempts have come.
    pub(crate) fn attempt(&self) -> Attempt {
        Attempt {
            count: self.count,
            next: self.next,
            last: self.last.as_deref().cloned(),
            delay_reported: self.delay_reported,
        }
    }

    /// Whether it is not final: open or held.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self.stand, Stand::Open | Stand::Held(_))
    }

    /// Who it is to the channel.
    pub(crate) fn user(&self) -> &str {
        self.user.as_deref().unwrap_or(self.address.as_str())
    }

    /// The address as the sender gave it, when an alias changed it.
    pub(crate) fn original(&self) -> Option<&Address> {
        self.details.as_ref()?.original.as_ref()
    }

    /// RFC 3461 ORCPT.
    pub(crate) fn orcpt(&self) -> Option<&str> {
        self.details.as_ref()?.orcpt.as_deref()
    }

    /// RFC 3461 NOTIFY.
    pub(crate) fn notify(&self) -> Option<Notify> {
        self.details.as_ref()?.notify
    }
}
