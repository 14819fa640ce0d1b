//! Who a host is to the others: a private authority, certificates that name a host and its farms, and TLS 1.3 with both ends shown.
//!
//! ```text
//! authority (ca.pem, ca.key)   ── issue ─▶  host.pem: SAN DNS mx1.example, SAN URI grange:farm/router …
//! kept where operators keep it              host.key, and ca.pem beside them: a directory of keys, on its host
//! ```
//!
//! A directory of keys holds three files: `ca.pem`, the authorities that are believed (several while one follows another), `host.pem`
//! and `host.key`. [`Keys`] reads them, and reads them again when they have changed. There is no other trust: no system
//! authorities, no session resumption, no older TLS, and no way to leave a check out.
//!
//! Touches: files in directories it is told of. Never: a network, a descriptor that is not a file's.

#![forbid(unsafe_code)]

mod authority;
mod files;
mod identity;
mod keys;

pub use authority::{
    AUTHORITY_DAYS, HOST_DAYS, HOST_DAYS_MAX, Issue, IssueError, days_from_now, init, issue,
};
pub use files::FileError;
pub use identity::{Identity, IdentityError, NameError, check_farm, check_host};
pub use keys::{Keys, KeysError, authorities, host_identity};

/// The file of the authorities that are believed.
pub const AUTHORITY_FILE: &str = "ca.pem";
/// The file of the authority's private key; only where certificates are issued.
pub const AUTHORITY_KEY_FILE: &str = "ca.key";
/// The file of a host's certificate.
pub const HOST_FILE: &str = "host.pem";
/// The file of a host's private key.
pub const HOST_KEY_FILE: &str = "host.key";
