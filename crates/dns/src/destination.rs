//! What a lane's host may say.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Where a lane leads. Brackets mean: no MX.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Destination {
    /// `example.org`: the domain's MX hosts, or the domain itself if it has none.
    Domain(String),
    /// `[mail.example.org]` or `[mail.example.org]:587`: the addresses of that host only.
    Host {
        /// The host's name.
        name: String,
        /// The port; nothing is the protocol's.
        port: Option<u16>,
    },
    /// `[192.0.2.1]`, `[IPv6:2001:db8::1]`, `[2001:db8::1]:25`: that address only.
    Address {
        /// The address.
        ip: IpAddr,
        /// The port; nothing is the protocol's.
        port: Option<u16>,
    },
}

/// The text is not a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a destination is a domain, or a host or address in brackets with or without :port")]
pub struct DestinationError;

/// The longest name, in bytes (RFC 1035 section 2.3.4).
const NAME_BYTES_MAX: usize = 253;

impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = text.strip_prefix('[') {
            let (inside, after) = rest.split_once(']').ok_or(DestinationError)?;
            let port = match after.strip_prefix(':') {
                None if after.is_empty() => None,
                None => return Err(DestinationError),
                Some(digits) => Some(port(digits)?),
            };
            return fixed(inside, port);
        }
        match text.split_once(':') {
            // With a port there is no MX either.
            Some((host, digits)) => fixed(host, Some(port(digits)?)),
            None => Ok(Self::Domain(name(text)?)),
        }
    }
}

fn fixed(text: &str, port: Option<u16>) -> Result<Destination, DestinationError> {
    let tagged = text.get(..5).is_some_and(|tag| tag.eq_ignore_ascii_case("ipv6:"));
    let ip = match text.get(5..) {
        Some(rest) if tagged => {
            Some(IpAddr::V6(rest.parse::<Ipv6Addr>().map_err(|_| DestinationError)?))
        }
        _ => text.parse::<IpAddr>().ok(),
    };
    match ip {
        Some(ip) => Ok(Destination::Address { ip, port }),
        None => Ok(Destination::Host { name: name(text)?, port }),
    }
}

fn port(digits: &str) -> Result<u16, DestinationError> {
    let well_formed = digits.len() <= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
    match digits.parse() {
        Ok(port @ 1..) if well_formed => Ok(port),
        _ => Err(DestinationError),
    }
}

/// A name without its final dot. What a label may hold is the resolver's business; what no name holds is refused.
fn name(text: &str) -> Result<String, DestinationError> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let well_formed = !text.is_empty()
        && text.len() <= NAME_BYTES_MAX
        && text.split('.').all(|label| !label.is_empty())
        && !text.chars().any(|character| {
            character.is_control() || character.is_whitespace() || "[]:@<>/\\\"".contains(character)
        });
    if well_formed { Ok(text.to_owned()) } else { Err(DestinationError) }
}

impl fmt::Display for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = match self {
            Self::Domain(domain) => return formatter.write_str(domain),
            Self::Host { name, port } => {
                write!(formatter, "[{name}]")?;
                port
            }
            Self::Address { ip: IpAddr::V4(ip), port } => {
                write!(formatter, "[{ip}]")?;
                port
            }
            Self::Address { ip: IpAddr::V6(ip), port } => {
                write!(formatter, "[IPv6:{ip}]")?;
                port
            }
        };
        match port {
            Some(port) => write!(formatter, ":{port}"),
            None => Ok(()),
        }
    }
}
