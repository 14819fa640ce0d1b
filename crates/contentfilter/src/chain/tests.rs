//! What filters hear in which order, what is kept of it, and what failures come to.

use bytes::Bytes;
use job::inspect::Refusal;
use mail::{Address, Edit, Recipient, StatusCode};
use queue::Local;

use super::*;

/// Notes all it hears, and finds what its script says.
struct Scripted {
    heard: Rc<RefCell<Vec<String>>>,
    script: Rc<Script>,
}

type Script = dyn Fn(&str) -> Result<Finding, FilterError>;

struct ScriptedLook {
    filter: Rc<Scripted>,
    /// What it keeps of a transaction, as careless filters do.
    kept: Vec<String>,
}

impl Scripted {
    fn note(&self, what: String) -> Result<Finding, FilterError> {
        self.heard.borrow_mut().push(what.clone());
        (self.script)(&what)
    }
}

impl Filter for Scripted {
    fn open(self: Rc<Self>, _: &Session) -> Box<dyn Look> {
        self.heard.borrow_mut().push("open".to_owned());
        Box::new(ScriptedLook { filter: self, kept: Vec::new() })
    }
}

impl Look for ScriptedLook {
    fn step<'a>(
        &'a mut self,
        session: &'a Session,
        step: Step,
    ) -> Local<'a, Result<Finding, FilterError>> {
        let text = match step {
            Step::Helo => format!("helo {}", session.helo.as_deref().unwrap_or_default()),
            Step::Mail => {
                let sender = session.sender().map_or("<>", |sender| sender.as_str());
                self.kept.push(sender.to_owned());
                format!("mail {sender}")
            }
            Step::Recipient => {
                let given: Vec<String> = session
                    .new_recipients()
                    .map(|(place, to)| format!("{place}:{}", to.address.local_part()))
                    .collect();
                format!("to {}", given.join(" "))
            }
            other => format!("{other:?}").to_lowercase(),
        };
        Box::pin(std::future::ready(self.filter.note(text)))
    }

    fn message<'a>(
        &'a mut self,
        _: &'a Session,
        message: &'a Message,
    ) -> Local<'a, Result<Finding, FilterError>> {
        let text = String::from_utf8(message.whole().to_vec()).expect("text");
        let found = self.filter.note(format!("message from {}: {text}", self.kept.join(" and ")));
        Box::pin(std::future::ready(found))
    }

    fn reset(&mut self) {
        self.filter.heard.borrow_mut().push("reset".to_owned());
        self.kept.clear();
    }
}

type Heard = Rc<RefCell<Vec<String>>>;

fn filter(
    script: impl Fn(&str) -> Result<Finding, FilterError> + 'static,
) -> (Rc<Scripted>, Heard) {
    let heard = Heard::default();
    let filter = Scripted { heard: Rc::clone(&heard), script: Rc::new(script) };
    (Rc::new(filter), heard)
}

fn fine() -> Result<Finding, FilterError> {
    Ok(Finding::default())
}

fn reject() -> Verdict {
    let status = StatusCode::new(5, 7, 1);
    Verdict::Reject(Refusal { code: 550, status, text: "no".to_owned() })
}

fn session(helo: Option<&str>, sender: Option<&str>, recipients: &[&str], given: usize) -> Session {
    let recipient = |local: &&str| {
        Recipient::from(format!("{local}@x.test").parse::<Address>().expect("an address"))
    };
    Session {
        port: 1,
        trusted: false,
        service: "mx".to_owned(),
        helo: helo.map(str::to_owned),
        envelope: sender.map(|sender| {
            Rc::new(Envelope {
                sender: sender.parse().ok(),
                recipients: recipients.iter().map(recipient).collect(),
                body: Default::default(),
                smtputf8: false,
                ret: None,
                envid: None,
            })
        }),
        given,
        ..Session::default()
    }
}

fn message(text: &'static str) -> Message {
    Message::new(text.len() as u64, Bytes::from_static(text.as_bytes()), 1 << 20, None)
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(future)
}

fn taken(heard: &Heard) -> Vec<String> {
    heard.take()
}

impl Chain {
    fn hear(&self, looks: &mut Looks, step: Step, mut session: Session) -> Judgement {
        run(self.step(looks, &mut session, step, None))
    }

    fn judge(&self, looks: &mut Looks, mut session: Session) -> (Judgement, Message) {
        run(self.message(looks, &mut session, Ok(message("A: 1\r\n\r\nb\r\n")), None, None))
    }
}

const WHOLE: [&str; 5] = ["open", "connect", "helo h", "mail a@x.test", "to 0:b 1:c"];

