//! Keys that sign: read from files, made, and described as DNS has them.

#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use crate::dkim::Algorithm;
use crate::{domain, tags};

/// A private key.
pub struct SigningKey {
    pair: Pair,
}

enum Pair {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// What key to make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// RSA of 2048, 3072 or 4096 bits.
    Rsa(u32),
    /// Ed25519 (RFC 8463).
    Ed25519,
}

/// Why a key file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The file cannot be read or written.
    #[error("cannot use key file {path}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Whoever has an account here may read it.
    #[error("key file {0} can be read by everyone: take that right away, as with chmod o-rwx")]
    Open(PathBuf),
    /// It holds no key that can sign.
    #[error("key file {path}: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: &'static str,
    },
    /// A key is only made where there is none.
    #[error("{0} exists; a key is never overwritten")]
    Exists(PathBuf),
    /// There are no keys of that kind.
    #[error("an RSA key has 2048, 3072 or 4096 bits")]
    Bits,
    /// The system has no randomness, or no memory.
    #[error("cannot make a key")]
    Make,
}

/// The largest key file that is read, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;

impl SigningKey {
    /// Reads a key in PEM: PKCS#1 or PKCS#8.
    ///
    /// # Errors
    ///
    /// In our words, what is wrong with it.
    pub fn from_pem(text: &[u8]) -> Result<Self, &'static str> {
        if text.windows(9).any(|window| window == b"ENCRYPTED") {
            return Err("the key is encrypted, and nobody is there to give a passphrase");
        }
        let der = PrivateKeyDer::from_pem_slice(text)
            .map_err(|_| "holds no private key in PEM (PKCS#1 or PKCS#8)")?;
        const SIZE: &str = "neither an Ed25519 key nor an RSA key of 2048 to 8192 bits";
        let pair = match &der {
            PrivateKeyDer::Pkcs1(der) => {
                Pair::Rsa(RsaKeyPair::from_der(der.secret_pkcs1_der()).map_err(|_| SIZE)?)
            }
            PrivateKeyDer::Pkcs8(der) => {
                let der = der.secret_pkcs8_der();
                match RsaKeyPair::from_pkcs8(der) {
                    Ok(pair) => Pair::Rsa(pair),
                    Err(_) => Pair::Ed25519(
                        Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map_err(|_| SIZE)?,
                    ),
                }
            }
            _ => return Err(SIZE),
        };
        Ok(Self { pair })
    }

    /// Reads a key file that not everyone may read.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let failed = |source| KeyFileError::File { path: path.to_owned(), source };
        let unusable = |reason| KeyFileError::Unusable { path: path.to_owned(), reason };
        let file = std::fs::File::open(path).map_err(failed)?;
        let facts = file.metadata().map_err(failed)?;
        if !facts.is_file() || facts.len() > FILE_BYTES_MAX {
            return Err(unusable("not a file of up to 64 KiB"));
        }
        if facts.mode() & 0o004 != 0 {
            return Err(KeyFileError::Open(path.to_owned()));
        }
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(file, FILE_BYTES_MAX), &mut text)
            .map_err(failed)?;
        Self::from_pem(&text).map_err(unusable)
    }

    /// Makes a key file that its owner may read and change, and nobody else; the key as PKCS#8 in PEM.
    pub fn make(path: &Path, kind: Kind) -> Result<Self, KeyFileError> {
        let failed = |source| KeyFileError::File { path: path.to_owned(), source };
        let der = generate(kind)?;
        let mut options = std::fs::OpenOptions::new();
        let mut file = match options.write(true).create_new(true).mode(0o600).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                return Err(KeyFileError::Exists(path.to_owned()));
            }
            Err(error) => return Err(failed(error)),
        };
        let text = pem(&der);
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        if let Err(error) = written {
            // Half a key would be in the way of the next try.
            let _ = std::fs::remove_file(path);
            return Err(failed(error));
        }
        Self::from_pem(text.as_bytes()).map_err(|_| KeyFileError::Make)
    }

    /// The algorithm of its signatures.
    pub(crate) fn algorithm(&self) -> Algorithm {
        match self.pair {
            Pair::Rsa(_) => Algorithm::RsaSha256,
            Pair::Ed25519(_) => Algorithm::Ed25519Sha256,
        }
    }

    /// Signs data in canonical form. Nothing when the system has no memory or no randomness.
    pub(crate) fn sign(&self, data: &[u8]) -> Option<Vec<u8>> {
        match &self.pair {
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), data, &mut signature).ok()?;
                Some(signature)
            }
            Pair::Ed25519(pair) => {
                // RFC 8463 section 3: the hash is what is signed.
                let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data);
                Some(pair.try_sign(hash.as_ref()).ok()?.as_ref().to_vec())
            }
        }
    }

    /// The TXT record of the public key (RFC 6376 section 3.6.1).
    pub fn record(&self) -> String {
        let (kind, public) = match &self.pair {
            Pair::Rsa(pair) => {
                let der: Option<PublicKeyX509Der<'_>> = pair.public_key().as_der().ok();
                ("rsa", der.map(|der| der.as_ref().to_vec()).unwrap_or_default())
            }
            Pair::Ed25519(pair) => ("ed25519", pair.public_key().as_ref().to_vec()),
        };
        format!("v=DKIM1; h=sha256; k={kind}; p={}", tags::encode(&public))
    }

    /// The same as a line of a zone file: `selector._domainkey.domain. IN TXT ( "…" "…" )`.
    pub fn zone_line(&self, domain: &str, selector: &str) -> String {
        let record = self.record();
        let mut line = format!("{selector}._domainkey.{domain}. IN TXT (");
        let mut rest = record.as_str();
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min(STRING_BYTES_MAX));
            let _ = write!(line, " \"{part}\"");
            rest = after;
        }
        line.push_str(" )");
        line
    }
}

/// The longest string of a TXT record that we write; 255 bytes is the most there can be.
const STRING_BYTES_MAX: usize = 250;

fn generate(kind: Kind) -> Result<Vec<u8>, KeyFileError> {
    let size = match kind {
        Kind::Ed25519 => {
            let document = Ed25519KeyPair::generate_pkcs8v1(&SystemRandom::new())
                .map_err(|_| KeyFileError::Make)?;
            return Ok(document.as_ref().to_vec());
        }
        Kind::Rsa(2048) => KeySize::Rsa2048,
        Kind::Rsa(3072) => KeySize::Rsa3072,
        Kind::Rsa(4096) => KeySize::Rsa4096,
        Kind::Rsa(_) => return Err(KeyFileError::Bits),
    };
    let pair = RsaKeyPair::generate(size).map_err(|_| KeyFileError::Make)?;
    let der: Pkcs8V1Der<'_> = pair.as_der().map_err(|_| KeyFileError::Make)?;
    Ok(der.as_ref().to_vec())
}

fn pem(der: &[u8]) -> String {
    let text = tags::encode(der);
    let mut out = String::from("-----BEGIN PRIVATE KEY-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out.push_str("-----END PRIVATE KEY-----\n");
    out
}

/// Whether a text can be a selector: labels of letters, digits, hyphens and underscores.
pub fn is_selector(text: &str) -> bool {
    domain::is_host_name(text)
}

/// A domain as keys are published for it, in A-labels; nothing if it is none.
pub fn published(domain: &str) -> Option<String> {
    domain::normal(domain).filter(|domain| domain::is_host_name(domain))
}
