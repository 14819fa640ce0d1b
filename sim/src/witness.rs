//! Who sees everything and believes nobody: what every message was promised, what became of it, and whether that may be.
//!
//! A violation is a panic that begins with the invariant's name.

mod ledger;
mod life;

use std::collections::BTreeMap;
use std::fmt;

use job::deliver::{DeliverAnswer, DeliverRequest};
use mail::{MessageId, Outcome};
use queue::{Handle, Record, ReportKind};
use queue_spool::Spool;
use queue_spool::disk::simulated::{As, SimulatedDisk};

pub(crate) use self::ledger::{Journal, WitnessedLedger};
use crate::clock::Clock;

/// Fails with the name of an invariant.
macro_rules! hold {
    ($what:expr, $name:literal, $($words:tt)+) => {
        if !$what { panic!("{}: {}", $name, format!($($words)+)); }
    };
}
pub(crate) use hold;

/// Where a message stands with its acceptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Promise {
    /// Nothing was said yet, or its acceptor died before it said anything.
    Open,
    /// `250`.
    Accepted,
    /// `451` or `452`.
    Refused,
    /// Its client went away: it must never be seen again.
    Dropped,
}

/// A record that was appended to the ledger.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    /// As it stands in the ledger, and what says the same: snapshots.
    texts: Vec<Vec<u8>>,
    /// How many records were appended before it.
    number: u64,
    durable: bool,
    /// Whether it must be there after the crash that is under way.
    survives: bool,
}

/// What became of one recipient.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fate {
    pub(crate) lane: (String, String),
    /// Times that it was delivered, as the next hop sees it.
    pub(crate) dots: u32,
    /// Whether a fault has come between its last delivery and our record of it.
    pub(crate) may_repeat: bool,
    pub(crate) delivered: Option<Written>,
    /// Whether this life of the scheduler was told that it is delivered.
    pub(crate) heard: bool,
    /// Whether it was told late that it is delivered while another job had it in hand, which may deliver it yet.
    pub(crate) told_beside: bool,
    /// Whether the scheduler has acknowledged that.
    pub(crate) noted: bool,
    /// Whether an agent said that it failed.
    pub(crate) refused: bool,
    pub(crate) failed: bool,
    /// Whether something failed at it, or at its lane, when it had expired.
    pub(crate) tried_at: Option<u64>,
    /// Failure reports that were committed.
    pub(crate) reports: u32,
    pub(crate) report_may_repeat: bool,
    pub(crate) reported: Option<Written>,
    pub(crate) removed: bool,
    /// When it was last sent, lost, routed, released: since when it waits.
    pub(crate) touched_at: u64,
}

/// A message.
#[derive(Debug, Clone)]
pub(crate) struct Mail {
    pub(crate) body: Vec<u8>,
    pub(crate) sender: bool,
    pub(crate) promise: Promise,
    /// The acceptor that has it, and which of its lives.
    pub(crate) acceptor: (usize, u64),
    pub(crate) handle: Option<Handle>,
    /// Where it was before it was moved.
    pub(crate) before: Vec<(Handle, Written)>,
    pub(crate) accepted_wall: u64,
    pub(crate) fates: Vec<Fate>,
    pub(crate) report_of: Option<(MessageId, ReportKind, Vec<u32>)>,
    pub(crate) routed: Option<Written>,
    /// The number of its last routing.
    pub(crate) routing: u32,
    pub(crate) retired: Option<Written>,
    /// Since when an operator may be sure that it is removed.
    pub(crate) removed_at: Option<u64>,
    pub(crate) remove_asked: bool,
    pub(crate) held: bool,
}

impl Written {
    /// Whether no power cut can take it back.
    pub(crate) fn is_durable(&self) -> bool {
        self.durable
    }
}

impl Mail {
    /// Whether it has ended, as far as the scheduler has said.
    pub(crate) fn is_ended(&self) -> bool {
        self.retired.is_some()
    }

