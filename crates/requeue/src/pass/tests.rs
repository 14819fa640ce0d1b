//! Passes over a store, with a scheduler and a router on real sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use farm::Asked;
use job::Acknowledged;
use job::strike::{StrikeAnswer, StrikeRequest};
use mail::MessageId;
use queue::{Handle, Local};
use socket::{
    ClientSettings, Conversation, ErrorObject, Ownership, Responder, Server, ServerSettings,
    Service,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;
use crate::run::passes;

const NOW: Timestamp = Timestamp::from_millis(1_000_000_000);

/// A store with segments of messages, each with its age in seconds; one is damaged.
struct Store(BTreeMap<&'static str, Vec<Listed>>);

impl Recovery for Store {
    fn segments(&self, all: bool) -> Local<'_, Result<Vec<Segment>, ReadError>> {
        assert!(!all, "a living acceptor's segments are its own affair");
        let segments = self.0.keys().map(|name| Segment((*name).to_owned())).collect();
        Box::pin(async { Ok(segments) })
    }

    fn accepted(&self, segment: &Segment) -> Local<'_, Result<Vec<Listed>, ReadError>> {
        let listed = self.0.get(segment.0.as_str()).cloned().unwrap_or_default();
        let is_damaged = segment.0 == "damaged";
        Box::pin(async move {
            let handle = Handle::parse("memory:0").expect("well-formed");
            if is_damaged { Err(ReadError::Gone(handle, "damaged".to_owned())) } else { Ok(listed) }
        })
    }
}

fn listed(number: u64, age_seconds: i64) -> Listed {
    Listed {
        handle: Handle::parse(&format!("memory:{number}")).expect("well-formed"),
        id: MessageId::new(NOW, number),
        accepted_at: Timestamp::from_millis((NOW.millis() as i64 - 1000 * age_seconds) as u64),
    }
}

/// Scheduler and router in one: what is known, what was routed, and how they misbehave.
#[derive(Default)]
struct World {
    known: RefCell<BTreeSet<Handle>>,
    strikes: RefCell<BTreeMap<Handle, u32>>,
    asked: RefCell<Vec<usize>>,
    /// Numbers of messages as they came to router, and how many were in hand then.
    routed: RefCell<Vec<(String, u32, usize)>>,
    in_hand: RefCell<Vec<(RouteRequest, Responder<Route>)>>,
    holds: Cell<bool>,
    refuses: Cell<Option<i32>>,
    /// Messages on which router fails.
    fails: RefCell<BTreeSet<Handle>>,
    refuses_once: Cell<Option<i32>>,
    struck: RefCell<Vec<String>>,
}

/// The world as a socket serves it.
struct Peer(Rc<World>);

impl std::ops::Deref for Peer {
    type Target = World;

    fn deref(&self) -> &World {
        &self.0
    }
}

impl Service<Known> for Peer {
    fn call(&self, request: KnownRequest, responder: Responder<Known>) {
        self.asked.borrow_mut().push(request.messages.len());
        let known = self.known.borrow();
        let wanted =
            request.messages.iter().zip(0..).filter(|(one, _)| !known.contains(&one.handle));
        let strikes = |handle| self.strikes.borrow().get(handle).copied().unwrap_or_default();
        let mut wanted: Vec<Wanted> = wanted
            .map(|(one, index)| Wanted {
                index,
                routing: 1 + index % 2,
                strikes: strikes(&one.handle),
            })
            .collect();
        wanted.push(Wanted { index: u32::MAX, routing: 1, strikes: 0 });
        responder.answer(&KnownAnswer { wanted });
    }
}

impl Service<Route> for Peer {
    fn call(&self, request: RouteRequest, responder: Responder<Route>) {
        assert!(request.facts.is_none(), "requeue sends handles alone");
        let in_hand = self.in_hand.borrow().len();
        let entry = (request.handle.parts().1.to_owned(), request.routing, in_hand);
        self.routed.borrow_mut().push(entry);
        if let Some(code) = self.refuses.get().or(self.refuses_once.take()) {
            return responder.refuse(ErrorObject::new(code, "no"));
        }
        if self.fails.borrow().contains(&request.handle) {
            return responder.refuse(ErrorObject::new(codes::INTERNAL, "no"));
        }
        self.in_hand.borrow_mut().push((request, responder));
        if !self.holds.get() {
            // Answered a little later, so that several are in hand at once.
            let world = Rc::clone(&self.0);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(Duration::from_millis(2)).await;
                world.answer_all();
            });
        }
    }
}

