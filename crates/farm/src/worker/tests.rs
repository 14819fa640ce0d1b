//! A worker alone in this process, as stages' tests use it.

mod hosts;

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};
use socket::Responder;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::*;
use crate::Workers;
use crate::manager::{Farm, InPlace, Mode, NamedSocket, TcpListen};

enum Echo {}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Say {
    text: String,
}

socket::single_request!(Say, "say");

impl Conversation for Echo {
    const NAME: &'static str = "echo";
    const VERSIONS: &'static [u32] = &[1];
    type Request = Say;
    type Answer = Say;
}

struct Echoer;

impl Service<Echo> for Echoer {
    fn call(&self, request: Say, responder: Responder<Echo>) {
        responder.answer(&request);
    }
}

fn farm(directory: &tempfile::TempDir) -> Farm {
    Farm {
        name: "echo".into(),
        workers: Workers { concurrency: 2, ..Workers::default() },
        sockets: vec![NamedSocket { name: "echo.echo".into(), admin: false }],
        tcp: vec![TcpListen { name: "tcp".into(), address: (Ipv4Addr::LOCALHOST, 0).into() }],
        jobs: None,
        callers: BTreeMap::new(),
        keys: None,
        places: BTreeMap::new(),
        settings: br#"{"text":"settings"}"#.to_vec(),
        in_place: InPlace::All,
        counters: vec!["said_total".into()],
        run_dir: directory.path().join("run"),
        data_dir: directory.path().join("data"),
        user: None,
        admin_group: None,
        mode: Mode::Elastic,
        drain: Duration::from_secs(1),
        drain_reload: Duration::from_secs(1),
        on_crash: None,
    }
}

fn run(test: impl Future<Output = ()>) {
    Worker::block_on(async { tokio::time::timeout(Duration::from_secs(20), test).await })
        .unwrap()
        .unwrap();
}

#[test]
fn it_serves_accepts_and_drains() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let (worker, alone) = Worker::alone(&farm(&directory)).unwrap();
        assert_eq!((worker.farm(), worker.name()), ("echo", "echo/1"));
        assert_eq!(worker.settings::<Say>().unwrap().text, "settings");
        assert!(matches!(worker.settings::<u32>(), Err(WorkerError::Settings(_))));
        let service = Rc::new(Echoer);
        let served = Rc::downgrade(&service);
        worker.serve::<Echo>("echo.echo", service).unwrap();
        let again = worker.serve::<Echo>("echo.echo", Rc::new(Echoer));
        assert!(matches!(again, Err(WorkerError::NoListener(_))));
        let held = Rc::new(std::cell::RefCell::new(Vec::new()));
        let taken = held.clone();
        worker
            .accept("tcp", move |stream, _, connection| {
                taken.borrow_mut().push((stream, connection));
            })
            .unwrap();
        let client = worker.client::<Echo>("echo.echo", ClientSettings::default());
        assert!(!alone.is_ready());
        worker.ready();
        assert!(alone.is_ready());
        let said = client.call(&Say { text: "hello".into() }).await.unwrap();
        assert_eq!(said.text, "hello");

        // Two are accepted, the third when there is room again.
        let address = worker.tcp_listeners()[0].1;
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(TcpStream::connect(address).await.unwrap());
        }
        while held.borrow().len() < 2 {
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!((held.borrow().len(), worker.connections_in_farm()), (2, 2));
        assert!(held.borrow()[0].0.nodelay().unwrap());
        held.borrow_mut().remove(0);
        while held.borrow().len() < 2 {
            tokio::task::yield_now().await;
        }

        assert!(!worker.is_draining());
        alone.drain(DrainReason::Retire, Duration::from_secs(5));
        worker.draining().await;
        assert_eq!(worker.drain_reason(), Some(DrainReason::Retire));
        let drained = worker.clone();
        let drained = tokio::task::spawn_local(async move { drained.drained().await });
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!drained.is_finished(), "connections are in hand");
        alone.drain(DrainReason::Stop, Duration::from_secs(1));
        worker.stopping().await;
        held.take();
        drained.await.unwrap();
        assert!(served.upgrade().is_none(), "what was served is let go of");
        assert!(TcpStream::connect(address).await.is_err());
        let mut rest = Vec::new();
        assert_eq!(streams.pop().unwrap().read_to_end(&mut rest).await.unwrap(), 0);
    });
}

#[test]
fn new_settings_come_and_a_lost_manager_drains() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let (worker, alone) = Worker::alone(&farm(&directory)).unwrap();
        worker.ready();
        alone.new_settings(br#"{"text":"new"}"#).unwrap();
        assert_eq!(worker.new_settings::<Say>().await.unwrap().text, "new");
        alone.new_settings(b"7").unwrap();
        assert!(worker.new_settings::<Say>().await.is_err());
        drop(alone);
        worker.drained().await;
    });
}

#[test]
fn jobs_and_counters_show() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let (worker, _alone) = Worker::alone(&farm(&directory)).unwrap();
        worker.ready();
        let job = worker.job();
        drop(worker.job());
        worker.count(0, 3);
        let view = crate::scoreboard::read_all(&directory.path().join("run")).unwrap().remove(0);
        let line = &view.workers[0];
        assert_eq!((line.jobs, line.jobs_done, line.capacity), (1, 1, 2));
        assert_eq!((line.pid, view.total("said_total")), (std::process::id(), Some(3)));
        assert!(line.active_at > 1_700_000_000_000);
        drop(job);
    });
}

#[test]
fn a_draining_worker_sleeps_until_the_last_session_ends() {
    let directory = tempfile::tempdir().unwrap();
    run(async {
        let (worker, alone) = Worker::alone(&farm(&directory)).unwrap();
        worker.ready();
        let job = worker.job();
        let connection = Connection::new(&worker.inner, TCP_GAUGE);
        alone.drain(DrainReason::Retire, Duration::from_secs(5));
        worker.draining().await;
        let mut drained = std::pin::pin!(worker.drained());
        let mut polls = 0;
        let mut counted = std::pin::pin!(std::future::poll_fn(|cx| {
            polls += 1;
            drained.as_mut().poll(cx)
        }));
        let soon = tokio::time::timeout(Duration::from_millis(400), &mut counted).await;
        assert!(soon.is_err(), "a session is in hand");
        drop(job);
        drop(connection);
        let begun = std::time::Instant::now();
        counted.await;
        assert!(begun.elapsed() < Duration::from_millis(500), "{:?}", begun.elapsed());
        assert!(polls <= 5, "{polls}");
    });
}
