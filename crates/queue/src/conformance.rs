//! What every backend must do, as cases that each backend's tests run.
//!
//! A backend implements [`Backend`] over a store of its own and calls [`run`]. Every case begins with a new store. A
//! reader, a recovery and a ledger that were just opened stand for another process; so does a second intake.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use mail::{
    Address, BodyType, Delivered, Edit, Envelope, MessageId, Notify, Origin, Recipient, Reply, Ret,
    StatusCode, SuccessReport, Timestamp,
};

use crate::{
    Accept, Attempt, Body, Compaction, Draft, Handle, Intake, Ledger, LedgerError, Listed, Local,
    Owed, ReadError, Reader, Record, Recovery, ReportKind, Routed, RoutedRecipient, SizeHint,
    Standing, State, Stored,
};

/// A store that can be opened again and again.
pub trait Backend {
    /// Opens it for accepting, as another acceptor would.
    fn intake(&self) -> Rc<dyn Intake>;
    /// Opens it for reading, as another process would.
    fn reader(&self) -> Rc<dyn Reader>;
    /// Opens it for listing, as another process would.
    fn recovery(&self) -> Rc<dyn Recovery>;
    /// Opens it for compacting, as another process would.
    fn compaction(&self) -> Rc<dyn Compaction>;
    /// Opens the ledger; [`LedgerError::Held`] while another one is open.
    fn ledger(&self) -> Result<Rc<dyn Ledger>, LedgerError>;
}

type Case = for<'a> fn(&'a dyn Backend) -> Local<'a, ()>;

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        /// The cases by name.
        const CASES: &[(&str, Case)] = &[$((stringify!($name), |backend| Box::pin($name(backend)))),*];
    };
}

cases![
    what_is_committed_is_read_back,
    a_draft_is_readable_before_it_is_committed,
    what_is_dropped_is_not_accepted,
    a_large_body_is_written_with_a_brake,
    what_the_acceptor_says_comes_back,
    a_replaced_body_is_adopted,
    a_commit_goes_on_without_its_future,
    two_acceptors_write_at_once,
    recovery_lists_exactly_what_was_accepted,
    a_handle_of_another_store_is_foreign,
    standing_follows_the_records,
    what_records_amount_to_comes_back,
    replaying_again_gives_the_same,
    a_checkpoint_takes_records_in_its_midst,
    a_checkpoint_that_was_not_ended_changes_nothing,
    standing_outlives_a_checkpoint,
    the_ledger_has_one_holder,
    a_moved_message_lives_on,
    a_message_keeps_the_id_it_came_with,
];

/// Runs every case, each with a store of its own from `make`, and panics with the case's name at the first that fails.
pub fn run<B: Backend>(make: impl Fn() -> B) {
    for (name, case) in CASES {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(Default::default())
            .expect("a runtime can be built");
        let backend = make();
        eprintln!("conformance: {name}");
        runtime.block_on(case(&backend));
    }
}

async fn what_is_committed_is_read_back(backend: &dyn Backend) {
    let intake = backend.intake();
    for length in [0, 1, 63, 64, 65, 4096, 100_000, 256 << 10, (256 << 10) + 1] {
        let body = pattern(length, 7);
        let (id, handle) = deliver(&*intake, &body, accept("a@example.test", 2)).await;
        let stored = backend.reader().open(&handle).await.expect("it was committed");
        assert_eq!(stored.accepted.id, id);
        assert_eq!(stored.accepted.size, length as u64);
        assert_eq!(stored.accepted.accept, accept("a@example.test", 2));
        assert_eq!(whole(stored).await, body, "{length} bytes");
    }
}

async fn a_message_keeps_the_id_it_came_with(backend: &dyn Backend) {
    let intake = backend.intake();
    for (number, length) in [(1, 100), (2, 700_000)] {
        let (id, body) = (MessageId::new(Timestamp::from_millis(1), number), pattern(length, 5));
        let mut draft = intake.begin_as(id, SizeHint::default()).expect("there is room");
        for piece in body.chunks(60_000) {
            draft.write(piece).expect("there is room");
            draft.room().await.expect("the store catches up");
        }
        let handle = draft.commit(accept("a@example.test", 1)).await.expect("it can be committed");
        let stored = backend.reader().open(&handle).await.expect("it was committed");
        assert_eq!(stored.accepted.id, id);
        assert!(whole(stored).await == body[..]);
        assert!(everything(backend, true).await.iter().any(|one| one.id == id));
    }
}

