//! Listing what was accepted, segment by segment, without the ledger.

use std::sync::Arc;

use mail::Timestamp;
use queue::{Listed, Local, ReadError, Recovery, Segment};

use crate::codec::{Entry, FileKind};
use crate::disk::{Disk, Lock};
use crate::moved;
use crate::place::{
    Home, Layout, MessagePlace, Place, RecordPlace, SegmentName, Stripe, StripeFile,
    stripe_file_of, stripe_of,
};
use crate::read::{Fault, OpenFile};
use crate::scan::scan;
use crate::small::{self, Small};
use crate::stripe::stripes;

/// Lists the accept records of this spool. Works beside living writers and without any.
#[derive(Clone)]
pub struct SpoolRecovery {
    disk: Arc<dyn Disk>,
    layout: Layout,
}

impl SpoolRecovery {
    pub(crate) fn new(disk: Arc<dyn Disk>, layout: Layout) -> Self {
        Self { disk, layout }
    }

    async fn on_disk<A: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Disk, &Layout) -> Result<A, Fault> + Send + 'static,
    ) -> Result<A, ReadError> {
        let (disk, layout) = (self.disk.clone(), self.layout.clone());
        let done = tokio::task::spawn_blocking(move || work(&*disk, &layout)).await;
        match done {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(Fault::Io(context, source))) => Err(ReadError::Io { context, source }),
            Ok(Err(Fault::Gone(context))) => {
                let source = Arc::new(std::io::ErrorKind::NotFound.into());
                Err(ReadError::Io { context, source })
            }
            Ok(Err(Fault::Damaged(context))) => {
                let source = Arc::new(std::io::ErrorKind::InvalidData.into());
                Err(ReadError::Io { context, source })
            }
            Err(ended) => {
                let context = "a disk thread ended".into();
                Err(ReadError::Io { context, source: Arc::new(ended.into()) })
            }
        }
    }
}

impl Recovery for SpoolRecovery {
    fn segments(&self, all: bool) -> Local<'_, Result<Vec<Segment>, ReadError>> {
        Box::pin(async move {
            let (moved, names) = self
                .on_disk(move |disk, layout| {
                    Ok((list_moved(disk, layout)?, list(disk, layout, all)?))
                })
                .await?;
            // What was moved is what has lived longest.
            let moved = moved.into_iter().map(|stripe| format!("{}{MOVED}", stripe.0));
            let names = names.into_iter().map(|name| name.to_string());
            Ok(moved.chain(names).map(Segment).collect())
        })
    }

    fn accepted(&self, segment: &Segment) -> Local<'_, Result<Vec<Listed>, ReadError>> {
        let name = segment.0.parse::<SegmentName>();
        let moved = segment.0.strip_suffix(MOVED).and_then(stripe_of);
        Box::pin(async move {
            if let Some(stripe) = moved {
                return self.on_disk(move |disk, layout| moved::list(disk, layout, stripe)).await;
            }
            // A name that is none of ours names nothing that is here.
            let Ok(name) = name else { return Ok(Vec::new()) };
            self.on_disk(move |disk, layout| accepted(disk, layout, name)).await
        })
    }
}

/// Behind the number of a stripe it names what was moved out of the stripe's segments, as if that were one more.
const MOVED: &str = ".moved";

/// The stripes that have messages moved out of their segments.
fn list_moved(disk: &dyn Disk, layout: &Layout) -> Result<Vec<Stripe>, Fault> {
    let dir = layout.intake();
    let stripes = match stripes(disk, layout) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        stripes => stripes.map_err(|error| Fault::io(&dir, error))?,
    };
    let has_moved = |stripe: &Stripe| match moved::names(disk, layout, *stripe) {
        Ok(names) => !names.is_empty(),
        // Listing its segments will say what is wrong.
        Err(_) => false,
    };
    Ok(stripes.into_iter().filter(has_moved).collect())
}

