//! Scratch PostgreSQL servers for tests: made in a moment, killed and promoted at will, and gone with the process that made them.
//!
//! ```text
//! test process ── pipe ─▶ sh, a keeper ─▶ postgres, in a directory of its own below /tmp
//! ```
//!
//! A keeper ends its server and removes its directory when the pipe closes, however the test ends. PostgreSQL refuses to run as
//! root: as root, everything of a server runs as `postgres` or `nobody`. No server of the system is touched or needed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Database, Settings};

/// Where Debian puts the servers' programs, a folder for each major version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// How long a server may take to answer after its start, or to end.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait before looking again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// The role that owns everything; it needs no password.
pub const USER: &str = "grange";
/// The database that every server has.
pub const ADMIN: &str = "postgres";
/// A database with the present schema, of which copies are made.
const TEMPLATE: &str = "grange_template";
/// The port that the server's socket is named for, and that it listens on where it listens.
pub const PORT: u16 = 5432;

/// Starts a server and waits for its pipe: `keep` and a line's end leaves the directory, anything else removes it.
const KEEPER: &str = r#"
trap '' INT TERM HUP
dir=$1; shift
"$@" >>"$dir/log" 2>&1 </dev/null &
pid=$!
echo $pid
read -r word
kill -QUIT $pid 2>/dev/null
wait $pid
test "$word" = keep || rm -rf -- "$dir"
"#;

/// What a server is like.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Lines for `postgresql.conf`: `fsync = on`, `shared_buffers = '64MB'`.
    pub settings: Vec<String>,
    /// Addresses to listen on beside its socket, at [`PORT`] or the port that `settings` name.
    pub listen: Vec<String>,
    /// A command, with its arguments, that the server is started through: `ip netns exec NAME`.
    pub through: Vec<String>,
}

impl Options {
    /// With these lines for `postgresql.conf` beside the defaults.
    pub fn with(settings: &[&str]) -> Self {
        Self { settings: settings.iter().map(|&line| line.to_owned()).collect(), ..Self::default() }
    }
}

/// A server. Dropping it ends it at once and removes what it had.
pub struct Server {
    dir: PathBuf,
    running: Option<Running>,
    through: Vec<String>,
}

struct Running {
    keeper: Child,
    pid: Pid,
}

/// How a server is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It ends its connections and writes everything down.
    Fast,
    /// It and all its processes are killed, as if power had failed but for what the system still holds.
    Kill,
}

