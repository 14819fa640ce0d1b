//! A scratch directory with a configuration in it, and Grange running there.

use std::fs::OpenOptions;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::process::signal_pid;
use crate::{Faults, Follow, Port, Process, find, free_port, is_root, program, run, until};

/// Set, a failing test leaves its site's directory and says where it is.
const KEEP: &str = "GRANGE_TEST_KEEP";

/// How much of the log a failing test shows, in lines.
const LOG_LINES: usize = 80;

/// A place for one instance of Grange.
pub struct Site {
    folder: TempDir,
    /// Where it takes mail.
    pub smtp: Port,
    /// Where its next hop is.
    pub sink: Port,
    text: String,
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os(KEEP).is_some() {
            self.folder.disable_cleanup(true);
            eprintln!("{KEEP}: {} is kept", self.folder.path().display());
        }
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

impl Site {
    /// Makes a site with the manual's configuration, whose ports, paths, `user` and `retry` are changed, and nothing else.
    pub fn new() -> Self {
        let folder =
            tempfile::Builder::new().prefix("grange-").tempdir().expect("a scratch directory");
        // The workers' user must be able to pass through.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("our own directory");
        let (smtp, sink) = (free_port(), free_port());
        let text = configuration(folder.path(), smtp.number, sink.number);
        let site = Self { folder, smtp, sink, text };
        site.write();
        site
    }

    /// Replaces a part of the configuration, which must be there.
    pub fn replace(mut self, from: &str, to: &str) -> Self {
        assert!(
            self.text.contains(from),
            "the configuration does not hold {from:?}:\n{}",
            self.text
        );
        self.text = self.text.replace(from, to);
        self.write();
        self
    }

    /// Adds to the end of the configuration.
    pub fn append(mut self, text: &str) -> Self {
        self.text.push_str(text);
        self.write();
        self
    }

    /// The configuration's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    fn write(&self) {
        std::fs::write(self.config(), &self.text).expect("the configuration can be written");
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.path("grange.toml")
    }

    /// A file of the site.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A named job socket.
    pub fn socket(&self, name: &str) -> PathBuf {
        self.path("run/sockets").join(name)
    }

    /// The messages of a local mailbox, oldest first.
    pub fn mailbox(&self, domain: &str, user: &str) -> Vec<String> {
        let folder = self.path("data/mail").join(domain).join(user).join("new");
        let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
        let mut files: Vec<PathBuf> =
            entries.map(|entry| entry.expect("an entry").path()).collect();
        files.sort();
        let read = |file| std::fs::read(file).expect("a message can be read");
        files
            .into_iter()
            .map(read)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }

    /// Arming fault points of what is started from now on.
    pub fn faults(&self) -> Faults {
        Faults::new(Faults::folder_in(self.folder.path()))
    }

    /// A command of grange's, with this site's configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).arg("--config").arg(self.config());
        let faults = Faults::folder_in(self.folder.path());
        if faults.is_dir() {
            command.env("GRANGE_FAULTS", faults);
        }
        command
    }

    /// Runs a command of grange's to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        run(&mut self.command(arguments))
    }

    /// Runs a command of grange's, which must succeed, and gives what it printed.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (stdout, stderr) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(
            output.status.success(),
            "grange {arguments:?}: {}\n{stdout}{stderr}",
            output.status
        );
        stdout.into_owned()
    }

    /// Runs a command of grange's, which must succeed, and reads the JSON that it printed.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let text = self.ok(arguments);
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("grange {arguments:?}: {error}\n{text}"))
    }

    /// Messages in the queue, S1 included, at most 100,000.
    pub fn queued(&self) -> Vec<Value> {
        let page = self.json(&["queue", "list", "--limit", "100000", "--json"]);
        page["messages"].as_array().cloned().expect("a list of messages")
    }

    /// Waits until the queue is empty.
    pub fn wait_empty(&self) {
        until("the queue is empty", || {
            let status = self.json(&["status", "--json"]);
            (status["queue"]["messages"] == 0 && self.queued().is_empty()).then_some(())
        });
    }

    /// Starts all farms and waits until they are ready.
    pub fn start(&self) -> Running<'_> {
        let running = self.spawn(&["run"]);
        running.wait_ready(|_| true);
        running
    }

    /// Starts all farms with these variables in their environment, and waits until they are ready.
    pub fn start_with(&self, variables: &[(&str, &str)]) -> Running<'_> {
        let mut command = self.command(&["run"]);
        let running = self.spawn_command(command.envs(variables.iter().copied()));
        running.wait_ready(|_| true);
        running
    }

    /// Starts all farms, each process of which may have so many files open, and waits until they are ready.
    pub fn start_with_open_files(&self, files: u32) -> Running<'_> {
        let mut command = Command::new(find("prlimit"));
        command.arg(format!("--nofile={files}:{files}")).arg(program());
        let running = self.spawn_command(command.args(["run", "--config"]).arg(self.config()));
        running.wait_ready(|_| true);
        running
    }

    /// Starts some farms and waits until they are ready.
    pub fn start_only(&self, farms: &[&str]) -> Running<'_> {
        let running = self.spawn(&["run", "--only", &farms.join(",")]);
        running.wait_ready(|farm| farms.contains(&farm));
        running
    }

    /// Starts a command of grange's that stays, and does not wait for anything.
    pub fn spawn(&self, arguments: &[&str]) -> Running<'_> {
        self.spawn_command(&mut self.command(arguments))
    }

    fn spawn_command(&self, command: &mut Command) -> Running<'_> {
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.path("log"))
            .expect("a log file");
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a descriptor")).stderr(log);
        Running { process: Process::spawn("grange", command), site: self }
    }

    /// Follows the log from here on.
    pub fn follow(&self) -> Follow {
        Follow::from_end(self.path("log"))
    }

    /// What was logged so far.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.path("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Grange, running in a site. Dropped, it is stopped; a failing test shows the end of its log.
