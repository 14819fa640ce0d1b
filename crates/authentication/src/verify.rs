//! All that is said of a message from a stranger, within one limit of time.

#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::time::Duration;

use mail::{Address, Edit};

use crate::arc::{self, ArcFinding};
use crate::author::Authors;
use crate::dkim::{self, DkimFinding, DkimPolicy};
use crate::dmarc::{self, DmarcFinding, DmarcResult, Evidence, Policy};
use crate::iprev::{self, Iprev};
use crate::lookup::{Limited, Lookup};
use crate::message::{Message, View};
use crate::results;
use crate::spf::{self, SpfQuery, SpfResult};

/// Who brought a message.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The client's address.
    pub client: IpAddr,
    /// The name in HELO; empty if there was none.
    pub helo: &'a str,
    /// The sender; nothing is the null sender.
    pub sender: Option<&'a Address>,
}

/// What is looked at, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// What is accepted of signatures.
    pub dkim: DkimPolicy,
    /// Whether the client's name is looked up.
    pub iprev: bool,
    /// How long all questions to DNS together may take.
    pub time: Duration,
    /// A number at random, for what domains ask to be done with a part of their mail.
    pub chance: u64,
}

/// SPF of one identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpfFinding {
    /// What SPF says.
    pub result: SpfResult,
    /// The identity as it can stand in a header; nothing if it cannot.
    pub identity: Option<String>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The client.
    pub client: IpAddr,
    /// Its name, if that was asked for.
    pub iprev: Option<Iprev>,
    /// SPF of MAIL FROM; nothing for a null sender.
    pub spf_mail_from: Option<SpfFinding>,
    /// SPF of HELO; nothing without a name.
    pub spf_helo: Option<SpfFinding>,
    /// The signatures, from the top.
    pub dkim: Vec<DkimFinding>,
    /// DMARC of each author: one, unless something is odd.
    pub dmarc: Vec<DmarcFinding>,
    /// The chain of those who handed the message on.
    pub arc: ArcFinding,
}

/// Looks at a message.
pub async fn verify(
    facts: &Facts<'_>,
    message: &Message,
    terms: &Terms,
    lookup: &dyn Lookup,
) -> Report {
    let lookup = &Limited::new(lookup, terms.time);
    let view = View::of(message);
    let (iprev, spf_mail_from, spf_helo, dkim, arc) = tokio::join!(
        async {
            match terms.iprev {
                true => Some(iprev::look_up(facts.client, lookup).await),
                false => None,
            }
        },
        of_mail_from(facts, lookup),
        of_helo(facts, lookup),
        dkim::verify(&view, &terms.dkim, lookup),
        arc::verify(&view, &terms.dkim, lookup),
    );
    let authors = Authors::of(&view);
    let spf = match (facts.sender, &spf_mail_from, &spf_helo) {
        (Some(sender), Some(finding), _) => (finding.result, Some(sender.domain())),
        (None, _, Some(finding)) => (finding.result, Some(facts.helo)),
        _ => (SpfResult::None, None),
    };
    let sample = u8::try_from(terms.chance % 100).unwrap_or(0);
    let evidence = Evidence { authors: &authors, spf, dkim: &dkim, sample };
    let dmarc = dmarc::verify(&evidence, lookup).await;
    Report { client: facts.client, iprev, spf_mail_from, spf_helo, dkim, dmarc, arc }
}

async fn of_mail_from(facts: &Facts<'_>, lookup: &dyn Lookup) -> Option<SpfFinding> {
    let sender = facts.sender?;
    let query = SpfQuery {
        client: facts.client,
        domain: sender.domain(),
        local_part: sender.local_part(),
        helo: facts.helo,
    };
    let result = spf::check(&query, lookup).await;
    Some(SpfFinding { result, identity: written(sender) })
}

/// A sender as it can stand in a header: whole where it is plain, else its domain.
fn written(sender: &Address) -> Option<String> {
    let domain = crate::domain::normal(sender.domain())
        .filter(|domain| crate::domain::is_host_name(domain))?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.+".contains(&byte);
    let local_part = sender.local_part();
    match local_part.bytes().all(plain) {
        true => Some(format!("{local_part}@{domain}")),
        false => Some(domain),
    }
}

async fn of_helo(facts: &Facts<'_>, lookup: &dyn Lookup) -> Option<SpfFinding> {
    let domain = facts.helo;
    if domain.is_empty() {
        return None;
    }
    let query = SpfQuery { client: facts.client, domain, local_part: "", helo: domain };
    let result = spf::check(&query, lookup).await;
    let identity = crate::domain::normal(domain).filter(|name| crate::domain::is_host_name(name));
    Some(SpfFinding { result, identity })
}

impl Report {
    /// What DMARC wants done: what the strictest of the authors' domains wants.
    pub fn policy(&self) -> Policy {
        let failed = |finding: &&DmarcFinding| {
            matches!(finding.result, DmarcResult::Fail | DmarcResult::PermError)
        };
        let wanted = self.dmarc.iter().filter(failed).map(|finding| finding.wanted);
        wanted.max().unwrap_or_default()
    }

    /// Whether more would be wanted done than [`Self::policy`] says, had DNS answered.
    pub fn is_undecided(&self) -> bool {
        self.dmarc.iter().any(|finding| {
            finding.result == DmarcResult::TempError
                && (finding.policy.is_none() || finding.wanted > self.policy())
        })
    }

    /// The value of Authentication-Results.
    pub fn header_value(&self, authserv_id: &str) -> String {
        results::value(authserv_id, self)
    }

    /// The edits that make a message say what was found, and nobody else in our name.
    pub fn edits(&self, header: &[u8], authserv_id: &str) -> Vec<Edit> {
        let mut edits = results::removals(header, authserv_id);
        let value = self.header_value(authserv_id);
        edits.push(Edit::Prepend { name: results::FIELD.to_owned(), value });
        edits
    }
}
