//! The milter protocol, version 6, from the MTA's side.

#![forbid(unsafe_code)]
