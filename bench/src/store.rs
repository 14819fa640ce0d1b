//! The spool's writer commits messages, and each is read back as an agent reads it.

use std::hint::black_box;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use mail::MessageId;
use queue::Reader as _;
use queue_spool::intake::writer::{Answer, CommitBody, Event, Writer};
use queue_spool::place::{MessagePlace, Place};
use queue_spool::{Machine as _, Next, Settings, Spool};
use tempfile::TempDir;

use crate::disk::CachedDisk;
use crate::example::{self, BODY_BYTES, Clock};
use crate::{on_a_runtime, rounds};

/// How long a round takes: long enough for a sync of its own.
const ROUND: Duration = Duration::from_millis(5);

pub(crate) fn run(count: u32) {
    on_a_runtime(commit_and_read(count));
}

async fn commit_and_read(count: u32) {
    let mut acceptor = Acceptor::new();
    let reader = acceptor.spool.reader().expect("the spool is there");
    let body = example::body();
    for numbers in rounds(count) {
        for place in acceptor.commit(numbers, &body) {
            let stored = reader.open(&Place::Message(place).handle()).await;
            let mut stored = stored.expect("what was committed can be read");
            let mut bytes = 0;
            while let Some(piece) = stored.body.next().await.expect("nothing is damaged") {
                bytes += black_box(piece).len();
            }
            assert_eq!(bytes, BODY_BYTES);
        }
    }
}

/// A spool, and its writer.
pub(crate) struct Acceptor {
    pub(crate) spool: Spool,
    pub(crate) clock: Clock,
    writer: Writer<MessageId>,
    _folder: TempDir,
}

impl Acceptor {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("there is room for a spool");
        let spool = Spool::new(Arc::new(CachedDisk), folder.path(), Settings::default());
        let clock = Clock::new();
        let machines = spool.intake_machines(clock.of_spool());
        let (writer, _, _) = machines.expect("an empty folder takes a spool");
        Self { spool, clock, writer, _folder: folder }
    }

    /// Commits messages together; says where they are.
    pub(crate) fn commit(&mut self, numbers: Range<u32>, body: &[u8]) -> Vec<MessagePlace> {
        self.clock.pass(ROUND);
        let now = self.clock.of_spool();
        let many = numbers.len();
        let mut events = Vec::with_capacity(many + 1);
        events.push(Event::Company(many as u32));
        events.extend(numbers.map(|number| commit(number, body)));
        let mut answers = Vec::new();
        let mut next = self.writer.turn(now, &mut events, &mut answers);
        while let Next::EventOr(at) | Next::RestUntil(at) = next
            && at <= now.at
        {
            next = self.writer.turn(now, &mut events, &mut answers);
        }
        let places = answers.into_iter().map(|answer| match answer {
            Answer::Committed(_, Ok(place)) => place,
            Answer::Committed(_, Err(error)) => panic!("a commit failed: {error}"),
            Answer::Drafted(..) | Answer::Health(_) => unreachable!("nothing but commits is asked"),
        });
        let places: Vec<_> = places.collect();
        assert_eq!(places.len(), many, "a sync is due in every round");
        places
    }
}

fn commit(number: u32, body: &[u8]) -> Event<MessageId> {
    let id = example::id(number);
    let body = CommitBody::Whole(body.to_vec());
    Event::Commit { id, accept: Box::new(example::accept()), body, waiter: id }
}
