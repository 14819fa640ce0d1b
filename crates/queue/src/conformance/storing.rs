//! Cases about messages: accepting, reading and listing them.

use std::collections::BTreeMap;

use mail::{
    Address, BodyType, Edit, Envelope, MessageId, Notify, Origin, Recipient, Ret, Timestamp,
};

use super::{Backend, accept, begin, deliver, drain, everything, pattern, whole};
use crate::{Accept, Handle, Listed, ReadError, SizeHint};

pub(super) async fn what_is_committed_is_read_back(backend: &dyn Backend) {
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

pub(super) async fn a_message_keeps_the_id_it_came_with(backend: &dyn Backend) {
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

pub(super) async fn a_draft_is_readable_before_it_is_committed(backend: &dyn Backend) {
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

pub(super) async fn what_is_dropped_is_not_accepted(backend: &dyn Backend) {
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

pub(super) async fn a_large_body_is_written_with_a_brake(backend: &dyn Backend) {
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

pub(super) async fn what_the_acceptor_says_comes_back(backend: &dyn Backend) {
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

pub(super) async fn a_replaced_body_is_adopted(backend: &dyn Backend) {
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

pub(super) async fn a_commit_goes_on_without_its_future(backend: &dyn Backend) {
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

pub(super) async fn two_acceptors_write_at_once(backend: &dyn Backend) {
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

pub(super) async fn recovery_lists_exactly_what_was_accepted(backend: &dyn Backend) {
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

pub(super) fn assert_same(
    listed: &[Listed],
    expected: &BTreeMap<MessageId, (Handle, Timestamp, bool)>,
) {
    let listed: BTreeMap<_, _> =
        listed.iter().map(|it| (it.id, (it.handle.clone(), it.accepted_at))).collect();
    let expected: BTreeMap<_, _> =
        expected.iter().map(|(id, (handle, at, _))| (*id, (handle.clone(), *at))).collect();
    assert_eq!(listed, expected);
}

pub(super) async fn a_handle_of_another_store_is_foreign(backend: &dyn Backend) {
    let handle = Handle::parse("elsewhere:1.2.3").expect("a handle");
    let reader = backend.reader();
    assert!(matches!(reader.open(&handle).await, Err(ReadError::Foreign(it)) if it == handle));
    assert!(
        matches!(reader.open_draft(&handle).await, Err(ReadError::Foreign(it)) if it == handle)
    );
}
