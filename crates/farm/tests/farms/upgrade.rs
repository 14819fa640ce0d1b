//! What must hold while the program is replaced.

use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use farm::scoreboard::WorkerState;
use farm::upgrade::{Report, UpgradeError, upgrade};
use sys::Signal;

use crate::echo::Say;
use crate::support::{Place, Test, block_on, connect, farm, free_address, is_alive, soon, until};

/// All of them.
pub(crate) const ALL: &[Test] = &[
    ("an_upgrade_loses_nothing", an_upgrade_loses_nothing),
    ("a_lone_manager_is_upgraded", a_lone_manager_is_upgraded),
    ("an_upgrade_takes_the_new_configuration", an_upgrade_takes_the_new_configuration),
    ("what_died_at_an_upgrade_is_replaced", what_died_at_an_upgrade_is_replaced),
    ("a_program_that_would_not_begin_is_not_taken", a_program_that_would_not_begin_is_not_taken),
    ("nothing_running_cannot_be_upgraded", nothing_running_cannot_be_upgraded),
    ("a_state_of_another_version_leaves_the_listeners", a_state_of_another_version),
];

/// A copy of this program.
fn copy(place: &Place, name: &str) -> PathBuf {
    let path = place.path(name);
    std::fs::copy(std::env::current_exe().unwrap(), &path).unwrap();
    path
}

fn ask(place: &Place, program: &Path, patience: Duration) -> Result<Report, UpgradeError> {
    let farms: Vec<String> = place.config.farms.iter().map(|farm| farm.name.clone()).collect();
    upgrade(&place.run_dir(), program, &farms, patience)
}

const PATIENCE: Duration = Duration::from_secs(20);

/// Asks from a thread of its own, while the runtime goes on.
async fn ask_meanwhile(place: &Place, program: &Path) -> Report {
    let farms: Vec<String> = place.config.farms.iter().map(|farm| farm.name.clone()).collect();
    let (run_dir, program) = (place.run_dir(), program.to_owned());
    let asking = std::thread::spawn(move || upgrade(&run_dir, &program, &farms, PATIENCE));
    soon(|| asking.is_finished()).await;
    asking.join().unwrap().unwrap()
}

fn runs(pid: u32, program: &Path) -> bool {
    sys::same_program(pid, program)
}

/// Connects again and again; whoever is refused or cut off panics.
fn knock(address: SocketAddr, stop: &Arc<AtomicBool>) -> std::thread::JoinHandle<u32> {
    let stop = stop.clone();
    std::thread::spawn(move || {
        let mut count = 0;
        while !stop.load(Relaxed) {
            connect(address);
            count += 1;
        }
        count
    })
}

