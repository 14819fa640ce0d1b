//! The section `[smtpserver]`.

use std::net::SocketAddr;

use config::{ByteSize, Problem, Span};
use farm::Workers;
use serde::{Deserialize, Deserializer, Serialize};

use crate::network::Network;

/// The least that [`Settings::message_bytes_max`] may be (RFC 5321 section 4.5.3.1.7).
const MESSAGE_BYTES_MAX_LEAST: u64 = 64 << 10;
/// The least that [`Settings::line_bytes_max`] may be (RFC 5322 section 2.1.1).
const LINE_BYTES_MAX_LEAST: usize = 998;
/// The most that [`Settings::recipients_max`] may be.
const RECIPIENTS_MAX_MOST: usize = 100_000;

/// The settings of the stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where clients connect, and for what service. Default: `0.0.0.0:25`, `mx`.
    pub listen: Vec<Listen>,
    /// Clients that may relay to anywhere. Default: this host, `127.0.0.0/8` and `::1/128`.
    pub relay_from: Vec<Network>,
    /// What the greeting says behind the host's name. Default: `ESMTP Grange`.
    pub banner: String,
    /// The largest message, in bytes. Default: 50 MiB.
    pub message_bytes_max: ByteSize,
    /// The most recipients of a message; those beyond it are asked to come in another transaction. With filters, an envelope has at most
    /// 768 KiB, some thousands of recipients. Default: 1000.
    pub recipients_max: usize,
    /// The longest line of a message, in bytes without its end. Default: 1 MiB: mail with lines over the 998 bytes of RFC 5322
    /// is common, and refusing it helps nobody.
    pub line_bytes_max: usize,
    /// A message with more Received fields than this goes in circles and is refused. Default: 50.
    pub hops_max: u32,
    /// Refused commands after which a session is closed; a message accepted sets the count back. Default: 20.
    pub errors_max: u32,
    /// Sessions in all workers together. Default: 20000.
    pub sessions_max: u32,
    /// Sessions of one client (an IPv4 address, or an IPv6 network of 64 bits) in all workers together; clients in
    /// `relay_from` are free of it. Default: 50.
    pub sessions_per_client_max: u32,
    /// How long a client may take for a command, from our reply to the command's end. Default: 5 minutes.
    pub command_timeout: Span,
    /// How long a client may pause within a message. Default: 3 minutes.
    pub data_timeout: Span,
    /// How long a client may take for a whole message after DATA. Default: 1 hour.
    pub message_timeout: Span,
    /// How old a session may become; it ends between two messages. Default: 1 day.
    pub session_timeout: Span,
    /// What is done with a CR or an LF that stands alone: `reject` (521, and the connection is closed) or `normalise`. Default:
    /// `normalise` for clients in `relay_from`, `reject` for all others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bare_newline: Option<BareNewline>,
    /// What is done with clients that do not wait for a reply where they must, or talk before the greeting: `strict` (554,
    /// and the connection is closed) or `lenient`. Default: `strict`.
    pub pipelining: Pipelining,
    /// What is done when a filter rejects some recipients of a message and not others: `quarantine` (250, and those are held) or
    /// `reject` (the message is refused for all). Default: `quarantine`.
    pub mixed: Mixed,
    /// How long `router` may take to judge recipients. Default: 5 seconds.
    pub verify_timeout: Span,
    /// How long `contentfilter` may take for a message, or for a step before it. Default: 30 seconds.
    pub inspect_timeout: Span,
    /// How long `router` may take to hand a message on, before it is left to `requeue`. Default: 5 seconds.
    pub route_timeout: Span,
    /// How many workers there are, and how many sessions each holds (`concurrency`, default 10000).
    #[serde(deserialize_with = "workers_over_default")]
    pub workers: Workers,
}

/// One entry of `listen`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table, as in { address = \"127.0.0.1:2525\", service = \"mx\" }"
)]
pub struct Listen {
    /// The address and port: `127.0.0.1:2525`, `[::]:25`.
    pub address: SocketAddr,
    /// The service. Default: `mx`.
    #[serde(default)]
    pub service: Service,
}

