//! Daemons of others that filter mail, each where it sees files of the test's in the places of its own, and a network in which nothing
//! is but a name server of the test's.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{Host, NameServer, Network, Process, find, open_to, run, until_within};

/// How long a daemon may take to listen. rspamd compiles thousands of expressions first.
const START: Duration = Duration::from_secs(240);

/// Mounts the pairs before `--`, of what is ours and where the daemon sees it, and becomes the program behind it.
const ENTER: &str = r#"
set -e
mount -t tmpfs tmpfs /run
while [ "$1" != -- ]; do
    case "$2" in /run/*) mkdir -p "$2" ;; esac
    mount --bind "$1" "$2"
    shift 2
done
shift
exec "$@"
"#;

/// A daemon with its folder; it is reached by named sockets in there. Dropped, it is ended. Only root can start one.
pub struct Daemon {
    // Ended before its folder and its network go.
    process: Option<Process>,
    folder: TempDir,
    /// What is ours, and where the daemon sees it.
    places: Vec<(PathBuf, String)>,
    /// The name server of its network.
    pub dns: NameServer,
    host: Host,
    _network: Network,
}

impl Daemon {
    /// Makes a folder, and a network in which these names are known.
    pub fn new(zone: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("daemon-").tempdir().expect("a folder");
        open_to(folder.path(), 0o755);
        let mut network = Network::new();
        let host = network.host("daemon");
        let dns = host.within(|| NameServer::at(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)), zone));
        let places = Vec::new();
        let mut daemon = Self { process: None, folder, places, dns, host, _network: network };
        daemon.write("/etc/resolv.conf", "nameserver 127.0.0.1\n");
        daemon
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Gives the daemon this text in the place of a file that it has.
    pub fn write(&mut self, file: &str, text: &str) {
        let path = self.path(&file.trim_start_matches('/').replace('/', "-"));
        std::fs::write(&path, text).expect("a file of our own");
        self.places.push((path, file.to_owned()));
    }

    /// Gives the daemon a folder of a user's in the place of one that it has, or in `/run`; gives its path for all others.
    pub fn folder(&mut self, folder: &str, user: &str) -> PathBuf {
        let path = self.path(&folder.trim_start_matches('/').replace('/', "-"));
        std::fs::create_dir(&path).expect("a folder of our own");
        open_to(&path, 0o755);
        self.places.push((path.clone(), folder.to_owned()));
        give(&path, user);
        path
    }

    /// Starts a program, and waits until it listens on a socket, which this path names for us.
    pub fn start(&mut self, program: &str, arguments: &[&str], socket: &Path) {
        let mut command = self.host.command("sh");
        command.args(["-c", ENTER, "sh"]);
        for (ours, place) in &self.places {
            command.arg(ours).arg(place);
        }
        command.arg("--").arg(find(program)).args(arguments);
        let mut process =
            Process::spawn(program, command.stdin(Stdio::null()).stdout(Stdio::null()));
        until_within(START, &format!("{program} listens"), || {
            assert_eq!(process.ended(), None, "{program} has ended");
            UnixStream::connect(socket).ok()
        });
        self.process = Some(process);
    }
}

/// Gives a file or a folder to a user, with what is in it.
pub fn give(path: &Path, user: &str) {
    let output = run(Command::new("chown").args(["-R", user]).arg(path));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
