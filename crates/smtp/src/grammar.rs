//! What SMTP lines say: commands, paths, ESMTP parameters, and how replies are written.
//!
//! Everything here takes one line without its line end and never looks at another. Nothing is interpreted that
//! RFC 5321 does not define: source routes are dropped, `%` and `!` are letters like others.

mod command;
mod parameter;
mod path;
mod reply;

#[cfg(test)]
mod tests;

pub use command::{Command, CommandError, Helo, MailCommand, is_rcpt, parse};
pub use parameter::{
    ENVID_BYTES_MAX, MailParameters, ORCPT_BYTES_MAX, ParameterError, RcptParameters,
};
pub use path::{Path, PathError};
pub use reply::{REPLY_LINE_BYTES_MAX, write_reply};

/// The longest command line with its line end, in bytes, for commands without ESMTP parameters. RFC 5321 section
/// 4.5.3.1.4 asks for 512.
pub const COMMAND_BYTES_MAX: usize = 1000;
/// The longest MAIL or RCPT line with its line end, in bytes: room for every parameter that extensions define.
pub const ENVELOPE_COMMAND_BYTES_MAX: usize = 2000;
/// The longest name in HELO or EHLO, in bytes.
pub const HELO_BYTES_MAX: usize = 255;
