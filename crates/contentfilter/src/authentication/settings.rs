//! `authentication = { … }` as an operator writes it.

use serde::{Deserialize, Serialize};

/// What is checked of a message's origin, and what follows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthenticationSetting {}
