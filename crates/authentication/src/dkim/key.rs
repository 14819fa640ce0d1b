//! A signer's key, as DNS has it (RFC 6376 section 3.6.1).

use mail_auth::common::crypto::Algorithm as CryptoAlgorithm;
use mail_auth::common::parse::TxtRecordParser;
use mail_auth::common::verify::DomainKey;

use super::signature::{Algorithm, Signature};
use crate::lookup::{Found, Lookup};
use crate::tags::Tags;

/// A public key.
pub(crate) struct Key {
    key: DomainKey,
    ed25519: bool,
    /// `t=y`: the domain is testing.
    pub(crate) testing: bool,
    /// `t=s`: not for signatures whose `i=` is below `d=`.
    pub(crate) exact: bool,
}

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyError {
    /// DNS gave no usable answer.
    Temporary,
    /// There is none that can be used, and why.
    Permanent(&'static str),
}

/// The most key records of one name that are looked at.
const RECORDS_MAX: usize = 4;

/// Finds a key in DNS.
pub(crate) async fn find(
    selector: &str,
    domain: &str,
    lookup: &dyn Lookup,
) -> Result<Key, KeyError> {
    let name = format!("{selector}._domainkey.{domain}");
    let records = match lookup.txt(&name).await {
        Err(_) => return Err(KeyError::Temporary),
        Ok(Found::NoName | Found::NoRecords) => return Err(KeyError::Permanent("no key")),
        Ok(Found::Records(records)) => records,
    };
    let mut first = None;
    for record in records.iter().take(RECORDS_MAX) {
        match Key::parse(record) {
            Ok(key) => return Ok(key),
            Err(reason) => {
                first.get_or_insert(reason);
            }
        }
    }
    Err(KeyError::Permanent(first.unwrap_or("no key")))
}

impl Key {
    fn parse(record: &[u8]) -> Result<Self, &'static str> {
        let tags = Tags::parse(record).ok_or("key cannot be read")?;
        if let Some(version) = tags.value("v")
            && (version != "DKIM1" || tags.first() != Some(("v", version)))
        {
            return Err("key of an unknown version");
        }
        let ed25519 = match tags.value("k").unwrap_or("rsa").to_ascii_lowercase().as_str() {
            "rsa" => false,
            "ed25519" => true,
            _ => return Err("key of an unknown type"),
        };
        match tags.bytes("p") {
            None | Some(None) => return Err("key cannot be read"),
            Some(Some(bytes)) if bytes.is_empty() => return Err("key is revoked"),
            Some(Some(bytes)) if ed25519 && bytes.len() != 32 => return Err("key cannot be read"),
            Some(Some(_)) => {}
        }
        if let Some(mut hashes) = tags.list("h")
            && !hashes.any(|hash| hash.eq_ignore_ascii_case("sha256"))
        {
            return Err("key is for another hash");
        }
        if let Some(mut services) = tags.list("s")
            && !services.any(|service| service == "*" || service.eq_ignore_ascii_case("email"))
        {
            return Err("key is not for mail");
        }
        let has_flag = |flag: &str| {
            tags.list("t").is_some_and(|mut flags| flags.any(|one| one.eq_ignore_ascii_case(flag)))
        };
        let key = DomainKey::parse(record).map_err(|_| "key cannot be read")?;
        Ok(Self { key, ed25519, testing: has_flag("y"), exact: has_flag("s") })
    }

    /// Whether signatures by this algorithm can be its.
    pub(crate) fn takes(&self, algorithm: Algorithm) -> bool {
        self.ed25519 == (algorithm == Algorithm::Ed25519Sha256)
    }

    /// The size of an RSA key.
    pub(crate) fn bits(&self) -> usize {
        self.key.p.public_key_bits()
    }

    /// Whether a signature of this data is its.
    pub(crate) fn verifies(&self, data: &[u8], signature: &Signature) -> bool {
        self.verifies_bytes(data, &signature.bytes, signature.algorithm)
    }

    /// The same of a bare signature. SHA-1 is never used.
    pub(crate) fn verifies_bytes(&self, data: &[u8], bytes: &[u8], algorithm: Algorithm) -> bool {
        let algorithm = match algorithm {
            Algorithm::RsaSha1 => return false,
            Algorithm::RsaSha256 => CryptoAlgorithm::RsaSha256,
            Algorithm::Ed25519Sha256 => CryptoAlgorithm::Ed25519Sha256,
        };
        self.key.p.verify_bytes(data, bytes, algorithm).is_ok()
    }
}
