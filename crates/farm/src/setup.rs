//! What must be in place before a farm runs: directories with the right owner and mode, locks, sockets.

use std::fs::{DirBuilder, File, Metadata};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use socket::Ownership;
use sys::Lock;

use crate::manager::{JOBS, ManagerError, NamedSocket, TcpListen};

/// Who owns what in `run_dir`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owners {
    /// The user and group of the workers, when we are root.
    pub(crate) user: Option<(u32, u32)>,
    /// The group that may use the admin sockets.
    pub(crate) admin_group: Option<u32>,
}

/// The longest `instance` file that is read.
const INSTANCE_BYTES_MAX: u64 = 4096;

fn setup(message: String) -> ManagerError {
    ManagerError::Setup(message)
}

/// Makes `run_dir` and its directories, or checks that they may be used.
pub(crate) fn prepare_run_dir(run_dir: &Path, owners: Owners) -> Result<(), ManagerError> {
    let shown = run_dir.display();
    make_directory(run_dir, 0o755)?;
    let metadata = run_dir
        .metadata()
        .map_err(|error| setup(format!("cannot look at run_dir {shown}: {error}")))?;
    check_run_dir(run_dir, &metadata, owners)?;
    // Operators in the admin group must reach sockets/admin, and the workers, who are not in that group, the sockets in it: they
    // may pass through the directories, where the sockets' own modes keep others out.
    let mode = if owners.admin_group.is_some() { 0o751 } else { 0o750 };
    let group = owners.user.map(|(_, gid)| gid);
    owned_directory(&run_dir.join("sockets"), mode, group)?;
    owned_directory(&run_dir.join("sockets/admin"), mode, owners.admin_group.or(group))?;
    owned_directory(&run_dir.join("scoreboards"), 0o755, None)?;
    owned_directory(&run_dir.join("supervisors"), 0o755, None)?;
    owned_directory(&run_dir.join("locks"), 0o700, None)
}

fn check_run_dir(run_dir: &Path, metadata: &Metadata, owners: Owners) -> Result<(), ManagerError> {
    let shown = run_dir.display();
    if !metadata.is_dir() {
        return Err(setup(format!("run_dir {shown} is not a directory")));
    }
    let ours = sys::effective_ids().0;
    let uid = metadata.uid();
    if uid != 0 && uid != ours && owners.user.is_none_or(|(user, _)| user != uid) {
        return Err(setup(format!(
            "run_dir {shown} belongs to user {uid}; it must belong to root or to the user the workers run as"
        )));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(setup(format!(
            "run_dir {shown} has mode {:03o}: it must not be writable by group or others (chmod go-w {shown})",
            metadata.mode() & 0o777
        )));
    }
    Ok(())
}

fn make_directory(path: &Path, mode: u32) -> Result<(), ManagerError> {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .map_err(|error| setup(format!("cannot make the directory {}: {error}", path.display())))
}

fn owned_directory(path: &Path, mode: u32, group: Option<u32>) -> Result<(), ManagerError> {
    make_directory(path, mode)?;
    // By its descriptor: run_dir may be the workers' own, and then they could put something else under this name.
    let adjust = || {
        let directory = sys::open_directory(path)?;
        let metadata = directory.metadata()?;
        if group.is_some_and(|group| group != metadata.gid()) {
            std::os::unix::fs::fchown(&directory, None, group)?;
        }
        if metadata.mode() & 0o777 != mode {
            directory.set_permissions(PermissionsExt::from_mode(mode))?;
        }
        Ok::<(), io::Error>(())
    };
    adjust().map_err(|error| {
        setup(format!("cannot give {} its mode {mode:03o} and group: {error}", path.display()))
    })
}

