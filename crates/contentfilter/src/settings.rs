//! `[contentfilter]` as an operator writes it.

use std::fmt;
use std::time::Duration;

use config::{ByteSize, Problem, Span};
use farm::Workers;
use job::inspect::Steps;
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};

use crate::authentication::AuthenticationSetting;
use crate::clients::Clients;
use crate::endpoint::Endpoint;
use crate::kinds::Kind;
use crate::signing;
use crate::signing::{SealingKey, SigningKey};

/// The section `[contentfilter]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many workers, and what each takes on.
    pub workers: Workers,
    /// Filters, asked in this order; the first that decides holds. Default: none, and the hop is left out.
    pub filters: Vec<FilterSetting>,
    /// Rules look at headers, bodies and attachments in so many first bytes of a message. Default: 10MiB.
    pub scan_bytes_max: ByteSize,
    /// How much of messages a worker holds in memory at once; others wait for their turn, and a larger message comes alone.
    /// Default: 128MiB.
    pub memory_max: ByteSize,
    /// How long a filter is left out that failed five times in a row; then one session tries it. Default: 30s.
    pub left_out: Span,
}

/// One entry of `filters`. Its kind is told by the key that it has: `milter`, `rspamd`, `clamd`, `authentication`, `dkim_sign` or
/// `arc_seal`; all others are rules. A rule acts on a message on which everything holds that it says. Regular expressions do not care about case; `(?-i)` makes one that does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a table, as in { header = \"X-Spam\", action = \"quarantine\" }"
)]
pub struct FilterSetting {
    /// Its name, for logs and as the reason of a quarantine. Default: its kind, as in `clamd`, `clamd-2`, `rule-3`, the third of the rules.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// A header field of that name is there; with `matches`, one whose decoded value matches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// A regular expression for `header`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub matches: Option<String>,
    /// A regular expression that matches in a decoded text part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// A regular expression that matches an attachment's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attachment: Option<String>,
    /// A regular expression that matches the media type of a part, such as `^application/x-msdownload$`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attachment_type: Option<String>,
    /// A regular expression that matches recipients; what the rule does is then for those alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recipient: Option<String>,
    /// The message is larger than this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_over: Option<ByteSize>,
    /// What to do: `"accept"` (no later filter is asked), `"reject"`, `"tempfail"`, `"quarantine"` (taken and held, unless a later filter refuses it), `"discard"`
    /// (taken and forgotten), or `{ add_header = { name = "X-Size", value = "large" } }` (later filters are asked too).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<Action>,
    /// The text of a refusal, or the reason of a quarantine. Default: a general one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What to do when the filter cannot be asked: it cannot be reached, takes too long or makes no sense, or the message cannot be
    /// read or is too complex:
    /// `tempfail` (refuse it for now), `accept` (as if the filter were not there) or `quarantine` (take and hold it). Default:
    /// `tempfail`.
    pub on_failure: OnFailure,
    /// How long the filter may take.
    #[serde(skip_serializing_if = "Timeouts::is_default")]
    pub timeouts: Timeouts,
    /// A milter to ask: `"inet:HOST:PORT"` or `"unix:/path"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub milter: Option<Endpoint>,
    /// An rspamd to ask, at the address of its milter (`worker-proxy`): `"inet:127.0.0.1:11332"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rspamd: Option<Endpoint>,
    /// The steps before the message at which a milter is asked as they happen, so that it can refuse there: `"connect"`, `"helo"`, `"mail"`,
    /// `"recipient"`. Of the others it hears with the message. Default: all for `milter`, none for `rspamd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<Vec<EarlyStep>>,
    /// Whether a connection to a milter is used for one session after another, as its protocol allows and hardly any MTA does: some milters
    /// lose what they agreed on, or mix up replies. Default: no.
    #[serde(skip_serializing_if = "is_false")]
    pub reuse: bool,
    /// A ClamAV daemon to ask: `"unix:/run/clamav/clamd.ctl"` or `"inet:HOST:PORT"`. `action` says what is done with a virus; default:
    /// `quarantine`. Its `StreamMaxLength` must be as large as `message_bytes_max` of `[smtpserver]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clamd: Option<Endpoint>,
    /// Looks at SPF, DKIM, DMARC, ARC and the client's name, and says in Authentication-Results what it found.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication: Option<AuthenticationSetting>,
    /// Signs with DKIM, by the keys that are most closely meant for the author; of one domain several keys may be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dkim_sign: Option<Vec<SigningKey>>,
    /// Seals with ARC, by this key. An `authentication` must stand before it, whose findings are sealed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arc_seal: Option<SealingKey>,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// How long a filter may take; all of them together have `inspect_timeout` of `[smtpserver]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Timeouts {
    /// To connect to it. Default: 5 seconds.
    pub connect: Span,
    /// For each step before the message, and each recipient. Default: 10 seconds.
    pub command: Span,
    /// For the message. Default: 25 seconds.
    pub message: Span,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self { connect: Span::seconds(5), command: Span::seconds(10), message: Span::seconds(25) }
    }
}

