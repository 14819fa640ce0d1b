//! Handing over to a scheduler on a real socket.

use std::path::PathBuf;

use mail::{MessageId, Timestamp};
use queue::Handle;
use socket::{ClientSettings, ErrorObject, Ownership, Responder, Server, ServerSettings, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;

/// A scheduler that notes what it is told, over which connection, and answers as it is told to.
#[derive(Default)]
struct Scheduler {
    told: RefCell<Vec<(u32, bool, u64)>>,
    alone: RefCell<Vec<bool>>,
    refuse_first: Cell<Option<i32>>,
    refuse_part: Cell<Option<u32>>,
    /// How long each answer takes.
    slow: Cell<Duration>,
}

impl Service<Enqueue> for Scheduler {
    fn call(&self, request: EnqueueRequest, responder: Responder<Enqueue>) {
        let connection = responder.caller().connection;
        self.alone.borrow_mut().push(responder.is_alone());
        self.told.borrow_mut().push((request.part, request.more, connection));
        if let Some(code) = self.refuse_first.take() {
            return responder.refuse(ErrorObject::new(code, "no"));
        }
        if self.refuse_part.get() == Some(request.part) {
            return responder.refuse(ErrorObject::new(codes::INTERNAL, "no"));
        }
        let slow = self.slow.get();
        if slow.is_zero() {
            return responder.answer(&Acknowledged {});
        }
        tokio::task::spawn_local(async move {
            tokio::time::sleep(slow).await;
            responder.answer(&Acknowledged {});
        });
    }
}

struct Place {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a scratch directory");
        let path = directory.path().join("scheduler.enqueue");
        Self { _directory: directory, path }
    }

    fn listen(&self) -> UnixListener {
        let ownership = Ownership { mode: 0o600, owner: None };
        let listener = socket::bind(&self.path, &ownership).expect("a free path");
        UnixListener::from_std(listener).expect("within a runtime")
    }

    fn handover(&self, deadline: Duration) -> Rc<Handover> {
        let settings = ClientSettings { deadline, waiting_max: 10, ..ClientSettings::default() };
        let strike = Client::new(self.path.with_file_name("scheduler.strike"), settings.clone());
        let scheduler = Client::new(self.path.clone(), settings);
        scheduler.connect();
        Handover::new(scheduler, strike, deadline)
    }
}

fn serve(listener: UnixListener, scheduler: &Rc<Scheduler>, window: u32) {
    let settings = ServerSettings { window, ..ServerSettings::default() };
    let server = Server::new(Rc::clone(scheduler) as Rc<dyn Service<Enqueue>>, settings);
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            server.take(stream, None);
        }
    });
}

fn parts(count: u32) -> Vec<EnqueueRequest> {
    let part = |part| EnqueueRequest {
        handle: Handle::parse("memory:1").expect("well-formed"),
        id: MessageId::new(Timestamp::from_millis(1), 2),
        routing: 1,
        part,
        more: part + 1 < count,
        sender: None,
        size: 1,
        accepted_at: Timestamp::from_millis(1),
        body: mail::BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        hold: None,
        recipients: Vec::new(),
    };
    (0..count).map(part).collect()
}

