//! `verify`: smtpserver asks router whether a recipient may be accepted, at RCPT.
//!
//! ```text
//! smtpserver ── verify {sender, recipients, client} ─▶ router
//!            ◀─ {recipients: [verdict …]} ────────────
//! ```

use mail::{Address, StatusCode};
use serde::{Deserialize, Serialize};
use socket::{Conversation, single_request};

/// The conversation.
pub enum Verify {}

impl Conversation for Verify {
    const NAME: &'static str = "verify";
    const VERSIONS: &'static [u32] = &[1];
    type Request = VerifyRequest;
    type Answer = VerifyAnswer;
}

/// May these recipients be accepted from this client?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyRequest {
    /// The reverse-path.
    pub sender: Option<Address>,
    /// The recipients as given at RCPT, pipelined ones together.
    pub recipients: Vec<Address>,
    /// Who asks.
    pub client: Client,
}

/// What matters of an SMTP client when it is decided who may send where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    /// Its address.
    pub address: Option<std::net::IpAddr>,
    /// Whether it may relay to anywhere: it is in `relay_from`, or has authenticated.
    pub may_relay: bool,
}

single_request!(VerifyRequest, "verify");

/// One verdict for each recipient asked about, in the same order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyAnswer {
    /// The verdicts.
    pub recipients: Vec<Verified>,
    /// Domains of recipients asked about of which every address is deliverable, for any client with the same `may_relay` and any
    /// sender: nobody need ask again for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub domains: Vec<WholeDomain>,
}

/// A domain that was judged as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WholeDomain {
    /// In lower case.
    pub domain: String,
    /// For how many milliseconds the verdict may be kept.
    pub holds_ms: u32,
}

/// What router thinks of a recipient.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verified {
    /// To be accepted.
    Deliverable,
    /// No such user: `550 5.1.1`.
    Unknown(VerifyReply),
    /// This client may not send there: `554 5.7.1`.
    RelayDenied(VerifyReply),
    /// Cannot be said now: `451 4.x.x`.
    Tempfail(VerifyReply),
}

/// The words of a refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReply {
    /// The SMTP reply code.
    pub code: u16,
    /// The enhanced status code.
    pub status: StatusCode,
    /// The text, one line.
    pub text: String,
}
