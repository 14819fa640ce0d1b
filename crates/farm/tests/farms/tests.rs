//! What a farm must do.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::rc::Rc;
use std::time::{Duration, Instant};

use farm::scoreboard::WorkerState;
use socket::{CallError, SendOptions};
use sys::Signal;

use crate::echo::{Said, Say};
use crate::support::{
    Place, Test, block_on, connect, farm, free_address, is_alive, soon, status, until,
};

/// All of them.
pub(crate) const ALL: &[Test] = &[
    ("jobs_spread_over_ready_workers", jobs_spread_over_ready_workers),
    ("connections_spread_and_are_tallied", connections_spread_and_are_tallied),
    ("short_connections_spread_too", short_connections_spread_too),
    ("a_crash_is_replaced_and_told", a_crash_is_replaced_and_told),
    (
        "a_lone_workers_crash_is_told_by_its_successor",
        a_lone_workers_crash_is_told_by_its_successor,
    ),
    ("a_killed_worker_is_replaced_and_not_blamed", a_killed_worker_is_replaced_and_not_blamed),
    ("repeated_crashes_are_backed_off", repeated_crashes_are_backed_off),
    ("a_terminated_worker_drains", a_terminated_worker_drains),
    ("a_reload_loses_no_request", a_reload_loses_no_request),
    ("many_reloads_find_room", many_reloads_find_room),
    ("a_bad_reload_changes_nothing", a_bad_reload_changes_nothing),
    ("a_reload_that_fails_leaves_no_sockets", a_reload_that_fails_leaves_no_sockets),
    ("a_stop_answers_what_was_taken", a_stop_answers_what_was_taken),
    ("a_stop_does_not_wait_for_ever", a_stop_does_not_wait_for_ever),
    ("a_managers_death_ends_its_farm", a_managers_death_ends_its_farm),
    ("a_pass_on_demand", a_pass_on_demand),
    ("a_crash_asks_for_a_pass", a_crash_asks_for_a_pass),
    ("a_farm_of_one_takes_settings_in_place", a_farm_of_one_takes_settings_in_place),
    (
        "what_cannot_change_in_place_replaces_the_worker",
        what_cannot_change_in_place_replaces_the_worker,
    ),
    ("a_worker_that_stands_by_is_up", a_worker_that_stands_by_is_up),
    ("a_worker_that_resigned_is_replaced", a_worker_that_resigned_is_replaced),
    ("a_worn_worker_is_replaced", a_worn_worker_is_replaced),
    ("a_busy_farm_grows", a_busy_farm_grows),
    ("a_farm_has_one_manager", a_farm_has_one_manager),
    ("an_idle_farm_sleeps", an_idle_farm_sleeps),
    ("workers_give_up_root", workers_give_up_root),
    ("strangers_are_refused", strangers_are_refused),
    ("a_supervisor_runs_all_farms", a_supervisor_runs_all_farms),
    ("a_supervisors_death_ends_everything", a_supervisors_death_ends_everything),
    ("a_supervisor_reloads", a_supervisor_reloads),
];

fn jobs_spread_over_ready_workers() {
    let mut place = Place::new(2);
    place.manage();
    let workers = place.until_ready("echo", 2);
    block_on(async {
        let client = place.client("echo");
        client.connect();
        soon(|| client.peers().len() == 2).await;
        let by_pid = Rc::new(RefCell::new(BTreeMap::<u32, u32>::new()));
        for _ in 0..1000 {
            let counted = by_pid.clone();
            let count = move |answer: Result<Said, CallError>| {
                *counted.borrow_mut().entry(answer.unwrap().pid).or_default() += 1;
            };
            while client.send(&Say::default(), SendOptions::default(), count.clone()).is_err() {
                client.changed().await;
            }
        }
        soon(|| by_pid.borrow().values().sum::<u32>() == 1000).await;
        let counts: Vec<u32> = by_pid.borrow().values().copied().collect();
        assert_eq!(by_pid.borrow().keys().copied().collect::<Vec<_>>().len(), 2);
        assert!(counts.iter().all(|count| *count >= 400), "{counts:?}");
        let view = place.view("echo").unwrap();
        assert_eq!(view.total("answered_total"), Some(1000));
        assert_eq!(view.workers.iter().map(|line| line.jobs_done).sum::<u64>(), 1000);
        assert!(view.workers.iter().all(|line| line.connections == 1 && line.jobs == 0));
    });
    for pid in workers {
        let arguments = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(arguments.starts_with("grange\0worker\0echo/"), "{arguments:?}");
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap();
        assert!(name.starts_with("echo/"), "{name}");
    }
    assert_eq!(status(place.pid(), "Threads"), 1);
    assert!(status(place.pid(), "VmRSS") < 6 << 10, "{} KiB", status(place.pid(), "VmRSS"));
}

