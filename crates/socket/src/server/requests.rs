//! What a client says: requests are taken, or refused with what is wrong with them.

use std::rc::Rc;
use std::time::Instant;

use serde_json::value::RawValue;

use super::hand::EMPTY_WAIT_MAX;
use super::{Connection, MALFORMED_MAX, Nothing, Responder};
use crate::frame::{self, Frame, Id, PlainRequest};
use crate::link::Sink;
use crate::{Conversation, ErrorObject, Request, RequestError, codes};

/// What a request's frame asks besides its parameters.
struct Terms {
    deadline: Option<Instant>,
    /// Nothing else is to be in hand with it.
    alone: bool,
}

fn take_request<C: Conversation>(
    this: &Rc<Connection<C>>,
    id: Id,
    method: &str,
    terms: Terms,
    params: &RawValue,
    bytes: usize,
) {
    if let Some((code, message)) = this.obstacle(bytes) {
        return this.refuse(Some(&id), code, message);
    }
    match C::Request::read(method, params) {
        Err(RequestError::Method) => this.refuse(Some(&id), codes::METHOD, "no such method"),
        Err(RequestError::Params(what)) => this.refuse(Some(&id), codes::PARAMS, what),
        Ok(request) => begin_request(this, id, terms, request, bytes),
    }
}

/// Takes a request that can be taken as it stands; else nothing happens, and what is wrong with it is to be found out.
fn take_plain<C: Conversation>(
    this: &Rc<Connection<C>>,
    plain: &PlainRequest<'_>,
    now: Instant,
    bytes: usize,
) -> bool {
    if this.obstacle(bytes).is_some() {
        return false;
    }
    let Ok(request) = C::Request::read_text(plain.method, plain.params) else {
        return false;
    };
    let terms = Terms { deadline: plain.deadline.map(|deadline| now + deadline), alone: false };
    begin_request(this, Id::Number(plain.id), terms, request, bytes);
    true
}

fn begin_request<C: Conversation>(
    this: &Rc<Connection<C>>,
    id: Id,
    terms: Terms,
    request: C::Request,
    bytes: usize,
) {
    this.outstanding.set(this.outstanding.get() + 1);
    this.outstanding_bytes.set(this.outstanding_bytes.get() + bytes);
    this.server.outstanding.set(this.server.outstanding.get() + 1);
    if let Some(gauge) = &this.server.settings.gauge {
        gauge.begun();
    }
    this.keep_lease();
    let responder = Responder::new(this.clone(), id, terms.deadline, bytes);
    let hand = &this.server.settings.hand;
    if !terms.alone {
        return hand.enter(None, move |_| responder.begin(request));
    }
    let until = Instant::now() + EMPTY_WAIT_MAX;
    let until = terms.deadline.map_or(until, |deadline| until.min(deadline));
    hand.enter(Some((this.link.clone(), until)), move |in_time| match in_time {
        true => responder.begin_alone(request),
        false => responder.refuse(ErrorObject::new(codes::NOT_TAKEN, "not taken: never alone")),
    });
}

impl<C: Conversation> Sink for Rc<Connection<C>> {
    fn line(&self, line: &[u8], now: Instant) -> bool {
        if !self.link.is_up() {
            // It takes no answers any more: what it asked has nobody to wait for it.
            return false;
        }
        if frame::plain_request(line).is_some_and(|plain| take_plain(self, &plain, now, line.len()))
        {
            return true;
        }
        match frame::parse(line) {
            Ok(Frame::Request { id, method, deadline, alone, params }) => match &*method {
                "ping" => {
                    self.link.append(|out| frame::write_answer(out, &id, &Nothing {}));
                    true
                }
                "use" => self.choose_version(params, Some(&id)),
                method => {
                    let terms = Terms { deadline: deadline.map(|deadline| now + deadline), alone };
                    take_request(self, id, method, terms, params, line.len());
                    true
                }
            },
            Ok(Frame::Notification { method, params }) if method == "use" => {
                self.choose_version(params, None)
            }
            Ok(Frame::Notification { .. }) => true,
            Ok(Frame::Answer { id: Id::Number(id), result })
                if self.lease.get().is_some_and(|lease| {
                    let granted = serde_json::from_str(result.get()).unwrap_or_default();
                    lease.answered(id, &granted)
                }) =>
            {
                true
            }
            Ok(Frame::Answer { .. } | Frame::Error { .. }) => {
                tracing::warn!(
                    conversation = C::NAME,
                    peer = %self.caller.who,
                    "a peer answered what was not asked"
                );
                false
            }
            Err(malformed) => {
                self.refuse(malformed.id.as_ref(), malformed.error.code, malformed.error.message);
                self.malformed.set(self.malformed.get() + 1);
                let go_on = self.malformed.get() < MALFORMED_MAX;
                if !go_on {
                    tracing::warn!(
                        conversation = C::NAME,
                        peer = %self.caller.who,
                        "closed a peer that sends no frames"
                    );
                }
                go_on
            }
        }
    }

    fn too_long(&self) {
        tracing::warn!(
            conversation = C::NAME,
            peer = %self.caller.who,
            "a peer sent a line that is too long"
        );
        let message = format!("a frame has at most {} bytes", frame::LINE_BYTES_MAX);
        self.refuse(None, codes::INVALID_REQUEST, message);
    }
}
