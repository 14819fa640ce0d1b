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
use super::samples::Examined;
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
    /// What it says of strangers' mail, if it looks at it.
    pub(super) findings: &'static [&'static str],
    server: Server,
}

/// What is more than a plain relay.
#[derive(Clone, Copy, Default)]
pub(super) struct How<'a> {
    /// Grange's queue is in a database.
    pub(super) database: bool,
    /// Mail is verified and signed.
    pub(super) examined: Option<Examined<'a>>,
}

enum Server {
    None,
    Grange(Grange),
    Postfix(Postfix),
}

impl Contender {
    /// Starts one whose next hop is a port.
    pub(super) fn start(name: &'static str, folder: &Path, sink: u16) -> Result<Self, Failure> {
        Self::start_as(name, folder, sink, How::default())
    }

    /// Does the same, with what is more.
    pub(super) fn start_as(
        name: &'static str,
        folder: &Path,
        sink: u16,
        how: How<'_>,
    ) -> Result<Self, Failure> {
        let folder = folder.join(name);
        let (version, port, server) = match name {
            "grange" => {
                let grange = match how.database {
                    true => Grange::start_on_database(&folder, sink, how.examined)?,
                    false => Grange::start(&folder, sink, how.examined)?,
                };
                (grange.version.clone(), grange.port, Server::Grange(grange))
            }
            "postfix" => {
                let postfix = Postfix::start(&folder, sink, how.examined)?;
                (postfix.version.clone(), postfix.port, Server::Postfix(postfix))
            }
            _ => {
                ("straight to the sink: what the tools themselves cost".into(), sink, Server::None)
            }
        };
        let findings: &[&str] = match name {
            "grange" => &["iprev=pass", "spf=pass", "dkim=pass", "dmarc=pass", "arc=none"],
            _ => &["dkim=pass"],
        };
        Ok(Self { name, version, port, findings, server })
    }

    /// The processes that its others descend from; the floor has none.
    pub(super) fn pids(&self) -> Vec<u32> {
        match &self.server {
            Server::None => Vec::new(),
            Server::Grange(grange) => vec![grange.child.id()],
            Server::Postfix(postfix) => {
                let milter = postfix.milter.as_ref().map(|milter| milter.child.id());
                milter.into_iter().chain([postfix.child.id()]).collect()
            }
        }
    }

    /// Whether it has nothing to tell strangers by.
    pub(super) fn is_floor(&self) -> bool {
        matches!(self.server, Server::None)
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
