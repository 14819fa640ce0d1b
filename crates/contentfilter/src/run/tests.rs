//! Reading drafts, within limits.

mod bodies;

use job::inspect::Heard;
use mail::Timestamp;
use queue::{Body, Handle, Local, Stored};

use super::*;
use crate::chain::Chain;

/// A store whose drafts come in pieces.
struct Store {
    pieces: Vec<&'static str>,
    end: End,
}

/// What stands behind the last piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Whole,
    Torn,
    /// Nothing comes for ever.
    Stuck,
}

struct Pieces {
    pieces: std::vec::IntoIter<&'static str>,
    end: End,
}

impl Reader for Store {
    fn open(&self, handle: &Handle) -> Local<'_, Result<Stored, ReadError>> {
        let error = ReadError::Foreign(handle.clone());
        Box::pin(async { Err(error) })
    }

    fn open_draft(&self, _: &Handle) -> Local<'_, Result<Box<dyn Body>, ReadError>> {
        let body = Pieces { pieces: self.pieces.clone().into_iter(), end: self.end };
        Box::pin(async { Ok(Box::new(body) as Box<dyn Body>) })
    }
}

impl Body for Pieces {
    fn size(&self) -> u64 {
        // What a store says of a size is not what memory is reserved by.
        u64::MAX
    }

    fn next(&mut self) -> Local<'_, Result<Option<Bytes>, ReadError>> {
        Box::pin(async {
            match (self.pieces.next(), self.end) {
                (Some(piece), _) => Ok(Some(Bytes::from_static(piece.as_bytes()))),
                (None, End::Whole) => Ok(None),
                (None, End::Torn) => Err(ReadError::Gone(draft(8).handle, "torn".to_owned())),
                (None, End::Stuck) => std::future::pending().await,
            }
        })
    }
}

fn draft(size: u64) -> DraftFacts {
    DraftFacts {
        handle: Handle::parse("memory:1").expect("well-formed"),
        id: MessageId::new(Timestamp::from_millis(1), 2),
        size,
        stored: false,
    }
}

#[test]
fn reads_a_draft_that_is_as_long_as_it_is_said_to_be() {
    run_in_time(async {
        for (size, pieces, end, expected) in [
            (6, vec!["abc", "", "def"], End::Whole, Some("abcdef")),
            (6, vec!["abcdef"], End::Whole, Some("abcdef")),
            (5, vec!["abc", "", "def"], End::Whole, None),
            (7, vec!["abc", "", "def"], End::Whole, None),
            (3, vec!["abc", "def"], End::Whole, None),
            (4, vec!["abc"], End::Whole, None),
            (3, vec!["", "abc"], End::Whole, Some("abc")),
            (6, vec!["abc", "", "def"], End::Torn, None),
            (0, vec![], End::Whole, Some("")),
        ] {
            let store = Store { pieces, end };
            let content = read(&store, &draft(size)).await;
            let content =
                content.ok().map(|bytes| String::from_utf8(bytes.0.to_vec()).expect("text"));
            assert_eq!(content.as_deref(), expected, "{size}");
        }
    });
}

