//! The whole configuration: every stage's own settings, composed and checked against each other.

mod across;

pub(crate) use across::is_host_name;

use std::path::{Path, PathBuf};

use config::{ConfigError, File, Problem, Span};
use serde::{Deserialize, Serialize};

use crate::stores::{self, Stores};
use crate::{cluster, logging, metrics, privilege};

/// The top level of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Top {
    /// This host's name in SMTP, in reports and in `Received`. There is no default: it must be given.
    pub hostname: String,
    /// Spool, and mail for the local channel. Default: `/var/lib/grange`.
    pub data_dir: PathBuf,
    /// Job sockets and scoreboards. Default: `/run/grange`.
    pub run_dir: PathBuf,
    /// The user that workers run as; needed when started as root.
    pub user: Option<String>,
    /// Their group; default: the user's own.
    pub group: Option<String>,
    /// The group that may use the admin sockets, besides root and the user.
    pub admin_group: Option<String>,
    /// How long draining may take at a stop before workers are killed. Default: 10 s.
    pub drain: Span,
    /// How long workers of an old generation may go on after a reload, so that their sessions run to their end. Default: 1 day.
    pub drain_reload: Span,
}

impl Default for Top {
    fn default() -> Self {
        Self {
            hostname: String::new(),
            data_dir: "/var/lib/grange".into(),
            run_dir: "/run/grange".into(),
            user: None,
            group: None,
            admin_group: None,
            drain: Span::seconds(10),
            drain_reload: Span::seconds(86_400),
        }
    }
}

/// The sections that may stand in the file, besides channels.
const SECTIONS: &[&str] = &[
    "log",
    "metrics",
    "queue",
    "cluster",
    "dns",
    "smtpserver",
    "contentfilter",
    "router",
    "scheduler",
    "requeue",
    "compact",
    "channel",
];

/// The channels that are there even when the file does not name them, with their agents.
const CHANNELS_DEFAULT: &[&str] = &["smtp", "local", "error"];

/// A way to deliver.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Channel {
    /// Its name, and its farm's.
    pub name: String,
    /// Who serves it.
    pub agent: Agent,
}

/// Who serves a channel.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "agent", rename_all = "lowercase")]
pub enum Agent {
    /// SMTP or LMTP to a next hop.
    Smtp(Box<agent_smtp::Settings>),
    /// Maildirs.
    Local(agent_local::Settings),
    /// Delivery reports.
    Error(agent_error::Settings),
    /// A program of the operator's own, behind this socket.
    Socket(External),
}

/// A channel served by a program of the operator's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct External {
    /// The socket's name in `run_dir/sockets`.
    pub socket: String,
    /// Whether each next hop is a lane of its own. Default: no, the channel is one lane.
    #[serde(default)]
    pub hosts: bool,
}

/// Everything an operator has said, and the defaults for the rest.
#[derive(Debug, Clone, Serialize)]
pub struct Configuration {
    /// The file it came from.
    #[serde(skip)]
    pub path: PathBuf,
    /// The top level.
    #[serde(flatten)]
    pub top: Top,
    /// `[log]`.
    pub log: logging::Settings,
    /// `[metrics]`.
    pub metrics: metrics::Settings,
    /// `[queue]`.
    pub queue: stores::Settings,
    /// `[cluster]`.
    pub cluster: cluster::Settings,
    /// `[dns]`.
    pub dns: dns::Settings,
    /// `[smtpserver]`.
    pub smtpserver: smtpserver::Settings,
    /// `[contentfilter]`.
    pub contentfilter: contentfilter::Settings,
    /// `[router]`.
    pub router: router::Settings,
    /// `[scheduler]`.
    pub scheduler: scheduler::Settings,
    /// `[requeue]`.
    pub requeue: requeue::Settings,
    /// `[compact]`.
    pub compact: compact::Settings,
    /// `[channel.NAME]`, in the order of the file.
    pub channels: Vec<Channel>,
    /// What is allowed but should be known, with file and line.
    #[serde(skip)]
    pub notices: Vec<String>,
    /// Whether all of it is the file's. Else the file is wrong, and only `run_dir` and `data_dir` are what it says.
    #[serde(skip)]
    pub is_whole: bool,
}

/// The two settings that say where an instance is.
#[derive(Deserialize)]
#[serde(default)]
struct Place {
    data_dir: PathBuf,
    run_dir: PathBuf,
}

impl Default for Place {
    fn default() -> Self {
        let Top { data_dir, run_dir, .. } = Top::default();
        Self { data_dir, run_dir }
    }
}

