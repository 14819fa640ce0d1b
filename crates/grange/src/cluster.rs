//! `[cluster]`: which host runs which farms, and where each farm takes jobs from the others.
//!
//! One text describes all hosts, and is the same on each but for `hostname`. Without it all farms run here, and no job socket
//! listens on TCP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use config::{Notice, Problem};
use serde::{Deserialize, Serialize};
use socket::Address;

use crate::configuration::is_host_name;

/// The most hosts of a cluster: whoever holds connections to all of them must tell their workers apart.
const HOSTS_MAX: usize = 256;
/// The farm that tells other hosts how the farms of its own stand. Every host of a cluster runs it.
pub const STATUS: &str = "status";
/// What a certificate says of a host from which the cluster may be looked at and steered.
pub const ADMIN: &str = "admin";

/// The ports that farms listen on unless `ports` says otherwise.
const PORTS: &[(&str, u16)] = &[
    ("router", 4191),
    ("scheduler", 4192),
    ("contentfilter", 4193),
    ("requeue", 4194),
    (STATUS, 4195),
    ("smtp", 4201),
    ("local", 4202),
    ("error", 4203),
];

/// `[cluster]`: farms on several hosts, which take jobs from each other over TLS. They need a store that all of them reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The name of this host in `hosts`. Default: `hostname`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The directory with this host's key and certificate and those of the authorities that it trusts, as `grange keys issue`
    /// makes them. Read again when they change. Default: `/etc/grange/keys`.
    pub keys: PathBuf,
    /// Every host, the same list everywhere. Default: none, all farms run here and take jobs from here alone.
    pub hosts: Vec<Host>,
    /// The TCP port of a farm's job sockets, as in `{ bulk = 4210 }`. Default: router 4191, scheduler 4192, contentfilter 4193,
    /// requeue 4194, status 4195, and of the channels smtp 4201, local 4202, error 4203; others must be given.
    pub ports: BTreeMap<String, u16>,
}

/// A host of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Its name, which its certificate must hold.
    pub name: String,
    /// Where others reach it: a name, which is looked up at each new connection, or an IP address. On an IP address its job
    /// sockets listen too; else they listen on all. Default: `name`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// The farms that it runs. Channels are farms.
    pub farms: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            host: None,
            keys: "/etc/grange/keys".into(),
            hosts: Vec::new(),
            ports: BTreeMap::new(),
        }
    }
}

impl Host {
    /// Where others reach it.
    pub fn address(&self) -> &str {
        self.address.as_deref().unwrap_or(&self.name)
    }

    /// Whether it runs this farm.
    pub fn runs(&self, farm: &str) -> bool {
        farm == STATUS || self.farms.iter().any(|name| name == farm)
    }
}

impl Settings {
    /// Whether farms run on several hosts, or could.
    pub fn is_on(&self) -> bool {
        !self.hosts.is_empty()
    }

    /// The name of this host.
    pub fn here<'a>(&'a self, hostname: &'a str) -> &'a str {
        self.host.as_deref().unwrap_or(hostname)
    }

    /// Whether this host runs a farm.
    pub fn runs_here(&self, hostname: &str, farm: &str) -> bool {
        let here = self.here(hostname);
        !self.is_on() || self.hosts.iter().any(|host| host.name == here && host.runs(farm))
    }

