use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;

use super::*;

fn board(directory: &Path, slots: usize, tally: usize) -> Board {
    let scoreboards = directory.join("scoreboards");
    std::fs::create_dir_all(&scoreboards).unwrap();
    let counters = ["accepted_total".to_owned(), "refused_total".to_owned()];
    Board::create(&scoreboards.join("router"), "router", &counters, slots, tally).unwrap()
}

#[test]
fn a_reader_sees_what_workers_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let made = board(directory.path(), 4, 0);
    made.slot(1).take(3, 100);
    made.slot(1).set_pid(1234);
    let worker = Board::of(made.as_fd().try_clone_to_owned().unwrap()).unwrap();
    let slot = worker.slot(1);
    slot.set_state(WorkerState::Ready);
    slot.jobs().store(5, Relaxed);
    slot.connections().store(6, Relaxed);
    slot.jobs_done().store(7, Relaxed);
    slot.load().store(800, Relaxed);
    slot.active_at().store(9, Relaxed);
    slot.counter(1).store(11, Relaxed);
    slot.set_notice("has something to tell");
    let views = read_all(directory.path()).unwrap();
    assert_eq!(views.len(), 1);
    let view = &views[0];
    assert_eq!((view.farm.as_str(), view.manager), ("router", std::process::id()));
    assert_eq!(view.counters, ["accepted_total", "refused_total"]);
    let expect = Line {
        worker: "router/2".into(),
        pid: 1234,
        generation: 3,
        state: WorkerState::Ready,
        jobs: 5,
        connections: 6,
        capacity: 100,
        jobs_done: 7,
        load: 800,
        active_at: 9,
        counters: vec![0, 11],
        notice: Some("has something to tell".into()),
    };
    assert_eq!(view.workers, [expect]);
    assert_eq!(view.total("refused_total"), Some(11));
    assert_eq!(view.total("unknown"), None);
}

#[test]
fn a_board_of_a_program_without_notices_is_read_and_written() {
    let directory = tempfile::tempdir().unwrap();
    let made = board(directory.path(), 2, 64);
    assert!(made.has_notices());
    let path = directory.path().join("scoreboards/router");
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &[0; 4], 52).unwrap();
    let old = Board::of(made.as_fd().try_clone_to_owned().unwrap()).unwrap();
    assert!(!old.has_notices());
    old.slot(0).take(1, 10);
    old.slot(0).set_notice("nobody hears it");
    let view = read_all(directory.path()).unwrap().remove(0);
    assert_eq!(view.workers.len(), 1);
    assert_eq!(view.workers[0].notice, None);
}

#[test]
fn readers_do_not_make_a_new_scoreboard_look_dead() {
    let directory = tempfile::tempdir().unwrap();
    board(directory.path(), 1, 0);
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !ended.load(Relaxed) {
                    read_all(directory.path()).unwrap();
                }
            });
        }
        let alive = (0..500).filter(|_| {
            let _made = board(directory.path(), 1, 0);
            read_all(directory.path()).is_ok_and(|views| views.len() == 1)
        });
        let alive = alive.count();
        ended.store(true, Relaxed);
        assert_eq!(alive, 500);
    });
}

#[test]
fn an_ended_worker_leaves_its_counters() {
    let directory = tempfile::tempdir().unwrap();
    let board = board(directory.path(), 2, 64);
    let slot = board.slot(0);
    slot.take(1, 10);
    slot.counter(0).store(5, Relaxed);
    slot.set_notice("is about to end");
    board.tally_count(0, 3).store(2, Relaxed);
    board.crashed(77, true);
    board.crashed(78, false);
    board.retire(&slot);
    assert!(slot.is_free());
    assert_eq!(board.tally_count(0, 3).load(Relaxed), 0);
    let view = read_all(directory.path()).unwrap().remove(0);
    assert_eq!((view.ended.as_slice(), view.crashes), (&[5, 0][..], 2));
    assert!(view.workers.is_empty());
    slot.take(2, 10);
    let view = read_all(directory.path()).unwrap().remove(0);
    assert_eq!(view.workers[0].notice, None, "that of the one before has gone with it");
    assert_eq!(board.recent_crashes(), [77]);
    board.forget_crash(77);
    assert!(board.recent_crashes().is_empty());
}

