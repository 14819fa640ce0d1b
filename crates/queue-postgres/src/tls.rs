//! TLS to the database: 1.3, with the authorities that the settings name and no others. The files are read at each connect, so that
//! they may be replaced.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{Cause, Settings};

/// How to speak TLS; nothing when the settings name no authority.
pub(crate) fn of(settings: &Settings) -> Result<Option<MakeRustlsConnect>, Cause> {
    let Some(ca_file) = &settings.ca_file else { return Ok(None) };
    let mut authorities = RootCertStore::empty();
    for certificate in certificates(ca_file)? {
        authorities.add(certificate).map_err(|error| wrong(ca_file, error))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| Cause::Other(error.to_string()))?
        .with_root_certificates(authorities);
    let config = match (&settings.certificate_file, &settings.key_file) {
        (Some(certificate_file), Some(key_file)) => {
            let key =
                PrivateKeyDer::from_pem_file(key_file).map_err(|error| wrong(key_file, error))?;
            let shown = config.with_client_auth_cert(certificates(certificate_file)?, key);
            shown.map_err(|error| wrong(certificate_file, error))?
        }
        _ => config.with_no_client_auth(),
    };
    Ok(Some(MakeRustlsConnect::new(config)))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Cause> {
    let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect);
    let found: Vec<_> = found.map_err(|error| wrong(path, error))?;
    if found.is_empty() { Err(wrong(path, "there is no certificate in it")) } else { Ok(found) }
}

fn wrong(path: &Path, error: impl ToString) -> Cause {
    Cause::Other(format!("cannot use {}: {}", path.display(), error.to_string()))
}
