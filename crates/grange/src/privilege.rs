//! Users and groups by name, and the directories that must be theirs before anything starts.

use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown, fchown};
use std::path::Path;

use anyhow::Context;
use config::{Notice, Problem};
use nix::libc::O_NOFOLLOW;
use nix::unistd::{Group, User, geteuid};

use crate::configuration::{Configuration, Top};
use crate::logging::output::MODE;

/// Whether this process is root.
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// The user and group that workers run as; nothing when this process is not root, as it can be nobody else.
pub fn user(top: &Top) -> Result<Option<(u32, u32)>, Problem> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let Some(name) = &top.user else {
        let wrong = "is not set, and root needs it: workers never run as root";
        return Err(Problem::new(
            "user",
            wrong,
            "user = \"grange\", or any account without rights",
        ));
    };
    let user = found("user", name, User::from_name(name))?;
    if user.uid.is_root() {
        let wrong = format!("{name:?} is root");
        return Err(Problem::new("user", wrong, "an account without rights"));
    }
    let group = match &top.group {
        Some(name) => found("group", name, Group::from_name(name))?.gid.as_raw(),
        None => user.gid.as_raw(),
    };
    Ok(Some((user.uid.as_raw(), group)))
}

/// The group that may use the admin sockets.
pub fn admin_group(top: &Top) -> Result<Option<u32>, Problem> {
    let Some(name) = &top.admin_group else { return Ok(None) };
    Ok(Some(found("admin_group", name, Group::from_name(name))?.gid.as_raw()))
}

/// An account by its name, or what to say of a name that has none.
fn found<T>(key: &str, name: &str, account: nix::Result<Option<T>>) -> Result<T, Problem> {
    let kind = if key == "user" { "user" } else { "group" };
    let wrong = match account {
        Ok(Some(account)) => return Ok(account),
        Ok(None) => format!("there is no {kind} {name:?} on this host"),
        Err(error) => format!("the {kind} {name:?} cannot be looked up: {error}"),
    };
    Err(Problem::new(key, wrong, format!("a {kind} of this host")))
}

/// Finds what keeps `run` from starting on this host as who we are.
pub fn check(top: &Top) -> Result<(), Problem> {
    user(top)?;
    admin_group(top)?;
    Ok(())
}

/// What would keep `run` from starting if it were started as root: `grange check` may be asked by anybody.
pub fn notices(top: &Top) -> Vec<Notice> {
    if geteuid().is_root() {
        return Vec::new();
    }
    let user = top.user.as_ref().map(|name| found("user", name, User::from_name(name)).err());
    let group = top.group.as_ref().map(|name| found("group", name, Group::from_name(name)).err());
    let problems = [user, group].into_iter().flatten().flatten();
    problems.map(|problem| Notice::new(problem.key, problem.wrong)).collect()
}

/// Makes `data_dir` and `run_dir` with what belongs in them, owned by the workers' user.
pub fn prepare(configuration: &Configuration) -> anyhow::Result<()> {
    let top = &configuration.top;
    let owner = user(top)?;
    for (path, mode) in [(top.data_dir.clone(), 0o750), (top.run_dir.clone(), 0o755)] {
        make(&path, mode, owner)?;
    }
    for name in ["spool", "mail", "outcomes"] {
        make(&top.data_dir.join(name), 0o750, owner)?;
    }
    prepare_log(&configuration.log.to, owner)
}

/// Makes the log file, as the workers' own: they may not be able to make it, and could not write to one of root's.
fn prepare_log(to: &str, owner: Option<(u32, u32)>) -> anyhow::Result<()> {
    if to == "stderr" {
        return Ok(());
    }
    let path = Path::new(to);
    let made = File::options().append(true).create_new(true).mode(MODE).open(path);
    let file = match made {
        Ok(file) => Some(file),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => None,
        Err(error) => return Err(error).with_context(|| format!("cannot make the log {to}")),
    };
    let Some((uid, gid)) = owner else { return Ok(()) };
    let file = match file {
        Some(file) => file,
        // Somebody else's link must not lead root to a file of the system.
        None => match File::options().append(true).custom_flags(O_NOFOLLOW).open(path) {
            Ok(file) => file,
            Err(_) => return Ok(()),
        },
    };
    let found = file.metadata().with_context(|| format!("cannot look at the log {to}"))?;
    if !found.is_file() || may_write(&found, uid, gid) {
        return Ok(());
    }
    if found.uid() != 0 || found.len() > 0 || found.nlink() != 1 {
        anyhow::bail!(
            "log.to: the workers' user may not write to {to}; give it to them with chown"
        );
    }
    fchown(&file, Some(uid), Some(gid))
        .with_context(|| format!("cannot give the log {to} to the workers' user"))
}

fn may_write(found: &Metadata, uid: u32, gid: u32) -> bool {
    let bits = [(found.uid() == uid, 0o200), (found.gid() == gid, 0o020), (true, 0o002)];
    // As the system does: the first that is meant decides.
    bits.iter().find(|(meant, _)| *meant).is_some_and(|(_, bit)| found.mode() & bit != 0)
}

fn is_empty(path: &Path) -> anyhow::Result<bool> {
    let mut entries =
        std::fs::read_dir(path).with_context(|| format!("cannot look into {}", path.display()))?;
    Ok(entries.next().is_none())
}

fn make(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))?;
    let metadata =
        std::fs::metadata(path).with_context(|| format!("cannot look at {}", path.display()))?;
    // Only what is empty is given away: a slip such as run_dir = "/run" must not hand a directory of the system over.
    if let Some((uid, gid)) = owner
        && metadata.uid() == 0
        && metadata.uid() != uid
        && is_empty(path)?
    {
        chown(path, Some(uid), Some(gid))
            .with_context(|| format!("cannot give {} to its user", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