async fn a_draft_is_readable_before_it_is_committed(backend: &dyn Backend) {
    let intake = backend.intake();
    for length in [10, 5000, 700_000] {
        let body = pattern(length, 3);
        let mut draft = begin(&*intake, &body).await;
        let id = draft.id();
        let handle = draft.finish().await.expect("it can be finished");
        let read = backend.reader().open_draft(&handle).await.expect("anyone may read it");
        assert_eq!(read.size(), length as u64);
        assert_eq!(drain(read).await, body);
        assert!(matches!(backend.reader().open(&handle).await, Err(ReadError::Gone(..))));
        assert_eq!(draft.finish().await.expect("once more"), handle);
        let handle = draft.commit(accept("a@example.test", 1)).await.expect("it can be committed");
        let stored = backend.reader().open(&handle).await.expect("it was committed");
        assert_eq!((stored.accepted.id, stored.accepted.size), (id, length as u64));
        assert_eq!(whole(stored).await, body);
    }
}

async fn what_is_dropped_is_not_accepted(backend: &dyn Backend) {
    let intake = backend.intake();
    for length in [0, 5000, 700_000] {
        drop(begin(&*intake, &pattern(length, 1)).await);
        let mut finished = begin(&*intake, &pattern(length, 2)).await;
        finished.finish().await.expect("it can be finished");
        drop(finished);
    }
    let (id, _) = deliver(&*intake, b"kept", accept("a@example.test", 1)).await;
    let listed = everything(backend, true).await;
    assert_eq!(listed.iter().map(|listed| listed.id).collect::<Vec<_>>(), [id]);
    drop(intake);
    assert_eq!(everything(backend, false).await, listed);
}

async fn a_large_body_is_written_with_a_brake(backend: &dyn Backend) {
    let intake = backend.intake();
    let body = pattern(5 << 20, 9);
    let hint = SizeHint { declared_bytes: Some(body.len() as u64) };
    let mut draft = intake.begin(hint).expect("there is room");
    for piece in body.chunks(10_007) {
        draft.write(piece).expect("there is room");
        draft.room().await.expect("the store catches up");
    }
    let handle = draft.commit(accept("a@example.test", 1)).await.expect("it can be committed");
    let stored = backend.reader().open(&handle).await.expect("it was committed");
    assert_eq!(stored.accepted.size, body.len() as u64);
    assert!(whole(stored).await == body, "a large body comes back as it was");
}

async fn what_the_acceptor_says_comes_back(backend: &dyn Backend) {
    let intake = backend.intake();
    let address = |text: &str| Address::parse(text).expect("an address");
    let accept = Accept {
        envelope: Envelope {
            sender: None,
            recipients: vec![
                Recipient {
                    address: address("\"odd \\\" one\"@[IPv6:::1]"),
                    notify: Some(Notify { success: true, failure: false, delay: true }),
                    orcpt: Some("rfc822;x+2By@example.org".into()),
                    hold: Some("a line\nand a \u{0} more".into()),
                },
                address("jörg@bücher.example").into(),
            ],
            body: BodyType::EightBitMime,
            smtputf8: true,
            ret: Some(Ret::Hdrs),
            envid: Some("QQ+3D".into()),
        },
        origin: Origin {
            service: "mx".into(),
            client: Some("2001:db8::1".parse().expect("an address")),
            helo: Some("\u{1b}[31mred".into()),
            protocol: Some("UTF8SMTP".into()),
            user: None,
        },
        accepted_at: Timestamp::from_millis(1_234_567_890_123),
        edits: vec![
            Edit::Prepend { name: "Received".into(), value: "from x\r\n\tby y".into() },
            Edit::Change { name: "Subject".into(), nth: 1, value: None },
        ],
        hold: Some("quarantine".into()),
        replaced_body: None,
    };
    let (_, handle) = deliver(&*intake, b"x", accept.clone()).await;
    let stored = backend.reader().open(&handle).await.expect("it was committed");
    assert_eq!(stored.accepted.accept, accept);
}

async fn a_replaced_body_is_adopted(backend: &dyn Backend) {
    let (acceptor, filter) = (backend.intake(), backend.intake());
    for (first, second) in [(100, 200), (100, 700_000), (700_000, 100), (700_000, 800_000)] {
        let mut draft = begin(&*acceptor, &pattern(first, 1)).await;
        let id = draft.id();
        draft.finish().await.expect("it can be finished");
        let body = pattern(second, 2);
        let mut replacement = begin(&*filter, &body).await;
        let replaced_body = Some(replacement.finish().await.expect("it can be finished"));
        let accept = Accept { replaced_body, ..accept("a@example.test", 1) };
        let handle = draft.commit(accept).await.expect("it can be committed");
        drop(replacement);
        let stored = backend.reader().open(&handle).await.expect("it was committed");
        assert_eq!((stored.accepted.id, stored.accepted.size), (id, second as u64));
        assert_eq!(stored.accepted.accept.replaced_body, None);
        assert!(whole(stored).await == body, "the replacement is the body");
    }
    assert_eq!(everything(backend, true).await.len(), 4);
}

