//! The ways from a source to a sink that are compared.
//!
//! ```text
//! floor    source ──────────────▶ sink     what the tools themselves cost
//! grange   source ──▶ Grange ───▶ sink
//! postfix  source ──▶ Postfix ──▶ sink
//! ```

use std::path::Path;

use super::database::Database;
use super::grange::Grange;
use super::postfix::Postfix;
use crate::Failure;

/// The contenders, in the order of every round.
pub(super) const NAMES: &[&str] = &["floor", "grange", "postfix"];

/// One of them, running.
pub(super) struct Contender {
    /// Its name, one of [`NAMES`].
    pub(super) name: &'static str,
    /// What it says of its version.
    pub(super) version: String,
    /// Where it takes mail.
    pub(super) port: u16,
    server: Server,
}

enum Server {
    None,
    Grange(Grange),
    Postfix(Postfix),
}

impl Contender {
    /// Starts one whose next hop is a port.
    pub(super) fn start(name: &'static str, folder: &Path, sink: u16) -> Result<Self, Failure> {
        Self::start_on(name, folder, sink, false)
    }

    /// Does the same, with Grange's queue in a database if so wanted.
    pub(super) fn start_on(
        name: &'static str,
        folder: &Path,
        sink: u16,
        database: bool,
    ) -> Result<Self, Failure> {
        let folder = folder.join(name);
        let (version, port, server) = match name {
            "grange" => {
                let grange = match database {
                    true => Grange::start_on_database(&folder, sink)?,
                    false => Grange::start(&folder, sink)?,
                };
                (grange.version.clone(), grange.port, Server::Grange(grange))
            }
            "postfix" => {
                let postfix = Postfix::start(&folder, sink)?;
                (postfix.version.clone(), postfix.port, Server::Postfix(postfix))
            }
            _ => {
                ("straight to the sink: what the tools themselves cost".into(), sink, Server::None)
            }
        };
        Ok(Self { name, version, port, server })
    }

    /// The process that its others descend from; the floor has none.
    pub(super) fn pid(&self) -> Option<u32> {
        match &self.server {
            Server::None => None,
            Server::Grange(grange) => Some(grange.child.id()),
            Server::Postfix(postfix) => Some(postfix.child.id()),
        }
    }

    /// The database that its queue is in, if it is in one.
    pub(super) fn database(&self) -> Option<&Database> {
        match &self.server {
            Server::Grange(grange) => grange.database.as_ref(),
            Server::None | Server::Postfix(_) => None,
        }
    }

    /// An error that says whose it is.
    pub(super) fn blame(&self, failure: &Failure) -> Failure {
        format!("{}: {failure}", self.name).into()
    }
}
