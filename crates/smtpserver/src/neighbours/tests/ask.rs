//! Questions to workers that crash, are killed, or stop, each with a process id of its own.

use std::cell::Cell;

use job::verify::{Verified, WholeDomain};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::*;

/// What a worker does with the requests in its hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Answer,
    Crash,
    /// Dies without having crashed.
    Die,
    Stop,
}

/// What the worker with this process id does when these recipients are in its hand.
type Script = dyn Fn(&Scripted, u32, &[String]) -> Act;

/// A farm of workers that speak the protocol by hand. Each connection is a worker's.
struct Scripted {
    /// For each hand that a worker took: the worker, and the recipients it was asked about.
    taken: RefCell<Vec<(u32, Vec<String>)>>,
    crashed: RefCell<Vec<u32>>,
    workers: u32,
    started: Cell<u32>,
    /// Whether a worker finds nothing else in its hand, when it is asked to see to that.
    tells_alone: Cell<bool>,
    /// A domain that it judges as a whole.
    whole: RefCell<Vec<WholeDomain>>,
    script: Box<Script>,
}

impl Scripted {
    fn start(
        case: &Case,
        workers: u32,
        script: impl Fn(&Self, u32, &[String]) -> Act + 'static,
    ) -> Rc<Self> {
        let ownership = Ownership { mode: 0o600, owner: None };
        let listener = bind(&case.path("verify"), &ownership).expect("a socket");
        let listener = UnixListener::from_std(listener).expect("a socket");
        let this = Rc::new(Self {
            taken: RefCell::default(),
            crashed: RefCell::default(),
            workers,
            started: Cell::new(0),
            tells_alone: Cell::new(true),
            whole: RefCell::default(),
            script: Box::new(script),
        });
        let farm = Rc::clone(&this);
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(Rc::clone(&farm).work(stream));
            }
        });
        this
    }

    async fn work(self: Rc<Self>, stream: UnixStream) {
        let pid = 1_000_000 + self.started.get();
        self.started.set(self.started.get() + 1);
        let mut stream = BufReader::new(stream);
        let (workers, crashed) = (self.workers, self.crashed.borrow().clone());
        let hello = serde_json::json!({ "jsonrpc": "2.0", "method": "hello", "params": {
            "conversation": "verify", "versions": [1], "pid": pid, "workers": workers, "crashed": crashed,
        } });
        stream.write_all(format!("{hello}\n").as_bytes()).await.expect("it is taken");
        let mut hand = Vec::new();
        loop {
            let mut line = String::new();
            // A hand is what has come when nothing more comes for a moment.
            let read =
                tokio::time::timeout(Duration::from_millis(20), stream.read_line(&mut line)).await;
            match read {
                Ok(Ok(0) | Err(_)) => return,
                Ok(Ok(_)) => {
                    let frame: serde_json::Value = serde_json::from_str(&line).expect("a frame");
                    if frame["alone"] == true && self.tells_alone.get() {
                        let (method, id) = ("in_hand", &frame["id"]);
                        let told = serde_json::json!({ "jsonrpc": "2.0", "method": method, "params": { "id": id, "alone": true } });
                        stream
                            .write_all(format!("{told}\n").as_bytes())
                            .await
                            .expect("it is taken");
                    }
                    hand.push(frame);
                }
                Err(_) if hand.is_empty() => {}
                Err(_) => match self.take(pid, &mut hand) {
                    Some(answers) => {
                        stream.write_all(answers.as_bytes()).await.expect("it is taken");
                    }
                    None => return,
                },
            }
        }
    }

    /// What a worker says to all in its hand; nothing when it is gone.
    fn take(&self, pid: u32, hand: &mut Vec<serde_json::Value>) -> Option<String> {
        let hand = std::mem::take(hand);
        let recipients: Vec<String> = hand
            .iter()
            .filter_map(|frame| frame["params"]["recipients"][0].as_str().map(str::to_owned))
            .collect();
        let act = match recipients.is_empty() {
            true => Act::Answer,
            false => {
                self.taken.borrow_mut().push((pid, recipients.clone()));
                (self.script)(self, pid, &recipients)
            }
        };
        match act {
            Act::Answer => {}
            Act::Stop => return Some(String::new()),
            Act::Crash => {
                self.crashed.borrow_mut().push(pid);
                return None;
            }
            Act::Die => return None,
        }
        let answers = hand.iter().filter(|frame| frame["id"].is_number()).map(|frame| {
            let result = match frame["method"].as_str() {
                Some("verify") => serde_json::to_value(VerifyAnswer {
                    recipients: vec![Verified::Deliverable],
                    domains: self.whole.borrow().clone(),
                })
                .expect("an answer is JSON"),
                _ => serde_json::json!({}),
            };
            let answer =
                serde_json::json!({ "jsonrpc": "2.0", "id": frame["id"], "result": result });
            format!("{answer}\n")
        });
        Some(answers.collect())
    }
}

