//! Questions before `250`, which are asked again when whoever was asked is gone.
//!
//! ```text
//!            lost            lost                      lost: alone in hand, and did three crash, this one too?
//!   asked ────────▶ asked ────────▶ to be alone in hand ────────┬─▶ yes: the culprit
//!     │                                  ▲                      │
//!     └─ no answer in time: elsewhere    └──────── no ──────────┘
//! ```
//!
//! A question that was in hand when its worker crashed may be what the worker died of, or may only have been near. One that was
//! lost twice is sent so that the worker has nothing else in hand with it, whoever asks; the worker itself says so, and the crash
//! then tells. One that was on its way while another was alone there goes round again. A worker that an operator killed is no
//! evidence; whether it was killed or crashed is said on another connection, before or after.
//!
//! The suspects of this process take turns: they would only wait for each other at the worker, and be lost together.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use job::strike::STRIKES_MAX;
use socket::{CallError, Client, Conversation, PeerId, SendOptions, codes};
use tokio::sync::{Mutex, Notify};
use tokio::time::timeout;

use super::Unavailable;

/// After how many losses a question goes out alone.
const ALONE_LOSSES: usize = STRIKES_MAX as usize - 1;
/// How many workers a question may be lost with before it is given up, if fewer than [`STRIKES_MAX`] of them crashed.
const LOSSES_MAX: usize = 2 * STRIKES_MAX as usize;
/// How often workers that drain may hand a question back.
const NOT_TAKEN_MAX: u32 = 3;
/// How long a suspect may wait for its turn.
const TURN_WAIT_MAX: Duration = Duration::from_secs(30);
/// How long after a loss the word of a crash is waited for, while there is a worker who could say it.
const WORD_WAIT_MAX: Duration = Duration::from_millis(500);
/// How long it is waited for in all.
const FATES_WAIT_MAX: Duration = Duration::from_secs(10);
/// The most crashed workers that are remembered.
const CRASHED_MAX: usize = 64;

/// Asks the workers of one farm.
pub(super) struct Asker<C: Conversation> {
    client: Client<C>,
    crashes: Rc<Crashes>,
    /// Held by the suspect whose turn it is.
    turn: Mutex<()>,
}

/// The farm's workers that crashed lately, by their process ids.
#[derive(Default)]
struct Crashes {
    pids: RefCell<VecDeque<u32>>,
    told: Notify,
}

/// What has become of a question so far.
#[derive(Default)]
struct History {
    lost_with: Vec<u32>,
    not_taken: u32,
    was_late: bool,
}

impl<C: Conversation> Asker<C> {
    pub(super) fn new(client: Client<C>) -> Self {
        let crashes = Rc::new(Crashes::default());
        let weak = Rc::downgrade(&crashes);
        client.on_crash(move |pid| {
            if let Some(crashes) = weak.upgrade() {
                crashes.add(pid);
            }
        });
        Self { client, crashes, turn: Mutex::new(()) }
    }

    /// Begins to connect, so that the first question does not wait for it.
    pub(super) fn connect(&self) {
        self.client.connect();
    }

    /// Asks until there is an answer; within limits.
    pub(super) async fn ask(&self, request: &C::Request) -> Result<C::Answer, Unavailable> {
        self.ask_at(request, &mut None).await
    }

    /// Asks as [`Asker::ask`] does, the worker `at` first if there is one, and leaves there who was asked last.
    pub(super) async fn ask_at(
        &self,
        request: &C::Request,
        at: &mut Option<PeerId>,
    ) -> Result<C::Answer, Unavailable> {
        let mut history = History::default();
        loop {
            let answer = match history.lost_with.len() < ALONE_LOSSES {
                true => self.client.call_at(request, at).await,
                false => match timeout(TURN_WAIT_MAX, self.turn.lock()).await {
                    Ok(_turn) => self.client.call_alone(request).await,
                    Err(_) => return Err(Unavailable::Deadline),
                },
            };
            let error = match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            *at = None;
            self.consider(error, &mut history).await?;
        }
    }

    /// Tells a worker something if it is there and has room; whatever it answers.
    pub(super) fn tell(&self, request: &C::Request, to: PeerId) {
        let options = SendOptions { give_up: true, to: Some(to), ..SendOptions::default() };
        let _ = self.client.send(request, options, |_| {});
    }

    /// Decides whether a question is asked again.
    async fn consider(&self, error: CallError, history: &mut History) -> Result<(), Unavailable> {
        match error {
            CallError::Lost { pid, alone, .. } => {
                let lost_with = &mut history.lost_with;
                lost_with.push(pid);
                if alone
                    && self.strikes(lost_with).await >= STRIKES_MAX as usize
                    && self.crashes.count(&[pid]) > 0
                {
                    return Err(Unavailable::Crashed);
                }
                if lost_with.len() >= LOSSES_MAX {
                    return Err(Unavailable::Failed(error.to_string()));
                }
            }
            CallError::Refused(error)
                if error.code == codes::NOT_TAKEN && history.not_taken < NOT_TAKEN_MAX =>
            {
                history.not_taken += 1;
            }
            // One worker may be stopped and another well: the late answer keeps the first one's count up, and so the other is asked.
            CallError::Deadline if !history.was_late && self.client.peers().len() > 1 => {
                history.was_late = true;
            }
            CallError::Deadline => return Err(Unavailable::Deadline),
            error => return Err(Unavailable::Failed(error.to_string())),
        }
        Ok(())
    }

    /// How many of these workers crashed. Waits for the word of it, which the farm's other workers bring, or the next one.
    async fn strikes(&self, lost_with: &[u32]) -> usize {
        let end = Instant::now() + FATES_WAIT_MAX;
        loop {
            let crashed = self.crashes.count(lost_with);
            if crashed == lost_with.len() || Instant::now() >= end {
                return crashed;
            }
            let could_be_told = !self.client.peers().is_empty();
            let told = timeout(WORD_WAIT_MAX, self.crashes.told.notified()).await.is_ok();
            if !told && could_be_told {
                return self.crashes.count(lost_with);
            }
        }
    }
}

impl Crashes {
    fn add(&self, pid: u32) {
        let mut pids = self.pids.borrow_mut();
        if pids.len() >= CRASHED_MAX {
            pids.pop_front();
        }
        pids.push_back(pid);
        drop(pids);
        self.told.notify_waiters();
    }

    fn count(&self, of: &[u32]) -> usize {
        let pids = self.pids.borrow();
        of.iter().filter(|pid| pids.contains(pid)).count()
    }
}
