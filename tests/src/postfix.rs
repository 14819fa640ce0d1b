//! Debian's Postfix beside the machine's own: its configuration, queue and mailboxes in a scratch directory.

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::{Port, Process, find, free_port, is_root, run, until};

/// A Postfix that delivers mail for `postfix.example` into one Maildir, and relays the rest to a port.
pub struct Postfix {
    // Ended before its folder goes.
    _process: Process,
    folder: TempDir,
    /// Where it takes mail.
    pub port: Port,
}

impl Postfix {
    /// Starts it, which needs root.
    pub fn start(relay: u16) -> Self {
        Self::start_with(relay, "")
    }

    /// Starts it with these lines at the end of its `main.cf`.
    pub fn start_with(relay: u16, settings: &str) -> Self {
        assert!(is_root(), "Postfix starts only as root: run cargo xtask test as root");
        let port = free_port();
        let folder =
            tempfile::Builder::new().prefix("postfix-").tempdir().expect("a scratch directory");
        let path = folder.path();
        let user = ids("postfix");
        run_ok(Command::new("chmod").arg("755").arg(path));
        for name in ["etc", "queue", "data", "mail"] {
            std::fs::create_dir(path.join(name)).expect("a folder of our own");
        }
        for name in ["data", "mail"] {
            std::os::unix::fs::chown(path.join(name), Some(user.0), Some(user.1))
                .expect("we are root");
        }
        std::fs::write(path.join("etc/main.cf"), main_cf(path, relay, user) + settings)
            .expect("written");
        std::fs::write(path.join("etc/master.cf"), master_cf(port.number)).expect("written");
        // Makes the queue's folders with the owners and modes that Postfix wants.
        run_ok(Command::new(find("postfix")).arg("-c").arg(path.join("etc")).arg("check"));
        let mut master = Command::new(daemons().join("master"));
        master.arg("-c").arg(path.join("etc")).arg("-d").env("MAIL_CONFIG", path.join("etc"));
        let process = Process::spawn("postfix", master.stdin(Stdio::null()));
        until("Postfix listens", || TcpStream::connect((Ipv4Addr::LOCALHOST, port.number)).ok());
        Self { _process: process, folder, port }
    }

    /// The messages that were delivered.
    pub fn mailbox(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.folder.path().join("mail/box/new")) else {
            return Vec::new();
        };
        let read = |path: PathBuf| std::fs::read(path).expect("a message can be read");
        let messages = entries.map(|entry| read(entry.expect("an entry").path()));
        messages.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect()
    }

    /// How many messages were delivered.
    pub fn delivered(&self) -> usize {
        std::fs::read_dir(self.folder.path().join("mail/box/new")).map_or(0, Iterator::count)
    }
}

fn main_cf(folder: &Path, relay: u16, (user, group): (u32, u32)) -> String {
    let folder = folder.display();
    format!(
        "compatibility_level = 3.6
queue_directory = {folder}/queue
data_directory = {folder}/data
mail_owner = postfix
myhostname = postfix.example.test
mydestination =
local_recipient_maps =
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
relayhost = [127.0.0.1]:{relay}
disable_dns_lookups = yes
smtpd_peername_lookup = no
alias_maps =
alias_database =
smtpd_client_connection_count_limit = 0
virtual_mailbox_domains = postfix.example
virtual_mailbox_maps = static:box/
virtual_mailbox_base = {folder}/mail
virtual_uid_maps = static:{user}
virtual_gid_maps = static:{group}
virtual_minimum_uid = 1
biff = no
maillog_file = /dev/null
maillog_file_prefixes = /dev
"
    )
}

/// Debian's services that relaying and delivering need, on our own port and without chroot.
fn master_cf(port: u16) -> String {
    format!(
        "127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"
    )
}

fn daemons() -> PathBuf {
    let output = run(Command::new(find("postconf")).args(["-h", "-d", "daemon_directory"]));
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

fn ids(user: &str) -> (u32, u32) {
    let id = |flag| {
        let output = run(Command::new("id").args([flag, user]));
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("the user is there")
    };
    (id("-u"), id("-g"))
}

fn run_ok(command: &mut Command) {
    let output = run(command);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
}
