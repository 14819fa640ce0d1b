//! The filters made ready: a pure function of a message's bytes.

use std::cell::OnceCell;

use job::inspect::{Refusal, Verdict};
use mail::{Edit, StatusCode};
use mail_parser::{HeaderName, HeaderValue, MessageParser};
use regex::Regex;

use crate::mime::{self, Parts, TooComplex, header_length};
use crate::settings::{Action, FilterSetting, OnFailure, Settings, compile};

/// All filters, in their order.
pub struct Filters {
    filters: Vec<Filter>,
}

struct Filter {
    setting: FilterSetting,
    name: String,
    matches: Option<Regex>,
    body: Option<Regex>,
    attachment: Option<Regex>,
}

/// What the filters say of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// Header lines to add, in order.
    pub edits: Vec<Edit>,
    /// The filter that decided; nothing when none did, and the message is accepted.
    pub by: Option<String>,
    /// Filters that could not be asked, and why.
    pub failures: Vec<String>,
}

/// A message as filters look at it: what one has worked out is there for the next.
struct Subject<'a> {
    size: u64,
    content: Result<&'a [u8], &'a str>,
    headers: OnceCell<Vec<(String, String)>>,
    parts: OnceCell<Result<Parts, TooComplex>>,
}

impl Filters {
    /// Makes checked settings ready; the error names the filter and says what is wrong.
    pub fn new(settings: &Settings) -> Result<Self, String> {
        let mut filters = Vec::with_capacity(settings.filters.len());
        for (index, setting) in settings.filters.iter().enumerate() {
            let name = setting.name.clone().unwrap_or_else(|| format!("filters[{index}]"));
            let regex = |pattern: &Option<String>| match pattern.as_deref().map(compile) {
                None => Ok(None),
                Some(Ok(regex)) => Ok(Some(regex)),
                Some(Err(wrong)) => Err(format!("{name}: {wrong}")),
            };
            filters.push(Filter {
                matches: regex(&setting.matches)?,
                body: regex(&setting.body)?,
                attachment: regex(&setting.attachment)?,
                name: name.clone(),
                setting: setting.clone(),
            });
        }
        Ok(Self { filters })
    }

    /// Whether any filter looks at more than a message's size.
    pub fn need_content(&self) -> bool {
        self.filters.iter().any(|filter| filter.setting.needs_content())
    }

    /// Judges a message of `size` bytes of which these are the first, or could not be read for a reason.
    pub fn judge(&self, size: u64, content: Result<&[u8], &str>) -> Judgement {
        let subject = Subject { size, content, headers: OnceCell::new(), parts: OnceCell::new() };
        let mut judgement = Judgement {
            verdict: Verdict::Accept,
            edits: Vec::new(),
            by: None,
            failures: Vec::new(),
        };
        for filter in &self.filters {
            let verdict = match filter.applies(&subject) {
                Ok(false) => continue,
                Ok(true) => match filter.act(&mut judgement.edits) {
                    Some(verdict) => verdict,
                    None => continue,
                },
                Err(reason) => {
                    judgement.failures.push(format!("{}: {reason}", filter.name));
                    match filter.fail() {
                        Some(verdict) => verdict,
                        None => continue,
                    }
                }
            };
            judgement.verdict = verdict;
            judgement.by = Some(filter.name.clone());
            break;
        }
        judgement
    }
}

impl Filter {
    /// Whether everything holds that the filter says; the cheapest first.
    fn applies(&self, subject: &Subject<'_>) -> Result<bool, String> {
        if self.setting.size_over.is_some_and(|limit| subject.size <= limit.0) {
            return Ok(false);
        }
        if !self.setting.needs_content() {
            return Ok(true);
        }
        let content = subject.content.map_err(str::to_owned)?;
        if let Some(name) = &self.setting.header {
            let mut values = subject
                .headers(content)
                .iter()
                .filter(|(other, _)| other.eq_ignore_ascii_case(name));
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
        let parts = subject.parts(content).map_err(|error| error.to_string())?;
        let holds = |regex: &Option<Regex>, texts: &[String]| {
            regex.as_ref().is_none_or(|regex| texts.iter().any(|text| regex.is_match(text)))
        };
        Ok(holds(&self.attachment, &parts.names) && holds(&self.body, &parts.texts))
    }

    /// What the filter does; nothing when later filters are to be asked.
    fn act(&self, edits: &mut Vec<Edit>) -> Option<Verdict> {
        let text = |general: &str| self.setting.text.clone().unwrap_or_else(|| general.to_owned());
        let is_only_size = !self.setting.needs_content();
        let refusal = |code, status, general| Refusal { code, status, text: text(general) };
        Some(match self.setting.action.as_ref()? {
            Action::Accept => Verdict::Accept,
            Action::Reject if is_only_size => {
                Verdict::Reject(refusal(552, TOO_LARGE, "message is too large"))
            }
            Action::Reject => Verdict::Reject(refusal(550, REFUSED, "message content refused")),
            Action::Tempfail => {
                Verdict::Tempfail(refusal(451, NOT_NOW, "message content refused for now"))
            }
            Action::Quarantine => Verdict::Quarantine { reason: text(&self.name) },
            Action::Discard => Verdict::Discard,
            Action::AddHeader(line) => {
                edits.push(Edit::Prepend { name: line.name.clone(), value: line.value.clone() });
                return None;
            }
        })
    }

    /// What happens when the filter cannot be asked; nothing when later filters are to be asked.
    fn fail(&self) -> Option<Verdict> {
        match self.setting.on_failure {
            OnFailure::Accept => None,
            OnFailure::Tempfail => Some(Verdict::Tempfail(Refusal {
                code: 451,
                status: CANNOT_LOOK,
                text: "message content cannot be looked at now".to_owned(),
            })),
            OnFailure::Quarantine => Some(Verdict::Quarantine {
                reason: format!("{} could not look at the message", self.name),
            }),
        }
    }
}

const REFUSED: StatusCode = StatusCode::new(5, 7, 1);
const NOT_NOW: StatusCode = StatusCode::new(4, 7, 1);
const TOO_LARGE: StatusCode = StatusCode::new(5, 3, 4);
const CANNOT_LOOK: StatusCode = StatusCode::new(4, 3, 0);

impl Subject<'_> {
    /// The message's own header fields, unfolded and with encoded words (RFC 2047) decoded.
    fn headers(&self, content: &[u8]) -> &[(String, String)] {
        self.headers.get_or_init(|| {
            let section = content.get(..header_length(content)).unwrap_or_default();
            // With an entry of its own, the parser's choice by name gives way to text for all.
            let parser =
                MessageParser::new().header_text(HeaderName::Subject).default_header_text();
            let parsed = parser.parse_headers(section);
            let headers = parsed.as_ref().map(|message| message.headers()).unwrap_or_default();
            let text = |value: &HeaderValue<'_>| match value {
                HeaderValue::Text(text) => text.clone().into_owned(),
                _ => String::new(),
            };
            headers
                .iter()
                .map(|header| (header.name.as_str().to_owned(), text(&header.value)))
                .collect()
        })
    }

    fn parts(&self, content: &[u8]) -> Result<&Parts, TooComplex> {
        self.parts.get_or_init(|| mime::parts(content)).as_ref().map_err(|error| *error)
    }
}

#[cfg(test)]
mod tests;
