//! Every conversation of Grange, one file each: who asks whom, what, with which limits, in which versions.
//!
//! | conversation | from → to | file |
//! |---|---|---|
//! | `inspect` | smtpserver → contentfilter | [`inspect`] |
//! | `verify` | smtpserver → router | [`verify`] |
//! | `route` | acceptors, requeue → router | [`route`] |
//! | `enqueue` | router → scheduler | [`enqueue`] |
//! | `deliver` | scheduler → agents | [`deliver`] |
//! | `outcome` | agents → scheduler | [`outcome`] |
//! | `known` | requeue → scheduler | [`known`] |
//! | `strike` | any sender → scheduler | [`strike`] |
//! | `requeue` | anyone → requeue | [`requeue`] |
//! | `home` | compact → scheduler | [`home`] |
//! | `compact` | anyone → compact | [`compact`] |
//! | `admin` | command line → scheduler | [`admin`] |
//! | `farms` | command line → status | [`farms`] |
//!
//! Beside them stands [`hints`], how every acceptor sends `route`.
//!
//! Farms meet only here and in `queue`. A change of a type is a change of the protocol: it shows in a golden frame
//! under `tests/golden` and in `docs/job-sockets.md`.

#![forbid(unsafe_code)]

pub mod admin;
pub mod compact;
pub mod deliver;
pub mod enqueue;
pub mod farms;
pub mod hints;
pub mod home;
pub mod inspect;
pub mod known;
pub mod outcome;
pub mod requeue;
pub mod route;
pub mod strike;
pub mod verify;

use serde::{Deserialize, Serialize};

/// An answer without content: acknowledged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acknowledged {}

/// Whether a field may be left out.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A message with more recipients than this travels by handle alone in `route`.
pub const ENVELOPE_RECIPIENTS_MAX: usize = 100;
/// The most recipients in one part of an `enqueue` or in one `deliver`.
pub const PART_RECIPIENTS_MAX: usize = 500;
/// The most recipients that router makes of one message's by aliases; what goes beyond fails.
pub const MESSAGE_RECIPIENTS_MAX: usize = 100_000;
/// The most recipients of one message in an `enqueue`, over all parts: each that failed because there were too many counts too.
pub const ENQUEUE_RECIPIENTS_MAX: usize = 2 * MESSAGE_RECIPIENTS_MAX;
/// The most entries in one `known` request.
pub const KNOWN_MAX: usize = 1000;
/// The most messages in one request of `home`.
pub const HOME_MAX: usize = 1000;
/// The most entries of one page of a list.
pub const LIST_MAX: u32 = 1000;
