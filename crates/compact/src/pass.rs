//! One pass: what earlier ones left is ended, then the survivors of mostly dead segments are copied and told of.

use std::rc::Rc;
use std::time::Duration;

use job::HOME_MAX;
use job::home::{Home, HomeAnswer, HomeRequest, MovedMessage, MovedRequest, WhereRequest};
use job::known::KnownMessage;
use mail::{MessageId, Timestamp};
use queue::{Compaction, CompactionError, Handle, Held, Listed, ReadError, Sealed, Survey};
use socket::{CallError, Client};
use tokio::time::Instant;

use crate::rule::{self, Candidate, Survivor};
use crate::{Settings, counter};

/// Everything a pass works with.
pub(crate) struct Pass {
    pub(crate) settings: Settings,
    pub(crate) compaction: Rc<dyn Compaction>,
    pub(crate) scheduler: Client<Home>,
    pub(crate) now: fn() -> Timestamp,
}

/// What a pass did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// Segments of which the scheduler was asked.
    pub(crate) examined: u64,
    /// Segments out of which every survivor was moved.
    pub(crate) emptied: u64,
    pub(crate) moved: u64,
    pub(crate) damaged: u64,
    pub(crate) copied_bytes: u64,
    pub(crate) removed: u64,
    /// Whether there was more than a pass may copy.
    pub(crate) more: bool,
}

/// Why a pass ended before its time. The next one, by the clock, does what was left.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CutShort {
    #[error("scheduler does not answer: {0}")]
    Scheduler(CallError),
    #[error(transparent)]
    Store(#[from] CompactionError),
}

/// How long to wait before asking again whoever did not answer.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// The most messages that are copied before their directory is synced and the scheduler is told.
const BATCH_MESSAGES: usize = 64;
/// The most bytes of them, but for the last.
const BATCH_BYTES: u64 = 16 << 20;

/// A message to be moved: its id and where it lives.
type Living = (MessageId, Handle);

impl Pass {
    /// Goes over the whole store.
    pub(crate) async fn go(&self, report: &mut Report) -> Result<(), CutShort> {
        let survey = self.survey().await?;
        self.end_earlier(report).await?;
        let spare_bytes = survey.spare_bytes;
        let mut candidates = Vec::new();
        for sealed in self.to_examine(survey).await? {
            candidates.extend(self.examine(sealed, report).await?);
        }
        for chosen in rule::choose(&self.settings, candidates, spare_bytes) {
            if report.copied_bytes >= self.settings.pass_bytes_max.0 {
                report.more = true;
                break;
            }
            self.empty(chosen, report).await?;
        }
        Ok(())
    }

