//! The replies of a server session.

use std::borrow::Cow;
use std::fmt;

use mail::StatusCode;

use crate::grammar::{CommandError, ParameterError, PathError, write_reply};

/// A reply: code, enhanced status code, text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The code, 200 to 599.
    pub code: u16,
    /// The enhanced status code (RFC 2034); nothing for greetings, and for 354.
    pub status: Option<StatusCode>,
    /// The text; line feeds make it a reply of several lines.
    pub text: Cow<'static, str>,
}

impl Reply {
    /// A reply with an enhanced status code, whose class is that of the code.
    pub fn new(code: u16, subject: u16, detail: u16, text: impl Into<Cow<'static, str>>) -> Self {
        let class = u8::try_from(code / 100).unwrap_or(5);
        Self { code, status: Some(StatusCode::new(class, subject, detail)), text: text.into() }
    }

    /// A reply without an enhanced status code.
    pub(super) fn plain(code: u16, text: impl Into<Cow<'static, str>>) -> Self {
        Self { code, status: None, text: text.into() }
    }

    /// Whether the code is 2yz or 3yz.
    pub fn is_positive(&self) -> bool {
        self.code < 400
    }

    /// Appends the reply as it goes over the wire.
    pub fn write(&self, out: &mut Vec<u8>) {
        write_reply(out, self.code, self.status, &self.text);
    }

    pub(super) fn ok() -> Self {
        Self::new(250, 0, 0, "Ok")
    }

    pub(super) fn sequence(text: &'static str) -> Self {
        Self::new(503, 5, 1, text)
    }

    pub(super) fn line_too_long() -> Self {
        Self::new(500, 5, 6, "Line too long")
    }

    pub(super) fn line_without_end() -> Self {
        Self::new(421, 5, 6, "Line too long, closing")
    }

    pub(super) fn too_large() -> Self {
        Self::new(552, 3, 4, "Message too large")
    }

    pub(super) fn too_many_errors() -> Self {
        Self::new(421, 7, 0, "Too many errors, closing")
    }

    pub(super) fn bare_newline() -> Self {
        Self::new(521, 5, 2, "Lines end with CR LF; a bare CR or LF is not accepted, closing")
    }

    pub(super) fn out_of_step() -> Self {
        Self::new(554, 5, 0, "You did not wait for a reply, closing")
    }

    pub(super) fn utf8_needed() -> Self {
        Self::new(553, 6, 7, "An address that is not ASCII needs SMTPUTF8, in UTF-8")
    }

    pub(super) fn too_many_recipients() -> Self {
        Self::new(452, 5, 3, "Too many recipients, send the others in another transaction")
    }
}

/// As a log shows it: code, enhanced status code, text.
impl fmt::Display for Reply {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.status {
            Some(status) => write!(formatter, "{} {status} {}", self.code, self.text),
            None => write!(formatter, "{} {}", self.code, self.text),
        }
    }
}

impl From<CommandError> for Reply {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Unknown => Self::new(500, 5, 2, "Command not recognised"),
            CommandError::Bytes => Self::new(500, 5, 2, "Command holds what no command may"),
            CommandError::NotImplemented => Self::new(502, 5, 1, "Command not implemented"),
            CommandError::Http => Self::new(521, 7, 0, "This is not an HTTP server, closing"),
            CommandError::AddressNotUtf8 => Self::utf8_needed(),
            CommandError::Syntax(right) => Self::new(501, 5, 4, format!("Syntax: {right}")),
            CommandError::HeloName => Self::new(501, 5, 4, "That is not a host name"),
            CommandError::Sender(PathError::Address(error)) => {
                Self::new(501, 1, 7, format!("Bad sender address: {error}"))
            }
            CommandError::Sender(error) => Self::new(501, 1, 7, format!("Bad sender: {error}")),
            CommandError::Recipient(PathError::Address(error)) => {
                Self::new(501, 1, 3, format!("Bad recipient address: {error}"))
            }
            CommandError::Recipient(error) => {
                Self::new(501, 1, 3, format!("Bad recipient: {error}"))
            }
            CommandError::Parameter(ParameterError::Unknown) => {
                Self::new(555, 5, 4, "Parameter not recognised or not implemented")
            }
            CommandError::Parameter(error) => Self::new(501, 5, 4, error.to_string()),
        }
    }
}