/// Locks `data_dir` for `run_dir`, together with every other process of this instance; any other instance is refused. The lock
/// is held as long as the file is open.
pub(crate) fn lock_instance(
    data_dir: &Path,
    run_dir: &Path,
    user: Option<(u32, u32)>,
) -> Result<File, ManagerError> {
    let is_new = !data_dir.try_exists().unwrap_or(true);
    make_directory(data_dir, 0o750)?;
    if is_new && let Some((uid, gid)) = user {
        std::os::unix::fs::chown(data_dir, Some(uid), Some(gid)).map_err(|error| {
            setup(format!("cannot give {} to user {uid}: {error}", data_dir.display()))
        })?;
    }
    let path = data_dir.join("instance");
    let run_dir = run_dir
        .canonicalize()
        .map_err(|error| setup(format!("cannot find {}: {error}", run_dir.display())))?;
    try_lock_instance(&path, &run_dir)
        .map_err(|error| setup(format!("cannot lock {}: {error}", path.display())))?
        .ok_or_else(|| {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            setup(format!(
                "data_dir {} is in use by the instance whose run_dir is {:?}; this one has {:?}",
                data_dir.display(),
                holder.trim_end(),
                run_dir.display()
            ))
        })
}

/// `None` when another instance holds it.
fn try_lock_instance(path: &Path, run_dir: &Path) -> io::Result<Option<File>> {
    let text = format!("{}\n", run_dir.display());
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(path)?;
    // Changing the kind of a lock is not atomic: whoever comes in between is seen by reading once more. Managers that start
    // together stand in each other's way here: each lets go, and comes again after a time of its own.
    let pause = std::time::Duration::from_millis(3 + u64::from(std::process::id() % 5));
    for _ in 0..100 {
        if !sys::flock(&file, Lock::Shared)? {
            // Somebody is just writing.
            std::thread::sleep(pause);
            continue;
        }
        let mut found = String::new();
        file.seek(SeekFrom::Start(0))?;
        (&mut file).take(INSTANCE_BYTES_MAX).read_to_string(&mut found)?;
        if found == text {
            return Ok(Some(file));
        }
        if !sys::flock(&file, Lock::Exclusive)? {
            sys::unlock(&file)?;
            std::thread::sleep(pause);
            continue;
        }
        if !found.is_empty() {
            let (before, now) = (found.trim_end(), text.trim_end());
            tracing::warn!(
                before,
                now,
                "data_dir is taken over from an instance that has ended, whose run_dir was another"
            );
        }
        file.set_len(0)?;
        file.seek(SeekFrom::Start(0))?;
        file.write_all(text.as_bytes())?;
    }
    Ok(None)
}

/// Locks a farm's name in this `run_dir`: a second manager of the same farm is refused.
pub(crate) fn lock_farm(run_dir: &Path, farm: &str) -> Result<File, ManagerError> {
    let path = run_dir.join("locks").join(farm);
    let failed = |error| setup(format!("cannot lock {}: {error}", path.display()));
    let file = File::options().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(failed)?;
    if sys::flock(&file, Lock::Exclusive).map_err(failed)? {
        return Ok(file);
    }
    Err(setup(format!("a manager of the farm {farm} already runs in {}", run_dir.display())))
}

/// A running supervisor's mark in `run_dir`: a file named by its process id, locked as long as it lives.
#[derive(Debug)]
pub(crate) struct Mark {
    path: PathBuf,
    pub(crate) file: File,
}

