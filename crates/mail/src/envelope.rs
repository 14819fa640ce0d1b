//! What travels beside a message: sender, recipients, their DSN wishes, and where it came from.

use serde::{Deserialize, Serialize};

use crate::Address;

/// The envelope of a message (RFC 5321 section 2.3.1), with the parameters of RFC 3461, 6152 and 6531.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The reverse-path; nothing is the null reverse-path `<>` of a report.
    pub sender: Option<Address>,
    /// The recipients in the order in which they were given.
    pub recipients: Vec<Recipient>,
    /// What the client said of the body.
    #[serde(default, skip_serializing_if = "is_default")]
    pub body: BodyType,
    /// Whether SMTPUTF8 was asked for (RFC 6531): a next hop must offer it too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub smtputf8: bool,
    /// How much of the message a failure report returns (RFC 3461 section 4.3).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ret: Option<Ret>,
    /// The sender's envelope id, in xtext as it came (RFC 3461 section 4.4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub envid: Option<String>,
}

/// One recipient of an envelope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// The forward-path's mailbox.
    pub address: Address,
    /// When the sender wants reports; nothing is the default: failure and delay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// The original recipient as it came, `rfc822;` and xtext (RFC 3461 section 4.2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orcpt: Option<String>,
    /// Why this recipient is not to be sent yet: a filter quarantined it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<String>,
}

impl From<Address> for Recipient {
    fn from(address: Address) -> Self {
        Self { address, notify: None, orcpt: None, hold: None }
    }
}

/// What the client said of the body with `BODY=` (RFC 6152).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BodyType {
    /// `BODY=7BIT`, or nothing said.
    #[default]
    #[serde(rename = "7bit")]
    SevenBit,
    /// `BODY=8BITMIME`.
    #[serde(rename = "8bitmime")]
    EightBitMime,
}

/// When a recipient's sender wants to hear of it (RFC 3461 section 4.1); all false is `NEVER`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    /// `SUCCESS`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub success: bool,
    /// `FAILURE`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub failure: bool,
    /// `DELAY`.
    #[serde(default, skip_serializing_if = "is_default")]
    pub delay: bool,
}

impl Notify {
    /// What holds when the sender said nothing: report failures and delays.
    pub const DEFAULT: Self = Self { success: false, failure: true, delay: true };
    /// `NOTIFY=NEVER`.
    pub const NEVER: Self = Self { success: false, failure: false, delay: false };
}

/// How much of a message a failure report returns (RFC 3461 section 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ret {
    /// The whole message.
    Full,
    /// Its header section.
    Hdrs,
}

/// Where a message came from, as its acceptor saw it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The service that took it: `mx`, `submission`, or `report` for our own.
    pub service: String,
    /// The client's address; nothing for what we made ourselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<std::net::IpAddr>,
    /// The name in EHLO or HELO.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helo: Option<String>,
    /// `SMTP`, `ESMTP`, `UTF8SMTP` … as the Received header says it (RFC 3848).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Who authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

/// A change to the header section, decided before acceptance and applied as the message leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    /// Adds a header line at the top of the section.
    Prepend {
        /// The field's name.
        name: String,
        /// Its value, without line ends except in folds.
        value: String,
    },
    /// Adds a header line at the end of the section.
    Append {
        /// The field's name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Adds a header line at a place in the section.
    Insert {
        /// How many fields stand before it; behind the last when there are fewer.
        index: u32,
        /// The field's name.
        name: String,
        /// Its value.
        value: String,
    },
    /// Replaces the nth field of that name (from 1); without a value removes it.
    Change {
        /// The field's name.
        name: String,
        /// Which of several, from 1.
        nth: u32,
        /// The new value, or nothing to remove the field.
        value: Option<String>,
    },
}

pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
