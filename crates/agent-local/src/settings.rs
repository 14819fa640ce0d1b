//! What an operator may set.

use std::path::PathBuf;

use config::Problem;
use farm::Workers;
use serde::{Deserialize, Serialize};

use crate::Template;

/// A `[channel.NAME]` section with `agent = "local"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where a recipient's mail is put; `{data_dir}`, `{domain}` and `{user}` stand for themselves, and a trailing slash means
    /// Maildir. Default: `{data_dir}/mail/{domain}/{user}/`.
    pub mailbox: String,
    /// How lines end in a mailbox: `lf`, as readers of Maildirs expect, or `crlf`, as the message came. Default: `lf`.
    pub line_ending: LineEnding,
    /// How many messages a worker writes and syncs at the same time. Default: 16.
    pub disk_threads: u32,
    /// The farm's workers.
    pub workers: Workers,
}

/// How lines end in a mailbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LineEnding {
    /// LF alone.
    #[default]
    Lf,
    /// CRLF.
    Crlf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mailbox: "{data_dir}/mail/{domain}/{user}/".to_owned(),
            line_ending: LineEnding::Lf,
            disk_threads: 16,
            workers: Workers::default(),
        }
    }
}

impl Settings {
    /// The most disk threads of a worker.
    pub const DISK_THREADS_MAX: u32 = 256;

    /// Checks the settings of the channel of that name.
    pub fn check(&self, channel: &str) -> Result<(), Problem> {
        let key = format!("channel.{channel}");
        Template::parse(&self.mailbox).map_err(|error| {
            let right = Settings::default().mailbox;
            Problem::new(
                format!("{key}.mailbox"),
                error.to_string(),
                format!("for example {right:?}"),
            )
        })?;
        if self.disk_threads == 0 || self.disk_threads > Self::DISK_THREADS_MAX {
            let right = format!("a number from 1 to {}", Self::DISK_THREADS_MAX);
            let key = format!("{key}.disk_threads");
            return Err(Problem::new(key, self.disk_threads.to_string(), right));
        }
        self.workers.check(&format!("{key}.workers"))
    }
}

/// What a worker of this agent is handed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The channel's section.
    pub settings: Settings,
    /// This host's name, part of every file's name.
    pub hostname: String,
    /// What `{data_dir}` stands for.
    pub data_dir: PathBuf,
    /// The channel's name.
    pub channel: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_settings_are_named() {
        assert_eq!(Settings::default().check("local"), Ok(()));
        let wrong = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check("inbox").unwrap_err().key
        };
        assert_eq!(wrong(|settings| settings.mailbox.clear()), "channel.inbox.mailbox");
        assert_eq!(wrong(|settings| settings.disk_threads = 0), "channel.inbox.disk_threads");
        assert_eq!(wrong(|settings| settings.workers.max = 0), "channel.inbox.workers.max");
    }
}
