//! What an operator may set.

use config::{ByteSize, Problem};
use farm::Workers;
use serde::{Deserialize, Serialize};

/// A `[channel.NAME]` section with `agent = "error"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// A message that failed is returned whole up to this size if its sender said nothing about it; of a larger one, its
    /// header section. Default: 50 KiB.
    pub return_bytes_max: ByteSize,
    /// The same if the sender asked for the whole message (`RET=FULL`). Default: 1 MiB.
    pub return_full_bytes_max: ByteSize,
    /// The farm's workers.
    pub workers: Workers,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            return_bytes_max: ByteSize(50 << 10),
            return_full_bytes_max: ByteSize(1 << 20),
            workers: Workers::default(),
        }
    }
}

impl Settings {
    /// The most that may be returned of a message, in bytes.
    pub const RETURN_BYTES_MAX: u64 = 64 << 20;

    /// Checks the settings of the channel of that name.
    pub fn check(&self, channel: &str) -> Result<(), Problem> {
        let key = format!("channel.{channel}");
        for (name, size) in [
            ("return_bytes_max", self.return_bytes_max),
            ("return_full_bytes_max", self.return_full_bytes_max),
        ] {
            if size.0 > Self::RETURN_BYTES_MAX {
                let right = format!("at most {}", ByteSize(Self::RETURN_BYTES_MAX));
                return Err(Problem::new(format!("{key}.{name}"), size.to_string(), right));
            }
        }
        self.workers.check(&format!("{key}.workers"))
    }
}

/// What a worker of this agent is handed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// The channel's section.
    pub settings: Settings,
    /// This host's name: the reporting MTA.
    pub hostname: String,
    /// The channel's name.
    pub channel: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_settings_are_named() {
        assert_eq!(Settings::default().check("error"), Ok(()));
        let huge = Settings { return_bytes_max: ByteSize(1 << 40), ..Settings::default() };
        assert_eq!(huge.check("error").unwrap_err().key, "channel.error.return_bytes_max");
    }
}
