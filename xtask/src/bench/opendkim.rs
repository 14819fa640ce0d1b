//! OpenDKIM as Postfix's milter: Debian's configuration, with keys, name server and socket of the benchmark's own.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::authenticated::{Authenticated, CLIENTS};
use super::postfix::user_id;
use crate::Failure;
use crate::process::{Guarded, find, output};

/// How long it may take to start.
const START: Duration = Duration::from_secs(30);
/// Whom Debian runs it as.
const USER: &str = "opendkim";

/// A running OpenDKIM.
pub(super) struct OpenDkim {
    pub(super) child: Guarded,
    /// Where it listens.
    pub(super) socket: PathBuf,
    /// What it says of its version.
    pub(super) version: String,
}

impl OpenDkim {
    /// Starts it with a folder of its own in `folder` and waits until it listens.
    pub(super) fn start(folder: &Path, mail: &Authenticated) -> Result<Self, Failure> {
        let program = find("opendkim").ok_or("opendkim is not installed")?;
        let folder = &folder.join("opendkim");
        std::fs::create_dir_all(folder)?;
        std::os::unix::fs::chown(folder, Some(user_id(USER)?), None)?;
        let key = mail.give_key(USER, folder)?;
        let (file, socket) = (folder.join("opendkim.conf"), folder.join("opendkim.sock"));
        std::fs::write(&file, configuration(folder, &key, &socket, &mail.name_server))?;
        let version = output(Command::new(&program).arg("-V"))?;
        let version = version.lines().next().unwrap_or_default();
        let version = version.trim_start_matches("opendkim: ").to_owned();
        let mut command = Command::new(program);
        command.arg("-f").arg("-x").arg(file).stdin(Stdio::null());
        let mut child = Guarded::spawn("opendkim", &mut command)?;
        let until = Instant::now() + START;
        while UnixStream::connect(&socket).is_err() {
            child.alive()?;
            if Instant::now() > until {
                return Err(format!("nothing listens at {}", socket.display()).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(Self { child, socket, version })
    }
}

/// Debian's settings but for: no log, as nobody here keeps one; a socket that Postfix may open without being in a group; keys below a
/// folder that others may write to; no trust anchor of DNSSEC, since the name server signs nothing. `::1` is no internal host.
fn configuration(folder: &Path, key: &Path, socket: &Path, name_server: &str) -> String {
    let (domain, selector) = CLIENTS;
    let name_server = name_server.replace(':', "@");
    let (folder, key, socket) = (folder.display(), key.display(), socket.display());
    format!(
        "Syslog no
Canonicalization relaxed/simple
Mode sv
SubDomains no
OversignHeaders From
Domain {domain}
Selector {selector}
KeyFile {key}
RequireSafeKeys no
UserID {USER}
UMask 000
Socket local:{socket}
PidFile {folder}/opendkim.pid
InternalHosts 127.0.0.1
Nameservers {name_server}
"
    )
}
