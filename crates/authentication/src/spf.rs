//! SPF (RFC 7208): whether an address may send mail for a domain.
//!
//! mail-auth's evaluator is not used: it has no limit on void look-ups, believes a client's PTR record unconfirmed, takes the first
//! of several records, and ends nested includes too early.

mod macros;
mod record;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use crate::domain;
use crate::lookup::{Answer, Family, Found, Local, Lookup};
use macros::{DomainSpec, Values};
use record::{Mechanism, Prefixes, Record};

/// What SPF says of an identity (RFC 7208 section 2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpfResult {
    /// There is no domain to ask about, or it has no record.
    None,
    /// The domain says nothing about this client.
    Neutral,
    /// The client may send for the domain.
    Pass,
    /// It may not.
    Fail,
    /// It probably may not.
    SoftFail,
    /// DNS gave no usable answer.
    TempError,
    /// The domain's records cannot be understood, or ask too much.
    PermError,
}

impl SpfResult {
    /// The result in the words of RFC 8601.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Neutral => "neutral",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::SoftFail => "softfail",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        }
    }
}

/// Whose record is asked about which client.
#[derive(Debug, Clone, Copy)]
pub struct SpfQuery<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The identity's domain: of MAIL FROM, or the name in HELO.
    pub domain: &'a str,
    /// The identity's local part; an empty one is `postmaster`.
    pub local_part: &'a str,
    /// The name in HELO.
    pub helo: &'a str,
}

/// The most terms that cause look-ups (RFC 7208 section 4.6.4).
const LOOKUPS_MAX: u32 = 10;
/// The most look-ups that may find nothing.
const VOID_LOOKUPS_MAX: u32 = 2;
/// The most hosts of one `mx`, and the most names of a client that are confirmed.
const NAMES_MAX: usize = 10;

/// Checks a client against a domain's records (`check_host()` of RFC 7208 section 4).
pub async fn check(query: &SpfQuery<'_>, lookup: &dyn Lookup) -> SpfResult {
    let Some(domain) = domain::normal(query.domain).filter(|domain| domain.contains('.')) else {
        return SpfResult::None;
    };
    let local_part = if query.local_part.is_empty() { "postmaster" } else { query.local_part };
    let mut check = Check {
        lookup,
        client: query.client.to_canonical(),
        sender: format!("{local_part}@{domain}"),
        helo: query.helo,
        name: None,
        lookups: 0,
        voids: 0,
    };
    check.host(&domain).await
}

/// A check and what it has used up. `SpfResult` as an error ends it: `TempError` or `PermError`.
struct Check<'a> {
    lookup: &'a dyn Lookup,
    client: IpAddr,
    sender: String,
    helo: &'a str,
    /// The client's confirmed name, once it was needed.
    name: Option<String>,
    lookups: u32,
    voids: u32,
}