/// What a listener is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", rename_all = "lowercase")]
pub enum Service {
    /// Mail from other servers, and from clients in `relay_from`.
    #[default]
    Mx,
    /// Mail from users, who authenticate (RFC 6409). Not offered yet.
    Submission,
    /// The same over TLS from the start (RFC 8314). Not offered yet.
    Submissions,
    /// LMTP (RFC 2033). Not offered yet.
    Lmtp,
}

impl Service {
    /// The name as it is written in the configuration and in accept records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mx => "mx",
            Self::Submission => "submission",
            Self::Submissions => "submissions",
            Self::Lmtp => "lmtp",
        }
    }
}

/// There is no service of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no service {0:?}; \"mx\"")]
pub struct ServiceError(String);

impl TryFrom<String> for Service {
    type Error = ServiceError;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        let all = [Self::Mx, Self::Submission, Self::Submissions, Self::Lmtp];
        all.into_iter().find(|service| service.name() == name).ok_or(ServiceError(name))
    }
}

/// What is done with a CR or an LF that stands alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BareNewline {
    /// `521`, and close.
    Reject,
    /// It becomes CRLF.
    Normalise,
}

/// What is done with clients that do not wait where they must.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pipelining {
    /// `554`, and close.
    #[default]
    Strict,
    /// Nothing.
    Lenient,
}

/// What is done when a filter rejects some recipients and not others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mixed {
    /// `250`, and the rejected recipients are held.
    #[default]
    Quarantine,
    /// The message is refused for all.
    Reject,
}

impl Default for Settings {
    fn default() -> Self {
        let this_host = ["127.0.0.0/8", "::1/128"];
        Self {
            listen: vec![Listen {
                address: SocketAddr::from(([0, 0, 0, 0], 25)),
                service: Service::Mx,
            }],
            relay_from: this_host.iter().filter_map(|network| network.parse().ok()).collect(),
            banner: "ESMTP Grange".to_owned(),
            message_bytes_max: ByteSize(50 << 20),
            recipients_max: 1000,
            line_bytes_max: 1 << 20,
            hops_max: 50,
            errors_max: 20,
            sessions_max: 20_000,
            sessions_per_client_max: 50,
            command_timeout: Span::seconds(300),
            data_timeout: Span::seconds(180),
            message_timeout: Span::seconds(3600),
            session_timeout: Span::seconds(86_400),
            bare_newline: None,
            pipelining: Pipelining::Strict,
            mixed: Mixed::Quarantine,
            verify_timeout: Span::seconds(5),
            inspect_timeout: Span::seconds(30),
            route_timeout: Span::seconds(5),
            workers: workers_default(),
        }
    }
}

fn workers_default() -> Workers {
    Workers { concurrency: 10_000, ..Workers::default() }
}

fn workers_over_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Workers, D::Error> {
    Workers::over(workers_default(), deserializer)
}

impl Settings {
    /// The listeners that the farm's manager binds: a name for each, by which the stage finds it, and its address.
    pub fn listeners(&self) -> Vec<(String, SocketAddr)> {
        let entries = self.listen.iter().enumerate();
        entries.map(|(index, listen)| (listener_name(index), listen.address)).collect()
    }

    /// Whether a client may relay to anywhere by its address.
    pub fn may_relay(&self, client: std::net::IpAddr) -> bool {
        self.relay_from.iter().any(|network| network.contains(client))
    }

    /// Checks for what is wrong or contradicts itself.
    pub fn check(&self) -> Result<(), Problem> {
        self.check_listen()?;
        self.check_relay_from()?;
        self.check_limits()?;
        self.check_timeouts()?;
        if !self.banner.bytes().all(|byte| matches!(byte, b' '..=b'~')) || self.banner.len() > 200 {
            return Err(Problem::new(
                "smtpserver.banner",
                format!("{:?} cannot be said in one line of a reply", self.banner),
                "up to 200 printable ASCII characters, as in \"ESMTP Grange\"",
            ));
        }
        self.workers.check("smtpserver.workers")
    }

