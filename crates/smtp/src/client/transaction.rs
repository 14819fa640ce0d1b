//! One message on its way through a session: what is asked, and what was said of each recipient.

use mail::{Address, Notify, Outcome, Ret, StatusCode};

use super::commands::Capabilities;
use crate::reply::{Class, Reply};

/// The message of a transaction, as far as its envelope goes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Message<'a> {
    /// The reverse-path; nothing is `<>`.
    pub sender: Option<&'a Address>,
    /// How many bytes the message has with CRLF line ends, before dot-stuffing, if that is known (RFC 1870).
    pub size: Option<u64>,
    /// Whether it holds bytes above 127.
    pub eight_bit: bool,
    /// Whether SMTPUTF8 was asked for.
    pub smtputf8: bool,
    /// Whether its header section holds bytes above 127: then SMTPUTF8 is not only asked for but needed.
    pub utf8_header: bool,
    /// RFC 3461 RET.
    pub ret: Option<Ret>,
    /// RFC 3461 ENVID, in xtext.
    pub envid: Option<&'a str>,
}

/// A recipient of a transaction.
#[derive(Debug, Clone, Copy)]
pub struct Recipient<'a> {
    /// The forward-path.
    pub address: &'a Address,
    /// The address as the sender gave it, when an alias changed it.
    pub original: Option<&'a Address>,
    /// RFC 3461 NOTIFY.
    pub notify: Option<Notify>,
    /// RFC 3461 ORCPT, with its type and in xtext.
    pub orcpt: Option<&'a str>,
}

/// What a transaction says of one of its recipients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Delivered, deferred or failed.
    Outcome(Outcome),
    /// The server takes no more recipients at once: put this one into another transaction.
    Again,
    /// The session ended before anything was said.
    Unknown,
}

#[derive(Debug)]
pub(super) struct Transaction {
    pub(super) places: Vec<Place>,
    /// How many places are accepted.
    pub(super) accepted: usize,
    pub(super) mail_refused: bool,
}

/// Where a recipient stands within a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing was said of it.
    Open,
    /// RCPT was accepted.
    Accepted,
    Ended(Verdict),
}

impl Transaction {
    /// A transaction of which nothing was said yet.
    pub(super) fn new(recipients: usize) -> Self {
        let places = (0..recipients).map(|_| Place::Open).collect();
        Self { places, accepted: 0, mail_refused: false }
    }

    /// Ends the places of which the server need not be asked: it has said that it cannot take them.
    pub(super) fn refuse_ourselves(
        &mut self,
        message: &Message<'_>,
        recipients: &[Recipient<'_>],
        offered: &Capabilities,
        remote: &str,
    ) {
        let utf8_sender = message.sender.is_some_and(|sender| !sender.is_ascii());
        let utf8_needed = utf8_sender || (message.smtputf8 && message.utf8_header);
        let too_large =
            matches!((message.size, offered.size_max), (Some(size), Some(max)) if size > max);
        for (place, recipient) in self.places.iter_mut().zip(recipients) {
            let no_utf8 = !offered.smtputf8 && (utf8_needed || !recipient.address.is_ascii());
            let reply = if no_utf8 {
                let text = format!("SMTPUTF8 is required, but {} does not offer it", remote);
                mail::Reply::ours(StatusCode::new(5, 6, 7), text)
            } else if too_large {
                let text = format!(
                    "the message has {} bytes, {} takes at most {}",
                    message.size.unwrap_or_default(),
                    remote,
                    offered.size_max.unwrap_or_default()
                );
                mail::Reply::ours(StatusCode::new(5, 3, 4), text)
            } else {
                continue;
            };
            *place = Place::Ended(Verdict::Outcome(Outcome::Failed(reply)));
        }
    }

    pub(super) fn accepted_places(&self) -> impl Iterator<Item = (usize, &Place)> {
        self.places.iter().enumerate().filter(|(_, place)| **place == Place::Accepted)
    }

    pub(super) fn set(&mut self, index: usize, place: Place) {
        if let Some(slot) = self.places.get_mut(index) {
            *slot = place;
        }
    }

    pub(super) fn end_accepted(&mut self, verdict: &Verdict) {
        let accepted = self.places.iter_mut().filter(|place| **place == Place::Accepted);
        accepted.for_each(|place| *place = Place::Ended(verdict.clone()));
    }

    pub(super) fn end_all(&mut self, verdict: &Verdict) {
        let open = self.places.iter_mut().filter(|place| !matches!(place, Place::Ended(_)));
        open.for_each(|place| *place = Place::Ended(verdict.clone()));
    }
}

/// Whether a refusal of a recipient speaks of the transaction's recipients and not of this one.
pub(super) fn is_too_many(reply: &Reply) -> bool {
    let about_number = StatusCode::new(reply.status().class, 5, 3);
    matches!(reply.code(), 452 | 552)
        && reply.enhanced().is_none_or(|status| status == about_number)
}

pub(super) fn refusal(class: Class, reply: &Reply, remote: &str) -> Verdict {
    let mut said = reply.said_by(remote);
    Verdict::Outcome(match class {
        Class::Permanent => Outcome::Failed(said),
        _ => {
            said.status.class = 4;
            Outcome::Deferred(said)
        }
    })
}
