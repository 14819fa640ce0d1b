//! A host's directory of keys, read again when it has changed, and what TLS needs of it.

use std::cell::{Cell, RefCell};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::client::Resumption;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CertificateError, ClientConfig, RootCertStore, ServerConfig, version};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::files::{self, FileError};
use crate::identity::{Identity, IdentityError};
use crate::{AUTHORITY_FILE, HOST_FILE, HOST_KEY_FILE};

/// How often, at most, it is looked whether the files have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A certificate that has so little time left is told of when it is read.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);
/// The most authorities that are believed at once.
const AUTHORITIES_MAX: usize = 16;

/// Why a directory of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// What a file holds cannot be used.
    #[error("cannot use {path}: {why}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The host's own certificate does not say who it is.
    #[error("cannot use {path}: {source}")]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: IdentityError,
    },
    /// Everyone on this host could be this host.
    #[error("{0} may be read by everyone: chmod o= {0}")]
    Exposed(PathBuf),
}

/// A host's keys as they are now. For one thread; shared by all that it connects and serves.
#[derive(Debug)]
pub struct Keys {
    directory: PathBuf,
    loaded: RefCell<Loaded>,
    /// What the files were when they were last read, whether or not they could be used.
    seen: Cell<Stamps>,
    looked: Cell<Instant>,
    generation: Cell<u64>,
    /// The files could not be used when they were last read.
    broken: Cell<bool>,
}

#[derive(Debug)]
struct Loaded {
    identity: Identity,
    verifier: Arc<dyn ClientCertVerifier>,
    server: ServerConfig,
    client: ClientConfig,
}

/// What tells a file from the one that was there before: device, inode, size, and when it was changed.
type Stamp = (u64, u64, u64, i64, i64);
type Stamps = [Option<Stamp>; 3];

impl Keys {
    /// Reads a directory of keys.
    ///
    /// # Errors
    ///
    /// When a file is missing or broken, when the key does not fit the certificate, and when the certificate is not from one of the
    /// authorities. One that has run out is told of in the log: the others will refuse it.
    pub fn load(directory: &Path) -> Result<Self, KeysError> {
        let seen = stamps(directory);
        let loaded = load(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            loaded: RefCell::new(loaded),
            seen: Cell::new(seen),
            looked: Cell::new(Instant::now()),
            generation: Cell::new(0),
            broken: Cell::new(false),
        })
    }

    /// Who this host is to the others.
    pub fn identity(&self) -> Identity {
        self.loaded.borrow().identity.clone()
    }

    /// How often the keys have changed; looks whether they have now.
    pub fn generation(&self) -> u64 {
        self.look();
        self.generation.get()
    }

    /// How to serve: a client must show a certificate of our authorities, and ask for one of these protocols.
    pub fn server(&self, protocols: Vec<Vec<u8>>) -> Arc<ServerConfig> {
        self.look();
        let mut config = self.loaded.borrow().server.clone();
        config.alpn_protocols = protocols;
        Arc::new(config)
    }

    /// How to connect: the server must show a certificate of our authorities for the name by which it is called.
    pub fn client(&self, protocol: Vec<u8>) -> Arc<ClientConfig> {
        self.look();
        let mut config = self.loaded.borrow().client.clone();
        config.alpn_protocols = vec![protocol];
        Arc::new(config)
    }

    /// Whether a peer that showed these certificates would be believed now.
    pub fn believes(&self, chain: &[CertificateDer<'_>]) -> bool {
        self.look();
        let Some((own, between)) = chain.split_first() else { return false };
        let verifier = Arc::clone(&self.loaded.borrow().verifier);
        verifier.verify_client_cert(own, between, UnixTime::now()).is_ok()
    }

    /// Reads the files again if they have changed; what cannot be used is told of once, and the old keys stay.
    fn look(&self) {
        let now = Instant::now();
        if now.duration_since(self.looked.get()) < LOOK_EVERY {
            return;
        }
        self.looked.set(now);
        let found = stamps(&self.directory);
        let is_new = self.seen.replace(found) != found;
        // Broken ones are read until they can be used: what mends them may have come within one tick of the file system's clock.
        if !is_new && !self.broken.get() {
            return;
        }
        let directory = self.directory.display();
        match load(&self.directory) {
            Ok(loaded) => {
                tracing::info!(%directory, host = %loaded.identity.host, "keys were read again");
                self.loaded.replace(loaded);
                self.generation.set(self.generation.get() + 1);
                self.broken.set(false);
            }
            Err(error) if is_new => {
                self.broken.set(true);
                tracing::warn!(%directory, %error, "keys have changed and cannot be used: the old ones stay");
            }
            Err(_) => {}
        }
    }
}

