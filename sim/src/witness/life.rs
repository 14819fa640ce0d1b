//! What the ledger says of messages as it is written, and whether a new life of the scheduler still knows it.

use std::collections::BTreeMap;

use mail::MessageId;
use queue::{Record, ReportKind, Routed, Standing, State};
use queue_spool::disk::simulated::As;

use super::{Mail, Promise, Witness, Written, hold, text_of};
use crate::clock::Clock;
use crate::tell::tell;

impl Witness {
    /// Takes note of records that were appended. `lives` tells which life each acceptor has.
    pub(crate) fn appended(&mut self, clock: &Clock, records: Vec<Record>, lives: &[u64]) {
        for record in records {
            tell!(clock, "record {record:?}");
            self.records += 1;
            let number = self.records;
            let written =
                Written { number, texts: vec![text_of(&record)], durable: false, survives: false };
            match &record {
                Record::Routed(it) => self.routed(clock, it, written, lives),
                Record::Snapshot(it) => {
                    if self.mail(it.id).routed.is_none() {
                        self.routed(clock, it, written.clone(), lives);
                    }
                    self.snapshot(clock, it, &written);
                }
                Record::Outcome { id, recipients } => {
                    for (index, state) in recipients {
                        self.outcome(clock, *id, *index, state, &written);
                    }
                }
                Record::Hold { id, reason } => {
                    let mail = self.mail(*id);
                    mail.held = reason.is_some();
                    mail.fates.iter_mut().for_each(|fate| fate.touched_at = clock.mono);
                }
                Record::Reported { id, kind, recipients } => {
                    self.noted_report(*id, *kind, recipients, &written);
                }
                Record::Moved { id, handle } => {
                    self.seen.moved += 1;
                    let mail = self.mail(*id);
                    if let Some(before) = mail.handle.replace(handle.clone()) {
                        mail.before.push((before, written));
                    }
                }
                Record::Retired { id, .. } => self.retired(*id, written),
                Record::Owes { .. }
                | Record::Strike { .. }
                | Record::Reroute { .. }
                | Record::Suspend { .. } => {}
            }
        }
    }

    fn routed(&mut self, clock: &Clock, routed: &Routed, written: Written, lives: &[u64]) {
        let id = routed.id;
        let mail = self.mail(id);
        let (acceptor, life) = mail.acceptor;
        match mail.promise {
            Promise::Accepted => {
                hold!(
                    mail.handle.as_ref() == Some(&routed.handle) || !mail.before.is_empty(),
                    "one-place",
                    "{id} is routed from another place"
                );
            }
            Promise::Dropped => {
                panic!("dropped-stays: {id} was dropped by its client and is routed")
            }
            Promise::Open | Promise::Refused => {
                let died = lives.get(acceptor).is_some_and(|now| *now != life);
                hold!(
                    died,
                    "refused-stays",
                    "{id} was never accepted and is routed, though its acceptor lives"
                );
                // From here on it is mail like any other.
                mail.promise = Promise::Accepted;
                mail.handle = Some(routed.handle.clone());
            }
        }
        hold!(mail.retired.is_none(), "once", "{id} has ended and is routed again");
        for one in &routed.recipients {
            let fate = &mut mail.fates[one.index as usize];
            fate.lane = (one.channel.clone(), one.host.clone());
            fate.touched_at = clock.mono;
        }
        mail.held = routed.hold.is_some();
        mail.routed = Some(written);
        mail.routing = routed.routing;
    }

    /// A snapshot says the same again, in another log.
    fn snapshot(&mut self, clock: &Clock, routed: &Routed, written: &Written) {
        let mail = self.mail(routed.id);
        let again = |it: &mut Option<Written>| {
            if let Some(it) = it.as_mut().filter(|it| !it.durable) {
                it.texts.extend(written.texts.iter().cloned());
            }
        };
        again(&mut mail.routed);
        for one in &routed.recipients {
            if matches!(one.state, State::Delivered(_)) {
                again(&mut mail.fates[one.index as usize].delivered);
            }
        }
        if let Some((_, moved)) = mail.before.last_mut() {
            moved.texts.extend(written.texts.iter().cloned());
        }
        // What the ledger failed to take was said by no other record.
        for one in &routed.recipients {
            let fate = &self.mail(routed.id).fates[one.index as usize];
            let is_new = match one.state {
                State::Delivered(_) => fate.delivered.is_none(),
                State::Failed(_) => !fate.failed,
                State::Removed => !fate.removed,
                State::Held { .. } | State::Open(_) => false,
            };
            if is_new {
                self.outcome(clock, routed.id, one.index, &one.state, written);
            }
        }
    }