    /// Looks at the store. A worker that is about to end may still have the right to work.
    async fn survey(&self) -> Result<Survey, CutShort> {
        let begun = Instant::now();
        loop {
            match self.compaction.survey().await {
                Err(CompactionError::Busy)
                    if begun.elapsed() < self.settings.unreachable_after.0 =>
                {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                survey => return Ok(survey?),
            }
        }
    }

    /// Ends what earlier passes began: copies of living messages that the scheduler does not know of are told of, copies of
    /// messages that have ended are removed.
    async fn end_earlier(&self, report: &mut Report) -> Result<(), CutShort> {
        let copies = self.compaction.copies().await?;
        for part in copies.chunks(HOME_MAX) {
            let asked = part.iter().map(|one: &Listed| (one.id, one.handle.clone())).collect();
            let HomeAnswer { moved, ended, .. } = self.homes(asked).await?;
            let mut living = Vec::new();
            for elsewhere in moved {
                if let Some(copy) = part.get(elsewhere.index as usize) {
                    living.push((copy.id, elsewhere.handle));
                }
            }
            for batch in living.chunks(BATCH_MESSAGES) {
                self.move_all(batch.to_vec(), report).await?;
            }
            let copy = |index: u32| Some(part.get(index as usize)?.handle.clone());
            self.remove(ended.into_iter().filter_map(copy).collect(), report).await?;
        }
        Ok(())
    }

    /// The segments of which the scheduler is to be asked: the young ones only if all of them take more than they may.
    async fn to_examine(&self, survey: Survey) -> Result<Vec<(Sealed, Vec<Held>, bool)>, CutShort> {
        let bytes: u64 = survey.segments.iter().map(|sealed| sealed.bytes).sum();
        let mut to_examine = Vec::new();
        for sealed in survey.segments {
            let held = self.compaction.held(&sealed.segment).await?;
            let Some(youngest) = held.iter().map(|one| one.accepted_at).max() else { continue };
            let is_young = rule::is_young(&self.settings, youngest, (self.now)());
            if !is_young || bytes > survey.spare_bytes {
                to_examine.push((sealed, held, is_young));
            }
        }
        Ok(to_examine)
    }

    /// Asks what lives in a segment; nothing when it is to stay.
    async fn examine(
        &self,
        (sealed, held, is_young): (Sealed, Vec<Held>, bool),
        report: &mut Report,
    ) -> Result<Option<Candidate>, CutShort> {
        report.examined += 1;
        let mut candidate = Candidate { sealed, survivors: Vec::new(), is_young };
        for part in held.chunks(HOME_MAX) {
            let asked = part.iter().map(|one| (one.id, one.handle.clone())).collect();
            let answer = self.homes(asked).await?;
            let lives = answer.here.iter().filter_map(|here| {
                let held = part.get(here.index as usize)?.clone();
                Some(Survivor { held, size: here.size })
            });
            candidate.survivors.extend(lives);
            // One that the scheduler does not know may still be routed: nobody but this segment tells of it.
            let is_known = (0..).zip(part).all(|(index, _)| names(&answer, index));
            let live_bytes = candidate.live_bytes();
            if !is_known || rule::stays(&self.settings, &candidate.sealed, live_bytes) {
                return Ok(None);
            }
        }
        Ok(Some(candidate))
    }

    /// Moves the survivors of a segment, until one turns out to be damaged: then it stays for that one's sake.
    async fn empty(&self, chosen: Candidate, report: &mut Report) -> Result<(), CutShort> {
        let name = chosen.sealed.segment.0.escape_debug().to_string();
        let (live_bytes, survivors) = (chosen.live_bytes(), chosen.survivors.len());
        tracing::debug!(segment = %name, bytes = chosen.sealed.bytes, live_bytes, survivors, "emptying a segment");
        let damaged = report.damaged;
        let mut rest = chosen.survivors.into_iter().peekable();
        while rest.peek().is_some() && report.damaged == damaged {
            let (mut batch, mut bytes) = (Vec::new(), 0);
            while batch.len() < BATCH_MESSAGES
                && bytes < BATCH_BYTES
                && let Some(one) = rest.next()
            {
                bytes += one.copy_bytes();
                batch.push((one.held.id, one.held.handle));
            }
            report.copied_bytes += bytes;
            self.move_all(batch, report).await?;
        }
        if report.damaged == damaged {
            report.emptied += 1;
        } else {
            tracing::error!(segment = %name, "a segment keeps its space for the sake of a message in it that is damaged");
        }
        Ok(())
    }

    /// Copies messages and tells the scheduler; removes the copies of those that have ended meanwhile.
    async fn move_all(&self, batch: Vec<Living>, report: &mut Report) -> Result<(), CutShort> {
        let handles = batch.iter().map(|(_, handle)| handle.clone()).collect();
        let copies = self.compaction.copy(handles).await?;
        let (mut told, mut faulty) = (Vec::new(), Vec::new());
        for ((id, from), copy) in batch.into_iter().zip(copies) {
            match copy {
                Ok(to) => told.push(MovedMessage { id, from, to }),
                Err(error) => faulty.push((id, from, error)),
            }
        }
        if !told.is_empty() {
            let request = HomeRequest::Moved(MovedRequest { messages: told.clone() });
            let answer = self.ask(&request).await?;
            report.moved += answer.moved.len() as u64;
            let copy = |index: u32| Some(told.get(index as usize)?.to.clone());
            self.remove(answer.ended.into_iter().filter_map(copy).collect(), report).await?;
        }
        self.report_damage(faulty, report).await
    }

    /// Reports messages that could not be copied and have not ended meanwhile.
    async fn report_damage(
        &self,
        faulty: Vec<(MessageId, Handle, ReadError)>,
        report: &mut Report,
    ) -> Result<(), CutShort> {
        if faulty.is_empty() {
            return Ok(());
        }
        let asked = faulty.iter().map(|(id, handle, _)| (*id, handle.clone())).collect();
        for here in self.homes(asked).await?.here {
            if let Some((id, handle, error)) = faulty.get(here.index as usize) {
                report.damaged += 1;
                tracing::error!(%id, %handle, %error, "a message cannot be copied");
            }
        }
        Ok(())
    }

    async fn remove(&self, copies: Vec<Handle>, report: &mut Report) -> Result<(), CutShort> {
        if !copies.is_empty() {
            report.removed += copies.len() as u64;
            self.compaction.discard(copies).await?;
        }
        Ok(())
    }

    /// Asks where messages live.
    async fn homes(&self, messages: Vec<Living>) -> Result<HomeAnswer, CutShort> {
        let message = |(id, handle)| KnownMessage { handle, id };
        let messages = messages.into_iter().map(message).collect();
        self.ask(&HomeRequest::Where(WhereRequest { messages })).await
    }

    /// Asks the scheduler, again and again for a while: both of what it is asked may be repeated.
    async fn ask(&self, request: &HomeRequest) -> Result<HomeAnswer, CutShort> {
        let begun = Instant::now();
        loop {
            match self.scheduler.call(request).await {
                Ok(answer) => return Ok(answer),
                Err(error) if begun.elapsed() >= self.settings.unreachable_after.0 => {
                    return Err(CutShort::Scheduler(error));
                }
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }
}

/// Whether an answer says anything of a position. Positions come in order, so that this is a search.
fn names(answer: &HomeAnswer, index: u32) -> bool {
    answer.here.binary_search_by_key(&index, |one| one.index).is_ok()
        || answer.moved.binary_search_by_key(&index, |one| one.index).is_ok()
        || answer.ended.binary_search(&index).is_ok()
}

impl Report {
    /// The numbers for the scoreboard.
    pub(crate) fn counts(&self) -> [(usize, u64); 6] {
        [
            (counter::EXAMINED, self.examined),
            (counter::EMPTIED, self.emptied),
            (counter::MOVED, self.moved),
            (counter::DAMAGED, self.damaged),
            (counter::COPIED, self.copied_bytes),
            (counter::REMOVED, self.removed),
        ]
    }
}

#[cfg(test)]
mod tests;