async fn a_commit_goes_on_without_its_future(backend: &dyn Backend) {
    let intake = backend.intake();
    let mut ids = Vec::new();
    for length in [100, 700_000] {
        let draft = begin(&*intake, &pattern(length, 1)).await;
        ids.push(draft.id());
        drop(draft.commit(accept("a@example.test", 1)));
    }
    drop(intake);
    let mut listed: Vec<_> = everything(backend, false).await.iter().map(|it| it.id).collect();
    listed.sort();
    assert_eq!(listed, ids);
}

async fn two_acceptors_write_at_once(backend: &dyn Backend) {
    let intakes = [backend.intake(), backend.intake()];
    let mut commits = Vec::new();
    for number in 0..100u8 {
        let intake = if number % 2 == 0 { &intakes[0] } else { &intakes[1] };
        let body = pattern(3000 + usize::from(number), number);
        let draft = begin(&**intake, &body).await;
        commits.push((body, draft.commit(accept("a@example.test", 1))));
    }
    let reader = backend.reader();
    for (body, commit) in commits {
        let handle = commit.await.expect("it can be committed");
        let stored = reader.open(&handle).await.expect("it was committed");
        assert_eq!(whole(stored).await, body);
    }
    assert_eq!(everything(backend, true).await.len(), 100);
}

async fn recovery_lists_exactly_what_was_accepted(backend: &dyn Backend) {
    let living = backend.intake();
    let dying = backend.intake();
    let mut expected = BTreeMap::new();
    for number in 0..40u64 {
        let at = Timestamp::from_millis(1000 + number);
        let accept = Accept { accepted_at: at, ..accept("a@example.test", 3) };
        let intake = if number % 2 == 0 { &living } else { &dying };
        let (id, handle) = deliver(&**intake, &pattern(500, 1), accept).await;
        expected.insert(id, (handle, at, number % 2 == 1));
        drop(begin(&**intake, b"never accepted").await);
    }
    assert_same(&everything(backend, true).await, &expected);
    drop(dying);
    // A living acceptor's full segments may be listed, its present one is not.
    let ownerless: Vec<_> = everything(backend, false).await.iter().map(|it| it.id).collect();
    for (id, (.., was_dying)) in &expected {
        assert!(!was_dying || ownerless.contains(id), "{id} is listed");
    }
    drop(living);
    assert_same(&everything(backend, false).await, &expected);
}

fn assert_same(listed: &[Listed], expected: &BTreeMap<MessageId, (Handle, Timestamp, bool)>) {
    let listed: BTreeMap<_, _> =
        listed.iter().map(|it| (it.id, (it.handle.clone(), it.accepted_at))).collect();
    let expected: BTreeMap<_, _> =
        expected.iter().map(|(id, (handle, at, _))| (*id, (handle.clone(), *at))).collect();
    assert_eq!(listed, expected);
}

async fn a_handle_of_another_store_is_foreign(backend: &dyn Backend) {
    let handle = Handle::parse("elsewhere:1.2.3").expect("a handle");
    let reader = backend.reader();
    assert!(matches!(reader.open(&handle).await, Err(ReadError::Foreign(it)) if it == handle));
    assert!(
        matches!(reader.open_draft(&handle).await, Err(ReadError::Foreign(it)) if it == handle)
    );
}

async fn standing_follows_the_records(backend: &dyn Backend) {
    let intake = backend.intake();
    let (id, handle) = deliver(&*intake, b"x", accept("a@example.test", 1)).await;
    let (_, other) = deliver(&*intake, b"x", accept("a@example.test", 1)).await;
    let ledger = opened(backend).await;
    assert_eq!(standing(&*ledger, &handle).await, Standing::Unknown);
    commit_records(&*ledger, &[routed(id, &handle, 1)]).await;
    assert_eq!(standing(&*ledger, &handle).await, Standing::Routed);
    drop(ledger);
    let ledger = opened(backend).await;
    assert_eq!(standing(&*ledger, &handle).await, Standing::Routed);
    assert_eq!(standing(&*ledger, &other).await, Standing::Unknown);
    commit_records(&*ledger, &[Record::Retired { id, handle: handle.clone() }]).await;
    assert_eq!(standing(&*ledger, &handle).await, Standing::Retired);
    drop(ledger);
    let ledger = opened(backend).await;
    assert_eq!(standing(&*ledger, &handle).await, Standing::Retired);
    assert_eq!(standing(&*ledger, &other).await, Standing::Unknown);
}

