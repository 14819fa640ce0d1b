//! Named listening sockets: bound under another name and renamed into place, served to those who may.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use sys::PeerIdentity;

use crate::{Conversation, Server, ServerSettings, Service};

/// Pause after a failed accept, such as for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Who may use a socket, besides root and the server's own user. The modes of the directories above it decide first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Access {
    /// Users.
    pub uids: Vec<u32>,
    /// Groups: the peer's own, or one of its supplementary groups.
    pub gids: Vec<u32>,
}

impl Access {
    /// Whether this peer may use the socket.
    pub fn allows(&self, peer: &PeerIdentity) -> bool {
        peer.uid == 0
            || peer.uid == sys::effective_ids().0
            || self.uids.contains(&peer.uid)
            || peer.gids.iter().any(|gid| self.gids.contains(gid))
    }
}

/// Mode and owner of a socket's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ownership {
    /// The mode's low nine bits.
    pub mode: u32,
    /// User and group, where they are not our own.
    pub owner: Option<(u32, u32)>,
}

/// A socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot bind the socket {path}: {what}")]
pub struct BindError {
    /// The socket's file.
    pub path: PathBuf,
    what: &'static str,
    #[source]
    source: io::Error,
}

/// Binds a listening socket at `path`, replacing whatever socket was there: it appears under its name only when it listens and
/// has its mode and owner. That no other instance uses the directory is for the caller to see to.
pub fn bind(path: &Path, ownership: &Ownership) -> Result<UnixListener, BindError> {
    let failed = |what: &'static str| {
        move |source: io::Error| BindError { path: path.to_owned(), what, source }
    };
    let name = path.file_name().ok_or(io::Error::from(io::ErrorKind::InvalidFilename));
    let name = name.map_err(failed("it has no name"))?.to_string_lossy();
    // Short, because a socket's path may have at most 107 bytes.
    let temporary = path.with_file_name(format!(".{name}.new"));
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("cannot remove what an earlier start left")(error));
        }
        _ => {}
    }
    let listener = sys::bind_unix(&temporary, ownership.mode).map_err(failed("binding failed"))?;
    let in_place = || {
        if let Some((uid, gid)) = ownership.owner {
            // Never through a symbolic link: the directory may be another user's.
            std::os::unix::fs::lchown(&temporary, Some(uid), Some(gid))
                .map_err(failed("cannot give it to its user and group"))?;
        }
        std::fs::rename(&temporary, path).map_err(failed("cannot rename it into place"))
    };
    in_place().inspect_err(|_| {
        let _ = std::fs::remove_file(&temporary);
    })?;
    Ok(listener)
}

/// Serves a conversation on a listening socket for ever: for programs that are no farm. Farms accept by their own rules and
/// hand connections to [`Server::take`].
///
/// # Errors
///
/// When the listener cannot be used with the runtime at all; a failed accept is logged and tried again.
pub async fn serve_listener<C: Conversation>(
    listener: UnixListener,
    service: Rc<dyn Service<C>>,
    settings: ServerSettings,
) -> io::Result<std::convert::Infallible> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let server = Server::new(service, settings);
    loop {
        match listener.accept().await {
            Ok((stream, _)) => server.take(stream, None),
            Err(error) => {
                tracing::warn!(conversation = C::NAME, %error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_stale_file_is_replaced_and_nothing_else_is_left() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("test.echo");
        std::fs::write(&path, "stale").unwrap();
        let ownership = Ownership { mode: 0o660, owner: None };
        let _first = bind(&path, &ownership).unwrap();
        let second = bind(&path, &ownership).unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert!(second.accept().is_ok());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o660);
        assert_eq!(directory.path().read_dir().unwrap().count(), 1);
    }

    #[test]
    fn an_unusable_place_is_named() {
        let error = bind(Path::new("/nonexistent/a.b"), &Ownership { mode: 0o600, owner: None });
        assert!(error.unwrap_err().to_string().contains("/nonexistent/a.b"));
    }

    #[test]
    fn access_is_by_user_or_group() {
        let access = Access { uids: vec![1001], gids: vec![2002] };
        let peer = |uid, gids: &[u32]| PeerIdentity { pid: 1, uid, gids: gids.to_vec() };
        assert!(access.allows(&peer(0, &[])));
        assert!(access.allows(&peer(sys::effective_ids().0, &[])));
        assert!(access.allows(&peer(1001, &[5])));
        assert!(access.allows(&peer(54321, &[5, 2002])));
        assert!(!access.allows(&peer(54321, &[1001])));
    }
}
