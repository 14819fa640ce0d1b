//! Jobs into Maildirs in a directory of their own.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mail::{BodyType, Envelope, MessageId, Origin, Timestamp};
use queue::{Accept, Accepted, Body, Handle, Stored};
use tempfile::TempDir;

use super::*;
use crate::Settings;

const MESSAGE: &str = "Return-Path: <old@example.org>\r\nSubject: Lunch\r\n\r\nAt noon?\r\n";

/// A store of messages by handle.
#[derive(Default)]
struct Shelf {
    bodies: HashMap<String, Vec<u8>>,
    /// A read after so many pieces fails.
    breaks_after: Option<usize>,
}

struct Pieces {
    size: u64,
    pieces: std::vec::IntoIter<Bytes>,
    breaks_after: Option<usize>,
}

impl Reader for Shelf {
    fn open(&self, handle: &Handle) -> Local<'_, Result<Stored, ReadError>> {
        let found = self.bodies.get(handle.as_str()).map(|text| {
            let pieces: Vec<Bytes> = text.chunks(100_000).map(Bytes::copy_from_slice).collect();
            let body = Pieces {
                size: text.len() as u64,
                pieces: pieces.into_iter(),
                breaks_after: self.breaks_after,
            };
            Stored { accepted: accepted(text.len() as u64), body: Box::new(body) }
        });
        let gone = ReadError::Gone(handle.clone(), "not on the shelf".into());
        Box::pin(async { found.ok_or(gone) })
    }

    fn open_draft(&self, handle: &Handle) -> Local<'_, Result<Box<dyn Body>, ReadError>> {
        let gone = ReadError::Gone(handle.clone(), "not on the shelf".into());
        Box::pin(async { Err(gone) })
    }
}

impl Body for Pieces {
    fn size(&self) -> u64 {
        self.size
    }

    fn next(&mut self) -> Local<'_, Result<Option<Bytes>, ReadError>> {
        let broken = self.breaks_after == Some(0);
        self.breaks_after = self.breaks_after.map(|pieces| pieces.saturating_sub(1));
        let piece = self.pieces.next();
        Box::pin(async move {
            if broken {
                let handle = "shelf:1".parse().unwrap();
                return Err(ReadError::Gone(handle, "damaged".into()));
            }
            Ok(piece)
        })
    }
}

fn accepted(size: u64) -> Accepted {
    let envelope = Envelope {
        sender: None,
        recipients: Vec::new(),
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
    };
    let accept = Accept {
        envelope,
        origin: Origin::default(),
        accepted_at: Timestamp::default(),
        edits: Vec::new(),
        hold: None,
        replaced_body: None,
    };
    Accepted { id: id(), size, accept }
}

fn id() -> MessageId {
    MessageId::new(Timestamp::from_millis(1_795_455_753_120), 7)
}

fn request(size: usize, recipients: &[(&str, &str)]) -> DeliverRequest {
    DeliverRequest {
        handle: "shelf:1".parse().unwrap(),
        id: id(),
        sender: Some("ada@example.org".parse().unwrap()),
        size: size as u64,
        accepted_at: Timestamp::from_millis(1_795_455_753_120),
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        host: String::new(),
        attempt: 1,
        routing: 1,
        settled: None,
        recipients: recipients
            .iter()
            .enumerate()
            .map(|(index, (address, user))| DeliverRecipient {
                index: index as u32,
                address: address.parse().unwrap(),
                original: None,
                user: (*user).to_owned(),
                notify: None,
                orcpt: None,
                outcome: None,
            })
            .collect(),
        report: None,
    }
}

struct Setup {
    data_dir: TempDir,
    agent: Rc<LocalAgent>,
    counts: Rc<RefCell<HashMap<usize, u64>>>,
}

impl Setup {
    fn new(message: &[u8]) -> Self {
        Self::with(Shelf {
            bodies: [("shelf:1".into(), message.to_vec())].into(),
            breaks_after: None,
        })
    }

    fn with(shelf: Shelf) -> Self {
        let data_dir = TempDir::new().unwrap();
        let assignment = Assignment {
            settings: Settings::default(),
            hostname: "mta.example.test".into(),
            data_dir: data_dir.path().to_owned(),
            channel: "local".into(),
        };
        let counts: Rc<RefCell<HashMap<usize, u64>>> = Rc::default();
        let counted = Rc::clone(&counts);
        let counters = Counters::for_test(move |counter, add| {
            *counted.borrow_mut().entry(counter).or_default() += add;
        });
        let agent = LocalAgent::new(&assignment, Rc::new(shelf), counters).unwrap();
        Self { data_dir, agent: Rc::new(agent), counts }
    }

