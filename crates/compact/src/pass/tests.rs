//! Passes over a store, with a scheduler on a real socket.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};

use config::{ByteSize, Span};
use farm::Asked;
use job::home::{Here, Moved};
use queue::{Local, Segment};
use socket::{
    ClientSettings, ErrorObject, Ownership, Responder, Server, ServerSettings, Service, codes,
};
use tokio::net::UnixListener;

use super::*;
use crate::run::passes;

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);
const SIZE: u64 = 10 << 10;
const OLD: u64 = 3600;

fn id(number: u64) -> MessageId {
    MessageId::new(NOW, number)
}

fn handle(number: u64) -> Handle {
    Handle::parse(&format!("memory:{number}")).expect("a handle")
}

fn copy(number: u64) -> Handle {
    Handle::parse(&format!("memory:{number}.moved")).expect("a handle")
}

fn held(number: u64, age_seconds: u64) -> Held {
    Held {
        handle: handle(number),
        id: id(number),
        accepted_at: Timestamp::from_millis(NOW.millis() - 1000 * age_seconds),
        record_bytes: SIZE + 500,
        body_within: true,
    }
}

/// Scheduler and store in one.
#[derive(Default)]
struct World {
    /// Segments by name: what is in them; each message takes the same.
    segments: RefCell<BTreeMap<&'static str, Vec<Held>>>,
    spare_bytes: Cell<u64>,
    copies: RefCell<BTreeSet<u64>>,
    damaged: RefCell<BTreeSet<u64>>,
    /// How often a survey still finds another at work.
    busy: Cell<u32>,
    /// Where messages live.
    live: RefCell<BTreeMap<MessageId, Handle>>,
    /// Those that the scheduler has not heard of.
    unrouted: RefCell<BTreeSet<MessageId>>,
    /// Those that end before the scheduler hears of their copies.
    ends: RefCell<BTreeSet<MessageId>>,
    /// How many messages each question was about.
    asked: RefCell<Vec<usize>>,
    refuses: Cell<bool>,
}

#[derive(Clone)]
struct Shared(Rc<World>);

impl std::ops::Deref for Shared {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0
    }
}

fn number_of(handle: &Handle) -> u64 {
    let name = handle.parts().1;
    name.strip_suffix(".moved").unwrap_or(name).parse().expect("a number")
}

impl Compaction for Shared {
    fn survey(&self) -> Local<'_, Result<Survey, CompactionError>> {
        if self.busy.get() > 0 {
            self.busy.set(self.busy.get() - 1);
            return Box::pin(async { Err(CompactionError::Busy) });
        }
        let sealed = |(name, held): (&&str, &Vec<Held>)| Sealed {
            segment: Segment((*name).to_owned()),
            bytes: held.iter().map(|one| one.record_bytes).sum(),
        };
        let segments = self.segments.borrow().iter().map(sealed).collect();
        let survey = Survey { segments, spare_bytes: self.spare_bytes.get() };
        Box::pin(async { Ok(survey) })
    }

    fn held(&self, segment: &Segment) -> Local<'_, Result<Vec<Held>, CompactionError>> {
        let held = self.segments.borrow().get(segment.0.as_str()).cloned().unwrap_or_default();
        Box::pin(async { Ok(held) })
    }

    fn copies(&self) -> Local<'_, Result<Vec<Listed>, CompactionError>> {
        let listed =
            |number: &u64| Listed { handle: copy(*number), id: id(*number), accepted_at: NOW };
        let copies = self.copies.borrow().iter().map(listed).collect();
        Box::pin(async { Ok(copies) })
    }

    fn copy(
        &self,
        messages: Vec<Handle>,
    ) -> Local<'_, Result<Vec<Result<Handle, ReadError>>, CompactionError>> {
        assert!(messages.len() <= BATCH_MESSAGES);
        let one = |handle: Handle| {
            let number = number_of(&handle);
            if self.damaged.borrow().contains(&number) {
                return Err(ReadError::Gone(handle, "damaged".to_owned()));
            }
            self.copies.borrow_mut().insert(number);
            Ok(copy(number))
        };
        let copies = messages.into_iter().map(one).collect();
        Box::pin(async { Ok(copies) })
    }

    fn discard(&self, copies: Vec<Handle>) -> Local<'_, Result<(), CompactionError>> {
        for handle in copies {
            assert!(!self.live.borrow().values().any(|live| *live == handle), "{handle} lives");
            self.copies.borrow_mut().remove(&number_of(&handle));
        }
        Box::pin(async { Ok(()) })
    }
}

