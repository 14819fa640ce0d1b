//! Lookup tables: one trait, one file each.
//!
//! A [`Table`] answers from memory, so that it may be asked on a runtime's thread for every recipient. What blocks is
//! [`Table::refresh`] alone: it reads a file that has changed, and belongs on a thread that may wait. A file that has become
//! unreadable or malformed leaves the last good content in force.
//!
//! | written as | table |
//! |---|---|
//! | `"file:/etc/grange/aliases"` | [`FileTable`]: aliases(5), virtual(5), or a list of keys |
//! | `{ info = "anna", sales = ["berta", "sales@example.org"] }`, `["anna", "berta"]` | [`InlineTable`]: in the configuration |
//!
//! Keys are compared without regard to the case of ASCII letters. Touches: the files it is told of, for reading. Never: the
//! network, other processes.

#![forbid(unsafe_code)]

pub mod conformance;
mod file;
mod inline;
mod source;
mod target;
mod text;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub use file::{FILE_BYTES_MAX, FileTable};
pub use inline::InlineTable;
pub use source::{OneOrMany, Source};
pub use target::Target;
pub use text::{Content, LineError, parse};

/// A table that finds what stands under a key.
pub trait Table: Send + Sync {
    /// The table as an operator wrote it: `file:/etc/grange/aliases`, or `inline`.
    fn name(&self) -> &str;

    /// Finds an entry, from memory. It fails while nothing good has been read yet.
    fn lookup(&self, key: &str) -> Result<Option<Arc<Entry>>, Unavailable>;

    /// Whether a key may name this domain, in lower case: `@domain`, or an address of it. A table that cannot say says so.
    fn may_name(&self, _domain: &str) -> bool {
        true
    }

    /// Looks whether the source has changed, and reads it again if it has. **Blocks.** The first call reads, or fails.
    fn refresh(&self) -> Refreshed;
}

/// What a table's entries are for, and so what they must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Keys are local parts, addresses or `@domain`; values are addresses to deliver to.
    Aliases,
    /// Only keys count; values are ignored, so that an alias file or passwd(5) serves as well.
    Keys,
}

/// An entry of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The line on which it begins, from 1; 0 in a table without lines.
    pub line: usize,
    /// Its values in their order; none in a table of [`Kind::Keys`].
    pub targets: Vec<Target>,
}

/// What came of a look at a table's source.
#[derive(Debug, Clone)]
pub enum Refreshed {
    /// Nothing new, good or bad.
    Unchanged,
    /// It was read.
    Read {
        /// How many entries it has.
        entries: usize,
        /// What is legal but hardly meant, each with its place.
        warnings: Vec<String>,
    },
    /// It could not be read, for a reason not told before; the last good content, if there is any, stays in force.
    Failed(TableError),
}

/// The table has never been read with success: nobody can say now what it holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("table {0} is not available")]
pub struct Unavailable(pub String);

/// Why a table cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TableError {
    /// The text does not name a table.
    #[error("{0} does not name a table")]
    Source(String),
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: Arc<io::Error>,
    },
    /// The content is not what a table may hold.
    #[error("{place}: {wrong}")]
    Malformed {
        /// `/etc/grange/aliases:12`, or `inline table, key info`.
        place: String,
        /// What is wrong and what would be right.
        wrong: String,
    },
}

/// Makes a table. One with a file is empty and unavailable until its first [`Table::refresh`]; this reads nothing.
pub fn table(source: &Source, kind: Kind) -> Result<Arc<dyn Table>, TableError> {
    match source {
        Source::Named(name) => match name.strip_prefix("file:") {
            Some(path) if path.starts_with('/') => Ok(Arc::new(FileTable::new(path.into(), kind))),
            _ => Err(TableError::Source(name.clone())),
        },
        Source::List(keys) => Ok(Arc::new(InlineTable::of_keys(keys))),
        Source::Map(map) => Ok(Arc::new(InlineTable::of_map(map, kind)?)),
    }
}
