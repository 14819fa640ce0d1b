//! `[router]` as an operator writes it.

use std::collections::HashMap;

use config::{Notice, Problem, Span};
use farm::Workers;
use lookup::{Kind, Refreshed, Source, TableError};
use mail::Address;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{ERROR_CHANNEL, LOCAL_CHANNEL, normalise_host};

/// The section `[router]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How many workers, and what each takes on.
    pub workers: Workers,
    /// Alias tables, asked in this order: `"file:/etc/grange/aliases"`, or a map. Default: none.
    pub aliases: Vec<Source>,
    /// Routes; the first that matches a recipient holds. Default: none, so that nothing can be delivered.
    pub routes: Vec<RouteSetting>,
    /// Characters that begin the detail of a local part, as in `anna+lists`; empty for none. Default: `"+"`.
    pub recipient_delimiter: String,
    /// Who reads mail for `postmaster` where no alias says so and no mailbox of that name is listed. Default: the mailbox
    /// `postmaster` of the first domain with channel `local`.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "address")]
    pub postmaster: Option<Address>,
    /// How many aliases may lead from one to the next. Default: 10; at most 50.
    pub alias_depth_max: usize,
    /// How many addresses the aliases of one recipient may lead to. Default: 1000.
    pub alias_recipients_max: usize,
    /// How many recipients a message may have once its aliases are expanded; an alias that would lead further fails.
    /// Default: 100000.
    pub message_recipients_max: usize,
    /// How long the scheduler may take to acknowledge a routed message. Default: 5s.
    pub enqueue_deadline: Span,
}

fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Address>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    Address::parse(&text).map(Some).map_err(|error| {
        serde::de::Error::custom(format!(
            "{text:?} is not an address ({error}); an address such as \"anna@example.test\""
        ))
    })
}

/// One entry of `routes`. It has either `domain` or `address`, and either `channel` or `reject`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    default,
    deny_unknown_fields,
    expecting = "a table, as in { domain = \"example.test\", channel = \"local\" }"
)]
pub struct RouteSetting {
    /// `example.test`; `*.example.test` for every domain below it, but not itself; `*` for every domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// One address, with any detail.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The channel that delivers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
    /// The next hop, `mail.example.org` or `[192.0.2.1]:25`: this host itself, without a look-up of MX records. Default: the
    /// recipient's domain, by MX.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Who exists: local parts or whole addresses, as a table or a list; others are refused. Default: everyone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub users: Option<Source>,
    /// Who may send there: `any`, or `clients` that may relay. Default: `any` for channel `local`, else `clients`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<From>,
    /// Refuses these recipients with this text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reject: Option<String>,
}

/// Who may send to the recipients of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// Everyone.
    Any,
    /// Clients in `relay_from`, and those that have authenticated.
    Clients,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: Workers::default(),
            aliases: Vec::new(),
            routes: Vec::new(),
            recipient_delimiter: "+".to_owned(),
            postmaster: None,
            alias_depth_max: 10,
            alias_recipients_max: 1000,
            message_recipients_max: job::MESSAGE_RECIPIENTS_MAX,
            enqueue_deadline: Span::seconds(5),
        }
    }
}

/// What may begin a detail.
const DELIMITERS: &str = "+-=_#.";
/// The longest text of `reject`, in bytes: it must fit a reply line with its codes.
const REJECT_BYTES_MAX: usize = 400;

impl Settings {
    /// Checks for contradictions, given the names of the configured channels. Reads no table: see [`crate::Rules::load`].
    pub fn check(&self, channels: &[String]) -> Result<(), Problem> {
        self.workers.check("router.workers")?;
        for (name, value, max) in [
            ("alias_depth_max", self.alias_depth_max, 50),
            ("alias_recipients_max", self.alias_recipients_max, 1_000_000),
            ("message_recipients_max", self.message_recipients_max, job::MESSAGE_RECIPIENTS_MAX),
        ] {
            if value == 0 || value > max {
                let right = format!("a number from 1 to {max}");
                return Err(Problem::new(format!("router.{name}"), value.to_string(), right));
            }
        }
        if let Some(wrong) = self.recipient_delimiter.chars().find(|c| !DELIMITERS.contains(*c)) {
            let wrong = format!("{wrong:?} cannot begin a detail");
            let right = format!("characters of {DELIMITERS}, or nothing");
            return Err(Problem::new("router.recipient_delimiter", wrong, right));
        }
        if self.enqueue_deadline.0.is_zero() {
            return Err(Problem::new(
                "router.enqueue_deadline",
                "no time at all",
                "such as \"5s\"",
            ));
        }
        for (index, source) in self.aliases.iter().enumerate() {
            check_source(source, lookup::Kind::Aliases, &format!("router.aliases[{index}]"))?;
        }
        for (index, route) in self.routes.iter().enumerate() {
            route.check(&format!("router.routes[{index}]"), channels)?;
        }
        Ok(())
    }