impl Server {
    /// Makes and starts a server: nothing is synced unless `options` say so.
    pub fn start(options: Options) -> Self {
        let server = Self::make(options.through.clone());
        let mut initdb = program("initdb");
        initdb.args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]);
        initdb.arg(format!("--username={USER}")).arg("-D").arg(server.data());
        succeed(&mut initdb);
        let mut lines = vec![
            format!("unix_socket_directories = '{}'", server.dir.display()),
            format!("listen_addresses = '{}'", options.listen.join(",")),
            format!("port = {PORT}"),
            "fsync = off".to_owned(),
            "max_connections = 100".to_owned(),
            "shared_buffers = '32MB'".to_owned(),
            "max_wal_senders = 5".to_owned(),
            "wal_keep_size = '64MB'".to_owned(),
            "autovacuum_naptime = '1s'".to_owned(),
        ];
        lines.extend(options.settings);
        server.configure(&lines);
        let mut access = std::fs::OpenOptions::new()
            .append(true)
            .open(server.data().join("pg_hba.conf"))
            .expect("initdb has made it");
        writeln!(access, "host all all 0.0.0.0/0 trust\nhost replication all 0.0.0.0/0 trust")
            .expect("it can be written");
        let mut server = server;
        server.run();
        server
    }

    /// A server that takes over what this one has, and follows it as a standby of this name until it is promoted.
    pub fn standby(&self, name: &str, options: Options) -> Self {
        self.standby_over(name, &self.dir.display().to_string(), options)
    }

    /// As [`Self::standby`], and follows through this host.
    pub fn standby_over(&self, name: &str, host: &str, options: Options) -> Self {
        let server = Self::make(options.through.clone());
        let mut copy = program("pg_basebackup");
        copy.arg("-h").arg(&self.dir).args(["-p", &PORT.to_string(), "-U", USER]);
        copy.args(["--checkpoint=fast", "--wal-method=stream", "--no-sync"])
            .arg("-D")
            .arg(server.data());
        succeed(&mut copy);
        let from = format!("host={host} port={PORT} user={USER} application_name={name}");
        let mut lines = vec![
            format!("unix_socket_directories = '{}'", server.dir.display()),
            format!("listen_addresses = '{}'", options.listen.join(",")),
            format!("primary_conninfo = '{from}'"),
        ];
        lines.extend(options.settings);
        server.configure(&lines);
        std::fs::write(server.data().join("standby.signal"), "").expect("it can be written");
        let mut server = server;
        server.run();
        server
    }

    fn make(through: Vec<String>) -> Self {
        let dir = tempfile::Builder::new().prefix("grange-pg-").tempdir().expect("/tmp is there");
        let dir = dir.keep();
        if let Some((uid, gid)) = other_user() {
            std::os::unix::fs::chown(&dir, Some(uid), Some(gid)).expect("root may");
        }
        Self { dir, running: None, through }
    }

    /// Adds lines to its configuration, which it reads at its next start or [`Self::reload`].
    pub fn configure(&self, lines: &[String]) {
        let path = self.data().join("postgresql.conf");
        let mut file =
            std::fs::OpenOptions::new().append(true).open(path).expect("the server has one");
        lines.iter().for_each(|line| writeln!(file, "{line}").expect("it can be written"));
    }

    /// Reads its configuration again.
    pub fn reload(&self) {
        self.sql(ADMIN, "SELECT pg_reload_conf()");
    }

    /// Starts it again after [`Self::end`].
    pub fn run(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let mut command = match self.through.split_first() {
            Some((first, rest)) => {
                let mut command = Command::new(first);
                command.args(rest).arg("setpriv");
                if let Some((uid, gid)) = other_user() {
                    command.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
                    command.arg("--clear-groups");
                }
                command.arg("sh");
                command
            }
            None => as_other_user(Command::new("sh")),
        };
        command.args(["-c", KEEPER, "keeper"]).arg(&self.dir).arg(folder().join("postgres"));
        command.arg("-D").arg(self.data()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = command.current_dir("/").spawn().expect("there is a shell");
        let mut line = String::new();
        let output = keeper.stdout.take().expect("it is piped");
        BufReader::new(output).read_line(&mut line).expect("the keeper tells");
        let pid = line.trim().parse().ok().and_then(Pid::from_raw).expect("it tells a process");
        self.running = Some(Running { keeper, pid });
        self.wait_ready();
    }

    fn wait_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut ask = program("pg_isready");
            ask.arg("-q").arg("-h").arg(&self.dir).args(["-p", &PORT.to_string()]);
            if ask.status().expect("it can be run").success() {
                return;
            }
            assert!(Instant::now() < deadline, "no server: {}", self.log());
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Ends it; its directory stays, and [`Self::run`] starts it again.
    pub fn end(&mut self, how: End) {
        let Some(mut running) = self.running.take() else { return };
        match how {
            End::Fast => send(running.pid, Signal::INT),
            End::Kill => {
                let children = children(running.pid);
                send(running.pid, Signal::KILL);
                children.into_iter().for_each(|child| send(child, Signal::KILL));
            }
        }
        if how == End::Fast {
            let gone = self.data().join("postmaster.pid");
            let deadline = Instant::now() + PATIENCE;
            while gone.try_exists().expect("it can be looked at") && Instant::now() < deadline {
                std::thread::sleep(LOOK_AGAIN);
            }
        }
        let mut pipe = running.keeper.stdin.take().expect("it is piped");
        drop(pipe.write_all(b"keep\n"));
        running.keeper.wait().expect("the keeper ends");
    }

    /// Stops all its processes where they are, or lets them go on.
    pub fn signal_all(&self, signal: Signal) {
        let Some(running) = &self.running else { return };
        let all = children(running.pid).into_iter().chain([running.pid]);
        all.for_each(|pid| send(pid, signal));
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        assert_eq!(self.sql(ADMIN, "SELECT pg_promote(true, 60)"), "t");
    }

    /// Runs statements in one of its databases with `psql` and gives what they print, fields between `|`.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        let mut psql = self.psql(database, statements);
        let output = psql.output().expect("it can be run");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{statements}: {error}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// A `psql` that runs statements, not started yet.
    pub fn psql(&self, database: &str, statements: &str) -> Command {
        let mut psql = program("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", USER, "-d", database]);
        psql.arg("-h").arg(&self.dir).args(["-p", &PORT.to_string(), "-c", statements]);
        psql
    }

    /// The URL of one of its databases, over its socket.
    pub fn url(&self, database: &str) -> String {
        let dir = self.dir.display().to_string().replace('/', "%2F");
        format!("postgres://{USER}@{dir}:{PORT}/{database}")
    }

    /// The socket that it listens on.
    pub fn socket(&self) -> PathBuf {
        self.dir.join(format!(".s.PGSQL.{PORT}"))
    }

    /// Its directory: `log`, and `data`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Makes a database with the present schema and gives its name.
    pub fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("grange_{}_{number}", std::process::id());
        let exists = format!("SELECT 1 FROM pg_database WHERE datname = '{TEMPLATE}'");
        static MAKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
        let made = MAKING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if self.sql(ADMIN, &exists).is_empty() {
            self.sql(ADMIN, &format!("CREATE DATABASE {TEMPLATE}"));
            init(&self.url(TEMPLATE));
        }
        self.sql(ADMIN, &format!("CREATE DATABASE {name} TEMPLATE {TEMPLATE}"));
        drop(made);
        name
    }

    /// Makes a database without any table and gives its name.
    pub fn empty_database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("empty_{}_{number}", std::process::id());
        self.sql(ADMIN, &format!("CREATE DATABASE {name}"));
        name
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    fn data(&self) -> PathBuf {
        self.dir.join("data")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        match self.running.take() {
            Some(mut running) => {
                drop(running.keeper.stdin.take());
                drop(running.keeper.wait());
            }
            None => drop(std::fs::remove_dir_all(&self.dir)),
        }
    }
}