fn question(recipient: &str) -> VerifyRequest {
    let recipients = vec![recipient.parse().expect("an address")];
    VerifyRequest { sender: None, recipients, client: job::verify::Client::default() }
}

#[test]
fn a_domain_that_was_judged_as_a_whole_is_asked_about_once() {
    run(async {
        let case = Case::new();
        let farm = Scripted::start(&case, 1, |_, _, _| Act::Answer);
        let whole = WholeDomain { domain: "whole.example".to_owned(), holds_ms: 60_000 };
        farm.whole.borrow_mut().push(whole);
        for recipient in
            ["a@whole.example", "b@whole.example", "c@Whole.Example", "d@other.example"]
        {
            let answer = case.farms.verify(&question(recipient)).await.expect("an answer");
            assert_eq!(answer.recipients, [Verified::Deliverable], "{recipient}");
        }
        let taken = farm.taken.borrow().iter().map(|(_, asked)| asked.concat()).collect::<Vec<_>>();
        assert_eq!(taken, ["a@whole.example", "d@other.example"]);
    });
}

const POISON: &str = "poison@example.test";

#[test]
fn a36_the_third_crash_shows_the_culprit() {
    run(async {
        let case = Case::new();
        let farm = Scripted::start(&case, 1, |_, _, _| Act::Crash);
        let answer = case.farms.verify(&question(POISON)).await;
        assert!(matches!(answer, Err(Unavailable::Crashed)), "{answer:?}");
        assert_eq!(farm.taken.borrow().len(), 3);
    });
}

#[test]
fn a36_who_was_not_alone_in_hand_goes_round_again() {
    run(async {
        let case = Case::new();
        let farm = Scripted::start(&case, 1, |farm, _, _| match farm.taken.borrow().len() {
            // Of another one's question, whatever this worker had not read yet.
            ..=4 => Act::Crash,
            _ => Act::Answer,
        });
        farm.tells_alone.set(false);
        let answer = case.farms.verify(&question("a@example.test")).await;
        assert!(answer.is_ok(), "{answer:?}");
        assert_eq!(farm.taken.borrow().len(), 5);
    });
}

#[test]
fn a36_the_last_crash_must_be_one() {
    run(async {
        let case = Case::new();
        let farm = Scripted::start(&case, 1, |farm, _, _| {
            let taken = farm.taken.borrow().len();
            // Not alone, three times; and a worker that an operator kills.
            farm.tells_alone.set(taken >= 3);
            match taken {
                ..=3 => Act::Crash,
                4 => Act::Die,
                _ => Act::Answer,
            }
        });
        farm.tells_alone.set(false);
        let answer = case.farms.verify(&question("a@example.test")).await;
        assert!(answer.is_ok(), "{answer:?}");
        assert_eq!(farm.taken.borrow().len(), 5);
    });
}

