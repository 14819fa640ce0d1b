//! Users and groups by name, and the directories that must be theirs before anything starts.

use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::Path;

use anyhow::{Context, bail};
use nix::unistd::{Group, User, geteuid};

use crate::configuration::{Configuration, Top};

/// The user and group that workers run as; nothing when this process is not root, as it can be nobody else.
pub fn user(top: &Top) -> anyhow::Result<Option<(u32, u32)>> {
    if !geteuid().is_root() {
        return Ok(None);
    }
    let Some(name) = &top.user else {
        bail!(
            "started as root without a user for the workers; \
             add user = \"grange\" (any account without rights) to the configuration"
        )
    };
    let user = User::from_name(name)
        .with_context(|| format!("cannot look up the user {name}"))?
        .with_context(|| format!("there is no user {name}"))?;
    if user.uid.is_root() {
        bail!("user = {name:?} is root; workers must run as an account without rights");
    }
    let group = match &top.group {
        Some(name) => group_id(name)?,
        None => user.gid.as_raw(),
    };
    Ok(Some((user.uid.as_raw(), group)))
}

/// What would keep `run` from starting on this host, for `grange check`, which may run elsewhere and as anybody.
pub fn notices(top: &Top) -> Vec<String> {
    let mut notices = Vec::new();
    match &top.user {
        Some(name) if User::from_name(name).is_ok_and(|user| user.is_none()) => {
            notices.push(format!("user: there is no user {name} on this host"));
        }
        None if geteuid().is_root() => {
            notices.push("user is not set: run, started as root, will refuse".to_owned());
        }
        _ => {}
    }
    for (key, name) in [("group", &top.group), ("admin_group", &top.admin_group)] {
        if let Some(name) = name
            && Group::from_name(name).is_ok_and(|group| group.is_none())
        {
            notices.push(format!("{key}: there is no group {name} on this host"));
        }
    }
    notices
}

/// The group that may use the admin sockets.
pub fn admin_group(top: &Top) -> anyhow::Result<Option<u32>> {
    top.admin_group.as_deref().map(group_id).transpose()
}

fn group_id(name: &str) -> anyhow::Result<u32> {
    let group = Group::from_name(name)
        .with_context(|| format!("cannot look up the group {name}"))?
        .with_context(|| format!("there is no group {name}"))?;
    Ok(group.gid.as_raw())
}

/// Makes `data_dir` and `run_dir` with what belongs in them, owned by the workers' user.
pub fn prepare(configuration: &Configuration) -> anyhow::Result<()> {
    let top = &configuration.top;
    let owner = user(top)?;
    for (path, mode) in [(top.data_dir.clone(), 0o750), (top.run_dir.clone(), 0o755)] {
        make(&path, mode, owner)?;
    }
    for name in ["spool", "mail"] {
        make(&top.data_dir.join(name), 0o750, owner)?;
    }
    Ok(())
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
