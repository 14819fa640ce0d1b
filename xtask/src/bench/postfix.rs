//! Postfix as a contender: its own configuration, queue and ports beside any that the machine runs.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::authenticated::{SAMPLES, SINK};
use super::load::{free_port, wait_for_port};
use super::opendkim::OpenDkim;
use super::samples::Examined;
use crate::Failure;
use crate::process::{Guarded, find, is_root, output};

/// Postfix's default limit of processes for each service, and what it would take for a busy relay.
const PROCESSES_MAX: u32 = 100;

/// A running Postfix that relays everything to a sink.
pub(super) struct Postfix {
    /// Its master.
    pub(super) child: Guarded,
    /// Where it takes mail.
    pub(super) port: u16,
    /// What it says of its version.
    pub(super) version: String,
    /// Its milter, if it has one.
    pub(super) milter: Option<OpenDkim>,
}

impl Postfix {
    /// Starts the installed Postfix with a configuration and a queue in `folder`, and OpenDKIM as its milter if mail is examined.
    pub(super) fn start(
        folder: &Path,
        sink: u16,
        examined: Option<Examined<'_>>,
    ) -> Result<Self, Failure> {
        if !is_root() {
            return Err("Postfix starts only as root; run the benchmark as root".into());
        }
        let port = free_port()?;
        let (config, daemons) = (folder.join("etc"), daemons()?);
        for name in ["etc", "queue", "data"] {
            std::fs::create_dir_all(folder.join(name))?;
        }
        std::os::unix::fs::chown(folder.join("data"), Some(user_id("postfix")?), None)?;
        let milter = examined.map(|examined| OpenDkim::start(folder, examined.mail)).transpose()?;
        let mut main = main_cf(folder, sink);
        let mut master = master_cf(port);
        match (examined, &milter) {
            (Some(examined), Some(milter)) => {
                main.push_str(&with_milter(milter, examined.samples));
                master.push_str(&format!("[::1]:{port} inet n - n - - smtpd\n"));
            }
            _ => main.push_str(PLAIN),
        }
        std::fs::write(config.join("main.cf"), main)?;
        std::fs::write(config.join("master.cf"), master)?;
        // Makes the queue's folders with the owners and modes that Postfix wants.
        let check = find("postfix").ok_or("postfix is not installed")?;
        output(Command::new(check).arg("-c").arg(&config).arg("check"))?;
        let mut command = Command::new(daemons.join("master"));
        command.arg("-c").arg(&config).arg("-d").env("MAIL_CONFIG", &config).stdin(Stdio::null());
        let mut child = Guarded::spawn("postfix", &mut command)?;
        wait_for_port(port, &mut child)?;
        let mut version = format!("postfix {}", postconf(&["-h", "-d", "mail_version"])?);
        if let Some(milter) = &milter {
            version.push_str(&format!(", {}", milter.version));
        }
        Ok(Self { child, port, version, milter })
    }
}

fn main_cf(folder: &Path, sink: u16) -> String {
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
relayhost = [127.0.0.1]:{sink}
disable_dns_lookups = yes
smtpd_peername_lookup = no
alias_maps =
alias_database =
default_process_limit = {PROCESSES_MAX}
smtpd_client_connection_count_limit = 0
default_destination_concurrency_limit = 20
smtp_tls_security_level = none
smtpd_tls_security_level = none
biff = no
maillog_file = /dev/null
maillog_file_prefixes = /dev
"
    )
}

/// What a server for clients alone needs beside [`main_cf`].
const PLAIN: &str = "smtpd_relay_restrictions = permit_mynetworks, reject
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
";

/// Instead of [`PLAIN`]: IPv6 for strangers, whose mail goes to the sinks alone; a milter, without which nothing is taken; and a way to
/// who looks at samples.
fn with_milter(milter: &OpenDkim, samples: u16) -> String {
    format!(
        "inet_interfaces = 127.0.0.1, ::1
inet_protocols = all
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
relay_domains = {SINK}, {SAMPLES}
transport_maps = inline:{{ {SAMPLES}=smtp:[127.0.0.1]:{samples} }}
smtpd_milters = unix:{}
milter_default_action = tempfail
",
        milter.socket.display()
    )
}

/// Debian's services that relaying needs, on our own port and without chroot.
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

fn daemons() -> Result<PathBuf, Failure> {
    Ok(PathBuf::from(postconf(&["-h", "-d", "daemon_directory"])?))
}

fn postconf(arguments: &[&str]) -> Result<String, Failure> {
    let postconf = find("postconf").ok_or("postfix is not installed")?;
    Ok(output(Command::new(postconf).args(arguments))?.trim().to_owned())
}

/// The number of a user.
pub(super) fn user_id(name: &str) -> Result<u32, Failure> {
    let users = std::fs::read_to_string("/etc/passwd")?;
    let user = users.lines().find(|line| line.split(':').next() == Some(name));
    let id = user.and_then(|line| line.split(':').nth(2)).and_then(|id| id.parse().ok());
    id.ok_or_else(|| format!("there is no user {name}").into())
}