#[test]
fn a36_who_was_in_hand_with_the_culprit_is_answered() {
    run(async {
        let case = Rc::new(Case::new());
        let is_poison = |recipient: &String| recipient == POISON;
        let farm = Scripted::start(&case, 1, move |_, _, hand| match hand.iter().any(is_poison) {
            true => Act::Crash,
            false => Act::Answer,
        });
        // Connected, so that all go into one hand.
        case.verify.connect();
        until(|| !case.verify.peers().is_empty()).await;
        let ask = |recipient: String| {
            let case = Rc::clone(&case);
            tokio::task::spawn_local(async move { case.farms.verify(&question(&recipient)).await })
        };
        let poison = ask(POISON.to_owned());
        let others: Vec<_> = (0..5).map(|number| ask(format!("a{number}@example.test"))).collect();
        for other in others {
            let answer = other.await.expect("no panic");
            assert!(answer.is_ok(), "{answer:?}");
        }
        let answer = poison.await.expect("no panic");
        assert!(matches!(answer, Err(Unavailable::Crashed)), "{answer:?}");
        let taken = farm.taken.borrow();
        assert_eq!((taken[0].1.len(), taken[1].1.len()), (6, 6), "{taken:?}");
        assert!(taken[2..].iter().all(|(_, hand)| hand.len() == 1), "{taken:?}");
    });
}

#[test]
fn a35_a_killed_worker_is_no_evidence() {
    run(async {
        let case = Case::new();
        let farm = Scripted::start(&case, 1, |farm, _, _| match farm.taken.borrow().len() {
            ..=4 => Act::Die,
            _ => Act::Answer,
        });
        let answer = case.farms.verify(&question("a@example.test")).await;
        assert!(answer.is_ok(), "{answer:?}");
        assert_eq!(farm.taken.borrow().len(), 5);
    });
}

#[test]
fn a_question_is_asked_elsewhere_but_not_for_ever() {
    run(async {
        let case = Case::new();
        let farm = Scripted::start(&case, 1, |_, _, _| Act::Die);
        let answer = case.farms.verify(&question("a@example.test")).await;
        assert!(matches!(answer, Err(Unavailable::Failed(_))), "{answer:?}");
        assert_eq!(farm.taken.borrow().len(), 6);
    });
}

#[test]
fn a35_when_a_worker_is_stopped_another_is_asked() {
    run(async {
        let case = Case::with_deadline(Duration::from_millis(100));
        let farm = Scripted::start(&case, 2, |farm, pid, _| {
            // Whoever is asked first has been stopped.
            let stopped = farm.taken.borrow().first().map(|(first, _)| *first);
            if stopped == Some(pid) { Act::Stop } else { Act::Answer }
        });
        let verify = &case.verify;
        verify.connect();
        until(|| verify.peers().len() == 2).await;
        let answer = case.farms.verify(&question("a@example.test")).await;
        assert!(answer.is_ok(), "{answer:?}");
        let taken = farm.taken.borrow();
        assert!(taken.len() == 2 && taken[0].0 != taken[1].0, "{taken:?}");
    });
}

#[test]
fn a35_who_is_alone_and_stopped_is_asked_once() {
    run(async {
        let case = Case::with_deadline(Duration::from_millis(100));
        let farm = Scripted::start(&case, 1, |_, _, _| Act::Stop);
        let answer = case.farms.verify(&question("a@example.test")).await;
        assert!(matches!(answer, Err(Unavailable::Deadline)), "{answer:?}");
        assert_eq!(farm.taken.borrow().len(), 1);
    });
}

#[test]
fn a_session_keeps_to_one_worker_as_long_as_it_lives() {
    run(async {
        let case = Case::new();
        // The one that was asked five times dies of the sixth.
        let farm = Scripted::start(&case, 2, |farm, pid, _| {
            let own = farm.taken.borrow().iter().filter(|(other, _)| *other == pid).count();
            if own == 6 { Act::Die } else { Act::Answer }
        });
        case.verify.connect();
        until(|| case.verify.peers().len() == 2).await;
        let mut at = None;
        for number in 0..8 {
            let question = question(&format!("a{number}@example.test"));
            let answer = case.farms.verify.ask_at(&question, &mut at).await;
            assert!(answer.is_ok(), "{answer:?}");
            assert!(at.is_some());
        }
        let pids: Vec<u32> = farm.taken.borrow().iter().map(|(pid, _)| *pid).collect();
        // The sixth question goes to another, and those that follow go there too.
        let (first, second) = (pids[0], pids[8]);
        assert_ne!(first, second);
        assert_eq!(pids, [[first; 6].as_slice(), &[second; 3]].concat());
    });
}
