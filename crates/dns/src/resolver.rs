//! From a destination to the addresses to try.

use std::cell::OnceCell;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ProtocolConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use mail::{Reply, StatusCode};

use crate::{Destination, IpVersion, Settings};

/// Looks destinations up. Everything on one thread shares one, and its cache.
pub struct Resolver {
    settings: Settings,
    /// Made when first needed: a worker that only knows fixed addresses never asks anyone.
    inner: OnceCell<Option<Ways>>,
}

/// Both ways to the name servers. By TCP is asked what was cut off by UDP, and nothing else: whether an answer is to the question that was
/// asked is looked at by UDP alone.
struct Ways {
    udp: TokioResolver,
    tcp: TokioResolver,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Where the mail is to go.
    pub destination: &'a Destination,
    /// The port where the destination names none.
    pub port: u16,
    /// Which addresses.
    pub ip_version: IpVersion,
    /// Our own name: an MX of that name is ourselves.
    pub hostname: &'a str,
}

/// An address to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The host's name, or the address in brackets where there is no name.
    pub host: String,
    /// Where to connect.
    pub address: SocketAddr,
}

/// Why there is no address to try.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// The domain does not exist, or has neither MX nor address: 5.1.2.
    #[error("domain {0} does not exist or takes no mail: no MX, no address")]
    NoDomain(String),
    /// The domain says that it takes no mail (RFC 7505): 5.1.10.
    #[error("domain {0} takes no mail (null MX)")]
    NullMx(String),
    /// The domain's MX hosts have no usable address: 5.4.4.
    #[error("no MX host of {0} has a usable address")]
    NoAddress(String),
    /// The domain's MX leads to ourselves, yet no route says that its mail ends here: 5.4.6.
    #[error("mail for {0} loops back to this host")]
    Loop(String),
    /// A host that our own configuration names does not exist, which an operator can mend: 4.4.4.
    #[error("configured host {0} has no address")]
    NoConfiguredHost(String),
    /// No name server gave a usable answer: 4.4.3.
    #[error("cannot look up {name}: {reason}")]
    Temporary {
        /// What was asked for.
        name: String,
        /// What went wrong.
        reason: String,
    },
}

impl Unresolved {
    /// Whether trying again can help.
    pub fn is_permanent(&self) -> bool {
        self.status().class == 5
    }

    /// The enhanced status code.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoDomain(_) => StatusCode::new(5, 1, 2),
            Self::NullMx(_) => StatusCode::new(5, 1, 10),
            Self::NoAddress(_) => StatusCode::new(5, 4, 4),
            Self::Loop(_) => StatusCode::new(5, 4, 6),
            Self::NoConfiguredHost(_) => StatusCode::new(4, 4, 4),
            Self::Temporary { .. } => StatusCode::new(4, 4, 3),
        }
    }

    /// The same as a reply in our own words.
    pub fn reply(&self) -> Reply {
        Reply::ours(self.status(), self.to_string())
    }
}

/// An MX host and how much it is wanted: less is more.
struct Exchange {
    preference: u16,
    host: String,
}

/// What a name server said of a name and type.
pub(crate) enum Answer {
    Records(Vec<RData>),
    /// The name exists, such records do not.
    NoRecords,
    NoName,
}

impl Resolver {
    /// A resolver with these settings; name servers are asked only when something is looked up.
    pub fn new(settings: Settings) -> Self {
        Self { settings, inner: OnceCell::new() }
    }

    /// Finds the addresses to try, in order: at most [`Settings::addresses_max`], and never none.
    ///
    /// Hosts of equal preference, and a host's addresses of one family, are shuffled with `chance`.
    pub async fn targets(
        &self,
        request: &Request<'_>,
        chance: &mut dyn FnMut() -> u64,
    ) -> Result<Vec<Target>, Unresolved> {
        match request.destination {
            Destination::Address { ip, port } => {
                let address = SocketAddr::new(*ip, port.unwrap_or(request.port));
                Ok(vec![Target { host: format!("[{ip}]"), address }])
            }
            Destination::Host { name, port } => {
                let addresses = self.addresses(name, request.ip_version, chance).await?;
                if addresses.is_empty() {
                    return Err(Unresolved::NoConfiguredHost(name.clone()));
                }
                let port = port.unwrap_or(request.port);
                let target = |ip| Target { host: name.clone(), address: SocketAddr::new(ip, port) };
                Ok(addresses.into_iter().take(self.settings.addresses_max).map(target).collect())
            }
            Destination::Domain(domain) => self.domain(domain, request, chance).await,
        }
    }

