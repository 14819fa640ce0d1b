//! Grange on several hosts: each farm where the cluster's text says, a database with a standby, next hops, and a client.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::signal_pid;
use crate::{Host, Network, Postgres, Process, descendants, open_to, program, run, until};

/// Where SMTP is spoken.
const SMTP: u16 = 25;

/// What runs where.
const NODES: &[(&str, &[&str])] = &[
    ("mx1", &["smtpserver"]),
    ("mx2", &["smtpserver"]),
    ("r1", &["router", "requeue"]),
    ("q1", &["scheduler"]),
    ("q2", &["scheduler"]),
    ("d1", &["smtp", "local", "error"]),
    ("d2", &["smtp"]),
];

/// The hosts of a cluster, with Grange not yet started.
pub struct Cluster {
    /// Its nodes by name. They end before the network does.
    pub nodes: BTreeMap<String, Node>,
    /// The database's primary.
    pub primary: Postgres,
    /// Its standby.
    pub standby: Postgres,
    /// The primary's host.
    pub primary_host: Host,
    /// The standby's host.
    pub standby_host: Host,
    /// Where next hops listen.
    pub sink: Host,
    /// Where clients are.
    pub client: Host,
    _network: Network,
    _folder: TempDir,
}

/// A host that runs some of the farms.
pub struct Node {
    /// The host.
    pub host: Host,
    folder: PathBuf,
    process: Option<Process>,
}

impl Cluster {
    /// Makes the network, the database and the keys, and writes each node's configuration. `more` is added to each.
    pub fn new(more: &str) -> Self {
        let folder =
            tempfile::Builder::new().prefix("grange-").tempdir().expect("a scratch directory");
        open_to(folder.path(), 0o755);
        let mut network = Network::new();
        let (primary_host, standby_host) = (network.host("db1"), network.host("db2"));
        let (sink, client) = (network.host("sink"), network.host("client"));
        let primary = Postgres::primary(&primary_host, &folder.path().join("db1"), "ANY 1 (db2)");
        let standby = folder.path().join("db2");
        let standby = Postgres::standby(&standby_host, &standby, primary_host.address, "db2");
        let hosts: Vec<Host> = NODES.iter().map(|(name, _)| network.host(name)).collect();
        let keys = folder.path().join("authority");
        grange(&["keys", "init"], &keys, &[]);
        let mut nodes = BTreeMap::new();
        for (host, (name, farms)) in hosts.iter().zip(NODES) {
            let node = Node { host: host.clone(), folder: folder.path().join(name), process: None };
            std::fs::create_dir(&node.folder).expect("a folder can be made");
            open_to(&node.folder, 0o755);
            let (full, farms) = (format!("{name}.example.test"), farms.join(","));
            let out = node.folder.join("keys");
            let to = out.to_str().expect("a path of letters");
            let farms = format!("{farms},status,admin");
            grange(&["keys", "issue"], &keys, &[&full, "--farms", &farms, "--out", to]);
            give_to_workers(&out);
            let store = format!(
                "postgres://grange@{},{}/grange",
                primary_host.address, standby_host.address
            );
            let text = configuration(&node.folder, name, &store, &hosts, &sink) + more;
            std::fs::write(node.config(), text).expect("the configuration can be written");
            nodes.insert((*name).to_owned(), node);
        }
        let cluster = Self {
            nodes,
            primary,
            standby,
            primary_host,
            standby_host,
            sink,
            client,
            _network: network,
            _folder: folder,
        };
        cluster.node("q1").ok(&["store", "init"]);
        cluster
    }

    /// A node by its name.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.get(name).unwrap_or_else(|| panic!("there is no node {name}"))
    }

    /// Starts Grange on all nodes and waits until mail is taken and there is one active scheduler.
    pub fn start(&mut self) {
        for node in self.nodes.values_mut() {
            node.start();
        }
        until("all farms are ready", || {
            let status = self.node("mx1").status()?;
            let hosts = status["hosts"].as_array()?;
            let ready = hosts.iter().all(|host| {
                let mut farms = host["farms"].as_array().into_iter().flatten();
                farms.all(|farm| farm["on_demand"] == true || has_worker(farm))
            });
            (ready && hosts.len() == NODES.len() && status["queue"].is_object()).then_some(())
        });
    }

    /// The name of the node whose scheduler owns the queue, by the database's word.
    pub fn owner(&self, database: &Postgres) -> String {
        let owner = database.sql("SELECT owner FROM shard_epoch WHERE shard = 0");
        // As in `scheduler/1 on q1.example.test, process 4711`.
        let host = owner.split_once(" on ").map_or("", |(_, host)| host);
        host.split('.').next().unwrap_or_default().to_owned()
    }
}