    /// Whether it was accepted and has not ended for good.
    pub(crate) fn is_owed(&self) -> bool {
        self.promise == Promise::Accepted && !self.retired.as_ref().is_some_and(Written::is_durable)
    }
}

/// What was seen, in numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seen {
    /// Messages that were answered with `250`.
    pub accepted: u64,
    /// Those that were refused.
    pub refused: u64,
    /// Deliveries, as the next hops see them.
    pub delivered: u64,
    /// Of them, second ones, which a fault explains.
    pub repeated: u64,
    /// Deliveries that were told late, and acknowledged.
    pub told: u64,
    /// Reports committed.
    pub reports: u64,
    /// Messages retired.
    pub retired: u64,
    /// Messages moved out of their segments.
    pub moved: u64,
    /// Times that something died or the power went.
    pub crashes: u64,
    /// Times that the ledger failed.
    pub ledger_failures: u64,
}

impl Seen {
    /// Adds what another run saw.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.delivered += other.delivered;
        self.repeated += other.repeated;
        self.told += other.told;
        self.reports += other.reports;
        self.retired += other.retired;
        self.moved += other.moved;
        self.crashes += other.crashes;
        self.ledger_failures += other.ledger_failures;
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            accepted,
            refused,
            delivered,
            repeated,
            told,
            reports,
            retired,
            moved,
            crashes,
            ledger_failures,
        } = self;
        write!(
            out,
            "accepted {accepted}, refused {refused}, delivered {delivered} ({repeated} again, which a fault explains; {told} told late), reports \
             {reports}, retired {retired}, moved {moved}, crashes {crashes}, ledger failures {ledger_failures}"
        )
    }
}

/// The witness.
pub(crate) struct Witness {
    pub(crate) disk: SimulatedDisk,
    pub(crate) spool: Spool,
    pub(crate) mails: BTreeMap<MessageId, Mail>,
    pub(crate) seen: Seen,
    /// Since when nothing has hindered the scheduler.
    pub(crate) well_since: u64,
    pub(crate) expire_ms: u64,
    /// How many records were appended.
    pub(crate) records: u64,
}

impl Witness {
    pub(crate) fn mail(&mut self, id: MessageId) -> &mut Mail {
        self.mails.get_mut(&id).unwrap_or_else(|| panic!("unknown: {id} was given to nobody"))
    }

    fn holds(&self, it: &Written, seen: As) -> bool {
        let dir = self.spool.layout().ledger();
        it.durable || it.texts.iter().any(|text| self.disk.holds(&dir, text, seen))
    }

    /// `250` was said.
    pub(crate) fn accepted(&mut self, id: MessageId, handle: &Handle) {
        let spool = &self.spool;
        for path in spool.files_of(handle) {
            hold!(self.disk.is_durable(&path, 0, 0), "accept-synced", "{id} has no durable file");
        }
        if let Some((path, offset, length)) = spool.record_of(handle) {
            let durable = self.disk.is_durable(&path, offset, u64::from(length));
            hold!(durable, "accept-synced", "250 for {id} before its record is synced");
        }
        let is_whole =
            spool.message_now(handle).is_ok_and(|(_, body)| body == self.mails[&id].body);
        hold!(is_whole, "accept-synced", "250 for {id}, which cannot be read");
        self.seen.accepted += 1;
        let mail = self.mail(id);
        mail.promise = Promise::Accepted;
        mail.handle = Some(handle.clone());
    }

