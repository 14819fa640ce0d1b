//! The client's name: what its address says it is called, if that name leads back to the address (RFC 8601 section 2.7.3).

use std::net::IpAddr;

use crate::domain;
use crate::lookup::{Family, Found, Lookup};

/// What a client's reverse look-up says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IprevResult {
    /// A name leads back to the address.
    Pass,
    /// There are names, and none does.
    Fail,
    /// DNS gave no usable answer.
    TempError,
    /// There is no name.
    PermError,
}

impl IprevResult {
    /// The result in the words of RFC 8601.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        }
    }
}

/// A client's name, looked up both ways.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Iprev {
    /// What came of it.
    pub result: IprevResult,
    /// The name that leads back, a host name; only of a pass.
    pub name: Option<String>,
}

/// How many names of a client are looked up.
const NAMES_MAX: usize = 5;

/// Looks a client's name up. How long that may take is the caller's to say, with [`crate::lookup::Limited`].
pub async fn look_up(client: IpAddr, lookup: &dyn Lookup) -> Iprev {
    let client = client.to_canonical();
    let without_name = |result| Iprev { result, name: None };
    let names = match lookup.ptr(client).await {
        Err(_) => return without_name(IprevResult::TempError),
        Ok(Found::NoName | Found::NoRecords) => return without_name(IprevResult::PermError),
        Ok(Found::Records(names)) => names,
    };
    let mut result = IprevResult::Fail;
    for name in names.into_iter().filter(|name| domain::is_host_name(name)).take(NAMES_MAX) {
        match lookup.addresses(&name, Family::of(client)).await {
            Err(_) => result = IprevResult::TempError,
            Ok(found) => {
                if found.records().iter().any(|address| address.to_canonical() == client) {
                    return Iprev { result: IprevResult::Pass, name: Some(name) };
                }
            }
        }
    }
    without_name(result)
}