async fn hand_over(handover: &Rc<Handover>, count: u32) -> Result<(), CallError> {
    let (send, receive) = tokio::sync::oneshot::channel();
    handover.begin(parts(count), false, move |result| send.send(result).expect("the test waits"));
    receive.await.expect("done is called once")
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

const LONG: Duration = Duration::from_secs(10);

#[test]
fn one_part_is_acknowledged() {
    run(async {
        let (place, scheduler) = (Place::new(), Rc::new(Scheduler::default()));
        serve(place.listen(), &scheduler, 256);
        // The first finds no connection yet and waits for it; the second is sent at once.
        let handover = place.handover(LONG);
        for _ in 0..2 {
            assert_eq!(hand_over(&handover, 1).await, Ok(()));
        }
        assert_eq!(scheduler.told.take(), [(0, false, 1), (0, false, 1)]);
    });
}

#[test]
fn parts_go_in_order_over_one_connection_however_small_its_window() {
    for window in [1, 2, 256] {
        run(async {
            let (place, scheduler) = (Place::new(), Rc::new(Scheduler::default()));
            serve(place.listen(), &scheduler, window);
            assert_eq!(hand_over(&place.handover(LONG), 7).await, Ok(()));
            let expected: Vec<_> = (0..7).map(|part| (part, part < 6, 1)).collect();
            assert_eq!(scheduler.told.take(), expected);
        });
    }
}

#[test]
fn every_part_has_the_whole_deadline() {
    run(async {
        let (place, scheduler) = (Place::new(), Rc::new(Scheduler::default()));
        scheduler.slow.set(Duration::from_millis(300));
        serve(place.listen(), &scheduler, 1);
        assert_eq!(hand_over(&place.handover(Duration::from_millis(900)), 5).await, Ok(()));
    });
}

#[test]
fn a_refused_part_refuses_the_message() {
    run(async {
        let (place, scheduler) = (Place::new(), Rc::new(Scheduler::default()));
        scheduler.refuse_part.set(Some(1));
        serve(place.listen(), &scheduler, 1);
        let result = hand_over(&place.handover(LONG), 3).await;
        assert!(matches!(result, Err(CallError::Refused(error)) if error.code == codes::INTERNAL));
        assert!(scheduler.told.take().len() <= 2, "nothing follows it");
    });
}

#[test]
fn what_a_draining_scheduler_did_not_take_is_sent_again() {
    run(async {
        let (place, scheduler) = (Place::new(), Rc::new(Scheduler::default()));
        serve(place.listen(), &scheduler, 256);
        let handover = place.handover(LONG);
        assert_eq!(hand_over(&handover, 1).await, Ok(()));
        scheduler.refuse_first.set(Some(codes::NOT_TAKEN));
        assert_eq!(hand_over(&handover, 1).await, Ok(()));
        assert_eq!(scheduler.told.take().len(), 3);
        scheduler.refuse_first.set(Some(codes::INTERNAL));
        assert!(matches!(hand_over(&handover, 1).await, Err(CallError::Refused(_))));
    });
}

#[test]
fn a_lost_connection_is_made_good_once() {
    run(async {
        let (place, scheduler) = (Place::new(), Rc::new(Scheduler::default()));
        let listener = place.listen();
        let handover = place.handover(LONG);
        let after = Rc::clone(&scheduler);
        tokio::task::spawn_local(async move {
            // A scheduler that dies with the request in hand, then one that lives.
            let (mut stream, _) = listener.accept().await.expect("a client");
            let hello = "{\"jsonrpc\":\"2.0\",\"method\":\"hello\",\"params\":{\"conversation\":\"enqueue\",\
                         \"versions\":[1],\"features\":[],\"window\":9,\"window_bytes\":99999,\"worker\":\"scheduler/1\",\
                         \"pid\":1,\"workers\":1,\"crashed\":[]}}\n";
            stream.write_all(hello.as_bytes()).await.expect("the client is there");
            let mut read = Vec::new();
            while !String::from_utf8_lossy(&read).contains("\"enqueue\"") {
                stream.read_buf(&mut read).await.expect("the client is there");
            }
            drop(stream);
            serve(listener, &after, 256);
        });
        while handover.scheduler.peers().is_empty() {
            handover.scheduler.changed().await;
        }
        assert_eq!(hand_over(&handover, 1).await, Ok(()));
        assert_eq!(scheduler.told.take().len(), 1);
    });
}

#[test]
fn without_a_scheduler_it_fails_within_the_deadline() {
    run(async {
        let place = Place::new();
        for count in [1, 3] {
            let handover = place.handover(Duration::from_millis(50));
            assert!(hand_over(&handover, count).await.is_err());
        }
    });
}

/// The scheduler's word on strikes, and what it was told.
#[derive(Default)]
struct Judge {
    told: RefCell<Vec<(String, bool)>>,
    strikes: Cell<u32>,
}

impl Service<Strike> for Judge {
    fn call(&self, request: StrikeRequest, responder: Responder<Strike>) {
        let most = if request.alone { 3 } else { 2 };
        self.strikes.set((self.strikes.get() + 1).min(most));
        self.told.borrow_mut().push((request.stage, request.alone));
        let strikes = self.strikes.get();
        responder.answer(&StrikeAnswer { strikes, held: strikes >= 3 });
    }
}

impl Place {
    fn judge(&self) -> Rc<Judge> {
        let judge = Rc::new(Judge::default());
        let ownership = Ownership { mode: 0o600, owner: None };
        let path = self.path.with_file_name("scheduler.strike");
        let listener = socket::bind(&path, &ownership).expect("a free path");
        let listener = UnixListener::from_std(listener).expect("within a runtime");
        let service = Rc::clone(&judge) as Rc<dyn Service<Strike>>;
        let server = Server::new(service, ServerSettings::default());
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                server.take(stream, None);
            }
        });
        judge
    }
}

