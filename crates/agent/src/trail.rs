//! What the log says of a job: a line for each fate that its recipients met.

use std::time::{Duration, SystemTime};

use job::deliver::{DeliverAnswer, DeliverRequest};
use mail::{Outcome, Reply, Timestamp};

/// The most lines of one job; recipients beyond them are counted in the last line of their kind. A server that says something else
/// to each of hundreds of recipients (LMTP) would fill the log.
const LINES_MAX: usize = 10;

/// What a job's lines say besides outcomes.
#[derive(Debug, Clone, Copy)]
pub struct Trail<'a> {
    /// The server that was spoken to, if there was one.
    pub remote: Option<&'a str>,
    /// What the time went into, stage by stage.
    pub stages: [Duration; 2],
}

impl Trail<'_> {
    /// Writes the lines.
    pub fn log(&self, request: &DeliverRequest, answer: &DeliverAnswer) {
        let delay = Timestamp::from(SystemTime::now()).since(request.accepted_at);
        let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        let [first, second] = self.stages.map(|stage| stage.as_millis());
        let host = (!request.host.is_empty()).then_some(request.host.as_str());
        for fate in fates(request, answer) {
            macro_rules! line {
                ($what:literal) => {
                    tracing::info!(
                        id = request.id.as_str(),
                        host,
                        remote = self.remote,
                        recipient = fate.recipient,
                        recipients = fate.recipients,
                        size = request.size,
                        status = fate.reply.map(|reply| tracing::field::display(reply.status)),
                        delay_ms,
                        delays = format_args!("{first}/{second}"),
                        reply = fate.reply.map(|reply| reply.text.as_str()),
                        $what
                    )
                };
            }
            match fate.kind {
                Kind::Delivered => line!("delivered"),
                Kind::Deferred => line!("deferred"),
                Kind::Failed => line!("failed"),
            }
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Delivered,
    Deferred,
    Failed,
}

/// Recipients that fared alike: the first of them, and how many.
#[derive(Debug, PartialEq, Eq)]
struct Fate<'a> {
    kind: Kind,
    reply: Option<&'a Reply>,
    recipient: &'a str,
    recipients: usize,
}

/// Recipients of a job by what became of them, in the order in which it first occurs. Who has no outcome is deferred for what
/// befell the lane.
fn fates<'a>(request: &'a DeliverRequest, answer: &'a DeliverAnswer) -> Vec<Fate<'a>> {
    let mut fates: Vec<Fate<'a>> = Vec::with_capacity(1);
    for (place, recipient) in request.recipients.iter().enumerate() {
        // Nearly always in the order of the request.
        let at_place = answer.outcomes.get(place).filter(|one| one.index == recipient.index);
        let found = at_place
            .or_else(|| answer.outcomes.iter().find(|one| one.index == recipient.index))
            .map(|one| &one.outcome);
        let (kind, reply) = match found {
            Some(Outcome::Delivered(by)) => (Kind::Delivered, Some(&by.reply)),
            Some(Outcome::Deferred(reply)) => (Kind::Deferred, Some(reply)),
            Some(Outcome::Failed(reply)) => (Kind::Failed, Some(reply)),
            None => (Kind::Deferred, answer.lane.as_ref()),
        };
        let full = fates.len() >= LINES_MAX;
        let is_like = |fate: &&mut Fate<'a>| fate.kind == kind && (full || fate.reply == reply);
        match fates.iter_mut().rev().find(is_like) {
            Some(fate) => fate.recipients += 1,
            None => {
                let recipient = recipient.address.as_str();
                fates.push(Fate { kind, reply, recipient, recipients: 1 });
            }
        }
    }
    fates
}

#[cfg(test)]
mod tests;
