//! What happens to messages: records of every kind.

use mail::{Address, BodyType, MessageId, Notify, Reply, Ret, StatusCode, Timestamp};

use super::{Backend, accept, deliver, routed};
use crate::{Attempt, Handle, Record, ReportKind, RoutedRecipient, State};

/// Messages that were accepted, by their numbers.
pub(super) struct Messages(pub(super) Vec<(MessageId, Handle)>);

impl Messages {
    pub(super) async fn of(backend: &dyn Backend, count: usize) -> Self {
        let intake = backend.intake();
        let mut messages = Vec::new();
        for _ in 0..count {
            messages.push(deliver(&*intake, b"x", accept("a@example.test", 1)).await);
        }
        Self(messages)
    }

    pub(super) fn routed(&self, number: usize, routing: u32) -> Record {
        let (id, handle) = self.0.get(number).expect("so many were accepted");
        routed(*id, handle, routing)
    }

    pub(super) fn retired(&self, number: usize) -> Record {
        let (id, handle) = self.0.get(number).expect("so many were accepted").clone();
        Record::Retired { id, handle }
    }
}

/// What happens to a message, in order: something of every kind of record, and to each message something else.
pub(super) fn life_of(number: usize, (id, handle): &(MessageId, Handle)) -> Vec<Record> {
    let it = About { number, id: *id, handle };
    let mut records = Vec::new();
    if number % 4 == 1 {
        records.extend([it.strike(1, None), it.strike(2, Some("three times")), it.strike(1, None)]);
    }
    if number % 8 == 5 {
        records.push(if number % 16 == 5 { it.strike(0, None) } else { it.hold(None) });
    }
    if number % 10 == 9 {
        // It is not routed yet.
        let suspended = it.suspend(None, Some(at(1)));
        records.extend([it.tell(0, State::Removed), suspended, it.strike(2, None)]);
        return records;
    }
    records.push(whole_routing(*id, handle, 1, number.is_multiple_of(7)));
    records.push(whole_routing(*id, handle, 1, false));
    records.extend(it.changes());
    if number.is_multiple_of(5) {
        records.extend([it.suspend(Some("b"), Some(at(9))), it.suspend(Some("b"), None)]);
        records.push(Record::Retired { id: *id, handle: handle.clone() });
    }
    records
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000 + millis)
}

fn reply(text: &str) -> Reply {
    let remote = Some("mx.example.org".into());
    Reply { status: StatusCode::new(4, 2, 0), text: text.into(), remote }
}

fn tried(count: u32) -> Attempt {
    let last = Some(reply("451 as they say \u{2028} \n"));
    Attempt { count, next: at(60_000), last, delay_reported: false }
}

/// A message, and its number.
struct About<'a> {
    number: usize,
    id: MessageId,
    handle: &'a Handle,
}

impl About<'_> {
    fn strike(&self, strikes: u32, hold: Option<&str>) -> Record {
        let (id, handle) = (self.id, self.handle.clone());
        Record::Strike { handle, id, strikes, hold: hold.map(Into::into) }
    }

    fn hold(&self, reason: Option<&str>) -> Record {
        Record::Hold { id: self.id, reason: reason.map(Into::into) }
    }

    fn tell(&self, index: u32, state: State) -> Record {
        Record::Outcome { id: self.id, recipients: vec![(index, state)] }
    }

    fn owes(&self, kind: ReportKind, recipients: &[u32]) -> Record {
        let recipients = recipients.to_vec();
        Record::Owes { id: self.id, kind, recipients, due: at(300_000) }
    }

    fn reported(&self, kind: ReportKind, recipients: &[u32]) -> Record {
        Record::Reported { id: self.id, kind, recipients: recipients.to_vec() }
    }

    fn reroute(&self, routing: u32) -> Record {
        Record::Reroute { id: self.id, routing }
    }

    fn suspend(&self, host: Option<&str>, until: Option<Timestamp>) -> Record {
        let host = host.map(|host| format!("{}.{host}", self.number));
        Record::Suspend { channel: "smtp".into(), host, until }
    }

    /// What happens to it once it is routed.
    fn changes(&self) -> Vec<Record> {
        let failed = State::Failed(reply("550 no such user"));
        let held = || State::Held { reason: "an operator's".into(), then: tried(2) };
        match self.number % 6 {
            0 => vec![
                self.tell(0, State::Open(tried(1))),
                self.owes(ReportKind::Delay, &[0, 2]),
                self.strike(1, None),
            ],
            1 => vec![
                self.tell(1, failed),
                self.owes(ReportKind::Failure, &[1]),
                self.owes(ReportKind::Failure, &[0, 1]),
                self.reported(ReportKind::Failure, &[1]),
                self.owes(ReportKind::Success, &[2]),
            ],
            2 => vec![
                self.tell(0, held()),
                self.tell(1, held()),
                self.tell(1, State::Open(tried(3))),
                self.owes(ReportKind::Delay, &[0, 1]),
                self.reported(ReportKind::Delay, &[0, 1]),
            ],
            3 => vec![
                self.hold(Some("an operator's")),
                self.reroute(2),
                self.suspend(Some("a"), Some(at(5))),
            ],
            4 => vec![
                self.reroute(2),
                self.hold(Some("for a while")),
                whole_routing(self.id, self.handle, 2, false),
                self.reroute(1),
                self.suspend(Some(""), Some(at(7))),
                self.suspend(Some(""), Some(at(8))),
            ],
            _ => vec![
                self.hold(Some("x")),
                self.hold(None),
                self.strike(2, None),
                self.strike(0, None),
                self.tell(0, State::Removed),
            ],
        }
    }
}

/// A routing in which nothing is left out.
pub(super) fn whole_routing(id: MessageId, handle: &Handle, routing: u32, is_held: bool) -> Record {
    let Record::Routed(mut message) = routed(id, handle, routing) else {
        unreachable!("it is a routing")
    };
    let address = |text: &str| Address::parse(text).expect("an address");
    message.sender = Some(address("sender@bücher.example"));
    message.smtputf8 = true;
    message.body = BodyType::EightBitMime;
    message.ret = Some(Ret::Full);
    message.envid = Some("QQ+3D".into());
    message.hold = is_held.then(|| "a filter's \"reason\"\n".into());
    let first = message.recipients.first().expect("it has one").clone();
    let held = State::Held { reason: "a filter's".into(), then: Attempt::default() };
    message.recipients.push(RoutedRecipient {
        index: 1,
        original: Some(address("list@example.test")),
        orcpt: Some("rfc822;x+2By@example.org".into()),
        notify: Some(Notify { success: true, failure: false, delay: true }),
        user: "somebody".into(),
        state: held,
        ..first.clone()
    });
    let failed = Reply { status: StatusCode::new(5, 1, 1), text: "refused".into(), remote: None };
    message.recipients.push(RoutedRecipient {
        index: 2,
        channel: "local".into(),
        host: String::new(),
        state: if routing > 1 { State::Failed(failed) } else { State::default() },
        ..first
    });
    Record::Routed(message)
}
