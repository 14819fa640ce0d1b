//! Several processes on one spool: writers that are killed in the midst of their work, writers and a reader side by side.
//!
//! The children are this test binary, started again with an environment variable that says what to be.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use queue::conformance::{accept, begin, deliver, pattern, whole};
use queue::{Handle, Reader as _, Recovery as _};
use queue_spool::Settings;

const ROLE: &str = "SPOOL_TEST_DIR";

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime can be built");
    runtime.block_on(work)
}

fn settings() -> Settings {
    Settings { segment_bytes: config::ByteSize(1 << 20), ..Settings::default() }
}

/// Starts this binary again as a writer, which prints every handle once its commit has resolved.
fn start_writer(dir: &Path, seed: u8) -> Child {
    Command::new(std::env::current_exe().expect("we are somewhere"))
        .args(["--exact", "writer_process", "--nocapture", "--test-threads=1"])
        .env(ROLE, dir)
        .env("SPOOL_TEST_SEED", seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it can be started")
}

/// Not a test by itself: the body of the children.
#[test]
fn writer_process() {
    let Some(dir) = std::env::var_os(ROLE) else { return };
    let seed: u8 = std::env::var("SPOOL_TEST_SEED").expect("it is set").parse().expect("a number");
    block_on(async {
        let (intake, _) = queue_spool::open_intake(Path::new(&dir), &settings()).expect("it opens");
        let mut sessions = Vec::new();
        for session in 0..20u8 {
            let intake = intake.clone();
            sessions.push(tokio::task::spawn_local(async move {
                for number in 0..1000u32 {
                    let length = length_of(session, number);
                    let body = pattern(length, seed ^ session);
                    let sender = format!("{length}.{}@example.test", seed ^ session);
                    let mut draft = begin(&*intake, &body).await;
                    if number % 5 == 0 {
                        draft.finish().await.expect("it can be finished");
                    }
                    let handle = draft.commit(accept(&sender, 1)).await.expect("it is accepted");
                    // One write a line, so that a kill leaves no half of it.
                    std::io::stdout()
                        .write_all(format!("{handle}\n").as_bytes())
                        .expect("it is read");
                    drop(begin(&*intake, b"dropped").await);
                }
            }));
        }
        for session in sessions {
            session.await.expect("it ends");
        }
    });
}

fn length_of(session: u8, number: u32) -> usize {
    match number % 50 {
        49 => 300_000,
        other => 100 + 61 * usize::from(session) + other as usize,
    }
}

/// Reads `count` handles, then ends the child at once.
fn kill_after(mut child: Child, count: usize) -> Vec<Handle> {
    let mut handles = Vec::new();
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut next = || loop {
        let line = lines.next()?.expect("it is text");
        // The harness prints lines of its own.
        if let Some(at) = line.find("spool:") {
            return Some(line[at..].parse::<Handle>().expect("a handle"));
        }
    };
    while handles.len() < count {
        handles.push(next().expect("the writer goes on"));
    }
    child.kill().expect("it can be killed");
    // What it said before it died counts too.
    while let Some(handle) = next() {
        handles.push(handle);
    }
    child.wait().expect("it has ended");
    handles
}

async fn check_readable(dir: &Path, handles: &[Handle]) {
    let reader = queue_spool::open_reader(dir, &settings()).expect("it opens");
    for handle in handles {
        let stored = reader.open(handle).await.expect("what was acknowledged is there");
        let sender = stored.accepted.accept.envelope.sender.clone().expect("it has a sender");
        let (length, seed) = sender.local_part().split_once('.').expect("it was made so");
        let body = pattern(length.parse().expect("a number"), seed.parse().expect("a number"));
        assert!(whole(stored).await == body, "{handle} has its body");
    }
}

#[test]
fn what_a_killed_writer_acknowledged_is_found_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut acknowledged = Vec::new();
    for (life, count) in [(1u8, 30), (2, 200), (3, 700)] {
        acknowledged.extend(kill_after(start_writer(dir.path(), life), count));
    }
    block_on(async {
        check_readable(dir.path(), &acknowledged).await;
        // Before anybody adopts, and after.
        for adopted in [false, true] {
            let opened = adopted.then(|| {
                queue_spool::open_intake(dir.path(), &settings()).expect("it can be opened")
            });
            if let Some((_, adopted)) = &opened {
                assert!(adopted.needs_requeue());
            }
            let recovery = queue_spool::open_recovery(dir.path()).expect("it can be opened");
            let mut listed = BTreeMap::new();
            for segment in recovery.segments(false).await.expect("it can be read") {
                for it in recovery.accepted(&segment).await.expect("it can be read") {
                    assert!(listed.insert(it.handle, it.id).is_none(), "each is listed once");
                }
            }
            for handle in &acknowledged {
                assert!(listed.contains_key(handle), "{handle} is listed");
            }
            // What was not acknowledged but is there is whole too.
            let all: Vec<_> = listed.into_keys().collect();
            check_readable(dir.path(), &all).await;
        }
        check_readable(dir.path(), &acknowledged).await;
    });
    let report = queue_spool::check(dir.path()).expect("it can be read");
    assert!(report.is_sound(), "{report:?}");
    assert!(report.messages >= acknowledged.len() as u64);
}