fn connections_spread_and_are_tallied() {
    let mut place = Place::new(2);
    let address = free_address();
    place.config.farms[0].tcp = Some(address);
    place.manage();
    let workers = place.until_ready("echo", 2);
    let mut held = Vec::new();
    for number in 1..=20 {
        let (stream, worker, tally, in_farm) = connect(address);
        assert_eq!((tally, in_farm), (number, number));
        held.push((worker, stream));
    }
    let of_first = held.iter().filter(|(worker, _)| worker == "echo/1").count();
    // The mean is 10; nobody has less than half of it.
    assert!((5..=15).contains(&of_first), "{of_first} of 20");
    // A worker dies: what it held no longer counts.
    sys::send_signal(workers[0], Signal::Kill).unwrap();
    until(|| place.ready("echo").iter().all(|pid| *pid != workers[0]));
    place.until_ready("echo", 2);
    let (_stream, _, tally, in_farm) = connect(address);
    // The ready workers were listed by their slots: the first of them was echo/1.
    let left = 20 - of_first as u32;
    assert_eq!((tally, in_farm), (left + 1, left + 1));
}

fn short_connections_spread_too() {
    let mut place = Place::new(2);
    let address = free_address();
    place.config.farms[0].tcp = Some(address);
    place.manage();
    place.until_ready("echo", 2);
    let client = move || {
        let mut of_first = 0;
        for _ in 0..100 {
            let (_stream, worker, ..) = connect(address);
            of_first += u32::from(worker == "echo/1");
        }
        of_first
    };
    let clients: Vec<_> = (0..8).map(|_| std::thread::spawn(client)).collect();
    let of_first: u32 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    // The mean is 400; nobody does less than half of it.
    assert!((200..=600).contains(&of_first), "{of_first} of 800");
}

fn a_crash_is_replaced_and_told() {
    let mut place = Place::new(2);
    place.manage();
    let before = place.until_ready("echo", 2);
    block_on(async {
        let client = place.client("echo");
        client.connect();
        soon(|| client.peers().len() == 2).await;
        let told = Rc::new(Cell::new(0));
        let seen = told.clone();
        client.on_crash(move |pid| seen.set(pid));
        let error = client.call(&Say { panic: true, ..Say::default() }).await.unwrap_err();
        let CallError::Lost { worker, pid, .. } = error else { panic!("{error}") };
        assert!(worker.starts_with("echo/") && before.contains(&pid));
        soon(|| told.get() == pid).await;
        soon(|| client.peers().len() == 2 && client.peers().iter().all(|peer| peer.pid != pid))
            .await;
        let view = place.view("echo").unwrap();
        assert_eq!(view.crashes, 1);
        client.call(&Say::default()).await.unwrap();
    });
}

fn a_lone_workers_crash_is_told_by_its_successor() {
    let mut place = Place::new(1);
    place.config.farms[0].mode = "one".into();
    place.manage();
    let before = place.until_ready("echo", 1);
    block_on(async {
        let client = place.client("echo");
        let told = Rc::new(RefCell::new(Vec::new()));
        let seen = told.clone();
        client.on_crash(move |pid| seen.borrow_mut().push(pid));
        client.call(&Say { panic: true, ..Say::default() }).await.unwrap_err();
        assert_ne!(client.call(&Say::default()).await.unwrap().pid, before[0]);
        assert_eq!(*told.borrow(), before);
    });
}