fn has_worker(farm: &Value) -> bool {
    let mut workers = farm["workers"].as_array().into_iter().flatten();
    workers.any(|worker| worker["state"] == "ready" || worker["state"] == "standby")
}

impl Node {
    fn config(&self) -> PathBuf {
        self.folder.join("grange.toml")
    }

    /// Where it takes mail, if it does.
    pub fn smtp(&self) -> SocketAddr {
        (self.host.address, SMTP).into()
    }

    /// Starts its farms.
    pub fn start(&mut self) {
        let log = OpenOptions::new().append(true).create(true).open(self.folder.join("log"));
        let log = log.expect("a log file");
        let mut command = self.host.command(program());
        command.args(["run", "--config"]).arg(self.config()).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
        self.process = Some(Process::spawn("grange", &mut command));
    }

    /// Its processes, the first of which is that of `grange run`.
    pub fn processes(&self) -> Vec<u32> {
        let Some(process) = &self.process else { return Vec::new() };
        [process.pid()].into_iter().chain(descendants(process.pid())).collect()
    }

    /// Sends a signal to one of its processes.
    pub fn signal(&self, pid: u32, signal: Signal) {
        assert!(self.processes().contains(&pid), "{pid} is not a process of {}", self.host.name);
        signal_pid(pid, signal);
    }

    /// Kills all its processes at once.
    pub fn kill(&mut self) {
        for pid in self.processes() {
            signal_pid(pid, Signal::KILL);
        }
        if let Some(mut process) = self.process.take() {
            until("it has ended", || process.ended());
        }
    }

    /// Runs a command of grange's on it, which must succeed, and gives what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let mut command = self.host.command(program());
        succeed(command.args(arguments).arg("--config").arg(self.config()))
    }

    /// What `grange status --json` says on it, if it says anything.
    pub fn status(&self) -> Option<Value> {
        let mut command = self.host.command(program());
        let output = run(command.args(["status", "--json", "--config"]).arg(self.config()));
        serde_json::from_slice(&output.stdout).ok()
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(40);
            let end = lines.get(from..).unwrap_or_default().join("\n");
            eprintln!("--- the end of the log of {}\n{end}\n---", self.host.name);
        }
    }
}

fn grange(command: &[&str], folder: &Path, more: &[&str]) {
    succeed(Command::new(program()).args(command).arg(folder).args(more));
}

fn succeed(command: &mut Command) -> String {
    let output = run(command);
    let (stdout, stderr) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}: {}\n{stdout}{stderr}", output.status);
    stdout.into_owned()
}

/// Workers read the keys.
fn give_to_workers(keys: &Path) {
    succeed(Command::new("chown").args(["-R", "nobody"]).arg(keys));
}

fn configuration(folder: &Path, name: &str, store: &str, hosts: &[Host], sink: &Host) -> String {
    let entries = hosts.iter().zip(NODES).map(|(host, (name, farms))| {
        format!(
            "  {{ name = \"{name}.example.test\", address = \"{}\", farms = {farms:?} }},\n",
            host.address
        )
    });
    let (entries, folder, sink) = (entries.collect::<String>(), folder.display(), sink.address);
    format!(
        r#"hostname = "{name}.example.test"
data_dir = "{folder}/data"
run_dir  = "{folder}/run"
user     = "nobody"

[queue]
store = "{store}"

[cluster]
keys = "{folder}/keys"
hosts = [
{entries}]

[smtpserver]
listen = [{{ address = "0.0.0.0:{SMTP}", service = "mx" }}]
relay_from = ["10.77.0.0/16"]

[router]
routes = [
  {{ domain = "a.example", channel = "smtp", host = "[{sink}]:2525" }},
  {{ domain = "b.example", channel = "smtp", host = "[{sink}]:2526" }},
  {{ domain = "*",         channel = "smtp", host = "[{sink}]:2527" }},
]

[scheduler]
retry = ["1s", "2s"]
"#
    )
}