    /// What is legal and yet worth saying at start and in `grange check`.
    pub fn notices(&self) -> Vec<Notice> {
        let mut notices = Vec::new();
        let mut seen: HashMap<String, usize> = HashMap::new();
        let mut everything = None;
        for (index, route) in self.routes.iter().enumerate() {
            let what = route.subject();
            let mut notice =
                |text: String| notices.push(Notice::new(format!("router.routes[{index}]"), text));
            if let Some(first) = everything {
                notice(format!("{what} is never reached: routes[{first}] takes every domain"));
                continue;
            }
            if let Some(first) = seen.insert(what.to_ascii_lowercase(), index) {
                notice(format!("{what} is never reached: routes[{first}] is for the same"));
                continue;
            }
            if route.domain.as_deref() == Some("*") {
                everything = Some(index);
            }
            if route.is_local() && route.users.is_none() && route.address.is_none() {
                notice(format!("every address of {what} is taken; name them in users"));
            } else if route.from() == From::Any && what.starts_with("*.") {
                notice(format!("anyone may send to every domain of {what}"));
            }
        }
        if self.routes.is_empty() {
            notices.push(Notice::new("router.routes", "is empty: no mail can be delivered"));
        } else if self.home().is_none() && self.postmaster.is_none() {
            let what = "is not set and no domain is local: mail for postmaster goes by the routes of this system's name";
            notices.push(Notice::new("router.postmaster", what));
        }
        notices
    }

    /// Tables that cannot be read or understood now: until they can, recipients that need them are put off.
    pub fn unreadable_tables(&self) -> Vec<Notice> {
        let told = |(key, error): (String, TableError)| {
            Notice::new(key, format!("{error}; mail that needs it is put off"))
        };
        self.failing_tables().map(told).collect()
    }

    /// Complains of a table that cannot be understood. One that is not there yet is no mistake.
    pub fn check_tables(&self) -> Result<(), Problem> {
        let mut failing = self.failing_tables();
        match failing.find(|(_, error)| matches!(error, TableError::Malformed { .. })) {
            Some((key, error)) => {
                Err(Problem::new(key, error.to_string(), "a table as docs/configuration.md says"))
            }
            None => Ok(()),
        }
    }

    fn failing_tables(&self) -> impl Iterator<Item = (String, TableError)> + '_ {
        let aliases = self.aliases.iter().enumerate();
        let aliases = aliases
            .map(|(index, source)| (format!("router.aliases[{index}]"), source, Kind::Aliases));
        let users = self.routes.iter().enumerate().filter_map(|(index, route)| {
            Some((format!("router.routes[{index}].users"), route.users.as_ref()?, Kind::Keys))
        });
        aliases.chain(users).filter_map(|(key, source, kind)| {
            match lookup::table(source, kind).ok()?.refresh() {
                Refreshed::Failed(error) => Some((key, error)),
                Refreshed::Unchanged | Refreshed::Read { .. } => None,
            }
        })
    }

    /// The first domain that is ours.
    pub(crate) fn home(&self) -> Option<&str> {
        let local = self.routes.iter().filter(|route| route.is_local());
        local.filter_map(|route| route.domain.as_deref()).find(|domain| !domain.starts_with('*'))
    }
}

impl RouteSetting {
    /// What it is for: a domain, a pattern, or an address.
    pub(crate) fn subject(&self) -> &str {
        self.domain.as_deref().or(self.address.as_deref()).unwrap_or_default()
    }

    /// Whether it delivers to the channel `local`.
    pub(crate) fn is_local(&self) -> bool {
        self.channel.as_deref() == Some(LOCAL_CHANNEL)
    }

    /// Who may send there.
    pub(crate) fn from(&self) -> From {
        self.from.unwrap_or(if self.is_local() { From::Any } else { From::Clients })
    }

