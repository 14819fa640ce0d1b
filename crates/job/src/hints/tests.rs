//! The hints of a worker against routers on real sockets, which drain and go when told to.

mod served;

use std::collections::HashMap;

use mail::{MessageId, Timestamp};
use queue::Handle;
use socket::ClientSettings;

use self::served::Served;
use super::*;
use crate::Acknowledged;

const PATIENCE: Duration = Duration::from_secs(20);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime");
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") });
}

async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

struct Case {
    directory: tempfile::TempDir,
    hints: Hints,
    counts: Rc<RefCell<HashMap<u8, usize>>>,
}

impl Case {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = ClientSettings {
            deadline: Duration::from_secs(5),
            waiting_max: 10,
            ..ClientSettings::default()
        };
        let path = |name: &str| directory.path().join(name);
        let counts = Rc::new(RefCell::new(HashMap::new()));
        let counting = Rc::clone(&counts);
        let hints = Hints::new(
            Client::new(path("route"), settings.clone()),
            Client::new(path("strike"), settings),
            Duration::from_secs(5),
            move |counted| *counting.borrow_mut().entry(counted as u8).or_insert(0) += 1,
        );
        Self { directory, hints, counts }
    }

    fn route(&self, answer: Option<Acknowledged>) -> Served<Route> {
        Served::new(&self.directory.path().join("route"), answer)
    }

    fn strike(&self) -> Served<Strike> {
        let answer = StrikeAnswer { strikes: 1, held: false };
        Served::new(&self.directory.path().join("strike"), Some(answer))
    }

    fn counted(&self, counted: Counted) -> usize {
        self.counts.borrow().get(&(counted as u8)).copied().unwrap_or(0)
    }

    async fn connected(&self) {
        self.hints.connect();
        until(|| !self.hints.0.route.peers().is_empty()).await;
    }

    async fn settled(&self) -> usize {
        self.hints.settle(Instant::now() + PATIENCE).await
    }
}

fn hint(number: u64) -> RouteRequest {
    let handle = Handle::parse(&format!("test:{number}")).expect("a handle");
    let id = MessageId::new(Timestamp::from_millis(number), number);
    RouteRequest { handle, id, routing: 1, facts: None }
}

#[test]
fn a_hint_without_a_router_is_dropped_for_now_and_counted() {
    run(async {
        let case = Case::new();
        case.hints.send(hint(1));
        assert_eq!((case.counted(Counted::Hint), case.counted(Counted::Dropped)), (1, 1));
        assert_eq!(case.hints.settle(Instant::now()).await, 1, "it is not forgotten");
    });
}

#[test]
fn a_hint_that_was_dropped_comes_again() {
    run(async {
        let case = Case::new();
        for number in 1..=200 {
            case.hints.send(hint(number));
        }
        assert_eq!(case.counted(Counted::Dropped), 200);
        let route = case.route(Some(Acknowledged {}));
        assert_eq!(case.settled().await, 0);
        let told = route.requests();
        assert!((1..=200).all(|number| told.contains(&hint(number))), "each of them");
    });
}

#[test]
fn a_hint_that_is_lost_is_sent_elsewhere_once_and_then_alone() {
    run(async {
        let case = Case::new();
        let route = case.route(None);
        case.connected().await;
        case.hints.send(hint(1));
        until(|| route.taken() == 1).await;
        route.cut();
        until(|| route.taken() == 2).await;
        route.cut();
        until(|| route.taken() == 3).await;
        assert_eq!(case.counted(Counted::Unanswered), 0);
        route.cut();
        assert_eq!(case.settled().await, 1, "it is requeue's");
        assert_eq!(case.counted(Counted::Unanswered), 1);
        assert_eq!((route.taken(), case.hints.0.resends.get()), (3, 0));
        assert_eq!(route.alone(), [false, false, true]);
        assert_eq!(case.hints.0.fates.borrow().lost.len(), 3);
    });
}

#[test]
fn a_hint_under_suspicion_is_left_to_requeue() {
    run(async {
        let case = Case::new();
        let _route =
            Served::<Route>::refusing(&case.directory.path().join("route"), codes::SUSPECT);
        case.connected().await;
        // One that is sent, and one that comes again.
        case.hints.send(hint(1));
        case.hints.0.left.keep(&hint(2));
        case.hints.0.open.hints.set(case.hints.0.open.hints.get() + 1);
        assert_eq!(case.settled().await, 2);
    });
}

#[test]
fn a_draining_router_loses_no_hint() {
    run(async {
        let case = Case::new();
        let route = case.route(Some(Acknowledged {}));
        case.connected().await;
        route.drain();
        case.hints.send(hint(1));
        until(|| case.hints.0.route.peers().is_empty()).await;
        // Sent while nobody is there.
        case.hints.send(hint(2));
        let other = case.route(Some(Acknowledged {}));
        assert_eq!(case.settled().await, 0);
        assert_eq!(route.taken() + other.taken(), 2);
    });
}

#[test]
fn a35_a_crash_is_told_for_each_hint_in_hand() {
    run(async {
        let case = Case::new();
        let (route, strike) = (case.route(None), case.strike());
        case.connected().await;
        case.hints.send(hint(1));
        case.hints.send(hint(2));
        until(|| route.taken() == 2).await;
        route.cut();
        until(|| case.hints.0.fates.borrow().lost.len() == 2).await;
        assert_eq!(strike.taken(), 0, "a connection that ends is no crash");
        // The farm's other workers tell which of theirs has crashed.
        until(|| !case.hints.0.route.peers().is_empty()).await;
        route.tell_workers(1, &[std::process::id()]);
        until(|| strike.taken() == 2).await;
        let told: Vec<_> = strike.requests().iter().map(|told| told.id).collect();
        assert!(told.contains(&hint(1).id) && told.contains(&hint(2).id));
        // What is lost to the same worker after the word of its crash is told as well.
        route.cut();
        until(|| strike.taken() == 4).await;
    });
}
