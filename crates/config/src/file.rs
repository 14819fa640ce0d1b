//! A configuration file: its text, its sections, and where each key stands.

use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, IntoDeserializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A setting that is wrong, found by a stage's own check.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {wrong}; right would be {right}")]
pub struct Problem {
    /// The key with its section: `smtpserver.listen[0].address`.
    pub key: String,
    /// What is wrong with it.
    pub wrong: String,
    /// What would be right.
    pub right: String,
}

impl Problem {
    /// Says what is wrong and what would be right.
    pub fn new(key: impl Into<String>, wrong: impl Into<String>, right: impl Into<String>) -> Self {
        Self { key: key.into(), wrong: wrong.into(), right: right.into() }
    }
}

/// A [`Problem`] with its place, or a file that could not be read at all.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{}:{line}: {problem}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        problem: Problem,
    },
}

/// A configuration file that is well-formed TOML.
#[derive(Debug, Clone)]
pub struct File {
    path: PathBuf,
    text: String,
}

/// The largest configuration file read, in bytes: what is larger is not a configuration.
const FILE_BYTES_MAX: u64 = 16 << 20;

impl File {
    /// Reads and parses a file.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
        Self::parse(path, text)
    }

    /// Parses text; `path` is for messages.
    pub fn parse(path: &Path, text: String) -> Result<Self, ConfigError> {
        let file = Self { path: path.to_owned(), text };
        match DeTable::parse(&file.text) {
            Ok(_) => Ok(file),
            Err(error) => Err(file.wrong(error.span(), "", error.message())),
        }
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Types a section such as `router` or `channel.smtp`, or the top level (`""`); one that is absent has its defaults.
    pub fn section<T: DeserializeOwned>(&self, name: &str) -> Result<T, ConfigError> {
        self.section_without(name, &[])
    }

    /// Types a section, leaving out keys that are somebody else's: sections below the top level, a channel's `agent`.
    pub fn section_without<T: DeserializeOwned>(
        &self,
        name: &str,
        left_out: &[&str],
    ) -> Result<T, ConfigError> {
        let root = self.root();
        let mut section = match descend(&root, name) {
            Some(found) => found.clone(),
            None => Spanned::new(0..0, DeValue::Table(DeTable::new())),
        };
        match section.get_mut() {
            DeValue::Table(table) => {
                for key in left_out {
                    table.remove(*key);
                }
            }
            other => {
                let problem = Problem::new(name, format!("is a {}", other.type_str()), "a table");
                return Err(self.locate(problem));
            }
        }
        let place = section.span();
        let deserializer = section.into_deserializer();
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            let path = error.path().to_string();
            let inner = error.into_inner();
            let mut message = inner.message().to_owned();
            if message.starts_with("unknown field") {
                // The keys that are somebody else's would have been right as well.
                message.extend(left_out.iter().map(|key| format!(", `{key}`")));
            }
            self.wrong(inner.span().or(Some(place)), &key_of(name, &path), &message)
        })
    }

    /// One text of a section, or nothing: a channel's `agent`.
    pub fn text_at(&self, key: &str) -> Option<String> {
        let root = self.root();
        descend(&root, key).and_then(|value| value.get_ref().as_str().map(str::to_owned))
    }

    /// Names of the tables below a section, in the order of the file: the channels of `channel`.
    pub fn children(&self, name: &str) -> Vec<String> {
        let root = self.root();
        let Some(table) = descend(&root, name).and_then(|value| value.get_ref().as_table()) else {
            return Vec::new();
        };
        let mut children: Vec<_> = table
            .iter()
            .filter(|(_, value)| value.get_ref().is_table())
            .map(|(key, _)| (key.span().start, key.get_ref().to_string()))
            .collect();
        children.sort();
        children.into_iter().map(|(_, key)| key).collect()
    }

    /// Whether a section or key is there.
    pub fn has(&self, key: &str) -> bool {
        descend(&self.root(), key).is_some()
    }

    /// Gives a problem its place in this file: the line of its key, or of the nearest section that exists.
    pub fn locate(&self, problem: Problem) -> ConfigError {
        let root = self.root();
        let mut place = 0;
        let mut here = &root;
        for step in steps(&problem.key) {
            let Some((start, next)) = enter(here, &step) else { break };
            place = start;
            here = next;
        }
        ConfigError::Wrong { path: self.path.clone(), line: self.line_at(place), problem }
    }

    fn root(&self) -> Spanned<DeValue<'_>> {
        let table = DeTable::parse(&self.text).expect("the text was parsed when the file was read");
        let span = table.span();
        Spanned::new(span, DeValue::Table(table.into_inner()))
    }

    fn wrong(&self, span: Option<Range<usize>>, key: &str, message: &str) -> ConfigError {
        let start = span.map_or(0, |span| span.start);
        let (wrong, right) = split_expectation(message);
        let problem = Problem::new(if key.is_empty() { "syntax" } else { key }, wrong, right);
        ConfigError::Wrong { path: self.path.clone(), line: self.line_at(start), problem }
    }

    fn line_at(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }
}