fn inspector(on_failure: &str, end: End) -> Inspector {
    let text = format!("[[filters]]\nbody = 'def'\naction = 'reject'\non_failure = '{on_failure}'");
    let settings: crate::Settings = toml::from_str(&text).expect("settings");
    let chain = Chain::new(&settings, "mx.test", &dns::Settings::default()).expect("filters");
    let store = Rc::new(Store { pieces: vec!["\r\n", "abcdef"], end });
    let intake = Box::new(|| Box::pin(async { Err("no intake here".to_owned()) }) as Local<'_, _>);
    Inspector::new(chain, store, intake, &settings)
}

fn request() -> InspectRequest {
    InspectRequest {
        session: "smtpserver/1-1-1".to_owned(),
        step: Step::Message,
        transaction: 1,
        origin: Default::default(),
        port: 0,
        trusted: false,
        envelope: None,
        given: 0,
        draft: Some(draft(8)),
    }
}

fn run_in_time(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let in_time =
        async { tokio::time::timeout(Duration::from_secs(20), test).await.expect("in time") };
    runtime.block_on(in_time);
}

fn is_as_expected(inspected: &Inspected, on_failure: &str) -> bool {
    match on_failure {
        "accept" => inspected.answer.verdict == Verdict::Accept,
        "quarantine" => matches!(inspected.answer.verdict, Verdict::Quarantine { .. }),
        _ => matches!(inspected.answer.verdict, Verdict::Tempfail(_)),
    }
}

#[test]
fn what_takes_too_long_follows_the_rule_of_failure() {
    run_in_time(async {
        for on_failure in ["tempfail", "accept", "quarantine"] {
            let request = request();
            let soon = || Some(Instant::now() + Duration::from_millis(20));
            // A store that gives nothing more.
            let stuck = inspector(on_failure, End::Stuck);
            let inspected = stuck.inspect(&request, soon(), || true).await.expect("an answer");
            assert!(is_as_expected(&inspected, on_failure), "{on_failure}");
            assert_eq!((inspected.failures.len(), inspected.scanned_bytes), (1, 0));
            assert!(inspected.failures[0].contains(LATE), "{:?}", inspected.failures);
            let units = stuck.memory_units as usize;
            assert_eq!(stuck.memory.available_permits(), units);
            // No memory.
            let busy = inspector(on_failure, End::Whole);
            let all = busy.memory.acquire_many(busy.memory_units).await.expect("all permits");
            let inspected = busy.inspect(&request, soon(), || true).await.expect("an answer");
            assert!(is_as_expected(&inspected, on_failure), "{on_failure}");
            drop(all);
            // The deadline is over before the message is looked at.
            let late = busy.inspect(&request, Some(Instant::now()), || true).await;
            assert!(is_as_expected(&late.expect("an answer"), on_failure), "{on_failure}");
            // With time, or any amount of it, filters decide.
            for end in [None, Some(Instant::now() + Duration::from_secs(20))] {
                let inspected = busy.inspect(&request, end, || true).await.expect("an answer");
                assert!(matches!(inspected.answer.verdict, Verdict::Reject(_)));
                assert_eq!(inspected.scanned_bytes, 8);
                assert_eq!(busy.memory.available_permits(), units);
            }
        }
    });
}

#[test]
fn nothing_is_read_for_one_who_has_gone() {
    run_in_time(async {
        let inspector = inspector("tempfail", End::Stuck);
        assert!(inspector.inspect(&request(), None, || false).await.is_none());
        assert_eq!(inspector.memory.available_permits(), inspector.memory_units as usize);
    });
}

#[test]
fn a_message_that_is_not_there_is_put_off() {
    run_in_time(async {
        let request = InspectRequest { draft: None, ..request() };
        let inspected = inspector("accept", End::Whole).inspect(&request, None, || true).await;
        let verdict = inspected.expect("an answer").answer.verdict;
        assert!(matches!(verdict, Verdict::Tempfail(_)), "{verdict:?}");
    });
}

#[test]
fn of_a_stored_message_it_is_told_what_each_said() {
    run_in_time(async {
        // The store has no such message.
        let inspector = inspector("accept", End::Whole);
        let stored = DraftFacts { stored: true, ..draft(8) };
        let request = InspectRequest { draft: Some(stored), ..request() };
        let answer = inspector.inspect(&request, None, || true).await.expect("an answer").answer;
        assert_eq!(answer.verdict, Verdict::Accept, "by its rule");
        let [said] = &answer.said[..] else { panic!("{answer:?}") };
        assert!(matches!(&said.what, Heard::Failure(_)), "{said:?}");
        let request = InspectRequest { draft: Some(draft(8)), ..request };
        let answer = inspector.inspect(&request, None, || true).await.expect("an answer").answer;
        assert!(matches!(answer.verdict, Verdict::Reject(_)) && answer.said.is_empty());
    });
}

#[test]
fn there_is_time_to_answer() {
    for (millis, least, most) in [(30_000, 29_000, 29_900), (100, 50, 75), (0, 0, 0)] {
        let now = Instant::now();
        let end = time_to_give_up(now + Duration::from_millis(millis));
        let left = end.saturating_duration_since(now);
        assert!(left >= Duration::from_millis(least), "{left:?}");
        assert!(left <= Duration::from_millis(most + 50), "{left:?}");
    }
}
