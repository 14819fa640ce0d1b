//! What the tests need: a place, processes that end with the test, waiting that ends.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use farm::Workers;
use farm::scoreboard::{View, WorkerState, read_all};
use socket::{Client, ClientSettings};

use crate::echo::{Echo, Settings};
use crate::program::{Config, FarmConfig};

/// A test by name.
pub(crate) type Test = (&'static str, fn());

/// Runs the tests that the arguments choose, each in a process of its own so that one that hangs or panics stops no other.
pub(crate) fn run_all(tests: &[Test], arguments: &[String]) {
    if let Ok(only) = std::env::var("FARMS_TEST") {
        let (_, test) = tests.iter().find(|(name, _)| *name == only).expect("a known test");
        return test();
    }
    let words: Vec<&String> =
        arguments.iter().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let is_list = arguments.iter().any(|argument| argument == "--list");
    let exact = arguments.iter().any(|argument| argument == "--exact");
    let is_chosen = |name: &str| {
        words.is_empty()
            || words.iter().any(|word| if exact { name == **word } else { name.contains(*word) })
    };
    let mut failed = Vec::new();
    for (name, _) in tests.iter().filter(|(name, _)| is_chosen(name)) {
        if is_list {
            println!("{name}: test");
            continue;
        }
        let begun = Instant::now();
        let status = Command::new(std::env::current_exe().unwrap())
            .env("FARMS_TEST", name)
            .status()
            .unwrap();
        let verdict = if status.success() { "ok" } else { "FAILED" };
        println!("test {name} ... {verdict} ({:.1} s)", begun.elapsed().as_secs_f64());
        if !status.success() {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "failed: {failed:?}");
}

/// A directory with a configuration, and the process that runs it.
pub(crate) struct Place {
    directory: tempfile::TempDir,
    pub(crate) config: Config,
    process: Option<Child>,
}

impl Place {
    /// A place with one farm `echo` of so many workers.
    pub(crate) fn new(workers: u32) -> Self {
        Self::of(vec![farm("echo", workers)])
    }

    pub(crate) fn of(farms: Vec<FarmConfig>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = Config { directory: directory.path().to_owned(), farms };
        Self { directory, config, process: None }
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config_path(&self) -> PathBuf {
        self.path("config.json")
    }

    pub(crate) fn write_config(&self) {
        std::fs::write(self.config_path(), serde_json::to_vec(&self.config).unwrap()).unwrap();
    }

    fn command(&self, words: &[&str]) -> Command {
        self.write_config();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(words).arg(self.config_path()).env_remove("FARMS_TEST");
        // Workers panic here on purpose; frames of it would hide what else is said.
        command.env("RUST_BACKTRACE", "0");
        command
    }

    /// Starts the manager of the first farm, alone.
    pub(crate) fn manage(&mut self) -> u32 {
        let name = self.config.farms[0].name.clone();
        let child = self.command(&["farm", &name]).spawn().unwrap();
        let pid = child.id();
        self.process = Some(child);
        pid
    }

    /// Starts another manager of the first farm, and says how it ended and what it wrote.
    pub(crate) fn manage_again(&self) -> (Option<i32>, String) {
        let name = self.config.farms[0].name.clone();
        let output = self.command(&["farm", &name]).stderr(Stdio::piped()).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// Starts the supervisor of all farms.
    pub(crate) fn supervise(&mut self, notify: Option<&PathBuf>) -> u32 {
        let mut command = self.command(&["run"]);
        if let Some(notify) = notify {
            command.env("NOTIFY_SOCKET", notify).env("WATCHDOG_USEC", "200000");
        }
        let child = command.spawn().unwrap();
        let pid = child.id();
        self.process = Some(child);
        pid
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    pub(crate) fn signal(&self, signal: sys::Signal) {
        sys::send_signal(self.pid(), signal).unwrap();
    }

    /// Waits for the process to end; says with which status.
    pub(crate) fn wait(&mut self) -> Option<i32> {
        let mut child = self.process.take().unwrap();
        let mut status = None;
        until(|| {
            status = child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code()
    }

    pub(crate) fn view(&self, farm: &str) -> Option<View> {
        let views = read_all(&self.run_dir()).ok()?;
        views.into_iter().find(|view| view.farm == farm)
    }

    /// Process ids of the ready workers of a farm.
    pub(crate) fn ready(&self, farm: &str) -> Vec<u32> {
        let Some(view) = self.view(farm) else {
            return Vec::new();
        };
        let ready = view.workers.iter().filter(|line| line.state == WorkerState::Ready);
        ready.map(|line| line.pid).collect()
    }

    pub(crate) fn until_ready(&self, farm: &str, workers: usize) -> Vec<u32> {
        until(|| self.ready(farm).len() == workers);
        self.ready(farm)
    }

    pub(crate) fn client(&self, farm: &str) -> Client<Echo> {
        let path = self.run_dir().join("sockets").join(format!("{farm}.echo"));
        Client::new(
            path,
            ClientSettings {
                deadline: Duration::from_secs(20),
                waiting_max: 1000,
                ..ClientSettings::default()
            },
        )
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = sys::send_signal(child.id(), sys::Signal::Terminate);
            let end = Instant::now() + Duration::from_secs(5);
            while Instant::now() < end && child.try_wait().unwrap().is_none() {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An elastic farm of so many workers.
pub(crate) fn farm(name: &str, workers: u32) -> FarmConfig {
    FarmConfig {
        name: name.into(),
        workers: Workers {
            start: workers,
            max: workers,
            spare_min: 0,
            spare_max: workers,
            jobs_max: 0,
            concurrency: 100,
        },
        mode: "elastic".into(),
        every_ms: 3_600_000,
        tcp: None,
        jobs: None,
        keys: None,
        drain_ms: 5000,
        on_crash: None,
        user: None,
        in_place: None,
        more_sockets: Vec::new(),
        settings: Settings {
            text: "first".into(),
            passes: None,
            come_again_ms: None,
            fails: false,
            stands_by: None,
        },
    }
}

/// A TCP address on loopback that was free just now.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Connects and reads the greeting: the worker's name, the tally, the farm's connections.
pub(crate) fn connect(address: SocketAddr) -> (TcpStream, String, u32, u32) {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    let words: Vec<&str> = line.split_whitespace().collect();
    let number = |index: usize| words[index].parse().unwrap();
    (stream, words[0].to_owned(), number(1), number(2))
}

/// Waits until something holds, for at most 20 seconds.
#[track_caller]
pub(crate) fn until(mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < end, "waited 20 seconds in vain");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn is_alive(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
    status.is_ok_and(|status| !status.contains("State:\tZ"))
}

/// A field of a process's status, such as `VmRSS` in KiB.
pub(crate) fn status(pid: u32, field: &str) -> u64 {
    let file = File::open(format!("/proc/{pid}/status")).unwrap();
    let lines = BufReader::new(file).lines().map_while(Result::ok);
    let mut values = lines.filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name == field).then(|| value.split_whitespace().next()?.parse().ok())?
    });
    values.next().unwrap()
}

/// Runs a future as a worker's runtime would, for at most 30 seconds.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    farm::Worker::block_on(async {
        tokio::time::timeout(Duration::from_secs(30), future).await.expect("it ends in time")
    })
    .unwrap()
}

/// Waits within a runtime.
pub(crate) async fn soon(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
