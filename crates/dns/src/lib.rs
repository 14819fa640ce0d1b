//! MX and address look-ups as mail needs them (RFC 5321 section 5.1, RFC 7505): a destination becomes the addresses to try, in order;
//! and the records that mail authentication asks for.
//!
//! ```text
//! example.org ── MX, by preference, equals shuffled ──▶ hosts ── A, AAAA ──▶ targets: address and port, in order
//!             └─ no MX: the domain itself is the host ─▶
//! [mail.example.org]:587  ─────────────────────────────▶ (no MX)
//! [192.0.2.1], [IPv6:2001:db8::1]:25 ───────────────────────────────────────▶ (no question at all)
//! ```
//!
//! An answer is a stranger's word: how many hosts and addresses are looked at has limits, and an MX that leads to ourselves or
//! nowhere is left out. The resolver caches; nothing here does. Randomness is an argument.
//!
//! Touches: the name servers, `/etc/resolv.conf`, `/etc/hosts`. Never: the queue, job sockets.

#![forbid(unsafe_code)]

mod destination;
mod records;
mod resolver;
mod settings;
#[cfg(test)]
mod tests;

pub use destination::{Destination, DestinationError};
pub use records::Found;
pub use resolver::{Request, Resolver, Target, Unresolved};
pub use settings::{IpVersion, Settings};
