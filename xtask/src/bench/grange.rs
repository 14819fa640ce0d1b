//! Grange as a contender: the configuration of the manual with ports and paths of its own.

use std::path::Path;
use std::process::{Command, Stdio};

use super::load::{free_port, wait_for_port};
use crate::Failure;
use crate::process::{Guarded, cargo, is_root, output, succeeds, target_dir};

/// A running Grange that relays everything to a sink.
pub(super) struct Grange {
    _child: Guarded,
    /// Where it takes mail.
    pub(super) port: u16,
    /// What it says of its version.
    pub(super) version: String,
}

impl Grange {
    /// Builds the release binary and starts it in a folder of its own.
    pub(super) fn start(folder: &Path, sink: u16) -> Result<Self, Failure> {
        if !succeeds(&mut cargo(&["build", "--quiet", "--release", "--package", "grange"]))? {
            return Err("grange does not build".into());
        }
        let port = free_port()?;
        let file = folder.join("grange.toml");
        std::fs::create_dir_all(folder)?;
        std::fs::write(&file, configuration(folder, port, sink))?;
        let log = std::fs::File::create(folder.join("log"))?;
        let binary = target_dir()?.join("release").join("grange");
        let version = output(Command::new(&binary).arg("--version"))?.trim().to_owned();
        let mut command = Command::new(&binary);
        command.args(["run", "--config"]).arg(&file).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let mut child = Guarded::spawn("grange", &mut command)?;
        wait_for_port(port, &mut child)?;
        Ok(Self { _child: child, port, version })
    }
}

fn configuration(folder: &Path, port: u16, sink: u16) -> String {
    let user = if is_root() { "user = \"nobody\"\n" } else { "" };
    let folder = folder.display();
    format!(
        r#"hostname = "mta.example.test"
data_dir = "{folder}/data"
run_dir  = "{folder}/run"
{user}
[queue]
store = "spool"

[smtpserver]
listen = [{{ address = "127.0.0.1:{port}", service = "mx" }}]
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
retry = ["1m", "5m", "15m", "1h", "4h"]
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