fn a_killed_worker_is_replaced_and_not_blamed() {
    let mut place = Place::new(1);
    place.manage();
    let before = place.until_ready("echo", 1);
    block_on(async {
        let client = place.client("echo");
        let told = Rc::new(Cell::new(false));
        let seen = told.clone();
        client.on_crash(move |_| seen.set(true));
        client.call(&Say::default()).await.unwrap();
        sys::send_signal(before[0], Signal::Kill).unwrap();
        soon(|| client.peers().iter().all(|peer| peer.pid != before[0])).await;
        let said = client.call(&Say::default()).await.unwrap();
        assert_ne!(said.pid, before[0]);
        assert!(!told.get());
        assert_eq!(place.view("echo").unwrap().crashes, 1);
    });
}

fn repeated_crashes_are_backed_off() {
    let mut place = Place::new(1);
    place.manage();
    place.until_ready("echo", 1);
    place.config.farms[0].settings.fails = true;
    place.write_config();
    // A new generation that cannot start: the old one goes on serving.
    place.signal(Signal::Hangup);
    let crashes = || place.view("echo").unwrap().crashes;
    until(|| crashes() >= 2);
    let begun = Instant::now();
    until(|| crashes() >= 4);
    // After the second failure: 100 ms, then 200 ms.
    assert!(begun.elapsed() >= Duration::from_millis(250), "{:?}", begun.elapsed());
    assert_eq!(place.ready("echo").len(), 1);
    block_on(async {
        assert_eq!(place.client("echo").call(&Say::default()).await.unwrap().text, "first");
    });
}

fn a_terminated_worker_drains() {
    let mut place = Place::new(1);
    place.manage();
    let before = place.until_ready("echo", 1);
    block_on(async {
        let client = place.client("echo");
        client.call(&Say::default()).await.unwrap();
        let answered = Rc::new(Cell::new(false));
        let seen = answered.clone();
        let slow = Say { hold_ms: 300, ..Say::default() };
        client
            .send(&slow, SendOptions::default(), move |answer| {
                answer.unwrap();
                seen.set(true);
            })
            .unwrap();
        soon(|| place.view("echo").unwrap().workers.iter().any(|line| line.jobs == 1)).await;
        sys::send_signal(before[0], Signal::Terminate).unwrap();
        soon(|| answered.get()).await;
        soon(|| !is_alive(before[0])).await;
        let said = client.call(&Say::default()).await.unwrap();
        assert_ne!(said.pid, before[0]);
        assert_eq!(place.view("echo").unwrap().crashes, 0);
    });
}