pub struct Running<'site> {
    process: Process,
    site: &'site Site,
}

impl Running<'_> {
    /// Waits until each of these farms has a ready worker, or needs none now, and mail is taken.
    pub fn wait_ready(&self, is_started: impl Fn(&str) -> bool) {
        until("all farms are ready", || {
            let output = self.site.run(&["status", "--json"]);
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            let farms = status["farms"].as_array()?;
            let mut started =
                farms.iter().filter(|farm| farm["farm"].as_str().is_some_and(&is_started));
            let is_ready = |farm: &Value| {
                let mut workers = farm["workers"].as_array().into_iter().flatten();
                farm["on_demand"] == true || workers.any(|worker| worker["state"] == "ready")
            };
            let takes_mail = !is_started("smtpserver") || self.greets();
            (started.all(|farm| farm["alive"] == true && is_ready(farm)) && takes_mail)
                .then_some(())
        });
    }

    fn greets(&self) -> bool {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.site.smtp.number));
        stream.is_ok()
    }

    /// The process id of `grange run`.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The process itself.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What `grange status --json` says of a farm, which must be there.
    pub fn farm(&self, name: &str) -> Value {
        self.farm_if_any(name).unwrap_or_else(|| panic!("there is no farm {name}"))
    }

    /// What `grange status --json` says of a farm; nothing while it has no manager.
    pub fn farm_if_any(&self, name: &str) -> Option<Value> {
        let output = self.site.run(&["status", "--json"]);
        let status: Value = serde_json::from_slice(&output.stdout).ok()?;
        status["farms"].as_array()?.iter().find(|farm| farm["farm"] == name).cloned()
    }

    /// The process id of a farm's manager.
    pub fn manager(&self, farm: &str) -> u32 {
        pid(&self.farm(farm)["manager"])
    }

    /// The process ids of a farm's ready workers.
    pub fn workers(&self, farm: &str) -> Vec<u32> {
        let farm = self.farm(farm);
        let workers = farm["workers"].as_array().expect("a list of workers");
        workers
            .iter()
            .filter(|worker| worker["state"] == "ready")
            .map(|worker| pid(&worker["pid"]))
            .collect()
    }

    /// Sends a signal to one of its processes.
    pub fn signal(&self, pid: u32, signal: Signal) {
        assert!(self.try_signal(pid, signal), "{pid} is not a process of this test");
    }

    /// Sends a signal to one of its processes, if it still is one.
    pub fn try_signal(&self, pid: u32, signal: Signal) -> bool {
        let ours = pid == self.pid() || crate::descendants(self.pid()).contains(&pid);
        if ours {
            signal_pid(pid, signal);
        }
        ours
    }

    /// Ends all its processes at once, as a machine does that loses its power, and waits until they have gone.
    pub fn kill_all(&mut self) {
        let family = crate::descendants(self.pid());
        // Whoever would start another in the place of one that died goes before it.
        for pid in [self.pid()].into_iter().chain(family.iter().copied()) {
            signal_pid(pid, Signal::KILL);
        }
        until("it has ended", || self.process.ended());
        until("all its processes have ended", || {
            family.iter().all(|pid| matches!(crate::state_of(*pid), None | Some('Z'))).then_some(())
        });
    }

    /// Asks it to stop, and waits until everything it started has ended.
    pub fn stop(mut self) -> ExitStatus {
        let family = crate::descendants(self.pid());
        let status = self.process.stop();
        until("all its processes end", || {
            family.iter().all(|pid| matches!(crate::state_of(*pid), None | Some('Z'))).then_some(())
        });
        status
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.site.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(LOG_LINES);
            eprintln!(
                "--- the end of the log\n{}\n---",
                lines.get(from..).unwrap_or_default().join("\n")
            );
        }
    }
}

fn pid(value: &Value) -> u32 {
    value.as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a process id")
}

fn configuration(folder: &Path, smtp: u16, sink: u16) -> String {
    let user = if is_root() { "user     = \"nobody\"\n" } else { "" };
    let folder = folder.display();
    format!(
        r#"hostname = "mta.example.test"
data_dir = "{folder}/data"
run_dir  = "{folder}/run"
{user}
[queue]
store = "spool"

[smtpserver]
listen = [{{ address = "127.0.0.1:{smtp}", service = "mx" }}]
relay_from = ["127.0.0.0/8", "::1/128"]
message_bytes_max = 52428800
workers = {{ start = 2, max = 2, spare_min = 0, spare_max = 2, jobs_max = 1000000, concurrency = 10000 }}

[contentfilter]
filters = []

[router]
aliases = []
routes = [
  {{ domain = "example.test", channel = "local" }},
  {{ domain = "*",            channel = "smtp", host = "[127.0.0.1]:{sink}" }},
]

[scheduler]
retry = ["1s", "2s"]
expire = "5d"

[channel.smtp]
agent = "smtp"
[channel.local]
agent = "local"
mailbox = "{{data_dir}}/mail/{{domain}}/{{user}}/"
[channel.error]
agent = "error"
"#
    )
}
