//! Where the database is: `queue.store` as an operator writes it, taken apart, and never shown with its password.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use config::Problem;
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};

use crate::{Cause, Fault, MayLose, Settings};

/// What the server shows of us in `pg_stat_activity`, unless the URL says otherwise.
const APPLICATION_NAME: &str = "grange";
/// A connection on which nothing comes for this long is looked at: is the other side there?
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// How far apart those looks are.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// After so many looks without an answer the connection is lost.
const KEEPALIVE_RETRIES: u32 = 3;
/// A connection is lost when what was sent has not been acknowledged for this long.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(25);
/// So many hosts may be named.
const HOSTS_MAX: usize = 16;
/// A password file is no larger than this, in bytes.
const PASSWORD_BYTES_MAX: u64 = 4096;
/// What a URL should look like.
const RIGHT: &str = "\"postgres://USER@HOST,HOST/DATABASE\"";

/// A database that one may connect to. Clones share it.
#[derive(Clone)]
pub struct Database(Arc<Inner>);

struct Inner {
    /// One for each host, in the order in which they are tried.
    hosts: Vec<Config>,
    /// Hosts and database: what texts may show.
    name: Arc<str>,
    settings: Settings,
}

impl Database {
    /// Takes `queue.store` apart. Nothing is connected to yet.
    pub fn new(url: &str, settings: &Settings) -> Result<Self, Problem> {
        settings.check()?;
        // What the parser says of a wrong URL could show a part of the password.
        let wrong = |wrong: &str| Problem::new("queue.store", wrong.to_owned(), RIGHT);
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err(wrong("it does not begin with postgres://"));
        }
        let config: Config =
            url.parse().map_err(|_| wrong("it is not the URL of a PostgreSQL database"))?;
        let hosts = config.get_hosts().len();
        if hosts == 0 {
            return Err(wrong("it names no host"));
        }
        if hosts > HOSTS_MAX {
            return Err(wrong(&format!("it names more than {HOSTS_MAX} hosts")));
        }
        let ports = config.get_ports();
        if ports.len() > 1 && ports.len() != hosts {
            return Err(wrong("it has not as many ports as hosts"));
        }
        if !config.get_hostaddrs().is_empty() {
            return Err(wrong("it has hostaddr, which is not needed: name addresses as hosts"));
        }
        match (config.get_ssl_mode(), &settings.ca_file) {
            (SslMode::Require, None) => {
                return Err(wrong("it asks for TLS, and there is no queue.postgres.ca_file"));
            }
            (SslMode::Disable, Some(_)) => {
                return Err(wrong("it forbids TLS, and there is a queue.postgres.ca_file"));
            }
            _ => {}
        }
        if config.get_password().is_some() && settings.password_file.is_some() {
            return Err(wrong(
                "it has a password, and there is a queue.postgres.password_file too",
            ));
        }
        let name: Arc<str> = name(&config).into();
        // Where an @ or a / stands unescaped, the parser takes a part of the password for one of these, and they are shown.
        if !name.chars().all(|one| one.is_alphanumeric() || "._-/,:".contains(one)) {
            return Err(wrong("a host or the database has a character that neither may have"));
        }
        let tls = if settings.ca_file.is_some() { SslMode::Require } else { SslMode::Disable };
        let hosts = (0..hosts).filter_map(|number| of_host(&config, number, tls)).collect();
        Ok(Self(Arc::new(Inner { hosts, name, settings: settings.clone() })))
    }

    /// Hosts and database, as texts show them.
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// How it is used.
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    /// Whether the operator accepts this of the server.
    pub fn may_lose(&self, what: MayLose) -> bool {
        self.0.settings.may_lose.contains(&what)
    }

    /// How to connect to each of its hosts, with the password as it is now.
    pub(crate) fn hosts(&self) -> Result<Vec<Config>, Fault> {
        let mut hosts = self.0.hosts.clone();
        if let Some(path) = &self.0.settings.password_file {
            let password = read_password(path).map_err(|error| Fault::Refused {
                database: self.0.name.clone(),
                cause: Cause::Other(format!("cannot read {}: {error}", path.display())),
            })?;
            for host in &mut hosts {
                host.password(&password);
            }
        }
        Ok(hosts)
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Database").field(&self.0.name).finish()
    }
}

impl fmt::Display for Database {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0.name)
    }
}

fn name(config: &Config) -> String {
    let host = |host: &Host| match host {
        Host::Tcp(name) => name.clone(),
        Host::Unix(path) => path.display().to_string(),
    };
    let hosts: Vec<_> = config.get_hosts().iter().map(host).collect();
    let database = config.get_dbname().or(config.get_user()).unwrap_or_default();
    format!("{}/{database}", hosts.join(","))
}

/// The configuration for one host of several: the client would try them all under no time limit of its own.
fn of_host(all: &Config, number: usize, tls: SslMode) -> Option<Config> {
    let mut one = Config::new();
    match all.get_hosts().get(number)? {
        Host::Tcp(name) => one.host(name).ssl_mode(tls),
        Host::Unix(path) => one.host_path(path).ssl_mode(SslMode::Disable),
    };
    let ports = all.get_ports();
    if let Some(port) = ports.get(number).or(ports.first()) {
        one.port(*port);
    }
    if let Some(user) = all.get_user() {
        one.user(user);
    }
    if let Some(password) = all.get_password() {
        one.password(password);
    }
    if let Some(dbname) = all.get_dbname().or(all.get_user()) {
        one.dbname(dbname);
    }
    if let Some(options) = all.get_options() {
        one.options(options);
    }
    one.application_name(all.get_application_name().unwrap_or(APPLICATION_NAME))
        .channel_binding(all.get_channel_binding())
        .target_session_attrs(TargetSessionAttrs::Any)
        .keepalives(true)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_RETRIES)
        .tcp_user_timeout(TCP_USER_TIMEOUT);
    Some(one)
}

fn read_password(path: &PathBuf) -> std::io::Result<String> {
    use std::io::Read as _;
    let mut text = String::new();
    std::fs::File::open(path)?.take(PASSWORD_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests;
