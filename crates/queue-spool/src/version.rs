//! Whether a spool is one that this program knows, before anything in it is touched.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::codec::{self, HEAD_BYTES};
use crate::disk::{Access, Disk, RealDisk};
use crate::place::{Layout, StripeFile, log_of, stripe_file_of};
use crate::stripe::stripes;
use crate::{OpenError, Settings, Spool};

/// Refuses a spool that a newer program wrote: by its format file, or by the head of a segment or a log. Changes nothing. What
/// is missing, damaged or cannot be read is no sign of another version, the format file apart.
pub fn check_version(data_dir: &Path) -> Result<(), OpenError> {
    Spool::new(Arc::new(RealDisk), data_dir, Settings::default()).check_format()?;
    check_heads(&RealDisk, &Layout::new(data_dir))
}

/// The same, by the heads alone.
pub(crate) fn check_heads(disk: &dyn Disk, layout: &Layout) -> Result<(), OpenError> {
    for path in versioned(disk, layout) {
        if let Some(version) = newer_version(disk, &path) {
            let path = path.display().to_string();
            return Err(OpenError::Newer { path, found: version.to_string() });
        }
    }
    Ok(())
}

/// The files by which another version is known: every program writes to some of these before it writes any other.
fn versioned(disk: &dyn Disk, layout: &Layout) -> Vec<PathBuf> {
    let list = |dir: &Path| disk.list(dir).unwrap_or_default();
    let logs = list(&layout.ledger());
    let mut paths: Vec<_> =
        logs.iter().filter_map(|name| log_of(name)).map(|log| layout.log(log)).collect();
    for stripe in stripes(disk, layout).unwrap_or_default() {
        let dir = layout.stripe(stripe);
        let segments = list(&dir).into_iter();
        let segments =
            segments.filter(|name| matches!(stripe_file_of(name), StripeFile::Segment(_)));
        paths.extend(segments.map(|name| dir.join(name)));
    }
    paths
}

fn newer_version(disk: &dyn Disk, path: &Path) -> Option<u32> {
    let file = disk.open(path, Access::Read).ok()?;
    let mut bytes = [0; HEAD_BYTES];
    let length = file.read_at(&mut bytes, 0).ok()?;
    codec::newer_version(bytes.get(..length)?)
}