impl Configuration {
    /// Reads, types and checks a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::from_file(&File::load(path)?)
    }

    /// Reads a file for a command that looks at what runs, or steers it. A file that has become wrong since must not take that
    /// away: as long as it still tells where the instance is, the rest is left out, with a warning on standard error.
    pub fn load_to_look(path: &Path) -> Result<Self, ConfigError> {
        let error = match Self::load(path) {
            Err(error @ ConfigError::Wrong { .. }) => error,
            loaded => return loaded,
        };
        let Ok(place) = File::load_top(path).and_then(|file| file.section::<Place>("")) else {
            return Err(error);
        };
        let top = Top { data_dir: place.data_dir, run_dir: place.run_dir, ..Top::default() };
        if check_place(&top).is_err() {
            return Err(error);
        }
        eprintln!(
            "grange: {error}\ngrange: the file is wrong; going on with its run_dir {} and data_dir {}",
            top.run_dir.display(),
            top.data_dir.display()
        );
        Ok(Self::at(path, top))
    }

    /// The defaults of everything but the top level.
    fn at(path: &Path, top: Top) -> Self {
        Self {
            path: path.to_owned(),
            top,
            log: Default::default(),
            metrics: Default::default(),
            queue: Default::default(),
            cluster: Default::default(),
            dns: Default::default(),
            smtpserver: Default::default(),
            contentfilter: Default::default(),
            router: Default::default(),
            scheduler: Default::default(),
            requeue: Default::default(),
            compact: Default::default(),
            channels: Vec::new(),
            notices: Vec::new(),
            is_whole: false,
        }
    }

    /// Reads, types and checks a file for `run` on this host, and notes what is wanting here: accounts, tables, the log's
    /// directory. What `run` would refuse is refused, with its place.
    pub fn load_here(path: &Path) -> Result<Self, ConfigError> {
        Ok(Self::read_here(path)?.1)
    }

    /// Does the same, and refuses tables that cannot be understood: for `grange check`, and for a reload, where workers that run
    /// still hold what such a table said before.
    pub fn load_with_tables(path: &Path) -> Result<Self, ConfigError> {
        let (file, configuration) = Self::read_here(path)?;
        configuration.router.check_tables().map_err(|problem| file.locate(problem))?;
        let reader = privilege::user(&configuration.top).map_err(|problem| file.locate(problem))?;
        let filters = &configuration.contentfilter;
        filters.check_files(reader).map_err(|problem| file.locate(problem))?;
        Ok(configuration)
    }

    fn read_here(path: &Path) -> Result<(File, Self), ConfigError> {
        let file = File::load(path)?;
        let mut configuration = Self::from_file(&file)?;
        privilege::check(&configuration.top).map_err(|problem| file.locate(problem))?;
        configuration.log.check_here().map_err(|problem| file.locate(problem))?;
        let here = privilege::notices(&configuration.top);
        let tables = configuration.router.unreadable_tables();
        configuration.notices.extend(here.iter().chain(&tables).map(|notice| file.note(notice)));
        Ok((file, configuration))
    }

    /// Types and checks a file that is parsed.
    pub fn from_file(file: &File) -> Result<Self, ConfigError> {
        let mut configuration = Self {
            path: file.path().to_owned(),
            top: file.section_without("", SECTIONS)?,
            log: file.section("log")?,
            metrics: file.section("metrics")?,
            queue: stores::Settings::of(file)?,
            cluster: file.section("cluster")?,
            dns: file.section("dns")?,
            smtpserver: file.section("smtpserver")?,
            contentfilter: file.section("contentfilter")?,
            router: file.section("router")?,
            scheduler: file.section("scheduler")?,
            requeue: file.section("requeue")?,
            compact: file.section("compact")?,
            channels: channels(file)?,
            notices: Vec::new(),
            is_whole: true,
        };
        configuration.check().map_err(|problem| file.locate(problem))?;
        let notices = across::notices(&configuration);
        configuration.notices = notices.iter().map(|notice| file.note(notice)).collect();
        Ok(configuration)
    }

    /// Where messages are kept.
    pub fn stores(&self) -> Stores {
        Stores { data_dir: self.top.data_dir.clone(), settings: self.queue.clone() }
    }

    /// Whether a contentfilter stands in the path.
    pub fn inspects(&self) -> bool {
        !self.contentfilter.is_empty()
    }

    /// The channels as the router sees them.
    pub fn channel_facts(&self) -> Vec<router::Channel> {
        self.channels
            .iter()
            .map(|channel| router::Channel {
                name: channel.name.clone(),
                hosts: match &channel.agent {
                    Agent::Smtp(_) => true,
                    Agent::Local(_) | Agent::Error(_) => false,
                    Agent::Socket(external) => external.hosts,
                },
            })
            .collect()
    }

    /// The names of the farms that mail passes through, wherever they run.
    fn farms_of_mail(&self) -> Vec<String> {
        let channels =
            self.channels.iter().filter(|channel| !matches!(channel.agent, Agent::Socket(_)));
        let mut names: Vec<String> = channels.map(|channel| channel.name.clone()).collect();
        names.extend(["scheduler", "router", "requeue"].map(str::to_owned));
        if self.inspects() {
            names.push("contentfilter".to_owned());
        }
        names.push("smtpserver".to_owned());
        names
    }

    /// The socket of a channel.
    pub fn channel_socket(channel: &Channel) -> String {
        match &channel.agent {
            Agent::Socket(external) => external.socket.clone(),
            _ => format!("{}.deliver", channel.name),
        }
    }

    fn check(&self) -> Result<(), Problem> {
        check_top(&self.top)?;
        self.log.check()?;
        self.metrics.check()?;
        self.queue.check()?;
        self.dns.check()?;
        self.smtpserver.check()?;
        self.contentfilter.check()?;
        let channels: Vec<String> = self.channels.iter().map(|one| one.name.clone()).collect();
        self.router.check(&channels)?;
        self.scheduler.check()?;
        self.requeue.check()?;
        self.compact.check()?;
        for channel in &self.channels {
            match &channel.agent {
                Agent::Smtp(settings) => settings.check(&channel.name)?,
                Agent::Local(settings) => settings.check(&channel.name)?,
                Agent::Error(settings) => settings.check(&channel.name)?,
                Agent::Socket(_) => {}
            }
        }
        across::check(self)
    }
}

