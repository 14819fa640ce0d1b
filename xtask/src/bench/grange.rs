//! Grange as a contender: the configuration of the manual with ports and paths of its own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::authenticated::{CLIENTS, SAMPLES, SINK};
use super::database::Database;
use super::load::{free_port, wait_for_port};
use super::samples::Examined;
use crate::Failure;
use crate::process::{Guarded, cargo, is_root, output, succeeds, target_dir};

/// Builds the program as packages ship it, unless `GRANGE_BINARY` names another; says where it is.
pub(super) fn build() -> Result<PathBuf, Failure> {
    if let Some(binary) = std::env::var_os("GRANGE_BINARY") {
        return Ok(binary.into());
    }
    let build = ["build", "--quiet", "--profile", "dist", "--package", "grange"];
    if !succeeds(&mut cargo(&build))? {
        return Err("grange does not build".into());
    }
    Ok(target_dir()?.join("dist").join("grange"))
}

/// A running Grange that relays everything to a sink.
pub(super) struct Grange {
    pub(super) child: Guarded,
    /// Where its queue is, if not in its folder.
    pub(super) database: Option<Database>,
    file: PathBuf,
    /// Where it takes mail.
    pub(super) port: u16,
    /// What it says of its version.
    pub(super) version: String,
}

impl Grange {
    /// Builds the program, starts it in a folder of its own and waits until it takes mail.
    pub(super) fn start(
        folder: &Path,
        sink: u16,
        examined: Option<Examined<'_>>,
    ) -> Result<Self, Failure> {
        let binary = build()?;
        let place = Place { examined, ..Place::default() };
        let mut grange = Self::spawn_at(&binary, folder, sink, &place)?;
        grange.version = output(Command::new(&binary).arg("--version"))?.trim().to_owned();
        wait_for_port(grange.port, &mut grange.child)?;
        Ok(grange)
    }

    /// Does the same, with the queue in a database.
    pub(super) fn start_on_database(
        folder: &Path,
        sink: u16,
        examined: Option<Examined<'_>>,
    ) -> Result<Self, Failure> {
        let binary = build()?;
        let database = Database::start(folder)?;
        let place = Place { store: &database.url(), routes: "", examined };
        let (port, file) = (free_port()?, folder.join("grange.toml"));
        std::fs::write(&file, configuration(folder, port, sink, &place)?)?;
        output(Command::new(&binary).args(["store", "init", "--config"]).arg(&file))?;
        let mut grange = Self::spawn_at(&binary, folder, sink, &place)?;
        let version = output(Command::new(&binary).arg("--version"))?;
        grange.version = format!("{}, PostgreSQL {}", version.trim(), database.version()?);
        grange.database = Some(database);
        wait_for_port(grange.port, &mut grange.child)?;
        Ok(grange)
    }

    /// Starts it in a folder, with more lines of routes before the one to the sink, and waits for nothing.
    pub(super) fn spawn(
        binary: &Path,
        folder: &Path,
        sink: u16,
        routes: &str,
    ) -> Result<Self, Failure> {
        Self::spawn_at(binary, folder, sink, &Place { routes, ..Place::default() })
    }

    fn spawn_at(
        binary: &Path,
        folder: &Path,
        sink: u16,
        place: &Place<'_>,
    ) -> Result<Self, Failure> {
        let port = free_port()?;
        let file = folder.join("grange.toml");
        std::fs::create_dir_all(folder)?;
        std::fs::write(&file, configuration(folder, port, sink, place)?)?;
        let log = std::fs::File::create(folder.join("log"))?;
        let mut command = Command::new(binary);
        command.args(["run", "--config"]).arg(&file).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let child = Guarded::spawn("grange", &mut command)?;
        Ok(Self { child, database: None, file, port, version: String::new() })
    }

    /// What `grange status --json` prints, without white space.
    pub(super) fn status(&self, binary: &Path) -> Result<String, Failure> {
        let mut command = Command::new(binary);
        command.args(["status", "--json", "--config"]).arg(&self.file);
        let text = command.stderr(Stdio::null()).output()?.stdout;
        Ok(String::from_utf8_lossy(&text).split_whitespace().collect())
    }
}

/// What differs between configurations.
struct Place<'a> {
    store: &'a str,
    /// More lines of routes before the one to the sink.
    routes: &'a str,
    /// Whether mail is verified and signed.
    examined: Option<Examined<'a>>,
}

impl Default for Place<'_> {
    fn default() -> Self {
        Self { store: "spool", routes: "", examined: None }
    }
}

/// Whom workers run as.
const USER: &str = "nobody";

/// What examined mail changes in a configuration.
struct Examining {
    /// More addresses to listen at.
    listen: String,
    relay_from: &'static str,
    filters: String,
    routes: String,
    /// More sections.
    sections: String,
}

impl Examining {
    /// Clients alone bring mail, and nothing looks at it.
    fn nothing() -> Self {
        Self {
            listen: String::new(),
            relay_from: r#""127.0.0.0/8", "::1/128""#,
            filters: String::new(),
            routes: String::new(),
            sections: String::new(),
        }
    }

    /// Both filters; IPv6 for strangers, whose mail goes to the sinks alone; and a way to who looks at samples.
    fn of(examined: Examined<'_>, folder: &Path, port: u16, sink: u16) -> Result<Self, Failure> {
        let Examined { mail, samples } = examined;
        let key = mail.give_key(USER, folder)?;
        let (key, (domain, selector)) = (key.display(), CLIENTS);
        let route = |domain, port| {
            format!(
                "  {{ domain = \"{domain}\", channel = \"smtp\", host = \"[127.0.0.1]:{port}\", from = \"any\" }},\n"
            )
        };
        Ok(Self {
            listen: format!(", {{ address = \"[::1]:{port}\", service = \"mx\" }}"),
            relay_from: r#""127.0.0.0/8""#,
            filters: format!(
                "
  {{ authentication = {{}} }},
  {{ dkim_sign = [{{ domain = \"{domain}\", selector = \"{selector}\", key = \"{key}\" }}] }},
"
            ),
            routes: route(SINK, sink) + &route(SAMPLES, samples),
            sections: format!("\n[dns]\nnameservers = [\"{}\"]\n", mail.name_server),
        })
    }
}

fn configuration(
    folder: &Path,
    port: u16,
    sink: u16,
    place: &Place<'_>,
) -> Result<String, Failure> {
    let Place { store, routes, examined } = place;
    let examining = match examined {
        Some(examined) => Examining::of(*examined, folder, port, sink)?,
        None => Examining::nothing(),
    };
    let Examining { listen, relay_from, filters, routes: own_routes, sections } = examining;
    let user = if is_root() { format!("user = \"{USER}\"\n") } else { String::new() };
    let folder = folder.display();
    Ok(format!(
        r#"hostname = "mta.example.test"
data_dir = "{folder}/data"
run_dir  = "{folder}/run"
{user}
[queue]
store = "{store}"

[smtpserver]
listen = [{{ address = "127.0.0.1:{port}", service = "mx" }}{listen}]
relay_from = [{relay_from}]
sessions_per_client_max = 10000
message_bytes_max = 52428800
workers = {{ start = 2, max = 2, spare_min = 0, spare_max = 2, jobs_max = 1000000, concurrency = 10000 }}

[contentfilter]
filters = [{filters}]

[router]
aliases = []
routes = [
  {{ domain = "example.test", channel = "local" }},
{routes}{own_routes}  {{ domain = "*",            channel = "smtp", host = "[127.0.0.1]:{sink}" }},
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
{sections}"#
    ))
}