async fn what_records_amount_to_comes_back(backend: &dyn Backend) {
    let messages = Messages::of(backend, 60).await;
    let mut model = Model::default();
    for life in 0..3 {
        let ledger = backend.ledger().expect("nobody has it");
        let mut replayed = Model::default();
        ledger.replay(&mut |record| replayed.apply(record)).await.expect("it can be replayed");
        assert_eq!(replayed, model, "life {life}");
        // What happens to one message is in order, and mixed with what happens to others.
        let of_life = messages.0.iter().enumerate().filter(|(number, _)| number % 3 == life);
        let mut lives: Vec<_> =
            of_life.map(|(number, message)| life_of(number, message).into_iter()).collect();
        let mut turn = 0;
        while !lives.is_empty() {
            let batch: Vec<Record> = lives.iter_mut().filter_map(Iterator::next).collect();
            lives.retain(|life| life.len() > 0);
            let (now, then) = batch.split_at(batch.len() / 2);
            for part in [now, then] {
                let mark = ledger.append(part).expect("it can be written");
                part.iter().for_each(|record| model.apply(record.clone()));
                turn += 1;
                match turn % 3 {
                    0 => ledger.written(mark).await.expect("it can be written"),
                    1 => ledger.synced(mark).await.expect("it can be synced"),
                    _ => {}
                }
            }
        }
    }
    assert_eq!(model_of(backend).await, model);
    assert!(model.live.len() > 20 && !model.struck.is_empty() && !model.suspended.is_empty());
}

async fn replaying_again_gives_the_same(backend: &dyn Backend) {
    let messages = Messages::of(backend, 20).await;
    let ledger = opened(backend).await;
    let lives = messages.0.iter().enumerate();
    let batch: Vec<_> = lives.flat_map(|(number, message)| life_of(number, message)).collect();
    commit_records(&*ledger, &batch).await;
    drop(ledger);
    assert_eq!(model_of(backend).await, model_of(backend).await);
    let mut once = Model::default();
    batch.iter().for_each(|record| once.apply(record.clone()));
    assert_eq!(once, model_of(backend).await);
    // Each record twice is each record once.
    let mut twice = Model::default();
    for record in &batch {
        twice.apply(record.clone());
        twice.apply(record.clone());
    }
    assert_eq!(twice, once);
}

async fn a_checkpoint_takes_records_in_its_midst(backend: &dyn Backend) {
    let messages = Messages::of(backend, 60).await;
    let ledger = opened(backend).await;
    let mut model = Model::default();
    let append = |model: &mut Model, records: Vec<Record>| {
        ledger.append(&records).expect("it can be written");
        records.into_iter().for_each(|record| model.apply(record));
    };
    append(&mut model, (0..30).map(|number| messages.routed(number, 1)).collect());
    append(&mut model, (0..10).map(|number| messages.retired(number)).collect());
    ledger.begin_checkpoint().expect("it can begin");
    let live: Vec<_> = model.live.values().map(|live| live.message.clone()).collect();
    for (number, message) in live.into_iter().enumerate() {
        // Of two messages one changes before its snapshot, one ends after.
        let id = message.id;
        if number % 2 == 0 {
            append(&mut model, vec![outcome(id, "250 2.0.0 before")]);
        }
        let present = model.live.get(&id).expect("it is live").message.clone();
        append(&mut model, vec![Record::Snapshot(Box::new(present))]);
        append(&mut model, vec![messages.routed(30 + number, 1)]);
        if number % 3 == 0 {
            append(&mut model, vec![Record::Retired { id, handle: message.handle }]);
        } else {
            append(&mut model, vec![outcome(id, "250 2.0.0 after")]);
        }
    }
    ledger.end_checkpoint().await.expect("it can end");
    append(&mut model, vec![messages.routed(59, 1)]);
    drop(ledger);
    assert_eq!(model_of(backend).await, model);
    let ledger = opened(backend).await;
    ledger.begin_checkpoint().expect("it can begin");
    let live = model.live.values().map(|it| Record::Snapshot(Box::new(it.message.clone())));
    ledger.append(&live.collect::<Vec<_>>()).expect("it can be written");
    ledger.end_checkpoint().await.expect("it can end");
    drop(ledger);
    assert_eq!(model_of(backend).await, model, "what came before is not missed");
}

async fn a_checkpoint_that_was_not_ended_changes_nothing(backend: &dyn Backend) {
    let messages = Messages::of(backend, 10).await;
    let ledger = opened(backend).await;
    let mut model = Model::default();
    for number in 0..10 {
        commit_records(&*ledger, &[messages.routed(number, 1)]).await;
        model.apply(messages.routed(number, 1));
    }
    ledger.begin_checkpoint().expect("it can begin");
    let Record::Routed(some) = messages.routed(3, 1) else { unreachable!("it is a routing") };
    commit_records(&*ledger, &[Record::Snapshot(some), messages.retired(4)]).await;
    model.apply(messages.retired(4));
    drop(ledger);
    assert_eq!(model_of(backend).await, model);
}

