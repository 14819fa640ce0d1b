//! What became of a recipient: delivered, deferred or failed, and in whose words.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An enhanced status code, `class.subject.detail` (RFC 3463).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatusCode {
    /// 2, 4 or 5.
    pub class: u8,
    /// The second number, at most 999.
    pub subject: u16,
    /// The third number, at most 999.
    pub detail: u16,
}

/// The text is not an enhanced status code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an enhanced status code is 2, 4 or 5, then two numbers up to 999, joined by dots")]
pub struct StatusCodeError;

impl StatusCode {
    /// Puts a code together; `class` is 2, 4 or 5.
    pub const fn new(class: u8, subject: u16, detail: u16) -> Self {
        Self { class, subject, detail }
    }
}

impl fmt::Display for StatusCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.class, self.subject, self.detail)
    }
}

impl fmt::Debug for StatusCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for StatusCode {
    type Err = StatusCodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut numbers = text.split('.').map(|number| match number.len() {
            1..=3 if number.bytes().all(|byte| byte.is_ascii_digit()) => number.parse::<u16>().ok(),
            _ => None,
        });
        match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Some(class @ (2 | 4 | 5))), Some(Some(subject)), Some(Some(detail)), None) => {
                Ok(Self { class: class as u8, subject, detail })
            }
            _ => Err(StatusCodeError),
        }
    }
}

impl Serialize for StatusCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StatusCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        crate::from_text(deserializer)
    }
}

/// What was said about a recipient, by a next hop or by ourselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The enhanced status code.
    pub status: StatusCode,
    /// One line for people: the remote's reply as it came (code first) if there was one, else our own words.
    pub text: String,
    /// The host that said it; nothing when we did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
}

impl Reply {
    /// A reply in our own words.
    pub fn ours(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), remote: None }
    }
}

/// What became of one recipient in one attempt. Data, never an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The next hop has taken responsibility, or the mailbox holds the message.
    Delivered(Delivered),
    /// Not now: to be tried again.
    Deferred(Reply),
    /// Never: to be reported to the sender.
    Failed(Reply),
}

/// How a recipient was delivered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivered {
    /// What was said.
    #[serde(flatten)]
    pub reply: Reply,
    /// Who now owes the sender a report of success, if one was asked for.
    #[serde(default)]
    pub report: SuccessReport,
}

/// Who answers `NOTIFY=SUCCESS` (RFC 3461 sections 5.2 and 6.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SuccessReport {
    /// The next hop knows DSN and took the parameters over: we owe nothing.
    PassedOn,
    /// The next hop does not know DSN: we report `relayed`.
    Relayed,
    /// This was the final delivery: we report `delivered`. An agent that says nothing of reports knows nothing of them.
    #[default]
    Final,
}

#[cfg(test)]
mod tests;
