//! The section `[queue.postgres]`: how the database is reached, and how much waits for it.

use std::path::PathBuf;
use std::time::Duration;

use config::{ByteSize, Problem, Span};
use serde::{Deserialize, Serialize};

/// The section `[queue.postgres]`. Every setting has a default; where the database is stands in `queue.store`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A file whose first line is the password, read at each connect. Default: the password in the URL, if there is one.
    pub password_file: Option<PathBuf>,
    /// A file with the certificates of the authorities that may have signed the database's, as PEM. With it every connection over a
    /// network speaks TLS 1.3, and the certificate must be of the host that the URL names. Default: none, no TLS.
    pub ca_file: Option<PathBuf>,
    /// A file with the certificate that we show the database, as PEM. Default: none is shown.
    pub certificate_file: Option<PathBuf>,
    /// A file with that certificate's private key, as PEM.
    pub key_file: Option<PathBuf>,
    /// What the server may have switched off although it can then lose accepted mail: `"synchronous_commit"`, `"fsync"`,
    /// `"full_page_writes"`. Default: nothing, such a server is refused.
    pub may_lose: Vec<MayLose>,
    /// Transactions that one acceptor has under way at a time, each on a connection of its own. Default 2.
    pub connections: u32,
    /// How long one host of the database may take until a connection to it stands. Default 5 s.
    pub connect_timeout: Span,
    /// How long the database may take for a statement that is not a COMMIT. Default 30 s.
    pub statement_timeout: Span,
    /// How long an acceptor waits for a COMMIT, with all its repeats, before the client hears `451`. The message may then have
    /// been accepted all the same, and come a second time. Default 2 m.
    pub commit_timeout: Span,
    /// What bodies may hold in one worker's memory, all together, until they are committed; more are refused with `451`.
    /// Default 256 MiB.
    pub draft_bytes_max: ByteSize,
    /// How long the scheduler's lease on the ledger lasts if it is not renewed: so long after a scheduler's death another takes over, by
    /// the database's clock. Default 15 s.
    pub lease: Span,
    /// How often the lease is renewed. Default 5 s.
    pub lease_renewal: Span,
    /// So long before its lease ends a scheduler that could not renew it sends nothing any more. Default 5 s.
    pub lease_margin: Span,
    /// How often a scheduler that stands by looks whether it can take over. Default 1 s.
    pub standby_look: Span,
    /// Bodies over 256 KiB that one worker writes at a time; more are refused with `451`. Default 32.
    pub large_bodies_max: u32,
}

/// What a server can have switched off, at the cost of accepted mail when it or its machine stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MayLose {
    /// `synchronous_commit` is `off` or `local`: a COMMIT is answered before it is on a disk, or before it is on a standby.
    SynchronousCommit,
    /// `fsync` is `off`: nothing is ever known to be on a disk.
    Fsync,
    /// `full_page_writes` is `off`: a page that was half written when power failed cannot be mended.
    FullPageWrites,
}

impl MayLose {
    /// The server's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::SynchronousCommit => "synchronous_commit",
            Self::Fsync => "fsync",
            Self::FullPageWrites => "full_page_writes",
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            password_file: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
            may_lose: Vec::new(),
            connections: 2,
            connect_timeout: Span::seconds(5),
            statement_timeout: Span::seconds(30),
            commit_timeout: Span::seconds(120),
            draft_bytes_max: ByteSize(256 << 20),
            lease: Span::seconds(15),
            lease_renewal: Span::seconds(5),
            lease_margin: Span::seconds(5),
            standby_look: Span::seconds(1),
            large_bodies_max: 32,
        }
    }
}

impl Settings {
    /// Looks for what cannot work.
    pub fn check(&self) -> Result<(), Problem> {
        let wrong = |key: &str, wrong: String, right: String| {
            Err(Problem::new(format!("queue.postgres.{key}"), wrong, &right))
        };
        if self.certificate_file.is_some() != self.key_file.is_some() {
            let right = "certificate_file and key_file, both or neither".to_owned();
            return wrong(
                "certificate_file",
                "one is there and the other is not".to_owned(),
                right,
            );
        }
        if self.certificate_file.is_some() && self.ca_file.is_none() {
            let right = "ca_file, which switches TLS on".to_owned();
            return wrong("ca_file", "there is a certificate_file without it".to_owned(), right);
        }
        let (second, minute) = (Duration::from_secs(1), Duration::from_secs(60));
        let spans = [
            ("connect_timeout", self.connect_timeout, second / 10, minute),
            ("statement_timeout", self.statement_timeout, second, 60 * minute),
            ("commit_timeout", self.commit_timeout, second, 10 * minute),
            ("lease", self.lease, 2 * second, 10 * minute),
            ("lease_renewal", self.lease_renewal, second / 10, 5 * minute),
            ("lease_margin", self.lease_margin, second / 2, 5 * minute),
            ("standby_look", self.standby_look, second / 10, minute),
        ];
        for (key, span, min, max) in spans {
            if !(min..=max).contains(&span.0) {
                let right = format!("from {} to {}", Span(min), Span(max));
                return wrong(key, format!("{span} is out of range"), right);
            }
        }
        if self.lease_renewal.0 >= self.lease.0 / 2 {
            let (renewal, lease) = (self.lease_renewal, self.lease);
            let right = "less than half of lease".to_owned();
            return wrong("lease_renewal", format!("{renewal} with lease = {lease}"), right);
        }
        if self.lease_margin.0 + self.lease_renewal.0 >= self.lease.0 {
            let (margin, lease) = (self.lease_margin, self.lease);
            let right = "less than what lease_renewal leaves of lease".to_owned();
            return wrong("lease_margin", format!("{margin} with lease = {lease}"), right);
        }
        let counts = [
            ("connections", self.connections, 1, 64),
            ("large_bodies_max", self.large_bodies_max, 1, 10_000),
        ];
        for (key, count, min, max) in counts {
            if !(min..=max).contains(&count) {
                return wrong(
                    key,
                    format!("{count} is out of range"),
                    format!("from {min} to {max}"),
                );
            }
        }
        let (min, max) = (ByteSize(1 << 20), ByteSize(1 << 40));
        if !(min..=max).contains(&self.draft_bytes_max) {
            let size = self.draft_bytes_max;
            let right = format!("from {min} to {max}");
            return wrong("draft_bytes_max", format!("{size} is out of range"), right);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