    fn path(&self, below: &str) -> std::path::PathBuf {
        self.data_dir.path().join(below)
    }

    fn files(&self, below: &str) -> Vec<String> {
        names(&self.path(below))
    }

    async fn deliver(&self, request: DeliverRequest, gate: Gate) -> Vec<String> {
        let answer = Rc::clone(&self.agent).deliver(Job { request, gate }).await;
        answer.outcomes.into_iter().map(|outcome| said(&outcome.outcome)).collect()
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn said(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Delivered(delivered) => {
            assert_eq!(delivered.report, SuccessReport::Final);
            format!("delivered {}", delivered.reply.text)
        }
        Outcome::Deferred(reply) => format!("deferred {}", reply.status),
        Outcome::Failed(reply) => format!("failed {}", reply.status),
    }
}

fn run(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build_local(Default::default()).unwrap().block_on(test);
}

#[test]
fn a_message_is_filed_whole() {
    run(async {
        let setup = Setup::new(MESSAGE.as_bytes());
        let mut request = request(MESSAGE.len(), &[("Ada+box@Example.Test", "ada")]);
        request.recipients[0].original = Some("alias@example.test".parse().unwrap());
        let said = setup.deliver(request, Gate::open_for_test()).await;
        assert_eq!(said, ["delivered delivered to the mailbox"]);
        let name = format!("1795455753.{}_0.mta.example.test", id());
        assert_eq!(setup.files("mail/example.test/ada/new"), std::slice::from_ref(&name));
        assert!(setup.files("mail/example.test/ada/tmp").is_empty());
        let path = setup.path("mail/example.test/ada/new").join(name);
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "Return-Path: <ada@example.org>\nX-Original-To: alias@example.test\nDelivered-To: Ada+box@Example.Test\nSubject: Lunch\n\nAt noon?\n"
        );
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(&setup.path("mail/example.test/ada")), 0o700);
        assert_eq!(mode(&setup.path("mail/example.test/ada/cur")), 0o700);
    });
}

#[test]
fn a_repeated_job_leaves_one_copy() {
    run(async {
        let setup = Setup::new(MESSAGE.as_bytes());
        let again = || request(MESSAGE.len(), &[("ada@example.test", "ada")]);
        setup.deliver(again(), Gate::open_for_test()).await;
        let said = setup.deliver(again(), Gate::open_for_test()).await;
        assert_eq!(said, ["delivered was in the mailbox already"]);
        let names = setup.files("mail/example.test/ada/new");
        assert_eq!(names.len(), 1);
        let (new, cur) =
            (setup.path("mail/example.test/ada/new"), setup.path("mail/example.test/ada/cur"));
        fs::rename(new.join(&names[0]), cur.join(format!("{}:2,S", names[0]))).unwrap();
        let said = setup.deliver(again(), Gate::open_for_test()).await;
        assert_eq!(said, ["delivered was in the mailbox already"]);
        assert!(setup.files("mail/example.test/ada/new").is_empty());
        assert!(setup.files("mail/example.test/ada/tmp").is_empty());
        assert_eq!(setup.counts.borrow().get(&counter::REPEATED), Some(&2));
    });
}

#[test]
fn many_recipients_share_syncs_and_fail_alone() {
    run(async {
        let looping = format!("Delivered-To: LOOP@example.test\r\n{MESSAGE}");
        let setup = Setup::new(looping.as_bytes());
        let mut recipients = vec![("loop@example.test", "loop")];
        recipients.extend([("ada@example.test", "ada"); 40]);
        let said = setup.deliver(request(looping.len(), &recipients), Gate::open_for_test()).await;
        assert_eq!(said[0], "failed 5.4.6");
        assert!(said[1..].iter().all(|said| said.starts_with("delivered")), "{said:?}");
        assert_eq!(setup.files("mail/example.test/ada/new").len(), 40);
        assert!(!setup.path("mail/example.test/loop").try_exists().unwrap());
        let counts = setup.counts.borrow();
        assert_eq!((counts[&0], counts.get(&1), counts[&2]), (40, None, 1));
        assert!(counts[&counter::SYNCS] < 40, "{counts:?}");
    });
}

