//! What turns take, and what they have done.

use job::admin::AdminRequest;
use job::deliver::DeliverAnswer;
use job::enqueue::EnqueueRequest;
use job::home::HomeRequest;
use job::known::KnownRequest;
use job::outcome::OutcomeRequest;
use job::route::RouteRequest;
use job::strike::StrikeRequest;
use queue::{LedgerError, Local};
use socket::PeerId;

use crate::machine::{Answer, ChannelId, Now, Peer, Send, Token, Unanswered};
use crate::{ChannelFacts, Settings};

/// Something that arrived since the last turn.
#[derive(Debug)]
pub enum Arrival {
    /// Router hands over a message, or a part of one.
    Enqueue {
        /// The connection it came over.
        connection: u64,
        /// To answer.
        token: Token,
        /// The message.
        request: Box<EnqueueRequest>,
        /// Whether it is to be all that this worker has in hand.
        is_alone: bool,
    },
    /// Requeue asks what is not known.
    Known(Token, KnownRequest),
    /// Compact asks where messages live, or tells of copies.
    Home(Token, HomeRequest),
    /// A sender tells of a crash of its next stage.
    Strike(Token, StrikeRequest),
    /// An agent tells late what became of recipients.
    LateOutcome(Token, OutcomeRequest),
    /// The command line asks.
    Admin(Token, Box<AdminRequest>),
    /// A job was answered, or will not be.
    Answered {
        /// The job.
        job: u64,
        /// How.
        result: Result<DeliverAnswer, Unanswered>,
        /// Over which connection of which channel the answer came; nothing if none came, or an error.
        from: Option<(ChannelId, PeerId)>,
    },
    /// The connected workers of a channel are now these.
    Peers(ChannelId, Vec<Peer>),
    /// A worker of a channel crashed.
    Crashed {
        /// The channel.
        channel: ChannelId,
        /// The worker's process.
        pid: u32,
    },
    /// What [`Hands::await_ledger`] was given has resolved.
    Reached(Awaited, Result<(), LedgerError>),
    /// The worker drains.
    Draining {
        /// Until when answers of jobs in hand are waited for, on the monotonic clock.
        until: u64,
    },
    /// New settings, in place.
    Settings(Box<Settings>, Vec<ChannelFacts>),
}

impl Arrival {
    /// Workers that came or went are known before anything else; a strike before the message that it is against.
    pub(super) fn rank(&self) -> u8 {
        match self {
            Self::Peers(..) => 0,
            Self::Strike(..) => 1,
            _ => 2,
        }
    }
}

/// What of the ledger is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Awaited {
    /// Up to which batch.
    pub batch: u64,
    /// What of it.
    pub what: Progress,
}

/// How far the ledger has come with a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It is written.
    Written,
    /// It is synced.
    Synced,
    /// The checkpoint that ends with it is synced.
    Checkpointed,
    /// No batch: it is known how the messages stand that were looked up.
    LookedUp,
}

/// What turns have done at once, in the order in which they ask.
pub trait Hands {
    /// Answers a request.
    fn answer(&mut self, token: Token, answer: Answer);

    /// Sends a job. One that cannot be sent arrives as [`Arrival::Answered`].
    fn send(&mut self, send: Send);

    /// A job is not to be sent after all: this is to arrive as its answer, in a later turn.
    fn unsent(&mut self, job: u64);

    /// Connects to a channel.
    fn connect(&mut self, channel: ChannelId);

    /// Asks requeue for a pass.
    fn requeue(&mut self);

    /// Asks router to route messages anew, as many as it may be asked at once.
    fn hint(&mut self, routes: Vec<RouteRequest>);

    /// Whether what is sent now may still be acted on: the ledger is surely this scheduler's.
    fn may_send(&self) -> bool {
        true
    }

    /// Waits beside the turns; the result is to arrive as [`Arrival::Reached`].
    fn await_ledger(&mut self, awaited: Awaited, until: Local<'static, Result<(), LedgerError>>);
}

/// The moment of a turn, its chance, and its hands.
pub struct Around<'a> {
    /// The moment.
    pub now: Now,
    /// Chance, for jitter.
    pub chance: &'a mut dyn FnMut() -> u64,
    /// What is done.
    pub hands: &'a mut dyn Hands,
}
