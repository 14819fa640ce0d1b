//! Making connections: connect, read `hello`, choose a version, and try again with back-off.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use serde::Serialize;
use tls::Identity;
use tokio::net::{TcpStream, UnixStream, lookup_host};

use super::connection::{Connection, Hello};
use super::place::{Place, Remote};
use super::pool::DialGuard;
use crate::frame::{self, Frame};
use crate::link::{self, Link};
use crate::peer::{self, Faith};
use crate::stream::{Stream, TlsStream};
use crate::{Address, Conversation};

/// The first pause after a failure.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The longest pause when the kernel gives us a worker that we have already, and another lacks a connection.
const PAUSE_SURPLUS_MAX: Duration = Duration::from_secs(5);
/// How long a server may take for its `hello`. A farm whose workers are all full accepts nobody.
const HELLO_WAIT: Duration = Duration::from_secs(10);
/// How long one address of another host may take to accept; the next is tried then.
const CONNECT_WAIT: Duration = Duration::from_secs(3);
/// The most addresses of a host that are tried.
const ADDRESSES_MAX: usize = 16;
/// The longest `hello` that is read.
const HELLO_BYTES_MAX: usize = 64 << 10;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("cannot find the host: {0}")]
    Name(#[source] io::Error),
    #[error("this host has no keys to connect with")]
    NoKeys,
    #[error("the connection is not safe: {0}")]
    Unsafe(#[source] io::Error),
    #[error("its certificate is of {host}, which may run {farms:?} and not {wanted}")]
    Farm { host: String, farms: Vec<String>, wanted: String },
    #[error("its certificate does not say who it is: {0}")]
    Identity(#[source] tls::IdentityError),
    #[error("it refuses: {0}")]
    Refused(String),
    #[error("no hello within ten seconds")]
    Silent,
    #[error("it closed before its hello")]
    Closed,
    #[error("its first line is no hello")]
    NoHello,
    #[error("it holds the conversation {0:?}")]
    Conversation(String),
    #[error("it speaks the versions {theirs:?}, and here {ours:?} are spoken: none in common")]
    Versions { theirs: Vec<u32>, ours: &'static [u32] },
}

/// How one attempt went.
enum Dialled {
    Up,
    Surplus,
    Failed(DialError),
    /// The pool has gone, or is to connect elsewhere.
    NotWanted,
}

#[derive(Serialize)]
struct Use {
    version: u32,
    /// The server is to ask for how long it may act on what it is asked.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    leased: bool,
}

/// Makes connections until each worker of the place has one.
pub(super) async fn dial<C: Conversation>(guard: DialGuard<C>) {
    let place = Rc::clone(&guard.place);
    let mut pause = PAUSE_MIN;
    let mut quiet = false;
    while guard.pool().is_some_and(|pool| pool.lacks(&place)) {
        let pause_max = match dial_once(&guard).await {
            Dialled::NotWanted => return,
            Dialled::Up => {
                pause = PAUSE_MIN;
                quiet = false;
                continue;
            }
            Dialled::Surplus => PAUSE_SURPLUS_MAX,
            Dialled::Failed(error) => {
                // A farm that is being started or replaced is nothing to write home about, nor one that stands by for another; said
                // once until it changes.
                let stands_by = matches!(error, DialError::Silent)
                    && guard.pool().is_some_and(|pool| pool.has_other_places());
                let is_grave =
                    !matches!(error, DialError::Connect(_) | DialError::Closed) && !stands_by;
                if is_grave && !std::mem::replace(&mut quiet, true) {
                    tracing::warn!(conversation = C::NAME, place = %place.address, %error, "no connection");
                } else {
                    tracing::debug!(conversation = C::NAME, place = %place.address, %error, "no connection");
                }
                PAUSE_MAX
            }
        };
        // Something has changed before the pause is over: try at once, and begin anew.
        match tokio::time::timeout(jittered(pause), place.redial.notified()).await {
            Ok(()) => pause = PAUSE_MIN,
            Err(_) => pause = (pause * 2).min(pause_max),
        }
    }
}

async fn dial_once<C: Conversation>(guard: &DialGuard<C>) -> Dialled {
    let place = &guard.place;
    let greeted = match tokio::time::timeout(HELLO_WAIT, greet::<C>(place)).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => return Dialled::Failed(error),
        Err(_) => return Dialled::Failed(DialError::Silent),
    };
    let Greeted { stream, faith, hello, rest, told_pid } = greeted;
    let Some(pool) = guard.pool() else {
        return Dialled::NotWanted;
    };
    if told_pid && pool.has(place.process(hello.pid)) {
        pool.farm_changed(place, &hello.farm);
        return Dialled::Surplus;
    }
    let (link, half) = Link::new(stream);
    // On this host the kernel says at once that a connection has ended: only what has an end is leased.
    let lease = pool.settings.lease.clone().filter(|left| faith.is_some() || left().is_some());
    let used = Use { version: hello.version, leased: lease.is_some() };
    link.append(|out| frame::write_notification(out, "use", &used));
    let (this, place) = (Rc::downgrade(&pool), Rc::clone(place));
    let mut connection = Connection::new(this, link, pool.next_peer(), place, &hello);
    if let Some(lease) = lease {
        connection = connection.leased(lease);
    }
    let connection = Rc::new(connection);
    pool.came(connection.clone(), &hello.farm);
    drop(pool);
    if let Some(faith) = faith {
        let connection = Rc::downgrade(&connection);
        tokio::task::spawn_local(async move {
            let is_up = || connection.upgrade().is_some_and(|connection| connection.link.is_up());
            faith.lost(is_up).await;
            if let Some(connection) = connection.upgrade() {
                connection.end_soon();
            }
            peer::answers_waited_for(is_up).await;
            if let Some(connection) = connection.upgrade() {
                connection.link.close();
            }
        });
    }
    tokio::task::spawn_local(async move {
        let end = link::run(&connection.link, half.after(rest), &*connection).await;
        tracing::debug!(conversation = C::NAME, worker = %connection.worker, %end, "a connection has ended");
        match connection.pool.upgrade() {
            Some(pool) => pool.gone(&connection, &end),
            None => connection.lose_all(),
        }
    });
    Dialled::Up
}

/// A server that has said `hello`, and whatever it said after that.
struct Greeted {
    stream: Stream,
    /// How long it is believed, where it has shown a certificate.
    faith: Option<Faith>,
    hello: Hello,
    rest: Vec<u8>,
    /// Whether the server itself told its process id, so that two connections to one worker can be known.
    told_pid: bool,
}

async fn greet<C: Conversation>(place: &Place) -> Result<Greeted, DialError> {
    let (mut stream, faith) = match (&place.address, &place.remote) {
        (Address::Path(path), _) => (Stream::Unix(connect(path).await?), None),
        (Address::Tcp { .. }, None) => return Err(DialError::NoKeys),
        (Address::Tcp { host, at, port }, Some(remote)) => {
            let at = (at.as_deref().unwrap_or(host), *port);
            let (stream, faith) = connect_tls(host, at, remote).await?;
            (Stream::Tls(Box::new(stream)), Some(faith))
        }
    };
    let mut line = read_line(&mut stream).await?;
    let end = memchr::memchr(b'\n', &line).unwrap_or(line.len());
    let rest = line.split_off((end + 1).min(line.len()));
    let mut hello = match frame::parse(&line) {
        Ok(Frame::Notification { method, params }) if method == "hello" => {
            serde_json::from_str::<Hello>(params.get()).map_err(|_| DialError::NoHello)?
        }
        Ok(Frame::Error { id: None, error }) => return Err(DialError::Refused(error.message)),
        _ => return Err(DialError::NoHello),
    };
    if hello.conversation != C::NAME {
        return Err(DialError::Conversation(hello.conversation));
    }
    let version = C::VERSIONS.iter().copied().find(|version| hello.versions.contains(version));
    hello.version = version
        .ok_or_else(|| DialError::Versions { theirs: hello.versions.clone(), ours: C::VERSIONS })?;
    let told_pid = hello.pid != 0;
    if let (false, Stream::Unix(stream)) = (told_pid, &stream) {
        hello.pid = sys::peer_identity(stream).map_or(0, |peer| peer.pid);
    }
    Ok(Greeted { stream, faith, hello, rest, told_pid })
}

async fn connect(path: &Path) -> Result<UnixStream, DialError> {
    UnixStream::connect(path).await.map_err(DialError::Connect)
}

/// Connects to another host, whose name is looked up now, and sees to it that it is that host, and may run that farm.
async fn connect_tls(
    host: &str,
    at: (&str, u16),
    remote: &Remote,
) -> Result<(TlsStream, Faith), DialError> {
    let addresses = lookup_host(at).await.map_err(DialError::Name)?;
    let mut failed = DialError::Name(io::ErrorKind::NotFound.into());
    for address in addresses.take(ADDRESSES_MAX) {
        let connected = match tokio::time::timeout(CONNECT_WAIT, TcpStream::connect(address)).await
        {
            Ok(connected) => connected.map_err(DialError::Connect),
            Err(_) => Err(DialError::Connect(io::ErrorKind::TimedOut.into())),
        };
        let greeted = match connected {
            Ok(stream) => shake_hands(stream, host, remote).await,
            Err(error) => Err(error),
        };
        match greeted {
            Ok(greeted) => return Ok(greeted),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

async fn shake_hands(
    stream: TcpStream,
    host: &str,
    remote: &Remote,
) -> Result<(TlsStream, Faith), DialError> {
    peer::watch(&stream).map_err(DialError::Connect)?;
    let unsafe_at = |error: rustls::Error| DialError::Unsafe(io::Error::other(error));
    let config = remote.keys.client(peer::protocol(&remote.socket));
    let name = ServerName::try_from(host.to_owned())
        .map_err(|error| DialError::Unsafe(io::Error::other(error)))?;
    let session = rustls::ClientConnection::new(config, name).map_err(unsafe_at)?;
    let stream =
        TlsStream::begin(stream, session.into()).await.map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData => DialError::Unsafe(error),
            _ => DialError::Connect(error),
        })?;
    let faith = Faith::of(&stream, &remote.keys).map_err(DialError::Identity)?;
    let Identity { host, farms, .. } = faith.identity();
    if !faith.identity().may_run(&remote.farm) {
        let (host, farms, wanted) = (host.clone(), farms.clone(), remote.farm.clone());
        return Err(DialError::Farm { host, farms, wanted });
    }
    Ok((stream, faith))
}

/// Reads until a line is whole; what came with it follows it.
async fn read_line(stream: &mut Stream) -> Result<Vec<u8>, DialError> {
    let mut bytes = Vec::new();
    while !bytes.contains(&b'\n') {
        let before = bytes.len();
        stream.read(&mut bytes).await.map_err(|error| match error.kind() {
            // Where the server minds our certificate it says so only now.
            io::ErrorKind::InvalidData => DialError::Unsafe(error),
            _ => DialError::Connect(error),
        })?;
        if bytes.len() == before {
            return Err(DialError::Closed);
        }
        if bytes.len() >= HELLO_BYTES_MAX {
            return Err(DialError::NoHello);
        }
    }
    Ok(bytes)
}

/// Between half and all of a pause, so that many who lost the same server do not come back as one.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0u8);
    let part = (random % 512) as u32;
    pause / 2 + pause / 2 * part / 512
}