fn a_reload_loses_no_request() {
    let mut place = Place::new(2);
    let address = free_address();
    place.config.farms[0].tcp = Some(address);
    place.manage();
    let old = place.until_ready("echo", 2);
    let (held, _, _, _) = connect(address);
    block_on(async {
        let client = place.client("echo");
        let stop = Rc::new(Cell::new(false));
        let mut callers = Vec::new();
        for _ in 0..20 {
            let (client, stop) = (client.clone(), stop.clone());
            callers.push(tokio::task::spawn_local(async move {
                let mut calls = 0;
                let mut last = String::new();
                while !stop.get() {
                    last = client.call(&Say { hold_ms: 1, ..Say::default() }).await.unwrap().text;
                    calls += 1;
                }
                (calls, last)
            }));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        for generation in 2..=4 {
            place.config.farms[0].settings.text = format!("generation {generation}");
            place.write_config();
            place.signal(Signal::Hangup);
            soon(|| {
                let view = place.view("echo").unwrap();
                let new = view.workers.iter().filter(|line| {
                    line.generation == generation && line.state == WorkerState::Ready
                });
                new.count() == 2
            })
            .await;
            soon(|| place.ready("echo").len() == 2).await;
        }
        // The session of the first generation goes on.
        assert!(old.iter().any(|pid| is_alive(*pid)));
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.set(true);
        for caller in callers {
            let (calls, last) = caller.await.unwrap();
            assert!(calls > 10);
            assert_eq!(last, "generation 4");
        }
        let view = place.view("echo").unwrap();
        assert_eq!(view.crashes, 0);
    });
    drop(held);
    until(|| old.iter().all(|pid| !is_alive(*pid)));
    until(|| place.view("echo").unwrap().workers.len() == 2);
}

fn many_reloads_find_room() {
    let mut place = Place::new(1);
    let address = free_address();
    place.config.farms[0].tcp = Some(address);
    place.config.farms[0].drain_ms = 100;
    place.manage();
    let first = place.until_ready("echo", 1);
    // Each generation holds a session, and there are eight slots.
    let mut held = vec![connect(address)];
    for generation in 2..=10 {
        place.signal(Signal::Hangup);
        until(|| {
            let view = place.view("echo").unwrap();
            let mut ready = view.workers.iter().filter(|line| line.state == WorkerState::Ready);
            ready.next().is_some_and(|line| line.generation == generation) && ready.next().is_none()
        });
        held.push(connect(address));
    }
    assert!(!is_alive(first[0]));
    assert_eq!(place.view("echo").unwrap().crashes, 0);
}

fn a_bad_reload_changes_nothing() {
    let mut place = Place::new(1);
    place.manage();
    let before = place.until_ready("echo", 1);
    std::fs::write(place.path("config.json"), "not a configuration").unwrap();
    place.signal(Signal::Hangup);
    // The next good reload shows that the bad one was seen and left.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(place.ready("echo"), before);
    place.write_config();
    place.signal(Signal::Hangup);
    until(|| place.ready("echo").len() == 1 && place.ready("echo") != before);
}

fn a_reload_that_fails_leaves_no_sockets() {
    let mut place = Place::new(1);
    place.manage();
    let before = place.until_ready("echo", 1);
    let sockets = place.run_dir().join("sockets");
    let socket = |name: &str| sockets.join(name).try_exists().unwrap();
    // The second one's path is longer than a socket's may be.
    place.config.farms[0].more_sockets = vec!["more.echo".into(), "x".repeat(200)];
    place.write_config();
    place.signal(Signal::Hangup);
    // A good one after it shows that it was seen; one signal may stand for both.
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(place.ready("echo"), before);
    place.config.farms[0].more_sockets = vec!["other.echo".into()];
    place.write_config();
    place.signal(Signal::Hangup);
    until(|| place.ready("echo").len() == 1 && place.ready("echo") != before);
    assert!(socket("echo.echo") && socket("other.echo") && !socket("more.echo"));
    place.config.farms[0].more_sockets.clear();
    place.write_config();
    place.signal(Signal::Hangup);
    until(|| !socket("other.echo"));
    assert!(socket("echo.echo"));
}

fn a_stop_answers_what_was_taken() {
    let mut place = Place::new(2);
    place.manage();
    place.until_ready("echo", 2);
    block_on(async {
        let client = place.client("echo");
        client.connect();
        soon(|| client.peers().len() == 2).await;
        let answered = Rc::new(Cell::new(0));
        for _ in 0..10 {
            let seen = answered.clone();
            let slow = Say { hold_ms: 300, ..Say::default() };
            let count = move |answer: Result<Said, CallError>| {
                answer.unwrap();
                seen.set(seen.get() + 1);
            };
            client.send(&slow, SendOptions::default(), count).unwrap();
        }
        soon(|| {
            place.view("echo").unwrap().workers.iter().map(|line| line.jobs).sum::<u32>() == 10
        })
        .await;
        place.signal(Signal::Terminate);
        soon(|| answered.get() == 10).await;
    });
    assert_eq!(place.wait(), Some(0));
    assert!(!place.run_dir().join("sockets/echo.echo").try_exists().unwrap());
    assert!(place.view("echo").is_none());
}

fn a_stop_does_not_wait_for_ever() {
    let mut place = Place::new(1);
    place.config.farms[0].drain_ms = 300;
    place.manage();
    let workers = place.until_ready("echo", 1);
    block_on(async {
        let client = place.client("echo");
        client.call(&Say::default()).await.unwrap();
        let slow = Say { hold_ms: 600_000, ..Say::default() };
        client.send(&slow, SendOptions::default(), |_| {}).unwrap();
        soon(|| place.view("echo").unwrap().workers.iter().any(|line| line.jobs == 1)).await;
    });
    let begun = Instant::now();
    place.signal(Signal::Terminate);
    assert_eq!(place.wait(), Some(0));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert!(!is_alive(workers[0]));
}

fn a_managers_death_ends_its_farm() {
    let mut place = Place::new(2);
    place.manage();
    let workers = place.until_ready("echo", 2);
    block_on(async {
        let client = place.client("echo");
        client.connect();
        soon(|| client.peers().len() == 2).await;
        let answered = Rc::new(Cell::new(false));
        let seen = answered.clone();
        let slow = Say { hold_ms: 400, ..Say::default() };
        client
            .send(&slow, SendOptions::default(), move |answer| {
                answer.unwrap();
                seen.set(true);
            })
            .unwrap();
        soon(|| place.view("echo").unwrap().workers.iter().any(|line| line.jobs == 1)).await;
        place.signal(Signal::Kill);
        soon(|| answered.get()).await;
        soon(|| workers.iter().all(|pid| !is_alive(*pid))).await;
        assert!(client.peers().is_empty());
    });
    assert_eq!(place.wait(), None, "by a signal");
    // A manager started again finds nothing in its way.
    place.manage();
    place.until_ready("echo", 2);
    block_on(async {
        place.client("echo").call(&Say::default()).await.unwrap();
    });
}

fn passes(place: &Place) -> usize {
    std::fs::read_to_string(place.path("passes")).unwrap_or_default().lines().count()
}

fn a_pass_on_demand() {
    let mut place = Place::new(1);
    let passes_path = place.path("passes");
    let farm = &mut place.config.farms[0];
    farm.mode = "demand".into();
    farm.settings.passes = Some(passes_path);
    farm.settings.come_again_ms = Some(1100);
    place.manage();
    // One at the start, and one that it asked for itself.
    until(|| passes(&place) == 1);
    until(|| passes(&place) == 2);
    until(|| place.view("echo").unwrap().workers.is_empty());
    block_on(async {
        place.client("echo").call(&Say::default()).await.unwrap();
    });
    until(|| passes(&place) == 3);
    until(|| place.view("echo").unwrap().workers.is_empty());
    assert_eq!(place.view("echo").unwrap().crashes, 0);
}

fn a_crash_asks_for_a_pass() {
    let mut place = Place::of(vec![farm("pass", 1), farm("echo", 1)]);
    let passes_path = place.path("passes");
    place.config.farms[0].mode = "demand".into();
    place.config.farms[0].settings.passes = Some(passes_path);
    place.config.farms[1].on_crash = Some("pass.echo".into());
    place.supervise(None);
    place.until_ready("echo", 1);
    until(|| passes(&place) == 1);
    until(|| place.view("pass").unwrap().workers.is_empty());
    block_on(async {
        let client = place.client("echo");
        client.call(&Say { panic: true, ..Say::default() }).await.unwrap_err();
    });
    until(|| passes(&place) == 2);
    until(|| place.view("pass").is_some_and(|view| view.total("answered_total") == Some(1)));
}

fn a_farm_of_one_takes_settings_in_place() {
    let mut place = Place::new(1);
    place.config.farms[0].mode = "one".into();
    place.manage();
    let before = place.until_ready("echo", 1);
    block_on(async {
        let client = place.client("echo");
        assert_eq!(client.call(&Say::default()).await.unwrap().text, "first");
        place.config.farms[0].settings.text = "second".into();
        place.write_config();
        place.signal(Signal::Hangup);
        while client.call(&Say::default()).await.unwrap().text != "second" {}
        assert_eq!(place.ready("echo"), before);
        // Anything else needs a new worker, which starts when the old one has ended.
        place.config.farms[0].workers.concurrency = 50;
        place.write_config();
        place.signal(Signal::Hangup);
        soon(|| {
            assert!(place.view("echo").unwrap().workers.len() <= 1);
            place.ready("echo").len() == 1 && place.ready("echo") != before
        })
        .await;
        client.call(&Say::default()).await.unwrap();
    });
}

/// A farm of one whose worker stands by until a file is there.
fn standing_by() -> (Place, std::path::PathBuf) {
    let mut place = Place::new(1);
    place.config.farms[0].mode = "one".into();
    let file = place.path("go");
    place.config.farms[0].settings.stands_by = Some(file.clone());
    (place, file)
}

fn state(place: &Place) -> Option<WorkerState> {
    place.view("echo")?.workers.first().map(|line| line.state)
}

fn a_worker_that_stands_by_is_up() {
    let (mut place, file) = standing_by();
    let notify = place.path("notify");
    let systemd = UnixDatagram::bind(&notify).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    place.supervise(Some(&notify));
    let mut buffer = [0; 1000];
    loop {
        let length = systemd.recv(&mut buffer).unwrap();
        if String::from_utf8_lossy(&buffer[..length]).contains("READY=1") {
            break;
        }
    }
    assert_eq!(state(&place), Some(WorkerState::Standby));
    block_on(async {
        let client = place.client("echo");
        let say = Say::default();
        let mut call = std::pin::pin!(client.call(&say));
        let early = tokio::time::timeout(Duration::from_millis(300), call.as_mut()).await;
        assert!(early.is_err(), "it accepts nobody");
        std::fs::write(&file, "").unwrap();
        call.await.unwrap();
        assert_eq!(state(&place), Some(WorkerState::Ready));
    });
    std::fs::remove_file(&file).unwrap();
    // It ends as fast as another when it is told to.
    place.signal(Signal::Terminate);
    assert_eq!(place.wait(), Some(0));
}

fn a_worker_that_resigned_is_replaced() {
    let (mut place, file) = standing_by();
    place.manage();
    let mut before = Vec::new();
    for _ in 0..5 {
        until(|| state(&place) == Some(WorkerState::Standby));
        std::fs::write(&file, "").unwrap();
        until(|| place.ready("echo").len() == 1 && place.ready("echo") != before);
        before = place.ready("echo");
        std::fs::remove_file(&file).unwrap();
        block_on(async {
            let client = place.client("echo");
            let resigns = Say { resign: true, ..Say::default() };
            // It answers nothing any more.
            let lost = client.call(&resigns).await;
            assert!(lost.is_err(), "{lost:?}");
        });
    }
    until(|| state(&place) == Some(WorkerState::Standby));
    let view = place.view("echo").unwrap();
    assert_eq!(view.crashes, 0, "to resign is no crash, however often");
}

fn what_cannot_change_in_place_replaces_the_worker() {
    let mut place = Place::new(1);
    place.config.farms[0].mode = "one".into();
    place.config.farms[0].in_place = Some("text".into());
    place.manage();
    let before = place.until_ready("echo", 1);
    block_on(async {
        let client = place.client("echo");
        place.config.farms[0].settings.text = "second".into();
        place.write_config();
        place.signal(Signal::Hangup);
        while client.call(&Say::default()).await.unwrap().text != "second" {}
        assert_eq!(place.ready("echo"), before);
        place.config.farms[0].settings.come_again_ms = Some(1);
        place.write_config();
        place.signal(Signal::Hangup);
        soon(|| place.ready("echo").len() == 1 && place.ready("echo") != before).await;
    });
}

fn a_worn_worker_is_replaced() {
    let mut place = Place::new(1);
    place.config.farms[0].workers.jobs_max = 10;
    place.manage();
    let before = place.until_ready("echo", 1);
    block_on(async {
        let client = place.client("echo");
        for _ in 0..9 {
            assert_eq!(client.call(&Say::default()).await.unwrap().pid, before[0]);
        }
        while client.call(&Say::default()).await.unwrap().pid == before[0] {}
    });
    until(|| !is_alive(before[0]));
    // The manager adds the dead worker's counters to the totals once it has reaped it.
    until(|| place.view("echo").unwrap().total("answered_total") >= Some(11));
    assert_eq!(place.view("echo").unwrap().crashes, 0);
}

fn a_busy_farm_grows() {
    let mut place = Place::new(1);
    let workers = &mut place.config.farms[0].workers;
    workers.max = 3;
    workers.spare_min = 1;
    workers.spare_max = 1;
    workers.concurrency = 4;
    place.manage();
    place.until_ready("echo", 1);
    block_on(async {
        let client = place.client("echo");
        client.connect();
        let slow = Say { hold_ms: 2000, ..Say::default() };
        let mut sent = 0;
        // Four slots: three taken are not over three quarters, four are.
        while sent < 4 {
            match client.send(&slow, SendOptions::default(), |_| {}) {
                Ok(_) => sent += 1,
                Err(_) => client.changed().await,
            }
        }
        soon(|| place.ready("echo").len() == 2).await;
        soon(|| client.peers().len() == 2).await;
        assert_eq!(place.view("echo").unwrap().workers.len(), 2);
    });
    // All of them become spare again: after ten seconds one goes.
    until(|| place.ready("echo").len() == 1);
}

fn a_farm_has_one_manager() {
    let mut place = Place::new(1);
    place.manage();
    place.until_ready("echo", 1);
    let (code, text) = place.manage_again();
    assert_eq!(code, Some(78));
    assert!(text.contains("a manager of the farm echo already runs"), "{text}");
    let mut other = Place::new(1);
    let data = place.path("data");
    std::os::unix::fs::symlink(data, other.path("data")).unwrap();
    let (code, text) = other.manage_again();
    assert_eq!(code, Some(78));
    assert!(text.contains("is in use by the instance whose run_dir is"), "{text}");
    other.config.farms.clear();
}

fn an_idle_farm_sleeps() {
    let mut place = Place::new(2);
    let address = free_address();
    place.config.farms[0].tcp = Some(address);
    place.manage();
    let mut pids = place.until_ready("echo", 2);
    let (_held, ..) = connect(address);
    block_on(async {
        let client = place.client("echo");
        client.call(&Say::default()).await.unwrap();
        soon(|| client.peers().len() == 2).await;
        // The meters and the client's timekeeper come to rest.
        tokio::time::sleep(Duration::from_millis(2500)).await;
        pids.push(place.pid());
        let switches = |pids: &[u32]| -> Vec<u64> {
            pids.iter().map(|pid| status(*pid, "voluntary_ctxt_switches")).collect()
        };
        let before = switches(&pids);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(switches(&pids), before, "nobody wakes");
    });
}

fn workers_give_up_root() {
    if sys::effective_ids().0 != 0 {
        return; // Only root has something to give up.
    }
    let mut place = Place::new(1);
    // The group passes through to the sockets.
    place.config.farms[0].user = Some((65534, 65534));
    std::os::unix::fs::chown(place.path(""), Some(0), Some(65534)).unwrap();
    std::fs::set_permissions(place.path(""), std::os::unix::fs::PermissionsExt::from_mode(0o750))
        .unwrap();
    place.manage();
    let workers = place.until_ready("echo", 1);
    assert_eq!(status(workers[0], "Uid"), 65534);
    assert_eq!(status(workers[0], "Gid"), 65534);
    assert_eq!(status(workers[0], "NoNewPrivs"), 1);
    assert_eq!(status(place.pid(), "Uid"), 0);
    block_on(async {
        place.client("echo").call(&Say::default()).await.unwrap();
    });
}

fn strangers_are_refused() {
    if sys::effective_ids().0 != 0 {
        return; // Only root can come as somebody else.
    }
    let mut place = Place::new(1);
    place.config.farms[0].user = Some((65534, 65534));
    place.manage();
    place.until_ready("echo", 1);
    let socket = place.run_dir().join("sockets/echo.echo");
    // The program stands where only root may go: a copy for everybody.
    let program = place.path("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let open = |path: &std::path::Path, mode| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    };
    open(&place.path(""), 0o755);
    let connect_as = |uid: u32, gid: u32| {
        let mut command = std::process::Command::new(&program);
        std::os::unix::process::CommandExt::gid(&mut command, gid);
        std::os::unix::process::CommandExt::uid(&mut command, uid);
        let output = command.arg("connect").arg(&socket).output().unwrap();
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    };
    // The directory's mode keeps strangers out, and lets in whoever is in the group.
    assert!(connect_as(4711, 4711).contains("Permission denied"));
    assert!(connect_as(4711, 65534).contains("\"hello\""));
    // Were the modes lost, the server still looks at who it is.
    open(&place.run_dir().join("sockets"), 0o777);
    open(&socket, 0o777);
    let said = connect_as(4711, 4711);
    assert!(said.contains("user 4711 may not use this socket"), "{said}");
    assert!(connect_as(65534, 4711).contains("\"hello\""));
}

fn a_supervisor_runs_all_farms() {
    let mut place = Place::of(vec![farm("scheduler", 1), farm("echo", 2)]);
    let address = free_address();
    place.config.farms[0].mode = "one".into();
    place.config.farms[1].tcp = Some(address);
    let notify = place.path("notify");
    let systemd = UnixDatagram::bind(&notify).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    place.supervise(Some(&notify));
    let hear = |wanted: &str| {
        let mut buffer = [0; 1000];
        loop {
            let length = systemd.recv(&mut buffer).unwrap();
            if String::from_utf8_lossy(&buffer[..length]).contains(wanted) {
                return;
            }
        }
    };
    hear("READY=1");
    hear("WATCHDOG=1");
    assert_eq!(place.ready("scheduler").len(), 1);
    assert_eq!(place.ready("echo").len(), 2);
    let old = place.ready("echo");
    let manager = place.view("echo").unwrap().manager;
    let arguments = std::fs::read_to_string(format!("/proc/{manager}/cmdline")).unwrap();
    assert!(arguments.starts_with("grange\0farm\0echo\0"), "{arguments:?}");
    let (held, ..) = connect(address);
    sys::send_signal(manager, Signal::Kill).unwrap();
    // No connection is refused meanwhile: the supervisor holds the listener.
    for _ in 0..20 {
        connect(address);
    }
    until(|| place.view("echo").is_some_and(|view| view.manager != manager));
    place.until_ready("echo", 2);
    // The old worker's session lives on until it ends.
    assert!(old.iter().any(|pid| is_alive(*pid)));
    drop(held);
    until(|| old.iter().all(|pid| !is_alive(*pid)));
    let everybody: Vec<u32> = ["scheduler", "echo"]
        .iter()
        .flat_map(|farm| {
            let mut pids = place.ready(farm);
            pids.push(place.view(farm).unwrap().manager);
            pids
        })
        .collect();
    place.signal(Signal::Terminate);
    hear("STOPPING=1");
    assert_eq!(place.wait(), Some(0));
    assert!(everybody.iter().all(|pid| !is_alive(*pid)));
}

fn a_supervisors_death_ends_everything() {
    let mut place = Place::of(vec![farm("scheduler", 1), farm("echo", 2)]);
    place.supervise(None);
    let mut everybody = place.until_ready("echo", 2);
    everybody.extend(place.until_ready("scheduler", 1));
    everybody.extend(["echo", "scheduler"].map(|farm| place.view(farm).unwrap().manager));
    place.signal(Signal::Kill);
    until(|| everybody.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(place.wait(), None, "by a signal");
}

fn a_supervisor_reloads() {
    let mut place = Place::of(vec![farm("echo", 1), farm("leaves", 1)]);
    let (first, second) = (free_address(), free_address());
    place.config.farms[0].tcp = Some(first);
    place.supervise(None);
    let before = place.until_ready("echo", 1);
    place.until_ready("leaves", 1);
    place.config.farms[0].tcp = Some(second);
    place.config.farms[0].settings.text = "second".into();
    place.config.farms.remove(1);
    place.config.farms.push(farm("comes", 1));
    place.write_config();
    place.signal(Signal::Hangup);
    place.until_ready("comes", 1);
    until(|| place.view("leaves").is_none());
    until(|| place.ready("echo").len() == 1 && place.ready("echo") != before);
    connect(second);
    until(|| std::net::TcpStream::connect(first).is_err());
    block_on(async {
        assert_eq!(place.client("echo").call(&Say::default()).await.unwrap().text, "second");
    });
}