async fn standing_outlives_a_checkpoint(backend: &dyn Backend) {
    let intake = backend.intake();
    let mut handles = Vec::new();
    for _ in 0..30 {
        handles.push(deliver(&*intake, b"x", accept("a@example.test", 1)).await);
    }
    let ledger = opened(backend).await;
    let routings: Vec<_> =
        handles.iter().take(20).map(|(id, handle)| routed(*id, handle, 1)).collect();
    commit_records(&*ledger, &routings).await;
    let retired: Vec<_> = handles
        .iter()
        .take(10)
        .map(|(id, handle)| Record::Retired { id: *id, handle: handle.clone() })
        .collect();
    commit_records(&*ledger, &retired).await;
    ledger.begin_checkpoint().expect("it can begin");
    for record in routings.iter().skip(10) {
        let Record::Routed(message) = record else { continue };
        ledger.append(&[Record::Snapshot(message.clone())]).expect("it can be written");
    }
    ledger.end_checkpoint().await.expect("it can end");
    drop(ledger);
    let ledger = opened(backend).await;
    for (number, (_, handle)) in handles.iter().enumerate() {
        let expected = match number {
            0..10 => Standing::Retired,
            10..20 => Standing::Routed,
            _ => Standing::Unknown,
        };
        assert_eq!(standing(&*ledger, handle).await, expected, "message {number}");
    }
}

async fn the_ledger_has_one_holder(backend: &dyn Backend) {
    let ledger = opened(backend).await;
    assert!(matches!(backend.ledger(), Err(LedgerError::Held(_))));
    drop(ledger);
    opened(backend).await;
}

/// The state that follows from records, as simply as it can be told.
#[derive(Debug, Default, PartialEq)]
struct Model {
    live: BTreeMap<MessageId, Live>,
    /// Strikes of messages that are not routed, and why those are to be held.
    struck: BTreeMap<MessageId, (Handle, u32, Option<String>)>,
    suspended: BTreeMap<(String, Option<String>), Timestamp>,
}

/// A message, with what a snapshot does not say.
#[derive(Debug, PartialEq)]
struct Live {
    message: Routed,
    reroute: Option<u32>,
    /// Held by a record of its own, which time does not end.
    held_by_hand: bool,
    /// Recipients that are held so.
    told: BTreeSet<u32>,
}

impl Live {
    fn of(mut message: Routed) -> Self {
        message.owed.sort_by_key(|owed| owed.kind);
        Self { message, reroute: None, held_by_hand: false, told: BTreeSet::new() }
    }

    fn owe(&mut self, kind: ReportKind, recipients: &[u32], due: Timestamp) {
        let message = &mut self.message;
        let its = message.recipients.iter_mut().filter(|it| recipients.contains(&it.index));
        for recipient in its.filter(|_| kind == ReportKind::Delay) {
            if let State::Open(attempt) | State::Held { then: attempt, .. } = &mut recipient.state {
                attempt.delay_reported = true;
            }
        }
        match message.owed.iter_mut().find(|owed| owed.kind == kind) {
            Some(owed) => {
                owed.recipients.extend_from_slice(recipients);
                owed.recipients.sort_unstable();
                owed.recipients.dedup();
                owed.due = due;
            }
            None => message.owed.push(Owed { kind, recipients: recipients.to_vec(), due }),
        }
        message.owed.sort_by_key(|owed| owed.kind);
    }

    fn report(&mut self, kind: ReportKind, recipients: &[u32]) {
        for owed in self.message.owed.iter_mut().filter(|owed| owed.kind == kind) {
            owed.recipients.retain(|index| !recipients.contains(index));
        }
        self.message.owed.retain(|owed| !owed.recipients.is_empty());
    }

    fn tell(&mut self, recipients: Vec<(u32, State)>) {
        for (index, state) in recipients {
            let found = self.message.recipients.iter_mut().find(|it| it.index == index);
            let Some(recipient) = found else { continue };
            match &state {
                State::Held { .. } => self.told.insert(index),
                _ => self.told.remove(&index),
            };
            recipient.state = state;
        }
    }
}

impl Model {
    fn put(&mut self, message: Routed) {
        self.struck.remove(&message.id);
        self.live.insert(message.id, Live::of(message));
    }

    fn apply(&mut self, record: Record) {
        match record {
            Record::Snapshot(message) => self.put(*message),
            Record::Routed(message) => {
                let newer = |old: &Live| old.message.routing < message.routing;
                if self.live.get(&message.id).is_none_or(newer) {
                    self.put(*message);
                }
            }
            Record::Retired { id, .. } => {
                self.live.remove(&id);
                self.struck.remove(&id);
            }
            Record::Strike { handle, id, strikes, hold } if !self.live.contains_key(&id) => {
                match strikes {
                    0 => drop(self.struck.remove(&id)),
                    _ => drop(self.struck.insert(id, (handle, strikes, hold))),
                }
            }
            Record::Hold { id, reason: None } if !self.live.contains_key(&id) => {
                self.struck.remove(&id);
            }
            Record::Suspend { channel, host, until } => {
                let lane = (channel, host);
                match until {
                    Some(until) => drop(self.suspended.insert(lane, until)),
                    None => drop(self.suspended.remove(&lane)),
                }
            }
            record => self.change(record),
        }
    }

