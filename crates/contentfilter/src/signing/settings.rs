//! `dkim_sign = [{ … }]` and `arc_seal = { … }` as an operator writes them.

use serde::{Deserialize, Serialize};

/// A key that signs for a domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningKey {
    /// The domain, as in `d=`.
    pub domain: String,
    /// The selector, as in `s=`.
    pub selector: String,
    /// The file with the private key.
    pub key: String,
}