/// All segments, or those that no living writer may add to; oldest first.
pub(crate) fn list(disk: &dyn Disk, layout: &Layout, all: bool) -> Result<Vec<SegmentName>, Fault> {
    let dir = layout.intake();
    let stripes = match stripes(disk, layout) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        stripes => stripes.map_err(|error| Fault::io(&dir, error))?,
    };
    let mut found = Vec::new();
    for stripe in stripes {
        // One stripe that cannot be read must not hide the mail of all others.
        if let Err(error) = list_stripe(disk, layout, stripe, all, &mut found) {
            let dir = layout.stripe(stripe);
            tracing::error!(stripe = %dir.display(), %error, "cannot list a stripe of the queue");
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, segment)| segment).collect())
}

fn list_stripe(
    disk: &dyn Disk,
    layout: &Layout,
    stripe: Stripe,
    all: bool,
    found: &mut Vec<(Timestamp, SegmentName)>,
) -> std::io::Result<()> {
    let dir = layout.stripe(stripe);
    // Held while we look, so that no writer begins meanwhile; nothing when there is a writer.
    let ownerless = disk.lock(&layout.stripe_lock(stripe), Lock::Shared)?;
    // A writer adds to the segment that it promised last, to no other: one before it that has no footer was given up.
    let next = match small::read(disk, &dir.join("next")) {
        Ok(Small::Number(next)) => next,
        _ => 0,
    };
    for name in disk.list(&dir)? {
        let StripeFile::Segment(sequence) = stripe_file_of(&name) else { continue };
        let segment = SegmentName { stripe, sequence };
        let path = layout.segment(segment);
        let left = all || ownerless.is_some() || sequence.saturating_add(1) < next;
        let seen = OpenFile::open(disk, &path, FileKind::Segment).and_then(|file| {
            let listed = left || file.footer()?.is_some();
            Ok(listed.then_some(file.head.created_at))
        });
        match seen {
            Ok(Some(created_at)) => found.push((created_at, segment)),
            // Unlinked meanwhile, or begun this moment.
            Ok(None) | Err(Fault::Gone(_)) => {}
            Err(fault) => {
                tracing::error!(segment = %path.display(), ?fault, "cannot look into a segment");
            }
        }
    }
    Ok(())
}

/// The accept records of a segment, by its footer or by a scan; none when it has gone.
pub(crate) fn accepted(
    disk: &dyn Disk,
    layout: &Layout,
    name: SegmentName,
) -> Result<Vec<Listed>, Fault> {
    let file = match OpenFile::open(disk, &layout.segment(name), FileKind::Segment) {
        Err(Fault::Gone(_)) => return Ok(Vec::new()),
        Err(Fault::Damaged(what)) => {
            tracing::error!(segment = %name, what, "a segment of the queue is damaged; it is passed over");
            return Ok(Vec::new());
        }
        file => file?,
    };
    let entries = match file.footer()? {
        Some(entries) => entries,
        None => {
            let found = scan(&file, &mut |_| {})?;
            for damage in found.damage.iter().filter(|it| it.is_more_than_torn(found.size)) {
                let (id, offset) = (damage.id.map(|id| id.to_string()), damage.offset);
                let bytes = damage.bytes;
                if damage.followed {
                    tracing::error!(id, segment = %name, offset, bytes, "a record of the queue is damaged; it is passed over");
                } else {
                    tracing::warn!(id, segment = %name, offset, bytes, "the last record of a segment is not whole; it is passed over: it may be the torn end of a message that never got 250, or is damaged");
                }
            }
            found.entries
        }
    };
    Ok(entries.iter().map(|entry| listed(name, entry)).collect())
}

/// What a footer's entry says, for requeue.
fn listed(segment: SegmentName, entry: &Entry) -> Listed {
    let Entry { offset, length, id, accepted_at, body } = *entry;
    let record = RecordPlace { segment, offset, length, id };
    let place = MessagePlace { record, body, home: Home::Segment };
    Listed { handle: Place::Message(place).handle(), id, accepted_at }
}
