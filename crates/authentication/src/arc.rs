//! ARC chains (RFC 8617): whether the record of what earlier hosts saw is whole and unchanged.

#[cfg(test)]
mod tests;

use mail::header::Field;

use crate::dkim::{
    Algorithm, DkimPolicy, Form, KeyError, RELAXED, Signature, find_key, is_identity_of,
};
use crate::domain;
use crate::lookup::Lookup;
use crate::message::{BodyHash, View, canonical, push_canonical};
use crate::tags::{Tags, without_signature};

/// What a chain is worth (RFC 8617 section 4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArcResult {
    /// There is no chain.
    None,
    /// It is whole and valid.
    Pass,
    /// It is not, and never will be again.
    Fail,
    /// DNS gave no usable answer. RFC 8617 has no word for this; nothing is said of the chain, and nothing added to it.
    TempError,
}

impl ArcResult {
    /// The result in one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::TempError => "temperror",
        }
    }
}

/// A chain and what it is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArcFinding {
    /// What it is worth.
    pub result: ArcResult,
    /// Why, in our own words.
    pub reason: Option<&'static str>,
    /// How many sets it has; 0 if it cannot be told.
    pub instances: u32,
    /// Who sealed it last, in A-labels.
    pub sealer: Option<String>,
}

/// The most sets (RFC 8617 section 4.2.1).
pub(crate) const SETS_MAX: usize = 50;

/// The field names of a set, in the order in which they are sealed.
pub(crate) const RESULTS_FIELD: &str = "ARC-Authentication-Results";
pub(crate) const SIGNATURE_FIELD: &str = "ARC-Message-Signature";
pub(crate) const SEAL_FIELD: &str = "ARC-Seal";

/// One set of a chain.
pub(crate) struct Set<'a> {
    pub(crate) results: &'a Field<'a>,
    pub(crate) signature: &'a Field<'a>,
    pub(crate) seal: &'a Field<'a>,
}

/// The sets of a message from the first to the last; the error is what is wrong with them.
pub(crate) fn chain<'a>(view: &'a View<'a>) -> Result<Vec<Set<'a>>, &'static str> {
    let results: Vec<&Field<'_>> = view.all(RESULTS_FIELD).collect();
    let signatures: Vec<&Field<'_>> = view.all(SIGNATURE_FIELD).collect();
    let seals: Vec<&Field<'_>> = view.all(SEAL_FIELD).collect();
    let count = results.len().max(signatures.len()).max(seals.len());
    if count > SETS_MAX {
        return Err("more than 50 sets");
    }
    let at = |fields: &[&'a Field<'a>], number: usize| {
        let mut found = fields.iter().filter(|field| instance(field) == Some(number));
        match (found.next(), found.next()) {
            (Some(field), None) => Ok(*field),
            (None, _) => Err("an instance is missing"),
            (Some(_), Some(_)) => Err("an instance is there twice"),
        }
    };
    let set = |number| {
        let (results, signature, seal) =
            (at(&results, number)?, at(&signatures, number)?, at(&seals, number)?);
        Ok(Set { results, signature, seal })
    };
    (1..=count).map(set).collect()
}

/// `i=`, with which ARC-Authentication-Results begins and which the others have somewhere.
fn instance(field: &Field<'_>) -> Option<usize> {
    let digits = if field.is(RESULTS_FIELD) {
        let value = field.value();
        let text = std::str::from_utf8(&value).ok()?;
        let (first, _) = text.split_once(';')?;
        let (name, digits) = first.split_once('=')?;
        (name.trim() == "i").then(|| digits.trim().to_owned())?
    } else {
        Tags::parse(field.raw_value())?.value("i")?.to_owned()
    };
    let well_formed = digits.len() <= 2 && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|number| well_formed && *number >= 1)
}

/// Verifies the chain of a message.
pub(crate) async fn verify(
    view: &View<'_>,
    policy: &DkimPolicy,
    lookup: &dyn Lookup,
) -> ArcFinding {
    let sets = match chain(view) {
        Err(reason) => return finding(ArcResult::Fail, Some(reason), &[]),
        Ok(sets) if sets.is_empty() => return finding(ArcResult::None, None, &[]),
        Ok(sets) => sets,
    };
    match judge(view, &sets, policy, lookup).await {
        Ok(()) => finding(ArcResult::Pass, None, &sets),
        Err(Broken::Temporary) => {
            finding(ArcResult::TempError, Some("key not found in time"), &sets)
        }
        Err(Broken::For(reason)) => finding(ArcResult::Fail, Some(reason), &sets),
    }
}

fn finding(result: ArcResult, reason: Option<&'static str>, sets: &[Set<'_>]) -> ArcFinding {
    let sealer = sets.last().and_then(|set| {
        domain::normal(Tags::parse(set.seal.raw_value())?.value("d")?)
            .filter(|name| domain::is_host_name(name))
    });
    let instances = u32::try_from(sets.len()).unwrap_or(u32::MAX);
    ArcFinding { result, reason, instances, sealer }
}

/// Why a chain is not valid.
enum Broken {
    Temporary,
    For(&'static str),
}

impl From<&'static str> for Broken {
    fn from(reason: &'static str) -> Self {
        Self::For(reason)
    }
}