#[test]
fn each_step_is_heard_once_early_or_before_the_message() {
    for steps in [
        Steps::NONE,
        Steps::ALL,
        Steps { helo: true, ..Steps::NONE },
        Steps { connect: true, mail: true, ..Steps::NONE },
        Steps { recipient: true, ..Steps::NONE },
    ] {
        let (filter, heard) = filter(|_| fine());
        let chain = Chain::of(vec![(filter, steps, OnFailure::Tempfail)]);
        let mut looks = chain.open();
        let at =
            |recipients: &[&str], given| session(Some("h"), Some("a@x.test"), recipients, given);
        chain.hear(&mut looks, Step::Connect, session(None, None, &[], 0));
        chain.hear(&mut looks, Step::Helo, session(Some("h"), None, &[], 0));
        looks.enter(1);
        chain.hear(&mut looks, Step::Mail, at(&[], 0));
        chain.hear(&mut looks, Step::Recipient, at(&["b", "c"], 2));
        let (judgement, _) = chain.judge(&mut looks, at(&["b", "c"], 0));
        assert_eq!(judgement.verdict(), Verdict::Accept);
        let told = taken(&heard);
        let told: Vec<&str> =
            told.iter().map(String::as_str).filter(|one| *one != "reset").collect();
        assert_eq!(told[..5], WHOLE, "{steps:?}");
        assert_eq!(told[5..], ["message from a@x.test: A: 1\r\n\r\nb\r\n"], "{steps:?}");
    }
}

#[test]
fn another_worker_tells_its_filters_all_of_it() {
    let (filter, heard) = filter(|_| fine());
    let chain = Chain::of(vec![(filter, Steps::ALL, OnFailure::Tempfail)]);
    let at = |recipients: &[&str], given| session(Some("h"), Some("a@x.test"), recipients, given);
    // The first that it hears of the session is a recipient.
    let mut looks = chain.open();
    looks.enter(7);
    chain.hear(&mut looks, Step::Recipient, at(&["b", "c"], 1));
    assert_eq!(taken(&heard), WHOLE);
    chain.judge(&mut looks, at(&["b", "c"], 0));
    assert_eq!(taken(&heard).len(), 1);
    // One that remembers other recipients than were accepted begins anew.
    chain.hear(&mut looks, Step::Recipient, at(&["b", "c", "d", "e"], 1));
    assert_eq!(taken(&heard)[..2], ["open", "connect"]);
    // As many, but not the same.
    chain.judge(&mut looks, at(&["b", "c", "d", "x"], 0));
    assert_eq!(taken(&heard)[..2], ["open", "connect"]);
}

/// Attack A29: what a filter kept of a message, or of one that was given up, says nothing of the next.
#[test]
fn a29_nothing_of_one_transaction_counts_for_the_next() {
    let script = |what: &str| match what {
        "mail bad@x.test" => Ok(Finding::from(Verdict::Discard)),
        "to 0:bad" => Ok(Finding { recipients: vec![(0, Verdict::Discard)], ..Finding::default() }),
        _ => fine(),
    };
    let (filter, heard) = filter(script);
    let chain = Chain::of(vec![(filter, Steps::ALL, OnFailure::Tempfail)]);
    let mut looks = chain.open();
    let at = |sender: &str, recipients: &[&str], given| {
        session(Some("h"), Some(sender), recipients, given)
    };
    // Said early, it takes effect with the message; what is to be discarded goes on as if nothing were.
    looks.enter(1);
    assert_eq!(
        chain.hear(&mut looks, Step::Mail, at("bad@x.test", &[], 0)).verdict(),
        Verdict::Accept
    );
    let (judgement, _) = chain.judge(&mut looks, at("bad@x.test", &["b"], 0));
    assert_eq!(judgement.verdict(), Verdict::Discard);
    // The next message of the session, and one after RSET, are others.
    looks.reset();
    looks.enter(2);
    chain.hear(&mut looks, Step::Mail, at("good@x.test", &[], 0));
    let (judgement, _) = chain.judge(&mut looks, at("good@x.test", &["b"], 0));
    assert_eq!((judgement.verdict(), judgement.recipients().len()), (Verdict::Accept, 0));
    looks.enter(3);
    chain.hear(&mut looks, Step::Mail, at("bad@x.test", &[], 0));
    looks.enter(4);
    chain.hear(&mut looks, Step::Mail, at("good@x.test", &[], 0));
    chain.hear(&mut looks, Step::Recipient, at("good@x.test", &["bad"], 1));
    looks.enter(5);
    chain.hear(&mut looks, Step::Mail, at("fine@x.test", &[], 0));
    heard.borrow_mut().clear();
    let (judgement, _) = chain.judge(&mut looks, at("fine@x.test", &["b"], 0));
    assert_eq!((judgement.verdict(), judgement.recipients().len()), (Verdict::Accept, 0));
    let last = taken(&heard).pop().expect("it heard of the message");
    assert!(last.starts_with("message from fine@x.test: "), "{last}");
}

