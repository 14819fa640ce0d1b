//! A PostgreSQL server of a test's own.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::process::Signal;

use super::keeper::{Home, as_other_user, other_user};

/// Where Debian puts the servers' programs, a folder for each major version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// The role that owns everything; it needs no password.
pub const USER: &str = "grange";
/// The database that every server has.
pub const ADMIN: &str = "postgres";
/// A database with the present schema, of which copies are made.
const TEMPLATE: &str = "grange_template";
/// The port that a server's socket is named for, unless it listens on a network too.
pub const PORT: u16 = 5432;

/// What a server is like.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Lines for `postgresql.conf` beside the defaults, which sync nothing: `fsync = on`.
    pub settings: Vec<String>,
    /// Lines for `pg_hba.conf` before the defaults, which trust everybody.
    pub access: Vec<String>,
}

impl Options {
    /// With these lines for `postgresql.conf`.
    pub fn with(settings: &[&str]) -> Self {
        let settings = settings.iter().map(|&line| line.to_owned()).collect();
        Self { settings, ..Self::default() }
    }
}

/// A server. Dropping it ends it at once and removes what it had.
pub struct Server {
    home: Home,
    port: u16,
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
    /// Makes and starts a server of the newest version that is installed.
    pub fn start(options: Options) -> Self {
        let mut server = Self { home: Home::make(), port: PORT };
        let mut initdb = program("initdb");
        initdb.args(["--auth=trust", "--no-sync", "--encoding=UTF8", "--locale=C"]);
        succeed(initdb.arg(format!("--username={USER}")).arg("-D").arg(server.data()));
        let mut lines = vec![
            "listen_addresses = ''".to_owned(),
            format!("port = {PORT}"),
            "fsync = off".to_owned(),
            "max_connections = 100".to_owned(),
            "shared_buffers = '32MB'".to_owned(),
            "max_wal_senders = 5".to_owned(),
            "wal_keep_size = '64MB'".to_owned(),
        ];
        lines.extend(options.settings);
        server.configure(&lines);
        let access = server.data().join("pg_hba.conf");
        let defaults = std::fs::read_to_string(&access).expect("initdb has made it");
        let lines = options.access.join("\n");
        std::fs::write(access, format!("{lines}\n{defaults}")).expect("it can be written");
        server.run();
        server
    }

    /// Makes a server that also listens on a port of the loopback interface, with this certificate and key, and asks for one
    /// signed by `authority`.
    pub fn start_with_tls(
        certificate: &str,
        key: &str,
        authority: &str,
        access: &[&str],
    ) -> (Self, u16) {
        // Somebody else may take it before the server does, which then does not start.
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
        let port = port.expect("a port is free").port();
        let mut server = Self::start(Options {
            access: access.iter().map(|&line| line.to_owned()).collect(),
            ..Options::default()
        });
        let write = |name: &str, text: &str| {
            let path = server.dir().join(name);
            std::fs::write(&path, text).expect("it can be written");
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
            std::fs::set_permissions(&path, mode).expect("it is ours");
            if let Some((uid, gid)) = other_user() {
                std::os::unix::fs::chown(&path, Some(uid), Some(gid)).expect("root may");
            }
            path.display().to_string()
        };
        let lines = [
            "ssl = on".to_owned(),
            format!("ssl_cert_file = '{}'", write("server.pem", certificate)),
            format!("ssl_key_file = '{}'", write("server.key", key)),
            format!("ssl_ca_file = '{}'", write("ca.pem", authority)),
            "listen_addresses = '127.0.0.1'".to_owned(),
            format!("port = {port}"),
        ];
        server.configure(&lines);
        server.end(End::Fast);
        server.port = port;
        server.run();
        (server, port)
    }

    /// A server that takes over what this one has, and follows it as a standby of this name until it is promoted.
    pub fn standby(&self, name: &str, options: Options) -> Self {
        let mut server = Self { home: Home::make(), port: PORT };
        let mut copy = program("pg_basebackup");
        copy.arg("-h").arg(self.dir()).args(["-p", &PORT.to_string(), "-U", USER]);
        copy.args(["--checkpoint=fast", "--wal-method=stream", "--no-sync"]);
        succeed(copy.arg("-D").arg(server.data()));
        let host = self.dir().display();
        let from = format!("host={host} port={PORT} user={USER} application_name={name}");
        let mut lines = vec![
            format!("primary_conninfo = '{from}'"),
            // A standby that waits to be asked is no standby yet.
            "synchronous_standby_names = ''".to_owned(),
        ];
        lines.extend(options.settings);
        server.configure(&lines);
        std::fs::write(server.data().join("standby.signal"), "").expect("it can be written");
        server.run();
        server
    }

