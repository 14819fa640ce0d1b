//! Rules: regular expressions on headers, texts, attachments and recipients, and the size of a message.

use std::rc::Rc;
use std::sync::Arc;

use config::Problem;
use job::inspect::{Refusal, Verdict};
use mail::{Edit, Recipient, StatusCode};
use regex::Regex;

use crate::filter::{Filter, FilterError, Finding, OfMessage, Session};
use crate::kinds::Setup;
use crate::message::Message;
use crate::mime::TooComplex;
use crate::settings::{Action, FilterSetting, compile, is_field_name};

/// A message up to this size is looked at on the runtime's thread, in bytes: it takes less time than handing it over.
const INLINE_BYTES_MAX: usize = 32 << 10;

const REFUSED: StatusCode = StatusCode::new(5, 7, 1);
const NOT_NOW: StatusCode = StatusCode::new(4, 7, 1);
const TOO_LARGE: StatusCode = StatusCode::new(5, 3, 4);

/// A rule made ready.
struct Rule {
    setting: FilterSetting,
    name: String,
    matches: Option<Regex>,
    body: Option<Regex>,
    attachment: Option<Regex>,
    attachment_type: Option<Regex>,
    recipient: Option<Regex>,
}

/// Checks a rule; `key` is where it stands.
pub(crate) fn check(setting: &FilterSetting, key: &str) -> Result<(), Problem> {
    let problem = |name: &str, wrong: &str, right: &str| {
        Err(Problem::new(format!("{key}.{name}"), wrong, right))
    };
    match &setting.header {
        None if setting.matches.is_some() => {
            let wrong = "there is no header that it could match";
            return problem("matches", wrong, "header = \"Subject\"");
        }
        Some(name) if !is_field_name(name) => {
            return problem("header", "not the name of a header field", "such as \"Subject\"");
        }
        _ => {}
    }
    for (name, pattern) in [
        ("matches", &setting.matches),
        ("body", &setting.body),
        ("attachment", &setting.attachment),
        ("attachment_type", &setting.attachment_type),
        ("recipient", &setting.recipient),
    ] {
        if let Some(Err(wrong)) = pattern.as_deref().map(compile) {
            let right = "a regular expression such as \"\\\\.(exe|scr)$\"";
            return problem(name, &wrong, right);
        }
    }
    match &setting.action {
        None => {
            let right =
                "accept, reject, tempfail, quarantine, discard or { add_header = { name, value } }";
            problem("action", "says nothing to do", right)
        }
        Some(Action::AddHeader(_)) if setting.recipient.is_some() => {
            let wrong = "a header is added for all recipients";
            problem("action", wrong, "accept, reject, tempfail, quarantine or discard")
        }
        Some(_) => Ok(()),
    }
}

/// Makes a rule ready.
pub(crate) fn make(setting: &FilterSetting, setup: &Setup) -> Result<Rc<dyn Filter>, String> {
    let regex = |pattern: &Option<String>| pattern.as_deref().map(compile).transpose();
    Ok(Rc::new(RuleFilter(Arc::new(Rule {
        matches: regex(&setting.matches)?,
        body: regex(&setting.body)?,
        attachment: regex(&setting.attachment)?,
        attachment_type: regex(&setting.attachment_type)?,
        recipient: regex(&setting.recipient)?,
        name: setup.name.clone(),
        setting: setting.clone(),
    }))))
}

/// A rule that may be looked at on another thread.
struct RuleFilter(Arc<Rule>);

impl OfMessage for RuleFilter {
    fn needs_content(&self) -> bool {
        self.0.setting.needs_content()
    }

