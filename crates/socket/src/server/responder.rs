//! The duty to answer one request, and what it says of the request meanwhile.

use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Caller, Connection};
use crate::frame::{self, Id};
use crate::lease::Lease;
use crate::link::Link;
use crate::{Conversation, ErrorObject, codes};

/// How often it is looked whether a peer that does not read has been sent what it must know first.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Tells a peer that its request is alone in hand, or that it is so no longer.
#[derive(Serialize)]
struct InHand {
    id: u64,
    alone: bool,
}

/// The duty to answer one request. Dropped without an answer, it answers with an internal error.
pub struct Responder<C: Conversation> {
    connection: Rc<Connection<C>>,
    id: Id,
    deadline: Option<Instant>,
    bytes: usize,
    open: bool,
    /// Where it stands in the worker's hand.
    place: Place,
    /// Its sender wants it to be alone there.
    alone: bool,
}

/// Where a request stands in its worker's hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Not yet in it.
    Waits,
    /// Beside others.
    Beside,
    /// Nothing else is in hand.
    Alone,
    /// No longer in it, and not answered.
    Aside,
}

impl<C: Conversation> Responder<C> {
    pub(super) fn new(
        connection: Rc<Connection<C>>,
        id: Id,
        deadline: Option<Instant>,
        bytes: usize,
    ) -> Self {
        Self { connection, id, deadline, bytes, open: true, place: Place::Waits, alone: false }
    }

    /// The request is taken. One whose peer has gone while it waited has nobody to wait for it.
    pub(super) fn begin(mut self, request: C::Request) {
        let waited_in_vain = !self.connection.link.is_up();
        self.place = Place::Beside;
        if !waited_in_vain {
            let service = Rc::clone(&self.connection.server.service);
            service.call(request, self);
        }
    }

    /// The request is taken, and alone in hand: it is looked at when its peer has been sent word of that.
    pub(super) fn begin_alone(mut self, request: C::Request) {
        self.place = Place::Alone;
        self.alone = true;
        self.tell_alone(true);
        tokio::task::spawn_local(async move {
            let link = Rc::clone(&self.connection.link);
            link.flush();
            while link.is_up() && !link.is_flushed() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            if link.is_up() {
                let service = Rc::clone(&self.connection.server.service);
                service.call(request, self);
            }
        });
    }

    /// Whether the sender wants this request to be alone in the worker's hand, and so it is: do the same where you pass it on.
    pub fn is_alone(&self) -> bool {
        self.alone
    }

    /// What is left to do about the request is no danger to this worker: it counts as in hand no more, and others may be taken.
    pub fn set_aside(&mut self) {
        if self.place == Place::Alone {
            self.tell_alone(false);
        }
        self.leave_hand();
    }

    fn leave_hand(&mut self) {
        let place = std::mem::replace(&mut self.place, Place::Aside);
        if matches!(place, Place::Beside | Place::Alone) {
            self.connection.server.settings.hand.leave(place == Place::Alone);
        }
    }

    fn tell_alone(&self, alone: bool) {
        // A request whose id is not a number is answered like any other; its sender only cannot be told this.
        if let Id::Number(id) = self.id {
            let told = InHand { id, alone };
            self.connection.link.append(|out| frame::write_notification(out, "in_hand", &told));
        }
    }

    /// Answers. Nothing happens if the connection has gone.
    pub fn answer(mut self, answer: &C::Answer) {
        self.connection.link.append(|out| frame::write_answer(out, &self.id, answer));
        self.close();
    }

    /// Answers with an error.
    pub fn refuse(mut self, error: ErrorObject) {
        self.connection.link.append(|out| frame::write_error(out, Some(&self.id), &error));
        self.close();
    }

    /// Whether the connection that asked is still up, as the kernel knows now: half of the dot gate.
    pub fn is_connected(&self) -> bool {
        self.connection.link.is_up_now()
    }

    /// When the request's deadline passes, on our own monotonic clock: the other half of the dot gate.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Who asked.
    pub fn caller(&self) -> &Caller {
        &self.connection.caller
    }

    /// The version that this connection's client chose.
    pub fn version(&self) -> u32 {
        // Nothing is asked before one is chosen.
        self.connection.version.get().unwrap_or_default()
    }

    /// The dot gate of this request, for work that goes on while the responder is kept elsewhere.
    pub fn gate(&self) -> Gate {
        let lease = self.connection.lease.get().cloned();
        Gate { link: self.connection.link.clone(), lease, deadline: self.deadline }
    }

    fn close(&mut self) {
        self.open = false;
        self.leave_hand();
        let connection = &self.connection;
        connection.outstanding.set(connection.outstanding.get() - 1);
        connection.outstanding_bytes.set(connection.outstanding_bytes.get() - self.bytes);
        connection.server.outstanding.set(connection.server.outstanding.get() - 1);
        if let Some(gauge) = &connection.server.settings.gauge {
            gauge.ended();
        }
        if connection.draining.get() {
            connection.server.ended.notify_waiters();
        }
    }
}

impl<C: Conversation> Drop for Responder<C> {
    fn drop(&mut self) {
        if self.open {
            let error = ErrorObject::new(codes::INTERNAL, "the worker gave no answer");
            self.connection.link.append(|out| frame::write_error(out, Some(&self.id), &error));
            self.close();
        }
    }
}

/// The dot gate of one request: whether its connection is up, whether its client still stands behind it, and when its deadline passes.
/// Cheap to clone; it outlives the [`Responder`] and owes no answer.
#[derive(Clone)]
pub struct Gate {
    link: Rc<Link>,
    /// Where the client wants to be asked.
    lease: Option<Rc<Lease>>,
    deadline: Option<Instant>,
}

impl Gate {
    /// Whether the connection that asked is still up, as the kernel knows now.
    pub fn is_connected(&self) -> bool {
        self.link.is_up_now()
    }

    /// Whether the client, which was asked not long ago, said that what it asked may still be acted on at this moment. True for a client
    /// that need not be asked.
    pub fn is_leased(&self) -> bool {
        self.lease.as_ref().is_none_or(|lease| lease.holds())
    }

    /// Waits a little, if need be, until [`Gate::is_leased`]. While a request is unanswered its client is asked every now and then:
    /// this waits only for the first answer, or where the last ones did not come.
    pub async fn leased(&self) {
        if let Some(lease) = &self.lease {
            lease.wait(&self.link).await;
        }
    }

    /// When the request's deadline passes, on our own monotonic clock.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    #[cfg(test)]
    pub(crate) fn close_for_test(&self) {
        self.link.close();
    }
}