fn an_upgrade_loses_nothing() {
    let mut place = Place::of(vec![farm("scheduler", 1), farm("pass", 1), farm("echo", 2)]);
    let address = free_address();
    let passes = place.path("passes");
    place.config.farms[0].mode = "one".into();
    place.config.farms[1].mode = "demand".into();
    place.config.farms[1].settings.passes = Some(passes);
    place.config.farms[2].tcp = Some(address);
    let notify = place.path("notify");
    let systemd = UnixDatagram::bind(&notify).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let supervisor = place.supervise(Some(&notify));
    let old = [place.until_ready("echo", 2), place.until_ready("scheduler", 1)].concat();
    let managers = || ["scheduler", "pass", "echo"].map(|farm| place.view(farm).unwrap().manager);
    until(|| place.view("pass").is_some());
    let before = managers();
    let (held, ..) = connect(address);
    let stop = Arc::new(AtomicBool::new(false));
    let knocking = [knock(address, &stop), knock(address, &stop)];
    block_on(async {
        let mut callers = Vec::new();
        for name in ["echo", "scheduler"].repeat(8) {
            let (client, stop) = (place.client(name), stop.clone());
            callers.push(tokio::task::spawn_local(async move {
                let mut calls = 0;
                while !stop.load(Relaxed) {
                    client.call(&Say { hold_ms: 1, ..Say::default() }).await.unwrap();
                    calls += 1;
                }
                calls
            }));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        // The second time it is the new program that leaves its state.
        for name in ["second", "third"] {
            let program = copy(&place, name);
            let report = ask_meanwhile(&place, &program).await;
            assert_eq!(report.supervisors, [supervisor]);
            assert!(report.farms.iter().all(|farm| !farm.restarted), "{report:?}");
            assert!(runs(supervisor, &program));
            assert_eq!(managers(), before);
            assert!(before.iter().all(|pid| runs(*pid, &program)));
            soon(|| place.ready("echo").len() == 2 && place.ready("scheduler").len() == 1).await;
            let workers = [place.ready("echo"), place.ready("scheduler")].concat();
            assert!(workers.iter().all(|pid| runs(*pid, &program) && !old.contains(pid)));
        }
        // The session of the first program goes on, and only there.
        soon(|| old.iter().filter(|pid| is_alive(**pid)).count() == 1).await;
        stop.store(true, Relaxed);
        for caller in callers {
            assert!(caller.await.unwrap() > 10);
        }
        let view = place.view("echo").unwrap();
        assert_eq!((view.crashes, view.generation), (0, 3));
        assert_eq!(place.view("scheduler").unwrap().crashes, 0);
        let answered = place.view("pass").unwrap().total("answered_total").unwrap();
        place.client("pass").call(&Say::default()).await.unwrap();
        soon(|| place.view("pass").unwrap().total("answered_total") == Some(answered + 1)).await;
    });
    assert!(knocking.into_iter().all(|knocking| knocking.join().unwrap() > 10));
    drop(held);
    until(|| old.iter().all(|pid| !is_alive(*pid)));
    // It is still the same service: told that it reloads and is ready, and it stops when it shall.
    let mut told = String::new();
    let mut buffer = [0; 1000];
    while !(told.contains("RELOADING=1") && told.trim_end().ends_with("READY=1")) {
        let length = systemd.recv(&mut buffer).unwrap();
        told.push_str(&String::from_utf8_lossy(&buffer[..length]));
        told.push('\n');
    }
    place.signal(Signal::Terminate);
    assert_eq!(place.wait(), Some(0));
    assert!(before.iter().all(|pid| !is_alive(*pid)));
    assert!(std::fs::read_dir(place.run_dir().join("supervisors")).unwrap().next().is_none());
}

fn a_lone_manager_is_upgraded() {
    let mut place = Place::new(2);
    let address = free_address();
    place.config.farms[0].tcp = Some(address);
    let manager = place.manage();
    let old = place.until_ready("echo", 2);
    let stop = Arc::new(AtomicBool::new(false));
    let knocking = knock(address, &stop);
    let program = copy(&place, "second");
    let report = ask(&place, &program, PATIENCE).unwrap();
    assert!(report.supervisors.is_empty());
    assert_eq!(report.farms.len(), 1);
    assert_eq!((report.farms[0].manager, report.farms[0].generation), (manager, 2));
    stop.store(true, Relaxed);
    knocking.join().unwrap();
    until(|| old.iter().all(|pid| !is_alive(*pid)));
    assert!(place.ready("echo").iter().all(|pid| runs(*pid, &program)));
    // Its own listener is let go of when it is no longer wanted.
    place.config.farms[0].tcp = None;
    place.write_config();
    place.signal(Signal::Hangup);
    until(|| std::net::TcpStream::connect(address).is_err());
    assert_eq!(place.manage_again().0, Some(78), "the farm's lock is held");
}

fn an_upgrade_takes_the_new_configuration() {
    let mut place = Place::of(vec![farm("echo", 1), farm("leaves", 1)]);
    let (first, second) = (free_address(), free_address());
    place.config.farms[0].tcp = Some(first);
    place.supervise(None);
    place.until_ready("echo", 1);
    place.until_ready("leaves", 1);
    place.config.farms[0].tcp = Some(second);
    place.config.farms[0].workers.max = 3;
    place.config.farms[0].settings.text = "second".into();
    place.config.farms.remove(1);
    place.config.farms.push(farm("comes", 1));
    place.write_config();
    let program = copy(&place, "second");
    ask(&place, &program, PATIENCE).unwrap();
    place.until_ready("comes", 1);
    until(|| place.view("leaves").is_none());
    connect(second);
    until(|| std::net::TcpStream::connect(first).is_err());
    until(|| place.view("echo").unwrap().workers.len() == 1);
    block_on(async {
        assert_eq!(place.client("echo").call(&Say::default()).await.unwrap().text, "second");
    });
}

fn what_died_at_an_upgrade_is_replaced() {
    let mut place = Place::of(vec![farm("echo", 2), farm("other", 1)]);
    let supervisor = place.supervise(None);
    let workers = place.until_ready("echo", 2);
    place.until_ready("other", 1);
    let others = place.view("other").unwrap().manager;
    // Both stand still while one manager dies and a worker of the other: the news is there only when they go on.
    let echos = place.view("echo").unwrap().manager;
    let shell = |signal: &str, pids: &[u32]| {
        let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let line = format!("kill -{signal} {}", pids.join(" "));
        assert!(std::process::Command::new("sh").args(["-c", &line]).status().unwrap().success());
    };
    shell("STOP", &[supervisor, echos]);
    shell("KILL", &[others, workers[0]]);
    let program = copy(&place, "second");
    let farms = vec!["echo".to_owned()];
    let run_dir = place.run_dir();
    let asked = program.clone();
    let asking = std::thread::spawn(move || upgrade(&run_dir, &asked, &farms, PATIENCE));
    until(|| place.run_dir().join("upgrade").try_exists().unwrap());
    shell("CONT", &[supervisor, echos]);
    asking.join().unwrap().unwrap();
    until(|| place.view("other").is_some_and(|view| view.manager != others));
    place.until_ready("other", 1);
    until(|| {
        place.ready("echo").len() == 2
            && place.ready("echo").iter().all(|pid| !workers.contains(pid))
    });
    until(|| place.view("echo").unwrap().workers.len() == 2);
    assert_eq!(place.view("echo").unwrap().crashes, 1);
    assert!(!Path::new(&format!("/proc/{}", workers[0])).try_exists().unwrap(), "waited for");
}

fn a_program_that_would_not_begin_is_not_taken() {
    let mut place = Place::new(1);
    let supervisor = place.supervise(None);
    let before = place.until_ready("echo", 1);
    let ours = std::env::current_exe().unwrap();
    let stays = |place: &Place, program: &Path| {
        let result = ask(place, program, Duration::from_secs(2));
        assert!(matches!(result, Err(UpgradeError::Stayed(_))), "{result:?}");
        assert!(runs(supervisor, &ours));
        assert_eq!(place.ready("echo"), before);
    };
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    };
    // What is no program for this machine.
    let text = place.path("text");
    std::fs::write(&text, "no program\n").unwrap();
    mode(&text, 0o755);
    stays(&place, &text);
    // A program that finds the configuration wrong.
    let program = copy(&place, "second");
    std::fs::write(place.path("config.json"), "not a configuration").unwrap();
    stays(&place, &program);
    // What others could have changed is not even asked for.
    place.write_config();
    mode(&program, 0o777);
    let result = ask(&place, &program, PATIENCE);
    assert!(
        matches!(&result, Err(UpgradeError::Refused(why)) if why.contains("chmod")),
        "{result:?}"
    );
    // A request by somebody else is not followed, whoever brought the signal.
    mode(&program, 0o755);
    let request = place.run_dir().join("upgrade");
    std::fs::write(&request, format!("{}\n", program.display())).unwrap();
    mode(&request, 0o666);
    place.signal(Signal::Upgrade);
    std::thread::sleep(Duration::from_millis(300));
    assert!(runs(supervisor, &ours));
    block_on(async {
        place.client("echo").call(&Say::default()).await.unwrap();
    });
    // After all this it still can.
    ask(&place, &program, PATIENCE).unwrap();
    assert!(runs(supervisor, &program));
}