    fn check_listen(&self) -> Result<(), Problem> {
        if self.listen.is_empty() {
            return Err(Problem::new(
                "smtpserver.listen",
                "no address to listen on",
                "[{ address = \"127.0.0.1:2525\", service = \"mx\" }]",
            ));
        }
        for (index, listen) in self.listen.iter().enumerate() {
            let key = |name| format!("smtpserver.listen[{index}].{name}");
            if listen.address.port() == 0 {
                let wrong = format!("{} has no port", listen.address);
                return Err(Problem::new(key("address"), wrong, "a port from 1 to 65535"));
            }
            let mut earlier = self.listen.iter().take(index).map(|other| other.address);
            if let Some(other) = earlier.find(|other| overlap(*other, listen.address)) {
                let wrong = match other == listen.address {
                    true => format!("{other} is listed twice"),
                    false => format!("{} and {other} cannot both be listened on", listen.address),
                };
                return Err(Problem::new(key("address"), wrong, "each address once"));
            }
            if listen.service != Service::Mx {
                let wrong = format!("{} is not offered yet", listen.service.name());
                return Err(Problem::new(key("service"), wrong, "\"mx\""));
            }
        }
        Ok(())
    }

    fn check_relay_from(&self) -> Result<(), Problem> {
        for (index, network) in self.relay_from.iter().enumerate() {
            let key = format!("smtpserver.relay_from[{index}]");
            if network.prefix() == 0 {
                let wrong = format!("{network} lets every client relay to anywhere");
                return Err(Problem::new(key, wrong, "the networks of your own clients"));
            }
            if !network.is_plain() {
                let wrong = format!("{network} has bits set behind its prefix");
                return Err(Problem::new(key, wrong, format!("\"{}\"", network.plain())));
            }
        }
        Ok(())
    }

    fn check_limits(&self) -> Result<(), Problem> {
        let most = u64::from(u32::MAX);
        for (name, value, least, most) in [
            ("message_bytes_max", self.message_bytes_max.0, MESSAGE_BYTES_MAX_LEAST, 1 << 40),
            ("recipients_max", self.recipients_max as u64, 1, RECIPIENTS_MAX_MOST as u64),
            ("line_bytes_max", self.line_bytes_max as u64, LINE_BYTES_MAX_LEAST as u64, 1 << 40),
            ("hops_max", u64::from(self.hops_max), 1, 1000),
            ("errors_max", u64::from(self.errors_max), 1, most),
            ("sessions_max", u64::from(self.sessions_max), 1, most),
            ("sessions_per_client_max", u64::from(self.sessions_per_client_max), 1, most),
        ] {
            if !(least..=most).contains(&value) {
                let key = format!("smtpserver.{name}");
                return Err(Problem::new(key, value.to_string(), format!("{least} to {most}")));
            }
        }
        Ok(())
    }

    fn check_timeouts(&self) -> Result<(), Problem> {
        for (name, value) in [
            ("command_timeout", self.command_timeout),
            ("data_timeout", self.data_timeout),
            ("message_timeout", self.message_timeout),
            ("session_timeout", self.session_timeout),
            ("verify_timeout", self.verify_timeout),
            ("inspect_timeout", self.inspect_timeout),
            ("route_timeout", self.route_timeout),
        ] {
            if value.0.is_zero() {
                let key = format!("smtpserver.{name}");
                return Err(Problem::new(
                    key,
                    "0s is no time at all",
                    "a length of time, as in \"5m\"",
                ));
            }
        }
        if self.message_timeout < self.data_timeout {
            return Err(Problem::new(
                "smtpserver.message_timeout",
                format!(
                    "{} is less than data_timeout = {}",
                    self.message_timeout, self.data_timeout
                ),
                "at least data_timeout",
            ));
        }
        Ok(())
    }
}

/// Whether two listeners are in each other's way: on one port, `0.0.0.0` and `[::]` are every address of their kind.
pub fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let every = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port()
        && one.is_ipv4() == other.is_ipv4()
        && (every || one.ip() == other.ip())
}

pub(crate) fn listener_name(index: usize) -> String {
    format!("listen{index}")
}

#[cfg(test)]
mod tests;