/// The server that the tests of one program share, which ends with it.
pub fn shared() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::start(Options::default()))
}

/// Settings with which a server that syncs nothing will do.
pub fn settings() -> Settings {
    Settings { may_lose: vec![crate::MayLose::Fsync], ..Settings::default() }
}

/// Makes the tables in a database.
pub fn init(url: &str) {
    let database = Database::new(url, &settings()).expect("it is a URL");
    block_on(crate::init(&database)).expect("the tables can be made");
}

/// Runs a future on a runtime of its own.
pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime can be built");
    runtime.block_on(work)
}

/// The newest version's folder of programs.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let versions = std::fs::read_dir(VERSIONS).expect("Debian's package postgresql is there");
        let names = versions.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let newest = names.filter_map(|name| name.parse::<u32>().ok()).max();
        let newest = newest.expect("Debian's package postgresql is there").to_string();
        Path::new(VERSIONS).join(newest).join("bin")
    })
}

/// A program of PostgreSQL, run by whoever may run the server.
fn program(name: &str) -> Command {
    let mut command = as_other_user(Command::new(folder().join(name)));
    command.current_dir("/").stdin(Stdio::null());
    command
}

fn as_other_user(mut command: Command) -> Command {
    if let Some((uid, gid)) = other_user() {
        command.uid(uid).gid(gid);
    }
    command
}

/// Whom a server runs as when we are root.
pub fn other_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("there are users");
    let find = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("there is a user for it"))
}

fn succeed(command: &mut Command) {
    let output = command.output().expect("it can be run");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
}

/// A process that has ended already needs no signal.
fn send(pid: Pid, signal: Signal) {
    let _ = kill_process(pid, signal);
}

fn children(parent: Pid) -> Vec<Pid> {
    let path = format!("/proc/{0}/task/{0}/children", parent.as_raw_nonzero());
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}
