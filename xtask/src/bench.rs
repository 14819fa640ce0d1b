//! `cargo xtask bench NAME`: measurements, each in a file of its own.

mod grange;
mod load;
mod measure;
mod postfix;
mod relay;

use crate::{Failure, usage};

/// A benchmark: its name, and what runs it with the options after its name.
type Benchmark = (&'static str, fn(&Options) -> Result<bool, Failure>);

/// To add one: a module above and a line here.
const BENCHMARKS: &[Benchmark] = &[("relay", relay::run)];

/// Runs the benchmark of that name.
pub(crate) fn run(name: &str, words: &[&str]) -> Result<bool, Failure> {
    let names: Vec<&str> = BENCHMARKS.iter().map(|(name, _)| *name).collect();
    let (_, benchmark) = BENCHMARKS
        .iter()
        .find(|(known, _)| *known == name)
        .ok_or_else(|| usage(format!("no benchmark {name}; there is {}", names.join(", "))))?;
    benchmark(&Options::parse(words)?)
}

/// What every benchmark may be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Options {
    /// How often each contender is measured; the medians count.
    rounds: usize,
    /// Messages in a round.
    messages: usize,
    /// SMTP sessions at once.
    sessions: usize,
    /// Bytes of a message.
    length: usize,
    /// Only this contender, for a look at one alone.
    only: Option<String>,
}

impl Options {
    /// Whether a contender takes part.
    fn wants(&self, contender: &str) -> bool {
        self.only.as_deref().is_none_or(|only| only == contender)
    }

    fn parse(words: &[&str]) -> Result<Self, Failure> {
        let mut options =
            Self { rounds: 3, messages: 10_000, sessions: 20, length: 4096, only: None };
        for pair in words.chunks(2) {
            let (name, value) = match pair {
                [name, value] => (*name, *value),
                _ => return Err(usage(format!("{} needs a number", pair.join(" ")))),
            };
            let field = match name {
                "--only" => {
                    options.only = Some(value.to_owned());
                    continue;
                }
                "--rounds" => &mut options.rounds,
                "--messages" => &mut options.messages,
                "--sessions" => &mut options.sessions,
                "--length" => &mut options.length,
                _ => return Err(usage(format!("bench does not know {name}"))),
            };
            *field =
                value.parse().ok().filter(|number| *number > 0).ok_or_else(|| {
                    usage(format!("{name} needs a number from 1 on, not {value}"))
                })?;
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_taken_or_refused() {
        let options =
            Options::parse(&["--rounds", "1", "--messages", "500"]).expect("good options");
        assert_eq!((options.rounds, options.messages, options.sessions), (1, 500, 20));
        assert!(options.wants("grange"));
        for wrong in
            [&["--rounds"][..], &["--rounds", "0"], &["--speed", "9"], &["--messages", "x"]]
        {
            assert!(Options::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
