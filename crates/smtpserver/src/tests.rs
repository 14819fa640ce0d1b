//! The stage as a worker of a farm without a manager: real listeners, real job sockets, a queue in memory.

use std::cell::RefCell;
use std::net::SocketAddr;

use farm::manager::{Farm, Mode, TcpListen};
use job::Acknowledged;
use job::route::{Route, RouteRequest};
use job::verify::{Verified, Verify, VerifyAnswer, VerifyRequest};
use socket::{Ownership, Responder, Server, ServerSettings, bind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// Takes every recipient and every hint.
#[derive(Default)]
struct Router {
    hints: RefCell<Vec<RouteRequest>>,
}

impl socket::Service<Verify> for Router {
    fn call(&self, request: VerifyRequest, responder: Responder<Verify>) {
        let recipients = request.recipients.iter().map(|_| Verified::Deliverable).collect();
        responder.answer(&VerifyAnswer { recipients, domains: Vec::new() });
    }
}

impl socket::Service<Route> for Router {
    fn call(&self, request: RouteRequest, responder: Responder<Route>) {
        self.hints.borrow_mut().push(request);
        responder.answer(&Acknowledged {});
    }
}

struct Case {
    address: SocketAddr,
    run_dir: tempfile::TempDir,
    router: Rc<Router>,
    memory: queue_memory::Memory,
    alone: farm::Alone,
    stage: tokio::task::JoinHandle<Result<usize, Error>>,
}

fn serve<C: socket::Conversation>(path: &std::path::Path, service: Rc<dyn socket::Service<C>>) {
    let listener = bind(path, &Ownership { mode: 0o600, owner: None }).expect("a socket");
    let listener = UnixListener::from_std(listener).expect("a socket");
    let server = Server::new(service, ServerSettings::default());
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            server.take(stream, None);
        }
    });
}

impl Case {
    async fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let run_dir = tempfile::tempdir().expect("a directory");
        let mut settings = Settings {
            listen: vec![Listen { address: ([127, 0, 0, 1], 0).into(), service: Service::Mx }],
            ..Settings::default()
        };
        change(&mut settings);
        let tcp = settings.listeners().into_iter();
        let assignment = Assignment {
            settings,
            hostname: "mx.example.test".to_owned(),
            inspect: false,
            steps: Steps::NONE,
            on_filter_crash: OnFilterCrash::Tempfail,
        };
        let farm = Farm {
            name: "smtpserver".to_owned(),
            workers: assignment.settings.workers.clone(),
            sockets: Vec::new(),
            tcp: tcp.map(|(name, address)| TcpListen { name, address }).collect(),
            jobs: None,
            callers: std::collections::BTreeMap::new(),
            keys: None,
            places: std::collections::BTreeMap::new(),
            settings: serde_json::to_vec(&assignment).expect("settings become JSON"),
            counters: COUNTERS.iter().map(|name| (*name).to_owned()).collect(),
            run_dir: run_dir.path().join("run"),
            data_dir: run_dir.path().join("data"),
            user: None,
            admin_group: None,
            mode: Mode::Elastic,
            drain: Duration::from_secs(10),
            drain_reload: Duration::from_secs(3600),
            on_crash: None,
            in_place: farm::manager::InPlace::All,
        };
        let (worker, alone) = farm::Worker::alone(&farm).expect("a worker");
        let router = Rc::new(Router::default());
        let sockets = farm.run_dir.join("sockets");
        serve::<Verify>(&sockets.join("router.verify"), Rc::clone(&router) as _);
        serve::<Route>(&sockets.join("router.route"), Rc::clone(&router) as _);
        let address = worker.tcp_listeners()[0].1;
        let memory = queue_memory::Memory::new();
        let assignment: Assignment = worker.settings().expect("the assignment comes back");
        let stage = tokio::task::spawn_local(run(worker, assignment, memory.intake()));
        while !alone.is_ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Self { address, run_dir, router, memory, alone, stage }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.expect("a connection")
    }

    /// The connections in hand, as anyone may read them.
    fn connections(&self) -> u32 {
        let views =
            farm::scoreboard::read_all(&self.run_dir.path().join("run")).expect("scoreboards");
        views[0].workers[0].connections
    }

    /// A counter as anyone may read it.
    fn counted(&self, name: &str) -> u64 {
        let views =
            farm::scoreboard::read_all(&self.run_dir.path().join("run")).expect("scoreboards");
        let place = COUNTERS.iter().position(|counter| *counter == name).expect("a counter");
        views[0].workers[0].counters[place]
    }
}

fn test(test: impl Future<Output = ()>) {
    farm::Worker::block_on(async {
        tokio::time::timeout(PATIENCE, test).await.expect("in time");
    })
    .expect("a runtime");
}

