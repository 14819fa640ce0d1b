//! Configuration text becomes sections with positions; each stage types its own.
//!
//! Nothing here knows what a setting means. A stage owns its `Settings` (serde, `deny_unknown_fields`) and a `check` that
//! returns a [`Problem`]; this crate finds the file, line and key of whatever is wrong and says it in one form.

#![forbid(unsafe_code)]

mod file;
mod units;

pub use file::{ConfigError, File, Notice, Problem};
pub use units::{ByteSize, Span, UnitError};