#[test]
fn several_processes_write_while_one_reads() {
    let dir = tempfile::tempdir().expect("a directory");
    let writers: Vec<_> = (1..=3).map(|seed| start_writer(dir.path(), seed)).collect();
    let threads: Vec<_> =
        writers.into_iter().map(|child| std::thread::spawn(|| kill_after(child, 400))).collect();
    block_on(async {
        // Beside them, in this process.
        let (intake, _) = queue_spool::open_intake(dir.path(), &settings()).expect("it opens");
        let mut handles = Vec::new();
        for _ in 0..50 {
            let body = pattern(1234, 77);
            handles.push(deliver(&*intake, &body, accept("1234.77@example.test", 1)).await.1);
        }
        check_readable(dir.path(), &handles).await;
        for thread in threads {
            let handles = thread.join().expect("it ends well");
            check_readable(dir.path(), &handles).await;
        }
    });
}

#[test]
fn a_stripe_has_one_writer_and_is_taken_again() {
    let dir = tempfile::tempdir().expect("a directory");
    block_on(async {
        let open = || queue_spool::open_intake(dir.path(), &settings()).expect("it opens").0;
        let (first, second) = (open(), open());
        assert_ne!(first.stripe(), second.stripe());
        let free = first.stripe();
        drop(first);
        assert_eq!(open().stripe(), free);
    });
}

#[test]
fn a_newer_format_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    block_on(async {
        drop(queue_spool::open_ledger(dir.path(), &settings()).expect("it opens"));
        std::fs::write(dir.path().join("spool/format"), "2\n").expect("it can be written");
        let errors = [
            queue_spool::open_intake(dir.path(), &settings()).err().map(|it| it.to_string()),
            queue_spool::open_reader(dir.path(), &settings()).err().map(|it| it.to_string()),
            queue_spool::open_recovery(dir.path()).err().map(|it| it.to_string()),
            queue_spool::open_ledger(dir.path(), &settings()).err().map(|it| it.to_string()),
            queue_spool::check(dir.path()).err().map(|it| it.to_string()),
        ];
        for error in errors {
            let error = error.expect("it is refused");
            assert!(error.contains("format \"2\"") && error.contains("newer"), "{error}");
        }
    });
}

fn only_segment(stripe: &std::path::Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(stripe).expect("it can be read");
    let paths = files.map(|file| file.expect("it can be read").path());
    let mut segments = paths.filter(|path| path.extension().is_some_and(|it| it == "seg"));
    let only = segments.next().expect("there is one");
    assert_eq!(segments.next(), None);
    only
}

