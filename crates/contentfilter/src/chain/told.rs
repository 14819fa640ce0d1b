//! How far a filter was told of a session, and so what it is to hear next.

use std::hash::{DefaultHasher, Hash, Hasher};

use job::inspect::Step;
use mail::Recipient;

use crate::filter::Session;

/// How far a look was told of the session.
#[derive(Default)]
pub(super) struct Told {
    connect: bool,
    helo: Option<String>,
    pub(super) mail: bool,
    pub(super) recipients: usize,
    /// Which they are: another worker may have refused some of them and accepted others.
    digest: u64,
}

/// Tells recipients from others.
fn digest(recipients: &[Recipient]) -> u64 {
    let mut hasher = DefaultHasher::new();
    recipients.iter().for_each(|recipient| recipient.address.hash(&mut hasher));
    hasher.finish()
}

impl Told {
    /// Whether the recipients that were told are the first of the session's, so many of them.
    pub(super) fn is_of(&self, session: &Session, count: usize) -> bool {
        let before = session.recipients().get(..count).unwrap_or_default();
        self.recipients == count && self.digest == digest(before)
    }

    pub(super) fn is_due(&self, step: Step, session: &Session) -> bool {
        match step {
            Step::Connect => !self.connect,
            Step::Helo => session.helo.is_some() && self.helo != session.helo,
            Step::Mail => session.envelope.is_some() && !self.mail,
            Step::Recipient => session.recipients().len() > self.recipients,
            Step::Message | Step::End | Step::Quit => false,
        }
    }

    pub(super) fn note(&mut self, step: Step, session: &Session) {
        match step {
            Step::Connect => self.connect = true,
            Step::Helo => self.helo.clone_from(&session.helo),
            Step::Mail => self.mail = true,
            Step::Recipient => {
                self.recipients = session.recipients().len();
                self.digest = digest(session.recipients());
            }
            Step::Message | Step::End | Step::Quit => {}
        }
    }
}