    /// A job leaves for an agent.
    pub(crate) fn sent(&mut self, clock: &Clock, request: &DeliverRequest) {
        let id = request.id;
        let mail = &self.mails[&id];
        let routed = mail.routed.as_ref();
        hold!(routed.is_some(), "record-before-job", "{id} is sent and was never routed");
        let is_written = routed.is_some_and(|it| self.holds(it, As::Process));
        hold!(is_written, "record-before-job", "{id} is sent before its record is written");
        if let Some(asked) = mail.removed_at {
            hold!(asked >= clock.mono, "removed-stays", "{id} is sent after it was removed");
        }
        let is_report = request.report.is_some();
        for one in &request.recipients {
            let fate = &mail.fates[one.index as usize];
            if is_report {
                let is_known = fate.failed
                    || fate.delivered.is_some()
                    || request.report.as_ref().is_some_and(|it| it.kind == ReportKind::Delay);
                hold!(
                    is_known,
                    "report-after-sync",
                    "{id} #{} is reported and has not failed",
                    one.index
                );
            } else {
                hold!(
                    !fate.noted,
                    "told-stays",
                    "{id} #{} is sent again, though it was told late that it is delivered, and that was acknowledged",
                    one.index
                );
                let settled = fate.delivered.is_some() && !fate.may_repeat;
                hold!(
                    !settled,
                    "once",
                    "{id} #{} is sent again, though it was recorded as delivered",
                    one.index
                );
            }
        }
        let mail = self.mail(id);
        for one in &request.recipients {
            mail.fates[one.index as usize].touched_at = clock.mono;
        }
    }

    /// A next hop has it.
    pub(crate) fn delivered(&mut self, id: MessageId, index: u32, body: &[u8]) {
        let mail = self.mail(id);
        hold!(mail.body == body, "whole", "{id} arrives with another body");
        let fate = &mut mail.fates[index as usize];
        let again = fate.dots > 0;
        hold!(
            !again || fate.may_repeat,
            "once",
            "{id} #{index} is delivered twice, and no fault explains it"
        );
        fate.dots += 1;
        fate.may_repeat = false;
        self.seen.delivered += 1;
        self.seen.repeated += u64::from(again);
    }

    /// The answer of a job with what it did will not be heard.
    pub(crate) fn unheard(&mut self, id: MessageId, indexes: &[u32], is_report: bool) {
        let mail = self.mail(id);
        for index in indexes {
            let fate = &mut mail.fates[*index as usize];
            if is_report {
                fate.report_may_repeat = true;
            } else if fate.delivered.is_none() {
                fate.may_repeat = true;
            }
        }
    }

    /// An agent tells late to whom it has delivered; some of them are in hand of another job.
    pub(crate) fn told(&mut self, id: MessageId, index: u32, is_beside: bool) {
        let fate = &mut self.mail(id).fates[index as usize];
        fate.heard = true;
        fate.told_beside |= is_beside;
    }

    /// What was told late was acknowledged. After another routing it was not taken: a number may be another recipient's then.
    pub(crate) fn noted(&mut self, id: MessageId, index: u32, routing: u32) {
        let mail = self.mail(id);
        mail.fates[index as usize].noted |= mail.routing == routing;
        self.seen.told += 1;
    }

    /// Whether nobody needs to be told any more.
    pub(crate) fn is_noted(&mut self, id: MessageId, index: u32) -> bool {
        let mail = self.mail(id);
        mail.retired.is_some() || mail.fates[index as usize].noted
    }

    /// A report has been committed.
    pub(crate) fn reported(&mut self, id: MessageId) {
        self.seen.reports += 1;
        let Some((of, kind, recipients)) = self.mail(id).report_of.clone() else { return };
        if kind != ReportKind::Failure {
            return;
        }
        let mail = self.mail(of);
        for index in recipients {
            let fate = &mut mail.fates[index as usize];
            hold!(
                fate.reports == 0 || fate.report_may_repeat,
                "reported-once",
                "{of} #{index} is reported twice"
            );
            fate.reports += 1;
            fate.report_may_repeat = false;
        }
    }

    /// A report was committed of which nobody will hear: another may be written.
    pub(crate) fn orphan_report(&mut self, id: MessageId) {
        let Some((of, _, recipients)) = self.mail(id).report_of.clone() else { return };
        self.unheard(of, &recipients, true);
    }

