//! Jobs over a socket, as the scheduler sends them.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use job::deliver::{DeliverAnswer, DeliverRecipient};
use mail::{BodyType, MessageId, Outcome, Reply, StatusCode, Timestamp};
use queue::Local;
use serde_json::Value;
use socket::{Server, ServerSettings, Serving};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::*;
use crate::answer_all;

/// Answers at once, or when it is told to.
#[derive(Default)]
struct Recorder {
    holds: Cell<bool>,
    delivers: Cell<bool>,
    go_on: Rc<Notify>,
    gates: RefCell<Vec<Gate>>,
    polls: Rc<Cell<u32>>,
}

impl Agent for Recorder {
    fn deliver(self: Rc<Self>, job: Job) -> Local<'static, DeliverAnswer> {
        self.gates.borrow_mut().push(job.gate);
        let reply = Reply::ours(StatusCode::new(4, 2, 0), "later");
        let outcome = match self.delivers.get() {
            true => Outcome::Failed(reply),
            false => Outcome::Deferred(reply),
        };
        let answer = answer_all(&job.request, &outcome);
        let (holds, go_on) = (self.holds.get(), Rc::clone(&self.go_on));
        let polls = Rc::clone(&self.polls);
        let mut work = Box::pin(async move {
            if holds {
                go_on.notified().await;
            }
            answer
        });
        Box::pin(std::future::poll_fn(move |context| {
            polls.set(polls.get() + 1);
            work.as_mut().poll(context)
        }))
    }
}

/// A scheduler that hears everything that it is told late.
#[derive(Clone, Default)]
struct Heard(Rc<RefCell<Vec<job::outcome::OutcomeRequest>>>);

impl crate::journal::Tell for Heard {
    fn tell(
        &self,
        entry: job::outcome::OutcomeRequest,
    ) -> Local<'static, Result<(), socket::CallError>> {
        self.0.borrow_mut().push(entry);
        Box::pin(std::future::ready(Ok(())))
    }
}

struct Setup {
    agent: Rc<Recorder>,
    deliveries: Rc<Deliveries>,
    heard: Heard,
    _folder: tempfile::TempDir,
    server: Server<Deliver>,
    peer: BufReader<UnixStream>,
}

impl Setup {
    async fn new() -> Self {
        let agent = Rc::new(Recorder::default());
        let folder = tempfile::tempdir().unwrap();
        let heard = Heard::default();
        let journal = Journal::new(folder.path().to_owned(), "test", Box::new(heard.clone()));
        tokio::task::spawn_local(journal.clone().run());
        let deliveries = Deliveries::new(Rc::<Recorder>::clone(&agent), "test".into(), journal);
        let deliveries = Rc::new(deliveries);
        let service: Rc<dyn Service<Deliver>> = Rc::<Deliveries>::clone(&deliveries);
        let server = Server::<Deliver>::new(service, ServerSettings::default());
        let (ours, theirs) = UnixStream::pair().unwrap();
        server.take(theirs, None);
        let mut setup =
            Self { agent, deliveries, heard, _folder: folder, server, peer: BufReader::new(ours) };
        assert_eq!(setup.read().await["params"]["conversation"], "deliver");
        setup.write(r#"{"jsonrpc":"2.0","method":"use","params":{"version":1}}"#).await;
        setup
    }

    async fn write(&mut self, line: &str) {
        self.peer.get_mut().write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    async fn ask(&mut self, id: u32, recipients: usize) {
        self.ask_settled(id, recipients, None).await;
    }

    async fn ask_settled(&mut self, id: u32, recipients: usize, settled: Option<u64>) {
        let request = DeliverRequest { settled, ..request(recipients) };
        let request = serde_json::to_string(&request).unwrap();
        let frame = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"deliver","deadline_ms":60000,"params":{request}}}"#
        );
        self.write(&frame).await;
    }

    async fn hang_up(&mut self) {
        let (other, _) = UnixStream::pair().unwrap();
        drop(std::mem::replace(&mut self.peer, BufReader::new(other)));
        while self.server.connections() > 0 {
            tokio::task::yield_now().await;
        }
    }

    async fn read(&mut self) -> Value {
        let mut line = String::new();
        self.peer.read_line(&mut line).await.unwrap();
        serde_json::from_str(&line).unwrap()
    }
}

fn request(recipients: usize) -> DeliverRequest {
    let recipient = |index| DeliverRecipient {
        index,
        address: "ada@example.test".parse().unwrap(),
        original: None,
        user: "ada".into(),
        notify: None,
        orcpt: None,
        outcome: None,
    };
    DeliverRequest {
        handle: "test:1".parse().unwrap(),
        id: MessageId::new(Timestamp::from_millis(1), 1),
        sender: None,
        size: 10,
        accepted_at: Timestamp::from_millis(1),
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        host: String::new(),
        attempt: 1,
        routing: 1,
        settled: None,
        recipients: (0..).map(recipient).take(recipients).collect(),
        report: None,
    }
}