    /// A checkpoint that began when so many records had been appended is synced: it says all that they said.
    pub(crate) fn checkpointed(&mut self, records: u64) {
        self.each_written(|it, _| it.durable |= it.number <= records);
    }

    fn outcome(
        &mut self,
        clock: &Clock,
        id: MessageId,
        index: u32,
        state: &State,
        written: &Written,
    ) {
        let expire_ms = self.expire_ms;
        let mail = self.mail(id);
        let fate = &mut mail.fates[index as usize];
        match state {
            State::Delivered(_) => {
                hold!(
                    fate.dots > 0,
                    "no-outcome-invented",
                    "{id} #{index} is said to be delivered"
                );
                fate.delivered.get_or_insert_with(|| written.clone());
                fate.may_repeat = fate.told_beside;
            }
            State::Failed(_) => {
                let expired = mail.accepted_wall + expire_ms;
                let tried = fate.tried_at.is_some_and(|at| at >= expired);
                hold!(
                    fate.refused || tried || mail.remove_asked,
                    "nothing-expires-untried",
                    "{id} #{index} expired, last tried at {:?}, expiry {expired}, now {}",
                    fate.tried_at,
                    clock.wall().millis()
                );
                fate.failed = true;
            }
            State::Removed => {
                hold!(
                    mail.remove_asked,
                    "no-outcome-invented",
                    "{id} #{index} is removed by nobody"
                );
                fate.removed = true;
            }
            State::Held { .. } | State::Open(_) => fate.touched_at = clock.mono,
        }
    }

    fn noted_report(
        &mut self,
        id: MessageId,
        kind: ReportKind,
        recipients: &[u32],
        written: &Written,
    ) {
        if kind != ReportKind::Failure {
            return;
        }
        let mail = self.mail(id);
        for index in recipients {
            let fate = &mut mail.fates[*index as usize];
            let committed = fate.reports > 0 || !mail.sender || mail.remove_asked;
            hold!(
                committed,
                "no-failure-unreported",
                "{id} #{index} counts as reported, and no report was committed: {fate:?} {}",
                mail.remove_asked
            );
            fate.reported.get_or_insert_with(|| written.clone());
            fate.report_may_repeat = false;
        }
    }

    fn retired(&mut self, id: MessageId, written: Written) {
        let expire_ms = self.expire_ms;
        let mail = self.mail(id);
        for (index, fate) in mail.fates.iter().enumerate() {
            // The last outcomes need no record of their own.
            let expired = fate.tried_at.is_some_and(|at| at >= mail.accepted_wall + expire_ms);
            let failed = fate.failed || fate.refused || expired;
            let reported = failed && (fate.reports > 0 || !mail.sender);
            let delivered = fate.delivered.is_some() || fate.heard;
            let ended = delivered || reported || fate.removed || mail.remove_asked;
            hold!(ended, "one-ending", "{id} is retired, and #{index} has no ending: {fate:?}");
        }
        if mail.retired.replace(written).is_none() {
            self.seen.retired += 1;
        }
    }

    /// Some sync has ended: what is on the disk now stays.
    pub(crate) fn settle(&mut self) {
        self.each_written(|it, holds| it.durable = it.durable || holds(it, As::Disk));
    }

    /// Something dies: what is there now must be known afterwards. Of a message of the scheduler that is not recorded it may be
    /// that it comes again.
    pub(crate) fn crashes(&mut self, seen: As) {
        self.seen.crashes += 1;
        self.each_written(|it, holds| it.survives = it.durable || holds(it, seen));
    }

    fn each_written(
        &mut self,
        mut change: impl FnMut(&mut Written, &dyn Fn(&Written, As) -> bool),
    ) {
        let (disk, dir) = (self.disk.clone(), self.spool.layout().ledger());
        let holds =
            |it: &Written, seen: As| it.texts.iter().any(|text| disk.holds(&dir, text, seen));
        for mail in self.mails.values_mut() {
            if mail.retired.as_ref().is_some_and(|it| it.durable) {
                continue;
            }
            let of_fates = mail
                .fates
                .iter_mut()
                .flat_map(|fate| fate.delivered.iter_mut().chain(&mut fate.reported));
            let of_moves = mail.before.iter_mut().map(|(_, moved)| moved);
            let all =
                mail.routed.iter_mut().chain(&mut mail.retired).chain(of_moves).chain(of_fates);
            all.filter(|it| !it.durable).for_each(|it| change(it, &holds));
        }
    }

