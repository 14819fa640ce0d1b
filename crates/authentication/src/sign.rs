//! Our own signatures: DKIM (RFC 6376) by the author's domain, over what leaves.

#[cfg(test)]
mod tests;

use mail::Edit;
use mail::header::{self, Field};
use mail_auth::dkim::Canonicalization;

use crate::author::Authors;
use crate::dkim::RELAXED;
use crate::domain;
use crate::key::SigningKey;
use crate::message::{BodyHash, Message, View, canonical};
use crate::tags;

/// The form in which header or body is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// Space may change on the way.
    Relaxed,
    /// Nothing may.
    Simple,
}

impl Form {
    fn of(self) -> Canonicalization {
        match self {
            Self::Relaxed => RELAXED,
            Self::Simple => Canonicalization::Simple,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Relaxed => "relaxed",
            Self::Simple => "simple",
        }
    }
}

/// Whose mail a key signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Domains {
    /// Of authors at this domain.
    One(String),
    /// Of authors at this domain and below it; the signature is the domain's.
    AndBelow(String),
    /// Of any author; the signature is the author's domain's.
    Any,
}

impl Domains {
    /// The signing domain for an author, and how closely it was meant.
    fn signer<'a>(&'a self, author: &'a str) -> Option<(&'a str, usize)> {
        match self {
            Self::One(domain) => (domain == author).then_some((domain, usize::MAX)),
            Self::AndBelow(domain) => {
                domain::is_within(author, domain).then_some((domain, domain.len()))
            }
            Self::Any => Some((author, 0)),
        }
    }
}

/// A key and how it is used.
pub struct Signer {
    /// Whose mail it signs.
    pub domains: Domains,
    /// Where its public key is.
    pub selector: String,
    /// The key.
    pub key: SigningKey,
    /// How the header is signed.
    pub header: Form,
    /// How the body is signed.
    pub body: Form,
    /// For how many seconds a signature holds; nothing is for ever.
    pub seconds: Option<u64>,
    /// Which header fields it covers.
    pub fields: SignedFields,
}

/// Which header fields are signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedFields {
    /// Signed as often as they are there, and once more, so that none can be added.
    pub oversigned: Vec<String>,
    /// Signed as often as they are there.
    pub signed: Vec<String>,
}

/// The most fields that one signature lists.
const FIELDS_MAX: usize = 200;

impl Default for SignedFields {
    fn default() -> Self {
        Self { oversigned: Self::default_oversigned(), signed: Self::default_signed() }
    }
}

impl SignedFields {
    /// What is signed when nobody says otherwise.
    pub fn default_oversigned() -> Vec<String> {
        [
            "From",
            "Reply-To",
            "Subject",
            "Date",
            "To",
            "Cc",
            "Message-ID",
            "MIME-Version",
            "Content-Type",
            "Content-Transfer-Encoding",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// What is signed when it is there, when nobody says otherwise.
    pub fn default_signed() -> Vec<String> {
        [
            "Sender",
            "In-Reply-To",
            "References",
            "Resent-From",
            "Resent-To",
            "Resent-Cc",
            "Resent-Date",
            "Resent-Message-ID",
            "List-Id",
            "List-Help",
            "List-Unsubscribe",
            "List-Unsubscribe-Post",
            "List-Subscribe",
            "List-Post",
            "List-Owner",
            "List-Archive",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    /// The names to list for a message. From is always among them, and first.
    pub(crate) fn names(&self, view: &View<'_>) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        let mut add = |name: &str, more: usize| {
            if names.iter().any(|other| other.eq_ignore_ascii_case(name)) {
                return;
            }
            let count = view.all(name).count() + more;
            names.extend(std::iter::repeat_n(name.to_owned(), count.min(FIELDS_MAX)));
        };
        add("From", 1);
        self.oversigned.iter().for_each(|name| add(name, 1));
        self.signed.iter().for_each(|name| add(name, 0));
        names.truncate(FIELDS_MAX);
        names
    }
}

/// Signs a message by every key that is most closely meant for its author. Without one author, or a key for it, nothing is signed.
///
/// The message is what leaves, but for the signatures; the edits put them at its top. `now` is in seconds since 1970.
pub async fn sign(
    signers: &[&Signer],
    message: &Message,
    now: u64,
) -> Result<Vec<Edit>, CannotSign> {
    let view = View::of(message);
    let authors = Authors::of(&view);
    let ([author], None) = (authors.domains.as_slice(), authors.problem) else {
        return Ok(Vec::new());
    };
    let matching = || {
        signers.iter().copied().filter_map(|signer| {
            let (domain, closeness) = signer.domains.signer(author)?;
            Some((signer, domain, closeness))
        })
    };
    let closest = matching().map(|(_, _, closeness)| closeness).max();
    let mut edits = Vec::new();
    for (signer, domain, _) in matching().filter(|(_, _, one)| Some(*one) == closest) {
        edits.push(signature(signer, domain, &view, now).await.ok_or(CannotSign)?);
    }
    Ok(edits)
}

/// The system has no memory or no randomness to sign with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key could not sign")]
pub struct CannotSign;

/// The name of the field.
const FIELD: &str = "DKIM-Signature";

async fn signature(signer: &Signer, domain: &str, view: &View<'_>, now: u64) -> Option<Edit> {
    let names = &signer.fields.names(view);
    let (header, body) = (signer.header.of(), signer.body.of());
    let hash = view.body_hash(BodyHash { canonicalization: body, length: None }).await;
    let mut value = format!(
        "v=1; a={}; c={}/{}; d={domain};\r\n\ts={}; t={now}",
        signer.key.algorithm().name(),
        signer.header.name(),
        signer.body.name(),
        signer.selector
    );
    if let Some(seconds) = signer.seconds {
        value.push_str(&format!("; x={}", now.saturating_add(seconds)));
    }
    push_names(&mut value, names);
    value.push_str(&format!(";\r\n\tbh={};\r\n\tb=", tags::encode(&hash)));
    let data = unsigned(FIELD, &value, |field| {
        canonical(header, view.signed(names), (field.name(), field.raw_value()))
    })?;
    push_signature(&mut value, &signer.key.sign(&data)?);
    Some(Edit::Prepend { name: FIELD.to_owned(), value })
}

/// Shows a field as it will stand in the message.
pub(crate) fn unsigned<T>(
    name: &str,
    value: &str,
    show: impl FnOnce(&Field<'_>) -> T,
) -> Option<T> {
    let edit = Edit::Prepend { name: name.to_owned(), value: value.to_owned() };
    let raw = header::edit(&[], &[edit]);
    header::fields(&raw).next().map(|field| show(&field))
}

/// Where a line is folded.
const FOLD_BYTES: usize = 76;

/// Adds `h=`, folded.
pub(crate) fn push_names(value: &mut String, names: &[String]) {
    value.push_str(";\r\n\th=");
    let mut column = 10;
    for (number, name) in names.iter().enumerate() {
        if number > 0 {
            value.push(':');
            column += 1;
        }
        if column + name.len() > FOLD_BYTES {
            value.push_str("\r\n\t ");
            column = 9;
        }
        value.push_str(name);
        column += name.len();
    }
}

/// Adds a signature in base64, folded.
pub(crate) fn push_signature(value: &mut String, bytes: &[u8]) {
    let text = tags::encode(bytes);
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        value.push_str(line);
        if !after.is_empty() {
            value.push_str("\r\n\t ");
        }
        rest = after;
    }
}
