//! DKIM signatures and what they are worth (RFC 6376, 8301, 8463).
//!
//! mail-auth does the canonical form of headers, reads keys and checks signatures. The order of the checks, and what a verifier may not
//! accept, is ours: its own verifier takes signatures that do not cover From, rsa-sha1, and keys for other services, and hashes a body
//! once for every signature before it looks at any.

mod key;
mod signature;
#[cfg(test)]
mod tests;

use mail_auth::dkim::Canonicalization;

use crate::domain;
use crate::lookup::Lookup;
use crate::message::{BodyHash, View, canonical};
pub(crate) use key::{Key, KeyError, find as find_key};
pub(crate) use signature::{Algorithm, Form, Signature};

/// What a signature is worth (RFC 8601 section 2.7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DkimResult {
    /// There is no signature.
    None,
    /// It is valid and acceptable.
    Pass,
    /// It does not match the message.
    Fail,
    /// It may be valid, but is not acceptable here: too weak, run out, or not of the whole body.
    Policy,
    /// It cannot be read, or its key is for tests and it does not match.
    Neutral,
    /// DNS gave no usable answer.
    TempError,
    /// It can never be verified: it lacks something, or there is no such key.
    PermError,
}

impl DkimResult {
    /// The result in the words of RFC 8601.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Policy => "policy",
            Self::Neutral => "neutral",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        }
    }
}

/// One signature and what it is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DkimFinding {
    /// What it is worth.
    pub result: DkimResult,
    /// Why, in our own words.
    pub reason: Option<&'static str>,
    /// Who signed, `d=`, in A-labels and lower case, if that could be read.
    pub domain: Option<String>,
    /// The key's selector, `s=`.
    pub selector: Option<String>,
    /// The algorithm, `a=`.
    pub algorithm: Option<&'static str>,
    /// The first bytes of the signature in base64, by which several of one domain can be told apart (RFC 6008).
    pub signature: Option<String>,
}

/// What is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DkimPolicy {
    /// The smallest RSA key, in bits.
    pub rsa_bits_min: usize,
    /// How many signatures are looked at, from the top.
    pub signatures_max: usize,
    /// Whether a signature of the first bytes of a body is one of the body.
    pub partial_body: bool,
    /// The time, in seconds since 1970.
    pub now: u64,
}

/// A result, and why.
type Verdict = (DkimResult, Option<&'static str>);

/// Looks at the signatures of a message, in their order; none if it has none.
pub(crate) async fn verify(
    view: &View<'_>,
    policy: &DkimPolicy,
    lookup: &dyn Lookup,
) -> Vec<DkimFinding> {
    let mut findings = Vec::new();
    for field in view.all("DKIM-Signature").take(policy.signatures_max) {
        let parsed = Signature::parse(field.raw_value(), Form::Dkim);
        let (verdict, signature) = match parsed {
            Err(reason) => ((DkimResult::Neutral, Some(reason)), None),
            Ok(signature) => {
                let last = (field.name(), field.raw_value());
                (judge(view, policy, lookup, &signature, last).await, Some(signature))
            }
        };
        let (result, reason) = verdict;
        findings.push(DkimFinding {
            result,
            reason,
            domain: signature.as_ref().map(|one| one.domain.clone()),
            selector: signature.as_ref().map(|one| one.selector.clone()),
            algorithm: signature.as_ref().map(|one| one.algorithm.name()),
            signature: signature.as_ref().map(|one| crate::tags::encode(&one.bytes)),
        });
    }
    let ids: Vec<Option<String>> = findings.iter().map(|one| one.signature.clone()).collect();
    for finding in &mut findings {
        finding.signature = finding.signature.take().map(|id| shortened(&id, &ids));
    }
    findings
}

/// So many first characters of a signature as tell it from the others, at least eight (RFC 6008 section 4).
fn shortened(id: &str, ids: &[Option<String>]) -> String {
    let same = |length: &usize| {
        let start = id.get(..*length);
        ids.iter().flatten().filter(|other| other.get(..*length) == start).count() > 1
    };
    let length = (8..id.len()).find(|length| !same(length)).unwrap_or(id.len());
    id.get(..length).unwrap_or(id).to_owned()
}

async fn judge(
    view: &View<'_>,
    policy: &DkimPolicy,
    lookup: &dyn Lookup,
    signature: &Signature,
    last: (&str, &[u8]),
) -> Verdict {
    if let Some(verdict) = before_any_work(signature, policy) {
        return verdict;
    }
    let key = match find_key(&signature.selector, &signature.domain, lookup).await {
        Ok(key) => key,
        Err(KeyError::Temporary) => return (DkimResult::TempError, Some("key not found in time")),
        Err(KeyError::Permanent(reason)) => return (DkimResult::PermError, Some(reason)),
    };
    if let Some(verdict) = of_key(signature, &key, policy) {
        return verdict;
    }
    let failed = |reason| match key.testing {
        // RFC 6376 section 3.6.1: such a message is as one without a signature.
        true => (DkimResult::Neutral, Some("key is for tests")),
        false => (DkimResult::Fail, Some(reason)),
    };
    let which = BodyHash { canonicalization: signature.body, length: signature.length };
    let (hash, whole) = view.body_hash(which).await;
    if hash != signature.body_hash || signature.length.is_some_and(|length| length > whole) {
        return failed("body has changed");
    }
    let unsigned = crate::tags::without_signature(last.1);
    let signed = view.signed(&signature.names);
    let data = canonical(signature.header, signed, (last.0, &unsigned));
    if !key.verifies(&data, signature) {
        return failed("signature does not match");
    }
    if let Some(length) = signature.length
        && !policy.partial_body
        && whole > length
    {
        return (DkimResult::Policy, Some("body longer than signed"));
    }
    (DkimResult::Pass, key.testing.then_some("key is for tests"))
}

/// What the signature itself rules out.
fn before_any_work(signature: &Signature, policy: &DkimPolicy) -> Option<Verdict> {
    if !signature.names.iter().any(|name| name.eq_ignore_ascii_case("from")) {
        return Some((DkimResult::PermError, Some("From is not signed")));
    }
    if signature.algorithm == Algorithm::RsaSha1 {
        return Some((DkimResult::Policy, Some("rsa-sha1 is not accepted")));
    }
    match (signature.expires, signature.time) {
        (Some(expires), Some(time)) if expires <= time => {
            Some((DkimResult::PermError, Some("expires before it was made")))
        }
        (Some(expires), _) if expires <= policy.now => {
            Some((DkimResult::Policy, Some("signature has expired")))
        }
        _ => None,
    }
}

/// What the key rules out.
fn of_key(signature: &Signature, key: &Key, policy: &DkimPolicy) -> Option<Verdict> {
    let identity = signature.identity.as_str();
    if key.exact && !identity.eq_ignore_ascii_case(&signature.domain) {
        return Some((DkimResult::PermError, Some("key is not for subdomains")));
    }
    if !key.takes(signature.algorithm) {
        return Some((DkimResult::PermError, Some("key is for another algorithm")));
    }
    if signature.algorithm == Algorithm::RsaSha256 && key.bits() < policy.rsa_bits_min {
        return Some((DkimResult::Policy, Some("key is too small")));
    }
    None
}

/// Whether `i=` is the signer or below it.
pub(crate) fn is_identity_of(identity: &str, domain: &str) -> bool {
    domain::is_within(identity, domain)
}

/// The canonicalization that everything of ours is signed with, and that seals have.
pub(crate) const RELAXED: Canonicalization = Canonicalization::Relaxed;