impl Service<Home> for Shared {
    fn call(&self, request: HomeRequest, responder: Responder<Home>) {
        if self.refuses.get() {
            return responder.refuse(ErrorObject::new(codes::INTERNAL, "no"));
        }
        let mut answer = HomeAnswer::default();
        let mut live = self.live.borrow_mut();
        match request {
            HomeRequest::Where(request) => {
                self.asked.borrow_mut().push(request.messages.len());
                for (index, one) in (0..).zip(request.messages) {
                    match live.get(&one.id) {
                        Some(handle) if *handle == one.handle => {
                            answer.here.push(Here { index, size: SIZE });
                        }
                        Some(handle) => answer.moved.push(Moved { index, handle: handle.clone() }),
                        None if self.unrouted.borrow().contains(&one.id) => {}
                        None => answer.ended.push(index),
                    }
                }
                // A position that was not asked about is the peer's mistake.
                answer.here.push(Here { index: u32::MAX, size: 1 });
                answer.ended.push(u32::MAX);
            }
            HomeRequest::Moved(request) => {
                for (index, one) in (0..).zip(request.messages) {
                    if self.ends.borrow().contains(&one.id) {
                        live.remove(&one.id);
                        answer.ended.push(index);
                    } else if live.get(&one.id) == Some(&one.from) {
                        live.insert(one.id, one.to.clone());
                        answer.moved.push(Moved { index, handle: one.to });
                    }
                }
            }
        }
        responder.answer(&answer);
    }
}

struct Place {
    directory: tempfile::TempDir,
    world: Rc<World>,
    pass: Pass,
}

impl Place {
    /// Segments of ten messages, numbered from a hundred times the segment's number on, and which of them live.
    fn new(segments: &[(&'static str, u64, u64, &[u64])]) -> Self {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let world = Rc::<World>::default();
        world.spare_bytes.set(u64::MAX);
        for (name, number, age, live) in segments {
            let first = 100 * number;
            let held = (first..first + 10).map(|number| held(number, *age)).collect();
            world.segments.borrow_mut().insert(name, held);
            let live = live.iter().map(|one| (id(first + one), handle(first + one)));
            world.live.borrow_mut().extend(live);
        }
        let client = ClientSettings {
            deadline: Duration::from_secs(5),
            waiting_max: 16,
            ..ClientSettings::default()
        };
        let pass = Pass {
            settings: Settings { unreachable_after: Span::seconds(5), ..Settings::default() },
            compaction: Rc::new(Shared(Rc::clone(&world))),
            scheduler: Client::new(directory.path().join("scheduler.home"), client),
            now: || NOW,
        };
        let place = Self { directory, world, pass };
        place.serve();
        place
    }

    fn serve(&self) {
        let ownership = Ownership { mode: 0o600, owner: None };
        let path = self.directory.path().join("scheduler.home");
        let listener = socket::bind(&path, &ownership).expect("a free path");
        let listener = UnixListener::from_std(listener).expect("within a runtime");
        let shared = Rc::new(Shared(Rc::clone(&self.world)));
        let server = Server::<Home>::new(shared, ServerSettings::default());
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                server.take(stream, None);
            }
        });
    }

    async fn go(&self) -> Report {
        let mut report = Report::default();
        self.pass.go(&mut report).await.expect("everybody answers");
        report
    }

    fn copies(&self) -> Vec<u64> {
        self.world.copies.borrow().iter().copied().collect()
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("the test ends in time");
    });
}

#[test]
fn survivors_of_mostly_dead_segments_are_moved() {
    run(async {
        let place = Place::new(&[
            ("a", 1, OLD, &[0, 1, 2, 3]),
            ("b", 2, OLD, &[5]),
            ("full", 3, OLD, &[0, 1, 2, 3, 4]),
            ("ended", 4, OLD, &[]),
            ("young", 5, 60, &[0]),
            ("unrouted", 6, OLD, &[0]),
        ]);
        place.world.unrouted.borrow_mut().insert(id(609));
        let report = place.go().await;
        assert_eq!(place.copies(), [100, 101, 102, 103, 205]);
        assert_eq!((report.examined, report.emptied, report.moved), (5, 2, 5));
        assert_eq!((report.damaged, report.removed, report.more), (0, 0, false));
        let live = place.world.live.borrow().clone();
        assert_eq!(live.get(&id(205)), Some(&copy(205)));
        assert_eq!(live.get(&id(300)), Some(&handle(300)));
        // Once more: there is nothing to be done.
        let report = place.go().await;
        assert_eq!((report.emptied, report.moved, report.copied_bytes), (0, 0, 0));
    });
}

#[test]
fn the_young_are_asked_about_and_moved_only_if_need_be() {
    run(async {
        let place = Place::new(&[("a", 1, 60, &[0, 1, 2, 3]), ("b", 2, 60, &[5])]);
        let segment = 10 * (SIZE + 500);
        place.world.spare_bytes.set(2 * segment);
        assert_eq!(place.go().await.examined, 0);
        // The emptier takes eight tenths of itself too much, the other two.
        place.world.spare_bytes.set(segment - segment / 20);
        let report = place.go().await;
        assert_eq!((report.examined, report.moved), (2, 1));
        assert_eq!(place.copies(), [205]);
    });
}