impl Service<Strike> for Peer {
    fn call(&self, request: StrikeRequest, responder: Responder<Strike>) {
        assert_eq!(request.stage, "router");
        self.struck.borrow_mut().push(request.handle.parts().1.to_owned());
        responder.answer(&StrikeAnswer { strikes: 1, held: false });
    }
}

impl World {
    fn answer_all(&self) {
        for (request, responder) in self.in_hand.take() {
            self.known.borrow_mut().insert(request.handle);
            responder.answer(&Acknowledged {});
        }
    }

    fn numbers(&self) -> Vec<String> {
        self.routed.borrow().iter().map(|(number, _, _)| number.clone()).collect()
    }
}

fn serve<C: Conversation>(directory: &Path, name: &str, world: &Rc<World>) -> Server<C>
where
    Peer: Service<C>,
{
    let ownership = Ownership { mode: 0o600, owner: None };
    let listener = socket::bind(&directory.join(name), &ownership).expect("a free path");
    let listener = UnixListener::from_std(listener).expect("within a runtime");
    let server = Server::<C>::new(Rc::new(Peer(Rc::clone(world))), ServerSettings::default());
    let accepting = server.clone();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            accepting.take(stream, None);
        }
    });
    server
}

struct Place {
    directory: tempfile::TempDir,
    world: Rc<World>,
    pass: Rc<Pass>,
}

