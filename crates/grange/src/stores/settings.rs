//! `[queue]`: which store there is, and what each kind of store is told.

use config::{ConfigError, File, Problem};
use queue_postgres::Database;
use serde::{Deserialize, Serialize};

/// The `[queue]` section, whichever store it names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Where messages are kept.
    #[serde(flatten)]
    pub place: Place,
    /// How the spool keeps them, if it does.
    #[serde(flatten)]
    pub spool: queue_spool::Settings,
    /// How the database is used, if it keeps them.
    pub postgres: queue_postgres::Settings,
}

/// The first setting of `[queue]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Which store: `"spool"`, in `data_dir` on this host, or `"postgres://USER@HOST,HOST/DATABASE"`, which hosts may share: see
    /// [several-hosts.md](several-hosts.md). What stands below is for the spool. Default: `"spool"`.
    pub store: String,
}

/// The embedded store's name.
const SPOOL: &str = "spool";

impl Default for Place {
    fn default() -> Self {
        Self { store: SPOOL.to_owned() }
    }
}

impl Settings {
    /// Reads the section.
    pub fn of(file: &File) -> Result<Self, ConfigError> {
        let store = file.text_at("queue.store")?;
        Ok(Self {
            place: store.map_or_else(Place::default, |store| Place { store }),
            spool: file.section_without("queue", &["store", "postgres"])?,
            postgres: file.section("queue.postgres")?,
        })
    }

    /// Whether messages are kept in a database.
    pub fn is_database(&self) -> bool {
        self.place.store != SPOOL
    }

    /// The database, if messages are kept in one.
    pub fn database(&self) -> Result<Option<Database>, Problem> {
        let store = &self.place.store;
        if !self.is_database() {
            return Ok(None);
        }
        if !store.contains(':') {
            let right = "\"spool\" or \"postgres://USER@HOST/DATABASE\"";
            let wrong = format!("there is no store {store:?}");
            return Err(Problem::new("queue.store", wrong, right));
        }
        Database::new(store, &self.postgres).map(Some)
    }

    /// Looks for what cannot work.
    pub fn check(&self) -> Result<(), Problem> {
        self.spool.check()?;
        self.postgres.check()?;
        self.database().map(drop)
    }

    /// The same, with nothing in it that is a secret.
    pub fn without_secrets(mut self) -> Self {
        if let Ok(Some(database)) = self.database() {
            self.place.store = format!("postgres://{}", database.name());
        }
        self
    }
}