/// One step of a key: a name, or a position in an array.
enum Step {
    Name(String),
    Position(usize),
}

fn steps(key: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    for part in key.split('.').filter(|part| !part.is_empty()) {
        let mut pieces = part.split('[');
        if let Some(name) = pieces.next().filter(|name| !name.is_empty()) {
            steps.push(Step::Name(name.to_owned()));
        }
        let positions = pieces.filter_map(|piece| piece.trim_end_matches(']').parse().ok());
        steps.extend(positions.map(Step::Position));
    }
    steps
}

/// Goes one step down; says where the key (or the element) begins.
fn enter<'a, 'i>(
    here: &'a Spanned<DeValue<'i>>,
    step: &Step,
) -> Option<(usize, &'a Spanned<DeValue<'i>>)> {
    match step {
        Step::Name(name) => {
            let (key, value) = here.get_ref().as_table()?.get_key_value(name.as_str())?;
            Some((key.span().start, value))
        }
        Step::Position(position) => {
            let value = here.get_ref().as_array()?.get(*position)?;
            Some((value.span().start, value))
        }
    }
}

fn descend<'a, 'i>(root: &'a Spanned<DeValue<'i>>, key: &str) -> Option<&'a Spanned<DeValue<'i>>> {
    steps(key).iter().try_fold(root, |here, step| enter(here, step).map(|(_, next)| next))
}

/// Joins a section's name and the path within it.
fn key_of(section: &str, path: &str) -> String {
    match (section, path) {
        ("", path) => path.to_owned(),
        (section, "." | "") => section.to_owned(),
        (section, path) => format!("{section}.{path}"),
    }
}

/// Takes the parser's sentence apart into what is wrong and what would be right.
fn split_expectation(message: &str) -> (String, String) {
    let message = message.trim().trim_end_matches('.');
    if let Some((wrong, right)) = message.split_once(", expected ") {
        let right = match right {
            "usize" | "u8" | "u16" | "u32" | "u64" => "a whole number, 0 or more".to_owned(),
            right => right.replace('\n', " "),
        };
        return (wrong.to_owned(), right);
    }
    if message == "invalid socket address syntax" {
        let right = "an IP address and a port, as in \"127.0.0.1:25\" or \"[::1]:25\"";
        return ("not an address with a port".to_owned(), right.to_owned());
    }
    if message == "duplicate key" {
        return ("the key is given twice".to_owned(), "each key once".to_owned());
    }
    if let Some(field) = message.strip_prefix("missing field ") {
        return (format!("{field} is missing"), format!("a line {field} = …"));
    }
    match message.split_once("; ") {
        Some((wrong, right)) => (wrong.to_owned(), right.to_owned()),
        None => (message.replace('\n', ", "), "as docs/configuration.md says".to_owned()),
    }
}

#[cfg(test)]
mod tests;