    /// Whether the routing of a message is written down.
    pub(crate) fn is_routed(&self, id: MessageId) -> bool {
        let routed = self.mails.get(&id).and_then(|mail| mail.routed.as_ref());
        routed.is_some_and(|it| self.holds(it, As::Process))
    }

    /// Something happened to a message that it need not wait for.
    pub(crate) fn touch(&mut self, id: MessageId, now: u64) {
        self.mail(id).fates.iter_mut().for_each(|fate| fate.touched_at = now);
    }

    /// An agent tells what became of a job that was sent at `sent_wall`.
    pub(crate) fn tried(
        &mut self,
        id: MessageId,
        answer: &DeliverAnswer,
        request: &DeliverRequest,
        sent_wall: u64,
    ) {
        let mail = self.mail(id);
        for one in &request.recipients {
            let fate = &mut mail.fates[one.index as usize];
            let outcome =
                answer.outcomes.iter().find(|it| it.index == one.index).map(|it| &it.outcome);
            fate.heard |= matches!(outcome, Some(Outcome::Delivered(_)));
            fate.refused |= matches!(outcome, Some(Outcome::Failed(_)));
            fate.tried_at = fate.tried_at.max(Some(sent_wall));
        }
    }

    /// A whole destination failed.
    pub(crate) fn lane_failed(&mut self, lane: &(String, String), wall: u64) {
        let fates = self.mails.values_mut().flat_map(|mail| &mut mail.fates);
        fates
            .filter(|fate| fate.lane == *lane)
            .for_each(|fate| fate.tried_at = fate.tried_at.max(Some(wall)));
    }

    /// Files were removed: nobody may have needed them.
    pub(crate) fn check_unlinked(&mut self) {
        for path in self.disk.take_unlinked() {
            if crate::tell::tells() {
                println!("removed {}", path.display());
            }
            if path.extension().is_none_or(|it| it == "log" || it == "new") || self.disk.has(&path)
            {
                continue;
            }
            for (id, mail) in &self.mails {
                if mail.promise != Promise::Accepted {
                    continue;
                }
                let gone = mail.retired.as_ref().is_some_and(|it| self.holds(it, As::Disk));
                let lives = |handle: &Handle| self.spool.files_of(handle).contains(&path);
                let needed = mail.handle.as_ref().is_some_and(lives) && !gone;
                hold!(
                    !needed,
                    "unlinked-late",
                    "{} is removed, and {id} lives in it",
                    path.display()
                );
                for (before, moved) in &mail.before {
                    let moved = self.holds(moved, As::Disk);
                    hold!(
                        !lives(before) || moved || gone,
                        "unlinked-late",
                        "{} is removed, and {id} may have to live in it",
                        path.display()
                    );
                }
            }
        }
    }

    /// No recipient of a host that is well waits for ever.
    pub(crate) fn check_waiting(
        &self,
        clock: &Clock,
        is_well: impl Fn(&(String, String)) -> bool,
        bound_ms: u64,
    ) {
        for (id, mail) in &self.mails {
            if mail.routed.is_none() || mail.is_ended() || mail.held {
                continue;
            }
            for (index, fate) in mail.fates.iter().enumerate() {
                let done = fate.dots > 0 || fate.failed || fate.removed || fate.refused;
                if done || !is_well(&fate.lane) {
                    continue;
                }
                let since = fate.touched_at.max(self.well_since);
                let waits = clock.mono.saturating_sub(since);
                hold!(
                    waits <= bound_ms,
                    "no-lane-starves",
                    "{id} #{index} in {:?} waits for {} s",
                    fate.lane,
                    waits / 1000
                );
            }
        }
    }
}

/// A record as it stands in the ledger.
fn text_of(record: &Record) -> Vec<u8> {
    serde_json::to_vec(record).unwrap_or_default()
}
