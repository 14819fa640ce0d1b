//! Who is let in, and what all sessions of a worker share.

use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use job::inspect::Steps;
use queue::Intake;
use smtp::server::{BareNewline, Config, Extension, Limits, Pipelining, Reply};
use tokio::net::TcpStream;

use crate::input::Pool;
use crate::neighbours::Neighbours;
use crate::network::mask;
use crate::session::Session;
use crate::settings::{self, Service};
use crate::watch::Watch;
use crate::{Assignment, Counter, OnFilterCrash, Settings};

/// The part of an IPv6 address that counts as one client: what a provider gives to one customer.
const CLIENT_PREFIX_V6: u8 = 64;

/// What the sessions of a worker share.
pub(crate) struct Stage {
    pub(crate) settings: Settings,
    pub(crate) hostname: String,
    pub(crate) inspect: bool,
    pub(crate) steps: Steps,
    pub(crate) on_filter_crash: OnFilterCrash,
    pub(crate) config: Rc<Config>,
    pub(crate) intake: Rc<dyn Intake>,
    pub(crate) neighbours: Rc<dyn Neighbours>,
    pub(crate) watch: Rc<Watch>,
    pub(crate) pool: Rc<Pool>,
    /// A name for this worker that no other has, living or dead.
    name: String,
    sessions: Cell<u64>,
}

/// Who a client is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) may_relay: bool,
    pub(crate) service: Service,
}

impl Stage {
    pub(crate) fn new(
        assignment: Assignment,
        intake: Rc<dyn Intake>,
        neighbours: Rc<dyn Neighbours>,
        name: String,
    ) -> Self {
        let Assignment { settings, hostname, inspect, steps, on_filter_crash } = assignment;
        let config = Rc::new(Config {
            hostname: hostname.clone(),
            banner: settings.banner.clone(),
            extensions: Extension::ALL.to_vec(),
            limits: Limits {
                message_bytes_max: settings.message_bytes_max.0,
                recipients_max: settings.recipients_max,
                line_bytes_max: settings.line_bytes_max,
                errors_max: settings.errors_max,
            },
            pipelining: match settings.pipelining {
                settings::Pipelining::Strict => Pipelining::Strict,
                settings::Pipelining::Lenient => Pipelining::Lenient,
            },
        });
        Self {
            settings,
            hostname,
            inspect,
            steps,
            on_filter_crash,
            config,
            intake,
            neighbours,
            watch: Rc::default(),
            pool: Rc::default(),
            name,
            sessions: Cell::new(0),
        }
    }

    /// Who a client that connects from there is.
    pub(crate) fn client(&self, peer: SocketAddr, service: Service) -> Client {
        let address = peer.ip().to_canonical();
        let may_relay = self.settings.may_relay(address);
        Client { address, port: peer.port(), may_relay, service }
    }

    /// What is done with a client's bare CR and LF.
    pub(crate) fn bare_newline(&self, client: &Client) -> BareNewline {
        match self.settings.bare_newline {
            Some(settings::BareNewline::Reject) => BareNewline::Reject,
            Some(settings::BareNewline::Normalise) => BareNewline::Normalise,
            None if client.may_relay => BareNewline::Normalise,
            None => BareNewline::Reject,
        }
    }

    /// Tells a client to come back later, and is done with it: whoever waited to see it go would hold its place meanwhile, and many
    /// who are refused would leave no place for others.
    pub(crate) fn refuse(&self, stream: TcpStream, client: &Client, reply: &Reply) {
        let mut said = Vec::new();
        reply.write(&mut said);
        // Not through the runtime, which may not know yet that the connection takes bytes; a new one does, and more than these.
        if let Ok(mut stream) = stream.into_std() {
            let _ = stream.write_all(&said);
        }
        self.neighbours.count(Counter::SessionsRefused, 1);
        tracing::info!(client = %client.address, %reply, "session refused");
    }

    /// A name for a session that no other session of any worker has.
    pub(crate) fn session_name(&self) -> String {
        let number = self.sessions.get() + 1;
        self.sessions.set(number);
        format!("{}-{number}", self.name)
    }
}

/// Where connections come in.
pub(crate) struct Door {
    pub(crate) worker: farm::Worker,
    pub(crate) stage: Rc<Stage>,
}

impl Door {
    /// Begins a session, or tells the client to come back later.
    pub(crate) fn open(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        service: Service,
        connection: farm::Connection,
    ) {
        let client = self.stage.client(peer, service);
        let key = client_key(client.address);
        let presence = Presence { worker: self.worker.clone(), key };
        let sessions_of_client = self.worker.tally_enter(key);
        let settings = &self.stage.settings;
        let refusal = if self.worker.connections_in_farm() > settings.sessions_max {
            Some(Reply::new(421, 3, 2, "Too many connections, try again later"))
        } else if sessions_of_client > settings.sessions_per_client_max && !client.may_relay {
            Some(Reply::new(421, 7, 0, "Too many connections from your address, try again later"))
        } else {
            None
        };
        self.stage.neighbours.count(Counter::Sessions, 1);
        if let Some(reply) = refusal {
            return self.stage.refuse(stream, &client, &reply);
        }
        let session = Session::new(Rc::clone(&self.stage), stream, client);
        tokio::task::spawn_local(async move {
            let _in_hand = (connection, presence);
            session.run().await;
        });
    }
}

/// A client counted in all workers as long as this lives.
struct Presence {
    worker: farm::Worker,
    key: u64,
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.worker.tally_leave(self.key);
    }
}

fn client_key(address: IpAddr) -> u64 {
    let client = match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(_) => mask(address, CLIENT_PREFIX_V6),
    };
    let mut hasher = DefaultHasher::new();
    client.hash(&mut hasher);
    hasher.finish()
}
