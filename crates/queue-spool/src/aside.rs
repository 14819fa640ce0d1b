//! Setting damaged bytes aside: `spool/damaged/`, each file beside a text that explains it. Nothing is ever removed from there
//! but by an operator.

use std::io;
use std::path::{Path, PathBuf};

use crate::disk::{Access, Disk};
use crate::place::Layout;

/// How many files of one name are set aside.
const SAME_NAME_MAX: u32 = 1000;

/// Moves a file that cannot be used. Gives where it is now.
pub(crate) fn file(
    disk: &dyn Disk,
    layout: &Layout,
    path: &Path,
    why: &str,
) -> io::Result<PathBuf> {
    let (name, _) = make_room(disk, layout, &name_of(layout, path), None)?;
    let aside = layout.damaged().join(&name);
    let moved =
        explain(disk, layout, &name, &format!("{} was moved here: {why}.\n", path.display()))
            .and_then(|()| disk.rename(path, &aside));
    or_unlink(disk, &aside, moved)?;
    disk.sync_dir(&layout.damaged())?;
    path.parent().map_or(Ok(()), |dir| disk.sync_dir(dir))?;
    tracing::error!(file = %path.display(), aside = %aside.display(), why, "set aside");
    Ok(aside)
}

/// Copies a part of a file. Gives where the copy is; one that is there already is taken for it.
pub(crate) fn part(
    disk: &dyn Disk,
    layout: &Layout,
    (path, offset): (&Path, u64),
    bytes: &[u8],
    why: &str,
) -> io::Result<PathBuf> {
    let name = format!("{}.at-{offset}", name_of(layout, path));
    let (name, is_there) = make_room(disk, layout, &name, Some(bytes))?;
    let aside = layout.damaged().join(&name);
    if is_there {
        return Ok(aside);
    }
    let text = format!(
        "{} bytes of {} from byte {offset} on: {why}.\nThe file beside this one holds them as they were found.\n",
        bytes.len(),
        path.display()
    );
    let copied = explain(disk, layout, &name, &text).and_then(|()| {
        let file = disk.open(&aside, Access::Write)?;
        file.write_at(bytes, 0)?;
        file.sync()
    });
    or_unlink(disk, &aside, copied)?;
    disk.sync_dir(&layout.damaged())?;
    tracing::error!(file = %path.display(), offset, aside = %aside.display(), why, "set aside");
    Ok(aside)
}

/// A path below the spool as one name.
fn name_of(layout: &Layout, path: &Path) -> String {
    let below = path.strip_prefix(layout.root()).unwrap_or(path);
    let parts: Vec<_> = below.iter().map(|part| part.to_string_lossy()).collect();
    parts.join("-")
}

/// Takes back a file that was not written whole: on a full disk each try would leave another.
fn or_unlink(disk: &dyn Disk, path: &Path, done: io::Result<()>) -> io::Result<()> {
    done.inspect_err(|_| drop(disk.unlink(path)))
}

/// Creates an empty file under a name that is free, or finds the one that holds the same bytes. One that is empty was made in vain.
fn make_room(
    disk: &dyn Disk,
    layout: &Layout,
    name: &str,
    same: Option<&[u8]>,
) -> io::Result<(String, bool)> {
    let dir = layout.damaged();
    disk.make_dir(&dir)?;
    disk.sync_dir(layout.root())?;
    for number in 1..=SAME_NAME_MAX {
        let name = if number == 1 { name.to_owned() } else { format!("{name}.{number}") };
        let path = dir.join(&name);
        match disk.create(&path) {
            Ok(_) => return Ok((name, false)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if same.is_some_and(|bytes| holds(disk, &path, bytes)) {
                    return Ok((name, true));
                }
                if is_empty(disk, &path) {
                    return Ok((name, false));
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("there are {SAME_NAME_MAX} of {name} in {}", dir.display())))
}

fn is_empty(disk: &dyn Disk, path: &Path) -> bool {
    disk.open(path, Access::Read).and_then(|file| file.size()).is_ok_and(|size| size == 0)
}

fn holds(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> bool {
    let mut found = vec![0; bytes.len()];
    let read = disk.open(path, Access::Read).and_then(|file| {
        Ok((file.size()? == bytes.len() as u64).then(|| file.read_at(&mut found, 0)).transpose())
    });
    matches!(read, Ok(Ok(Some(_)))) && found == bytes
}

fn explain(disk: &dyn Disk, layout: &Layout, name: &str, text: &str) -> io::Result<()> {
    let path = layout.damaged().join(format!("{name}.txt"));
    let file = match disk.create(&path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if !is_empty(disk, &path) {
                return Ok(());
            }
            disk.open(&path, Access::Write)?
        }
        file => file?,
    };
    or_unlink(disk, &path, file.write_at(text.as_bytes(), 0).and_then(|()| file.sync()))
}
