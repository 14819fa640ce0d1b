//! Reports committed to a store in memory.

use std::cell::RefCell;
use std::collections::HashMap;

use agent::Gate;
use bytes::Bytes;
use config::ByteSize;
use job::deliver::{DeliverRecipient, Report as Asked};
use mail::BodyType;
use queue::{Accepted, Body, Draft, Stored};

use super::*;

const MESSAGE: &str = "From: ada@example.test\r\nSubject: Lunch\r\n\r\nAt noon?\r\n";

/// What was committed: bodies and accept records.
type Committed = Rc<RefCell<Vec<(Vec<u8>, Accept)>>>;

/// A store in memory: one message to read, and what was committed.
#[derive(Default)]
struct Store {
    message: Option<Vec<u8>>,
    read_fails: bool,
    begin: Option<IntakeError>,
    commit: Option<IntakeError>,
    committed: Committed,
}

struct Page {
    bytes: Vec<u8>,
    refuses: Option<IntakeError>,
    committed: Committed,
}

struct Piece(u64, Option<Bytes>);

impl Body for Piece {
    fn size(&self) -> u64 {
        self.0
    }

    fn next(&mut self) -> Local<'_, Result<Option<Bytes>, ReadError>> {
        let piece = self.1.take();
        Box::pin(async { Ok(piece) })
    }
}

impl Reader for Store {
    fn open(&self, handle: &Handle) -> Local<'_, Result<Stored, ReadError>> {
        let gone = ReadError::Gone(handle.clone(), "not there".into());
        let io = ReadError::Io {
            context: "reading".into(),
            source: std::sync::Arc::new(std::io::Error::other("broken disk")),
        };
        let found = self.message.clone().map(|message| Stored {
            accepted: Accepted {
                id: id(),
                size: message.len() as u64,
                accept: Accept {
                    envelope: envelope(
                        &sender(),
                        &Written { message: Vec::new(), body: BodyType::SevenBit, smtputf8: false },
                    ),
                    origin: Origin::default(),
                    accepted_at: Timestamp::default(),
                    edits: Vec::new(),
                    hold: None,
                    replaced_body: None,
                },
            },
            body: Box::new(Piece(message.len() as u64, Some(message.into()))),
        });
        let result = if self.read_fails { Err(io) } else { found.ok_or(gone) };
        Box::pin(async { result })
    }

    fn open_draft(&self, handle: &Handle) -> Local<'_, Result<Box<dyn Body>, ReadError>> {
        let gone = ReadError::Gone(handle.clone(), "not there".into());
        Box::pin(async { Err(gone) })
    }
}

impl Intake for Store {
    fn begin(&self, _: SizeHint) -> Result<Box<dyn Draft>, IntakeError> {
        match &self.begin {
            Some(error) => Err(error.clone()),
            None => Ok(Box::new(Page {
                bytes: Vec::new(),
                refuses: self.commit.clone(),
                committed: Rc::clone(&self.committed),
            })),
        }
    }

    fn begin_as(&self, _: MessageId, hint: SizeHint) -> Result<Box<dyn Draft>, IntakeError> {
        self.begin(hint)
    }
}

impl Draft for Page {
    fn id(&self) -> MessageId {
        MessageId::new(Timestamp::from_millis(2), 2)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn room(&mut self) -> Local<'_, Result<(), IntakeError>> {
        Box::pin(async { Ok(()) })
    }

    fn finish(&mut self) -> Local<'_, Result<Handle, IntakeError>> {
        Box::pin(async { Err(IntakeError::Closed) })
    }

    fn commit(self: Box<Self>, accept: Accept) -> Local<'static, Result<Handle, IntakeError>> {
        Box::pin(async move {
            match self.refuses {
                Some(error) => Err(error),
                None => {
                    self.committed.borrow_mut().push((self.bytes, accept));
                    Ok("store:report".parse().unwrap())
                }
            }
        })
    }
}

fn id() -> MessageId {
    MessageId::new(Timestamp::from_millis(1), 1)
}

fn sender() -> Address {
    "ada@example.test".parse().unwrap()
}

fn request(kind: ReportKind) -> DeliverRequest {
    let failed = Outcome::Failed(Reply {
        status: StatusCode::new(5, 1, 1),
        text: "550 5.1.1 no such user".into(),
        remote: Some("mx.example.org".into()),
    });
    DeliverRequest {
        handle: "store:1".parse().unwrap(),
        id: id(),
        sender: Some(sender()),
        size: MESSAGE.len() as u64,
        accepted_at: Timestamp::from_millis(1_795_455_753_120),
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        host: String::new(),
        attempt: 1,
        routing: 1,
        settled: None,
        recipients: vec![DeliverRecipient {
            index: 3,
            address: "brian@example.org".parse().unwrap(),
            original: None,
            user: String::new(),
            notify: None,
            orcpt: None,
            outcome: Some(failed),
        }],
        report: Some(Asked { kind, will_retry_until: None }),
    }
}

/// What came of a job: the outcome, the committed messages, the hints, the counters.
struct Came {
    outcome: Outcome,
    committed: Vec<(Vec<u8>, Accept)>,
    hints: Vec<RouteRequest>,
    counts: HashMap<usize, u64>,
}

impl Came {
    fn text(&self) -> String {
        String::from_utf8(self.committed[0].0.clone()).unwrap()
    }
}

