//! Making connections: connect, read `hello`, choose a version, and try again with back-off.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde::Serialize;
use tokio::net::UnixStream;
use tokio::sync::Notify;

use super::connection::{Connection, Hello};
use super::pool::{DialGuard, Pool};
use crate::Conversation;
use crate::frame::{self, Frame};
use crate::link::{self, Link};

/// The first pause after a failure.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause after failures.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The longest pause when the kernel gives us a worker that we have already, and another lacks a connection.
const PAUSE_SURPLUS_MAX: Duration = Duration::from_secs(5);
/// How long a server may take for its `hello`. A farm whose workers are all full accepts nobody.
const HELLO_WAIT: Duration = Duration::from_secs(10);

/// The longest `hello` that is read.
const HELLO_BYTES_MAX: usize = 64 << 10;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
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
    /// It is to connect elsewhere now.
    Moved,
    PoolGone,
}

#[derive(Serialize)]
struct Use {
    version: u32,
}

/// Makes connections until each worker of the farm has one.
pub(super) async fn dial<C: Conversation>(guard: DialGuard<C>, redial: Rc<Notify>) {
    let mut pause = PAUSE_MIN;
    let mut quiet = false;
    let mut before = None;
    loop {
        let path = match guard.pool() {
            Some(pool) if pool.lacks() => pool.path(),
            _ => return,
        };
        if before.replace(path.clone()).is_some_and(|before| before != path) {
            pause = PAUSE_MIN;
            quiet = false;
        }
        let pause_max = match dial_once(&guard, &path).await {
            Dialled::PoolGone => return,
            Dialled::Moved => continue,
            Dialled::Up => {
                pause = PAUSE_MIN;
                quiet = false;
                continue;
            }
            Dialled::Surplus => PAUSE_SURPLUS_MAX,
            Dialled::Failed(error) => {
                // A farm that is being started or replaced is nothing to write home about; said once until it changes.
                let is_grave = !matches!(error, DialError::Connect(_) | DialError::Closed);
                if is_grave && !std::mem::replace(&mut quiet, true) {
                    tracing::warn!(conversation = C::NAME, path = %path.display(), %error, "no connection");
                } else {
                    tracing::debug!(conversation = C::NAME, path = %path.display(), %error, "no connection");
                }
                PAUSE_MAX
            }
        };
        // Something has changed before the pause is over: try at once, and begin anew.
        match tokio::time::timeout(jittered(pause), redial.notified()).await {
            Ok(()) => pause = PAUSE_MIN,
            Err(_) => pause = (pause * 2).min(pause_max),
        }
    }
}

async fn dial_once<C: Conversation>(guard: &DialGuard<C>, path: &Path) -> Dialled {
    let greeted = match tokio::time::timeout(HELLO_WAIT, greet::<C>(path)).await {
        Ok(Ok(greeted)) => greeted,
        Ok(Err(error)) => return Dialled::Failed(error),
        Err(_) => return Dialled::Failed(DialError::Silent),
    };
    let Greeted { stream, hello, rest, told_pid } = greeted;
    let Some(pool) = guard.pool() else {
        return Dialled::PoolGone;
    };
    if pool.path() != path {
        return Dialled::Moved;
    }
    if told_pid && pool.has(hello.pid) {
        pool.farm_changed(&hello.farm);
        return Dialled::Surplus;
    }
    let (link, read) = Link::new(stream);
    link.append(|out| frame::write_notification(out, "use", &Use { version: hello.version }));
    let connection = Connection::new(Rc::downgrade(&pool), link, pool.next_peer(), &hello);
    let connection = Rc::new(connection);
    pool.came(connection.clone(), &hello.farm);
    drop(pool);
    tokio::task::spawn_local(async move {
        let end = link::run(&connection.link, read, &*connection, rest).await;
        tracing::debug!(conversation = C::NAME, worker = %connection.worker, %end, "a connection has ended");
        match connection.pool.upgrade() {
            Some(pool) => Pool::gone(&pool, &connection),
            None => connection.lose_all(),
        }
    });
    Dialled::Up
}

/// A server that has said `hello`, and whatever it said after that.
struct Greeted {
    stream: UnixStream,
    hello: Hello,
    rest: Vec<u8>,
    /// Whether the server itself told its process id, so that two connections to one worker can be known.
    told_pid: bool,
}

async fn greet<C: Conversation>(path: &Path) -> Result<Greeted, DialError> {
    let stream = UnixStream::connect(path).await.map_err(DialError::Connect)?;
    let mut line = read_line(&stream).await?;
    let end = memchr::memchr(b'\n', &line).unwrap_or(line.len());
    let rest = line.split_off((end + 1).min(line.len()));
    let mut hello = match frame::parse(&line) {
        Ok(Frame::Notification { method, params }) if method == "hello" => {
            serde_json::from_str::<Hello>(params.get()).map_err(|_| DialError::NoHello)?
        }
        _ => return Err(DialError::NoHello),
    };
    if hello.conversation != C::NAME {
        return Err(DialError::Conversation(hello.conversation));
    }
    let version = C::VERSIONS.iter().copied().find(|version| hello.versions.contains(version));
    hello.version = version
        .ok_or_else(|| DialError::Versions { theirs: hello.versions.clone(), ours: C::VERSIONS })?;
    let told_pid = hello.pid != 0;
    if !told_pid {
        hello.pid = sys::peer_identity(&stream).map_or(0, |peer| peer.pid);
    }
    Ok(Greeted { stream, hello, rest, told_pid })
}

/// Reads until a line is whole; what came with it follows it.
async fn read_line(stream: &UnixStream) -> Result<Vec<u8>, DialError> {
    let mut bytes = Vec::new();
    loop {
        stream.readable().await.map_err(DialError::Connect)?;
        let mut chunk = [0u8; 2048];
        match stream.try_read(&mut chunk) {
            Ok(0) => return Err(DialError::Closed),
            Ok(length) => bytes.extend_from_slice(chunk.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) => return Err(DialError::Connect(error)),
        }
        if bytes.contains(&b'\n') {
            return Ok(bytes);
        }
        if bytes.len() >= HELLO_BYTES_MAX {
            return Err(DialError::NoHello);
        }
    }
}

/// Between half and all of a pause, so that many who lost the same server do not come back as one.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(0u8);
    let part = (random % 512) as u32;
    pause / 2 + pause / 2 * part / 512
}