fn stamps(directory: &Path) -> Stamps {
    [AUTHORITY_FILE, HOST_FILE, HOST_KEY_FILE].map(|name| {
        let found = directory.join(name).metadata().ok()?;
        let changed = (found.ctime(), found.ctime_nsec());
        Some((found.dev(), found.ino(), found.size(), changed.0, changed.1))
    })
}

fn load(directory: &Path) -> Result<Loaded, KeysError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let (path, key_path) = (directory.join(HOST_FILE), directory.join(HOST_KEY_FILE));
    let roots = Arc::new(roots(&directory.join(AUTHORITY_FILE))?);
    let chain = certificates(&path)?;
    let key = private_key(&key_path)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
        .build()
        .map_err(|error| unusable(&directory.join(AUTHORITY_FILE), error))?;
    let (own, between) =
        chain.split_first().ok_or_else(|| unusable(&path, "it holds no certificate"))?;
    let identity =
        Identity::of(own).map_err(|source| KeysError::Identity { path: path.clone(), source })?;
    match verifier.verify_client_cert(own, between, UnixTime::now()) {
        // Told of below; it may be all that there is until the next one is issued.
        Ok(_) | Err(rustls::Error::InvalidCertificate(CertificateError::ExpiredContext { .. })) => {
        }
        Err(error) => return Err(unusable(&path, format!("by {AUTHORITY_FILE}: {error}"))),
    }
    if identity.time_left(SystemTime::now()) < SOON {
        let days = identity.time_left(SystemTime::now()).as_secs() / (24 * 3600);
        tracing::warn!(path = %path.display(), days, "the certificate of this host runs out, or has");
    }
    let fits_not = |error: rustls::Error| unusable(&key_path, error);
    let mut server = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&version::TLS13])
        .map_err(fits_not)?
        .with_client_cert_verifier(Arc::clone(&verifier))
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(fits_not)?;
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])
        .map_err(fits_not)?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(fits_not)?;
    client.resumption = Resumption::disabled();
    Ok(Loaded { identity, verifier, server, client })
}

fn unusable(path: &Path, why: impl std::fmt::Display) -> KeysError {
    KeysError::Unusable { path: path.to_owned(), why: why.to_string() }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, KeysError> {
    let text = files::read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| unusable(path, error))?;
    if found.is_empty() {
        return Err(unusable(path, "it holds no certificate"));
    }
    Ok(found)
}

fn roots(path: &Path) -> Result<RootCertStore, KeysError> {
    let found = certificates(path)?;
    if found.len() > AUTHORITIES_MAX {
        return Err(unusable(path, format!("it holds more than {AUTHORITIES_MAX} authorities")));
    }
    let mut roots = RootCertStore::empty();
    for certificate in found {
        roots.add(certificate).map_err(|error| unusable(path, error))?;
    }
    Ok(roots)
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, KeysError> {
    let text = files::read(path)?;
    if path.metadata().is_ok_and(|found| found.permissions().mode() & 0o007 != 0) {
        return Err(KeysError::Exposed(path.to_owned()));
    }
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| unusable(path, error))
}

/// The authorities in a file, for people: the name of each, and when it runs out.
///
/// # Errors
///
/// When the file cannot be read.
pub fn authorities(path: &Path) -> Result<Vec<(String, SystemTime)>, KeysError> {
    let described = certificates(path)?.into_iter().map(|certificate| {
        let (_, parsed) =
            X509Certificate::from_der(&certificate).map_err(|error| unusable(path, error))?;
        let until = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(until);
        Ok((parsed.subject().to_string(), until))
    });
    described.collect()
}

/// Whom the certificate in a file names, for people; nothing is checked.
///
/// # Errors
///
/// When the file cannot be read, or names no host.
pub fn host_identity(path: &Path) -> Result<Identity, KeysError> {
    let chain = certificates(path)?;
    let own = chain.first().ok_or_else(|| unusable(path, "it holds no certificate"))?;
    Identity::of(own).map_err(|source| KeysError::Identity { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