    /// A record that is nothing to a message that is not routed.
    fn change(&mut self, record: Record) {
        let id = match &record {
            Record::Outcome { id, .. }
            | Record::Hold { id, .. }
            | Record::Owes { id, .. }
            | Record::Reported { id, .. }
            | Record::Strike { id, .. }
            | Record::Reroute { id, .. }
            | Record::Moved { id, .. } => *id,
            _ => return,
        };
        let Some(live) = self.live.get_mut(&id) else { return };
        match record {
            Record::Outcome { recipients, .. } => live.tell(recipients),
            Record::Hold { reason, .. } => {
                live.held_by_hand = reason.is_some();
                live.message.hold = reason;
            }
            Record::Owes { kind, recipients, due, .. } => live.owe(kind, &recipients, due),
            Record::Reported { kind, recipients, .. } => live.report(kind, &recipients),
            Record::Strike { strikes, .. } => live.message.strikes = strikes,
            Record::Reroute { routing, .. } => {
                live.reroute = (routing > live.message.routing).then_some(routing);
            }
            Record::Moved { handle, .. } => live.message.handle = handle,
            _ => {}
        }
    }
}

async fn model_of(backend: &dyn Backend) -> Model {
    let ledger = backend.ledger().expect("nobody has it");
    let mut model = Model::default();
    ledger.replay(&mut |record| model.apply(record)).await.expect("it can be replayed");
    model
}

/// Copies what lives out of every segment that there is. A store that has none has nothing to copy.
async fn move_all(
    backend: &dyn Backend,
    ledger: &dyn Ledger,
    live: &BTreeMap<MessageId, Handle>,
) -> BTreeMap<MessageId, Handle> {
    let compaction = backend.compaction();
    let mut moved = BTreeMap::new();
    for sealed in compaction.survey().await.expect("nobody else is at it").segments {
        let mut held = compaction.held(&sealed.segment).await.expect("it can be read");
        held.retain(|one| live.get(&one.id) == Some(&one.handle));
        let handles = held.iter().map(|one| one.handle.clone()).collect();
        let copies = compaction.copy(handles).await.expect("there is room");
        assert_eq!(copies.len(), held.len());
        for (held, copy) in held.into_iter().zip(copies) {
            let handle = copy.expect("it is whole");
            commit_records(ledger, &[Record::Moved { id: held.id, handle: handle.clone() }]).await;
            moved.insert(held.id, handle);
        }
    }
    let copies = compaction.copies().await.expect("they can be read");
    let copies: BTreeMap<_, _> = copies.into_iter().map(|one| (one.id, one.handle)).collect();
    assert_eq!(copies, moved);
    moved
}

async fn a_moved_message_lives_on(backend: &dyn Backend) {
    let intake = backend.intake();
    let mut accepted = BTreeMap::new();
    for number in 0..60u8 {
        let length = if number == 30 { 700_000 } else { usize::from(number) * 100 };
        let body = pattern(length, number);
        let mut draft = begin(&*intake, &body).await;
        if number % 4 == 0 {
            draft.finish().await.expect("it can be finished");
        }
        let id = draft.id();
        let handle = draft.commit(accept("a@example.test", 2)).await.expect("it can be committed");
        accepted.insert(id, (handle, body));
    }
    drop(intake);
    let ledger = opened(backend).await;
    let routings: Vec<_> =
        accepted.iter().map(|(id, (handle, _))| routed(*id, handle, 1)).collect();
    commit_records(&*ledger, &routings).await;
    let (mut live, mut ended) = (BTreeMap::new(), Vec::new());
    for (number, (id, (handle, _))) in accepted.iter().enumerate() {
        match number % 6 {
            0 => drop(live.insert(*id, handle.clone())),
            _ => ended.push(Record::Retired { id: *id, handle: handle.clone() }),
        }
    }
    commit_records(&*ledger, &ended).await;
    let moved = move_all(backend, &*ledger, &live).await;
    let now: Vec<_> = live.iter().map(|(id, old)| (*id, moved.get(id).unwrap_or(old))).collect();
    let mut ledger = Some(ledger);
    for turn in 0..3 {
        let held = match ledger.take() {
            Some(held) => held,
            None => opened(backend).await,
        };
        for (id, handle) in &now {
            let old = live.get(id).expect("it lives");
            assert_eq!(standing(&*held, handle).await, Standing::Routed, "{handle}, turn {turn}");
            assert_ne!(standing(&*held, old).await, Standing::Unknown, "{old}, turn {turn}");
        }
        if turn == 1 {
            held.begin_checkpoint().expect("it can be begun");
            let snapshot = |(id, handle): &(MessageId, &Handle)| match routed(*id, handle, 1) {
                Record::Routed(message) => Record::Snapshot(message),
                _ => unreachable!("it is a routing"),
            };
            commit_records(&*held, &now.iter().map(snapshot).collect::<Vec<_>>()).await;
            held.end_checkpoint().await.expect("it can be synced");
        }
    }
    let listed = everything(backend, true).await;
    for (id, handle) in &now {
        assert!(listed.iter().any(|one| one.id == *id && one.handle == **handle), "{handle}");
        let (old, body) = accepted.get(id).expect("it was accepted");
        // Somebody may still hold the handle that it had.
        for handle in [old, handle] {
            let stored = backend.reader().open(handle).await.expect("it lives");
            assert_eq!(stored.accepted.id, *id);
            assert_eq!(stored.accepted.accept, accept("a@example.test", 2));
            assert!(whole(stored).await == body[..], "{handle}");
        }
    }
    let ledger = opened(backend).await;
    for (id, handle) in &now {
        let retired = Record::Retired { id: *id, handle: (*handle).clone() };
        commit_records(&*ledger, &[retired]).await;
        assert_eq!(standing(&*ledger, handle).await, Standing::Retired);
        assert_eq!(ledger.standing(live.get(id).expect("it lived")), Standing::Retired);
    }
}

