//! The harness of the system tests: the real program on loopback, with real clients and servers around it.
//!
//! A test makes a [`Site`] (a scratch directory with a configuration), starts Grange in it ([`Running`]), talks to it with a
//! [`Client`] or a program of someone else's, and looks at what a [`Sink`] was given. Waiting is always for an event with a
//! deadline ([`until`]); everything started is ended when its owner is dropped, by process id.
//!
//! The program under test is `GRANGE_BINARY`, which `cargo xtask test` sets; without it, `cargo` builds it.

#![allow(
    clippy::indexing_slicing,
    reason = "a JSON value without the key gives null, and a test fails on it"
)]

mod client;
mod cluster;
mod daemon;
mod dns;
mod document;
mod faults;
mod follow;
mod http;
mod load;
mod milter;
mod mount;
mod network;
mod ports;
mod postfix;
mod postgres;
mod process;
mod program;
mod sink;
mod site;
mod wait;

pub use client::{Client, Reply};
pub use cluster::{Cluster, Node};
pub use daemon::{Daemon, give};
pub use dns::NameServer;
pub use document::{Block, blocks};
pub use faults::{Faults, Fired};
pub use follow::Follow;
pub use http::{HttpServer, Post};
pub use load::{Burst, Load, Mail, Manner, Sessions, Traffic, burst};
pub use milter::{Heard, Milter};
pub use mount::Mount;
pub use network::{Host, Network};
pub use ports::{Port, free_port};
pub use postfix::Postfix;
pub use postgres::Postgres;
pub use process::{
    Process, cpu_ticks, descendants, descriptors, executable, own_kib, rss_kib, state_of, threads,
    title,
};
pub use program::{as_user, find, is_root, open_to, program, python, run, system_python};
pub use sink::{Answer, Event, Received, Sink, SmtpSink, count_tokens, now_ms, token_of};
pub use site::{Running, Site};
pub use wait::{PATIENCE, until, until_within};
