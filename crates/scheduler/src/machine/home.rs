//! Where messages live: saying so, and taking copies that compact has made for their places.
//!
//! ```text
//!  lives where it was copied from ── moved ──▶ its handle is that of the copy ── synced ──▶ answered: moved
//!  has ended meanwhile ──────────────────────▶ answered: ended, once its end is synced; the copy is let go
//!  anything else ────────────────────────────▶ not named: the copy is left as it is
//! ```

use job::home::{Here, HomeAnswer, Moved, MovedRequest, WhereRequest};
use queue::{Record, Standing};

use super::{Scheduler, Turn};

impl Scheduler {
    /// Says where messages live. `standings` are those of the handles asked about.
    pub(super) fn homes(&self, request: &WhereRequest, standings: &[Standing]) -> HomeAnswer {
        let mut answer = HomeAnswer::default();
        for ((index, asked), standing) in (0..).zip(&request.messages).zip(standings) {
            match self.backlog.find(&asked.id).map(|slot| self.backlog.look(slot)) {
                Some(message) if message.handle == asked.handle => {
                    answer.here.push(Here { index, size: message.size });
                }
                Some(message) => {
                    answer.moved.push(Moved { index, handle: message.handle.clone() });
                }
                None if *standing == Standing::Retired => answer.ended.push(index),
                None => {}
            }
        }
        answer
    }

    /// Makes copies the places of their messages, where these still live. `standings` are those of the places before.
    pub(super) fn moved(
        &mut self,
        turn: &mut Turn<'_>,
        request: MovedRequest,
        standings: &[Standing],
    ) -> HomeAnswer {
        let mut answer = HomeAnswer::default();
        for ((index, asked), standing) in (0..).zip(request.messages).zip(standings) {
            match self.backlog.find(&asked.id).map(|slot| self.backlog.look(slot)) {
                Some(message) if message.handle == asked.from => {
                    let handle = asked.to.clone();
                    self.counts.moved += 1;
                    self.record(turn, Record::Moved { id: asked.id, handle });
                    answer.moved.push(Moved { index, handle: asked.to });
                }
                Some(message) if message.handle == asked.to => {
                    answer.moved.push(Moved { index, handle: asked.to });
                }
                None if *standing == Standing::Retired => answer.ended.push(index),
                Some(_) | None => {}
            }
        }
        answer
    }
}