    async fn domain(
        &self,
        domain: &str,
        request: &Request<'_>,
        chance: &mut dyn FnMut() -> u64,
    ) -> Result<Vec<Target>, Unresolved> {
        let exchanges = match self.ask(domain, RecordType::MX).await? {
            Answer::NoName => return Err(Unresolved::NoDomain(domain.to_owned())),
            Answer::NoRecords => return self.without_mx(domain, request, chance).await,
            Answer::Records(records) => exchanges(domain, &records)?,
        };
        let exchanges = self.in_order(domain, exchanges, request.hostname, chance)?;
        let (mut targets, mut temporary) = (Vec::<(u16, Target)>::new(), None);
        let mut failures = 0;
        for Exchange { preference, host } in exchanges {
            if targets.len() >= self.settings.addresses_max || failures >= HOST_FAILURES_MAX {
                break;
            }
            let addresses = match self.addresses(&host, request.ip_version, chance).await {
                Ok(addresses) => addresses,
                Err(error) => {
                    temporary = Some(error);
                    failures += 1;
                    continue;
                }
            };
            if addresses.iter().any(|ip| self.is_own(*ip)) {
                // We are one of the domain's MX hosts: only those that it prefers to us may have the mail.
                targets.retain(|(others, _)| *others < preference);
                if targets.is_empty() && temporary.is_none() {
                    return Err(Unresolved::Loop(domain.to_owned()));
                }
                break;
            }
            targets.extend(addresses.into_iter().map(|ip| {
                let address = SocketAddr::new(ip, request.port);
                (preference, Target { host: host.clone(), address })
            }));
        }
        targets.truncate(self.settings.addresses_max);
        match temporary {
            Some(error) if targets.is_empty() => Err(error),
            None if targets.is_empty() => Err(Unresolved::NoAddress(domain.to_owned())),
            _ => Ok(targets.into_iter().map(|(_, target)| target).collect()),
        }
    }

    /// A domain without MX is its own mail host (RFC 5321 section 5.1).
    async fn without_mx(
        &self,
        domain: &str,
        request: &Request<'_>,
        chance: &mut dyn FnMut() -> u64,
    ) -> Result<Vec<Target>, Unresolved> {
        let addresses = self.addresses(domain, request.ip_version, chance).await?;
        if addresses.is_empty() {
            return Err(Unresolved::NoDomain(domain.to_owned()));
        }
        if is_same_name(domain, request.hostname) || addresses.iter().any(|ip| self.is_own(*ip)) {
            return Err(Unresolved::Loop(domain.to_owned()));
        }
        let target =
            |ip| Target { host: domain.to_owned(), address: SocketAddr::new(ip, request.port) };
        Ok(addresses.into_iter().take(self.settings.addresses_max).map(target).collect())
    }

    /// Sorts MX hosts, leaves out what is not preferred to ourselves, and keeps no more than allowed.
    fn in_order(
        &self,
        domain: &str,
        mut exchanges: Vec<Exchange>,
        hostname: &str,
        chance: &mut dyn FnMut() -> u64,
    ) -> Result<Vec<Exchange>, Unresolved> {
        shuffle(&mut exchanges, chance);
        exchanges.sort_by_key(|exchange| exchange.preference);
        let is_ours = |exchange: &&Exchange| is_same_name(&exchange.host, hostname);
        if let Some(ours) = exchanges.iter().find(is_ours).map(|exchange| exchange.preference) {
            exchanges.retain(|exchange| exchange.preference < ours);
            if exchanges.is_empty() {
                return Err(Unresolved::Loop(domain.to_owned()));
            }
        }
        exchanges.truncate(self.settings.mx_hosts_max);
        Ok(exchanges)
    }