impl Check<'_> {
    /// The result for one domain. Recursion ends with the count of look-ups, which every include and redirect raises.
    fn host<'a>(&'a mut self, domain: &'a str) -> Local<'a, SpfResult> {
        Box::pin(async move {
            match self.record(domain).await {
                Ok(Some(record)) => match self.evaluate(domain, &record).await {
                    Ok(result) | Err(result) => result,
                },
                Ok(None) => SpfResult::None,
                Err(error) => error,
            }
        })
    }

    /// The domain's one record (RFC 7208 sections 4.4 and 4.5).
    async fn record(&self, domain: &str) -> Result<Option<Record>, SpfResult> {
        let found = self.lookup.txt(domain).await.map_err(|_| SpfResult::TempError)?;
        let mut records = found.records();
        records.retain(|text| record::is_spf(text));
        match records.as_slice() {
            [] => Ok(None),
            [text] => Record::parse(text).map(Some).ok_or(SpfResult::PermError),
            _ => Err(SpfResult::PermError),
        }
    }

    async fn evaluate(&mut self, domain: &str, record: &Record) -> Result<SpfResult, SpfResult> {
        for directive in &record.directives {
            if self.matches(domain, &directive.mechanism).await? {
                return Ok(directive.result);
            }
        }
        let Some(redirect) = &record.redirect else { return Ok(SpfResult::Neutral) };
        self.count()?;
        let target = self.target(Some(redirect), domain).await;
        match self.host(&target).await {
            SpfResult::None => Err(SpfResult::PermError),
            result => Ok(result),
        }
    }

    async fn matches(&mut self, domain: &str, mechanism: &Mechanism) -> Result<bool, SpfResult> {
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip4(network, length) => {
                Ok(is_in(self.client, IpAddr::V4(*network), Prefixes { ipv4: *length, ipv6: 128 }))
            }
            Mechanism::Ip6(network, length) => {
                Ok(is_in(self.client, IpAddr::V6(*network), Prefixes { ipv4: 32, ipv6: *length }))
            }
            Mechanism::Include(spec) => {
                self.count()?;
                let target = self.target(Some(spec), domain).await;
                match self.host(&target).await {
                    SpfResult::Pass => Ok(true),
                    SpfResult::Fail | SpfResult::SoftFail | SpfResult::Neutral => Ok(false),
                    SpfResult::TempError => Err(SpfResult::TempError),
                    SpfResult::PermError | SpfResult::None => Err(SpfResult::PermError),
                }
            }
            Mechanism::A(spec, prefixes) => {
                self.count()?;
                let target = self.target(spec.as_ref(), domain).await;
                self.has_address(&target, *prefixes).await
            }
            Mechanism::Mx(spec, prefixes) => {
                self.count()?;
                let target = self.target(spec.as_ref(), domain).await;
                self.has_mx(&target, *prefixes).await
            }
            Mechanism::Ptr(spec) => {
                self.count()?;
                let target = self.target(spec.as_ref(), domain).await;
                let names = self.confirmed_names().await;
                Ok(names.iter().any(|name| domain::is_within(name, &target)))
            }
            Mechanism::Exists(spec) => {
                self.count()?;
                let target = self.target(Some(spec), domain).await;
                let found = self.lookup.addresses(&target, Family::Ipv4).await;
                Ok(!self.answered(found)?.is_empty())
            }
        }
    }

    async fn has_address(&mut self, name: &str, prefixes: Prefixes) -> Result<bool, SpfResult> {
        let found = self.lookup.addresses(name, Family::of(self.client)).await;
        let addresses = self.answered(found)?;
        Ok(addresses.iter().any(|address| is_in(self.client, *address, prefixes)))
    }

    async fn has_mx(&mut self, name: &str, prefixes: Prefixes) -> Result<bool, SpfResult> {
        let found = self.lookup.mx(name).await;
        let hosts = self.answered(found)?;
        if hosts.len() > NAMES_MAX {
            return Err(SpfResult::PermError);
        }
        for host in hosts.iter().filter(|host| !host.is_empty()) {
            if self.has_address(host, prefixes).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The client's names that lead back to it (RFC 7208 section 5.5); errors are as if there were none.
    async fn confirmed_names(&self) -> Vec<String> {
        let Ok(found) = self.lookup.ptr(self.client).await else { return Vec::new() };
        let mut names = found.records();
        names.truncate(NAMES_MAX);
        let mut confirmed = Vec::new();
        for name in names {
            let found = self.lookup.addresses(&name, Family::of(self.client)).await;
            let addresses = found.map(Found::records).unwrap_or_default();
            if addresses.iter().any(|address| address.to_canonical() == self.client) {
                confirmed.push(name);
            }
        }
        confirmed
    }

    /// The domain that a term means.
    async fn target(&mut self, spec: Option<&DomainSpec>, domain: &str) -> String {
        let Some(spec) = spec else { return domain.to_owned() };
        if spec.needs_name() && self.name.is_none() {
            let names = self.confirmed_names().await;
            let best = names
                .iter()
                .find(|name| name.eq_ignore_ascii_case(domain))
                .or_else(|| names.iter().find(|name| domain::is_within(name, domain)))
                .or(names.first());
            self.name = Some(best.map_or("unknown", String::as_str).to_owned());
        }
        spec.expand(&Values {
            sender: &self.sender,
            domain,
            client: self.client,
            helo: self.helo,
            name: self.name.as_deref().unwrap_or("unknown"),
        })
    }

    /// Counts a term that causes look-ups.
    fn count(&mut self) -> Result<(), SpfResult> {
        self.lookups += 1;
        if self.lookups > LOOKUPS_MAX { Err(SpfResult::PermError) } else { Ok(()) }
    }

    /// The records of an answer; counts one that has none.
    fn answered<T>(&mut self, answer: Answer<T>) -> Result<Vec<T>, SpfResult> {
        let records = answer.map_err(|_| SpfResult::TempError)?.records();
        if records.is_empty() {
            self.voids += 1;
            if self.voids > VOID_LOOKUPS_MAX {
                return Err(SpfResult::PermError);
            }
        }
        Ok(records)
    }
}

/// Whether two addresses are of one family and agree in their first bits.
fn is_in(client: IpAddr, network: IpAddr, prefixes: Prefixes) -> bool {
    match (client, network) {
        (IpAddr::V4(client), IpAddr::V4(network)) => {
            let shift = 32 - u32::from(prefixes.ipv4.min(32));
            u32::from(client).checked_shr(shift) == u32::from(network).checked_shr(shift)
        }
        (IpAddr::V6(client), IpAddr::V6(network)) => {
            let shift = 128 - u32::from(prefixes.ipv6.min(128));
            u128::from(client).checked_shr(shift) == u128::from(network).checked_shr(shift)
        }
        _ => false,
    }
}
