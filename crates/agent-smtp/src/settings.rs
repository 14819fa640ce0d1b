//! The section `[channel.NAME]` with `agent = "smtp"`.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use config::{Problem, Span};
use dns::IpVersion;
use farm::Workers;
use serde::{Deserialize, Serialize};
use smtp::client::Phase;

/// How a channel delivers by SMTP or LMTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// `"smtp"` or `"lmtp"`. Default: `"smtp"`.
    pub protocol: Protocol,
    /// The port where a route's host names none. Default: 25, with LMTP 24.
    pub port: Option<u16>,
    /// The name in EHLO, HELO and LHLO. Default: the hostname.
    pub helo: Option<String>,
    /// Which addresses of a host are tried, and which first: `"prefer_ipv4"`, `"prefer_ipv6"`, `"ipv4"`, `"ipv6"`. Default: `"prefer_ipv4"`.
    pub ip_version: IpVersion,
    /// The address that IPv4 connections come from. Default: the system chooses.
    pub bind_ipv4: Option<Ipv4Addr>,
    /// The address that IPv6 connections come from. Default: the system chooses.
    pub bind_ipv6: Option<Ipv6Addr>,
    /// The most recipients in one transaction. Default: 100.
    pub recipients_max: usize,
    /// How long a connection waits for its lane's next message. Default: `"5s"`; `"0s"` closes each at once.
    pub reuse_idle: Span,
    /// How many messages a connection carries at most. Default: 1000.
    pub reuse_deliveries_max: u32,
    /// How old a connection grows at most. Default: `"5m"`.
    pub reuse_age_max: Span,
    /// Time limits, phase by phase.
    pub timeouts: Timeouts,
    /// The farm's workers.
    pub workers: Workers,
}

/// Which protocol a channel speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// RFC 5321.
    #[default]
    Smtp,
    /// RFC 2033.
    Lmtp,
}

/// How long each phase of a session may take (RFC 5321 section 4.5.3.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, expecting = "a table, as in { connect = \"30s\" }")]
pub struct Timeouts {
    /// For a TCP connection to one address. Default: `"30s"`.
    pub connect: Span,
    /// For the greeting. Default: `"5m"`.
    pub greeting: Span,
    /// For the reply to EHLO, HELO or LHLO. Default: `"5m"`.
    pub hello: Span,
    /// For the reply to RSET. Default: `"20s"`.
    pub reset: Span,
    /// For the reply to MAIL. Default: `"5m"`.
    pub mail: Span,
    /// For the reply to each RCPT. Default: `"5m"`.
    pub rcpt: Span,
    /// For the reply to DATA. Default: `"2m"`.
    pub data: Span,
    /// For each block of the message to be taken. Default: `"3m"`.
    pub body: Span,
    /// For the reply to the final dot, at most `"10m"`. Default: `"10m"`.
    pub dot: Span,
    /// For the reply to QUIT. Default: `"5s"`.
    pub quit: Span,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            protocol: Protocol::Smtp,
            port: None,
            helo: None,
            ip_version: IpVersion::default(),
            bind_ipv4: None,
            bind_ipv6: None,
            recipients_max: 100,
            reuse_idle: Span::seconds(5),
            reuse_deliveries_max: 1000,
            reuse_age_max: Span::seconds(300),
            timeouts: Timeouts::default(),
            workers: Workers::default(),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Span::seconds(30),
            greeting: Span::seconds(300),
            hello: Span::seconds(300),
            reset: Span::seconds(20),
            mail: Span::seconds(300),
            rcpt: Span::seconds(300),
            data: Span::seconds(120),
            body: Span::seconds(180),
            dot: Span::seconds(600),
            quit: Span::seconds(5),
        }
    }
}

/// The longest that any phase may be given.
const TIMEOUT_MAX: Duration = Duration::from_secs(86_400);
/// The longest that replies to the dot are waited for once the dot gate has closed: the ten minutes of RFC 5321 section
/// 4.5.3.2.6. The scheduler sends an unanswered job again eleven minutes after its deadline, and so must have its answer.
pub(crate) const DOT_WAIT_MAX: Duration = Duration::from_secs(600);
/// The most recipients a transaction may be given: those of one job.
const RECIPIENTS_MAX: usize = job::PART_RECIPIENTS_MAX;

impl Settings {
    /// Finds what the types cannot say; `channel` is the channel's name.
    pub fn check(&self, channel: &str) -> Result<(), Problem> {
        let section = format!("channel.{channel}");
        let problem = |key: &str, wrong: String, right: &str| {
            Err(Problem::new(format!("{section}.{key}"), wrong, right))
        };
        if self.port == Some(0) {
            return problem(
                "port",
                "port 0 cannot be connected to".into(),
                "a number from 1 to 65535",
            );
        }
        if let Some(helo) = self.helo.as_ref().filter(|helo| !is_helo(helo)) {
            let wrong = format!("{helo:?} is not a host name");
            return problem("helo", wrong, "a fully qualified host name, or an address literal");
        }
        if !(1..=RECIPIENTS_MAX).contains(&self.recipients_max) {
            let wrong = self.recipients_max.to_string();
            return problem("recipients_max", wrong, "a number from 1 to 500");
        }
        if self.reuse_deliveries_max == 0 {
            return problem(
                "reuse_deliveries_max",
                "0".into(),
                "1 or more; 1 never reuses a connection",
            );
        }
        for (name, span) in self.timeouts.named() {
            let (max, right) = match name {
                "dot" => (DOT_WAIT_MAX, "a time up to \"10m\" that is not zero"),
                _ => (TIMEOUT_MAX, "a time up to \"1d\" that is not zero"),
            };
            if span.0.is_zero() || span.0 > max {
                let wrong = format!("{span} is no sensible wait");
                return problem(&format!("timeouts.{name}"), wrong, right);
            }
        }
        self.workers.check(&format!("{section}.workers"))
    }

    /// The port where a route's host names none.
    pub(crate) fn port(&self) -> u16 {
        let usual = match self.protocol {
            Protocol::Smtp => 25,
            Protocol::Lmtp => 24,
        };
        self.port.unwrap_or(usual)
    }
}

impl Timeouts {
    /// The time limit of a phase. What waits for nothing has that of QUIT.
    pub(crate) fn of(&self, phase: Phase) -> Duration {
        let span = match phase {
            Phase::Connect => self.connect,
            Phase::Greeting => self.greeting,
            Phase::Hello => self.hello,
            Phase::Reset => self.reset,
            Phase::Mail => self.mail,
            Phase::Rcpt => self.rcpt,
            Phase::Data => self.data,
            Phase::Body => self.body,
            Phase::Dot => self.dot,
            Phase::Quit | Phase::Idle => self.quit,
        };
        span.0
    }

    fn named(&self) -> [(&'static str, Span); 10] {
        [
            ("connect", self.connect),
            ("greeting", self.greeting),
            ("hello", self.hello),
            ("reset", self.reset),
            ("mail", self.mail),
            ("rcpt", self.rcpt),
            ("data", self.data),
            ("body", self.body),
            ("dot", self.dot),
            ("quit", self.quit),
        ]
    }
}

/// A name as EHLO may give it: letters, digits, dots and hyphens, or an address literal.
fn is_helo(text: &str) -> bool {
    let inside = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    !inside.is_empty()
        && text.len() <= 255
        && inside.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:_".contains(&byte))
}
