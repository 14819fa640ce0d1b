//! DMARC (RFC 7489, with `np` and `t` of RFC 9989): whether the domain that a message says it is from stands behind it, and what that
//! domain wants done if not.
//!
//! Organizational domains come from the public suffix list, which receivers and senders have agreed on for years; mail-auth walks the
//! tree of RFC 9989 instead, which few domains have records for yet.

mod record;
#[cfg(test)]
mod tests;

use crate::author::Authors;
use crate::dkim::{DkimFinding, DkimResult};
use crate::domain;
use crate::lookup::{Family, Found, Lookup};
use crate::spf::SpfResult;
use record::{Alignment, Record};

/// What DMARC says of an author's domain (RFC 7489 section 11.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DmarcResult {
    /// The domain has no record.
    None,
    /// It stands behind the message.
    Pass,
    /// It does not.
    Fail,
    /// DNS gave no usable answer.
    TempError,
    /// The record, or the From field, cannot be understood.
    PermError,
}

impl DmarcResult {
    /// The result in the words of RFC 8601.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::TempError => "temperror",
            Self::PermError => "permerror",
        }
    }
}

/// What a domain wants done with mail that it does not stand behind; later is stricter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    /// Nothing.
    #[default]
    None,
    /// It is suspicious.
    Quarantine,
    /// It is refused.
    Reject,
}

impl Policy {
    /// The policy as records write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Quarantine => "quarantine",
            Self::Reject => "reject",
        }
    }

    fn milder(self) -> Self {
        match self {
            Self::Reject => Self::Quarantine,
            Self::Quarantine | Self::None => Self::None,
        }
    }
}

/// What DMARC says of one author.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DmarcFinding {
    /// What it says.
    pub result: DmarcResult,
    /// Why, in our own words.
    pub reason: Option<&'static str>,
    /// The author's domain, if there is one.
    pub domain: Option<String>,
    /// What the domain's record says for this message; nothing if there is none, or it could not be looked up.
    pub policy: Option<Policy>,
    /// What is to be done with this message by it: after tests (`t=y`) and sampling (`pct`). Of an error, what would be if it were a failure.
    pub wanted: Policy,
}

/// What DMARC judges by.
pub(crate) struct Evidence<'a> {
    pub(crate) authors: &'a Authors,
    /// SPF of MAIL FROM; of HELO where the sender is null. With the domain.
    pub(crate) spf: (SpfResult, Option<&'a str>),
    pub(crate) dkim: &'a [DkimFinding],
    /// A number from 0 to 99, at random: what `pct` samples by.
    pub(crate) sample: u8,
}

/// Looks at every author's domain; one finding each. Of several, whoever applies policy takes the strictest.
pub(crate) async fn verify(evidence: &Evidence<'_>, lookup: &dyn Lookup) -> Vec<DmarcFinding> {
    let mut findings = Vec::new();
    for domain in &evidence.authors.domains {
        findings.push(of_author(domain, evidence, lookup).await);
    }
    if evidence.authors.too_many {
        // Whoever hides an author behind so many others wants it not to be looked at.
        findings.push(DmarcFinding {
            result: DmarcResult::PermError,
            reason: Some("too many authors"),
            domain: None,
            policy: None,
            wanted: Policy::Reject,
        });
    } else if findings.is_empty() {
        findings.push(error(DmarcResult::PermError, evidence.authors.problem, None));
    }
    findings
}

fn error(result: DmarcResult, reason: Option<&'static str>, domain: Option<&str>) -> DmarcFinding {
    let domain = domain.map(str::to_owned);
    DmarcFinding { result, reason, domain, policy: None, wanted: Policy::None }
}

async fn of_author(author: &str, evidence: &Evidence<'_>, lookup: &dyn Lookup) -> DmarcFinding {
    let (record, policy) = match discover(author, lookup).await {
        Ok(Some(found)) => found,
        Ok(None) => return error(DmarcResult::None, None, Some(author)),
        Err((result, reason)) => return error(result, Some(reason), Some(author)),
    };
    let (result, reason) = judge(author, &record, evidence);
    let mut wanted = policy;
    if record.testing {
        wanted = wanted.milder();
    }
    if evidence.sample >= record.percent {
        wanted = wanted.milder();
    }
    if matches!(result, DmarcResult::Pass) {
        wanted = Policy::None;
    }
    let reason = reason.or(evidence.authors.problem);
    DmarcFinding { result, reason, domain: Some(author.to_owned()), policy: Some(policy), wanted }
}

fn judge(
    author: &str,
    record: &Record,
    evidence: &Evidence<'_>,
) -> (DmarcResult, Option<&'static str>) {
    let aligned = |domain: &str, alignment| match alignment {
        Alignment::Strict => domain == author,
        Alignment::Relaxed => domain::organizational(domain) == domain::organizational(author),
    };
    let mut temporary = false;
    if let (result, Some(domain)) = evidence.spf
        && let Some(domain) = domain::normal(domain)
        && aligned(&domain, record.spf)
    {
        match result {
            SpfResult::Pass => return (DmarcResult::Pass, None),
            SpfResult::TempError => temporary = true,
            _ => {}
        }
    }
    for finding in evidence.dkim {
        let Some(domain) = finding.domain.as_deref() else { continue };
        if !aligned(domain, record.dkim) {
            continue;
        }
        match finding.result {
            DkimResult::Pass => return (DmarcResult::Pass, None),
            DkimResult::TempError => temporary = true,
            _ => {}
        }
    }
    match temporary {
        true => (DmarcResult::TempError, Some("what could show it was not found in time")),
        false => (DmarcResult::Fail, None),
    }
}

/// An error of discovery.
type Failed = (DmarcResult, &'static str);

/// Finds the record that holds for an author, and its policy (RFC 7489 section 6.6.3).
async fn discover(author: &str, lookup: &dyn Lookup) -> Result<Option<(Record, Policy)>, Failed> {
    if let Some(record) = at(author, lookup).await? {
        let policy = record.policy;
        return Ok(Some((record, policy)));
    }
    let parent = domain::organizational(author);
    if parent == author {
        return Ok(None);
    }
    let Some(record) = at(parent, lookup).await? else { return Ok(None) };
    let mut policy = record.subdomains.unwrap_or(record.policy);
    if let Some(missing) = record.missing
        && missing != policy
        && !exists(author, lookup).await?
    {
        policy = missing;
    }
    Ok(Some((record, policy)))
}

async fn at(domain: &str, lookup: &dyn Lookup) -> Result<Option<Record>, Failed> {
    let name = format!("_dmarc.{domain}");
    let found = lookup.txt(&name).await;
    let mut records = found.map_err(|_| TEMPORARY)?.records();
    records.retain(|text| record::is_dmarc(text));
    match records.as_slice() {
        [] => Ok(None),
        [text] => match Record::parse(text) {
            Some(record) => Ok(Some(record)),
            None => Err((DmarcResult::PermError, "record cannot be read")),
        },
        _ => Err((DmarcResult::PermError, "several records")),
    }
}

const TEMPORARY: Failed = (DmarcResult::TempError, "record not found in time");

/// Whether a domain exists, by the one question that tells (RFC 9989 section 4.10.1).
async fn exists(domain: &str, lookup: &dyn Lookup) -> Result<bool, Failed> {
    match lookup.addresses(domain, Family::Ipv4).await {
        Ok(found) => Ok(!matches!(found, Found::NoName)),
        Err(_) => Err(TEMPORARY),
    }
}
