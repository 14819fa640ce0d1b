//! How a table is written in a configuration.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A table in a configuration: `"file:/path"`, a list of keys, or a map of keys to values.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "not a table; \"file:/path\", a list of names, or a map such as { info = \"anna\" }"
)]
pub enum Source {
    /// `KIND:NAME`; `file:` and an absolute path.
    Named(String),
    /// Keys without values.
    List(Vec<String>),
    /// Keys with values.
    Map(BTreeMap<String, OneOrMany>),
}

/// A value, or several. One text may hold several, separated by commas.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "not a value of a table; a text, or a list of texts")]
pub enum OneOrMany {
    /// `"anna, berta"`
    One(String),
    /// `["anna", "berta"]`
    Many(Vec<String>),
}

impl OneOrMany {
    /// The texts.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

impl Source {
    /// The table's name for people.
    pub fn name(&self) -> &str {
        match self {
            Self::Named(name) => name,
            Self::List(_) | Self::Map(_) => "inline",
        }
    }
}