    /// The other hosts that run a farm.
    pub fn elsewhere<'a>(
        &'a self,
        hostname: &'a str,
        farm: &'a str,
    ) -> impl Iterator<Item = &'a Host> {
        let here = self.here(hostname);
        self.hosts.iter().filter(move |host| host.name != here && host.runs(farm))
    }

    /// The port of a farm's job sockets; nothing if none was given to this channel.
    pub fn port(&self, farm: &str) -> Option<u16> {
        let usual = || PORTS.iter().find(|(name, _)| *name == farm).map(|(_, port)| *port);
        self.ports.get(farm).copied().or_else(usual)
    }

    /// Where a farm is asked from this host: at the sockets in `here`, if it runs here, and on every other host that runs it.
    pub fn places(&self, hostname: &str, farm: &str, here: &Path) -> Vec<Address> {
        let local = self.runs_here(hostname, farm).then(|| Address::Path(here.to_owned()));
        let others = self.elsewhere(hostname, farm);
        local.into_iter().chain(others.filter_map(|host| self.address(host, farm))).collect()
    }

    /// Where a host's farm is asked from others.
    pub fn address(&self, host: &Host, farm: &str) -> Option<Address> {
        let (host, at) = (host.name.clone(), host.address.clone());
        Some(Address::Tcp { host, at, port: self.port(farm)? })
    }

    /// Where this host's workers of a farm listen for jobs from others; nothing without a cluster.
    pub fn listen(&self, hostname: &str, farm: &str) -> Option<SocketAddr> {
        let here = self.here(hostname);
        let host = self.hosts.iter().find(|host| host.name == here)?;
        let address = host.address().parse().unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
        Some(SocketAddr::new(address, self.port(farm)?))
    }

    /// Looks for what cannot work. `farms` are the names of all farms that take jobs or sessions, `jobs` of those that take jobs.
    pub fn check(&self, hostname: &str, farms: &[String], jobs: &[String]) -> Result<(), Problem> {
        if !self.is_on() {
            return self.check_unused();
        }
        if self.hosts.len() > HOSTS_MAX {
            let wrong = format!("{} hosts", self.hosts.len());
            return Err(Problem::new("cluster.hosts", wrong, format!("at most {HOSTS_MAX}")));
        }
        for (place, host) in self.hosts.iter().enumerate() {
            self.check_host(place, host, farms)?;
        }
        let here = self.here(hostname);
        if !self.hosts.iter().any(|host| host.name == here) {
            let key = if self.host.is_some() { "cluster.host" } else { "cluster.hosts" };
            let wrong = format!("none of the hosts is {here}, this one");
            let right = "this host's entry in cluster.hosts, or its name there as cluster.host";
            return Err(Problem::new(key, wrong, right));
        }
        for farm in farms {
            if !self.hosts.iter().any(|host| host.runs(farm)) {
                let wrong = format!("no host runs the farm {farm}");
                return Err(Problem::new("cluster.hosts", wrong, "each farm on one host or more"));
            }
        }
        if !self.keys.is_absolute() {
            let wrong = format!("{} is not an absolute path", self.keys.display());
            return Err(Problem::new("cluster.keys", wrong, "a path that begins with /"));
        }
        self.check_ports(jobs)
    }

    fn check_unused(&self) -> Result<(), Problem> {
        if self.host.is_some() || !self.ports.is_empty() {
            let key = if self.host.is_some() { "cluster.host" } else { "cluster.ports" };
            let right = "cluster.hosts, which names the hosts and their farms";
            return Err(Problem::new(key, "means nothing without cluster.hosts", right));
        }
        Ok(())
    }

    fn check_host(&self, place: usize, host: &Host, farms: &[String]) -> Result<(), Problem> {
        let key = |name: &str| format!("cluster.hosts[{place}].{name}");
        if !is_host_name(&host.name) {
            let wrong = format!("{:?} is not a host name", host.name);
            return Err(Problem::new(key("name"), wrong, "letters, digits, hyphens and dots"));
        }
        if self.hosts.iter().take(place).any(|other| other.name == host.name) {
            let wrong = format!("{} is named twice", host.name);
            return Err(Problem::new(key("name"), wrong, "each host once, with all its farms"));
        }
        let address = host.address();
        if !is_host_name(address) && address.parse::<IpAddr>().is_err() {
            let wrong = format!("{address:?} is neither a name nor an IP address");
            let right = "a host's name or address without a port, as in \"10.0.0.1\"";
            return Err(Problem::new(key("address"), wrong, right));
        }
        let mut seen = BTreeSet::new();
        for farm in &host.farms {
            if !farms.contains(farm) {
                let wrong = format!("there is no farm {farm:?}");
                return Err(Problem::new(key("farms"), wrong, farms.join(", ")));
            }
            if !seen.insert(farm) {
                let wrong = format!("{farm} is named twice");
                return Err(Problem::new(key("farms"), wrong, "each farm once"));
            }
        }
        Ok(())
    }

    fn check_ports(&self, jobs: &[String]) -> Result<(), Problem> {
        if let Some(unknown) = self.ports.keys().find(|farm| !jobs.contains(farm)) {
            let wrong = format!("{unknown:?} is no farm that takes jobs");
            return Err(Problem::new("cluster.ports", wrong, jobs.join(", ")));
        }
        let mut used = BTreeMap::new();
        for farm in jobs {
            let Some(port) = self.port(farm).filter(|port| *port > 0) else {
                let wrong = format!("no port for {farm}");
                let right = format!("a port from 1 to 65535, as in ports = {{ {farm} = 4210 }}");
                return Err(Problem::new("cluster.ports", wrong, right));
            };
            if let Some(other) = used.insert(port, farm) {
                let wrong = format!("{port} is the port of {other} and of {farm}");
                return Err(Problem::new("cluster.ports", wrong, "a port of its own for each"));
            }
        }
        Ok(())
    }

    /// What is allowed and should be known.
    pub fn notices(&self) -> Vec<Notice> {
        let schedulers = self.hosts.iter().filter(|host| host.runs("scheduler")).count();
        if schedulers != 1 || self.hosts.len() < 2 {
            return Vec::new();
        }
        let what = "one host alone runs a scheduler: while it is away nothing is delivered";
        vec![Notice::new("cluster.hosts", what)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FARMS: [&str; 7] =
        ["smtp", "local", "error", "scheduler", "router", "requeue", "smtpserver"];

    fn host(name: &str, farms: &[&str]) -> Host {
        let farms = farms.iter().map(|farm| (*farm).to_owned()).collect();
        Host { name: name.to_owned(), address: None, farms }
    }

    fn good() -> Settings {
        let hosts =
            vec![host("mx1.example", &["smtpserver", "error"]), host("q1.example", &FARMS[..6])];
        Settings { hosts, ..Settings::default() }
    }

    fn check(settings: &Settings) -> Result<(), String> {
        let farms: Vec<String> = FARMS.iter().map(|farm| (*farm).to_owned()).collect();
        let jobs: Vec<String> =
            FARMS[..6].iter().chain(&[STATUS]).map(|farm| (*farm).to_owned()).collect();
        settings
            .check("mx1.example", &farms, &jobs)
            .map_err(|problem| format!("{}: {}", problem.key, problem.wrong))
    }

    #[test]
    fn farms_run_where_they_are_said_to() {
        let settings = good();
        assert_eq!(check(&settings), Ok(()));
        assert!(settings.runs_here("mx1.example", "smtpserver"));
        assert!(!settings.runs_here("mx1.example", "router"));
        assert!(settings.runs_here("mx1.example", STATUS));
        let of = |farm| -> Vec<&str> {
            settings.elsewhere("mx1.example", farm).map(|host| host.name.as_str()).collect()
        };
        assert_eq!(of("error"), ["q1.example"]);
        assert_eq!(of("smtpserver"), [""; 0]);
        let alone = Settings::default();
        assert!(alone.runs_here("x.example", "router"));
        assert_eq!(alone.listen("x.example", "router"), None);
    }

    #[test]
    fn job_sockets_listen_on_the_address_that_others_are_told() {
        let mut settings = good();
        let any = settings.listen("mx1.example", "error").expect("it is a host");
        assert_eq!(any.to_string(), "[::]:4203");
        settings.hosts[0].address = Some("10.0.0.1".to_owned());
        settings.ports.insert("error".to_owned(), 5000);
        let own = settings.listen("mx1.example", "error").expect("it is a host");
        assert_eq!(own.to_string(), "10.0.0.1:5000");
    }

    /// A change to good settings.
    type Spoil = fn(&mut Settings);

    #[test]
    fn what_cannot_work_is_refused() {
        let cases: &[(&str, Spoil)] = &[
            ("cluster.host: means nothing", |it| {
                it.hosts.clear();
                it.host = Some("a".to_owned());
            }),
            ("cluster.hosts[0].name: \"mx 1\" is not", |it| it.hosts[0].name = "mx 1".to_owned()),
            ("cluster.hosts[1].name: mx1.example is named twice", |it| {
                it.hosts[1].name = "mx1.example".to_owned();
            }),
            ("cluster.hosts[0].address: \"10.0.0.1:25\" is neither", |it| {
                it.hosts[0].address = Some("10.0.0.1:25".to_owned());
            }),
            ("cluster.hosts[0].farms: there is no farm \"routers\"", |it| {
                it.hosts[0].farms.push("routers".to_owned());
            }),
            ("cluster.hosts[0].farms: error is named twice", |it| {
                it.hosts[0].farms.push("error".to_owned());
            }),
            ("cluster.hosts: none of the hosts is mx1.example", |it| {
                it.hosts[0].name = "mx9.example".to_owned();
            }),
            ("cluster.host: none of the hosts is mx8.example", |it| {
                it.host = Some("mx8.example".to_owned());
            }),
            ("cluster.hosts: no host runs the farm smtpserver", |it| {
                it.hosts[0].farms.remove(0);
            }),
            ("cluster.keys: keys is not an absolute path", |it| it.keys = "keys".into()),
            ("cluster.ports: \"bulk\" is no farm", |it| {
                it.ports.insert("bulk".to_owned(), 4000);
            }),
            ("cluster.ports: 4192 is the port of", |it| {
                it.ports.insert("router".to_owned(), 4192);
            }),
            ("cluster.ports: no port for router", |it| {
                it.ports.insert("router".to_owned(), 0);
            }),
        ];
        for (expected, spoil) in cases {
            let mut settings = good();
            spoil(&mut settings);
            let told = check(&settings).expect_err(expected);
            assert!(told.starts_with(expected), "{told}: not {expected}");
        }
    }
}