#[test]
fn a_new_board_continues_the_old_ones_totals() {
    let directory = tempfile::tempdir().unwrap();
    let old = board(directory.path(), 2, 0);
    old.slot(0).take(1, 10);
    old.slot(0).counter(1).store(5, Relaxed);
    old.crashed(9, true);
    let new = board(directory.path(), 8, 0);
    new.continue_from(&old);
    new.retire(&old.slot(0));
    let view = read_all(directory.path()).unwrap().remove(0);
    assert_eq!((view.total("refused_total"), view.crashes), (Some(5), 1));
    assert_eq!(new.recent_crashes(), [9]);
}

#[test]
fn counters_are_known_by_their_names() {
    let directory = tempfile::tempdir().unwrap();
    let old = board(directory.path(), 2, 0);
    for (slot, refused) in [(0, 5), (1, 7)] {
        old.slot(slot).take(1, 10);
        old.slot(slot).counter(1).store(refused, Relaxed);
    }
    old.retire(&old.slot(0));
    let counters = ["refused_total", "new_total"].map(str::to_owned);
    let path = directory.path().join("scoreboards/router");
    let new = Board::create(&path, "router", &counters, 2, 0).unwrap();
    new.continue_from(&old);
    new.retire(&old.slot(1));
    let view = read_all(directory.path()).unwrap().remove(0);
    assert_eq!((view.total("refused_total"), view.total("new_total")), (Some(12), Some(0)));
}

#[test]
fn a_worker_waits_only_for_ready_ones_with_room_and_fewer() {
    let directory = tempfile::tempdir().unwrap();
    let board = board(directory.path(), 3, 0);
    let (us, other) = (board.slot(0), board.slot(1));
    us.take(1, 10);
    us.set_state(WorkerState::Ready);
    us.gauge(TCP_GAUGE).store(2, Relaxed);
    assert!(!us.should_wait(TCP_GAUGE), "alone");
    other.take(1, 1);
    assert!(!us.should_wait(TCP_GAUGE), "the other is not ready");
    other.set_state(WorkerState::Ready);
    assert!(us.should_wait(TCP_GAUGE));
    assert!(!other.should_wait(TCP_GAUGE));
    other.gauge(TCP_GAUGE).store(1, Relaxed);
    assert!(!us.should_wait(TCP_GAUGE), "the other is full");
    other.take(2, 10);
    other.set_state(WorkerState::Ready);
    assert!(!us.should_wait(TCP_GAUGE), "the other is of another generation");
}

#[test]
fn who_has_no_time_or_hardly_fewer_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let board = board(directory.path(), 2, 0);
    let (us, other) = (board.slot(0), board.slot(1));
    for slot in [us, other] {
        slot.take(1, 100);
        slot.set_state(WorkerState::Ready);
    }
    let named = 1;
    for (ours, theirs, tcp, of_named) in
        [(1, 0, true, true), (9, 7, false, true), (9, 6, true, true)]
    {
        for gauge in [TCP_GAUGE, named] {
            us.gauge(gauge).store(ours, Relaxed);
            other.gauge(gauge).store(theirs, Relaxed);
        }
        assert_eq!(us.should_wait(TCP_GAUGE), tcp, "{ours}:{theirs}");
        assert_eq!(us.should_wait(named), of_named, "{ours}:{theirs}");
    }
    other.set_waiting(TCP_GAUGE, true);
    assert!(!us.should_wait(TCP_GAUGE), "it leaves them to us");
    us.gauge(TCP_GAUGE).store(13, Relaxed);
    assert!(us.should_wait(TCP_GAUGE), "we have more than twice as many");
    other.set_waiting(TCP_GAUGE, false);
    other.load().store(BUSY_LOAD + 1, Relaxed);
    assert!(!us.should_wait(TCP_GAUGE) && us.should_wait(named));
}

#[test]
fn what_is_no_scoreboard_or_has_no_manager_is_left_out() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(read_all(directory.path()).unwrap_err().kind(), io::ErrorKind::NotFound);
    let made = board(directory.path(), 2, 0);
    let scoreboards = directory.path().join("scoreboards");
    std::fs::write(scoreboards.join("garbage"), vec![0xff; 100_000]).unwrap();
    std::fs::write(scoreboards.join("short"), "x").unwrap();
    assert_eq!(read_all(directory.path()).unwrap().len(), 1);
    let copy = std::fs::read(scoreboards.join("router")).unwrap();
    for at in 0..64 {
        let mut broken = copy.clone();
        broken[at] ^= 0xff;
        std::fs::write(scoreboards.join("broken"), broken).unwrap();
        let file = std::fs::File::open(scoreboards.join("broken")).unwrap();
        // Never a panic, and no map beyond the file; a changed count of crashes is believed.
        let _ = Board::of(file.into());
    }
    drop(made);
    assert!(read_all(directory.path()).unwrap().is_empty());
}
