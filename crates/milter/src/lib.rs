//! The milter protocol on the MTA's side: how a filter outside is told of a session and its messages, and what it answers.
//!
//! The protocol is Sendmail's, versions 2 to 6, which no RFC describes: a packet is a length, a letter, and data. The MTA sends
//! commands, the milter answers each with one letter; at the end of a message it sends its changes before.
//!
//! ```text
//! negotiate ─▶ connect ─▶ HELO ─▶ MAIL ─▶ RCPT … ─▶ DATA ─▶ header fields … ─▶ end of header ─▶ body pieces … ─▶ end of message
//!                  ▲        ▲       ▲                                                                    changes …, answer │
//!                  │        │       └── the next message, also after abort ◀──────────────────────────────────────────────┘
//!                  └────────┴────────── the next session, after quit (version 6)
//! ```
//!
//! - [`Packets`], [`Packet`]: what a milter sends, from bytes in any pieces; nothing waits, nothing trusts.
//! - [`Options`], [`Stage`]: what both have agreed on, and which macros are sent when.
//! - [`Client`]: the conversation over a stream. How long anything may take is for its caller to say.
//!
//! Touches: the stream that it is given. Never: the queue, settings, DNS.

#![forbid(unsafe_code)]

mod client;
mod options;
mod packet;

pub use client::{CHANGE_BYTES, Client, Command, Ended, Error, Family, Limits, Peer};
pub use options::{Event, Options, Stage};
pub use packet::{
    Answer, Change, LINES_MAX, Malformed, PACKET_BYTES_MAX, PIECE_BYTES_MAX, Packet, Packets,
    Reply, TEXT_BYTES_MAX,
};
