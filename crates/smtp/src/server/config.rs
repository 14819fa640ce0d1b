//! What a server session is told before it begins.

use std::fmt::{self, Write};

/// About how much the reply to EHLO says behind our name, in bytes.
const EHLO_BYTES: usize = 96;

/// What all sessions of a service have in common. Made once, shared by all.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our name, in the greeting and in replies.
    pub hostname: String,
    /// What the greeting says behind the name: `ESMTP Grange`.
    pub banner: String,
    /// What EHLO announces, in order.
    pub extensions: Vec<Extension>,
    /// The limits.
    pub limits: Limits,
    /// Whether a client that does not wait for a reply where it must is sent away (RFC 2920 section 3.1).
    pub pipelining: Pipelining,
}

/// An extension as EHLO announces it. What it allows in commands is known to the grammar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extension {
    /// RFC 2920.
    Pipelining,
    /// RFC 1870; the number is [`Limits::message_bytes_max`].
    Size,
    /// RFC 6152.
    EightBitMime,
    /// RFC 2034.
    EnhancedStatusCodes,
    /// RFC 6531.
    SmtpUtf8,
    /// RFC 3461.
    Dsn,
}

impl Extension {
    /// All that a session knows, in the order in which EHLO says them.
    pub const ALL: [Self; 6] = [
        Self::Pipelining,
        Self::Size,
        Self::EightBitMime,
        Self::EnhancedStatusCodes,
        Self::SmtpUtf8,
        Self::Dsn,
    ];

    fn keyword(&self) -> &'static str {
        match self {
            Self::Pipelining => "PIPELINING",
            Self::Size => "SIZE",
            Self::EightBitMime => "8BITMIME",
            Self::EnhancedStatusCodes => "ENHANCEDSTATUSCODES",
            Self::SmtpUtf8 => "SMTPUTF8",
            Self::Dsn => "DSN",
        }
    }
}

impl fmt::Display for Extension {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.keyword())
    }
}

/// The limits of a session.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The largest message, in bytes as it is stored.
    pub message_bytes_max: u64,
    /// The most recipients of a message.
    pub recipients_max: usize,
    /// The longest line of a message without its end, in bytes.
    pub line_bytes_max: usize,
    /// Refused commands after which the session ends. A message accepted sets the count back.
    pub errors_max: u32,
}

/// What to do with a CR or an LF that stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BareNewline {
    /// `521`, and close.
    Reject,
    /// In a message it becomes CRLF before dots are looked at, and a lone LF also ends a command.
    Normalise,
}

/// What to do with a client that does not wait where RFC 2920 section 3.1 says that it must.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pipelining {
    /// `554`, and close.
    Strict,
    /// Nothing.
    Lenient,
}

impl Config {
    /// The text of the greeting.
    pub(super) fn greeting(&self) -> String {
        let mut text = String::with_capacity(self.hostname.len() + 1 + self.banner.len());
        text.push_str(&self.hostname);
        text.push(' ');
        text.push_str(&self.banner);
        text
    }

    /// The text of the reply to EHLO.
    pub(super) fn ehlo(&self) -> String {
        let mut text = String::with_capacity(self.hostname.len() + EHLO_BYTES);
        text.push_str(&self.hostname);
        for extension in &self.extensions {
            text.push('\n');
            text.push_str(extension.keyword());
            if *extension == Extension::Size {
                let _ = write!(text, " {}", self.limits.message_bytes_max);
            }
        }
        text
    }
}
