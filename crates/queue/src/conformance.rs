//! What every backend must do, as cases that each backend's tests run.
//!
//! A backend implements [`Backend`] over a store of its own and calls [`run`]. Every case begins with a new store. A
//! reader, a recovery and a ledger that were just opened stand for another process; so does a second intake.

mod ledger;
mod lives;
mod model;
mod storing;

use std::rc::Rc;

use bytes::Bytes;
use mail::{Address, BodyType, Envelope, MessageId, Origin, Timestamp};

use self::ledger::*;
use self::storing::*;
use crate::{
    Accept, Attempt, Body, Compaction, Draft, Handle, Intake, Ledger, LedgerError, Listed, Local,
    Reader, Record, Recovery, Routed, RoutedRecipient, SizeHint, State, Stored,
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
