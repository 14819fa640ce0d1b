//! `authentication`: SPF, DKIM, DMARC, ARC and iprev of what comes in.
//!
//! What was found goes into the header, where later filters see it; what a DMARC record asks for is done if the setting says so.

mod settings;
#[cfg(test)]
mod tests;

use std::rc::Rc;
use std::time::SystemTime;

use ::authentication::dkim::DkimPolicy;
use ::authentication::{Facts, Policy, Report, Terms, verify};
use config::Problem;
use job::inspect::{Refusal, Verdict};
use mail::StatusCode;

use crate::filter::{Filter, FilterError, Finding, OfMessage, Session};
use crate::kinds::Setup;
use crate::message::Message;
use crate::settings::FilterSetting;

pub(crate) use settings::check_dns_time;
pub use settings::{AuthenticationSetting, DmarcRule, TempErrorRule};

/// Checks the setting at `key`.
pub(crate) fn check(setting: &FilterSetting, key: &str) -> Result<(), Problem> {
    setting.authentication.as_ref().map_or(Ok(()), |own| own.check(setting, key))
}

/// Makes it ready.
pub(crate) fn make(setting: &FilterSetting, setup: &Setup) -> Result<Rc<dyn Filter>, String> {
    let own = setting.authentication.clone().unwrap_or_default();
    Ok(Rc::new(Authentication {
        authserv_id: setup.authserv_id.clone(),
        resolver: Rc::clone(&setup.resolver),
        text: setting.text.clone(),
        setting: own,
    }))
}

struct Authentication {
    setting: AuthenticationSetting,
    text: Option<String>,
    authserv_id: String,
    resolver: Rc<dns::Resolver>,
}

impl OfMessage for Authentication {
    async fn find(&self, session: &Session, message: &Message) -> Result<Finding, FilterError> {
        let client = session.address.filter(|_| self.setting.clients.include(session));
        let Some(client) = client else { return Ok(Finding::default()) };
        let facts = Facts {
            client,
            helo: session.helo.as_deref().unwrap_or_default(),
            sender: session.sender(),
        };
        let content = content_of(message);
        let report = verify(&facts, &content, &self.terms(), &*self.resolver).await;
        let edits = report.edits(message.head(), &self.authserv_id);
        Ok(Finding { edits, ..Finding::from(self.verdict(&report)) })
    }
}

/// A message as crate `authentication` has it.
pub(crate) fn content_of(message: &Message) -> ::authentication::Message {
    ::authentication::Message::new(message.head().clone(), message.body().clone())
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

impl Authentication {
    fn terms(&self) -> Terms {
        let number = |value| usize::try_from(value).unwrap_or(usize::MAX);
        Terms {
            dkim: DkimPolicy {
                rsa_bits_min: number(self.setting.rsa_bits_min),
                signatures_max: number(self.setting.signatures_max),
                partial_body: self.setting.partial_body,
                now: now(),
            },
            iprev: self.setting.iprev,
            time: self.setting.dns_time.0,
            chance: getrandom::u64().unwrap_or(0),
        }
    }

    /// What follows from what was found.
    fn verdict(&self, report: &Report) -> Verdict {
        if self.setting.dmarc == DmarcRule::Report {
            return Verdict::Accept;
        }
        let waits = self.setting.dmarc_temperror == TempErrorRule::Tempfail;
        match report.policy() {
            Policy::Reject => Verdict::Reject(self.refusal(
                550,
                StatusCode::new(5, 7, 26),
                format!("refused as the DMARC record of {} asks", author(report)),
            )),
            _ if report.is_undecided() && waits => Verdict::Tempfail(self.refusal(
                451,
                StatusCode::new(4, 7, 26),
                "whether the author's domain stands behind this message cannot be looked up now".to_owned(),
            )),
            Policy::Quarantine => {
                let reason = format!("the DMARC record of {} asks for it", author(report));
                Verdict::Quarantine { reason: self.text.clone().unwrap_or(reason) }
            }
            Policy::None => Verdict::Accept,
        }
    }

    fn refusal(&self, code: u16, status: StatusCode, text: String) -> Refusal {
        Refusal { code, status, text: self.text.clone().unwrap_or(text) }
    }
}

/// The author whose domain asked for the most. It is in A-labels, but only a host name may stand in a reply.
fn author(report: &Report) -> String {
    let strictest = report.dmarc.iter().filter(|finding| finding.wanted == report.policy());
    let named = strictest.filter_map(|finding| finding.domain.clone()).next();
    let named = named.and_then(|domain| ::authentication::key::published(&domain));
    named.unwrap_or_else(|| "the author's domain".to_owned())
}