#[test]
fn check_shows_what_is_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let (small, large) = block_on(async {
        let (intake, _) = queue_spool::open_intake(dir.path(), &settings()).expect("it opens");
        let small = deliver(&*intake, b"small body", accept("a@example.test", 1)).await;
        let large = deliver(&*intake, &pattern(700_000, 5), accept("a@example.test", 1)).await;
        (small, large)
    });
    let report = queue_spool::check(dir.path()).expect("it can be read");
    assert!(report.is_sound() && report.messages == 2 && report.segments[0].sealed, "{report:?}");
    let stripe = dir.path().join("spool/intake/1");
    std::fs::remove_file(stripe.join(format!("{}.body", large.0))).expect("it is there");
    let segment = only_segment(&stripe);
    let mut bytes = std::fs::read(&segment).expect("it is there");
    let at = bytes.windows(10).position(|it| it == b"small body").expect("it is there");
    bytes[at] ^= 0x20;
    std::fs::write(&segment, bytes).expect("it can be written");
    let report = queue_spool::check(dir.path()).expect("it can be read");
    assert!(!report.is_sound());
    let damaged: Vec<_> =
        report.segments[0].damage.iter().filter_map(|damage| damage.id.clone()).collect();
    assert_eq!(damaged, [small.0.to_string(), large.0.to_string()], "{report:?}");
}

#[test]
fn a_full_file_system_refuses_mail_before_it_is_sent() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings { free_bytes_min: config::ByteSize(1 << 60), ..settings() };
    block_on(async {
        let (intake, _) = queue_spool::open_intake(dir.path(), &settings).expect("it opens");
        let begun = queue::Intake::begin(&*intake, queue::SizeHint::default());
        assert!(matches!(begun.err(), Some(queue::IntakeError::Full(_))));
    });
}

#[test]
fn large_bodies_in_flight_are_limited() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings { large_bodies_max: 2, ..settings() };
    let large = queue::SizeHint { declared_bytes: Some(1 << 20) };
    block_on(async {
        let (intake, _) = queue_spool::open_intake(dir.path(), &settings).expect("it opens");
        let body = pattern(300_000, 1);
        let first = begin(&*intake, &body).await;
        let second = begin(&*intake, &body).await;
        let refused = queue::Intake::begin(&*intake, large);
        assert!(matches!(refused.err(), Some(queue::IntakeError::Busy)));
        let mut undeclared =
            queue::Intake::begin(&*intake, queue::SizeHint::default()).expect("it may be small");
        assert!(matches!(undeclared.write(&body), Err(queue::IntakeError::Busy)));
        drop(first);
        second.commit(accept("a@example.test", 1)).await.expect("it is accepted");
        queue::Intake::begin(&*intake, large).expect("there is room again");
    });
    // Nothing of what was dropped is left once the threads have ended.
    let stripe = dir.path().join("spool/intake/1");
    let bodies = std::fs::read_dir(stripe).expect("it is there").filter(|entry| {
        let path = entry.as_ref().expect("it is readable").path();
        path.extension().is_some_and(|extension| extension == "body")
    });
    assert_eq!(bodies.count(), 1);
}

#[test]
fn an_idle_spool_gives_its_space_back_and_closes_what_it_read() {
    let dir = tempfile::tempdir().expect("a directory");
    let settings = Settings { seal_after: config::Span::millis(100), ..settings() };
    block_on(async {
        let (intake, _) = queue_spool::open_intake(dir.path(), &settings).expect("it opens");
        let ledger = queue_spool::open_ledger(dir.path(), &settings).expect("it opens");
        queue::Ledger::replay(&*ledger, &mut |_| {}).await.expect("it is empty");
        for _ in 0..10 {
            let (id, handle) = deliver(&*intake, b"body", accept("a@example.test", 1)).await;
            let routed = queue::conformance::routed(id, &handle, 1);
            let retired = queue::Record::Retired { id, handle };
            queue::Ledger::append(&*ledger, &[routed, retired]).expect("it can be written");
        }
        let segment = only_segment(&dir.path().join("spool/intake/1"));
        let deadline = std::time::Instant::now() + Duration::from_secs(30);
        while segment.try_exists().expect("it can be looked at") {
            assert!(std::time::Instant::now() < deadline, "the segment is not given back");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}