/// Says something and reads so many lines.
async fn say(stream: &mut TcpStream, text: &str, lines: usize) -> String {
    stream.write_all(text.as_bytes()).await.expect("it is taken");
    let mut said = String::new();
    while said.matches("\r\n").count() < lines {
        let mut byte = [0];
        assert_eq!(stream.read(&mut byte).await.expect("replies come"), 1, "after {said}");
        said.push(char::from(byte[0]));
    }
    said
}

const GREETING: usize = 1;
const EHLO: usize = 7;
const MESSAGE: &str = "MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\nDATA\r\n";

#[test]
fn a_worker_takes_messages_and_drains() {
    test(async {
        let case = Case::new(|_| {}).await;
        let mut client = case.connect().await;
        say(&mut client, "", GREETING).await;
        say(&mut client, "EHLO client.example.org\r\n", EHLO).await;
        let mut idle = case.connect().await;
        say(&mut idle, "", GREETING).await;
        assert!(say(&mut client, MESSAGE, 3).await.ends_with("<CR><LF>.<CR><LF>\r\n"));
        let reply = say(&mut client, "text\r\n.\r\n", 1).await;
        assert!(reply.starts_with("250 2.0.0 Ok: queued as "), "{reply}");
        while case.router.hints.borrow().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(case.memory.messages(), 1);
        assert_eq!((case.counted("accepted_total"), case.counted("sessions_total")), (1, 2));

        assert!(say(&mut client, MESSAGE, 3).await.ends_with("<CR><LF>.<CR><LF>\r\n"));
        case.alone.drain(farm::DrainReason::Stop, Duration::from_secs(10));
        assert!(say(&mut idle, "", 1).await.starts_with("421 4.3.2 "));
        let replies = say(&mut client, "text\r\n.\r\n", 2).await;
        assert!(replies.starts_with("250 ") && replies.contains("\r\n421 4.3.2 "), "{replies}");
        drop((client, idle));
        case.stage.await.expect("no panic").expect("no error");
        assert_eq!(case.memory.messages(), 2);
    });
}

#[test]
fn sessions_run_to_their_end_in_a_worker_that_is_replaced() {
    test(async {
        let case = Case::new(|_| {}).await;
        let mut client = case.connect().await;
        say(&mut client, "", GREETING).await;
        case.alone.drain(farm::DrainReason::Retire, Duration::from_secs(3600));
        while TcpStream::connect(case.address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        say(&mut client, "EHLO client.example.org\r\n", EHLO).await;
        assert!(say(&mut client, MESSAGE, 3).await.ends_with("<CR><LF>.<CR><LF>\r\n"));
        assert!(say(&mut client, "text\r\n.\r\n", 1).await.starts_with("250 "));
        assert!(say(&mut client, "QUIT\r\n", 1).await.starts_with("221 "));
        case.stage.await.expect("no panic").expect("no error");
        assert_eq!(case.memory.messages(), 1);
    });
}

#[test]
fn a8_a_client_has_so_many_sessions_and_no_more() {
    test(async {
        let case = Case::new(|settings| {
            settings.relay_from.clear();
            settings.sessions_per_client_max = 2;
        })
        .await;
        let mut first = case.connect().await;
        assert!(say(&mut first, "", GREETING).await.starts_with("220 "));
        let mut second = case.connect().await;
        assert!(say(&mut second, "", GREETING).await.starts_with("220 "));
        let mut third = case.connect().await;
        assert!(say(&mut third, "", GREETING).await.starts_with("421 4.7.0 "));
        drop((first, third));
        // The place is free once the session has seen its client go.
        loop {
            let mut again = case.connect().await;
            if say(&mut again, "", GREETING).await.starts_with("220 ") {
                break;
            }
        }
        assert!(case.counted("sessions_refused_total") >= 1);
    });
}

#[test]
fn a8_sessions_in_all_have_a_limit() {
    test(async {
        let case = Case::new(|settings| settings.sessions_max = 2).await;
        let mut open = Vec::new();
        for expect in ["220 ", "220 ", "421 4.3.2 "] {
            let mut client = case.connect().await;
            assert!(say(&mut client, "", GREETING).await.starts_with(expect));
            open.push(client);
        }
    });
}

#[test]
fn a8_who_is_refused_holds_no_place() {
    test(async {
        let case = Case::new(|settings| settings.sessions_max = 1).await;
        let mut first = case.connect().await;
        assert!(say(&mut first, "", GREETING).await.starts_with("220 "));
        // Refused clients that stay: the connection is over for us, whatever they do.
        let mut refused = Vec::new();
        for _ in 0..20 {
            let mut client = case.connect().await;
            assert!(say(&mut client, "", GREETING).await.starts_with("421 4.3.2 "));
            assert_eq!(client.read(&mut [0]).await.expect("the connection ends"), 0);
            refused.push(client);
            assert_eq!(case.connections(), 1);
        }
        assert_eq!(case.counted("sessions_refused_total"), 20);
    });
}