#[test]
fn a_recipient_that_one_refuses_is_not_shown_to_the_next() {
    let (first, _) = filter(|what| match what {
        "to 1:c 2:bad 3:trap 4:d" => Ok(Finding {
            recipients: vec![(2, reject()), (3, Verdict::Discard)],
            ..Finding::default()
        }),
        _ => fine(),
    });
    let (second, heard) = filter(|what| match what {
        "to 1:c 2:trap 3:d" => {
            Ok(Finding { recipients: vec![(3, reject())], ..Finding::default() })
        }
        _ => fine(),
    });
    let chain = Chain::of(vec![
        (first, Steps::ALL, OnFailure::Tempfail),
        (second, Steps::ALL, OnFailure::Tempfail),
    ]);
    let mut looks = chain.open();
    let at = |recipients: &[&str], given| session(Some("h"), Some("a@x.test"), recipients, given);
    chain.hear(&mut looks, Step::Recipient, at(&["b"], 1));
    let said = chain.hear(&mut looks, Step::Recipient, at(&["b", "c", "bad", "trap", "d"], 4));
    assert_eq!(said.recipients(), [(2, reject()), (4, reject())]);
    heard.borrow_mut().clear();
    // What was said of the others holds at their new places, and nobody is told anything twice.
    let (judgement, _) = chain.judge(&mut looks, at(&["b", "c", "trap"], 0));
    assert_eq!(judgement.recipients(), [(2, Verdict::Discard)]);
    assert_eq!(taken(&heard).len(), 1);
    // One verdict for a step is one for each that is new.
    let (all, _) = filter(|what| match what {
        "to 1:c 2:d" => Ok(Finding::from(reject())),
        _ => fine(),
    });
    let chain = Chain::of(vec![(all, Steps::ALL, OnFailure::Tempfail)]);
    let mut looks = chain.open();
    chain.hear(&mut looks, Step::Recipient, at(&["b"], 1));
    let said = chain.hear(&mut looks, Step::Recipient, at(&["b", "c", "d"], 2));
    assert_eq!(said.recipients(), [(1, reject()), (2, reject())]);
    assert_eq!(said.verdict(), Verdict::Accept);
}

#[test]
fn each_sees_the_changes_of_those_before() {
    let (first, _) = filter(|what| match what.starts_with("message") {
        true => Ok(Finding {
            edits: vec![Edit::Prepend { name: "X-First".to_owned(), value: "1".to_owned() }],
            body: Some(b"new\n".to_vec()),
            ..Finding::default()
        }),
        false => fine(),
    });
    let (second, heard) = filter(|what| match what.starts_with("message") {
        true => Ok(Finding {
            edits: vec![Edit::Change { name: "X-First".to_owned(), nth: 1, value: None }],
            ..Finding::default()
        }),
        false => fine(),
    });
    let chain = Chain::of(vec![
        (first, Steps::NONE, OnFailure::Tempfail),
        (second, Steps::NONE, OnFailure::Tempfail),
    ]);
    let (_, left) = chain.judge(&mut chain.open(), session(None, Some("a@x.test"), &["b"], 0));
    assert_eq!(
        taken(&heard).pop().expect("heard"),
        "message from a@x.test: X-First: 1\r\nA: 1\r\n\r\nnew\r\n"
    );
    assert_eq!(&left.whole()[..], b"A: 1\r\n\r\nnew\r\n");
    assert_eq!(left.edits().len(), 2);
}

