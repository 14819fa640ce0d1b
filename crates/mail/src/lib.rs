//! Addresses, envelopes, message ids, header lines and delivery reports.
//!
//! Pure: this crate does no I/O, reads no clock and draws no random number. It is what every other
//! crate that knows mail shares, and it knows nothing of queues, sockets or farms.

mod address;
mod envelope;
pub mod header;
mod id;
mod outcome;
pub mod report;
mod text;
mod timestamp;
pub mod xtext;

pub use address::{
    ADDRESS_BYTES_MAX, Address, AddressError, DOMAIN_BYTES_MAX, LOCAL_PART_BYTES_MAX,
};
pub use envelope::{BodyType, Edit, Envelope, Notify, Origin, Recipient, Ret};
pub use id::{MessageId, MessageIdError};
pub use outcome::{Delivered, Outcome, Reply, StatusCode, StatusCodeError, SuccessReport};
pub use text::{crlf, from_text};
pub use timestamp::Timestamp;
