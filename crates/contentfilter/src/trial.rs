//! What each filter would say of a message, for an operator who tries them out.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use job::inspect::{Heard, Said, Verdict};
use mail::{Address, Edit, Envelope, MessageId, Recipient, Timestamp};

use crate::chain::Chain;
use crate::filter::{FilterError, Finding, Session};
use crate::message::Message;
use crate::settings::Settings;

/// What is pretended of the session that brings the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The client's address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// Whether it may relay.
    pub trusted: bool,
    /// The name it gives in EHLO.
    pub helo: String,
    /// The sender; nothing is the null sender.
    pub sender: Option<Address>,
    /// The recipients.
    pub recipients: Vec<Address>,
}

/// What came of a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trial {
    /// Each filter that was asked, in order; those behind one that decides are not.
    pub filters: Vec<Tried>,
    /// What they come to together.
    pub verdict: Verdict,
    /// Where it differs for single recipients, by their places.
    pub recipients: Vec<(u32, Verdict)>,
    /// The message as it would leave.
    pub message: Bytes,
}

/// What one filter said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// Its name.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// What it found, or why it could say nothing.
    pub found: Result<Found, String>,
}

/// What a filter found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its verdict for the message.
    pub verdict: Verdict,
    /// Its verdicts for single recipients, by their places.
    pub recipients: Vec<(u32, Verdict)>,
    /// Its changes to the header section.
    pub edits: Vec<Edit>,
    /// Whether it gave the message another body.
    pub is_body_replaced: bool,
    /// The sender it wants; `Some(None)` is the null sender.
    pub sender: Option<Option<Address>>,
    /// Recipients that it adds.
    pub add: Vec<Address>,
    /// Recipients that it removes, by their places.
    pub remove: Vec<u32>,
}

impl Tried {
    pub(crate) fn new(name: &str, took: Duration, asked: &Result<Finding, FilterError>) -> Self {
        let found = asked.as_ref().map(|found| Found {
            verdict: found.verdict.clone(),
            recipients: found.recipients.clone(),
            edits: found.edits.clone(),
            is_body_replaced: found.body.is_some(),
            sender: found.sender.clone(),
            add: found.add.iter().map(|recipient| recipient.address.clone()).collect(),
            remove: found.remove.clone(),
        });
        Self { name: name.to_owned(), took, found: found.map_err(ToString::to_string) }
    }
}

/// The most filters of which it is told what they said of a stored message.
const SAID_MAX: usize = 20;
/// The longest text that is told of one, in characters.
const SAID_TEXT_MAX: usize = 400;

/// What those said that did not simply accept a message.
pub(crate) fn said(tried: Vec<Tried>) -> Vec<Said> {
    let said = tried.into_iter().filter_map(|Tried { name, found, .. }| {
        let what = match found {
            Ok(Found { verdict: Verdict::Accept, .. }) => return None,
            Ok(Found { verdict, .. }) => Heard::Verdict(in_short(verdict)),
            Err(why) => Heard::Failure(short(&why)),
        };
        Some(Said { filter: short(&name), what })
    });
    said.take(SAID_MAX).collect()
}

fn in_short(mut verdict: Verdict) -> Verdict {
    match &mut verdict {
        Verdict::Reject(refusal) | Verdict::Tempfail(refusal) => {
            refusal.text = short(&refusal.text)
        }
        Verdict::Quarantine { reason } => *reason = short(reason),
        Verdict::Accept | Verdict::Discard => {}
    }
    verdict
}

fn short(text: &str) -> String {
    text.chars().take(SAID_TEXT_MAX).collect()
}

/// Asks all filters about a message in CRLF lines, as a worker would. Nothing is stored, and services outside are really asked.
///
/// # Errors
///
/// A filter cannot be made ready; the text says which, and why.
pub async fn trial(
    settings: &Settings,
    hostname: &str,
    dns: &dns::Settings,
    facts: &Facts,
    message: Bytes,
) -> Result<Trial, String> {
    let chain = Chain::new(settings, hostname, dns)?;
    let mut session = session_of(facts);
    let id = MessageId::new(Timestamp::from(SystemTime::now()), u64::from(std::process::id()));
    session.id = Some(id);
    let scan_bytes_max = usize::try_from(settings.scan_bytes_max.0).unwrap_or(usize::MAX);
    let message = Message::new(message.len() as u64, message, scan_bytes_max, None);
    let mut filters = Vec::new();
    let (judgement, left) =
        chain.message(&mut chain.open(), &mut session, Ok(message), None, Some(&mut filters)).await;
    Ok(Trial {
        filters,
        verdict: judgement.verdict(),
        recipients: judgement.recipients(),
        message: left.whole(),
    })
}

fn session_of(facts: &Facts) -> Session {
    let recipients = facts.recipients.iter().cloned().map(Recipient::from).collect();
    let addresses = facts.recipients.iter().chain(&facts.sender);
    let smtputf8 = addresses.into_iter().any(|address| !address.is_ascii());
    Session {
        address: Some(facts.address),
        port: facts.port,
        trusted: facts.trusted,
        service: "mx".to_owned(),
        helo: Some(facts.helo.clone()),
        protocol: Some(if smtputf8 { "UTF8SMTP" } else { "ESMTP" }.to_owned()),
        envelope: Some(Rc::new(Envelope {
            sender: facts.sender.clone(),
            recipients,
            body: mail::BodyType::EightBitMime,
            smtputf8,
            ret: None,
            envid: None,
        })),
        ..Session::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_each_would_say() {
        let settings: Settings = toml::from_str(
            r#"filters = [
              { name = "mark", header = "Subject", action = { add_header = { name = "X-A", value = "b" } } },
              { name = "gone", clamd = "unix:/nonexistent/clamd.ctl", on_failure = "quarantine" },
              { recipient = "^anna@", action = "reject" },
            ]"#,
        )
        .expect("settings");
        settings.check().expect("settings without contradiction");
        let facts = Facts {
            address: [192, 0, 2, 1].into(),
            port: 4711,
            trusted: false,
            helo: "client.test".to_owned(),
            sender: None,
            recipients: vec![
                "anna@a.test".parse().expect("an address"),
                "bert@a.test".parse().expect("an address"),
            ],
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let message = Bytes::from_static(b"Subject: x\r\n\r\ny\r\n");
        let dns = dns::Settings::default();
        let trial = runtime
            .expect("a runtime")
            .block_on(trial(&settings, "mx.test", &dns, &facts, message))
            .expect("filters");
        let names: Vec<&str> = trial.filters.iter().map(|tried| &*tried.name).collect();
        assert_eq!(names, ["mark", "gone", "rule-2"]);
        let failed = trial.filters[1].found.as_ref().expect_err("nobody is there");
        assert!(failed.starts_with("cannot be reached: "), "{failed}");
        assert!(matches!(trial.verdict, Verdict::Quarantine { .. }));
        assert!(matches!(trial.recipients[..], [(0, Verdict::Reject(_))]));
        let said = said(trial.filters);
        let [gone] = &said[..] else { panic!("{said:?}") };
        assert!(gone.filter == "gone" && matches!(&gone.what, Heard::Failure(_)), "{gone:?}");
        assert_eq!(trial.message, "X-A: b\r\nSubject: x\r\n\r\ny\r\n");
    }
}
