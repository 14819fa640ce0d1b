//! Cases about the ledger.

use std::collections::BTreeMap;
use std::rc::Rc;

use mail::{Delivered, MessageId, Reply, StatusCode, SuccessReport};

use super::lives::{Messages, life_of};
use super::model::Model;
use super::{Backend, accept, begin, deliver, everything, pattern, routed, whole};
use crate::{Handle, Ledger, LedgerError, Record, Standing, State};

pub(super) async fn standing_follows_the_records(backend: &dyn Backend) {
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

pub(super) async fn what_records_amount_to_comes_back(backend: &dyn Backend) {
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

pub(super) async fn replaying_again_gives_the_same(backend: &dyn Backend) {
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

pub(super) async fn a_checkpoint_takes_records_in_its_midst(backend: &dyn Backend) {
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

pub(super) async fn a_checkpoint_that_was_not_ended_changes_nothing(backend: &dyn Backend) {
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

pub(super) async fn standing_outlives_a_checkpoint(backend: &dyn Backend) {
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

pub(super) async fn the_ledger_has_one_holder(backend: &dyn Backend) {
    let ledger = opened(backend).await;
    assert!(matches!(backend.ledger(), Err(LedgerError::Held(_))));
    drop(ledger);
    opened(backend).await;
}

pub(super) async fn model_of(backend: &dyn Backend) -> Model {
    let ledger = backend.ledger().expect("nobody has it");
    let mut model = Model::default();
    ledger.replay(&mut |record| model.apply(record)).await.expect("it can be replayed");
    model
}

/// Copies what lives out of every segment that there is. A store that has none has nothing to copy.
pub(super) async fn move_all(
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

pub(super) async fn a_moved_message_lives_on(backend: &dyn Backend) {
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

pub(super) async fn opened(backend: &dyn Backend) -> Rc<dyn Ledger> {
    let ledger = backend.ledger().expect("nobody has it");
    ledger.replay(&mut |_| {}).await.expect("it can be replayed");
    ledger
}

/// How a message stands, looked up if need be.
pub(super) async fn standing(ledger: &dyn Ledger, handle: &Handle) -> Standing {
    if let Some(looked_up) = ledger.look_up(&[handle]) {
        looked_up.await.expect("it can be looked up");
    }
    ledger.standing(handle)
}

pub(super) async fn commit_records(ledger: &dyn Ledger, records: &[Record]) {
    let mark = ledger.append(records).expect("it can be written");
    ledger.synced(mark).await.expect("it can be synced");
}

pub(super) fn outcome(id: MessageId, text: &str) -> Record {
    let reply = Reply { status: StatusCode::new(2, 0, 0), text: text.into(), remote: None };
    let delivered = Delivered { reply, report: SuccessReport::Relayed };
    Record::Outcome { id, recipients: vec![(0, State::Delivered(delivered))] }
}
