//! The server's end of an SMTP session, without I/O: bytes in, events and replies out.
//!
//! ```text
//!             EHLO, HELO          MAIL               RCPT …             DATA            CRLF.CRLF
//!  Greeting ────────────▶ Ready ────────▶ Recipients ────────▶ (asked) ────────▶ Body ────────────▶ (asked) ─▶ Ready
//!                                 asks Mail         asks Recipients     asks Data                    asks Message
//!                           ◀──── RSET, EHLO, HELO: the transaction is given up ────
//! ```
//!
//! Its driver reads bytes, calls [`Session::next`] until it says [`Event::Input`], and sends what was written to `out`.
//! At an event that asks, the driver decides, however long that takes, and calls the method of the same name; only
//! then may it call `next` again. RCPT commands that have come together are asked about together.
//!
//! A session keeps no bytes: what is not yet a whole command stays with the driver, at most
//! [`ENVELOPE_COMMAND_BYTES_MAX`](crate::grammar::ENVELOPE_COMMAND_BYTES_MAX) bytes.

mod config;
mod data;
mod hops;
mod line;
mod reply;
mod session;

#[cfg(test)]
mod tests;

pub use config::{BareNewline, Config, Extension, Limits, Pipelining};
pub use hops::HopCounter;
pub use reply::Reply;
pub use session::{Event, GaveUp, Session};

/// The most RCPT commands that are asked about together.
pub const RECIPIENT_BATCH_MAX: usize = 500;
/// Recipients that are refused for now, as those beyond the limit are, without counting as errors: a client may have sent them
/// before it could know.
pub const RECIPIENTS_OVERSHOOT_MAX: usize = 1000;
/// Commands between messages that bring no message nearer (NOOP, RSET, VRFY, HELP, EHLO …), after which each counts as an error.
pub const IDLE_COMMANDS_MAX: u32 = 100;
