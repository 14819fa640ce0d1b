//! The commands: each in a file of its own, all ending in an exit code of sysexits.

mod ask;
mod body;
mod check;
mod documents;
mod filter;
mod keys;
mod queue;
mod route;
mod run;
mod spool;
mod status;
mod store;
mod table;
mod trial;
mod upgrade;

use std::os::unix::fs::MetadataExt;
use std::process::ExitCode;
use std::rc::Rc;

use ::queue::{ReadError, Reader, Recovery};
use anyhow::Context;

pub use self::ask::places;
use self::ask::{ask, ask_at, ask_within, client, remote_places};
use crate::cli::{Cli, Command, Filter};
use crate::configuration::Configuration;
use crate::{metrics, stores};

/// Why a command failed, in the words of sysexits.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is wrong: 78, as for a queue that this program is too old for.
    #[error(transparent)]
    Configuration(#[from] config::ConfigError),
    /// A directory of keys that no host could use: 78.
    #[error("{0}")]
    Keys(#[from] tls::KeysError),
    /// The command makes no sense as given: 64.
    #[error("{0}")]
    Usage(String),
    /// A farm did not answer: 69.
    #[error("{0}")]
    Unavailable(String),
    /// What was asked for is not there: 66.
    #[error("{0}")]
    NotFound(String),
    /// A message is damaged: 65.
    #[error("{0}")]
    Damaged(String),
    /// A farm refused, in these words: 75.
    #[error("{0}")]
    Refused(String),
    /// Something of the system failed: 74.
    #[error("{0:#}")]
    System(#[from] anyhow::Error),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Usage(_) => 64,
            Self::Damaged(_) => 65,
            Self::NotFound(_) => 66,
            Self::Unavailable(_) => 69,
            Self::System(error) if stores::is_newer(error) => 78,
            Self::System(_) => 74,
            Self::Refused(_) => 75,
            Self::Configuration(_) | Self::Keys(_) => 78,
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::System(error.into())
    }
}

/// Runs a command.
pub fn main(cli: Cli) -> ExitCode {
    match dispatch(cli) {
        Ok(code) => code,
        Err(failure) => {
            eprintln!("grange: {}", chain(&failure));
            ExitCode::from(failure.code())
        }
    }
}

fn chain(failure: &Failure) -> String {
    let mut text = failure.to_string();
    if matches!(failure, Failure::System(_)) {
        return text;
    }
    let mut source = std::error::Error::source(failure);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn dispatch(cli: Cli) -> Result<ExitCode, Failure> {
    let path = cli.config.as_path();
    match cli.command {
        Command::Try(options) => trial::run(options),
        Command::Run(options) => run::run(path, options),
        Command::Farm(options) => run::farm(path, &options.name),
        Command::Check(options) => check::run(path, &options),
        Command::Status(output) => status::run(&Configuration::load_to_look(path)?, output),
        Command::Queue(command) => queue::run(&Configuration::load_to_look(path)?, command),
        Command::Quarantine(command) => {
            queue::quarantine(&Configuration::load_to_look(path)?, command)
        }
        Command::Filter(Filter::Test(options)) => {
            filter::run(&Configuration::load(path)?, &options)
        }
        Command::Route(options) => route::run(&Configuration::load(path)?, &options),
        Command::Body(options) => body::run(&Configuration::load_to_look(path)?, &options.handle),
        Command::Requeue => queue::requeue(&Configuration::load_to_look(path)?),
        Command::Compact => queue::compact(&Configuration::load_to_look(path)?),
        Command::Spool(command) => spool::run(&Configuration::load_to_look(path)?, command),
        Command::Store(command) => store::run(&Configuration::load(path)?, command),
        Command::Keys(command) => keys::run(path, command),
        Command::Metrics => metrics::print(&Configuration::load_to_look(path)?),
        Command::Upgrade => upgrade::run(path),
        Command::Completions { shell } => documents::completions(shell),
        Command::Man { directory } => documents::man(&directory),
    }
}

/// The rights to read messages and to list them.
type Store = (Rc<dyn Reader>, Rc<dyn Recovery>);

/// The store, for a command that looks into it; a place where there has never been one is no empty queue.
fn store(configuration: &Configuration) -> Result<Store, Failure> {
    stored_somewhere(configuration)?;
    let stores = configuration.stores();
    stores.check_version()?;
    Ok(stores.read_only()?)
}

/// Says that there is no queue where the configuration has it, which may be a slip in its path.
fn stored_somewhere(configuration: &Configuration) -> Result<(), Failure> {
    let data_dir = &configuration.top.data_dir;
    let there = configuration
        .stores()
        .is_there()
        .with_context(|| format!("cannot look into {}", data_dir.display()))?;
    match there {
        true => Ok(()),
        false => Err(Failure::NotFound(format!("there is no queue in {}", data_dir.display()))),
    }
}

/// Refuses to write to a spool as somebody whose files the workers could not use afterwards.
fn may_write(configuration: &Configuration) -> Result<(), Failure> {
    if configuration.queue.is_database() {
        return Ok(());
    }
    let owner = std::fs::metadata(configuration.top.data_dir.join("spool"))?.uid();
    if nix::unistd::geteuid().as_raw() != owner {
        let text = format!("the queue belongs to uid {owner}: run this as that user");
        return Err(Failure::Refused(text));
    }
    Ok(())
}

/// Why a message cannot be read: it is not there, or the store is not in order.
fn unreadable(error: ReadError) -> Failure {
    match error {
        ReadError::Gone(..) | ReadError::Foreign(_) => Failure::NotFound(error.to_string()),
        ReadError::Damaged(..) => Failure::Damaged(error.to_string()),
        ReadError::Io { .. } => Failure::System(error.into()),
    }
}

/// Runs a command's asynchronous part.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    Ok(runtime.block_on(work))
}

#[cfg(test)]
mod tests;
