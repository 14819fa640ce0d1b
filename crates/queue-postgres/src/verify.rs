//! Looking at every row of every message: is it as it was written?

use queue::{Handle, ReadError, Reader as _, Recovery as _};

use crate::fault::unreadable;
use crate::{Database, PostgresReader, PostgresRecovery};

/// What a look at everything has shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Verified {
    /// Messages that are whole.
    pub messages: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Messages that are damaged.
    pub damaged: u64,
}

/// Reads every message that is there, and every byte of its body; tells `found` of each that is damaged, with what is wrong.
///
/// Changes nothing, and may run while mail comes and goes: what ends meanwhile is passed over. Must be called on a local runtime.
pub async fn verify(
    database: &Database,
    mut found: impl FnMut(&Handle, &str),
) -> Result<Verified, ReadError> {
    let recovery = PostgresRecovery::open(database).map_err(unreadable)?;
    let reader = PostgresReader::open(database).map_err(unreadable)?;
    let mut verified = Verified::default();
    for segment in recovery.segments(true).await? {
        for listed in recovery.accepted(&segment).await? {
            match read(&reader, &listed.handle).await {
                Ok(bytes) => {
                    verified.messages += 1;
                    verified.bytes += bytes;
                }
                Err(ReadError::Gone(..)) => {}
                Err(ReadError::Damaged(handle, what)) => {
                    verified.damaged += 1;
                    found(&handle, &what);
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok(verified)
}

async fn read(reader: &PostgresReader, handle: &Handle) -> Result<u64, ReadError> {
    let mut body = reader.open(handle).await?.body;
    while body.next().await?.is_some() {}
    Ok(body.size())
}
