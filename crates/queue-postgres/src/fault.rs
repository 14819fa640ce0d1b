//! What may go wrong with the database, sorted by what is to be done about it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use config::Span;
use queue::ReadError;
use tokio_postgres::error::SqlState;

/// Why the database did not do as asked.
///
/// No text of it holds a password: it names hosts and database, and says what the server said.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// It cannot be reached, is starting or stopping, takes too long, or does not take writes: try again, later, on another
    /// connection. What was asked was not done, or if it was, it was no COMMIT.
    #[error("cannot reach the database {database}")]
    Away {
        /// Which.
        database: Arc<str>,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// Two transactions were in each other's way and this one was undone: try again at once.
    #[error("the database {database} undid a transaction that met another")]
    Again {
        /// Which.
        database: Arc<str>,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// A COMMIT was not answered, or with a warning: it may have been done, and what was done may be undone by a failover.
    #[error("the database {database} did not answer a COMMIT; it may have been done")]
    Unknown {
        /// Which.
        database: Arc<str>,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// It has no space, or no memory.
    #[error("the database {database} has no room")]
    Full {
        /// Which.
        database: Arc<str>,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// It will not do this however often it is asked: a wrong password, a missing right, a table that is not there.
    #[error("the database {database} refuses")]
    Refused {
        /// Which.
        database: Arc<str>,
        /// Why.
        #[source]
        cause: Cause,
    },
    /// Another scheduler has taken over: nothing was changed.
    #[error("another scheduler has taken over in the database {database}")]
    Fenced {
        /// Which.
        database: Arc<str>,
    },
    /// Its schema is not the one that this program knows.
    #[error("the database {database} {found}, this program knows version {}; {}", crate::VERSION, found.advice())]
    Version {
        /// Which.
        database: Arc<str>,
        /// What is there.
        found: crate::Found,
    },
    /// It may lose what it has said to be committed.
    #[error(
        "the database {database} has {setting} = {value}: it can lose mail that was accepted. Switch it on, or name \
         {setting:?} in queue.postgres.may_lose"
    )]
    NotDurable {
        /// Which.
        database: Arc<str>,
        /// The server's setting.
        setting: &'static str,
        /// Its value.
        value: String,
    },
}

/// What stands behind a [`Fault`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum Cause {
    /// What the server said, with its code (PostgreSQL, appendix A).
    #[error("{message} ({code})")]
    Server {
        /// Its five characters.
        code: String,
        /// Its text, and the detail behind it.
        message: String,
    },
    /// The connection, or what was sent over it.
    #[error("{}", chain(&**.0))]
    Connection(Arc<tokio_postgres::Error>),
    /// A file, or the system.
    #[error("{0}")]
    System(Arc<io::Error>),
    /// Nothing came in time.
    #[error("no answer within {}", Span(*.0))]
    Late(Duration),
    /// The server does not take writes.
    #[error("it is read-only, a standby perhaps")]
    ReadOnly,
    /// The server warned while it committed.
    #[error("it warned: {0}")]
    Warned(String),
    /// Something else, in words.
    #[error("{0}")]
    Other(String),
}

impl Fault {
    /// Sorts an error of the client or the server that was met anywhere but at a COMMIT.
    pub fn of(database: &Arc<str>, error: tokio_postgres::Error) -> Self {
        let database = database.clone();
        let Some(answer) = error.as_db_error() else {
            return Self::Away { database, cause: Cause::Connection(Arc::new(error)) };
        };
        let (code, cause) = (answer.code().clone(), Cause::of_server(answer));
        match code.code() {
            "22012" => Self::Fenced { database },
            // Too many connections are not a lack of space; 25P03 and 25P04 end a connection whose transaction took too long.
            "53300" | "25006" | "25P03" | "25P04" | "57014" => Self::Away { database, cause },
            // Engines that are several servers say so when they cannot tell what became of a COMMIT.
            "40003" => Self::Unknown { database, cause },
            "40001" | "40P01" | "55P03" => Self::Again { database, cause },
            other => match other.get(..2).unwrap_or_default() {
                "08" | "57" => Self::Away { database, cause },
                "53" => Self::Full { database, cause },
                _ => Self::Refused { database, cause },
            },
        }
    }