impl Place {
    fn new(segments: &[(&'static str, Vec<Listed>)]) -> Self {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let path = |name: &str| -> PathBuf { directory.path().join(name) };
        let client = ClientSettings {
            deadline: Duration::from_secs(5),
            waiting_max: 16,
            ..ClientSettings::default()
        };
        let strikes = Rc::new(Strikes::default());
        let settings = Settings { outstanding_max: 4, ..Settings::default() };
        let pass = Pass {
            settings,
            old_after: Duration::from_secs(10),
            route_deadline: Duration::from_secs(5),
            recovery: Rc::new(Store(segments.iter().cloned().collect())),
            scheduler: Client::new(path("scheduler.known"), client.clone()),
            router: Client::new(path("router.route"), client.clone()),
            striker: Client::new(path("scheduler.strike"), client),
            strikes: Rc::clone(&strikes),
            progress: Rc::default(),
            now: || NOW,
        };
        pass.router.on_crash(move |pid| strikes.crashed(pid));
        Self { directory, world: Rc::default(), pass: Rc::new(pass) }
    }

    fn serve(&self) -> Server<Route> {
        serve::<Known>(self.directory.path(), "scheduler.known", &self.world);
        serve::<Strike>(self.directory.path(), "scheduler.strike", &self.world);
        serve::<Route>(self.directory.path(), "router.route", &self.world)
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
fn sends_what_is_unknown_and_old_enough() {
    run(async {
        let many: Vec<Listed> = (100..2600).map(|number| listed(number, 60)).collect();
        let place = Place::new(&[
            (
                "a",
                vec![listed(1, 60), listed(2, 60), listed(3, 9), listed(4, 10), listed(5, -3600)],
            ),
            ("damaged", vec![listed(6, 60)]),
            ("empty", vec![]),
            ("z", many),
        ]);
        place.serve();
        place.world.known.borrow_mut().extend((100..2600).map(|number| listed(number, 0).handle));
        place.world.known.borrow_mut().insert(listed(2, 0).handle);
        let report = place.pass.go(None).await.expect("everybody answers");
        assert_eq!(place.world.numbers(), ["1", "4", "5"]);
        let routings: Vec<u32> = place.world.routed.borrow().iter().map(|one| one.1).collect();
        assert_eq!(routings, [1, 2, 1], "as the scheduler says");
        assert_eq!(place.world.asked.take(), [5, 1000, 1000, 500], "in batches");
        assert_eq!(report.young, [Segment("a".to_owned())]);
        assert_eq!(report.come_again_in, Some(Duration::from_secs(1)));
        assert_eq!((report.examined, report.wanted), (2505, 4));
        assert_eq!(place.pass.progress.take_counts(), (3, 0));
        // Once more: nothing but the young one is left, and nothing is sent twice.
        place.pass.go(None).await.expect("everybody answers");
        assert_eq!(place.world.numbers(), ["1", "4", "5"]);
    });
}

#[test]
fn few_are_on_their_way_at_once_and_suspects_are_alone() {
    run(async {
        let place = Place::new(&[("a", (1..=20).map(|number| listed(number, 60)).collect())]);
        place.serve();
        for suspect in [3, 7] {
            place.world.strikes.borrow_mut().insert(listed(suspect, 0).handle, 2);
        }
        place.world.strikes.borrow_mut().insert(listed(5, 0).handle, 1);
        place.pass.go(None).await.expect("everybody answers");
        let routed = place.world.routed.take();
        assert_eq!(routed.len(), 20);
        assert!(routed.iter().all(|(_, _, in_hand)| *in_hand < 4), "{routed:?}");
        assert!(routed.iter().any(|(_, _, in_hand)| *in_hand > 0), "a window, not one by one");
        let alone: Vec<_> = routed
            .iter()
            .skip(18)
            .map(|(number, _, in_hand)| (number.as_str(), *in_hand))
            .collect();
        assert_eq!(alone, [("3", 0), ("7", 0)]);
    });
}

#[test]
fn what_a_draining_router_did_not_take_goes_to_another() {
    run(async {
        let place = Place::new(&[("a", vec![listed(1, 60), listed(2, 60)])]);
        place.serve();
        place.world.refuses_once.set(Some(codes::NOT_TAKEN));
        place.pass.go(None).await.expect("everybody answers");
        assert_eq!(place.world.numbers(), ["1", "2", "1"]);
        assert_eq!(place.pass.progress.take_counts(), (2, 0));
    });
}

#[test]
fn a_bad_stretch_does_not_hide_what_lies_behind_it() {
    run(async {
        let bad: Vec<Listed> = (1..=1000).map(|number| listed(number, 60)).collect();
        let place = Place::new(&[("a", bad.clone()), ("b", vec![listed(2000, 60)])]);
        place.serve();
        place.world.fails.borrow_mut().extend(bad.into_iter().map(|one| one.handle));
        place.pass.go(None).await.expect("the rest is served");
        let numbers = place.world.numbers();
        assert!(numbers.len() < 50, "{}", numbers.len());
        assert_eq!(numbers.last().map(String::as_str), Some("2000"));
        assert_eq!(place.pass.progress.take_counts().0, 1);
    });
}

#[test]
fn a_router_that_only_refuses_ends_the_pass() {
    run(async {
        let half = |from: u64| (from..from + 500).map(|number| listed(number, 60)).collect();
        let place = Place::new(&[("a", half(1)), ("b", half(501)), ("c", half(1001))]);
        place.serve();
        place.world.refuses.set(Some(codes::INTERNAL));
        assert!(matches!(place.pass.go(None).await, Err(CutShort::Refused(_))));
        assert!(place.world.numbers().len() < 50, "{}", place.world.numbers().len());
        // What is gone is no fault of the router's.
        place.pass.progress.take_counts();
        place.world.refuses.set(Some(codes::NOT_FOUND));
        place.pass.go(None).await.expect("everybody answers");
        assert_eq!(place.pass.progress.take_counts(), (0, 1500));
    });
}

#[test]
fn a_scheduler_that_does_not_answer_ends_the_pass() {
    run(async {
        let mut place = Place::new(&[("a", vec![listed(1, 60)])]);
        let pass = Rc::get_mut(&mut place.pass).expect("nobody else has it");
        pass.settings.unreachable_after = config::Span::millis(100);
        let client = ClientSettings {
            deadline: Duration::from_millis(50),
            waiting_max: 16,
            ..ClientSettings::default()
        };
        pass.scheduler = Client::new(place.directory.path().join("scheduler.known"), client);
        assert!(matches!(place.pass.go(None).await, Err(CutShort::Scheduler(_))));
        // And one whose router does not: the scheduler is there now.
        serve::<Known>(place.directory.path(), "scheduler.known", &place.world);
        assert!(matches!(place.pass.go(None).await, Err(CutShort::Router)));
    });
}

#[test]
fn a_crash_gives_a_strike_to_what_was_in_hand() {
    run(async {
        let place = Place::new(&[("a", vec![listed(1, 60), listed(2, 60)])]);
        serve::<Known>(place.directory.path(), "scheduler.known", &place.world);
        serve::<Strike>(place.directory.path(), "scheduler.strike", &place.world);
        let ownership = Ownership { mode: 0o600, owner: None };
        let path = place.directory.path().join("router.route");
        let listener = socket::bind(&path, &ownership).expect("a free path");
        let listener = UnixListener::from_std(listener).expect("within a runtime");
        tokio::task::spawn_local(async move {
            // A router that dies with both in hand, then one that says so.
            let mut dying = listener.accept().await.expect("a client").0;
            dying.write_all(hello(4242, "").as_bytes()).await.expect("the client is there");
            let mut read = Vec::new();
            while String::from_utf8_lossy(&read).matches("\"handle\"").count() < 2 {
                dying.read_buf(&mut read).await.expect("the client is there");
            }
            drop(dying);
            let mut next = listener.accept().await.expect("a client").0;
            next.write_all(hello(4243, "4242").as_bytes()).await.expect("the client is there");
            std::future::pending::<()>().await;
        });
        place.pass.go(None).await.expect("a few failures are no reason to end");
        assert_eq!(place.pass.strike().await, 2);
        assert_eq!(place.world.struck.take(), ["1", "2"]);
        assert_eq!(place.pass.progress.take_counts(), (0, 2));
    });
}

fn hello(pid: u32, crashed: &str) -> String {
    format!(
        "{{\"jsonrpc\":\"2.0\",\"method\":\"hello\",\"params\":{{\"conversation\":\"route\",\"versions\":[1],\
         \"features\":[],\"window\":9,\"window_bytes\":99999,\"worker\":\"router/1\",\"pid\":{pid},\"workers\":1,\
         \"crashed\":[{crashed}]}}}}\n"
    )
}

#[test]
fn young_messages_are_come_back_to() {
    run(async {
        let now = || Timestamp::from(SystemTime::now());
        let young = |number| Listed {
            accepted_at: Timestamp::from_millis(now().millis() - 10_000 + 100),
            ..listed(number, 0)
        };
        let mut place = Place::new(&[("a", vec![listed(1, 60)]), ("b", vec![young(2), young(3)])]);
        Rc::get_mut(&mut place.pass).expect("nobody else has it").now = now;
        place.serve();
        let passes_made = Cell::new(0);
        let count = |counter, add: u64| {
            if counter == crate::counter::PASSES {
                passes_made.set(passes_made.get() + add);
            }
        };
        passes(&place.pass, &Asked::default(), count).await;
        assert_eq!(place.world.numbers(), ["1", "2", "3"]);
        assert_eq!(passes_made.get(), 2);
        assert_eq!(place.world.asked.take(), [1, 2, 2], "the second looks at their segment alone");
    });
}

#[test]
fn who_asks_during_a_pass_gets_another() {
    run(async {
        let place = Place::new(&[("a", (1..=20).map(|number| listed(number, 60)).collect())]);
        place.serve();
        let asked = Rc::new(Asked::default());
        let (asking, world) = (Rc::clone(&asked), Rc::clone(&place.world));
        tokio::task::spawn_local(async move {
            while world.routed.borrow().is_empty() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            asking.ask("a test");
            asking.ask("another test");
        });
        passes(&place.pass, &asked, |_, _| {}).await;
        assert_eq!(place.world.asked.take(), [20, 20], "one more serves both");
        assert_eq!(place.world.numbers().len(), 20);
    });
}