    async fn find(&self, session: &Session, message: &Message) -> Result<Finding, FilterError> {
        let rule = &self.0;
        let meant = rule.recipients(session.recipients());
        if meant.as_ref().is_some_and(Vec::is_empty) || !rule.fits_size(message.size()) {
            return Ok(Finding::default());
        }
        let applies = match rule.setting.needs_content() {
            false => Ok(true),
            true if message.scanned_bytes() <= INLINE_BYTES_MAX => rule.fits_content(message),
            true => {
                let (rule, message) = (Arc::clone(rule), message.clone());
                let looked = tokio::task::spawn_blocking(move || rule.fits_content(&message));
                match looked.await {
                    Ok(applies) => applies,
                    // A panic is this worker's death in every role: the message gets its strike.
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                }
            }
        };
        match applies {
            Ok(false) => Ok(Finding::default()),
            Ok(true) => Ok(rule.act(meant)),
            Err(error) => Err(FilterError::Message(error.to_string())),
        }
    }
}

impl Rule {
    /// The recipients that it is for; nothing when it is for all.
    fn recipients(&self, recipients: &[Recipient]) -> Option<Vec<u32>> {
        let regex = self.recipient.as_ref()?;
        let all = (0..).zip(recipients);
        let meant = all.filter(|(_, one)| regex.is_match(one.address.as_str()));
        Some(meant.map(|(place, _)| place).collect())
    }

    fn fits_size(&self, size: u64) -> bool {
        self.setting.size_over.is_none_or(|limit| size > limit.0)
    }

    /// Whether everything holds that it says of the content; the cheapest first.
    fn fits_content(&self, message: &Message) -> Result<bool, TooComplex> {
        if let Some(name) = &self.setting.header {
            let headers = message.decoded_headers().iter();
            let mut values = headers.filter(|(other, _)| other.eq_ignore_ascii_case(name));
            let holds = match &self.matches {
                None => values.next().is_some(),
                Some(regex) => values.any(|(_, value)| regex.is_match(value)),
            };
            if !holds {
                return Ok(false);
            }
        }
        if !self.setting.needs_parts() {
            return Ok(true);
        }
        let parts = message.parts()?;
        let holds = |regex: &Option<Regex>, texts: &[String]| {
            regex.as_ref().is_none_or(|regex| texts.iter().any(|text| regex.is_match(text)))
        };
        Ok(holds(&self.attachment, &parts.names)
            && holds(&self.attachment_type, &parts.types)
            && holds(&self.body, &parts.texts))
    }

    /// What it does, for these recipients or for all.
    fn act(&self, meant: Option<Vec<u32>>) -> Finding {
        let is_only_size = !self.setting.needs_content() && self.setting.size_over.is_some();
        let found = act(&self.setting, &self.name, is_only_size);
        match meant {
            None => found,
            Some(meant) => {
                let recipients =
                    meant.into_iter().map(|place| (place, found.verdict.clone())).collect();
                Finding { recipients, ..Finding::default() }
            }
        }
    }
}

/// What the `action` of a filter comes to.
pub(crate) fn act(setting: &FilterSetting, name: &str, is_of_size: bool) -> Finding {
    let text = |general: &str| setting.text.clone().unwrap_or_else(|| general.to_owned());
    let refusal = |code, status, general| Refusal { code, status, text: text(general) };
    let verdict = match setting.action.as_ref().unwrap_or(&Action::Quarantine) {
        Action::Accept => return Finding { is_last: true, ..Finding::default() },
        Action::Reject if is_of_size => {
            Verdict::Reject(refusal(552, TOO_LARGE, "message is too large"))
        }
        Action::Reject => Verdict::Reject(refusal(550, REFUSED, "message content refused")),
        Action::Tempfail => {
            Verdict::Tempfail(refusal(451, NOT_NOW, "message content refused for now"))
        }
        Action::Quarantine => Verdict::Quarantine { reason: text(name) },
        Action::Discard => Verdict::Discard,
        Action::AddHeader(line) => {
            let edit = Edit::Prepend { name: line.name.clone(), value: line.value.clone() };
            return Finding { edits: vec![edit], ..Finding::default() };
        }
    };
    Finding::from(verdict)
}

#[cfg(test)]
mod tests;
