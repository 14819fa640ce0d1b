//! SPF, DKIM, DMARC, ARC and iprev: what they say of a message, and our own signatures.
//!
//! ```text
//! client, HELO, sender, message ─▶ verify ─▶ Report ─▶ Authentication-Results, and what DMARC wants done
//!                                    │ TXT, A, AAAA, MX, PTR
//!                                    ▼
//!                                  Lookup: dns::Resolver, or a table in tests
//! ```
//!
//! What is looked up and what is read are strangers' words: every list has an end, every message a limit of questions and of time, and
//! what cannot be found out is `temperror`, never a pass.
//!
//! Touches: name servers, by `dns`; key files, when they are read or made. Never: the queue, job sockets.

#![forbid(unsafe_code)]

pub mod arc;
mod author;
mod body;
pub mod dkim;
pub mod dmarc;
mod domain;
pub mod iprev;
pub mod key;
pub mod lookup;
mod message;
pub mod results;
pub mod seal;
pub mod sign;
pub mod spf;
mod tags;
mod verify;
#[cfg(test)]
mod zone;

pub use dmarc::Policy;
pub use message::Message;
pub use verify::{Facts, Report, SpfFinding, Terms, verify};