impl Timeouts {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn check(&self, key: &str) -> Result<(), Problem> {
        for (name, span) in
            [("connect", self.connect), ("command", self.command), ("message", self.message)]
        {
            if !(TIMEOUT_LEAST..=TIMEOUT_MOST).contains(&span.0) {
                let right = "from 100ms to 10m";
                return Err(Problem::new(format!("{key}.{name}"), span.to_string(), right));
            }
        }
        Ok(())
    }
}

/// What a filter does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Takes the message; no later filter is asked.
    Accept,
    /// Refuses it for good.
    Reject,
    /// Refuses it for now.
    Tempfail,
    /// Takes it and holds it.
    Quarantine,
    /// Takes it and forgets it.
    Discard,
    /// Adds a header line at the top, `{ add_header = { name = "X-Size", value = "large" } }`; later filters are asked.
    AddHeader(HeaderLine),
}

/// A header line to add.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeaderLine {
    /// The field's name.
    pub name: String,
    /// Its value, one line.
    pub value: String,
}

/// A step before the message at which a filter may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EarlyStep {
    /// A client connected.
    Connect,
    /// HELO or EHLO.
    Helo,
    /// MAIL.
    Mail,
    /// RCPT.
    Recipient,
}

/// What to do when a filter cannot be asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Refuse the message for now.
    #[default]
    Tempfail,
    /// As if the filter had not been there.
    Accept,
    /// Take the message and hold it.
    Quarantine,
}

/// The most filters.
const FILTERS_MAX: usize = 1000;
/// The least of [`Timeouts`].
const TIMEOUT_LEAST: Duration = Duration::from_millis(100);
/// The most of them.
const TIMEOUT_MOST: Duration = Duration::from_secs(600);
/// The least of [`Settings::left_out`].
const LEFT_OUT_LEAST: Duration = Duration::from_secs(1);
/// The most of it.
const LEFT_OUT_MOST: Duration = Duration::from_secs(3600);
/// The longest regular expression, in bytes.
const PATTERN_BYTES_MAX: usize = 4096;
/// The largest program that a regular expression may become, in bytes.
const PROGRAM_BYTES_MAX: usize = 1 << 20;
/// The longest header value that is added, and the longest text of a reply, in bytes.
const TEXT_BYTES_MAX: usize = 400;

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: Workers::default(),
            filters: Vec::new(),
            scan_bytes_max: ByteSize(10 << 20),
            memory_max: ByteSize(128 << 20),
            left_out: Span::seconds(30),
        }
    }
}

impl fmt::Display for OnFailure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Tempfail => "tempfail",
            Self::Accept => "accept",
            Self::Quarantine => "quarantine",
        })
    }
}

impl Default for FilterSetting {
    fn default() -> Self {
        Self {
            name: None,
            header: None,
            matches: None,
            body: None,
            attachment: None,
            attachment_type: None,
            recipient: None,
            size_over: None,
            action: None,
            text: None,
            on_failure: OnFailure::Tempfail,
            timeouts: Timeouts::default(),
            milter: None,
            rspamd: None,
            steps: None,
            reuse: false,
            clamd: None,
            authentication: None,
            dkim_sign: None,
            arc_seal: None,
        }
    }
}

impl Settings {
    /// Whether nothing is filtered, so that the hop can be left out.
    pub fn is_empty(&self) -> bool {
        self.filters.is_empty()
    }

    /// What happens to a message that no filter can be asked about: of all that the filters say, the strictest.
    pub fn on_failure(&self) -> OnFailure {
        let any = |rule| self.filters.iter().any(|filter| filter.on_failure == rule);
        if any(OnFailure::Tempfail) {
            OnFailure::Tempfail
        } else if any(OnFailure::Quarantine) {
            OnFailure::Quarantine
        } else {
            OnFailure::Accept
        }
    }

    /// The steps before the message that a filter wants to hear of as they happen.
    pub fn steps(&self) -> Steps {
        self.filters.iter().fold(Steps::NONE, |steps, filter| steps.and(filter.steps()))
    }