impl Mark {
    /// Marks this process, and takes away marks of those that have died.
    pub(crate) fn make(run_dir: &Path) -> Result<Self, ManagerError> {
        let path = Self::path(run_dir);
        let make = || {
            supervisors(run_dir)?;
            // Somebody may just be looking whether it is a dead one's, and take it away.
            for _ in 0..100 {
                let file = File::options().write(true).create(true).truncate(false).open(&path)?;
                let locked = sys::flock(&file, Lock::Exclusive)?;
                let ours = file.metadata()?.ino();
                if locked && path.metadata().is_ok_and(|found| found.ino() == ours) {
                    return Ok(file);
                }
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Err(io::Error::from(io::ErrorKind::WouldBlock))
        };
        let file =
            make().map_err(|error| setup(format!("cannot make {}: {error}", path.display())))?;
        Ok(Self { path, file })
    }

    /// Takes over the mark that this process had already.
    pub(crate) fn keep(run_dir: &Path, file: File) -> Self {
        Self { path: Self::path(run_dir), file }
    }

    fn path(run_dir: &Path) -> PathBuf {
        run_dir.join("supervisors").join(std::process::id().to_string())
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Process ids of the supervisors that run in `run_dir`. Marks of dead ones are removed, if that is allowed.
pub(crate) fn supervisors(run_dir: &Path) -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    let entries = match run_dir.join("supervisors").read_dir() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(pids),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let Some(pid) = name.and_then(|name| name.parse().ok()) else {
            continue;
        };
        match File::open(&path) {
            Ok(file) if sys::flock(&file, Lock::Shared)? => {
                let _ = std::fs::remove_file(&path);
            }
            Ok(_) => pids.push(pid),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    pids.sort_unstable();
    Ok(pids)
}

/// Where a named socket stands.
pub(crate) fn socket_path(run_dir: &Path, socket: &NamedSocket) -> PathBuf {
    let directory = if socket.admin { "sockets/admin" } else { "sockets" };
    run_dir.join(directory).join(&socket.name)
}

/// Binds a named socket with the mode and owner that its directory stands for.
pub(crate) fn bind_named(
    run_dir: &Path,
    socket: &NamedSocket,
    owners: Owners,
) -> Result<UnixListener, ManagerError> {
    let group = if socket.admin { owners.admin_group } else { None };
    let owner = match (owners.user, group) {
        (Some((uid, gid)), group) => Some((uid, group.unwrap_or(gid))),
        (None, Some(group)) => Some((sys::effective_ids().0, group)),
        (None, None) => None,
    };
    let ownership = Ownership { mode: 0o660, owner };
    socket::bind(&socket_path(run_dir, socket), &ownership).map_err(|error| {
        let source = std::error::Error::source(&error).map(ToString::to_string);
        setup(format!("{error}: {}", source.unwrap_or_default()))
    })
}

/// How long a start waits for addresses that are in use: the workers that a dead instance has left are just closing them.
const LEFT_OPEN: Duration = Duration::from_secs(3);
/// How often it tries.
const LEFT_OPEN_TRY: Duration = Duration::from_millis(20);

/// Listens on a TCP address at a start, which may come right after the death of an instance that listened there.
pub(crate) fn bind_tcp_at_start(listen: &TcpListen) -> Result<TcpListener, ManagerError> {
    let until = Instant::now() + LEFT_OPEN;
    let mut told = false;
    loop {
        match listen_tcp(listen) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < until => {
                if !told {
                    tracing::info!(address = %listen.address, "the address is in use: waiting a moment");
                    told = true;
                }
                std::thread::sleep(LEFT_OPEN_TRY);
            }
            result => return result.map_err(|error| cannot_listen(listen, &error)),
        }
    }
}

/// Listens on a TCP address.
pub(crate) fn bind_tcp(listen: &TcpListen) -> Result<TcpListener, ManagerError> {
    listen_tcp(listen).map_err(|error| cannot_listen(listen, &error))
}

/// Other hosts may come by IPv4 or IPv6, as their names are found: a job port on all addresses takes both.
fn listen_tcp(listen: &TcpListen) -> io::Result<TcpListener> {
    match listen.address {
        SocketAddr::V6(v6) if listen.name == JOBS && v6.ip().is_unspecified() => {
            sys::listen_tcp_everywhere(v6.port())
        }
        address => sys::listen_tcp(address),
    }
}

fn cannot_listen(listen: &TcpListen, error: &io::Error) -> ManagerError {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => ": another program listens there",
        io::ErrorKind::AddrNotAvailable => ": this host has no such address",
        io::ErrorKind::PermissionDenied => ": ports below 1024 need root",
        _ => "",
    };
    setup(format!("cannot listen on {} ({}): {error}{hint}", listen.address, listen.name))
}

/// Gives back the memory that beginning, or reading a configuration, took and waiting does not need.
pub(crate) fn settle() {
    if let Err(error) = sys::give_back_text() {
        tracing::debug!(%error, "cannot give memory back");
    }
}

#[cfg(test)]
mod tests;