fn check_top(top: &Top) -> Result<(), Problem> {
    let name = &top.hostname;
    if name.is_empty() {
        let right = "this host's full name, as in hostname = \"mta.example.org\"";
        return Err(Problem::new("hostname", "is missing", right));
    }
    if !across::is_host_name(name) {
        let wrong = format!("{name:?} is not a host name");
        return Err(Problem::new("hostname", wrong, "letters, digits, hyphens and dots"));
    }
    check_place(top)
}

fn check_place(top: &Top) -> Result<(), Problem> {
    for (key, path) in [("data_dir", &top.data_dir), ("run_dir", &top.run_dir)] {
        if !path.is_absolute() {
            let wrong = format!("{} is not an absolute path", path.display());
            return Err(Problem::new(key, wrong, "a path that begins with /"));
        }
    }
    if top.data_dir == top.run_dir {
        return Err(Problem::new("run_dir", "is the same as data_dir", "a directory of its own"));
    }
    Ok(())
}

/// Types every channel; those that a mail system cannot do without are there by default.
fn channels(file: &File) -> Result<Vec<Channel>, ConfigError> {
    let mut names = file.children("channel");
    for name in CHANNELS_DEFAULT {
        if !names.iter().any(|given| given == name) {
            names.push((*name).to_owned());
        }
    }
    names.into_iter().map(|name| channel(file, name)).collect()
}

fn channel(file: &File, name: String) -> Result<Channel, ConfigError> {
    let section = format!("channel.{name}");
    let wrong = |what: String, right: &str| Err(file.locate(Problem::new(&section, what, right)));
    if SECTIONS.contains(&name.as_str()) || name == cluster::STATUS {
        return wrong(format!("{name} is the name of a stage"), "another name");
    }
    let plain = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        && name.len() <= 32;
    if !plain {
        return wrong(format!("{name:?} is not a channel's name"), "up to 32 of a-z, 0-9 and -");
    }
    let agent = match file.text_at(&format!("{section}.agent"))? {
        Some(agent) => agent,
        None if file.has(&format!("{section}.socket")) => "socket".to_owned(),
        None if CHANNELS_DEFAULT.contains(&name.as_str()) => name.clone(),
        None => {
            return wrong(
                "has neither agent nor socket".to_owned(),
                "agent = \"smtp\", \"local\" or \"error\", or socket = \"NAME.deliver\"",
            );
        }
    };
    let agent = match agent.as_str() {
        "smtp" => Agent::Smtp(Box::new(file.section_without(&section, &["agent"])?)),
        "local" => Agent::Local(file.section_without(&section, &["agent"])?),
        "error" => Agent::Error(file.section_without(&section, &["agent"])?),
        "socket" => Agent::Socket(file.section_without(&section, &["agent"])?),
        other => {
            let problem = Problem::new(
                format!("{section}.agent"),
                format!("there is no agent {other:?}"),
                "\"smtp\", \"local\" or \"error\"; or socket = \"NAME.deliver\" for a program of your own",
            );
            return Err(file.locate(problem));
        }
    };
    Ok(Channel { name, agent })
}

#[cfg(test)]
mod tests;
