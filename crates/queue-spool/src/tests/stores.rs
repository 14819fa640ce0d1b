//! The stores with their threads, on a simulated disk: conformance again, and what callers hear of failures.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mail::{MessageId, Timestamp};
use queue::conformance::{Backend, accept, deliver, routed, run};
use queue::{
    Compaction, Handle, Intake, IntakeError, Ledger, LedgerError, Reader, Record, Recovery,
    SizeHint,
};

use crate::disk::simulated::{Fault, SimulatedDisk};
use crate::tests::world::{DIR, settings};
use crate::{Settings, Spool};

struct Simulated(Spool);

impl Simulated {
    fn new(settings: Settings) -> (SimulatedDisk, Self) {
        let disk = SimulatedDisk::new(1);
        (disk.clone(), Self(Spool::new(Arc::new(disk), Path::new(DIR), settings)))
    }
}

impl Backend for Simulated {
    fn intake(&self) -> Rc<dyn Intake> {
        self.0.intake().expect("it opens").0
    }

    fn reader(&self) -> Rc<dyn Reader> {
        self.0.reader().expect("it opens")
    }

    fn recovery(&self) -> Rc<dyn Recovery> {
        self.0.recovery().expect("it opens")
    }

    fn compaction(&self) -> Rc<dyn Compaction> {
        self.0.compaction().expect("it opens")
    }

