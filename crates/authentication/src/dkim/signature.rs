//! The fields DKIM-Signature and ARC-Message-Signature (RFC 6376 section 3.5, RFC 8617 section 4.1.2).

use mail_auth::dkim::Canonicalization;

use crate::domain;
use crate::tags::Tags;

/// The signing algorithms that have names (RFC 6376 section 3.3, RFC 8463).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    RsaSha1,
    RsaSha256,
    Ed25519Sha256,
}

impl Algorithm {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::RsaSha1 => "rsa-sha1",
            Self::RsaSha256 => "rsa-sha256",
            Self::Ed25519Sha256 => "ed25519-sha256",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        let all = [Self::RsaSha1, Self::RsaSha256, Self::Ed25519Sha256];
        all.into_iter().find(|one| one.name().eq_ignore_ascii_case(name))
    }
}

/// Which of the two fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Dkim,
    Arc,
}

/// A signature as it stands in a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signature {
    pub(crate) algorithm: Algorithm,
    /// `d=` in A-labels and lower case.
    pub(crate) domain: String,
    pub(crate) selector: String,
    /// The domain of `i=`: `d=` or below it. Of an ARC signature, `d=`.
    pub(crate) identity: String,
    /// The instance of an ARC signature; 0 for DKIM.
    pub(crate) instance: u32,
    pub(crate) header: Canonicalization,
    pub(crate) body: Canonicalization,
    pub(crate) length: Option<u64>,
    pub(crate) time: Option<u64>,
    pub(crate) expires: Option<u64>,
    pub(crate) names: Vec<String>,
    pub(crate) body_hash: Vec<u8>,
    pub(crate) bytes: Vec<u8>,
}

/// The most names in `h=`.
const NAMES_MAX: usize = 500;
/// The longest selector, in bytes.
const SELECTOR_BYTES_MAX: usize = 200;

impl Signature {
    /// Takes a field's value apart; the error says in our words what is wrong.
    pub(crate) fn parse(value: &[u8], form: Form) -> Result<Self, &'static str> {
        let tags = Tags::parse(value).ok_or("cannot be read")?;
        if form == Form::Dkim && tags.value("v") != Some("1") {
            return Err("unknown version");
        }
        let needed = |name| tags.value(name).filter(|value| !value.is_empty());
        let algorithm = needed("a").ok_or("no algorithm")?;
        let algorithm = Algorithm::parse(algorithm).ok_or("unknown algorithm")?;
        let domain = needed("d").and_then(domain::normal).ok_or("no domain")?;
        let selector = needed("s").and_then(selector).ok_or("no selector")?;
        let body_hash = tags.bytes("bh").flatten().ok_or("no body hash")?;
        let bytes =
            tags.bytes("b").flatten().filter(|bytes| !bytes.is_empty()).ok_or("no signature")?;
        let names = names(&tags).ok_or("no list of header fields")?;
        let (header, body) =
            canonicalizations(tags.value("c")).ok_or("unknown canonicalization")?;
        let number = |name| match tags.number(name) {
            None => Ok(None),
            Some(Some(number)) => Ok(Some(number)),
            Some(None) => Err("not a number"),
        };
        if form == Form::Dkim
            && let Some(mut methods) = tags.list("q")
            && !methods.any(|method| method.eq_ignore_ascii_case("dns/txt"))
        {
            return Err("unknown way to find the key");
        }
        let (identity, instance) = match form {
            Form::Dkim => (identity(&tags, &domain).ok_or("identity is not the signer's")?, 0),
            Form::Arc => (domain.clone(), instance(&tags).ok_or("no instance")?),
        };
        Ok(Self {
            algorithm,
            selector,
            identity,
            instance,
            header,
            body,
            length: number("l")?,
            time: number("t")?,
            expires: number("x")?,
            names,
            body_hash,
            bytes,
            domain,
        })
    }
}

/// A selector that DNS can hold.
fn selector(text: &str) -> Option<String> {
    (text.len() <= SELECTOR_BYTES_MAX).then(|| domain::normal(text)).flatten()
}

/// `i=` of an ARC field.
fn instance(tags: &Tags<'_>) -> Option<u32> {
    tags.number("i").flatten().and_then(|number| u32::try_from(number).ok())
}

/// The header fields that `h=` lists, as they are written there.
fn names(tags: &Tags<'_>) -> Option<Vec<String>> {
    let names: Vec<String> = tags.list("h")?.map(str::to_owned).collect();
    let well_formed =
        |name: &String| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic());
    (names.len() <= NAMES_MAX && names.iter().all(well_formed)).then_some(names)
}

/// The domain of `i=`, which must be the signer's or below it.
fn identity(tags: &Tags<'_>, domain: &str) -> Option<String> {
    let Some(identity) = tags.value("i") else { return Some(domain.to_owned()) };
    let (_, identity) = identity.rsplit_once('@')?;
    let identity = domain::normal(identity)?;
    super::is_identity_of(&identity, domain).then_some(identity)
}

/// `c=`: of the header, and of the body (RFC 6376 section 3.5).
fn canonicalizations(value: Option<&str>) -> Option<(Canonicalization, Canonicalization)> {
    let one = |name: &str| match name.to_ascii_lowercase().as_str() {
        "simple" => Some(Canonicalization::Simple),
        "relaxed" => Some(Canonicalization::Relaxed),
        _ => None,
    };
    match value.unwrap_or("simple/simple").split_once('/') {
        Some((header, body)) => Some((one(header)?, one(body)?)),
        None => Some((one(value?)?, Canonicalization::Simple)),
    }
}
