//! A DMARC record (RFC 7489 section 6.3, RFC 9989 section 4.7).

use super::Policy;
use crate::tags::Tags;

/// How close a domain must be to the author's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alignment {
    /// The same organizational domain.
    Relaxed,
    /// The same domain.
    Strict,
}

/// What a record says, as far as it concerns who judges a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) policy: Policy,
    /// For subdomains.
    pub(super) subdomains: Option<Policy>,
    /// For subdomains that do not exist.
    pub(super) missing: Option<Policy>,
    pub(super) spf: Alignment,
    pub(super) dkim: Alignment,
    /// Of how many messages in a hundred the policy is meant.
    pub(super) percent: u8,
    pub(super) testing: bool,
}

/// Whether a TXT record is a DMARC record at all.
pub(super) fn is_dmarc(text: &[u8]) -> bool {
    let end = text.iter().position(|byte| *byte == b';').unwrap_or(text.len());
    let first = String::from_utf8_lossy(text.get(..end).unwrap_or(text));
    matches!(first.split_once('='), Some((name, version)) if name.trim() == "v" && version.trim() == "DMARC1")
}

impl Record {
    /// Takes a record apart; nothing if it does not say what to do.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let tags = Tags::parse(text)?;
        let policy = |name: &str| {
            let value = tags.value(name)?.to_ascii_lowercase();
            [Policy::None, Policy::Quarantine, Policy::Reject]
                .into_iter()
                .find(|policy| policy.name() == value)
        };
        let alignment = |name: &str| match tags.value(name) {
            Some("s" | "S") => Alignment::Strict,
            _ => Alignment::Relaxed,
        };
        let reports = tags.value("rua").is_some_and(|value| !value.is_empty());
        // A record without a policy that can be understood still asks for reports: as if it said none.
        let stated = policy("p").or(reports.then_some(Policy::None))?;
        let percent = match tags.number("pct") {
            Some(Some(percent)) => u8::try_from(percent).unwrap_or(100).min(100),
            _ => 100,
        };
        let subdomains = policy("sp");
        Some(Self {
            policy: stated,
            subdomains,
            missing: policy("np"),
            spf: alignment("aspf"),
            dkim: alignment("adkim"),
            percent,
            testing: matches!(tags.value("t"), Some("y" | "Y")),
        })
    }
}
