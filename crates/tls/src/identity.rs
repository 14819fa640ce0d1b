//! Whom a certificate names: one host, and the farms that it may run.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

/// How the name of a farm begins in a certificate, where it is a URI.
const FARM_URI: &str = "grange:farm/";
/// The longest name of a host, in bytes (RFC 1035, section 2.3.4, without the dot at its end).
const HOST_BYTES_MAX: usize = 253;
/// The longest label of a host's name, in bytes.
const LABEL_BYTES_MAX: usize = 63;
/// The longest name of a farm, in bytes.
const FARM_BYTES_MAX: usize = 64;

/// Who a peer is, as its certificate says. Verified only if the certificate was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The host's name, in small letters; or its address.
    pub host: String,
    /// The farms that it may run, in alphabetical order.
    pub farms: Vec<String>,
    /// When the certificate runs out.
    pub not_after: SystemTime,
}

/// A certificate that does not say who its owner is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// It cannot be read.
    #[error("the certificate cannot be read: {0}")]
    Unreadable(String),
    /// It must name one host.
    #[error("the certificate names {0} hosts; it must name one")]
    Hosts(usize),
}

/// A name that a certificate of ours cannot bear.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a host.
    #[error("{0:?} is neither the name of a host nor an address")]
    Host(String),
    /// Not a farm.
    #[error("{0:?} is no name of a farm: letters, digits, '-', '_' and '.' are allowed")]
    Farm(String),
}

/// Checks the name of a host, or its address, and gives it in small letters.
///
/// # Errors
///
/// [`NameError::Host`] for what is neither.
pub fn check_host(host: &str) -> Result<String, NameError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label.len() <= LABEL_BYTES_MAX
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    // What looks like an address but is none would be taken for a name, and found nowhere.
    let has_letter = host.bytes().any(|byte| byte.is_ascii_alphabetic());
    if host.len() <= HOST_BYTES_MAX && has_letter && host.split('.').all(is_label) {
        return Ok(host.to_ascii_lowercase());
    }
    Err(NameError::Host(host.to_owned()))
}

/// Checks the name of a farm.
///
/// # Errors
///
/// [`NameError::Farm`] for what is none.
pub fn check_farm(farm: &str) -> Result<(), NameError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if farm.is_empty() || farm.len() > FARM_BYTES_MAX || !farm.bytes().all(fits) {
        return Err(NameError::Farm(farm.to_owned()));
    }
    Ok(())
}

/// The URI that stands for a farm in a certificate.
pub(crate) fn farm_uri(farm: &str) -> String {
    format!("{FARM_URI}{farm}")
}

impl Identity {
    /// Reads whom a certificate names. Whether it is to be believed is for others to have checked.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or does not name exactly one host.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let unreadable = |error: &dyn std::fmt::Display| {
            let text: String = error.to_string();
            IdentityError::Unreadable(text)
        };
        let (_, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| unreadable(&error))?;
        let names = parsed.subject_alternative_name().map_err(|error| unreadable(&error))?;
        let names = names.map_or(&[][..], |names| &names.value.general_names);
        let mut hosts = Vec::new();
        let mut farms = Vec::new();
        for name in names {
            match name {
                GeneralName::DNSName(host) => hosts.extend(check_host(host).ok()),
                GeneralName::IPAddress(bytes) => hosts.extend(address(bytes)),
                GeneralName::URI(uri) => {
                    let farm = uri.strip_prefix(FARM_URI);
                    farms.extend(farm.filter(|farm| check_farm(farm).is_ok()).map(str::to_owned));
                }
                _ => {}
            }
        }
        farms.sort_unstable();
        farms.dedup();
        let not_after = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let not_after = UNIX_EPOCH + Duration::from_secs(not_after);
        match <[String; 1]>::try_from(hosts) {
            Ok([host]) => Ok(Self { host, farms, not_after }),
            Err(hosts) => Err(IdentityError::Hosts(hosts.len())),
        }
    }

    /// Whether the host may run a farm.
    pub fn may_run(&self, farm: &str) -> bool {
        self.farms.iter().any(|one| one == farm)
    }

    /// How long the certificate still holds; nothing when it has run out.
    pub fn time_left(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }
}

fn address(bytes: &[u8]) -> Option<String> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| v6()).ok().map(|address| address.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses() {
        assert_eq!(check_host("MX1.Example").unwrap(), "mx1.example");
        assert_eq!(check_host("2001:DB8::1").unwrap(), "2001:db8::1");
        assert_eq!(check_host("192.0.2.1").unwrap(), "192.0.2.1");
        assert_eq!(check_host("db_1").unwrap(), "db_1");
        for bad in ["", ".", "a..b", "-a", "a-", "a b", "192.0.2.300", "a/b", "ä.example", "*.a"] {
            assert!(check_host(bad).is_err(), "{bad}");
        }
        assert!(check_host(&format!("{}.a", "a".repeat(64))).is_err());
        assert!(check_host(&"a.".repeat(130)).is_err());
    }

    #[test]
    fn farms_are_words() {
        for good in ["router", "smtp-eu", "x.y", "a_1"] {
            assert!(check_farm(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a/b", "a,b", "é", &"a".repeat(65)] {
            assert!(check_farm(bad).is_err(), "{bad}");
        }
    }
}
