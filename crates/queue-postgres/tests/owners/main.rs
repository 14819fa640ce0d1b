//! Several that want the ledger, on real servers: who has it when, and what those change who have it no longer.

mod gate;
mod rows;
mod stale;
mod support;
mod takeover;
mod trouble;
