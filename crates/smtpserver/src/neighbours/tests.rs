//! The clients against servers of the test's on real sockets, which crash when told to.

mod ask;

use std::collections::HashMap;
use std::path::Path;

use job::Acknowledged;
use mail::{MessageId, Timestamp};
use queue::Handle;
use socket::{Conversation, Ownership, Responder, Server, ServerSettings, Service, Serving, bind};
use tokio::net::{UnixListener, UnixStream};

use super::*;

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

/// A farm of one conversation: keeps requests, or answers them.
struct Kept<C: Conversation> {
    taken: RefCell<Vec<C::Request>>,
    held: RefCell<Vec<Responder<C>>>,
    answer: Option<C::Answer>,
}

impl<C: Conversation> Service<C> for Kept<C> {
    fn call(&self, request: C::Request, responder: Responder<C>) {
        self.taken.borrow_mut().push(request);
        match &self.answer {
            Some(answer) => responder.answer(answer),
            None => self.held.borrow_mut().push(responder),
        }
    }
}

/// A worker that serves a socket until it is made to go.
struct Serve<C: Conversation> {
    kept: Rc<Kept<C>>,
    server: Server<C>,
    accepting: tokio::task::JoinHandle<()>,
    /// Both ends of a relay, whose ending is the connection's.
    relays: Rc<RefCell<Vec<tokio::task::JoinHandle<()>>>>,
}

impl<C: Conversation> Serve<C> {
    fn new(path: &Path, answer: Option<C::Answer>) -> Self {
        let kept = Rc::new(Kept { taken: RefCell::default(), held: RefCell::default(), answer });
        let server = Server::new(Rc::clone(&kept) as Rc<dyn Service<C>>, ServerSettings::default());
        let listener = bind(path, &Ownership { mode: 0o600, owner: None }).expect("a socket");
        let listener = UnixListener::from_std(listener).expect("a socket");
        let relays = Rc::new(RefCell::new(Vec::new()));
        let accepting = tokio::task::spawn_local({
            let (server, relays) = (server.clone(), Rc::clone(&relays));
            async move {
                while let Ok((mut outer, _)) = listener.accept().await {
                    // Through a relay, so that the test can cut the connection as a death does.
                    let (mut inner, stream) = UnixStream::pair().expect("a pair");
                    server.take(stream, None);
                    let relay = tokio::task::spawn_local(async move {
                        let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                    });
                    relays.borrow_mut().push(relay);
                }
            }
        });
        Self { kept, server, accepting, relays }
    }

    fn taken(&self) -> usize {
        self.kept.taken.borrow().len()
    }

    /// Cuts all connections.
    fn cut(&self) {
        for relay in self.relays.take() {
            relay.abort();
        }
    }
}

impl<C: Conversation> Drop for Serve<C> {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

struct Counted(Rc<RefCell<HashMap<usize, u64>>>);

impl Tally for Counted {
    fn count(&self, counter: Counter, add: u64) {
        *self.0.borrow_mut().entry(counter as usize).or_insert(0) += add;
    }

    fn job(&self) -> Job {
        Job::uncounted()
    }
}

struct Case {
    directory: tempfile::TempDir,
    farms: Farms,
    counters: Rc<RefCell<HashMap<usize, u64>>>,
}

impl Case {
    fn new() -> Self {
        Self::with_deadline(Duration::from_secs(5))
    }

    fn with_deadline(deadline: Duration) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let settings = ClientSettings { deadline, waiting_max: 10 };
        let path = |name: &str| directory.path().join(name);
        let clients = Clients {
            verify: Client::new(path("verify"), settings.clone()),
            inspect: Client::new(path("inspect"), settings.clone()),
            route: Client::new(path("route"), settings.clone()),
            strike: Client::new(path("strike"), settings),
        };
        let counters = Rc::new(RefCell::new(HashMap::new()));
        let tally = Box::new(Counted(Rc::clone(&counters)));
        let farms = Farms::new(clients, Duration::from_secs(5), tally);
        Self { directory, farms, counters }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn counted(&self, counter: Counter) -> u64 {
        self.counters.borrow().get(&(counter as usize)).copied().unwrap_or(0)
    }

    async fn connected(&self) {
        self.farms.0.clients.route.connect();
        until(|| !self.farms.0.clients.route.peers().is_empty()).await;
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
        case.farms.route(hint(1));
        assert_eq!(case.counted(Counter::RouteHints), 1);
        assert_eq!(case.counted(Counter::RouteHintsDropped), 1);
    });
}

#[test]
fn a_hint_that_was_dropped_comes_again() {
    run(async {
        let case = Case::new();
        for number in 1..=200 {
            case.farms.route(hint(number));
        }
        assert_eq!(case.counted(Counter::RouteHintsDropped), 200);
        let route = Serve::<Route>::new(&case.path("route"), Some(Acknowledged {}));
        until(|| route.taken() == 200).await;
        let told = route.kept.taken.borrow();
        assert!((1..=200).all(|number| told.contains(&hint(number))), "each of them");
    });
}

#[test]
fn a_hint_that_is_lost_is_sent_elsewhere_once() {
    run(async {
        let case = Case::new();
        let route = Serve::<Route>::new(&case.path("route"), None);
        case.connected().await;
        case.farms.route(hint(1));
        until(|| route.taken() == 1).await;
        route.cut();
        until(|| route.taken() == 2).await;
        assert_eq!(case.counted(Counter::RouteHintsUnanswered), 0);
        route.cut();
        until(|| case.counted(Counter::RouteHintsUnanswered) == 1).await;
        assert_eq!((route.taken(), case.farms.0.resends.get()), (2, 0));
        assert_eq!(case.farms.0.fates.borrow().lost.len(), 2);
    });
}

#[test]
fn a_draining_router_loses_no_hint() {
    run(async {
        let case = Case::new();
        let route = Serve::<Route>::new(&case.path("route"), Some(Acknowledged {}));
        case.connected().await;
        route.server.drain();
        case.farms.route(hint(1));
        let other = Serve::<Route>::new(&case.path("route"), Some(Acknowledged {}));
        until(|| other.taken() + case.counted(Counter::RouteHintsDropped) as usize == 1).await;
    });
}

#[test]
fn a35_a_crash_is_told_for_each_hint_in_hand() {
    run(async {
        let case = Case::new();
        let route = Serve::<Route>::new(&case.path("route"), None);
        let answer = StrikeAnswer { strikes: 1, held: false };
        let strike = Serve::<Strike>::new(&case.path("strike"), Some(answer));
        case.connected().await;
        case.farms.route(hint(1));
        case.farms.route(hint(2));
        until(|| route.taken() == 2).await;
        route.cut();
        until(|| case.farms.0.fates.borrow().lost.len() == 2).await;
        assert_eq!(strike.taken(), 0, "a connection that ends is no crash");
        // The farm's other workers tell which of theirs has crashed.
        until(|| !case.farms.0.clients.route.peers().is_empty()).await;
        route.server.set_workers(1, &[std::process::id()]);
        until(|| strike.taken() == 2).await;
        let told: Vec<_> = strike.kept.taken.borrow().iter().map(|told| told.id).collect();
        assert!(told.contains(&hint(1).id) && told.contains(&hint(2).id));
        // What is lost to the same worker after the word of its crash is told as well.
        route.cut();
        until(|| strike.taken() == 4).await;
    });
}
