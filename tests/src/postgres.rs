//! PostgreSQL servers of a test, each on a host of its network: a primary, and standbys that share each commit with it.

use std::fs::OpenOptions;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::{Host, Process, find, open_to, run, until};

/// Who owns the database and may do all in it.
const USER: &str = "grange";

/// A server.
pub struct Postgres {
    host: Host,
    folder: PathBuf,
    process: Option<Process>,
    /// Standbys of which one must have a commit before it is acknowledged; empty for none.
    standbys: String,
}

impl Postgres {
    /// Makes a server with an empty database `grange`, and starts it. With `standbys`, such as `ANY 1 (two)`, a commit waits for one.
    pub fn primary(host: &Host, folder: &Path, standbys: &str) -> Self {
        make_folder(folder);
        let mut command = as_postgres(host, &program("initdb"));
        command.args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]);
        succeed(command.arg(format!("--username={USER}")).arg("-D").arg(folder));
        let access = "local all all trust\nhost all all samenet trust\nhost all all 127.0.0.1/32 trust\n\
            host replication all samenet trust\n";
        std::fs::write(folder.join("pg_hba.conf"), access).expect("our own file");
        // The database is made before a commit waits for a standby that is not there yet.
        let mut server = Self::of(host, folder, "");
        server.start();
        server.sql_in("postgres", &format!("CREATE DATABASE {USER}"));
        if !standbys.is_empty() {
            server.standbys = standbys.to_owned();
            server.stop();
            server.start();
        }
        server
    }

    /// Makes a standby of a primary and starts it, under the name that `standbys` of the primary knows it by.
    pub fn standby(host: &Host, folder: &Path, primary: Ipv4Addr, name: &str) -> Self {
        make_folder(folder);
        let mut command = as_postgres(host, &program("pg_basebackup"));
        let source = format!("host={primary} user={USER} application_name={name}");
        command.arg("-d").arg(source).arg("-D").arg(folder);
        succeed(command.args(["-R", "-X", "stream", "--checkpoint=fast", "--no-sync"]));
        let mut server = Self::of(host, folder, "");
        server.start();
        server
    }

    fn of(host: &Host, folder: &Path, standbys: &str) -> Self {
        let standbys = standbys.to_owned();
        Self { host: host.clone(), folder: folder.to_owned(), process: None, standbys }
    }

    /// Starts it, and waits until it answers.
    pub fn start(&mut self) {
        let mut command = as_postgres(&self.host, &program("postgres"));
        let settings = [
            format!("listen_addresses={},127.0.0.1", self.host.address),
            "unix_socket_directories=".to_owned(),
            format!("synchronous_standby_names={}", self.standbys),
            "max_connections=200".to_owned(),
            "shared_buffers=64MB".to_owned(),
            "wal_level=replica".to_owned(),
            "hot_standby=on".to_owned(),
            // A dead peer is noticed within seconds, as docs/several-hosts.md advises.
            "wal_sender_timeout=5s".to_owned(),
            "wal_receiver_timeout=5s".to_owned(),
        ];
        for setting in &settings {
            command.arg("-c").arg(setting);
        }
        let log = self.folder.with_extension("log");
        let log = OpenOptions::new().create(true).append(true).open(log).expect("a log file");
        command.arg("-D").arg(&self.folder).stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
        self.process = Some(Process::spawn("postgres", &mut command));
        let asks = || as_postgres(&self.host, &program("pg_isready"));
        until("PostgreSQL answers", || {
            let mut command = asks();
            command.args(["-q", "-h", "127.0.0.1", "-U", USER]);
            run(&mut command).status.success().then_some(())
        });
    }

    /// Stops it in good order: connections are closed.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::INT);
            until("PostgreSQL stops", || process.ended());
        }
    }

    /// Kills all its processes at once.
    pub fn kill(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let family = crate::descendants(process.pid());
        for pid in [process.pid()].into_iter().chain(family) {
            crate::process::signal_pid(pid, Signal::KILL);
        }
        until("PostgreSQL has gone", || process.ended());
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        let mut command = as_postgres(&self.host, &program("pg_ctl"));
        succeed(command.args(["promote", "-w", "-t", "60", "-D"]).arg(&self.folder));
    }

    /// Asks its database `grange` and gives what it prints: a line a row, `|` between columns.
    pub fn sql(&self, statement: &str) -> String {
        self.sql_in(USER, statement)
    }

    fn sql_in(&self, database: &str, statement: &str) -> String {
        let mut command = as_postgres(&self.host, &program("psql"));
        command.args(["-h", "127.0.0.1", "-U", USER, "-d", database, "-Atqc", statement]);
        succeed(&mut command).trim_end().to_owned()
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A program of the newest PostgreSQL that is installed.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut versions: Vec<(u32, PathBuf)> = versions
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect();
    versions.sort();
    match versions.pop() {
        Some((_, folder)) => folder.join("bin").join(name),
        None => panic!("PostgreSQL is not installed; as root, cargo xtask test installs it"),
    }
}

/// A command of PostgreSQL's on a host. It refuses to run as root.
fn as_postgres(host: &Host, program: &Path) -> Command {
    let mut command = host.command(find("setpriv"));
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program);
    command.current_dir("/");
    command
}

fn make_folder(folder: &Path) {
    std::fs::create_dir(folder).expect("a folder can be made");
    open_to(folder, 0o700);
    succeed(Command::new("chown").arg("nobody:nogroup").arg(folder));
}

fn succeed(command: &mut Command) -> String {
    let output = run(command);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
