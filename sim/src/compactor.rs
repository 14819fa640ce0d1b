//! Compact: survivors of mostly dead segments are copied, and the scheduler is told.

use job::home::{HomeAnswer, HomeRequest, MovedMessage, MovedRequest, WhereRequest};
use job::known::KnownMessage;
use mail::MessageId;
use queue::{Handle, Listed};
use queue_spool::simulation::CompactionNow;
use scheduler::turns::Arrival;

use crate::clock::{HOUR, MINUTE};
use crate::process::Asked;
use crate::world::{Event, World};

/// A pass that is under way, with the right to it.
#[derive(Default)]
pub(crate) struct Compactor {
    right: Option<CompactionNow>,
    /// Answers that are waited for.
    waits: u32,
}

impl Compactor {
    /// An answer has come, or will not; with the last the pass ends.
    pub(crate) fn end(&mut self) {
        self.waits = self.waits.saturating_sub(1);
        if self.waits == 0 {
            self.right = None;
        }
    }

    /// The process dies.
    pub(crate) fn die(&mut self) {
        (self.right, self.waits) = (None, 0);
    }
}

impl World {
    /// Begins a pass: asks where the messages of sealed segments, and those of which there are copies, live.
    pub(crate) fn compact(&mut self) {
        self.compactor.die();
        let wait =
            if self.is_calm { 7 * HOUR } else { self.chance.between(5 * MINUTE, 40 * MINUTE) };
        self.after(wait, Event::Compact);
        let Ok(right) = CompactionNow::begin(&self.spool) else { return };
        let (Ok(survey), true) = (right.survey(), self.process.is_some()) else { return };
        let mut parts: Vec<Vec<Listed>> = right.copies().into_iter().collect();
        for sealed in survey.segments {
            let held = right.held(&sealed.segment).unwrap_or_default();
            parts.push(
                held.into_iter()
                    .map(|it| Listed { handle: it.handle, id: it.id, accepted_at: it.accepted_at })
                    .collect(),
            );
        }
        self.compactor.right = Some(right);
        for part in parts.into_iter().filter(|part| !part.is_empty()) {
            self.compactor.waits += 1;
            let messages = part
                .iter()
                .map(|one| KnownMessage { handle: one.handle.clone(), id: one.id })
                .collect();
            let request = HomeRequest::Where(WhereRequest { messages });
            self.ask(Asked::Where(part), |token| Arrival::Home(token, request));
        }
        if self.compactor.waits == 0 {
            self.compactor.die();
        }
    }

    /// The scheduler has said what lives in a segment, or which copies are in vain.
    pub(crate) fn homes(&mut self, part: &[Listed], answer: &HomeAnswer) {
        let Some(right) = &self.compactor.right else { return };
        let at = |index: u32| part.get(index as usize);
        let ended: Vec<Handle> =
            answer.ended.iter().filter_map(|it| Some(at(*it)?.handle.clone())).collect();
        let in_vain: Vec<Handle> =
            ended.into_iter().filter(|it| it.to_string().ends_with('x')).collect();
        let _ = right.discard(&in_vain);
        let elsewhere =
            answer.moved.iter().filter_map(|it| Some((at(it.index)?.id, it.handle.clone())));
        let here = answer
            .here
            .iter()
            .filter_map(|it| Some((at(it.index)?.id, at(it.index)?.handle.clone())));
        let is_copy = |handle: &Handle| handle.to_string().ends_with('x');
        let living: Vec<(MessageId, Handle)> =
            elsewhere.chain(here).filter(|(_, from)| !is_copy(from)).collect();
        // Mostly alive, it stays.
        if living.is_empty() || 2 * living.len() > part.len() + 1 {
            return self.compactor.end();
        }
        let from: Vec<Handle> = living.iter().map(|(_, from)| from.clone()).collect();
        let Ok(copies) = right.copy(&from, self.clock.wall()) else { return self.compactor.end() };
        let told: Vec<MovedMessage> = living
            .into_iter()
            .zip(copies)
            .filter_map(|((id, from), to)| Some(MovedMessage { id, from, to: to.ok()? }))
            .collect();
        let copies = told.iter().map(|it| it.to.clone()).collect();
        let request = HomeRequest::Moved(MovedRequest { messages: told });
        self.ask(Asked::Moved(copies), |token| Arrival::Home(token, request));
    }

    /// The scheduler has taken copies as places, and it is synced.
    pub(crate) fn moved(&mut self, copies: &[Handle], answer: &HomeAnswer) {
        if let Some(right) = &self.compactor.right {
            let ended: Vec<Handle> =
                answer.ended.iter().filter_map(|it| copies.get(*it as usize).cloned()).collect();
            let _ = right.discard(&ended);
        }
        self.compactor.end();
    }
}