    /// The scheduler lives again and has replayed this: it must know what it knew, as the state table says (DESIGN section 4).
    pub(crate) fn replayed(
        &mut self,
        records: Vec<Record>,
        standing: impl Fn(&queue::Handle) -> Standing,
    ) {
        let live = live_of(records);
        let listed = self.spool.listed_now(true).unwrap_or_default();
        let listed: Vec<MessageId> = listed.into_iter().flatten().map(|it| it.id).collect();
        for (id, mail) in &mut self.mails {
            if mail.promise != Promise::Accepted
                || mail.retired.as_ref().is_some_and(|it| it.durable) && !live.contains_key(id)
            {
                continue;
            }
            let Some(handle) = mail.handle.clone() else { continue };
            let stands = match live.get(id) {
                Some(_) => Standing::Routed,
                None => standing(&handle),
            };
            check_state(*id, mail, stands, live.get(id));
            if stands != Standing::Retired {
                hold!(
                    listed.contains(id),
                    "nothing-lost",
                    "{id} stands as {stands:?} and is not listed"
                );
                let is_whole = self
                    .spool
                    .message_now(mail.handle.as_ref().unwrap_or(&handle))
                    .is_ok_and(|(_, body)| body == mail.body);
                hold!(is_whole, "nothing-lost", "{id} stands as {stands:?} and cannot be read");
            }
        }
    }
}

/// Checks a message against what the scheduler now knows, and takes that over.
fn check_state(id: MessageId, mail: &mut Mail, stands: Standing, live: Option<&Routed>) {
    let survives = |it: &Option<Written>| it.as_ref().is_some_and(|it| it.survives || it.durable);
    if survives(&mail.retired) {
        hold!(
            stands == Standing::Retired,
            "state-table",
            "{id} had ended and stands as {stands:?}"
        );
    } else if survives(&mail.routed) {
        let forgotten = stands == Standing::Unknown;
        hold!(!forgotten, "state-table", "{id} was routed and is unknown");
    }
    match stands {
        Standing::Retired => {
            hold!(mail.retired.is_some(), "nothing-lost", "{id} counts as ended and never was");
        }
        _ => mail.retired = None,
    }
    if stands == Standing::Unknown {
        mail.routed = None;
    }
    let Some(live) = live else {
        if stands == Standing::Unknown {
            mail.fates.iter_mut().for_each(|fate| {
                fate.may_repeat |= fate.dots > 0;
                fate.report_may_repeat |= fate.reports > 0;
                (fate.delivered, fate.reported) = (None, None);
                fate.heard = false;
                (fate.failed, fate.removed) = (false, false);
            });
        }
        return;
    };
    if let Some((_, moved)) = mail.before.last()
        && live.handle != *mail.handle.as_ref().unwrap_or(&live.handle)
    {
        hold!(
            !moved.survives && !moved.durable,
            "state-table",
            "{id} was moved, and its old place counts"
        );
        mail.before.pop();
        mail.handle = Some(live.handle.clone());
    }
    mail.held = live.hold.is_some();
    for one in &live.recipients {
        let fate = &mut mail.fates[one.index as usize];
        if matches!(one.state, State::Delivered(_)) {
            continue;
        }
        hold!(
            !survives(&fate.delivered),
            "state-table",
            "{id} #{} was recorded as delivered and is forgotten",
            one.index
        );
        fate.delivered = None;
        fate.heard = false;
        fate.may_repeat |= fate.dots > 0;
        fate.failed = matches!(one.state, State::Failed(_));
        fate.removed = matches!(one.state, State::Removed);
        if !survives(&fate.reported) {
            fate.reported = None;
            fate.report_may_repeat |= fate.reports > 0;
        }
    }
}

/// The live messages that records tell of.
fn live_of(records: Vec<Record>) -> BTreeMap<MessageId, Routed> {
    let mut live = BTreeMap::new();
    for record in records {
        match record {
            Record::Routed(it) | Record::Snapshot(it) => drop(live.insert(it.id, *it)),
            Record::Retired { id, .. } => drop(live.remove(&id)),
            Record::Moved { id, handle } => {
                if let Some(routed) = live.get_mut(&id) {
                    routed.handle = handle;
                }
            }
            Record::Hold { id, reason } => {
                if let Some(routed) = live.get_mut(&id) {
                    routed.hold = reason;
                }
            }
            Record::Outcome { id, recipients } => {
                let Some(routed) = live.get_mut(&id) else { continue };
                for (index, state) in recipients {
                    if let Some(one) = routed.recipients.iter_mut().find(|one| one.index == index) {
                        one.state = state;
                    }
                }
            }
            _ => {}
        }
    }
    live
}