/// Schedulers, one after the other, that each die with what they take in hand: crashed, or killed by an operator. Each says whether
/// a request is alone in its hand, as is asked of it.
async fn die_in_turn(listener: &UnixListener, deaths: &[bool]) {
    let mut crashed: Vec<usize> = Vec::new();
    for (pid, is_crash) in (100..).zip(deaths) {
        let (mut stream, _) = listener.accept().await.expect("a client");
        stream.write_all(hello(pid, &crashed).as_bytes()).await.expect("the client is there");
        let mut read = Vec::new();
        let is_request = |line: &str| line.contains("\"enqueue\"") && line.ends_with('\n');
        while !String::from_utf8_lossy(&read).split_inclusive('\n').any(is_request) {
            stream.read_buf(&mut read).await.expect("the client is there");
        }
        let read = String::from_utf8_lossy(&read);
        if read.contains("\"alone\":true") {
            let at = read.find("\"id\":").expect("a request") + 5;
            let id: String = read[at..].chars().take_while(char::is_ascii_digit).collect();
            let told =
                format!("{{\"method\":\"in_hand\",\"params\":{{\"id\":{id},\"alone\":true}}}}\n");
            stream.write_all(told.as_bytes()).await.expect("the client is there");
        }
        if *is_crash {
            crashed.push(pid);
        }
    }
    // A living one tells of the last.
    if !crashed.is_empty() {
        let (mut stream, _) = listener.accept().await.expect("a client");
        stream.write_all(hello(99, &crashed).as_bytes()).await.expect("the client is there");
        std::future::pending::<()>().await;
    }
}

fn hello(pid: usize, crashed: &[usize]) -> String {
    format!(
        "{{\"method\":\"hello\",\"params\":{{\"conversation\":\"enqueue\",\"versions\":[1],\"pid\":{pid},\"crashed\":{crashed:?}}}}}\n"
    )
}

#[test]
fn the_third_crash_has_it_held_and_refused() {
    for count in [1, 3] {
        run(async {
            let place = Place::new();
            let listener = place.listen();
            let (handover, judge) = (place.handover(LONG), place.judge());
            tokio::task::spawn_local(async move { die_in_turn(&listener, &[true; 3]).await });
            let result = hand_over(&handover, count).await;
            assert!(
                matches!(&result, Err(CallError::Refused(error)) if error.code == codes::SUSPECT),
                "{result:?}"
            );
            let told = judge.told.take();
            let stage = || "scheduler".to_owned();
            assert_eq!(told, [(stage(), false), (stage(), false), (stage(), true)]);
        });
    }
}

#[test]
fn an_operators_kill_is_no_strike() {
    run(async {
        let (place, scheduler) = (Place::new(), Rc::new(Scheduler::default()));
        let listener = place.listen();
        let (handover, judge) = (place.handover(LONG), place.judge());
        let after = Rc::clone(&scheduler);
        tokio::task::spawn_local(async move {
            die_in_turn(&listener, &[false; 4]).await;
            // The one that comes after them lives.
            serve(listener, &after, 256);
        });
        assert_eq!(hand_over(&handover, 1).await, Ok(()));
        assert_eq!(scheduler.told.take().len(), 1);
        assert!(judge.told.take().is_empty());
    });
}

#[test]
fn without_a_word_of_the_strike_it_is_not_sent_again() {
    run(async {
        let place = Place::new();
        let listener = place.listen();
        // Nobody serves strikes.
        let handover = place.handover(Duration::from_millis(100));
        tokio::task::spawn_local(async move { die_in_turn(&listener, &[true]).await });
        while handover.scheduler.peers().is_empty() {
            handover.scheduler.changed().await;
        }
        let result = hand_over(&handover, 1).await;
        assert!(
            matches!(&result, Err(CallError::Refused(error)) if error.code == codes::SUSPECT),
            "{result:?}"
        );
    });
}

#[test]
fn what_the_scheduler_suspects_goes_alone() {
    run(async {
        let (place, scheduler) = (Place::new(), Rc::new(Scheduler::default()));
        scheduler.refuse_first.set(Some(codes::SUSPECT));
        serve(place.listen(), &scheduler, 256);
        let handover = place.handover(LONG);
        assert_eq!(hand_over(&handover, 1).await, Ok(()));
        assert_eq!(scheduler.alone.take(), [false, true]);
    });
}