fn nothing_running_cannot_be_upgraded() {
    let place = Place::new(1);
    let program = std::env::current_exe().unwrap();
    assert!(matches!(ask(&place, &program, PATIENCE), Err(UpgradeError::NotRunning(_))));
}

fn a_state_of_another_version() {
    let mut place = Place::new(1);
    let address = free_address();
    place.config.farms[0].tcp = Some(address);
    place.write_config();
    let listener = sys::listen_tcp(address).unwrap();
    let (ours, theirs) = sys::packet::pair().unwrap();
    let config = place.path("config.json").display().to_string();
    let mut spawn = sys::Spawn::new(["grange".to_owned(), "run".to_owned(), config])
        .without_variable("FARMS_TEST");
    let fd = spawn.descriptor(listener.as_fd());
    let control = spawn.descriptor(theirs.as_fd());
    let legacy = format!(
        r#"{{"version":999,"tcp":[{{"name":"","address":"{address}","fd":{fd}}}],"descriptors":[{control}],"state":{{"what":"ever"}}}}"#
    );
    let memory = sys::sealed_memfd("grange-upgrade", legacy.as_bytes()).unwrap();
    let number = spawn.descriptor(memory.as_fd());
    let process = spawn.variable("GRANGE_UPGRADE_FD", number.to_string()).start().unwrap();
    drop((listener, theirs));
    // Held open by the supervisor from its first moment on.
    connect(address);
    place.until_ready("echo", 1);
    // Whoever was at the other end of what it does not know sees it closed.
    assert!(matches!(sys::packet::receive(&ours).unwrap(), sys::packet::Received::End));
    process.signal(Signal::Terminate).unwrap();
    let ended = Rc::new(Cell::new(None));
    until(|| {
        ended.set(process.ended().unwrap());
        ended.get().is_some()
    });
    assert_eq!(ended.get(), Some(sys::Ended::Exit(0)));
    assert!(
        place.view("echo").is_none_or(|view| {
            view.workers.iter().all(|line| line.state != WorkerState::Ready)
        })
    );
}
