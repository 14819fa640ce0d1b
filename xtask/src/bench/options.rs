//! What the benchmarks of speed may be told.

use std::path::PathBuf;

use crate::{Failure, usage};

/// The options; each benchmark has defaults of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// How often each contender is measured; the medians count.
    pub(super) rounds: usize,
    /// Messages in a round.
    pub(super) messages: usize,
    /// SMTP sessions at once.
    pub(super) sessions: usize,
    /// Bytes of a message.
    pub(super) length: usize,
    /// Recipients of a message.
    pub(super) recipients: usize,
    /// Whether the client sends many messages in a session.
    pub(super) reuse: bool,
    /// Whether the queues are on a journaled ext4 of their own.
    pub(super) journal: bool,
    /// Whether Grange's queue is in a database.
    pub(super) database: bool,
    /// Whether mail is verified and signed, which `relay` alone can be told.
    pub(super) authenticated: bool,
    /// Only this contender, for a look at one alone.
    pub(super) only: Option<String>,
    /// Where a picture of the table goes.
    pub(super) plot: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            rounds: 3,
            messages: 10_000,
            sessions: 20,
            length: 4096,
            recipients: 1,
            reuse: false,
            journal: false,
            database: false,
            authenticated: false,
            only: None,
            plot: None,
        }
    }
}

impl Options {
    /// Takes what was said, over these defaults.
    pub(super) fn parse(mut self, words: &[&str]) -> Result<Self, Failure> {
        let mut words = words.iter().copied();
        while let Some(name) = words.next() {
            match name {
                "--reuse" => self.reuse = true,
                "--journal" => self.journal = true,
                "--store" => match value(name, words.next())? {
                    "spool" => self.database = false,
                    "postgres" => self.database = true,
                    other => return Err(usage(format!("no store {other}; spool or postgres"))),
                },
                "--only" => self.only = Some(value(name, words.next())?.to_owned()),
                "--plot" => self.plot = Some(value(name, words.next())?.into()),
                "--rounds" => self.rounds = number(name, words.next())?,
                "--messages" => self.messages = number(name, words.next())?,
                "--sessions" => self.sessions = number(name, words.next())?,
                "--length" => self.length = number(name, words.next())?,
                "--recipients" => self.recipients = number(name, words.next())?,
                _ => return Err(usage(format!("bench does not know {name}"))),
            }
        }
        Ok(self)
    }

    /// Whether a contender takes part; a typo is an error.
    pub(super) fn chosen<'a>(&self, names: &[&'a str]) -> Result<Vec<&'a str>, Failure> {
        match self.only.as_deref() {
            None => Ok(names.to_vec()),
            Some(only) => match names.iter().find(|name| **name == only) {
                Some(name) => Ok(vec![name]),
                None => Err(usage(format!("no contender {only}; there are {}", names.join(", ")))),
            },
        }
    }

    /// How the load reads in a heading.
    pub(super) fn load(&self) -> String {
        let Self { messages, length, sessions, recipients, reuse, .. } = self;
        let each =
            if *recipients > 1 { format!(" to {recipients} recipients") } else { String::new() };
        let how = if *reuse { "sessions reused" } else { "one session a message" };
        let half = if self.authenticated { ", half verified, half signed" } else { "" };
        format!(
            "{messages} messages of {length} bytes{each}, {sessions} sessions at once, {how}{half}"
        )
    }
}

fn value<'a>(name: &str, word: Option<&'a str>) -> Result<&'a str, Failure> {
    word.ok_or_else(|| usage(format!("{name} needs a value")))
}

fn number(name: &str, word: Option<&str>) -> Result<usize, Failure> {
    let word = value(name, word)?;
    let number = word.parse().ok().filter(|number| *number > 0);
    number.ok_or_else(|| usage(format!("{name} needs a number from 1 on, not {word}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_or_refused() {
        let words = ["--rounds", "1", "--reuse", "--messages", "500", "--only", "grange"];
        let options = Options::default().parse(&words).expect("good options");
        assert_eq!((options.rounds, options.messages, options.sessions), (1, 500, 20));
        assert!(options.reuse && !options.journal);
        assert_eq!(options.chosen(&["floor", "grange"]).expect("one of them"), ["grange"]);
        assert!(options.chosen(&["floor"]).is_err());
        for wrong in [
            &["--rounds"][..],
            &["--store", "x"],
            &["--rounds", "0"],
            &["--speed", "9"],
            &["--messages", "x"],
        ] {
            assert!(Options::default().parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
