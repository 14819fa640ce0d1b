//! SMTP and LMTP grammar; server and client sessions as sans-I/O machines.
//!
//! Pure: bytes in, events and bytes out. No socket, no clock, no chance.

#![forbid(unsafe_code)]

pub mod client;
pub mod grammar;
pub mod reply;
pub mod server;
