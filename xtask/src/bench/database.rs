//! A PostgreSQL server of a benchmark's own, which commits as a careful operator's does, and what it counts.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::load::free_port;
use super::memory::cpu_of_tree;
use crate::Failure;
use crate::process::{Guarded, find, is_root, output, succeeds};

/// Where Debian keeps PostgreSQL's programs, by version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Who owns the database.
const USER: &str = "grange";
/// How long the server may take to start.
const START: Duration = Duration::from_secs(60);

/// A running server with an empty database.
pub(super) struct Database {
    // Ended when this is dropped.
    server: Guarded,
    port: u16,
}

/// Counts how often the server's processes took something from a client, which is a round trip each; by `perf stat`.
pub(super) struct RoundTrips {
    perf: Guarded,
    file: PathBuf,
}

impl RoundTrips {
    /// Counts from now on, for the connections that there are.
    pub(super) fn start(database: &Database, file: PathBuf) -> Result<Self, Failure> {
        let question = "SELECT string_agg(pid::text, ',') FROM pg_stat_activity \
             WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
        let processes = database.ask(USER, question)?;
        let mut command = Command::new(find("perf").ok_or("perf is not installed")?);
        command
            .args(["stat", "-x", ",", "-e", TAKEN, "--filter", "ret > 0", "-p", &processes, "-o"]);
        command.arg(&file).args(["--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null());
        Ok(Self { perf: Guarded::spawn("perf", &mut command)?, file })
    }

    /// Ends, and says how many there were.
    pub(super) fn stop(mut self) -> Result<f64, Failure> {
        self.perf.finish()?;
        let text = std::fs::read_to_string(&self.file)?;
        let line = text.lines().find(|line| line.split(',').nth(2) == Some(TAKEN));
        let number = line.and_then(|line| line.split(',').next()?.parse().ok());
        number.ok_or_else(|| format!("perf's counts are not understood: {text}").into())
    }
}

/// The server has taken something that a client sent.
const TAKEN: &str = "syscalls:sys_exit_recvfrom";

/// What the server has counted since it started.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counted {
    /// Transactions committed.
    pub(super) transactions: f64,
    /// Rows inserted, updated and deleted.
    pub(super) rows: f64,
    /// Bytes written to its log, which is what a standby is sent.
    pub(super) wal_bytes: f64,
    /// CPU time of the server's processes.
    pub(super) cpu: Duration,
}

impl Database {
    /// Makes it in a folder and starts it.
    pub(super) fn start(folder: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(folder)?;
        let data = folder.join("postgres");
        std::fs::create_dir(&data)?;
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o700))?;
        if is_root() && !succeeds(Command::new("chown").arg("nobody").arg(&data))? {
            return Err(format!("cannot give {} to nobody", data.display()).into());
        }
        let mut make = as_postgres("initdb")?;
        make.args(["--auth=trust", "--encoding=UTF8", "--locale=C", "-U", USER, "-D"]).arg(&data);
        output(&mut make)?;
        let port = free_port()?;
        let mut run = as_postgres("postgres")?;
        run.arg("-D").arg(&data).arg("-p").arg(port.to_string());
        run.args(["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="]);
        run.args(["-c", "synchronous_commit=on", "-c", "fsync=on", "-c", "shared_buffers=256MB"]);
        let log = std::fs::File::create(folder.join("postgres.log"))?;
        run.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut server = Guarded::spawn("postgres", &mut run)?;
        let begun = Instant::now();
        let ready = ["-q", "-h", "127.0.0.1", "-U", USER, "-p", &port.to_string()];
        while !succeeds(as_postgres("pg_isready")?.args(ready))? {
            server.alive()?;
            if begun.elapsed() > START {
                return Err("PostgreSQL does not start".into());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let database = Self { server, port };
        database.ask("postgres", &format!("CREATE DATABASE {USER}"))?;
        Ok(database)
    }

    /// What `queue.store` says of it.
    pub(super) fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{USER}", self.port)
    }

    /// What it says of its version.
    pub(super) fn version(&self) -> Result<String, Failure> {
        self.ask(USER, "SHOW server_version")
    }

    /// What it has counted so far. Its own counters are a moment late.
    pub(super) fn counted(&self) -> Result<Counted, Failure> {
        let question = format!(
            "SELECT xact_commit, tup_inserted + tup_updated + tup_deleted, \
             pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') FROM pg_stat_database WHERE datname = '{USER}'"
        );
        let text = self.ask(USER, &question)?;
        let mut numbers = text.split('|').map(|number| number.parse().ok());
        let mut next =
            || numbers.next().flatten().ok_or("PostgreSQL's counters are not understood");
        let (transactions, rows, wal_bytes) = (next()?, next()?, next()?);
        let cpu = cpu_of_tree(self.server.id())?;
        Ok(Counted { transactions, rows, wal_bytes, cpu })
    }

    fn ask(&self, database: &str, question: &str) -> Result<String, Failure> {
        let mut command = as_postgres("psql")?;
        command.args(["-h", "127.0.0.1", "-U", USER, "-p", &self.port.to_string()]);
        let text = output(command.args(["-d", database, "-Atqc", question]))?;
        Ok(text.trim().to_owned())
    }
}

/// A command of the newest PostgreSQL here, not as root, which it refuses.
fn as_postgres(name: &str) -> Result<Command, Failure> {
    let program = newest()?.join("bin").join(name);
    if !is_root() {
        return Ok(Command::new(program));
    }
    let mut command = Command::new(find("setpriv").ok_or("setpriv is not installed")?);
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"]).arg(program);
    command.current_dir("/");
    Ok(command)
}

fn newest() -> Result<PathBuf, Failure> {
    let entries = std::fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let versions = entries
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())));
    let newest = versions.max().map(|(_, folder)| folder);
    newest.ok_or_else(|| format!("there is no PostgreSQL in {VERSIONS}").into())
}