    /// Lets each commit wait for one of these standbys, as `ANY 1 (s1)`; nothing for none.
    pub fn wait_for_standbys(&self, names: &str) {
        self.sql(ADMIN, &format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'"));
        self.reload();
    }

    /// Adds lines to its configuration, which it reads at its next start or [`Self::reload`].
    pub fn configure(&self, lines: &[String]) {
        let path = self.data().join("postgresql.conf");
        let mut file =
            std::fs::OpenOptions::new().append(true).open(path).expect("the server has one");
        lines.iter().for_each(|line| writeln!(file, "{line}").expect("it can be written"));
    }

    /// Lets it read its configuration again, and waits until it has.
    pub fn reload(&self) {
        let loaded = self.sql(ADMIN, "SELECT pg_conf_load_time()");
        self.sql(ADMIN, "SELECT pg_reload_conf()");
        super::keeper::until(
            || self.sql(ADMIN, "SELECT pg_conf_load_time()") != loaded,
            || self.log(),
        );
    }

    /// Starts it again after [`Self::end`].
    pub fn run(&mut self) {
        let (data, socket) = (self.data(), self.dir().to_owned());
        let port = self.port.to_string();
        let sockets = format!("unix_socket_directories={}", socket.display());
        let words = ["-D", data.to_str().expect("a plain name"), "-c", &sockets];
        self.home.start(&folder().join("postgres"), &words, || {
            let mut ask = program("pg_isready");
            ask.arg("-q").arg("-h").arg(&socket).args(["-p", &port]);
            ask.status().expect("it can be run").success()
        });
    }

    /// Ends it; its directory stays, and [`Self::run`] starts it again.
    pub fn end(&mut self, how: End) {
        let processes = self.home.processes();
        match how {
            End::Fast => self.home.signal(processes.get(..1).unwrap_or_default(), Signal::INT),
            End::Kill => self.home.signal(&processes, Signal::KILL),
        }
        let file = self.data().join("postmaster.pid");
        self.home.ended(|| how == End::Kill || !file.try_exists().expect("it can be looked at"));
    }

    /// Stops all its processes where they are, until [`Self::go_on`].
    pub fn freeze(&self) {
        self.home.signal(&self.home.processes(), Signal::STOP);
    }

    /// Lets all its processes go on.
    pub fn go_on(&self) {
        self.home.signal(&self.home.processes(), Signal::CONT);
    }

    /// Makes a standby the primary.
    pub fn promote(&self) {
        assert_eq!(self.sql(ADMIN, "SELECT pg_promote(true, 60)"), "t");
    }

    /// Runs statements in one of its databases with `psql` and gives what they print, fields between `|`.
    pub fn sql(&self, database: &str, statements: &str) -> String {
        let mut psql = program("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", USER, "-d", database]);
        psql.arg("-h").arg(self.dir()).args(["-p", &self.port.to_string(), "-c", statements]);
        let output = psql.output().expect("it can be run");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{statements}: {error}");
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// The URL of one of its databases, over its socket.
    pub fn url(&self, database: &str) -> String {
        let dir = self.dir().display().to_string().replace('/', "%2F");
        format!("postgres://{USER}@{dir}:{}/{database}", self.port)
    }

    /// The socket that it listens on.
    pub fn socket(&self) -> PathBuf {
        self.dir().join(format!(".s.PGSQL.{}", self.port))
    }

    /// Its directory, in which its socket is too.
    pub fn dir(&self) -> &Path {
        self.home.dir()
    }

    /// Makes a database with the present schema and gives its name.
    pub fn database(&self) -> String {
        static MAKING: Mutex<()> = Mutex::new(());
        let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        let exists = format!("SELECT 1 FROM pg_database WHERE datname = '{TEMPLATE}'");
        if self.sql(ADMIN, &exists).is_empty() {
            self.sql(ADMIN, &format!("CREATE DATABASE {TEMPLATE}"));
            super::init(&self.url(TEMPLATE));
        }
        self.make_database(&format!("TEMPLATE {TEMPLATE}"))
    }

    /// Makes a database without any table and gives its name.
    pub fn empty_database(&self) -> String {
        self.make_database("")
    }

    fn make_database(&self, options: &str) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let name = format!("store_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.sql(ADMIN, &format!("CREATE DATABASE {name} {options}"));
        name
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        self.home.log()
    }

    fn data(&self) -> PathBuf {
        self.dir().join("data")
    }
}

/// The newest version's folder of programs.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let versions = std::fs::read_dir(VERSIONS).into_iter().flatten().flatten();
        let newest = versions.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        match newest.max() {
            Some(newest) => Path::new(VERSIONS).join(newest.to_string()).join("bin"),
            None => panic!("PostgreSQL is not installed; as root, cargo xtask test installs it"),
        }
    })
}

/// A program of PostgreSQL, run by whoever may run the server.
fn program(name: &str) -> Command {
    let mut command = as_other_user(Command::new(folder().join(name)));
    command.current_dir("/").stdin(Stdio::null());
    command
}

fn succeed(command: &mut Command) {
    let output = command.output().expect("it can be run");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
}
