//! A next hop in Postfix's notation: `[name]` or `[name]:port` is that host itself, a bare name is looked up by MX.

use std::net::{Ipv4Addr, Ipv6Addr};

use mail::Address;

/// The text does not name a next hop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} does not name a host")]
pub struct HostError(pub String);

/// Writes a route's host as a lane's: in brackets and lower case, since a host that an operator names is not looked up by MX.
///
/// Takes `mail.example.org`, `mail.example.org:587`, `192.0.2.1:25`, `2001:db8::1`, and all of them in brackets with the
/// port behind: `[2001:db8::1]:25`.
pub fn normalise_host(text: &str) -> Result<String, HostError> {
    let wrong = || HostError(text.to_owned());
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok(format!("[{}]", text.to_ascii_lowercase()));
    }
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, after) = rest.split_once(']').ok_or_else(wrong)?;
            match after.strip_prefix(':') {
                Some(port) => (name, Some(port)),
                None if after.is_empty() => (name, None),
                None => return Err(wrong()),
            }
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let name = host_name(name).ok_or_else(wrong)?;
    match port.map(port_number) {
        None => Ok(format!("[{name}]")),
        Some(Some(port)) => Ok(format!("[{name}]:{port}")),
        Some(None) => Err(wrong()),
    }
}

/// The lane's host of a recipient whose route names none: its domain, by MX; an address literal is a host itself.
pub(crate) fn host_of_domain(domain: &str) -> String {
    match domain.strip_prefix("[ipv6:") {
        Some(address) => format!("[{address}"),
        None => domain.to_owned(),
    }
}

fn host_name(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let name = name.strip_prefix("ipv6:").unwrap_or(&name);
    if name.parse::<Ipv6Addr>().is_ok() || name.parse::<Ipv4Addr>().is_ok() {
        return Some(name.to_owned());
    }
    // What is all digits and dots is a mistyped address, not a name.
    let is_name = !name.starts_with('[')
        && name.contains(|character: char| !character.is_ascii_digit() && character != '.')
        && Address::parse(&format!("a@{name}")).is_ok();
    is_name.then(|| name.to_owned())
}

fn port_number(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalises() {
        for (text, expected) in [
            ("mail.example.org", "[mail.example.org]"),
            ("Mail.Example.ORG:587", "[mail.example.org]:587"),
            ("[mail.example.org]", "[mail.example.org]"),
            ("[127.0.0.1]:2526", "[127.0.0.1]:2526"),
            ("127.0.0.1", "[127.0.0.1]"),
            ("192.0.2.1:25", "[192.0.2.1]:25"),
            ("2001:DB8::1", "[2001:db8::1]"),
            ("[2001:db8::1]:25", "[2001:db8::1]:25"),
            ("[IPv6:2001:db8::1]", "[2001:db8::1]"),
            ("localhost", "[localhost]"),
        ] {
            assert_eq!(normalise_host(text).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "",
            ":25",
            "[]",
            "[",
            "]",
            "[a",
            "[a]25",
            "[a]:",
            "a:",
            "a:0",
            "a:65536",
            "a:+25",
            "a:x",
            "a b",
            "a\nb",
            "-a",
            "192.0.2.256",
            "10.1",
            "[[::1]]",
            "a@b",
            "https://a",
            "a/b",
        ] {
            assert_eq!(normalise_host(text), Err(HostError(text.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn a_domain_is_its_own_host() {
        for (domain, expected) in [
            ("example.org", "example.org"),
            ("[192.0.2.1]", "[192.0.2.1]"),
            ("[ipv6:2001:db8::1]", "[2001:db8::1]"),
        ] {
            assert_eq!(host_of_domain(domain), expected);
        }
    }
}
