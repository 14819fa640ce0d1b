//! Reading drafts, within limits.

use bytes::Bytes;
use mail::{MessageId, Timestamp};
use queue::{Body, Handle, Local, Stored};

use super::*;

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
                (None, End::Torn) => Err(ReadError::Gone(draft().handle, "torn".to_owned())),
                (None, End::Stuck) => std::future::pending().await,
            }
        })
    }
}

fn draft() -> DraftFacts {
    DraftFacts {
        handle: Handle::parse("memory:1").expect("well-formed"),
        id: MessageId::new(Timestamp::from_millis(1), 2),
        size: 6,
    }
}

#[test]
fn reads_the_first_bytes_of_a_draft() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for (bytes_max, end, expected) in [
        (100, End::Whole, Some("abcdef")),
        (6, End::Whole, Some("abcdef")),
        (5, End::Whole, Some("abcde")),
        (3, End::Whole, Some("abc")),
        (1, End::Torn, Some("a")),
        (100, End::Torn, None),
    ] {
        let store = Store { pieces: vec!["abc", "", "def"], end };
        let content = runtime.block_on(read(&store, &draft(), bytes_max));
        let content = content.ok().map(|bytes| String::from_utf8(bytes).expect("text"));
        assert_eq!(content.as_deref(), expected, "{bytes_max}");
    }
}

fn scanner(on_failure: &str, end: End) -> Scanner {
    let text = format!("[[filters]]\nbody = 'def'\naction = 'reject'\non_failure = '{on_failure}'");
    let settings = toml::from_str(&text).expect("settings");
    Scanner {
        filters: Arc::new(Filters::new(&settings).expect("filters")),
        scan_bytes_max: 100,
        reader: Rc::new(Store { pieces: vec!["\r\n", "abcdef"], end }),
        scans: Arc::new(Semaphore::new(SCANS_MAX)),
    }
}

fn run_in_time(test: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let in_time =
        async { tokio::time::timeout(Duration::from_secs(20), test).await.expect("in time") };
    runtime.block_on(in_time);
}

fn is_as_expected(verdict: &Verdict, on_failure: &str) -> bool {
    match on_failure {
        "accept" => *verdict == Verdict::Accept,
        "quarantine" => matches!(verdict, Verdict::Quarantine { .. }),
        _ => matches!(verdict, Verdict::Tempfail(_)),
    }
}

#[test]
fn what_takes_too_long_follows_the_rule_of_failure() {
    run_in_time(async {
        for on_failure in ["tempfail", "accept", "quarantine"] {
            let soon = || Some(Instant::now() + Duration::from_millis(20));
            // A store that gives nothing more.
            let stuck = scanner(on_failure, End::Stuck);
            let judged = stuck.inspect(&draft(), soon(), || true).await.expect("a judgement");
            assert!(is_as_expected(&judged.0.verdict, on_failure), "{on_failure}: {judged:?}");
            assert_eq!((judged.0.failures.len(), judged.1), (1, 0));
            assert!(judged.0.failures[0].contains(LATE), "{judged:?}");
            assert_eq!(stuck.scans.available_permits(), SCANS_MAX);
            // No turn.
            let busy = scanner(on_failure, End::Whole);
            let all = busy.scans.acquire_many(SCANS_MAX as u32).await.expect("all permits");
            let judged = busy.inspect(&draft(), soon(), || true).await.expect("a judgement");
            assert!(is_as_expected(&judged.0.verdict, on_failure), "{on_failure}: {judged:?}");
            drop(all);
            // The deadline is over before the message is looked at.
            let judged = busy.inspect(&draft(), Some(Instant::now()), || true).await;
            let judged = judged.expect("a judgement");
            assert!(is_as_expected(&judged.0.verdict, on_failure), "{on_failure}: {judged:?}");
            // With time, or any amount of it, filters decide.
            for end in [None, Some(Instant::now() + Duration::from_secs(20))] {
                let judged = busy.inspect(&draft(), end, || true).await.expect("a judgement");
                assert!(matches!(judged.0.verdict, Verdict::Reject(_)), "{judged:?}");
                assert_eq!(judged.1, 8);
            }
        }
    });
}

#[test]
fn nothing_is_read_for_one_who_has_gone() {
    run_in_time(async {
        let scanner = scanner("tempfail", End::Stuck);
        assert_eq!(scanner.inspect(&draft(), None, || false).await, None);
        assert_eq!(scanner.scans.available_permits(), SCANS_MAX);
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
