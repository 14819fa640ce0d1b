//! Server farms, Apache's way: a manager that only spawns and reaps, and workers that take jobs from sockets.
//!
//! - [`manager`]: one thread and a poll loop; binds, starts, counts, replaces, drains. Knows no mail, uses no tokio.
//! - [`Worker`]: what a worker process is to its stage: settings, listeners, clients, its line of the scoreboard.
//! - [`scoreboard`]: shared memory that anyone in `run_dir` may read.
//! - [`supervisor`]: `grange run`: starts the managers and restarts one that dies.
//! - [`upgrade`]: has all of them go on as a new program, in place.
//!
//! ```text
//! grange run ──exec──▶ grange farm NAME ──exec──▶ grange worker NAME/1, NAME/2 …
//! TCP listeners        named sockets              accept, serve, answer
//! locks                scoreboard, signals        one tokio runtime, one line of the scoreboard
//! ```
//!
//! A program that composes farms calls [`manager::run`] when it is `farm NAME` (its first two arguments), [`supervisor::run`] when it
//! is `run`, and [`Worker::start`] when its first argument is `worker`.
//!
//! This crate knows neither `job` nor `mail`.

#![forbid(unsafe_code)]

mod asked;
mod handover;
pub mod manager;
mod notify;
pub mod scoreboard;
mod setup;
mod succession;
pub mod supervisor;
pub mod upgrade;
mod worker;
mod workers;

pub use asked::Asked;
pub use handover::DrainReason;
pub use sys::fault;
pub use worker::{Alone, Connection, Job, Worker, WorkerError};
pub use workers::Workers;
