//! One has the ledger, another stands by: when it takes over.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use queue::{LedgerError, Ownership, Record};
use queue_postgres::testing::{block_on, shared};

use super::support::{LEASE, acquire, database, messages, over, replay, routings, synced, tables};

/// Tells a child which database it is to work on.
const URL: &str = "GRANGE_TEST_URL";

#[test]
fn the_second_waits_and_takes_over_at_once_after_a_release() {
    let url = shared().url(&shared().database());
    block_on(async {
        let first = acquire(&url, "the first").await;
        assert!(first.is_clean, "nobody had it before");
        replay(&*first.ledger).await;
        let mail = messages(&url, 3).await;
        synced(&*first.ledger, &routings(&mail)).await.expect("it can be written");
        let second = queue_postgres::open_ownership(&database(&url), "the second");
        let mut second = second.acquire();
        // Longer than the lease: it is renewed.
        let waits = tokio::time::timeout(LEASE + Duration::from_secs(1), &mut second).await;
        assert!(waits.is_err(), "the first has it");
        let held = queue_postgres::open_ledger(&database(&url), "a third");
        assert!(matches!(held, Err(LedgerError::Held(who)) if who == "the first"));

        let until = first.ledger.owned_until().expect("it ends");
        assert!(until > Instant::now(), "it is the first's");
        first.ledger.release(true).await.expect("it can be given up");
        let released = Instant::now();
        let second = second.await.expect("it can be opened");
        assert!(released.elapsed() < Duration::from_secs(2), "{:?}", released.elapsed());
        assert!(second.is_clean);
        assert_eq!(replay(&*second.ledger).await.len(), 3);
        assert!(matches!(first.ledger.failure(), Some(LedgerError::Fenced(_))));
        assert!(first.ledger.append(&routings(&mail)).is_err());
        // Given up with jobs in hand.
        second.ledger.release(false).await.expect("it can be given up");
        assert!(!acquire(&url, "the third").await.is_clean);
    });
}

#[test]
fn one_that_was_dropped_leaves_it_free() {
    let url = shared().url(&shared().database());
    block_on(async {
        let first = acquire(&url, "the first").await;
        replay(&*first.ledger).await;
        let mail = messages(&url, 1).await;
        // Not waited for: it is written all the same.
        first.ledger.append(&routings(&mail)).expect("it can be written");
        drop(first);
        let begun = Instant::now();
        let second = acquire(&url, "the second").await;
        assert!(begun.elapsed() < LEASE, "{:?}", begun.elapsed());
        assert!(!second.is_clean, "nobody said that nothing was in hand");
        assert_eq!(replay(&*second.ledger).await.len(), 1);
    });
}

#[test]
fn one_that_stands_by_and_is_not_wanted_any_more_ends_at_once() {
    let url = shared().url(&shared().database());
    block_on(async {
        let _first = acquire(&url, "the first").await;
        let second = queue_postgres::open_ownership(&database(&url), "the second");
        let mut waiting = second.acquire();
        let waits = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
        assert!(waits.is_err());
        let begun = Instant::now();
        drop(waiting);
        assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    });
}

/// A process that has the ledger and goes on writing, one record after another. It does nothing in a test run of its own.
#[test]
fn child() {
    let Ok(url) = std::env::var(URL) else { return };
    block_on(async {
        let tenure = acquire(&url, "a child").await;
        replay(&*tenure.ledger).await;
        let mail = messages(&url, 1).await;
        synced(&*tenure.ledger, &routings(&mail)).await.expect("it can be written");
        println!("owns it");
        let (id, _) = mail.first().expect("there is one").clone();
        for number in 0u32.. {
            let reason = Some(format!("{number}"));
            let written = match tenure.ledger.append(&[Record::Hold { id, reason }]) {
                Ok(mark) => tenure.ledger.written(mark).await,
                Err(error) => Err(error),
            };
            if let Err(error) = written {
                println!("over: {error}");
                return;
            }
            println!("wrote {number}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

fn start_child(url: &str) -> (Child, impl Iterator<Item = String>) {
    let mut command = Command::new(std::env::current_exe().expect("this test"));
    command.args(["takeover::child", "--exact", "--nocapture"]).env(URL, url);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it can be started");
    let output = BufReader::new(child.stdout.take().expect("it is piped"));
    (child, output.lines().map_while(Result::ok))
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    rustix::process::kill_process(pid.expect("it has one"), signal).expect("it is there");
}

#[test]
fn after_a_kill_it_is_taken_over_when_the_lease_has_run_out() {
    let url = shared().url(&shared().database());
    let (mut child, mut lines) = start_child(&url);
    assert!(lines.any(|line| line == "wrote 3"), "it writes");
    child.kill().expect("it is there");
    let killed = Instant::now();
    block_on(async {
        let second = acquire(&url, "the second").await;
        let took = killed.elapsed();
        assert!(took < LEASE + Duration::from_secs(3), "{took:?}");
        assert!(!second.is_clean, "it may have had jobs in hand");
        let records = replay(&*second.ledger).await;
        assert!(matches!(records.as_slice(), [Record::Snapshot(_), Record::Hold { .. }]));
    });
    child.wait().expect("it has ended");
}

#[test]
fn one_that_was_stopped_past_its_lease_changes_nothing_afterwards() {
    let name = shared().database();
    let url = shared().url(&name);
    let (mut child, mut lines) = start_child(&url);
    assert!(lines.any(|line| line == "wrote 3"), "it writes");
    signal(&child, rustix::process::Signal::STOP);
    block_on(async {
        let second = acquire(&url, "the second").await;
        replay(&*second.ledger).await;
        let before = tables(shared(), &name);
        signal(&child, rustix::process::Signal::CONT);
        let last = lines.filter(|line| line.starts_with("over")).last().expect("it says so");
        assert!(last.contains("no longer this process's"), "{last}");
        assert!(child.wait().expect("it has ended").success());
        assert_eq!(tables(shared(), &name), before);
        assert!(second.ledger.failure().is_none(), "the second has it");
        second.ledger.release(true).await.expect("it can be given up");
    });
}

#[test]
fn one_that_is_cut_off_knows_that_its_time_has_passed() {
    let gate = super::gate::Gate::to(&shared().socket());
    let name = shared().database();
    block_on(async {
        let first = acquire(&gate.url(&name), "the first").await;
        replay(&*first.ledger).await;
        gate.hold();
        let until = first.ledger.owned_until().expect("it ends");
        let error = over(&first.ledger).await;
        assert!(matches!(error, LedgerError::Fenced(_)), "{error}");
        assert!(Instant::now() >= until, "not before its time");
        assert!(Instant::now() <= until + Duration::from_secs(2));
        gate.go_on();
        acquire(&shared().url(&name), "the second").await;
    });
}
