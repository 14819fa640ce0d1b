//! The roles of this program's processes.

use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::exit;
use std::rc::Rc;
use std::time::Duration;

use farm::manager::{Farm, InPlace, JOBS, Mode, NamedSocket, TcpListen};
use farm::supervisor::Plan;
use farm::{Worker, WorkerError, Workers};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::echo::{Echo, Echoer, Said, Settings};

/// A configuration file of the tests.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Config {
    /// Where everything is.
    pub(crate) directory: PathBuf,
    /// The farms by name, in the order of their starting.
    pub(crate) farms: Vec<FarmConfig>,
}

/// One farm.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct FarmConfig {
    pub(crate) name: String,
    pub(crate) workers: Workers,
    /// `elastic`, `one`, or `demand`.
    pub(crate) mode: String,
    pub(crate) every_ms: u64,
    pub(crate) tcp: Option<SocketAddr>,
    pub(crate) jobs: Option<SocketAddr>,
    pub(crate) keys: Option<PathBuf>,
    pub(crate) drain_ms: u64,
    pub(crate) on_crash: Option<String>,
    pub(crate) user: Option<(u32, u32)>,
    /// Sockets besides its own.
    pub(crate) more_sockets: Vec<String>,
    /// The one setting that may change while a worker runs; without it all may.
    pub(crate) in_place: Option<String>,
    pub(crate) settings: Settings,
}

impl Config {
    /// Reads the file anew.
    fn read(path: &Path) -> Result<Self, String> {
        let text = std::fs::read(path).map_err(|error| error.to_string())?;
        serde_json::from_slice(&text).map_err(|error| error.to_string())
    }

    fn farm(&self, name: &str) -> Result<Farm, String> {
        let found = self.farms.iter().find(|farm| farm.name == name);
        let farm = found.ok_or_else(|| format!("no farm {name}"))?;
        let tcp = farm.tcp.map(|address| TcpListen { name: "tcp".into(), address });
        Ok(Farm {
            name: farm.name.clone(),
            workers: farm.workers.clone(),
            sockets: [format!("{name}.echo")]
                .into_iter()
                .chain(farm.more_sockets.iter().cloned())
                .map(|name| NamedSocket { name, admin: false })
                .collect(),
            tcp: tcp.into_iter().collect(),
            jobs: farm.jobs,
            callers: [(format!("{name}.echo"), vec!["asker".to_owned()])].into(),
            keys: farm.keys.clone(),
            places: BTreeMap::new(),
            settings: serde_json::to_vec(&farm.settings).unwrap(),
            in_place: farm.in_place.clone().map_or(InPlace::All, InPlace::Member),
            counters: vec!["answered_total".into()],
            run_dir: self.directory.join("run"),
            data_dir: self.directory.join("data"),
            user: farm.user,
            admin_group: None,
            mode: match farm.mode.as_str() {
                "one" => Mode::One,
                "demand" => Mode::OnDemand { every: Duration::from_millis(farm.every_ms) },
                _ => Mode::Elastic,
            },
            drain: Duration::from_millis(farm.drain_ms),
            drain_reload: Duration::from_secs(20),
            on_crash: farm.on_crash.clone(),
        })
    }

    fn plan(&self, path: &Path) -> Plan {
        let listens = |farm: &FarmConfig| {
            let tcp = farm.tcp.map(|address| TcpListen { name: "tcp".into(), address });
            let jobs = farm.jobs.map(|address| TcpListen { name: JOBS.into(), address });
            let name = farm.name.clone();
            tcp.into_iter().chain(jobs).map(move |listen| (name.clone(), listen))
        };
        Plan {
            farms: self.farms.iter().map(|farm| farm.name.clone()).collect(),
            tcp: self.farms.iter().flat_map(listens).collect(),
            arguments: vec![path.display().to_string()],
            run_dir: self.directory.join("run"),
            data_dir: self.directory.join("data"),
            user: None,
            admin_group: None,
        }
    }
}

fn finish<E: std::fmt::Display>(result: Result<(), E>) -> ! {
    match result {
        Ok(()) => exit(0),
        Err(error) => {
            eprintln!("{error}");
            exit(78)
        }
    }
}