#[test]
fn what_ends_meanwhile_leaves_no_copy() {
    run(async {
        let place = Place::new(&[("a", 1, OLD, &[0, 1, 2])]);
        place.world.ends.borrow_mut().insert(id(101));
        let report = place.go().await;
        assert_eq!((report.moved, report.removed), (2, 1));
        assert_eq!(place.copies(), [100, 102]);
    });
}

#[test]
fn what_an_earlier_pass_left_is_ended() {
    run(async {
        let place = Place::new(&[("full", 1, OLD, &[0, 1, 2, 3, 4, 5, 6])]);
        // Copied and not told of; at its new place; ended; and one that nobody knows.
        place.world.copies.borrow_mut().extend([100, 101, 109, 777]);
        place.world.live.borrow_mut().insert(id(101), copy(101));
        place.world.unrouted.borrow_mut().insert(id(777));
        let report = place.go().await;
        assert_eq!((report.moved, report.removed, report.emptied), (1, 1, 0));
        assert_eq!(place.copies(), [100, 101, 777]);
        assert_eq!(place.world.live.borrow().get(&id(100)), Some(&copy(100)));
    });
}

#[test]
fn a_damaged_message_keeps_its_segment() {
    run(async {
        let place = Place::new(&[("a", 1, OLD, &[0, 1, 2]), ("b", 2, OLD, &[0])]);
        // One is damaged, one has gone with its end.
        place.world.damaged.borrow_mut().extend([101, 200]);
        let report = place.go().await;
        assert_eq!((report.damaged, report.emptied, report.moved), (2, 0, 2));
        assert_eq!(place.copies(), [100, 102]);
        place.world.live.borrow_mut().remove(&id(200));
        assert_eq!(place.go().await.damaged, 1, "what has ended is no damage");
    });
}

#[test]
fn large_segments_are_asked_about_in_parts_and_left_early() {
    run(async {
        let place = Place::new(&[]);
        let all: Vec<Held> = (0..5000).map(|number| held(number, OLD)).collect();
        place.world.live.borrow_mut().extend(all.iter().map(|one| (one.id, one.handle.clone())));
        place.world.segments.borrow_mut().insert("full", all);
        let few: Vec<Held> = (10_000..12_500).map(|number| held(number, OLD)).collect();
        let survivors = few.iter().step_by(10).map(|one| (one.id, one.handle.clone()));
        place.world.live.borrow_mut().extend(survivors);
        place.world.segments.borrow_mut().insert("few", few);
        let report = place.go().await;
        assert_eq!(place.world.asked.take(), [1000, 1000, 500, 1000, 1000, 1000]);
        assert_eq!((report.moved, report.emptied), (250, 1));
    });
}

#[test]
fn a_pass_copies_only_so_much_and_another_follows() {
    run(async {
        let mut place =
            Place::new(&[("a", 1, OLD, &[0, 1]), ("b", 2, OLD, &[0]), ("c", 3, OLD, &[0])]);
        place.pass.settings.pass_bytes_max = ByteSize(2 * SIZE);
        let report = place.go().await;
        assert_eq!((report.moved, report.more), (2, true));
        assert_eq!(place.copies(), [200, 300], "the emptiest first");
        let made = Cell::new(0);
        let count = |counter, add: u64| {
            if counter == crate::counter::PASSES {
                made.set(made.get() + add);
            }
        };
        place.world.live.borrow_mut().insert(id(201), handle(201));
        place.world.live.borrow_mut().insert(id(301), handle(301));
        passes(&place.pass, &Asked::default(), count).await;
        assert_eq!(place.copies(), [100, 101, 200, 201, 300, 301]);
        assert_eq!(made.get(), 2);
    });
}

#[test]
fn who_is_not_answered_ends_the_pass() {
    run(async {
        let mut place = Place::new(&[("a", 1, OLD, &[0])]);
        place.pass.settings.unreachable_after = Span::millis(200);
        place.world.refuses.set(true);
        let cut_short = place.pass.go(&mut Report::default()).await;
        assert!(matches!(cut_short, Err(CutShort::Scheduler(_))), "{cut_short:?}");
        place.world.refuses.set(false);
        place.world.busy.set(u32::MAX);
        let cut_short = place.pass.go(&mut Report::default()).await;
        assert!(matches!(cut_short, Err(CutShort::Store(CompactionError::Busy))), "{cut_short:?}");
        assert!(place.copies().is_empty());
        // One that is about to end is waited for.
        place.world.busy.set(2);
        assert_eq!(place.go().await.moved, 1);
    });
}
