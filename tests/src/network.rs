//! Hosts of a test: network namespaces on one switch, whose links can be cut. Needs root.

use std::ffi::OsStr;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::{find, run};

/// Distinguishes the networks of one test program.
static NETWORKS: AtomicUsize = AtomicUsize::new(0);

/// A switch and the hosts on it; both go when this is dropped.
pub struct Network {
    /// What the names of its namespaces begin with.
    prefix: String,
    hosts: Vec<Host>,
}

/// A host on the switch: a network namespace with one address.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
    namespace: String,
    switch: String,
    /// The switch's end of its link.
    port: String,
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Network {
    /// Makes a switch without hosts.
    pub fn new() -> Self {
        let number = NETWORKS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("grange-{}-{number}", std::process::id());
        let network = Self { prefix, hosts: Vec::new() };
        let switch = network.switch();
        ip(["netns", "add", &switch]);
        ip(["-n", &switch, "link", "add", "switch", "type", "bridge"]);
        ip(["-n", &switch, "link", "set", "switch", "up"]);
        network
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.prefix)
    }

    /// Adds a host.
    pub fn host(&mut self, name: &str) -> Host {
        let number = u8::try_from(self.hosts.len() + 1).expect("fewer than 255 hosts");
        let host = Host {
            name: name.to_owned(),
            address: Ipv4Addr::new(10, 77, 0, number),
            namespace: format!("{}-{number}", self.prefix),
            switch: self.switch(),
            port: format!("port{number}"),
        };
        self.hosts.push(host.clone());
        let (own, switch) = (host.namespace.as_str(), host.switch.as_str());
        ip(["netns", "add", own]);
        ip([
            "-n", own, "link", "add", "eth0", "type", "veth", "peer", "name", &host.port, "netns",
            switch,
        ]);
        ip(["-n", switch, "link", "set", &host.port, "master", "switch", "up"]);
        ip(["-n", own, "address", "add", &format!("{}/24", host.address), "dev", "eth0"]);
        ip(["-n", own, "link", "set", "eth0", "up"]);
        ip(["-n", own, "link", "set", "lo", "up"]);
        host
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let hosts = self.hosts.iter().map(|host| host.namespace.clone());
        for namespace in hosts.chain([self.switch()]) {
            // What could not be made cannot be removed either.
            let _ = Command::new(find("ip")).args(["netns", "del", &namespace]).status();
        }
    }
}

impl Host {
    /// A command that runs on this host.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(find("ip"));
        command.args(["netns", "exec", &self.namespace]).arg(program);
        command
    }

    /// Does something on this host: what it listens on, and whom it connects to, is this host's. Threads that it starts stay here.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let path = Path::new("/run/netns").join(&self.namespace);
        let namespace = File::open(path).expect("the namespace is there");
        std::thread::scope(|scope| {
            let work = scope.spawn(move || {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                    .expect("a thread can move");
                work()
            });
            work.join().expect("the work on the host does not panic")
        })
    }

    /// Cuts its link: nothing reaches it and nothing leaves it, and nobody is told.
    pub fn cut(&self) {
        ip(["-n", &self.switch, "link", "set", &self.port, "nomaster"]);
    }

    /// Mends its link.
    pub fn mend(&self) {
        ip(["-n", &self.switch, "link", "set", &self.port, "master", "switch"]);
    }

    /// Cuts this host and another off from each other; others reach both.
    pub fn part(&self, other: &Self) {
        for (one, two) in [(self, other), (other, self)] {
            let address = two.address.to_string();
            ip(["-n", &one.namespace, "route", "add", "blackhole", &address]);
        }
    }

    /// Lets this host and another reach each other again.
    pub fn rejoin(&self, other: &Self) {
        for (one, two) in [(self, other), (other, self)] {
            let address = two.address.to_string();
            ip(["-n", &one.namespace, "route", "del", "blackhole", &address]);
        }
    }
}

fn ip<'a>(arguments: impl IntoIterator<Item = &'a str>) {
    let mut command = Command::new(find("ip"));
    let output = run(command.args(arguments));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
