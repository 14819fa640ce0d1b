//! Hosts for tests: an authority, keys, and job ports on loopback.

use std::cell::Cell;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use tls::{Issue, Keys};
use tokio::net::TcpListener;

use super::{Echo, Echoer, until};
use crate::{Address, Client, ClientSettings, Door, Places, Remote, Server, ServerSettings};

/// The name of every host here: the only one that is looked up as loopback.
pub(crate) const HOST: &str = "localhost";

/// An authority, and directories of keys from it.
pub(crate) struct Hosts {
    directory: tempfile::TempDir,
    count: Cell<u32>,
}

impl Hosts {
    pub(crate) fn new() -> Self {
        let this = Self { directory: tempfile::tempdir().unwrap(), count: Cell::new(0) };
        tls::init(&this.authority()).unwrap();
        this
    }

    pub(crate) fn authority(&self) -> PathBuf {
        self.directory.path().join("authority")
    }

    /// The text of the authority's certificate.
    pub(crate) fn authority_text(&self) -> String {
        std::fs::read_to_string(self.authority().join(tls::AUTHORITY_FILE)).unwrap()
    }

    /// A new directory of keys for a host.
    pub(crate) fn issue(&self, host: &str, farms: &[&str], until: SystemTime) -> PathBuf {
        let count = self.count.replace(self.count.get() + 1);
        let out = self.directory.path().join(format!("{host}.{count}"));
        self.issue_to(out.clone(), host, farms, until);
        out
    }

    /// Issues keys into a directory, in place of what is there.
    pub(crate) fn issue_to(&self, out: PathBuf, host: &str, farms: &[&str], until: SystemTime) {
        let farms = farms.iter().map(|&farm| farm.to_owned()).collect();
        let wanted = Issue { host: host.to_owned(), farms, until, out, replace: true };
        tls::issue(&self.authority(), &wanted).unwrap();
    }

    /// Keys that hold for a while.
    pub(crate) fn keys(&self, host: &str, farms: &[&str]) -> Rc<Keys> {
        let directory = self.issue(host, farms, tls::days_from_now(2));
        Rc::new(Keys::load(&directory).unwrap())
    }
}

/// A farm's job port on loopback.
pub(crate) struct Port {
    pub(crate) address: SocketAddr,
    pub(crate) server: Server<Echo>,
}

impl Port {
    /// Serves the conversation of `test.echo` to hosts that may run `asker`.
    pub(crate) async fn open(keys: Rc<Keys>, echoer: Rc<Echoer>, settings: ServerSettings) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = Server::new(echoer, settings);
        let door = Door::new(keys);
        door.add("test.echo", vec!["other".to_owned(), "asker".to_owned()], &server);
        tokio::task::spawn_local(async move {
            while let Ok((stream, from)) = listener.accept().await {
                door.take(stream, from, None);
            }
        });
        Self { address, server }
    }

    pub(crate) fn place(&self) -> Address {
        Address::Tcp { host: HOST.to_owned(), at: None, port: self.address.port() }
    }

    /// A client that wants the farm `test` there.
    pub(crate) fn client(&self, keys: Rc<Keys>) -> Client<Echo> {
        client(vec![self.place()], keys, Duration::from_secs(5))
    }
}

pub(crate) fn client(addresses: Vec<Address>, keys: Rc<Keys>, deadline: Duration) -> Client<Echo> {
    let settings = ClientSettings { deadline, waiting_max: 3, ..ClientSettings::default() };
    Client::new(places(addresses, keys), settings)
}

/// The farm `test` in these places.
pub(crate) fn places(addresses: Vec<Address>, keys: Rc<Keys>) -> Places {
    let (farm, socket) = ("test".to_owned(), "test.echo".to_owned());
    Places { addresses, remote: Some(Remote { keys, farm, socket }) }
}

/// Says whether a call is answered.
pub(crate) async fn answers(client: &Client<Echo>) -> bool {
    client.call(&super::say("?")).await.is_ok()
}

/// Waits until a client has so many connections.
pub(crate) async fn connected(client: &Client<Echo>, count: usize) {
    client.connect();
    until(|| client.peers().len() == count).await;
}
