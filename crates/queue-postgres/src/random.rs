//! Random bits for ids, drawn from the system many at a time.

use std::cell::RefCell;
use std::io;
use std::time::SystemTime;

use mail::{MessageId, Timestamp};

/// Bytes drawn from the system at a time.
const DRAWN_BYTES: usize = 512;

/// Makes ids that sort by time.
#[derive(Default)]
pub(crate) struct Ids {
    spare: RefCell<Vec<u64>>,
}

impl Ids {
    /// A new id.
    pub(crate) fn next(&self) -> io::Result<MessageId> {
        let mut spare = self.spare.borrow_mut();
        if spare.is_empty() {
            let mut bytes = [0; DRAWN_BYTES];
            getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
            let (numbers, _) = bytes.as_chunks::<8>();
            spare.extend(numbers.iter().map(|number| u64::from_le_bytes(*number)));
        }
        let chance = spare.pop().ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(MessageId::new(Timestamp::from(SystemTime::now()), chance))
    }
}
