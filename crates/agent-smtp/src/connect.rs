//! A fresh connection: target after target, until one greets us and takes our hello.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use dns::{Destination, Request, Target, Unresolved};
use mail::{Reply, StatusCode};
use smtp::client::{Client, Phase, Step};
use tokio::net::{TcpSocket, TcpStream};

use crate::connection::{Connection, Peer};
use crate::settings::Protocol;
use crate::{Smtp, counter};

/// How long an address that could not be reached is tried last.
const SHUN_TIME: Duration = Duration::from_secs(120);
/// The most addresses that are remembered so.
const SHUNNED_MAX: usize = 1000;

/// Why no connection came about.
pub(crate) enum Unreachable {
    /// The destination cannot be, or takes no mail: every recipient fails.
    Never(Reply),
    /// Nobody was reached, or nobody was willing: the lane backs off.
    Lane(Reply),
}

/// Addresses that could not be reached, or whose sessions failed, a moment ago. They stay in the list, at its end: a dead first MX costs one job its
/// waiting time, not every job.
#[derive(Default)]
pub(crate) struct Shunned(HashMap<SocketAddr, Instant>);

impl Shunned {
    pub(crate) fn note(&mut self, address: SocketAddr, now: Instant) {
        if self.0.len() >= SHUNNED_MAX {
            self.0.retain(|_, until| *until > now);
        }
        if self.0.len() < SHUNNED_MAX {
            self.0.insert(address, now + SHUN_TIME);
        }
    }

    fn forget(&mut self, address: SocketAddr) {
        if !self.0.is_empty() {
            self.0.remove(&address);
        }
    }

    fn put_last(&self, targets: &mut [Target], now: Instant) {
        // The sort is stable: among the others, and among the shunned, the order stays.
        targets.sort_by_key(|target| self.0.get(&target.address).is_some_and(|until| *until > now));
    }
}

/// Opens a session with the lane's host. None of it lasts past `bound`.
pub(crate) async fn connect(
    smtp: &Smtp,
    host: &str,
    bound: Option<Instant>,
) -> Result<Connection, Unreachable> {
    let destination: Destination = host.parse().map_err(|error: dns::DestinationError| {
        let text = format!("{}: {error}", host.escape_debug());
        Unreachable::Never(Reply::ours(StatusCode::new(5, 1, 2), text))
    })?;
    let mut targets = targets(smtp, &destination, bound).await?;
    smtp.shunned.borrow().put_last(&mut targets, Instant::now());
    let mut last = None;
    for target in &targets {
        if bound.is_some_and(|bound| bound <= Instant::now()) {
            break;
        }
        let peer = Peer { address: target.address, has_others: targets.len() > 1 };
        match session(smtp, target, peer, bound).await {
            Ok(connection) if leads_to_ourselves(smtp, &destination, &connection) => {
                return Err(Unreachable::Never(Unresolved::Loop(host.to_owned()).reply()));
            }
            Ok(connection) => {
                smtp.counters.add(counter::CONNECTIONS, 1);
                smtp.shunned.borrow_mut().forget(target.address);
                return Ok(connection);
            }
            Err(reply) => {
                smtp.counters.add(counter::CONNECT_FAILED, 1);
                smtp.shunned.borrow_mut().note(target.address, Instant::now());
                tracing::debug!(host, remote = remote(target), reply = reply.text, "next target");
                last = Some(reply);
            }
        }
    }
    let nobody = || Reply::ours(StatusCode::new(4, 4, 1), "no time was left to connect");
    Err(Unreachable::Lane(last.unwrap_or_else(nobody)))
}

/// Whether an MX greets us with our own name: a loop that no address gives away, such as one through a port that is
/// forwarded to us. A host that a route names may be another server of ours.
fn leads_to_ourselves(smtp: &Smtp, destination: &Destination, connection: &Connection) -> bool {
    matches!(destination, Destination::Domain(_))
        && connection.client.server_name().eq_ignore_ascii_case(&smtp.assignment.hostname)
}

async fn targets(
    smtp: &Smtp,
    destination: &Destination,
    bound: Option<Instant>,
) -> Result<Vec<Target>, Unreachable> {
    let settings = &smtp.assignment.settings;
    let request = Request {
        destination,
        port: settings.port(),
        ip_version: settings.ip_version,
        hostname: &smtp.assignment.hostname,
    };
    // Without random bits the order is only less fair.
    let mut chance = || getrandom::u64().unwrap_or(0);
    let looking_up = smtp.resolver.targets(&request, &mut chance);
    let found = match bound {
        None => looking_up.await,
        Some(bound) => {
            tokio::time::timeout_at(bound.into(), looking_up).await.unwrap_or_else(|_| {
                let reason = "the job's time was over before name servers answered".to_owned();
                Err(Unresolved::Temporary { name: destination.to_string(), reason })
            })
        }
    };
    found.map_err(|error: Unresolved| match error.is_permanent() {
        true => Unreachable::Never(error.reply()),
        false => Unreachable::Lane(error.reply()),
    })
}

/// Connects to one target and brings the session to where a transaction can begin.
async fn session(
    smtp: &Smtp,
    target: &Target,
    peer: Peer,
    bound: Option<Instant>,
) -> Result<Connection, Reply> {
    let settings = &smtp.assignment.settings;
    let started = Instant::now();
    let limit = settings.timeouts.of(Phase::Connect);
    let limit = bound.map_or(limit, |bound| bound.saturating_duration_since(started).min(limit));
    let failed = |why: &str| {
        let text = format!("cannot connect to {}: {why}", remote(target));
        Reply::ours(StatusCode::new(4, 4, 1), text)
    };
    let stream = match tokio::time::timeout(limit, open(smtp, target.address)).await {
        Err(_) => return Err(failed("timed out")),
        Ok(Err(error)) => return Err(failed(&error.to_string())),
        Ok(Ok(stream)) => stream,
    };
    let protocol = match settings.protocol {
        Protocol::Smtp => smtp::client::Protocol::Smtp,
        Protocol::Lmtp => smtp::client::Protocol::Lmtp,
    };
    let helo = settings.helo.as_ref().unwrap_or(&smtp.assignment.hostname);
    let client = Client::new(protocol, helo, remote(target));
    let mut connection = Connection::new(stream, client, peer, started);
    match connection.turn(&settings.timeouts, bound).await {
        Step::Idle => Ok(connection),
        _ => {
            let said = connection.client.failure().map(|failure| failure.reply.clone());
            Err(said.unwrap_or_else(|| failed("the session ended")))
        }
    }
}

async fn open(smtp: &Smtp, address: SocketAddr) -> std::io::Result<TcpStream> {
    let settings = &smtp.assignment.settings;
    let (socket, bind): (_, Option<IpAddr>) = match address {
        SocketAddr::V4(_) => (TcpSocket::new_v4()?, settings.bind_ipv4.map(IpAddr::V4)),
        SocketAddr::V6(_) => (TcpSocket::new_v6()?, settings.bind_ipv6.map(IpAddr::V6)),
    };
    if let Some(bind) = bind {
        socket.bind(SocketAddr::new(bind, 0))?;
    }
    let stream = socket.connect(address).await?;
    // Each write is a whole step of the conversation.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A target as outcomes and logs name it: `mx.example.org[192.0.2.1]`, with its port if that is not the usual one.
fn remote(target: &Target) -> String {
    let ip = target.address.ip();
    let named = !target.host.starts_with('[');
    let name = if named { target.host.clone() } else { ip.to_string() };
    match target.address.port() {
        25 => format!("{name}[{ip}]"),
        port => format!("{name}[{ip}]:{port}"),
    }
}