/// `grange farm NAME CONFIG`
pub(crate) fn manager(arguments: &[String]) -> ! {
    let (name, path) = (arguments[2].clone(), PathBuf::from(&arguments[3]));
    let mut reload = || Config::read(&path).and_then(|config| config.farm(&name));
    finish(
        reload().map_err(|error| error.to_string()).and_then(|farm| {
            farm::manager::run(farm, &mut reload).map_err(|error| error.to_string())
        }),
    )
}

/// `grange run CONFIG`
pub(crate) fn supervisor(arguments: &[String]) -> ! {
    let path = PathBuf::from(&arguments[2]);
    let mut reload = || Config::read(&path).map(|config| config.plan(&path));
    finish(reload().and_then(|plan| {
        farm::supervisor::run(plan, &mut reload).map_err(|error| error.to_string())
    }))
}

/// `grange connect SOCKET`: prints the first line that the socket says.
pub(crate) fn connect(arguments: &[String]) -> ! {
    let stream = std::os::unix::net::UnixStream::connect(&arguments[2]);
    finish(stream.map(|stream| {
        let mut line = String::new();
        std::io::BufReader::new(stream).read_line(&mut line).unwrap();
        println!("{line}");
    }))
}

/// `grange worker NAME/1`
pub(crate) fn worker() -> ! {
    let worker = Worker::start().unwrap();
    let result = Worker::block_on(serve(worker)).unwrap();
    finish(result)
}

async fn serve(worker: Worker) -> Result<(), WorkerError> {
    let settings: Settings = worker.settings()?;
    if settings.fails {
        exit(3);
    }
    let said =
        Said { worker: worker.name().into(), pid: std::process::id(), text: settings.text.clone() };
    let said = Rc::new(std::cell::RefCell::new(said));
    let echoer = Echoer { said: said.clone(), worker: worker.clone() };
    worker.serve::<Echo>(&format!("{}.echo", worker.farm()), Rc::new(echoer))?;
    for (name, _) in worker.tcp_listeners() {
        let owner = worker.clone();
        worker.accept(&name, move |stream, _, connection| {
            let worker = owner.clone();
            tokio::task::spawn_local(async move {
                let _connection = connection;
                greet(&worker, stream).await;
            });
        })?;
    }
    if let Some(path) = &settings.stands_by
        && !path.try_exists().unwrap()
    {
        worker.stand_by();
        let appears = async {
            while !path.try_exists().unwrap() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        worker.until_draining(appears).await;
        if worker.is_draining() {
            return Ok(());
        }
        worker.take_over();
    }
    worker.ready();
    if let Some(passes) = settings.passes {
        one_pass(&worker, &passes, settings.come_again_ms).await;
        return Ok(());
    }
    let updated = worker.clone();
    tokio::task::spawn_local(async move {
        while let Ok(settings) = updated.new_settings::<Settings>().await {
            said.borrow_mut().text = settings.text;
        }
    });
    worker.drained().await;
    Ok(())
}

/// Says who we are and how often this client is in the farm, and holds the connection until the client closes it.
async fn greet(worker: &Worker, mut stream: tokio::net::TcpStream) {
    let tally = worker.tally_enter(4711);
    let line = format!("{} {tally} {}\n", worker.name(), worker.connections_in_farm());
    let _ = stream.write_all(line.as_bytes()).await;
    let mut byte = [0; 1];
    let _ = stream.read(&mut byte).await;
    worker.tally_leave(4711);
}

async fn one_pass(worker: &Worker, passes: &Path, come_again_ms: Option<u64>) {
    let before = std::fs::read_to_string(passes).unwrap_or_default();
    let mut file = std::fs::File::options().create(true).append(true).open(passes).unwrap();
    writeln!(file, "{}", std::process::id()).unwrap();
    if let Some(after) = come_again_ms
        && before.is_empty()
    {
        worker.come_again(Duration::from_millis(after));
    }
    // As long as somebody who asked is being answered.
    tokio::time::sleep(Duration::from_millis(100)).await;
}