#[test]
fn a_closed_gate_leaves_nothing() {
    run(async {
        let setup = Setup::new(MESSAGE.as_bytes());
        let request = request(MESSAGE.len(), &[("ada@example.test", "ada")]);
        let said = setup.deliver(request, Gate::closed_for_test()).await;
        assert_eq!(said, ["deferred 4.3.2"]);
        assert!(setup.files("mail/example.test/ada/new").is_empty());
        assert!(setup.files("mail/example.test/ada/tmp").is_empty());
    });
}

#[test]
fn a_large_message_is_filed_in_pieces() {
    run(async {
        let body = "A line of a large message.\r\n".repeat(100_000);
        let message = format!("Subject: large\r\n\r\n{body}");
        let setup = Setup::new(message.as_bytes());
        let recipients = [("ada@example.test", "ada"), ("brian@example.test", "brian@example.org")];
        let said = setup.deliver(request(message.len(), &recipients), Gate::open_for_test()).await;
        assert!(said.iter().all(|said| said.starts_with("delivered")), "{said:?}");
        for maildir in ["mail/example.test/ada", "mail/example.org/brian"] {
            let names = setup.files(&format!("{maildir}/new"));
            let text = fs::read_to_string(setup.path(maildir).join("new").join(&names[0])).unwrap();
            assert!(text.starts_with("Return-Path: <ada@example.org>\nDelivered-To: "));
            assert!(text.ends_with(&message.replace("\r\n", "\n")));
        }
    });
}

#[test]
fn a_message_that_cannot_be_read_is_deferred() {
    run(async {
        let large = vec![b'x'; HELD_BYTES_MAX + 1];
        for (size, breaks_after) in [(MESSAGE.len(), 0), (large.len(), 5)] {
            let bodies = [("shelf:1".to_owned(), large.clone())].into();
            let setup = Setup::with(Shelf { bodies, breaks_after: Some(breaks_after) });
            let request = request(size, &[("ada@example.test", "ada")]);
            assert_eq!(setup.deliver(request, Gate::open_for_test()).await, ["deferred 4.3.0"]);
            if setup.path("mail").try_exists().unwrap() {
                assert!(setup.files("mail/example.test/ada/tmp").is_empty());
                assert!(setup.files("mail/example.test/ada/new").is_empty());
            }
        }
        let setup = Setup::with(Shelf::default());
        let request = request(10, &[("ada@example.test", "ada"), ("b@example.test", "b")]);
        let said = setup.deliver(request, Gate::open_for_test()).await;
        assert_eq!(said, ["deferred 4.3.0", "deferred 4.3.0"]);
    });
}

#[test]
fn a_mailbox_that_cannot_be_written_is_deferred() {
    run(async {
        let setup = Setup::new(MESSAGE.as_bytes());
        fs::create_dir_all(setup.path("mail/example.test")).unwrap();
        fs::write(setup.path("mail/example.test/ada"), "a file in its place").unwrap();
        let request =
            request(MESSAGE.len(), &[("ada@example.test", "ada"), ("b@example.test", "b")]);
        let said = setup.deliver(request, Gate::open_for_test()).await;
        assert_eq!(said, ["deferred 4.2.0", "delivered delivered to the mailbox"]);
    });
}

#[test]
fn a_message_without_header_gets_an_empty_line() {
    run(async {
        let setup = Setup::new(b"no header\r\n");
        setup.deliver(request(11, &[("Postmaster", "postmaster")]), Gate::open_for_test()).await;
        let new = setup.path("mail/mta.example.test/postmaster/new");
        let text = fs::read_to_string(new.join(&names(&new)[0])).unwrap();
        assert_eq!(text, "Return-Path: <ada@example.org>\nDelivered-To: Postmaster\n\nno header\n");
    });
}

#[test]
fn quotes_are_no_part_of_a_name() {
    for (local, name) in
        [("ada", "ada"), ("\"ada\"", "ada"), ("\"a \\\" b\"", "a \" b"), ("\"", "\"")]
    {
        assert_eq!(unquoted(local), name);
    }
}

#[test]
fn what_a_file_system_refuses_has_a_status() {
    // The numbers are Linux's: ENOSPC, EDQUOT, EACCES, EROFS, EIO.
    for (error, status) in [(28, (3, 1)), (122, (2, 2)), (13, (2, 0)), (30, (3, 0)), (5, (2, 0))] {
        let (subject, detail, _) = disk_words(io::Error::from_raw_os_error(error).kind());
        assert_eq!((subject, detail), status, "error {error}");
    }
}
