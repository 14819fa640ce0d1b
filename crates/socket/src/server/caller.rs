//! Who asks.

use std::fmt;
use std::rc::Rc;

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Who is at the other end of the connection.
    pub who: Who,
    /// Which connection of this worker it is; never used twice.
    pub connection: u64,
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// A process of this host, as the kernel says.
    Local {
        /// Its user.
        uid: u32,
        /// Its process id.
        pid: u32,
    },
    /// Another host, or this one over TCP, as its certificate says.
    Host {
        /// Its name.
        name: Rc<str>,
    },
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { uid, pid } => write!(f, "process {pid} of user {uid}"),
            Self::Host { name } => write!(f, "host {name}"),
        }
    }
}
