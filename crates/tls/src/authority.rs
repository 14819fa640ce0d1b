//! The private authority: made once, and asked for a certificate for each host.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::files::{self, CERTIFICATE_MODE, FileError, KEY_MODE};
use crate::identity::farm_uri;
use crate::{AUTHORITY_FILE, AUTHORITY_KEY_FILE, HOST_FILE, HOST_KEY_FILE};
use crate::{NameError, check_farm, check_host};

/// How long an authority holds, in days: it is changed by having another follow it, not by running out.
pub const AUTHORITY_DAYS: u32 = 20 * 365;
/// How long a host's certificate holds, in days, unless asked otherwise.
pub const HOST_DAYS: u32 = 365;
/// The longest that a host's certificate may be asked for, in days.
pub const HOST_DAYS_MAX: u32 = 10 * 365;
/// A certificate holds from a little before it was made: the clocks of hosts are not the same.
const CLOCKS_DIFFER: Duration = Duration::from_secs(3600);

/// What is asked of an authority.
#[derive(Debug, Clone)]
pub struct Issue {
    /// The host: its name, by which others connect to it, or its address.
    pub host: String,
    /// The farms that it may run.
    pub farms: Vec<String>,
    /// When the certificate runs out.
    pub until: SystemTime,
    /// Where the host's directory of keys is made.
    pub out: PathBuf,
    /// Whether a certificate and a key that are there already may be replaced.
    pub replace: bool,
}

/// Why there is no new authority, or no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// A file or directory could not be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// Something is there that is not to be overwritten.
    #[error("{0} is there already, and is not overwritten")]
    Exists(PathBuf),
    /// A name does not do.
    #[error(transparent)]
    Name(#[from] NameError),
    /// A certificate without a farm lets its owner do nothing.
    #[error("name the farms that the host may run")]
    NoFarm,
    /// There is no authority that fits the key.
    #[error("{0} has no authority whose key is the one beside it")]
    NoAuthority(PathBuf),
    /// What the file holds cannot be used.
    #[error("cannot use {path}: {why}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// The time so many days from now.
pub fn days_from_now(days: u32) -> SystemTime {
    SystemTime::now() + Duration::from_secs(u64::from(days) * 24 * 3600)
}

/// Makes an authority in a directory: `ca.pem`, and `ca.key`, which only its owner may read.
///
/// # Errors
///
/// Where there is an authority already nothing is changed.
pub fn init(directory: &Path) -> Result<(), IssueError> {
    let (certificate, key) = (directory.join(AUTHORITY_FILE), directory.join(AUTHORITY_KEY_FILE));
    for path in [&certificate, &key] {
        if files::is_there(path)? {
            return Err(IssueError::Exists(path.clone()));
        }
    }
    let pair = KeyPair::generate()?;
    let mut params = params(days_from_now(AUTHORITY_DAYS));
    // Two authorities must not have one name: whoever follows a chain goes by names.
    let number: String = pair.public_key_raw().iter().rev().take(4).map(hex).collect();
    params.distinguished_name.push(DnType::CommonName, format!("grange authority {number}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let made = params.self_signed(&pair)?;
    files::make_directory(directory)?;
    files::write_new(&key, pair.serialize_pem().as_bytes(), KEY_MODE)?;
    Ok(files::write_new(&certificate, made.pem().as_bytes(), CERTIFICATE_MODE)?)
}

fn hex(byte: &u8) -> String {
    format!("{byte:02x}")
}

fn params(until: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = (SystemTime::now() - CLOCKS_DIFFER).min(until - CLOCKS_DIFFER).into();
    params.not_after = until.into();
    params
}

/// Has the authority in a directory issue a certificate, and makes the host's directory of keys: `host.pem`, `host.key` and a copy of
/// `ca.pem`. The authority's file may hold several, while one follows another; the one that fits `ca.key` signs.
///
/// # Errors
///
/// Where the host's certificate or key is there already nothing is changed, unless it may be replaced.
pub fn issue(authority: &Path, wanted: &Issue) -> Result<(), IssueError> {
    let host = check_host(&wanted.host)?;
    wanted.farms.iter().try_for_each(|farm| check_farm(farm))?;
    if wanted.farms.is_empty() {
        return Err(IssueError::NoFarm);
    }
    let (certificate, key) = (wanted.out.join(HOST_FILE), wanted.out.join(HOST_KEY_FILE));
    for path in [&certificate, &key] {
        if !wanted.replace && files::is_there(path)? {
            return Err(IssueError::Exists(path.clone()));
        }
    }
    let (issuer, authorities) = read_issuer(authority)?;
    let pair = KeyPair::generate()?;
    let mut params = params(wanted.until);
    params.distinguished_name.push(DnType::CommonName, host.clone());
    params.subject_alt_names.push(match host.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(host.try_into()?),
    });
    for farm in &wanted.farms {
        params.subject_alt_names.push(SanType::URI(farm_uri(farm).try_into()?));
    }
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let made = params.signed_by(&pair, &issuer)?;
    files::make_directory(&wanted.out)?;
    let copy = wanted.out.join(AUTHORITY_FILE);
    if copy != authority.join(AUTHORITY_FILE) {
        files::replace(&copy, &authorities, CERTIFICATE_MODE)?;
    }
    files::replace(&key, pair.serialize_pem().as_bytes(), KEY_MODE)?;
    Ok(files::replace(&certificate, made.pem().as_bytes(), CERTIFICATE_MODE)?)
}

/// The authority that fits the key, and the text of all of them.
fn read_issuer(directory: &Path) -> Result<(Issuer<'static, KeyPair>, Vec<u8>), IssueError> {
    let (path, key_path) = (directory.join(AUTHORITY_FILE), directory.join(AUTHORITY_KEY_FILE));
    let text = files::read(&path)?;
    let key = String::from_utf8_lossy(&files::read(&key_path)?).into_owned();
    let unusable = |path: &PathBuf, why: String| IssueError::Unusable { path: path.clone(), why };
    let pair = KeyPair::from_pem(&key).map_err(|error| unusable(&key_path, error.to_string()))?;
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| unusable(&path, error.to_string()))?;
        let (_, parsed) = X509Certificate::from_der(&certificate)
            .map_err(|error| unusable(&path, error.to_string()))?;
        if parsed.public_key().subject_public_key.data == pair.public_key_raw() {
            return Ok((Issuer::from_ca_cert_der(&certificate, pair)?, text));
        }
    }
    Err(IssueError::NoAuthority(path))
}

#[cfg(test)]
mod tests;
