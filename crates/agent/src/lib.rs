//! What all transport agents share: the deliver job, the dot gate, and the message as it leaves.
//!
//! ```text
//! scheduler ── deliver ─▶ run ── Job {request, gate} ─▶ Agent::deliver
//!                                                         Outgoing::open … next … next
//!                                                         gate.is_open()? then what cannot be undone
//!           ◀─ answer ──── run ◀── DeliverAnswer ─────────┘
//! ```
//!
//! What was done and cannot be told, because the scheduler or the way to it has gone, is written down and told to whichever
//! scheduler owns the ledger next.
//!
//! Touches: the channel's job socket; the queue, to read; `data_dir/outcomes`; `scheduler.outcome`. Never: the ledger, another farm.

#![forbid(unsafe_code)]

mod answer;
mod gate;
mod journal;
mod kept;
mod outgoing;
mod serve;
mod trail;

pub use answer::{Counters, OUTCOME_COUNTERS, answer_all, damage, unreadable};
pub use gate::Gate;
pub use outgoing::Outgoing;
pub use serve::{Error, run};
pub use trail::Trail;

use std::rc::Rc;

use job::deliver::{DeliverAnswer, DeliverRequest};

/// A way to deliver: what the worker of a channel does with a job.
pub trait Agent: 'static {
    /// Delivers a message to the recipients of one lane, and says what became of each.
    ///
    /// Every failure is an outcome. What cannot be undone is done only while [`Gate::is_open`].
    fn deliver(self: Rc<Self>, job: Job) -> queue::Local<'static, DeliverAnswer>;
}

/// One job in hand.
pub struct Job {
    /// What is to be delivered to whom.
    pub request: DeliverRequest,
    /// Whether what cannot be undone may still be done.
    pub gate: Gate,
}
