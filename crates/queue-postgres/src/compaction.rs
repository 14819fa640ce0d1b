//! Nothing to compact: the database gives back the space of each message by itself.

use queue::{Compaction, CompactionError, Handle, Held, Listed, Local, ReadError, Segment, Survey};

use crate::name::Name;

/// The right to compact a store in which there is never anything to do.
pub struct PostgresCompaction;

fn ready<T: 'static>(value: T) -> Local<'static, Result<T, CompactionError>> {
    Box::pin(std::future::ready(Ok(value)))
}

impl Compaction for PostgresCompaction {
    fn survey(&self) -> Local<'_, Result<Survey, CompactionError>> {
        ready(Survey::default())
    }

    fn held(&self, _segment: &Segment) -> Local<'_, Result<Vec<Held>, CompactionError>> {
        ready(Vec::new())
    }

    fn copies(&self) -> Local<'_, Result<Vec<Listed>, CompactionError>> {
        ready(Vec::new())
    }

    fn copy(
        &self,
        messages: Vec<Handle>,
    ) -> Local<'_, Result<Vec<Result<Handle, ReadError>>, CompactionError>> {
        let refused = |handle: Handle| match Name::parse(&handle) {
            Some(_) => Err(ReadError::Gone(handle, "it has no other place".into())),
            None => Err(ReadError::Foreign(handle)),
        };
        ready(messages.into_iter().map(refused).collect())
    }

    fn discard(&self, _copies: Vec<Handle>) -> Local<'_, Result<(), CompactionError>> {
        ready(())
    }
}