async fn opened(backend: &dyn Backend) -> Rc<dyn Ledger> {
    let ledger = backend.ledger().expect("nobody has it");
    ledger.replay(&mut |_| {}).await.expect("it can be replayed");
    ledger
}

/// How a message stands, looked up if need be.
async fn standing(ledger: &dyn Ledger, handle: &Handle) -> Standing {
    if let Some(looked_up) = ledger.settle(&[handle]) {
        looked_up.await.expect("it can be looked up");
    }
    ledger.standing(handle)
}

async fn commit_records(ledger: &dyn Ledger, records: &[Record]) {
    let mark = ledger.append(records).expect("it can be written");
    ledger.synced(mark).await.expect("it can be synced");
}

/// What an acceptor says of a plain message to so many recipients.
pub fn accept(sender: &str, recipients: usize) -> Accept {
    let address = |text: &str| Address::parse(text).expect("an address");
    let recipients =
        (0..recipients).map(|number| address(&format!("r{number}@example.org")).into()).collect();
    Accept {
        envelope: Envelope {
            sender: Some(address(sender)),
            recipients,
            body: BodyType::default(),
            smtputf8: false,
            ret: None,
            envid: None,
        },
        origin: Origin { service: "mx".into(), ..Origin::default() },
        accepted_at: Timestamp::from_millis(1_700_000_000_000),
        edits: Vec::new(),
        hold: None,
        replaced_body: None,
    }
}

/// A routing of a message with one recipient.
pub fn routed(id: MessageId, handle: &Handle, routing: u32) -> Record {
    Record::Routed(Box::new(Routed {
        id,
        handle: handle.clone(),
        routing,
        sender: None,
        size: 100,
        accepted_at: Timestamp::from_millis(5),
        body: BodyType::default(),
        smtputf8: false,
        ret: None,
        envid: None,
        hold: None,
        recipients: vec![RoutedRecipient {
            index: 0,
            address: Address::parse("r@example.org").expect("an address"),
            original: None,
            orcpt: None,
            notify: None,
            channel: "smtp".into(),
            host: "example.org".into(),
            user: "r@example.org".into(),
            state: State::Open(Attempt::default()),
        }],
        owed: Vec::new(),
        strikes: 0,
    }))
}

/// Messages that were accepted, by their numbers.
struct Messages(Vec<(MessageId, Handle)>);

impl Messages {
    async fn of(backend: &dyn Backend, count: usize) -> Self {
        let intake = backend.intake();
        let mut messages = Vec::new();
        for _ in 0..count {
            messages.push(deliver(&*intake, b"x", accept("a@example.test", 1)).await);
        }
        Self(messages)
    }

    fn routed(&self, number: usize, routing: u32) -> Record {
        let (id, handle) = self.0.get(number).expect("so many were accepted");
        routed(*id, handle, routing)
    }

    fn retired(&self, number: usize) -> Record {
        let (id, handle) = self.0.get(number).expect("so many were accepted").clone();
        Record::Retired { id, handle }
    }
}

fn outcome(id: MessageId, text: &str) -> Record {
    let reply = Reply { status: StatusCode::new(2, 0, 0), text: text.into(), remote: None };
    let delivered = Delivered { reply, report: SuccessReport::Relayed };
    Record::Outcome { id, recipients: vec![(0, State::Delivered(delivered))] }
}

