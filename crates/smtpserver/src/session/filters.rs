//! When a session asks the filters, and what it makes of what they say. HELO and MAIL are answered here: only filters refuse them.

use job::inspect::Step;
use mail::Recipient;
use smtp::server::Reply;

use super::Session;
use crate::Counter;
use crate::inspection::{Known, refusal, refusal_to_greet, replies};

impl Session {
    /// Answers HELO and EHLO.
    pub(super) async fn hello(&mut self) {
        // It ends a transaction, as RSET does.
        if let Some(inspection) = &self.inspection {
            inspection.begin();
        }
        let refused = match self.stage.steps.helo {
            true => Box::pin(self.ask_filters(Step::Helo)).await,
            false => None,
        };
        self.machine.hello(refused.map_or(Ok(()), Err), &mut self.out);
    }

    /// Answers MAIL.
    pub(super) async fn mail(&mut self) {
        if let Some(inspection) = &self.inspection {
            inspection.begin();
        }
        let refused = match self.stage.steps.mail {
            true => Box::pin(self.ask_filters(Step::Mail)).await,
            false => None,
        };
        if let Some(reply) = &refused {
            self.stage.neighbours.count(counter_of(reply), 1);
            self.log_refusal("sender refused", reply, None);
        }
        self.machine.mail(refused.map_or(Ok(()), Err), &mut self.out);
    }

    /// What the session is known by, and the filters.
    pub(super) fn known(&self) -> Known<'_> {
        let (offered, helo) = (self.machine.offered(), self.machine.helo());
        let helo = [offered, helo].into_iter().find(|name| !name.is_empty());
        Known { client: &self.client, helo, protocol: self.machine.protocol() }
    }

    /// Asks the filters about a step before there are recipients; gives the refusal. Whom they cannot be asked about yet is put off
    /// at MAIL.
    pub(super) async fn ask_filters(&self, step: Step) -> Option<Reply> {
        let inspection = self.inspection.as_ref()?;
        let envelope = self.machine.envelope().filter(|_| step == Step::Mail).cloned();
        match inspection.step(&self.stage, self.known(), step, envelope, 0).await {
            Ok(answer) if step == Step::Connect => refusal_to_greet(&answer.verdict),
            Ok(answer) => refusal(&answer.verdict),
            Err(reply) => (step == Step::Mail).then_some(reply),
        }
    }

    /// Asks the filters about the recipients that router accepts.
    pub(super) async fn ask_filters_of(&self, answers: &mut [Result<(), Reply>]) {
        let (Some(inspection), Some(envelope)) = (&self.inspection, self.machine.envelope()) else {
            return;
        };
        let before = envelope.recipients.len();
        let most = self.stage.settings.recipients_max;
        let mut given: Vec<(usize, Recipient)> = Vec::new();
        for (index, recipient) in self.machine.asked().enumerate() {
            let Some(answer) = answers.get_mut(index).filter(|answer| answer.is_ok()) else {
                continue;
            };
            if before + given.len() >= most {
                break;
            }
            match inspection.has_room_for(recipient) {
                true => given.push((index, recipient.clone())),
                false => *answer = Err(Reply::new(452, 5, 3, "Too many recipients")),
            }
        }
        if !self.stage.steps.recipient || given.is_empty() {
            return;
        }
        let (places, count) = (before..before + given.len(), given.len());
        let (indexes, given): (Vec<usize>, Vec<Recipient>) = given.into_iter().unzip();
        let mut envelope = envelope.clone();
        envelope.recipients.extend(given);
        let step =
            inspection.step(&self.stage, self.known(), Step::Recipient, Some(envelope), count);
        let refused = match step.await {
            Ok(answer) => replies(&answer, places),
            Err(reply) => vec![Some(reply); count],
        };
        for (index, refused) in indexes.into_iter().zip(refused) {
            if let (Some(answer), Some(reply)) = (answers.get_mut(index), refused) {
                *answer = Err(reply);
            }
        }
    }

    pub(super) fn tell_filters(&self, step: Step) {
        if let Some(inspection) = &self.inspection {
            inspection.over(&self.stage, self.known(), step);
        }
    }
}

fn counter_of(reply: &Reply) -> Counter {
    if reply.code >= 500 { Counter::Rejected } else { Counter::Tempfailed }
}
