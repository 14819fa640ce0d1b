//! A journal whose scheduler hears, does not hear, or comes later.

use mail::MessageId;
use socket::SendError;

use super::*;
use crate::kept::tests::outcome;

/// A scheduler that hears only while it is there, and what it heard.
#[derive(Clone, Default)]
struct Scheduler {
    is_there: Rc<Cell<bool>>,
    heard: Rc<RefCell<Vec<MessageId>>>,
}

impl Tell for Scheduler {
    fn tell(&self, entry: OutcomeRequest) -> Local<'static, Result<(), CallError>> {
        let there = self.is_there.get();
        if there {
            self.heard.borrow_mut().push(entry.id);
        }
        let lost = CallError::NotSent(SendError::Disconnected);
        Box::pin(async move { if there { Ok(()) } else { Err(lost) } })
    }
}

fn run_test(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(Default::default()).expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(30), test).await.expect("the test ends in time");
    });
}

async fn until(what: impl Fn() -> bool) {
    while !what() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn bytes_in(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.map(|file| file.metadata().map_or(0, |metadata| metadata.len())).sum()
}

#[test]
fn what_was_done_is_told_when_somebody_hears() {
    run_test(async {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let scheduler = Scheduler::default();
        let path = folder.path().join("outcomes");
        let journal = Journal::new(path.clone(), "smtp", Box::new(scheduler.clone()));
        tokio::task::spawn_local(journal.clone().run());
        journal.add((0..100).map(outcome));
        until(|| bytes_in(&path) > 0).await;
        assert!(scheduler.heard.borrow().is_empty());
        scheduler.is_there.set(true);
        until(|| journal.is_empty() && bytes_in(&path) == 0).await;
        let expected: Vec<_> = (0..100).map(|number| outcome(number).id).collect();
        assert_eq!(*scheduler.heard.borrow(), expected);
        journal.add([outcome(200)]);
        until(|| scheduler.heard.borrow().len() == 101).await;
    });
}

#[test]
fn what_a_process_left_is_told_by_the_next() {
    let folder = tempfile::tempdir().expect("a scratch directory");
    let deaf = Scheduler::default();
    run_test(async {
        let other = Journal::new(folder.path().to_owned(), "smtp-bulk", Box::new(deaf.clone()));
        tokio::task::spawn_local(other.clone().run());
        other.add([outcome(50)]);
        let journal = Journal::new(folder.path().to_owned(), "smtp", Box::new(deaf.clone()));
        tokio::task::spawn_local(journal.clone().run());
        journal.add((0..3).map(outcome));
        let name = |name: &str| folder.path().join(name);
        let has = |path: PathBuf| path.metadata().is_ok_and(|metadata| metadata.len() > 0);
        until(|| has(name("smtp.0.journal")) && has(name("smtp-bulk.0.journal"))).await;
    });
    // Its end was sudden: the last line is not whole.
    let path = folder.path().join("smtp.0.journal");
    let mut file = OpenOptions::new().append(true).open(&path).expect("it is there");
    file.write_all(b"{\"handle\":\"te").expect("it can be written to");
    drop(file);
    let scheduler = Scheduler::default();
    scheduler.is_there.set(true);
    run_test(async {
        let folder = folder.path().to_owned();
        let journal = Journal::new(folder, "smtp", Box::new(scheduler.clone()));
        tokio::task::spawn_local(journal.run());
        until(|| scheduler.heard.borrow().len() == 3).await;
        until(|| !path.try_exists().expect("the folder can be looked at")).await;
    });
    let expected: Vec<_> = (0..3).map(|number| outcome(number).id).collect();
    assert_eq!(*scheduler.heard.borrow(), expected, "another channel's are left alone");
}

/// A scheduler that hears everything, after a while.
struct Slow(Rc<RefCell<Vec<MessageId>>>, Rc<Notify>);

impl Tell for Slow {
    fn tell(&self, entry: OutcomeRequest) -> Local<'static, Result<(), CallError>> {
        let (heard, go) = (Rc::clone(&self.0), Rc::clone(&self.1));
        Box::pin(async move {
            go.notified().await;
            heard.borrow_mut().push(entry.id);
            Ok(())
        })
    }
}

#[test]
fn what_is_added_while_others_are_told_is_told_too() {
    run_test(async {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let (heard, go) = (Rc::<RefCell<Vec<MessageId>>>::default(), Rc::new(Notify::new()));
        let slow = Box::new(Slow(Rc::clone(&heard), Rc::clone(&go)));
        let journal = Journal::new(folder.path().to_owned(), "smtp", slow);
        tokio::task::spawn_local(journal.clone().run());
        journal.add([outcome(1)]);
        until(|| bytes_in(folder.path()) > 0).await;
        journal.add((2..5).map(outcome));
        for _ in 0..4 {
            let before = heard.borrow().len();
            go.notify_one();
            until(|| heard.borrow().len() > before).await;
        }
        let expected: Vec<_> = (1..5).map(|number| outcome(number).id).collect();
        assert_eq!(*heard.borrow(), expected);
        until(|| journal.is_empty() && bytes_in(folder.path()) == 0).await;
    });
}

#[test]
fn what_could_not_be_told_before_the_end_is_written_down() {
    run_test(async {
        let folder = tempfile::tempdir().expect("a scratch directory");
        let deaf = Box::new(Scheduler::default());
        let ending = Journal::new(folder.path().to_owned(), "smtp", deaf);
        let telling = tokio::task::spawn_local(ending.clone().run());
        ending.add([outcome(1)]);
        telling.abort();
        ending.end().await;
        let scheduler = Scheduler::default();
        scheduler.is_there.set(true);
        let next = Journal::new(folder.path().to_owned(), "smtp", Box::new(scheduler.clone()));
        tokio::task::spawn_local(next.run());
        until(|| *scheduler.heard.borrow() == [outcome(1).id]).await;
    });
}