    fn ledger(&self) -> Result<Rc<dyn Ledger>, LedgerError> {
        Ok(self.0.ledger()?)
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime can be built");
    runtime.block_on(work)
}

#[test]
fn the_spool_conforms_on_a_simulated_disk() {
    let settings = Settings { large_bodies_max: 200, ..settings() };
    run(|| Simulated::new(settings.clone()).1);
}

#[test]
fn acceptors_hear_of_a_failed_sync_and_of_its_end() {
    let (disk, spool) = Simulated::new(settings());
    block_on(async {
        let intake = spool.intake();
        deliver(&*intake, b"one", accept("a@example.test", 1)).await;
        disk.fail_after(1, Fault::Io);
        let draft = intake.begin(SizeHint::default()).expect("nothing is known yet");
        let refused = draft.commit(accept("a@example.test", 1)).await;
        assert!(matches!(refused, Err(IntakeError::Io { .. })), "{refused:?}");
        let refused = intake.begin(SizeHint::default()).err();
        assert!(matches!(refused, Some(IntakeError::Io { .. })), "{refused:?}");
        let deadline = Instant::now() + Duration::from_secs(20);
        while intake.begin(SizeHint::default()).is_err() {
            assert!(Instant::now() < deadline, "it does not recover by itself");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        deliver(&*intake, b"two", accept("a@example.test", 1)).await;
    });
}

#[test]
fn a_draft_that_was_refused_a_file_cannot_be_committed_without_its_body() {
    let (_, spool) = Simulated::new(Settings { large_bodies_max: 1, ..settings() });
    block_on(async {
        let intake = spool.intake();
        let mut first = intake.begin(SizeHint::default()).expect("there is room");
        first.write(&[b'a'; 4096]).expect("there is room");
        let mut second = intake.begin(SizeHint::default()).expect("there is room");
        assert!(matches!(second.write(&[b'b'; 4096]), Err(IntakeError::Busy)));
        assert!(matches!(second.write(b"b"), Err(IntakeError::Closed)));
        let refused = second.commit(accept("a@example.test", 1)).await;
        assert!(matches!(refused, Err(IntakeError::Closed)), "{refused:?}");
        first.commit(accept("a@example.test", 1)).await.expect("it has a file");
    });
}

#[test]
fn small_drafts_share_a_budget_of_memory() {
    let bytes_max = 8000;
    let draft_bytes_max = config::ByteSize(bytes_max);
    let (_, spool) = Simulated::new(Settings { draft_bytes_max, ..settings() });
    block_on(async {
        let intake = spool.intake();
        let mut drafts = Vec::new();
        for _ in 0..7 {
            let mut draft = intake.begin(SizeHint::default()).expect("there is room");
            draft.write(&[b'a'; 1000]).expect("there is room");
            drafts.push(draft);
        }
        let mut last = intake.begin(SizeHint::default()).expect("there is a little room");
        assert!(matches!(last.write(&[b'a'; 1000]), Err(IntakeError::Busy)));
        last.write(&[b'a'; 999]).expect("there is a little room");
        let mut refused = intake.begin(SizeHint::default()).expect("one byte is left");
        assert!(matches!(refused.write(b"a"), Err(IntakeError::Busy)));
        // A finished one is in a segment, a dropped one nowhere, a large one in a file.
        drafts.first_mut().expect("there are some").finish().await.expect("it is written");
        refused.write(&[b'a'; 999]).expect("there is room again");
        drafts.pop();
        last.write(&[b'a'; 1000]).expect("there is room again");
        last.write(&[b'a'; 500]).expect_err("there is none");
        let committed = drafts.pop().expect("there are some");
        committed.commit(accept("a@example.test", 1)).await.expect("it is small");
        last.write(&[b'a'; 500]).expect("there is room again");
        refused.commit(accept("a@example.test", 1)).await.expect("it is small");
        drop((drafts, last));
        for _ in 0..20 {
            deliver(&*intake, &[b'a'; 1900], accept("a@example.test", 1)).await;
            deliver(&*intake, &[b'a'; 4096], accept("a@example.test", 1)).await;
        }
    });
}

#[test]
fn nobody_who_waits_for_a_write_waits_for_a_slow_sync() {
    let (disk, spool) = Simulated::new(settings());
    let handle = Handle::parse("conformance:1").expect("a handle");
    let record = routed(MessageId::new(Timestamp::default(), 1), &handle, 1);
    block_on(async {
        let ledger = spool.ledger().expect("nobody has it");
        ledger.replay(&mut |_| {}).await.expect("it is empty");
        let slow = Duration::from_secs(2);
        disk.set_sync_takes(slow);
        let begun = Instant::now();
        let first = ledger.append(std::slice::from_ref(&record)).expect("it is well");
        let synced = ledger.synced(first);
        for _ in 0..50 {
            let mark = ledger.append(std::slice::from_ref(&record)).expect("it is well");
            ledger.written(mark).await.expect("it is written");
        }
        assert!(begun.elapsed() < slow, "the first sync is still under way");
        synced.await.expect("it ends at last");
        assert!(begun.elapsed() >= slow);
        // What is under way when the ledger is closed is waited for.
        let last = ledger.append(std::slice::from_ref(&record)).expect("it is well");
        let synced = ledger.synced(last);
        ledger.written(last).await.expect("it is written");
        drop(ledger);
        synced.await.expect("it was synced before the end");
    });
}

#[test]
fn a_failed_ledger_reports_nothing_as_synced_until_a_checkpoint_has() {
    let (disk, spool) = Simulated::new(settings());
    let handle = Handle::parse("conformance:1").expect("a handle");
    let id = MessageId::new(Timestamp::default(), 1);
    let record = routed(id, &handle, 1);
    block_on(async {
        let ledger = spool.ledger().expect("nobody has it");
        ledger.replay(&mut |_| {}).await.expect("it is empty");
        // Once the spare log is there, the next two operations are the write and the sync.
        let deadline = Instant::now() + Duration::from_secs(20);
        let is_log = |path: &Path| path.extension().is_some_and(|extension| extension == "log");
        while disk.files().iter().filter(|(path, bytes)| is_log(path) && !bytes.is_empty()).count()
            < 2
        {
            assert!(Instant::now() < deadline, "the next log is not preallocated");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let mark = ledger.append(std::slice::from_ref(&record)).expect("it is well");
        ledger.synced(mark).await.expect("it is well");
        disk.fail_after(1, Fault::Io);
        let mark = ledger.append(std::slice::from_ref(&record)).expect("nothing is known yet");
        assert!(ledger.synced(mark).await.is_err());
        assert!(matches!(
            ledger.append(std::slice::from_ref(&record)),
            Err(LedgerError::Io { .. })
        ));
        assert!(ledger.failure().is_some() && ledger.checkpoint_due());
        ledger.begin_checkpoint().expect("a new file can be begun");
        assert!(ledger.failure().is_none());
        let Record::Routed(message) = record.clone() else { panic!("it is a routing") };
        let mark = ledger.append(&[Record::Snapshot(message)]).expect("into the new file");
        ledger.written(mark).await.expect("it is written");
        let synced = ledger.synced(mark);
        let waited = tokio::time::timeout(Duration::from_millis(200), synced).await;
        assert!(waited.is_err(), "not before the checkpoint has ended");
        let synced = ledger.synced(mark);
        ledger.end_checkpoint().await.expect("it has synced");
        synced.await.expect("it is durable now");
        assert!(!ledger.checkpoint_due());
        drop(ledger);
        disk.restart();
        let mut replayed = Vec::new();
        let ledger = spool.ledger().expect("nobody has it");
        ledger.replay(&mut |record| replayed.push(record)).await.expect("it is in order");
        let Record::Routed(message) = record else { panic!("it is a routing") };
        assert_eq!(replayed, [Record::Snapshot(message)]);
    });
}

#[test]
fn a_ledger_that_was_not_closed_asks_for_a_checkpoint_before_it_gives_space_back() {
    let (disk, spool) = Simulated::new(settings());
    let handle = Handle::parse("conformance:1").expect("a handle");
    let record = routed(MessageId::new(Timestamp::default(), 1), &handle, 1);
    block_on(async {
        let open = async || {
            let ledger = spool.ledger().expect("nobody has it");
            ledger.replay(&mut |_| {}).await.expect("it is in order");
            ledger
        };
        let ledger = open().await;
        assert!(!ledger.checkpoint_due(), "nothing was there");
        let mark = ledger.append(std::slice::from_ref(&record)).expect("it is well");
        ledger.synced(mark).await.expect("it is well");
        drop(ledger);
        let ledger = open().await;
        assert!(!ledger.checkpoint_due(), "it was closed");
        let mark = ledger.append(std::slice::from_ref(&record)).expect("it is well");
        ledger.synced(mark).await.expect("it is well");
        disk.kill();
        drop(ledger);
        disk.set_room(4096);
        let ledger = open().await;
        assert!(!ledger.checkpoint_due(), "it was killed, but the disk is full");
        let mark = ledger.append(std::slice::from_ref(&record)).expect("it is well");
        ledger.synced(mark).await.expect("there is room for a record");
        disk.kill();
        drop(ledger);
        disk.set_room(1 << 20);
        let ledger = open().await;
        assert!(ledger.checkpoint_due(), "it was killed");
        ledger.begin_checkpoint().expect("it can begin");
        ledger.end_checkpoint().await.expect("it can end");
        assert!(!ledger.checkpoint_due());
    });
}

#[test]
fn lives_that_follow_each_other_do_not_leave_a_log_each() {
    let (disk, spool) = Simulated::new(settings());
    let handle = Handle::parse("conformance:1").expect("a handle");
    let record = routed(MessageId::new(Timestamp::default(), 1), &handle, 1);
    let logs = || {
        let is_log = |path: &&Path| path.extension().is_some_and(|extension| extension == "log");
        disk.files().iter().map(|(path, _)| path.as_path()).filter(is_log).count()
    };
    let mut most = 0;
    for _ in 0..12 {
        block_on(async {
            let ledger = spool.ledger().expect("nobody has it");
            ledger.replay(&mut |_| {}).await.expect("it is in order");
            if ledger.checkpoint_due() {
                ledger.begin_checkpoint().expect("it can begin");
                ledger.end_checkpoint().await.expect("it can end");
                assert!(!ledger.checkpoint_due());
                let deadline = Instant::now() + Duration::from_secs(20);
                while logs() > 2 {
                    assert!(Instant::now() < deadline, "old logs stay");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            let mark = ledger.append(std::slice::from_ref(&record)).expect("it is well");
            ledger.synced(mark).await.expect("it is well");
        });
        most = most.max(logs());
    }
    assert!((2..=6).contains(&most), "{most} logs");
}
