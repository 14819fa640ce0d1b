//! What arrives between two turns, and the doors it comes in by.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use job::admin::{Admin, AdminRequest};
use job::deliver::DeliverAnswer;
use job::enqueue::{Enqueue, EnqueueRequest};
use job::home::{Home, HomeRequest};
use job::known::{Known, KnownRequest};
use job::outcome::{LateOutcome, OutcomeRequest};
use job::strike::{Strike, StrikeRequest};
use queue::LedgerError;
use socket::{Conversation, ErrorObject, PeerId, Responder, Service, codes};

use crate::Assignment;
use crate::machine::{Answer, ChannelId, Unanswered};
use crate::turns::Awaited;

/// Something that arrived.
pub(super) enum Incoming {
    Enqueue(Box<EnqueueRequest>, Responder<Enqueue>),
    Known(KnownRequest, Responder<Known>),
    Home(HomeRequest, Responder<Home>),
    Strike(StrikeRequest, Responder<Strike>),
    LateOutcome(OutcomeRequest, Responder<LateOutcome>),
    Admin(Box<AdminRequest>, Responder<Admin>),
    /// With the connection over which an answer came, if one came.
    Answered {
        job: u64,
        result: Result<DeliverAnswer, Unanswered>,
        from: Option<(ChannelId, PeerId)>,
    },
    Peers(ChannelId),
    Crashed {
        channel: ChannelId,
        pid: u32,
    },
    Reached(Awaited, Result<(), LedgerError>),
    Draining,
    Settings(Box<Assignment>),
}

/// Everything that arrived since the last turn. Bounded by the windows of the sockets it comes from.
#[derive(Default)]
pub(super) struct Inbox {
    items: RefCell<Vec<Incoming>>,
    /// Channels whose workers changed, each once a turn.
    peers: RefCell<Vec<ChannelId>>,
    waiting: Cell<bool>,
    arrived: tokio::sync::Notify,
}

impl Inbox {
    pub(super) fn push(&self, incoming: Incoming) {
        self.items.borrow_mut().push(incoming);
        self.wake();
    }

    /// Notes that the workers of a channel changed.
    pub(super) fn push_peers(&self, channel: ChannelId) {
        let mut peers = self.peers.borrow_mut();
        if !peers.contains(&channel) {
            peers.push(channel);
        }
        drop(peers);
        self.wake();
    }

    fn wake(&self) {
        if self.waiting.get() {
            self.arrived.notify_one();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.borrow().is_empty() && self.peers.borrow().is_empty()
    }

    /// Resolves when something is there.
    pub(super) async fn arrival(&self) {
        while self.is_empty() {
            self.waiting.set(true);
            self.arrived.notified().await;
        }
        self.waiting.set(false);
    }

    /// Takes everything.
    pub(super) fn take(&self) -> Vec<Incoming> {
        let peers = std::mem::take(&mut *self.peers.borrow_mut());
        let items = std::mem::take(&mut *self.items.borrow_mut());
        if peers.is_empty() {
            return items;
        }
        peers.into_iter().map(Incoming::Peers).chain(items).collect()
    }
}

/// Serves the scheduler's six conversations into the inbox.
pub(super) fn serve(worker: &farm::Worker, inbox: &Rc<Inbox>) -> Result<(), farm::WorkerError> {
    worker.serve(
        "scheduler.enqueue",
        Door::<Enqueue>::to(inbox, |r, to| Incoming::Enqueue(Box::new(r), to)),
    )?;
    worker.serve("scheduler.known", Door::<Known>::to(inbox, Incoming::Known))?;
    worker.serve("scheduler.home", Door::<Home>::to(inbox, Incoming::Home))?;
    worker.serve("scheduler.strike", Door::<Strike>::to(inbox, Incoming::Strike))?;
    worker.serve("scheduler.outcome", Door::<LateOutcome>::to(inbox, Incoming::LateOutcome))?;
    worker.serve(
        "scheduler.admin",
        Door::<Admin>::to(inbox, |r, to| Incoming::Admin(Box::new(r), to)),
    )
}

/// How a request becomes something that arrived.
type Wrap<C> = fn(<C as Conversation>::Request, Responder<C>) -> Incoming;

/// A conversation's way into the inbox.
pub(super) struct Door<C: Conversation> {
    inbox: Rc<Inbox>,
    wrap: Wrap<C>,
}

impl<C: Conversation> Door<C> {
    fn to(inbox: &Rc<Inbox>, wrap: Wrap<C>) -> Rc<dyn Service<C>> {
        Rc::new(Self { inbox: Rc::clone(inbox), wrap })
    }
}

impl<C: Conversation> Service<C> for Door<C> {
    fn call(&self, request: C::Request, responder: Responder<C>) {
        self.inbox.push((self.wrap)(request, responder));
    }
}

/// The duty to answer a request of any conversation.
pub(super) enum AnyResponder {
    Enqueue(Responder<Enqueue>),
    Known(Responder<Known>),
    Home(Responder<Home>),
    Strike(Responder<Strike>),
    LateOutcome(Responder<LateOutcome>),
    Admin(Responder<Admin>),
}

impl AnyResponder {
    /// Answers, each conversation with its own kind.
    pub(super) fn answer(self, answer: Answer) {
        match (self, answer) {
            (Self::Enqueue(responder), Answer::Enqueued) => {
                responder.answer(&job::Acknowledged {});
            }
            (Self::Known(responder), Answer::Known(answer)) => responder.answer(&answer),
            (Self::Home(responder), Answer::Home(answer)) => responder.answer(&answer),
            (Self::Strike(responder), Answer::Struck(answer)) => responder.answer(&answer),
            (Self::LateOutcome(responder), Answer::Noted) => {
                responder.answer(&job::Acknowledged {});
            }
            (Self::Admin(responder), Answer::Admin(answer)) => responder.answer(&answer),
            (responder, Answer::Refused(error)) => responder.refuse(error),
            (responder, _) => {
                debug_assert!(false, "the machine answers in the conversation it was asked in");
                responder.refuse(ErrorObject::new(codes::INTERNAL, "answered out of turn"));
            }
        }
    }

    fn refuse(self, error: ErrorObject) {
        match self {
            Self::Enqueue(responder) => responder.refuse(error),
            Self::Known(responder) => responder.refuse(error),
            Self::Home(responder) => responder.refuse(error),
            Self::Strike(responder) => responder.refuse(error),
            Self::LateOutcome(responder) => responder.refuse(error),
            Self::Admin(responder) => responder.refuse(error),
        }
    }
}
