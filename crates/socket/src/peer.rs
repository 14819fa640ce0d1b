//! The other host at the end of a TLS connection: who it is, how long it is believed, and whether it is there at all.

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::CertificateDer;
use sys::PeerWatch;
use tls::{Identity, IdentityError, Keys};
use tokio::net::TcpStream;

use crate::stream::TlsStream;

/// How the names of our protocols begin, which TLS agrees on; a socket's name follows.
const PROTOCOL: &str = "grange.";
/// How often it is looked whether a peer is still to be believed.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// A connection to a peer that is not believed any more takes no requests, and ends when all answers have come; or after so long,
/// which is what the slowest delivery may take.
const ANSWERS_WAIT: Duration = Duration::from_secs(15 * 60);
/// A peer is asked for a sign of life when it has been silent so long …
const ALIVE_AFTER: Duration = Duration::from_secs(5);
/// … and again so often …
const ALIVE_EVERY: Duration = Duration::from_secs(3);
/// … and the connection ends when nothing has come for so long, be it to a question or to something that was sent.
const DEAD_AFTER: Duration = Duration::from_secs(13);

/// The protocol that stands for a socket's conversation (ALPN, RFC 7301).
pub(crate) fn protocol(socket: &str) -> Vec<u8> {
    format!("{PROTOCOL}{socket}").into_bytes()
}

/// Lets the kernel send at once, and see to it that a peer that has gone without a word is noticed.
pub(crate) fn watch(stream: &TcpStream) -> io::Result<()> {
    sys::send_at_once(stream)?;
    let watch = PeerWatch { after: ALIVE_AFTER, every: ALIVE_EVERY, dead_after: DEAD_AFTER };
    sys::watch_peer(stream, &watch)
}

/// A peer's certificate, believed once, and how long it still is.
pub(crate) struct Faith {
    identity: Identity,
    chain: Vec<CertificateDer<'static>>,
    keys: Rc<Keys>,
    generation: u64,
}

impl Faith {
    /// What the peer of a connection has shown, with which it has just shaken hands.
    pub(crate) fn of(stream: &TlsStream, keys: &Rc<Keys>) -> Result<Self, IdentityError> {
        let chain = stream.session().peer_certificates().unwrap_or_default();
        let own = chain.first().ok_or(IdentityError::Hosts(0))?;
        let chain = chain.iter().map(|one| one.clone().into_owned()).collect();
        let identity = Identity::of(own)?;
        Ok(Self { identity, chain, keys: Rc::clone(keys), generation: keys.generation() })
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Resolves when the connection has gone, and else when the certificate runs out, or its authority is believed no more.
    pub(crate) async fn lost(mut self, is_up: impl Fn() -> bool) {
        while is_up() {
            let left = self.identity.time_left(SystemTime::now());
            if left.is_zero() {
                tracing::warn!(host = %self.identity.host, "a peer's certificate has run out: the connection ends");
                return;
            }
            let generation = self.keys.generation();
            if generation != self.generation && !self.keys.believes(&self.chain) {
                tracing::warn!(host = %self.identity.host, "a peer's authority is believed no more: the connection ends");
                return;
            }
            self.generation = generation;
            tokio::time::sleep(left.min(LOOK_EVERY)).await;
        }
    }
}

/// Resolves when a connection has gone, or has had its time to end.
pub(crate) async fn answers_waited_for(is_up: impl Fn() -> bool) {
    let end = Instant::now() + ANSWERS_WAIT;
    while is_up() && Instant::now() < end {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