    /// The usable addresses of a host, the preferred family first; none if it has none.
    async fn addresses(
        &self,
        host: &str,
        version: IpVersion,
        chance: &mut dyn FnMut() -> u64,
    ) -> Result<Vec<IpAddr>, Unresolved> {
        let one = |wanted: bool, kind| async move {
            if wanted { self.family(host, kind).await } else { Ok(Vec::new()) }
        };
        let (four, six) = tokio::join!(
            one(version.has_ipv4(), RecordType::A),
            one(version.has_ipv6(), RecordType::AAAA)
        );
        let (mut four, mut six) = match (four, six) {
            // One family is enough to go on with.
            (Ok(four), Err(_)) if !four.is_empty() => (four, Vec::new()),
            (Err(_), Ok(six)) if !six.is_empty() => (Vec::new(), six),
            (four, six) => (four?, six?),
        };
        shuffle(&mut four, chance);
        shuffle(&mut six, chance);
        let (first, second) =
            if version == IpVersion::PreferIpv6 { (six, four) } else { (four, six) };
        Ok(first.into_iter().chain(second).collect())
    }

    async fn family(&self, host: &str, kind: RecordType) -> Result<Vec<IpAddr>, Unresolved> {
        let Answer::Records(records) = self.ask(host, kind).await? else { return Ok(Vec::new()) };
        let address = |record: &RData| match record {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            RData::AAAA(address) => Some(IpAddr::V6(address.0).to_canonical()),
            _ => None,
        };
        let usable = |ip: &IpAddr| !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast(*ip);
        let mut addresses: Vec<IpAddr> =
            records.iter().filter_map(address).filter(usable).collect();
        addresses.truncate(ADDRESSES_OF_HOST_MAX);
        Ok(addresses)
    }

    pub(crate) async fn ask(&self, name: &str, kind: RecordType) -> Result<Answer, Unresolved> {
        let temporary = |reason: String| Unresolved::Temporary { name: name.to_owned(), reason };
        let Some(ways) = self.inner.get_or_init(|| Ways::build(&self.settings)) else {
            return Err(temporary("no name server is configured".to_owned()));
        };
        // A name that DNS cannot hold is one that does not exist.
        let Some(query) = fully_qualified(name) else { return Ok(Answer::NoName) };
        let lookup = ways.lookup(query, kind);
        match tokio::time::timeout(self.settings.lookup_seconds_max(), lookup).await {
            Err(_) => Err(temporary("timed out".to_owned())),
            Ok(Ok(lookup)) => {
                let records = lookup.answers().iter().map(|record| &record.data);
                let records: Vec<RData> =
                    records.filter(|data| data.record_type() == kind).cloned().collect();
                Ok(if records.is_empty() { Answer::NoRecords } else { Answer::Records(records) })
            }
            Ok(Err(error)) if error.is_nx_domain() => Ok(Answer::NoName),
            Ok(Err(error)) if error.is_no_records_found() => Ok(Answer::NoRecords),
            Ok(Err(error)) => Err(temporary(in_words(&error))),
        }
    }