fn deliver(store: Store, settings: Settings, request: DeliverRequest, gate: Gate) -> Came {
    let committed = Rc::clone(&store.committed);
    let (hints, counts) =
        (Rc::new(RefCell::new(Vec::new())), Rc::new(RefCell::new(HashMap::new())));
    let (hinted, counted) = (Rc::clone(&hints), Rc::clone(&counts));
    let assignment =
        Assignment { settings, hostname: "mta.example.test".into(), channel: "error".into() };
    let store = Rc::new(store);
    let agent = Rc::new(ErrorAgent::new(
        &assignment,
        Rc::<Store>::clone(&store),
        store,
        move |request| hinted.borrow_mut().push(request),
        Counters::for_test(move |counter, add| {
            *counted.borrow_mut().entry(counter).or_default() += add
        }),
    ));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let answer = runtime.block_on(agent.deliver(Job { request, gate }));
    assert_eq!((answer.outcomes.len(), answer.outcomes[0].index), (1, 3));
    Came {
        outcome: answer.outcomes[0].outcome.clone(),
        committed: committed.take(),
        hints: hints.take(),
        counts: counts.take(),
    }
}

fn store() -> Store {
    Store { message: Some(MESSAGE.into()), ..Store::default() }
}

#[test]
fn a_report_becomes_a_message() {
    let came =
        deliver(store(), Settings::default(), request(ReportKind::Failure), Gate::open_for_test());
    assert!(matches!(came.outcome, Outcome::Delivered(_)));
    let accept = &came.committed[0].1;
    assert_eq!(accept.envelope.sender, None);
    assert_eq!(accept.envelope.recipients.len(), 1);
    assert_eq!(accept.envelope.recipients[0].address, sender());
    assert_eq!(accept.envelope.recipients[0].notify, Some(Notify::NEVER));
    assert_eq!(accept.origin.service, "report");
    let text = came.text();
    assert!(text.contains("\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user\r\n"), "{text}");
    assert!(text.contains("\r\n\r\nAt noon?\r\n"), "{text}");
    let [hint] = came.hints.as_slice() else { panic!("one hint, not {}", came.hints.len()) };
    assert_eq!((hint.handle.as_str(), hint.routing), ("store:report", 1));
    assert_eq!(hint.facts.as_ref().map(|facts| facts.size), Some(text.len() as u64));
    assert_eq!(hint.facts.as_ref().map(|facts| &facts.envelope), Some(&accept.envelope));
    assert_eq!(came.counts, [(counter::OUTCOMES, 1), (counter::FAILURE, 1)].into());
}

#[test]
fn what_is_returned_follows_ret_and_size() {
    let small = Settings { return_bytes_max: ByteSize(10), ..Settings::default() };
    let tiny = Settings { return_full_bytes_max: ByteSize(10), ..Settings::default() };
    for (kind, ret, settings, whole) in [
        (ReportKind::Failure, None, Settings::default(), true),
        (ReportKind::Failure, None, small.clone(), false),
        (ReportKind::Failure, Some(Ret::Full), small, true),
        (ReportKind::Failure, Some(Ret::Full), tiny, false),
        (ReportKind::Failure, Some(Ret::Hdrs), Settings::default(), false),
        (ReportKind::Delay, Some(Ret::Full), Settings::default(), false),
        (ReportKind::Success, None, Settings::default(), false),
    ] {
        let request = DeliverRequest { ret, ..request(kind) };
        let text = deliver(store(), settings, request, Gate::open_for_test()).text();
        assert_eq!(text.contains("At noon?"), whole, "{kind:?} {ret:?}");
        assert!(text.contains("\r\nSubject: Lunch\r\n"), "{kind:?} {ret:?}");
    }
}

#[test]
fn a_message_that_is_gone_is_reported_without_it() {
    let came = deliver(
        Store::default(),
        Settings::default(),
        request(ReportKind::Failure),
        Gate::open_for_test(),
    );
    assert!(matches!(came.outcome, Outcome::Delivered(_)));
    assert!(came.text().contains("cannot be attached"));
    assert!(!came.text().contains("rfc822-headers"));
}

#[test]
fn what_cannot_be_committed_is_deferred() {
    let full = || Some(IntakeError::Full("0 bytes free".into()));
    for (store, gate, status) in [
        (Store { begin: full(), ..store() }, Gate::open_for_test(), "4.3.1"),
        (Store { commit: Some(IntakeError::Busy), ..store() }, Gate::open_for_test(), "4.3.2"),
        (Store { commit: Some(IntakeError::Closed), ..store() }, Gate::open_for_test(), "4.3.0"),
        (Store { read_fails: true, ..store() }, Gate::open_for_test(), "4.3.0"),
        (store(), Gate::closed_for_test(), "4.3.2"),
    ] {
        let came = deliver(store, Settings::default(), request(ReportKind::Failure), gate);
        let Outcome::Deferred(reply) = &came.outcome else { panic!("{:?}", came.outcome) };
        assert_eq!(reply.status.to_string(), status);
        assert!(came.committed.is_empty() && came.hints.is_empty());
    }
}

#[test]
fn a_report_is_never_reported_on() {
    let request = DeliverRequest { sender: None, ..request(ReportKind::Failure) };
    let came = deliver(store(), Settings::default(), request, Gate::open_for_test());
    assert!(matches!(came.outcome, Outcome::Delivered(_)));
    assert!(came.committed.is_empty() && came.hints.is_empty());
    assert_eq!(came.counts.get(&counter::DOUBLE_BOUNCE), Some(&1));
}

#[test]
fn mail_for_this_channel_is_refused_in_the_words_of_its_host() {
    let request = DeliverRequest {
        report: None,
        host: "5.1.6 moved away".into(),
        ..request(ReportKind::Failure)
    };
    let came = deliver(store(), Settings::default(), request, Gate::open_for_test());
    assert_eq!(came.outcome, Outcome::Failed(Reply::ours(StatusCode::new(5, 1, 6), "moved away")));
    assert!(came.committed.is_empty());
}