fn run_test(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("the test ends in time");
    });
}

#[test]
fn a_job_is_answered_at_once_or_later() {
    run_test(async {
        let mut setup = Setup::new().await;
        for holds in [false, true] {
            setup.agent.holds.set(holds);
            setup.agent.polls.set(0);
            setup.ask(7, 2).await;
            if holds {
                while setup.agent.polls.get() == 0 {
                    tokio::task::yield_now().await;
                }
                setup.agent.go_on.notify_one();
            }
            let answer = setup.read().await;
            assert_eq!(answer["id"], 7);
            assert_eq!(answer["result"]["outcomes"][1]["index"], 1);
            assert_eq!(answer["result"]["outcomes"][1]["outcome"]["deferred"]["status"], "4.2.0");
            tokio::task::yield_now().await;
            assert_eq!(setup.server.outstanding(), 0);
            // Nobody polls but its task: once, and once more if it had to wait.
            assert_eq!(setup.agent.polls.get(), if holds { 2 } else { 1 });
        }
    });
}

#[test]
fn the_gate_closes_when_the_scheduler_goes() {
    run_test(async {
        let mut setup = Setup::new().await;
        setup.agent.holds.set(true);
        setup.ask(1, 1).await;
        while setup.agent.gates.borrow().is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let gate = setup.agent.gates.borrow()[0].clone();
        assert!(gate.is_open());
        assert!(gate.deadline().is_some());
        assert_eq!(setup.server.outstanding(), 1);
        drop(setup.peer);
        assert!(!gate.is_open());
    });
}

#[test]
fn too_many_recipients_are_refused() {
    run_test(async {
        let mut setup = Setup::new().await;
        setup.ask(1, PART_RECIPIENTS_MAX + 1).await;
        assert_eq!(setup.read().await["error"]["code"], codes::PARAMS);
        assert!(setup.agent.gates.borrow().is_empty());
    });
}

#[test]
fn at_a_stop_jobs_are_given_up_that_have_not_passed_their_gate() {
    run_test(async {
        let mut setup = Setup::new().await;
        setup.agent.holds.set(true);
        for id in [1, 2] {
            setup.ask(id, 1).await;
        }
        while setup.agent.polls.get() < 2 {
            tokio::task::yield_now().await;
        }
        assert!(setup.agent.gates.borrow()[1].is_open());
        setup.deliveries.give_up();
        let refused = setup.read().await;
        assert_eq!(
            (&refused["id"], &refused["error"]["code"]),
            (&1.into(), &codes::NOT_TAKEN.into())
        );
        setup.agent.go_on.notify_waiters();
        let answer = setup.read().await;
        assert_eq!(answer["id"], 2);
        assert!(answer["result"]["outcomes"].is_array(), "it may have been delivered: {answer}");
    });
}

#[test]
fn what_was_done_and_not_written_down_is_told_when_the_connection_has_ended() {
    run_test(async {
        let mut setup = Setup::new().await;
        setup.agent.delivers.set(true);
        for (id, settled) in [(1, 0), (2, 0), (3, 1)] {
            setup.ask_settled(id, 1, Some(settled)).await;
            assert_eq!(setup.read().await["id"], id);
        }
        setup.agent.delivers.set(false);
        setup.ask_settled(4, 1, Some(1)).await;
        assert_eq!(setup.read().await["id"], 4);
        assert!(setup.heard.0.borrow().is_empty());
        setup.hang_up().await;
        while setup.heard.0.borrow().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(setup.heard.0.borrow().len(), 2, "the second and the third");
    });
}

#[test]
fn what_is_done_after_the_connection_has_ended_is_told() {
    run_test(async {
        let mut setup = Setup::new().await;
        setup.agent.delivers.set(true);
        setup.agent.holds.set(true);
        setup.ask_settled(1, 1, Some(0)).await;
        setup.ask_settled(2, 1, Some(0)).await;
        while setup.agent.gates.borrow().len() < 2 {
            tokio::task::yield_now().await;
        }
        // The first comes to its dot, the second does not.
        assert!(setup.agent.gates.borrow()[0].is_open());
        setup.hang_up().await;
        while Rc::strong_count(&setup.agent.polls) > 2 {
            tokio::task::yield_now().await;
        }
        assert!(!setup.agent.gates.borrow()[1].is_open(), "it was given up");
        setup.agent.go_on.notify_one();
        while setup.heard.0.borrow().is_empty() {
            tokio::task::yield_now().await;
        }
        assert_eq!(setup.heard.0.borrow().len(), 1);
    });
}
