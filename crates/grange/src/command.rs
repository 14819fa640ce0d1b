//! The commands: each in a file of its own, all ending in an exit code of sysexits.

mod body;
mod check;
mod documents;
mod queue;
mod route;
mod run;
mod spool;
mod status;
mod table;
mod trial;
mod upgrade;

use std::path::Path;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use ::queue::{ReadError, Reader, Recovery};
use anyhow::Context;
use socket::{CallError, Client, ClientSettings, Conversation};

use crate::cli::{Cli, Command};
use crate::configuration::Configuration;
use crate::{metrics, stores};

/// Why a command failed, in the words of sysexits.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration is wrong: 78.
    #[error(transparent)]
    Configuration(#[from] config::ConfigError),
    /// The command makes no sense as given: 64.
    #[error("{0}")]
    Usage(String),
    /// A farm did not answer: 69.
    #[error("{0}")]
    Unavailable(String),
    /// What was asked for is not there: 66.
    #[error("{0}")]
    NotFound(String),
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
            Self::NotFound(_) => 66,
            Self::Unavailable(_) => 69,
            Self::System(_) => 74,
            Self::Refused(_) => 75,
            Self::Configuration(_) => 78,
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
        Command::Status(output) => status::run(&Configuration::load(path)?, output),
        Command::Queue(command) => queue::run(&Configuration::load(path)?, command),
        Command::Route(options) => route::run(&Configuration::load(path)?, &options),
        Command::Body(options) => body::run(&Configuration::load(path)?, &options.handle),
        Command::Requeue => queue::requeue(&Configuration::load(path)?),
        Command::Compact => queue::compact(&Configuration::load(path)?),
        Command::Spool(command) => spool::run(&Configuration::load(path)?, command),
        Command::Metrics => metrics::print(&Configuration::load(path)?),
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
    Ok(stores::read_only(configuration)?)
}

/// Says that there is no queue where the configuration has it, which may be a slip in its path.
fn stored_somewhere(configuration: &Configuration) -> Result<(), Failure> {
    let data_dir = &configuration.top.data_dir;
    let there = stores::is_there(data_dir)
        .with_context(|| format!("cannot look into {}", data_dir.display()))?;
    match there {
        true => Ok(()),
        false => Err(Failure::NotFound(format!("there is no queue in {}", data_dir.display()))),
    }
}

/// Why a message cannot be read: it is not there, or the store is not in order.
fn unreadable(error: ReadError) -> Failure {
    match error {
        ReadError::Gone(..) | ReadError::Foreign(_) => Failure::NotFound(error.to_string()),
        ReadError::Io { .. } => Failure::System(error.into()),
    }
}

/// How long a command waits for a farm.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// Runs a command's asynchronous part.
fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    Ok(runtime.block_on(work))
}

/// Asks one request of a socket in `run_dir`.
async fn ask<C: Conversation>(
    run_dir: &Path,
    socket: &str,
    request: &C::Request,
) -> Result<C::Answer, Failure> {
    ask_within::<C>(run_dir, socket, request, ANSWER_DEADLINE).await
}

/// Asks one request that must be answered so soon.
async fn ask_within<C: Conversation>(
    run_dir: &Path,
    socket: &str,
    request: &C::Request,
    deadline: Duration,
) -> Result<C::Answer, Failure> {
    let directory = run_dir.join("sockets");
    let path = match socket.ends_with(".admin") {
        true => directory.join("admin").join(socket),
        false => directory.join(socket),
    };
    reachable(&path)?;
    let settings = ClientSettings { deadline, waiting_max: 1 };
    let client = Client::<C>::new(path, settings);
    client.call(request).await.map_err(|error| match error {
        CallError::Refused(error) if error.code == socket::codes::NOT_FOUND => {
            Failure::NotFound(error.message)
        }
        CallError::Refused(error) if error.code == socket::codes::PARAMS => {
            Failure::Usage(error.message)
        }
        CallError::Refused(error) => Failure::Refused(error.message),
        other => Failure::Unavailable(format!("{socket} does not answer: {other}")),
    })
}

/// Says at once, in plain words, why a socket cannot be used, instead of waiting for the deadline.
fn reachable(path: &Path) -> Result<(), Failure> {
    use std::io::ErrorKind;
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::Unavailable(match error.kind() {
            ErrorKind::NotFound => format!("no farm serves {}: is grange running?", path.display()),
            ErrorKind::ConnectionRefused => {
                format!("nobody listens on {}: is grange running?", path.display())
            }
            ErrorKind::PermissionDenied => {
                format!("you may not use {} (its directory says who may)", path.display())
            }
            _ => format!("cannot connect to {}: {error}", path.display()),
        })),
    }
}

#[cfg(test)]
mod tests;