    /// Checks for contradictions.
    pub fn check(&self) -> Result<(), Problem> {
        self.workers.check("contentfilter.workers")?;
        if self.filters.len() > FILTERS_MAX {
            let wrong = format!("{} filters", self.filters.len());
            return Err(Problem::new(
                "contentfilter.filters",
                wrong,
                format!("up to {FILTERS_MAX}"),
            ));
        }
        if !(1024..=1 << 30).contains(&self.scan_bytes_max.0) {
            let wrong = self.scan_bytes_max.to_string();
            return Err(Problem::new("contentfilter.scan_bytes_max", wrong, "from 1KiB to 1GiB"));
        }
        if !(1 << 20..=1 << 40).contains(&self.memory_max.0) {
            let wrong = self.memory_max.to_string();
            return Err(Problem::new("contentfilter.memory_max", wrong, "from 1MiB to 1TiB"));
        }
        if !(LEFT_OUT_LEAST..=LEFT_OUT_MOST).contains(&self.left_out.0) {
            let wrong = self.left_out.to_string();
            return Err(Problem::new("contentfilter.left_out", wrong, "from 1s to 1h"));
        }
        let mut looked_at = None;
        for (filter, key) in self.filters.iter().zip(keys()) {
            filter.check(&key)?;
            if let Some(own) = &filter.authentication {
                looked_at = Some(own.clients);
            }
            if let Some(seal) = &filter.arc_seal
                && !matches!(
                    (looked_at, seal.clients),
                    (Some(Clients::All), _) | (Some(_), Clients::Strangers)
                )
            {
                let wrong = "of what it seals nothing is known, so anyone could say it in our name";
                let right = "authentication before it, for the same clients";
                return Err(Problem::new(format!("{key}.arc_seal"), wrong, right));
            }
        }
        Ok(())
    }

    /// Reads the files that filters name: keys. For who checks a configuration; workers find out when they start. `reader` is the user
    /// and the group that workers run as, if that is somebody else.
    pub fn check_files(&self, reader: Option<(u32, u32)>) -> Result<(), Problem> {
        let mut filters = self.filters.iter().zip(keys());
        filters.try_for_each(|(filter, key)| signing::check_files(filter, &key, reader))
    }
}

/// Where each entry stands.
fn keys() -> impl Iterator<Item = String> {
    (0..).map(|index| format!("contentfilter.filters[{index}]"))
}

impl FilterSetting {
    /// Whether it looks at more than the size.
    pub(crate) fn needs_content(&self) -> bool {
        self.header.is_some() || self.needs_parts()
    }

    /// Whether it looks at MIME parts.
    pub(crate) fn needs_parts(&self) -> bool {
        self.body.is_some() || self.attachment.is_some() || self.attachment_type.is_some()
    }

    /// The keys of a rule that it has.
    pub(crate) fn rule_keys(&self) -> impl Iterator<Item = &'static str> {
        let keys = [
            ("header", self.header.is_some()),
            ("matches", self.matches.is_some()),
            ("body", self.body.is_some()),
            ("attachment", self.attachment.is_some()),
            ("attachment_type", self.attachment_type.is_some()),
            ("recipient", self.recipient.is_some()),
            ("size_over", self.size_over.is_some()),
        ];
        keys.into_iter().filter_map(|(key, is_there)| is_there.then_some(key))
    }

    fn steps(&self) -> Steps {
        Kind::of(self, "").map_or(Steps::NONE, |kind| kind.steps(self))
    }

    fn check(&self, key: &str) -> Result<(), Problem> {
        let problem = |name: &str, wrong: &str, right: &str| {
            Err(Problem::new(format!("{key}.{name}"), wrong, right))
        };
        Kind::of(self, key)?.check(self, key)?;
        self.timeouts.check(&format!("{key}.timeouts"))?;
        match &self.action {
            Some(Action::AddHeader(line)) if !is_field_name(&line.name) => {
                let right = "letters, digits and hyphens, such as \"X-Spam\"";
                return problem("action.add_header.name", "not the name of a header field", right);
            }
            Some(Action::AddHeader(line)) if !is_one_line(&line.value) => {
                let wrong = "not a value of a header field";
                return problem(
                    "action.add_header.value",
                    wrong,
                    "one line of up to 400 bytes without control characters",
                );
            }
            _ => {}
        }
        for (name, text) in [("text", &self.text), ("name", &self.name)] {
            if text
                .as_ref()
                .is_some_and(|text| !is_one_line(text) || !text.is_ascii() || text.is_empty())
            {
                return problem(
                    name,
                    "not a text for a reply",
                    "one line of up to 400 ASCII characters",
                );
            }
        }
        Ok(())
    }
}

/// Compiles a regular expression within limits; the error says in one line what is wrong.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(format!("longer than {PATTERN_BYTES_MAX} bytes"));
    }
    let mut builder = RegexBuilder::new(pattern);
    builder.case_insensitive(true).size_limit(PROGRAM_BYTES_MAX);
    builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "the regular expression becomes too large".to_owned(),
        error => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            last.trim_start_matches("error: ").to_owned()
        }
    })
}

/// RFC 5322 section 3.6.8, and short enough for a line.
pub(crate) fn is_field_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 70
        && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}

fn is_one_line(text: &str) -> bool {
    text.len() <= TEXT_BYTES_MAX && !text.contains(char::is_control)
}

#[cfg(test)]
mod tests;