/// Failures at each step, by each rule: what the client hears at the step, and what becomes of its message.
#[test]
fn failures_at_each_step_follow_their_rule() {
    let steps = [
        ("connect", Step::Connect),
        ("helo h", Step::Helo),
        ("mail a@x.test", Step::Mail),
        ("to 0:b", Step::Recipient),
        ("message from", Step::Message),
    ];
    for (at, failing) in steps {
        for rule in [OnFailure::Tempfail, OnFailure::Accept, OnFailure::Quarantine] {
            let (filter, _) = filter(move |what| match what.starts_with(at) {
                true => Err(FilterError::Lost("it died".to_owned())),
                false => fine(),
            });
            let chain = Chain::of(vec![(filter, Steps::ALL, rule)]);
            let mut looks = chain.open();
            let mut heard = Vec::new();
            for (step, session) in [
                (Step::Connect, session(None, None, &[], 0)),
                (Step::Helo, session(Some("h"), None, &[], 0)),
                (Step::Mail, session(Some("h"), Some("a@x.test"), &[], 0)),
                (Step::Recipient, session(Some("h"), Some("a@x.test"), &["b"], 1)),
            ] {
                looks.enter(u64::from(step == Step::Mail || step == Step::Recipient));
                let said = chain.hear(&mut looks, step, session);
                heard.push(said.verdict() != Verdict::Accept || !said.recipients().is_empty());
            }
            let whole = session(Some("h"), Some("a@x.test"), &["b"], 0);
            let (judgement, _) = chain.judge(&mut looks, whole);
            let says_later = |step: Step| match failing {
                // There is nothing to put off before MAIL.
                Step::Connect | Step::Helo => step == Step::Mail || step == Step::Recipient,
                Step::Mail => step == Step::Mail || step == Step::Recipient,
                Step::Recipient => step == Step::Recipient,
                _ => false,
            };
            let expected: Vec<bool> = [Step::Connect, Step::Helo, Step::Mail, Step::Recipient]
                .map(|step| rule == OnFailure::Tempfail && says_later(step))
                .to_vec();
            assert_eq!(heard, expected, "{failing:?} {rule:?}");
            let verdict = judgement.verdict();
            match rule {
                OnFailure::Tempfail => assert!(matches!(verdict, Verdict::Tempfail(_))),
                OnFailure::Accept => assert_eq!(verdict, Verdict::Accept),
                OnFailure::Quarantine => assert!(matches!(verdict, Verdict::Quarantine { .. })),
            }
        }
    }
}

#[test]
fn a_filter_that_fails_on_and_on_is_left_out_by_its_rule() {
    let (failing, heard) = filter(|_| Err(FilterError::Unreachable("nobody there".to_owned())));
    let chain = Chain::of(vec![(failing, Steps::NONE, OnFailure::Tempfail)]);
    let whole = || session(None, Some("a@x.test"), &["b"], 0);
    for _ in 0..crate::breaker::FAILURES_MAX {
        assert_eq!(chain.left_out(), None);
        chain.judge(&mut chain.open(), whole());
    }
    let told = chain.left_out().expect("one is left out");
    assert_eq!(told, "left out after failures: filters[0] (on_failure tempfail)");
    heard.borrow_mut().clear();
    let (judgement, _) = chain.judge(&mut chain.open(), whole());
    assert!(matches!(judgement.verdict(), Verdict::Tempfail(_)), "left out is not let through");
    assert!(heard.borrow().is_empty(), "it is not asked");
    // What is wrong with messages is not the filter's fault.
    let (strict, _) = filter(|_| Err(FilterError::Message("too complex".to_owned())));
    let chain = Chain::of(vec![(strict, Steps::NONE, OnFailure::Tempfail)]);
    for _ in 0..2 * crate::breaker::FAILURES_MAX {
        chain.judge(&mut chain.open(), whole());
    }
    assert_eq!(chain.left_out(), None);
}

#[test]
fn a_filter_that_fails_at_messages_alone_is_left_out_too() {
    let dies = Rc::new(std::cell::Cell::new(true));
    let now = Rc::clone(&dies);
    let (failing, heard) = filter(move |what| match what.starts_with("message") && now.get() {
        true => Err(FilterError::Lost("it died".to_owned())),
        false => fine(),
    });
    let mut chain = Chain::of(vec![(failing, Steps::ALL, OnFailure::Tempfail)]);
    let left_out = std::time::Duration::ZERO;
    chain.filters[0].breaker = RefCell::new(Breaker::new(left_out));
    let mail = |looks: &mut Looks| {
        chain.hear(looks, Step::Connect, session(Some("c.test"), None, &[], 0));
        let whole = || session(Some("c.test"), Some("a@x.test"), &["b"], 1);
        chain.hear(looks, Step::Recipient, whole());
        chain.judge(looks, whole()).0.verdict()
    };
    for _ in 0..crate::breaker::FAILURES_MAX {
        assert_eq!(chain.left_out(), None);
        assert!(matches!(mail(&mut chain.open()), Verdict::Tempfail(_)));
    }
    assert!(chain.left_out().is_some(), "that it hears of recipients makes nothing good");
    dies.set(false);
    heard.borrow_mut().clear();
    assert_eq!(mail(&mut chain.open()), Verdict::Accept, "who tries it may go on to the message");
    assert_eq!(chain.left_out(), None);
}
