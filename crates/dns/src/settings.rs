//! The section `[dns]`.

use std::net::SocketAddr;
use std::time::Duration;

use config::{Problem, Span};
use serde::{Deserialize, Serialize};

/// How names are looked up: the section `[dns]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Name servers as `"ip:port"`. Default: none, which means those of `/etc/resolv.conf`.
    pub nameservers: Vec<SocketAddr>,
    /// How long one question waits for one answer. Default: `"5s"`.
    pub timeout: Span,
    /// How often a question is asked again when no answer came. Default: 2.
    pub attempts: u32,
    /// The most MX hosts of one domain that are considered, after sorting. Default: 100.
    pub mx_hosts_max: usize,
    /// The most addresses of one destination that are tried. Default: 10.
    pub addresses_max: usize,
    /// How many answers are cached. Default: 8192.
    pub cache_entries: u64,
    /// Whether an MX may lead to a loopback address, which otherwise means ourselves. For laboratories. Default: false.
    pub loopback_mx: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            nameservers: Vec::new(),
            timeout: Span::seconds(5),
            attempts: 2,
            mx_hosts_max: 100,
            addresses_max: 10,
            cache_entries: 8192,
            loopback_mx: false,
        }
    }
}

/// The longest time a question may wait for an answer.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);
/// The most repetitions of a question.
const ATTEMPTS_MAX: u32 = 10;

impl Settings {
    /// Finds what the types cannot say.
    pub fn check(&self) -> Result<(), Problem> {
        if self.timeout.0 < Duration::from_millis(10) || self.timeout.0 > TIMEOUT_MAX {
            let wrong = format!("{} is no sensible wait for a name server", self.timeout);
            return Err(Problem::new("dns.timeout", wrong, "a time from \"10ms\" to \"60s\""));
        }
        if self.attempts > ATTEMPTS_MAX {
            let right = format!("a number up to {ATTEMPTS_MAX}");
            return Err(Problem::new("dns.attempts", self.attempts.to_string(), right));
        }
        for (key, value) in
            [("dns.mx_hosts_max", self.mx_hosts_max), ("dns.addresses_max", self.addresses_max)]
        {
            if !(1..=1000).contains(&value) {
                return Err(Problem::new(key, value.to_string(), "a number from 1 to 1000"));
            }
        }
        match self.nameservers.iter().position(|server| server.port() == 0) {
            Some(place) => Err(Problem::new(
                format!("dns.nameservers[{place}]"),
                "port 0 cannot be asked",
                "an address and port such as \"192.0.2.53:53\"",
            )),
            None => Ok(()),
        }
    }

    /// How long one look-up may take in all, whatever the resolver makes of the settings above.
    pub(crate) fn lookup_seconds_max(&self) -> Duration {
        self.timeout.0 * (self.attempts + 1) * 2 + Duration::from_secs(1)
    }
}

/// Which addresses of a host are tried, and which first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpVersion {
    /// Both, IPv4 first.
    #[default]
    PreferIpv4,
    /// Both, IPv6 first.
    PreferIpv6,
    /// IPv4 only.
    Ipv4,
    /// IPv6 only.
    Ipv6,
}

impl IpVersion {
    /// Whether IPv4 addresses are tried.
    pub fn has_ipv4(self) -> bool {
        self != Self::Ipv6
    }

    /// Whether IPv6 addresses are tried.
    pub fn has_ipv6(self) -> bool {
        self != Self::Ipv4
    }
}