    /// Whether an address is this host's: the system would send from it to itself.
    fn is_own(&self, ip: IpAddr) -> bool {
        if ip.is_loopback() {
            return !self.settings.loopback_mx;
        }
        let any: IpAddr = match ip {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        // Connecting a datagram socket sends nothing; it only has the system choose the source address.
        let source = UdpSocket::bind((any, 0)).and_then(|socket| {
            socket.connect((ip, 9))?;
            socket.local_addr()
        });
        source.is_ok_and(|source| source.ip() == ip)
    }
}

/// How many MX hosts of one destination may be asked for in vain: each of them can cost all attempts at all name servers.
const HOST_FAILURES_MAX: usize = 10;
/// The most addresses of one family that are taken from one host.
const ADDRESSES_OF_HOST_MAX: usize = 100;
/// How many questions may be open on one connection to a name server.
const QUESTIONS_MAX: usize = 256;

impl Ways {
    fn build(settings: &Settings) -> Option<Self> {
        let (config, options) = match settings.nameservers.is_empty() {
            true => read_system_conf()
                .inspect_err(
                    |error| tracing::error!(%error, "cannot read the resolver's configuration"),
                )
                .ok()?,
            false => (configured(settings), ResolverOpts::default()),
        };
        let way = |protocol: &ProtocolConfig| resolver(settings, &config, &options, protocol);
        Some(Self { udp: way(&ProtocolConfig::Udp)?, tcp: way(&ProtocolConfig::Tcp)? })
    }

    async fn lookup(&self, query: Name, kind: RecordType) -> Result<Lookup, NetError> {
        match self.udp.lookup(query.clone(), kind).await {
            Err(NetError::Truncated) => self.tcp.lookup(query, kind).await,
            found => found,
        }
    }
}

/// The name servers of the settings.
fn configured(settings: &Settings) -> ResolverConfig {
    let servers = settings.nameservers.iter().map(|server| {
        let connections =
            [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = server.port();
                connection
            });
        NameServerConfig::new(server.ip(), true, connections.into())
    });
    ResolverConfig::from_name_servers(servers.collect())
}

/// What asks by one protocol.
fn resolver(
    settings: &Settings,
    config: &ResolverConfig,
    options: &ResolverOpts,
    protocol: &ProtocolConfig,
) -> Option<TokioResolver> {
    let mut config = config.clone();
    for server in &mut config.name_servers {
        server.connections.retain(|connection| connection.protocol == *protocol);
    }
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let chosen = builder.options_mut();
    *chosen = options.clone();
    chosen.timeout = settings.timeout.0;
    chosen.attempts = usize::try_from(settings.attempts).unwrap_or(1);
    chosen.cache_size = settings.cache_entries;
    chosen.max_active_requests = QUESTIONS_MAX;
    chosen.preserve_intermediates = false;
    builder.build().inspect_err(|error| tracing::error!(%error, "cannot start the resolver")).ok()
}

/// A name as it is asked for: from the root, so that no search list applies; U-labels become A-labels.
fn fully_qualified(name: &str) -> Option<Name> {
    let mut name =
        if name.is_ascii() { Name::from_ascii(name) } else { Name::from_utf8(name) }.ok()?;
    name.set_fqdn(true);
    Some(name)
}

/// The MX hosts of an answer. A lone root means that the domain takes no mail; among others it means nothing.
fn exchanges(domain: &str, records: &[RData]) -> Result<Vec<Exchange>, Unresolved> {
    let mx = |record: &RData| match record {
        RData::MX(mx) if !mx.exchange.is_root() => {
            let host = mx.exchange.to_ascii();
            let host = host.strip_suffix('.').unwrap_or(&host).to_owned();
            Some(Exchange { preference: mx.preference, host })
        }
        _ => None,
    };
    let exchanges: Vec<Exchange> = records.iter().filter_map(mx).collect();
    if exchanges.is_empty() { Err(Unresolved::NullMx(domain.to_owned())) } else { Ok(exchanges) }
}

fn is_same_name(left: &str, right: &str) -> bool {
    left.trim_end_matches('.').eq_ignore_ascii_case(right.trim_end_matches('.'))
}

fn is_broadcast(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(ip) if ip.is_broadcast())
}

fn in_words(error: &NetError) -> String {
    match error {
        NetError::Timeout => "no name server answered in time".to_owned(),
        error => error.to_string(),
    }
}

/// Fisher and Yates, with the bias of a remainder, which for a few hosts is nothing.
fn shuffle<T>(items: &mut [T], chance: &mut dyn FnMut() -> u64) {
    for last in (1..items.len()).rev() {
        let other = usize::try_from(chance() % (last as u64 + 1)).unwrap_or(0);
        items.swap(last, other);
    }
}
