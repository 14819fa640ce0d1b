//! The whole system under one seed: the scheduler's turns and machine, the queue's machines on a simulated disk, model clients,
//! routers, agents and operators, and whatever may befall them, in virtual time.
//!
//! ```text
//!  clients ─▶ intake machines ─▶ simulated disk ◀─ ledger machine
//!                  │ hints, often lost                  ▲
//!                  ▼                                    │
//!  requeue ─▶ routers ── enqueue ─▶ turns of the scheduler ── deliver ─▶ agents ─▶ next hops
//!                                        ▲                                 │
//!                                operators, compact                        └─▶ reports, as new messages
//! ```
//!
//! A seed decides everything. First come some hours in which anything may die, fail, be late or come twice; then days in which
//! nothing does, by whose end every message must have ended. A witness sees it all and knows nothing of how it is done.
//! See `docs/simulation.md`.
//!
//! Never: tokio, a socket, a real clock, a real disk.

#![forbid(unsafe_code)]
#![allow(
    clippy::indexing_slicing,
    reason = "what is not there is a mistake of the simulation, and ends it"
)]

mod acceptor;
mod agents;
mod chance;
mod clock;
mod compactor;
mod faults;
mod hints;
mod process;
mod tell;
mod witness;
mod world;

pub use tell::tell_all;
pub use witness::Seen;
pub use world::run;
