//! Clients, and acceptors: the real intake machines.

use std::collections::BTreeMap;

use job::route::RouteRequest;
use mail::{Address, BodyType, Envelope, MessageId, Origin, Recipient};
use queue::{Accept, ReportKind};
use queue_spool::intake::bodies::{self, Bodies};
use queue_spool::intake::writer::{self, CommitBody, Writer};
use queue_spool::place::{MessagePlace, Place, RecordPlace};
use queue_spool::{Machine, Next};

use crate::clock::{MINUTE, SECOND};
use crate::witness::{Fate, Mail, Promise};
use crate::world::{Event, World};

/// The acceptor of clients.
pub(crate) const CLIENTS: usize = 0;
/// The acceptor of reports, which is the agent of channel `error`.
pub(crate) const REPORTS: usize = 1;

/// An acceptor: dead, or with its machines.
#[derive(Default)]
pub(crate) struct Acceptor {
    pub(crate) life: u64,
    pub(crate) machines: Option<(Writer<MessageId>, Bodies<MessageId>)>,
    /// Drafts that a filter looks at.
    drafts: BTreeMap<MessageId, RecordPlace>,
    due: Option<u64>,
}

/// Domains, and thereby hosts, of recipients. Each host is as its name says: see [`crate::agents`].
const DOMAINS: [&str; 10] = [
    "good1.test",
    "good2.test",
    "good3.test",
    "local.test",
    "slow.test",
    "flaky.test",
    "down.test",
    "picky.test",
    "throttle.test",
    "silent.test",
];

impl World {
    pub(crate) fn start_acceptor(&mut self, which: usize) {
        let Some(acceptor) = self.acceptors.get(which) else { return };
        if acceptor.machines.is_some() {
            return;
        }
        match self.spool.intake_machines(self.clock.of_spool()) {
            Ok((writer, bodies, adopted)) => {
                let acceptor = &mut self.acceptors[which];
                acceptor.life += 1;
                acceptor.machines = Some((writer, bodies));
                if adopted.needs_requeue() {
                    self.want_requeue(SECOND);
                }
                self.acceptor_turn(which, Vec::new());
                if which == REPORTS {
                    self.after(10, Event::StartWorker(crate::agents::ERROR));
                }
            }
            Err(_) => self.after(SECOND, Event::StartAcceptor(which)),
        }
    }

    /// An acceptor dies, with all that it had in hand.
    pub(crate) fn kill_acceptor(&mut self, which: usize) {
        let acceptor = &mut self.acceptors[which];
        acceptor.machines = None;
        acceptor.drafts.clear();
        acceptor.due = None;
        // Nobody of its last life is told anything any more.
        acceptor.life += 1;
        let wait = self.chance.between(50, 5 * SECOND);
        self.after(wait, Event::StartAcceptor(which));
    }

    pub(crate) fn client(&mut self) {
        if self.to_send == 0 {
            return;
        }
        self.to_send -= 1;
        let longest = if self.is_calm { 10 * SECOND } else { 6 * MINUTE };
        let wait = self.chance.below(longest);
        self.after(wait, Event::Client);
        if self.acceptors[CLIENTS].machines.is_none() {
            return;
        }
        let sender = match self.chance.below(10) {
            0 => None,
            1 => Some("s@down.test"),
            _ => Some("s@local.test"),
        };
        let count = if self.chance.percent(60) { 1 } else { self.chance.between(2, 6) };
        let recipients: Vec<String> = (0..count)
            .map(|number| {
                let domain = DOMAINS[self.chance.below(DOMAINS.len() as u64) as usize];
                format!("r{number}@{domain}")
            })
            .collect();
        let length = if self.chance.percent(12) {
            self.chance.between(3000, 9000)
        } else {
            self.chance.between(10, 1500)
        };
        let hold = self.chance.percent(4).then(|| "quarantine".to_owned());
        let id = self.new_id();
        self.submit(CLIENTS, id, sender, &recipients, length as usize, hold, None);
    }

    pub(crate) fn new_id(&mut self) -> MessageId {
        self.ids += 1;
        MessageId::new(self.clock.wall(), self.ids)
    }

    /// Gives a message to an acceptor.
    #[allow(clippy::too_many_arguments, reason = "a message has so many sides")]
    pub(crate) fn submit(
        &mut self,
        which: usize,
        id: MessageId,
        sender: Option<&str>,
        recipients: &[String],
        length: usize,
        hold: Option<String>,
        report_of: Option<(MessageId, ReportKind, Vec<u32>)>,
    ) {
        let body: Vec<u8> = (0..length).map(|at| (at as u64 * 31 + self.ids) as u8).collect();
        let fate = Fate { touched_at: self.clock.mono, ..Fate::default() };
        let mail = Mail {
            body: body.clone(),
            sender: sender.is_some(),
            promise: Promise::Open,
            acceptor: (which, self.acceptors[which].life),
            handle: None,
            before: Vec::new(),
            accepted_wall: self.clock.wall().millis(),
            fates: vec![fate; recipients.len()],
            report_of,
            routed: None,
            routing: 0,
            retired: None,
            removed_at: None,
            remove_asked: false,
            held: false,
        };
        let accept = Box::new(self.accept(sender, recipients, hold));
        self.witness.mails.insert(id, mail);
        if length > 2 << 10 {
            self.submit_large(which, id, &body, accept);
        } else if which == CLIENTS && self.chance.percent(20) {
            self.envelopes.insert(id, accept);
            self.acceptor_turn(which, vec![writer::Event::Draft { id, body, waiter: id }]);
        } else {
            let body = CommitBody::Whole(body);
            // Some are synced at once, and some wait for others.
            let company = writer::Event::Company(self.witness.mails.len() as u32 % 5);
            let commit = writer::Event::Commit { id, accept, body, waiter: id };
            self.acceptor_turn(which, vec![company, commit]);
        }
    }

