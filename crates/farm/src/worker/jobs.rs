//! Jobs across hosts: the worker's job port, and where its clients find other farms.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use socket::{Address, Client, Conversation, Door, Places, Remote, Server, Watch};
use tls::{Keys, KeysError};

use super::accept::Accept;
use super::inner::Begin;
use crate::handover::WorkerHandover;
use crate::scoreboard::JOBS_GAUGE;

/// Where farms are asked, by their names.
type PlacesByFarm = BTreeMap<String, Vec<Address>>;

pub(super) struct Jobs {
    run_dir: PathBuf,
    keys: Option<Rc<Keys>>,
    callers: BTreeMap<String, Vec<String>>,
    places: RefCell<PlacesByFarm>,
    door: Option<Door>,
    /// The job port, until it is accepted on.
    port: RefCell<Option<OwnedFd>>,
    pub(super) address: Option<SocketAddr>,
    clients: RefCell<Vec<Held>>,
}

/// A client, and the socket that it asks.
struct Held {
    client: Box<dyn Watch>,
    socket: String,
}

impl Jobs {
    pub(super) fn new(
        given: &WorkerHandover,
        port: Option<(OwnedFd, SocketAddr)>,
    ) -> Result<Self, KeysError> {
        let keys = given.keys.as_deref().map(Keys::load).transpose()?.map(Rc::new);
        let (port, address) = port.unzip();
        Ok(Self {
            run_dir: given.run_dir.clone(),
            callers: given.callers.clone(),
            places: RefCell::new(given.places.clone()),
            door: port.as_ref().and(keys.clone()).map(Door::new),
            port: RefCell::new(port),
            address,
            keys,
            clients: RefCell::default(),
        })
    }

    /// Lets other hosts ask a socket, if they may.
    pub(super) fn serve<C: Conversation>(&self, socket: &str, server: &Server<C>) {
        if let (Some(door), Some(callers)) = (&self.door, self.callers.get(socket)) {
            door.add(socket, callers.clone(), server);
        }
    }

    /// Begins to accept, if there is a job port; once.
    pub(super) fn begin(&self) -> Option<Begin> {
        let door = self.door.clone()?;
        let listener = self.port.take()?;
        let accept = Accept { listener, gauge: JOBS_GAUGE, limited: false };
        Some(accept.tcp(move |stream, address, connection| {
            door.take(stream, address, Some(Box::new(connection)));
        }))
    }

    /// Nobody is let in any more.
    pub(super) fn close(&self) {
        self.port.take();
    }

    /// Takes charge of a client, so that it goes where its farm goes.
    pub(super) fn hold<C: Conversation>(&self, client: &Client<C>, socket: &str) {
        let (client, socket) = (client.watch(), socket.to_owned());
        let mut clients = self.clients.borrow_mut();
        clients.retain(|held| !held.client.is_over() && held.client.id() != client.id());
        clients.push(Held { client, socket });
    }

    /// Whether an answer is due to one of the clients.
    pub(super) fn waits(&self) -> bool {
        self.clients.borrow().iter().any(|held| held.client.outstanding() > 0)
    }

    /// Other farms are elsewhere now.
    pub(super) fn places_changed(&self, places: PlacesByFarm) {
        self.places.replace(places);
        for held in self.clients.borrow().iter() {
            held.client.move_to(self.find(&held.socket));
        }
    }

    /// Where a socket is: `router.route`, `admin/scheduler.admin`, or an absolute path.
    pub(super) fn find(&self, socket: &str) -> Places {
        let here = self.run_dir.join("sockets");
        let name = socket.strip_prefix("admin/").unwrap_or(socket);
        let farm = name.split('.').next().unwrap_or_default();
        let places = self.places.borrow();
        let Some(found) = places.get(farm).filter(|_| !Path::new(socket).is_absolute()) else {
            return here.join(socket).into();
        };
        let addresses = found.iter().map(|address| match address {
            Address::Path(directory) => Address::Path(directory.join(socket)),
            Address::Tcp { .. } => address.clone(),
        });
        let remote = self.keys.clone().map(|keys| {
            let (farm, socket) = (farm.to_owned(), name.to_owned());
            Remote { keys, farm, socket }
        });
        Places { addresses: addresses.collect(), remote }
    }
}