/// What happens to a message, in order: something of every kind of record, and to each message something else.
fn life_of(number: usize, (id, handle): &(MessageId, Handle)) -> Vec<Record> {
    let id = *id;
    let at = |millis: u64| Timestamp::from_millis(1_700_000_000_000 + millis);
    let strike = |strikes, hold: Option<&str>| Record::Strike {
        handle: handle.clone(),
        id,
        strikes,
        hold: hold.map(Into::into),
    };
    let hold = |reason: Option<&str>| Record::Hold { id, reason: reason.map(Into::into) };
    let tell = |index, state| Record::Outcome { id, recipients: vec![(index, state)] };
    let reply = |text: &str| Reply {
        status: StatusCode::new(4, 2, 0),
        text: text.into(),
        remote: Some("mx.example.org".into()),
    };
    let tried = |count| Attempt {
        count,
        next: at(60_000),
        last: Some(reply("451 as they say \u{2028} \n")),
        delay_reported: false,
    };
    let owes = |kind, recipients: &[u32]| Record::Owes {
        id,
        kind,
        recipients: recipients.to_vec(),
        due: at(300_000),
    };
    let reported =
        |kind, recipients: &[u32]| Record::Reported { id, kind, recipients: recipients.to_vec() };
    let suspend = |host: Option<&str>, until| Record::Suspend {
        channel: "smtp".into(),
        host: host.map(|host| format!("{number}.{host}")),
        until,
    };
    let mut records = Vec::new();
    if number % 4 == 1 {
        records.extend([strike(1, None), strike(2, Some("three times")), strike(1, None)]);
    }
    if number % 8 == 5 {
        records.push(if number % 16 == 5 { strike(0, None) } else { hold(None) });
    }
    if number % 10 == 9 {
        // It is not routed yet.
        records.extend([tell(0, State::Removed), suspend(None, Some(at(1))), strike(2, None)]);
        return records;
    }
    records.push(whole_routing(id, handle, 1, number.is_multiple_of(7)));
    records.push(whole_routing(id, handle, 1, false));
    let failed = State::Failed(reply("550 no such user"));
    let held = |reason: &str| State::Held { reason: reason.into(), then: tried(2) };
    records.extend(match number % 6 {
        0 => {
            vec![tell(0, State::Open(tried(1))), owes(ReportKind::Delay, &[0, 2]), strike(1, None)]
        }
        1 => vec![
            tell(1, failed),
            owes(ReportKind::Failure, &[1]),
            owes(ReportKind::Failure, &[0, 1]),
            reported(ReportKind::Failure, &[1]),
            owes(ReportKind::Success, &[2]),
        ],
        2 => vec![
            tell(0, held("an operator's")),
            tell(1, held("an operator's")),
            tell(1, State::Open(tried(3))),
            owes(ReportKind::Delay, &[0, 1]),
            reported(ReportKind::Delay, &[0, 1]),
        ],
        3 => vec![
            hold(Some("an operator's")),
            Record::Reroute { id, routing: 2 },
            suspend(Some("a"), Some(at(5))),
        ],
        4 => vec![
            Record::Reroute { id, routing: 2 },
            hold(Some("for a while")),
            whole_routing(id, handle, 2, false),
            Record::Reroute { id, routing: 1 },
            suspend(Some(""), Some(at(7))),
            suspend(Some(""), Some(at(8))),
        ],
        _ => vec![
            hold(Some("x")),
            hold(None),
            strike(2, None),
            strike(0, None),
            tell(0, State::Removed),
        ],
    });
    if number.is_multiple_of(5) {
        records.extend([suspend(Some("b"), Some(at(9))), suspend(Some("b"), None)]);
        records.push(Record::Retired { id, handle: handle.clone() });
    }
    records
}

/// A routing in which nothing is left out.
fn whole_routing(id: MessageId, handle: &Handle, routing: u32, is_held: bool) -> Record {
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

/// Begins a draft and writes its body.
pub async fn begin(intake: &dyn Intake, body: &[u8]) -> Box<dyn Draft> {
    let mut draft = intake.begin(SizeHint::default()).expect("there is room");
    for piece in body.chunks(60_000) {
        draft.write(piece).expect("there is room");
        draft.room().await.expect("the store catches up");
    }
    draft
}

/// Accepts a message and gives its id and handle.
pub async fn deliver(intake: &dyn Intake, body: &[u8], accept: Accept) -> (MessageId, Handle) {
    let draft = begin(intake, body).await;
    let id = draft.id();
    (id, draft.commit(accept).await.expect("it can be committed"))
}

/// The whole body of a stored message.
pub async fn whole(stored: Stored) -> Bytes {
    assert_eq!(stored.accepted.size, stored.body.size());
    drain(stored.body).await
}

async fn drain(mut body: Box<dyn Body>) -> Bytes {
    let mut bytes = Vec::new();
    while let Some(piece) = body.next().await.expect("every piece is there") {
        assert!(!piece.is_empty() && piece.len() <= 256 << 10);
        bytes.extend_from_slice(&piece);
    }
    assert_eq!(bytes.len() as u64, body.size());
    bytes.into()
}

/// Every accept record that a recovery lists.
pub async fn everything(backend: &dyn Backend, all: bool) -> Vec<Listed> {
    let recovery = backend.recovery();
    let mut listed = Vec::new();
    for segment in recovery.segments(all).await.expect("it can be read") {
        listed.extend(recovery.accepted(&segment).await.expect("it can be read"));
    }
    listed
}

/// Bytes that differ from place to place.
pub fn pattern(length: usize, seed: u8) -> Vec<u8> {
    let mut state = u32::from(seed) + 1;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(step).collect()
}