    fn accept(&self, sender: Option<&str>, recipients: &[String], hold: Option<String>) -> Accept {
        let address = |text: &str| text.parse::<Address>().expect("an address");
        Accept {
            envelope: Envelope {
                sender: sender.map(address),
                recipients: recipients.iter().map(|it| Recipient::from(address(it))).collect(),
                body: BodyType::default(),
                smtputf8: false,
                ret: None,
                envid: None,
            },
            origin: Origin { service: "mx".into(), ..Origin::default() },
            accepted_at: self.clock.wall(),
            edits: Vec::new(),
            hold,
            replaced_body: None,
        }
    }

    fn submit_large(&mut self, which: usize, id: MessageId, body: &[u8], accept: Box<Accept>) {
        let now = self.clock.of_spool();
        let Some((_, machine)) = &mut self.acceptors[which].machines else { return };
        let mut events = vec![
            bodies::Event::Open { id },
            bodies::Event::Block { id, bytes: body.to_vec() },
            bodies::Event::Commit { id, accept, waiter: id },
        ];
        let mut answers = Vec::new();
        machine.turn(now, &mut events, &mut answers);
        let (mut forwarded, mut failed) = (Vec::new(), false);
        for answer in answers {
            match answer {
                bodies::Answer::Forward(event) => forwarded.push(event),
                bodies::Answer::Failed(..) => failed = true,
                _ => {}
            }
        }
        if failed {
            self.committed(which, id, None);
        }
        self.acceptor_turn(which, forwarded);
    }

    pub(crate) fn acceptor_due(&mut self, which: usize, life: u64) {
        let acceptor = &mut self.acceptors[which];
        if acceptor.life == life && acceptor.due.is_some_and(|due| due <= self.clock.mono) {
            acceptor.due = None;
            self.acceptor_turn(which, Vec::new());
        }
    }

    /// Lets an acceptor's writer do what it wants to do now.
    pub(crate) fn acceptor_turn(
        &mut self,
        which: usize,
        mut events: Vec<writer::Event<MessageId>>,
    ) {
        let now = self.clock.of_spool();
        let acceptor = &mut self.acceptors[which];
        let Some((writer, _)) = &mut acceptor.machines else { return };
        let mut answers = Vec::new();
        let next = loop {
            match writer.turn(now, &mut events, &mut answers) {
                Next::EventOr(at) | Next::RestUntil(at) if at <= now.at => {}
                next => break next,
            }
        };
        if let Next::EventOr(at) | Next::RestUntil(at) = next {
            let (at, life) = (self.clock.of(at), acceptor.life);
            if acceptor.due.is_none_or(|due| at < due || due < self.clock.mono) {
                acceptor.due = Some(at);
                self.at(at, Event::Acceptor(which, life));
            }
        }
        for answer in answers {
            match answer {
                writer::Answer::Committed(id, result) => self.committed(which, id, result.ok()),
                writer::Answer::Drafted(id, Ok(place)) => {
                    self.acceptors[which].drafts.insert(id, place);
                    let (life, wait) = (self.acceptors[which].life, self.chance.below(40 * SECOND));
                    self.after(wait, Event::DraftEnds(which, life, id));
                }
                writer::Answer::Drafted(id, Err(_)) => self.committed(which, id, None),
                writer::Answer::Health(_) => {}
            }
        }
    }

    pub(crate) fn draft_ends(&mut self, which: usize, life: u64, id: MessageId) {
        let acceptor = &mut self.acceptors[which];
        let (Some(place), true) = (acceptor.drafts.remove(&id), acceptor.life == life) else {
            return;
        };
        let Some(accept) = self.envelopes.remove(&id) else { return };
        let event = if self.chance.percent(85) {
            writer::Event::Commit { id, accept, body: CommitBody::Drafted(place), waiter: id }
        } else {
            self.witness.mail(id).promise = Promise::Dropped;
            writer::Event::Release(id)
        };
        self.acceptor_turn(which, vec![event]);
    }

    /// The client, or the error agent, is told.
    fn committed(&mut self, which: usize, id: MessageId, place: Option<MessagePlace>) {
        if self.disk.is_crashed() {
            return;
        }
        let Some(place) = place else {
            self.witness.mail(id).promise = Promise::Refused;
            self.witness.seen.refused += 1;
            return self.report_ends(id, false);
        };
        let handle = Place::Message(place).handle();
        self.witness.accepted(id, &handle);
        if which == REPORTS {
            self.report_ends(id, true);
        }
        if self.chance.percent(80) {
            let wait = self.chance.between(1, 50);
            self.after(wait, Event::Route(RouteRequest { handle, id, routing: 1, facts: None }));
        }
    }
}