    fn check(&self, key: &str, channels: &[String]) -> Result<(), Problem> {
        let problem = |name: &str, wrong: &str, right: &str| {
            let dot = if name.is_empty() { "" } else { "." };
            Err(Problem::new(format!("{key}{dot}{name}"), wrong, right))
        };
        match (&self.domain, &self.address) {
            (Some(_), Some(_)) => {
                return problem(
                    "address",
                    "a route has a domain or an address",
                    "only one of them",
                );
            }
            (None, None) => {
                return problem(
                    "",
                    "matches nothing",
                    "domain = \"example.test\" or domain = \"*\"",
                );
            }
            (Some(domain), None) if !is_domain_pattern(domain) => {
                let wrong = format!("{domain:?} is not a domain");
                let right = "\"example.test\", \"*.example.test\" for those below it, or \"*\"";
                return problem("domain", &wrong, right);
            }
            (None, Some(address)) if Address::parse(address).is_err() => {
                let wrong = format!("{address:?} is not an address");
                return problem("address", &wrong, "such as \"anna@example.test\"");
            }
            _ => {}
        }
        if self.domain.as_deref() == Some("*") && self.from() == From::Any && self.reject.is_none()
        {
            let wrong = "anyone could send to anywhere: an open relay";
            return problem("from", wrong, "\"clients\", or a route for each domain that is yours");
        }
        self.check_place(key, channels)
    }

    fn check_place(&self, key: &str, channels: &[String]) -> Result<(), Problem> {
        let problem = |name: &str, wrong: String, right: &str| {
            Err(Problem::new(format!("{key}.{name}"), wrong, right))
        };
        match (&self.channel, &self.reject) {
            (Some(_), Some(_)) => {
                let wrong = "a route delivers or rejects".to_owned();
                return problem("reject", wrong, "channel or reject, not both");
            }
            (None, None) => {
                let wrong = "the route leads nowhere".to_owned();
                return problem("channel", wrong, "channel = \"smtp\", or reject = \"a text\"");
            }
            (None, Some(text)) if !is_reply_text(text) => {
                let wrong = "not a text for a reply".to_owned();
                return problem("reject", wrong, "one line of up to 400 ASCII characters");
            }
            (Some(channel), None) if channel == ERROR_CHANNEL => {
                let wrong = "channel error writes delivery reports and takes no mail".to_owned();
                return problem("channel", wrong, "reject = \"a text\" to refuse mail");
            }
            (Some(channel), None) if !channels.contains(channel) => {
                let wrong = format!("there is no channel {channel:?}");
                let known: Vec<&str> = channels
                    .iter()
                    .map(String::as_str)
                    .filter(|name| *name != ERROR_CHANNEL)
                    .collect();
                let right =
                    format!("one of {}, or a section [channel.{channel}]", known.join(", "));
                return problem("channel", wrong, &right);
            }
            _ => {}
        }
        if let Some(host) = &self.host {
            if self.is_local() || self.channel.is_none() {
                return problem(
                    "host",
                    "there is no host to go to".to_owned(),
                    "a route without host",
                );
            }
            if let Err(error) = normalise_host(host) {
                let right = "\"mail.example.org\", \"mail.example.org:587\" or \"[192.0.2.1]:25\"";
                return problem("host", error.to_string(), right);
            }
        }
        match &self.users {
            Some(source) => check_source(source, lookup::Kind::Keys, &format!("{key}.users")),
            None => Ok(()),
        }
    }
}

fn check_source(source: &Source, kind: lookup::Kind, key: &str) -> Result<(), Problem> {
    match lookup::table(source, kind) {
        Ok(_) => Ok(()),
        Err(error) => {
            let right = match error {
                lookup::TableError::Malformed { .. } => "names and addresses, separated by commas",
                _ => "\"file:\" and an absolute path, or a map in the configuration",
            };
            Err(Problem::new(key, error.to_string(), right))
        }
    }
}

fn is_domain_pattern(pattern: &str) -> bool {
    let domain = match pattern {
        "*" => return true,
        _ => pattern.strip_prefix("*.").unwrap_or(pattern),
    };
    Address::parse(&format!("a@{domain}")).is_ok_and(|address| address.domain() == domain)
}

fn is_reply_text(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= REJECT_BYTES_MAX
        && text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests;
