//! Where a filter outside is reached: `inet:HOST:PORT`, `unix:/path`, and how Sendmail writes the same.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::filter::FilterError;

/// The address of a service that is asked about messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A TCP port, `inet:HOST:PORT` or `inet:PORT@HOST`; the host is a name or an address.
    Inet {
        /// A name or an address, without brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket, `unix:/path` or `local:/path`.
    Unix(String),
}

/// A text that is no [`Endpoint`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the address of a service; \"inet:HOST:PORT\" or \"unix:/path\"")]
pub struct EndpointError;

/// A connection of either kind.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

impl Endpoint {
    /// Connects, within so much time.
    pub(crate) async fn connect(&self, time: Duration) -> Result<Box<dyn Stream>, FilterError> {
        let connected = async {
            Ok::<Box<dyn Stream>, std::io::Error>(match self {
                Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
                Self::Inet { host, port } => {
                    let stream = TcpStream::connect((host.as_str(), *port)).await?;
                    stream.set_nodelay(true)?;
                    Box::new(stream)
                }
            })
        };
        match timeout(time, connected).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(FilterError::Unreachable(error.to_string())),
            Err(_) => Err(FilterError::Unreachable("no connection in time".to_owned())),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let (kind, rest) = text.split_once(':').ok_or(EndpointError)?;
        match kind {
            "unix" | "local" if rest.starts_with('/') && !rest.contains(char::is_control) => {
                Ok(Self::Unix(rest.to_owned()))
            }
            "inet" | "inet6" => {
                let (host, port) = match rest.split_once('@') {
                    Some((port, host)) => (host, port),
                    None => rest.rsplit_once(':').ok_or(EndpointError)?,
                };
                let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
                let host = bare.unwrap_or(host);
                let port = port.parse().ok().filter(|port| *port > 0).ok_or(EndpointError)?;
                let is_host = |c: char| c.is_ascii_alphanumeric() || ".-:_%".contains(c);
                match !host.is_empty() && host.chars().all(is_host) {
                    true => Ok(Self::Inet { host: host.to_owned(), port }),
                    false => Err(EndpointError),
                }
            }
            _ => Err(EndpointError),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet { host, port } if host.contains(':') => {
                write!(formatter, "inet:[{host}]:{port}")
            }
            Self::Inet { host, port } => write!(formatter, "inet:{host}:{port}"),
            Self::Unix(path) => write!(formatter, "unix:{path}"),
        }
    }
}

impl Serialize for Endpoint {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        mail::from_text(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ways_to_write_it() {
        for (text, shown) in [
            ("inet:127.0.0.1:11332", "inet:127.0.0.1:11332"),
            ("inet:8891@localhost", "inet:localhost:8891"),
            ("inet6:8891@::1", "inet:[::1]:8891"),
            ("inet:[::1]:8891", "inet:[::1]:8891"),
            ("unix:/run/clamav/clamd.ctl", "unix:/run/clamav/clamd.ctl"),
            ("local:/run/opendkim.sock", "unix:/run/opendkim.sock"),
        ] {
            let endpoint: Endpoint = text.parse().expect(text);
            assert_eq!(endpoint.to_string(), shown);
            assert_eq!(shown.parse(), Ok(endpoint));
        }
        for text in [
            "",
            "x",
            "inet:",
            "inet:a",
            "inet:a:0",
            "inet:a:99999",
            "inet::1",
            "unix:run",
            "tcp:a:1",
            "inet:a b:1",
            "inet:1@",
            "unix:/a\nb",
        ] {
            assert_eq!(text.parse::<Endpoint>(), Err(EndpointError), "{text:?}");
        }
    }
}
