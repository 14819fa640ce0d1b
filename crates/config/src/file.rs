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

/// What is allowed in a setting and yet should be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// The key with its section: `router.routes[0]`.
    pub key: String,
    /// What should be known.
    pub what: String,
}

impl Notice {
    /// Says what should be known of a key.
    pub fn new(key: impl Into<String>, what: impl Into<String>) -> Self {
        Self { key: key.into(), what: what.into() }
    }
}

impl std::fmt::Display for Notice {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {}", self.key, self.what)
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
        Self::parse(path, Self::read(path)?)
    }

    fn read(path: &Path) -> Result<String, ConfigError> {
        let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(unreadable)?;
        file.take(FILE_BYTES_MAX).read_to_string(&mut text).map_err(unreadable)?;
        Ok(text)
    }

    /// Reads a file of which only the top level is wanted: one that cannot be parsed ends before its first section.
    ///
    /// # Errors
    ///
    /// As [`File::load`], when that much cannot be parsed either.
    pub fn load_top(path: &Path) -> Result<Self, ConfigError> {
        let text = Self::read(path)?;
        let is_section = |line: &&str| line.trim_start().starts_with('[');
        let top = text.split_inclusive('\n').take_while(|line| !is_section(line)).collect();
        Self::parse(path, text).or_else(|error| Self::parse(path, top).map_err(|_| error))
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
                let wrong = format!("is {}", with_article(other.type_str()));
                let problem = Problem::new(name, wrong, "a table");
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

    /// One text of a section, or nothing when the key is absent: a channel's `agent`.
    pub fn text_at(&self, key: &str) -> Result<Option<String>, ConfigError> {
        let root = self.root();
        let Some(value) = descend(&root, key) else { return Ok(None) };
        match value.get_ref().as_str() {
            Some(text) => Ok(Some(text.to_owned())),
            None => {
                let wrong = format!("is {}", with_article(value.get_ref().type_str()));
                Err(self.locate(Problem::new(key, wrong, "a text in quotes")))
            }
        }
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
        let line = self.line_of(&problem.key);
        ConfigError::Wrong { path: self.path.clone(), line, problem }
    }

    /// A notice with its place in this file, for people.
    pub fn note(&self, notice: &Notice) -> String {
        format!("{}:{}: {notice}", self.path.display(), self.line_of(&notice.key))
    }

    /// The line of a key, or of the nearest section that exists.
    fn line_of(&self, key: &str) -> usize {
        let root = self.root();
        let mut place = 0;
        let mut here = &root;
        for step in steps(key) {
            let Some((start, next)) = enter(here, &step) else { break };
            place = start;
            here = next;
        }
        self.line_at(place)
    }

    fn root(&self) -> Spanned<DeValue<'_>> {
        let table = DeTable::parse(&self.text).expect("the text was parsed when the file was read");
        let span = table.span();
        Spanned::new(span, DeValue::Table(table.into_inner()))
    }

    fn wrong(&self, span: Option<Range<usize>>, key: &str, message: &str) -> ConfigError {
        let start = span.as_ref().map_or(0, |span| span.start);
        let (wrong, right) = split_expectation(message);
        // The parser knows only where a key or a section is that is given twice.
        let twice = span.filter(|_| message == DUPLICATE).and_then(|span| self.text.get(span));
        let key = match key {
            "" => twice.map_or("syntax", |key| key.trim_matches(['[', ']', ' '])),
            key => key,
        };
        let problem = Problem::new(key, wrong, right);
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

/// The parser's word for a key or a section that is given twice.
const DUPLICATE: &str = "duplicate key";

fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// What the parser says that it expected, and how people would say it.
const EXPECTATIONS: &[(&str, &str)] = &[
    ("u8", "a whole number from 0 to 255"),
    ("u16", "a whole number from 0 to 65535"),
    ("u32", "a whole number from 0 to 4294967295"),
    ("u64", "a whole number, 0 or more"),
    ("usize", "a whole number, 0 or more"),
    ("a string", "a text in quotes"),
    ("a boolean", "true or false"),
    ("a sequence", "a list in brackets, [ … ]"),
    ("a map", "a table in braces, { … }"),
    ("socket address", ADDRESS_WITH_PORT),
    ("IPv4 address", ADDRESS_V4),
    ("IPv6 address", ADDRESS_V6),
];

const ADDRESS_WITH_PORT: &str = "an IP address and a port, as in \"127.0.0.1:25\" or \"[::1]:25\"";
const ADDRESS_V4: &str = "an IPv4 address, as in \"192.0.2.1\"";
const ADDRESS_V6: &str = "an IPv6 address, as in \"2001:db8::1\"";

/// Whole sentences of the parser, what is wrong and what would be right.
const SENTENCES: &[(&str, &str, &str)] = &[
    ("invalid socket address syntax", "not an address with a port", ADDRESS_WITH_PORT),
    ("invalid IPv4 address syntax", "not an IPv4 address", ADDRESS_V4),
    ("invalid IPv6 address syntax", "not an IPv6 address", ADDRESS_V6),
    (DUPLICATE, "is given twice", "each key and each section once"),
];

/// Takes the parser's sentence apart into what is wrong and what would be right.
fn split_expectation(message: &str) -> (String, String) {
    let message = message.trim().trim_end_matches('.');
    if let Some((wrong, right)) = message.split_once(", expected ") {
        let known = EXPECTATIONS.iter().find(|(expected, _)| *expected == right);
        let right = known.map_or_else(|| right.replace('\n', " "), |(_, told)| (*told).to_owned());
        return (wrong.to_owned(), right);
    }
    if let Some((_, wrong, right)) = SENTENCES.iter().find(|(sentence, ..)| *sentence == message) {
        return ((*wrong).to_owned(), (*right).to_owned());
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
