//! Where a farm's sockets are: a file of this host, or a port of another.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How an address of another host begins.
const TCP: &str = "tcp:";

/// Where a socket is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Address {
    /// A named socket of this host.
    Path(PathBuf),
    /// The job port of a farm on another host, or on this one: TLS, with certificates shown by both ends.
    Tcp {
        /// The host's name, as in its certificate; or its address.
        host: String,
        /// Where it is reached, a name or an address; by its own name if nothing else is said. Names are looked up at each connection.
        at: Option<String>,
        /// The port.
        port: u16,
    },
}

/// A text that is no address of a socket.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no address of a socket: write /path or tcp:HOST:PORT")]
pub struct AddressError(String);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (host, at, port) = match self {
            Self::Path(path) => return path.display().fmt(f),
            Self::Tcp { host, at, port } => (host, at, port),
        };
        f.write_str(TCP)?;
        write_host(host, f)?;
        if let Some(at) = at {
            f.write_str("@")?;
            write_host(at, f)?;
        }
        write!(f, ":{port}")
    }
}

fn write_host(host: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    if host.contains(':') { write!(f, "[{host}]") } else { f.write_str(host) }
}

fn read_host(text: &str) -> Option<String> {
    let bare = match text.strip_prefix('[') {
        Some(inner) => inner.strip_suffix(']').filter(|inner| inner.contains(':')),
        None => Some(text).filter(|text| !text.contains(':')),
    };
    tls::check_host(bare?).ok()
}

impl FromStr for Address {
    type Err = AddressError;

    /// Takes `tcp:HOST:PORT`, `tcp:HOST@WHERE:PORT`, IPv6 addresses in brackets, or an absolute path.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError(text.to_owned());
        let Some(rest) = text.strip_prefix(TCP) else {
            return text.starts_with('/').then(|| Self::Path(text.into())).ok_or_else(error);
        };
        let (host, port) = rest.rsplit_once(':').ok_or_else(error)?;
        let (host, at) = match host.split_once('@') {
            Some((host, at)) => (host, Some(read_host(at).ok_or_else(error)?)),
            None => (host, None),
        };
        let host = read_host(host).ok_or_else(error)?;
        // A sign is no digit of a port, though a number may have one.
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| *port > 0 && digits).ok_or_else(error)?;
        Ok(Self::Tcp { host, at, port })
    }
}

impl TryFrom<String> for Address {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, AddressError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> Self {
        address.to_string()
    }
}

impl From<PathBuf> for Address {
    fn from(path: PathBuf) -> Self {
        Self::Path(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        let tcp = |host: &str| Address::Tcp { host: host.to_owned(), at: None, port: 4025 };
        let reached = |host: &str, at: &str| {
            let (host, at) = (host.to_owned(), Some(at.to_owned()));
            Address::Tcp { host, at, port: 4025 }
        };
        for (text, address) in [
            ("/run/grange/sockets/a.b", Address::Path("/run/grange/sockets/a.b".into())),
            ("tcp:mx1.example:4025", tcp("mx1.example")),
            ("tcp:192.0.2.1:4025", tcp("192.0.2.1")),
            ("tcp:[2001:db8::1]:4025", tcp("2001:db8::1")),
            ("tcp:mx1.example@192.0.2.1:4025", reached("mx1.example", "192.0.2.1")),
            ("tcp:mx1.example@[2001:db8::1]:4025", reached("mx1.example", "2001:db8::1")),
        ] {
            assert_eq!(text.parse::<Address>().unwrap(), address);
            assert_eq!(address.to_string(), text);
        }
        assert_eq!("tcp:MX1.example:04025".parse::<Address>().unwrap(), tcp("mx1.example"));
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "a/b",
            "tcp:",
            "tcp:mx1.example",
            "tcp:mx1.example:",
            "tcp:mx1.example:0",
            "tcp:mx1.example:65536",
            "tcp:mx1.example:+25",
            "tcp::25",
            "tcp:2001:db8::1:25",
            "tcp:[mx1.example]:25",
            "tcp:[2001:db8::1:25",
            "tcp:a b:25",
            "tcp:a@:25",
            "tcp:@a:25",
            "tcp:a@b@c:25",
            "mx1.example:25",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.to_string().contains("tcp:HOST:PORT"), "{text}");
        }
    }
}
