//! Where a farm's sockets are: a file of this host, or a port of another.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// How an address of another host begins.
const TCP: &str = "tcp:";

/// Where a socket is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// A named socket of this host.
    Path(PathBuf),
    /// The job port of a farm on another host, or on this one: TLS, with certificates shown by both ends.
    Tcp {
        /// The host's name, as in its certificate; or its address.
        host: String,
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
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "{TCP}[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{TCP}{host}:{port}"),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    /// Takes `tcp:HOST:PORT`, an IPv6 address in brackets, or an absolute path.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError(text.to_owned());
        let Some(rest) = text.strip_prefix(TCP) else {
            return text.starts_with('/').then(|| Self::Path(text.into())).ok_or_else(error);
        };
        let (host, port) = rest.rsplit_once(':').ok_or_else(error)?;
        let bare = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').filter(|inner| inner.contains(':')),
            None => Some(host).filter(|host| !host.contains(':')),
        };
        let host = tls::check_host(bare.ok_or_else(error)?).map_err(|_| error())?;
        // A sign is no digit of a port, though a number may have one.
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let port = port.parse().ok().filter(|port| *port > 0 && digits).ok_or_else(error)?;
        Ok(Self::Tcp { host, port })
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
        let tcp = |host: &str| Address::Tcp { host: host.to_owned(), port: 4025 };
        for (text, address) in [
            ("/run/grange/sockets/a.b", Address::Path("/run/grange/sockets/a.b".into())),
            ("tcp:mx1.example:4025", tcp("mx1.example")),
            ("tcp:192.0.2.1:4025", tcp("192.0.2.1")),
            ("tcp:[2001:db8::1]:4025", tcp("2001:db8::1")),
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
            "mx1.example:25",
        ] {
            let error = text.parse::<Address>().unwrap_err();
            assert!(error.to_string().contains("tcp:HOST:PORT"), "{text}");
        }
    }
}