    /// Sorts an error that was met when everything up to a COMMIT had been sent: where the server's own word is missing,
    /// or is only that it ends the connection, it may have been done.
    pub fn of_commit(database: &Arc<str>, error: tokio_postgres::Error) -> Self {
        match Self::of(database, error) {
            Self::Away { database, cause }
                if !cause.is_code(&SqlState::READ_ONLY_SQL_TRANSACTION) =>
            {
                Self::Unknown { database, cause }
            }
            other => other,
        }
    }

    /// Whether waiting may end it.
    pub fn may_pass(&self) -> bool {
        matches!(
            self,
            Self::Away { .. } | Self::Again { .. } | Self::Unknown { .. } | Self::Full { .. }
        )
    }

    /// Whether the server said this.
    pub fn is_code(&self, code: &SqlState) -> bool {
        self.cause().is_some_and(|cause| cause.is_code(code))
    }

    /// Its text and that of what stands behind it, on one line.
    pub fn whole(&self) -> String {
        match self.cause() {
            Some(cause) => format!("{self}: {cause}"),
            None => self.to_string(),
        }
    }

    /// What stands behind it, or its own text.
    pub(crate) fn into_cause(self) -> Cause {
        match self {
            Self::Away { cause, .. }
            | Self::Again { cause, .. }
            | Self::Unknown { cause, .. }
            | Self::Full { cause, .. }
            | Self::Refused { cause, .. } => cause,
            other => Cause::Other(other.to_string()),
        }
    }

    /// What stands behind it, if anything does.
    pub fn cause(&self) -> Option<&Cause> {
        match self {
            Self::Away { cause, .. }
            | Self::Again { cause, .. }
            | Self::Unknown { cause, .. }
            | Self::Full { cause, .. }
            | Self::Refused { cause, .. } => Some(cause),
            Self::Fenced { .. } | Self::Version { .. } | Self::NotDurable { .. } => None,
        }
    }
}

impl Cause {
    fn of_server(answer: &tokio_postgres::error::DbError) -> Self {
        let mut message = answer.message().to_owned();
        if let Some(detail) = answer.detail() {
            message = format!("{message}: {detail}");
        }
        Self::Server { code: answer.code().code().to_owned(), message }
    }

    /// Whether the server said this.
    pub fn is_code(&self, wanted: &SqlState) -> bool {
        matches!(self, Self::Server { code, .. } if code == wanted.code())
    }
}

/// An error's text, and that of everything behind it.
fn chain(error: &dyn std::error::Error) -> String {
    let behind = std::iter::successors(error.source(), |error| error.source());
    behind.fold(error.to_string(), |text, error| format!("{text}: {error}"))
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        Self::System(Arc::new(error))
    }
}

/// For the contracts of crate `queue`: what is the matter, and what stands behind it.
pub(crate) fn told(fault: Fault) -> (String, Arc<io::Error>) {
    let kind = match &fault {
        Fault::Away { cause: Cause::Late(_), .. } => io::ErrorKind::TimedOut,
        Fault::Away { .. } | Fault::Unknown { .. } => io::ErrorKind::NotConnected,
        Fault::Full { .. } => io::ErrorKind::StorageFull,
        Fault::Refused { .. } => io::ErrorKind::PermissionDenied,
        _ => io::ErrorKind::Other,
    };
    match fault.cause() {
        Some(cause) => (fault.to_string(), Arc::new(io::Error::new(kind, cause.clone()))),
        None => ("the database".to_owned(), Arc::new(io::Error::new(kind, fault))),
    }
}

/// What a reader hears of a fault.
pub(crate) fn unreadable(fault: Fault) -> ReadError {
    let (context, source) = told(fault);
    ReadError::Io { context, source }
}