impl From<KeyError> for Broken {
    fn from(error: KeyError) -> Self {
        match error {
            KeyError::Temporary => Self::Temporary,
            KeyError::Permanent(reason) => Self::For(reason),
        }
    }
}

async fn judge(
    view: &View<'_>,
    sets: &[Set<'_>],
    policy: &DkimPolicy,
    lookup: &dyn Lookup,
) -> Result<(), Broken> {
    let seals = sets
        .iter()
        .enumerate()
        .map(|(place, set)| Seal::parse(set.seal, place))
        .collect::<Result<Vec<_>, _>>()?;
    let last = sets.last().ok_or("an instance is missing")?;
    message_signature(view, last.signature, policy, lookup).await?;
    for (place, seal) in seals.iter().enumerate().rev() {
        let key = find_key(&seal.selector, &seal.domain, lookup).await?;
        let weak = seal.algorithm == Algorithm::RsaSha256 && key.bits() < policy.rsa_bits_min;
        if weak || !key.takes(seal.algorithm) {
            return Err("key of a seal is not acceptable".into());
        }
        let data = sealed(sets.get(..=place).unwrap_or(sets));
        if !key.verifies_bytes(&data, &seal.bytes, seal.algorithm) {
            return Err("seal does not match".into());
        }
    }
    Ok(())
}

/// The newest message signature, the only one that must still match (RFC 8617 section 5.2).
async fn message_signature(
    view: &View<'_>,
    field: &Field<'_>,
    policy: &DkimPolicy,
    lookup: &dyn Lookup,
) -> Result<(), Broken> {
    let signature = Signature::parse(field.raw_value(), Form::Arc)?;
    let signs = |wanted: &str| signature.names.iter().any(|name| name.eq_ignore_ascii_case(wanted));
    if !signs("from") || signs(SEAL_FIELD) {
        return Err("message signature is of the wrong fields".into());
    }
    if signature.algorithm == Algorithm::RsaSha1 {
        return Err("rsa-sha1 is not accepted".into());
    }
    if signature.expires.is_some_and(|expires| expires <= policy.now) {
        return Err("message signature has expired".into());
    }
    let key = find_key(&signature.selector, &signature.domain, lookup).await?;
    let weak = signature.algorithm == Algorithm::RsaSha256 && key.bits() < policy.rsa_bits_min;
    if weak
        || !key.takes(signature.algorithm)
        || !is_identity_of(&signature.identity, &signature.domain)
    {
        return Err("key of a signature is not acceptable".into());
    }
    let which = BodyHash { canonicalization: signature.body, length: signature.length };
    let (hash, whole) = view.body_hash(which).await;
    if hash != signature.body_hash {
        return Err("body has changed".into());
    }
    if signature.length.is_some_and(|length| whole > length) {
        return Err("body longer than signed".into());
    }
    let unsigned = without_signature(field.raw_value());
    let signed = view.signed(&signature.names);
    let data = canonical(signature.header, signed, (field.name(), &unsigned));
    if !key.verifies(&data, &signature) {
        return Err("message signature does not match".into());
    }
    Ok(())
}

/// What the seal of the last of these sets is over (RFC 8617 section 5.1.1).
fn sealed(sets: &[Set<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let Some((last, before)) = sets.split_last() else { return out };
    for set in before {
        for field in [set.results, set.signature, set.seal] {
            push_canonical(RELAXED, field, &mut out);
        }
    }
    let unsigned = without_signature(last.seal.raw_value());
    out.extend(canonical(RELAXED, [last.results, last.signature], (last.seal.name(), &unsigned)));
    out
}

/// What stands before a new seal: all earlier sets, in canonical form.
pub(crate) fn sealed_before(sets: &[Set<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    for field in sets.iter().flat_map(|set| [set.results, set.signature, set.seal]) {
        push_canonical(RELAXED, field, &mut out);
    }
    out
}

/// A field ARC-Seal.
struct Seal {
    algorithm: Algorithm,
    domain: String,
    selector: String,
    bytes: Vec<u8>,
}

impl Seal {
    /// Takes the seal of the set at this place, from 0, apart.
    fn parse(field: &Field<'_>, place: usize) -> Result<Self, &'static str> {
        let tags = Tags::parse(field.raw_value()).ok_or("seal cannot be read")?;
        let cv = tags.value("cv").unwrap_or_default();
        let expected = if place == 0 { "none" } else { "pass" };
        if !cv.eq_ignore_ascii_case(expected) {
            return Err("an earlier host found the chain broken");
        }
        if tags.value("h").is_some() {
            return Err("seal lists header fields");
        }
        let algorithm = tags.value("a").and_then(Algorithm::parse).ok_or("unknown algorithm")?;
        if algorithm == Algorithm::RsaSha1 {
            return Err("rsa-sha1 is not accepted");
        }
        let domain = tags.value("d").and_then(domain::normal).ok_or("seal has no domain")?;
        let selector = tags.value("s").and_then(domain::normal).ok_or("seal has no selector")?;
        let bytes = tags.bytes("b").flatten().ok_or("seal has no signature")?;
        Ok(Self { algorithm, domain, selector, bytes })
    }
}
