//! Reading drafts, within limits.

use bytes::Bytes;
use mail::{MessageId, Timestamp};
use queue::{Body, Handle, Local, Stored};

use super::*;

/// A store whose drafts come in pieces, and may break off.
struct Store {
    pieces: Vec<&'static str>,
    breaks: bool,
}

struct Pieces {
    pieces: std::vec::IntoIter<&'static str>,
    breaks: bool,
}

impl Reader for Store {
    fn open(&self, handle: &Handle) -> Local<'_, Result<Stored, ReadError>> {
        let error = ReadError::Foreign(handle.clone());
        Box::pin(async { Err(error) })
    }

    fn open_draft(&self, _: &Handle) -> Local<'_, Result<Box<dyn Body>, ReadError>> {
        let body = Pieces { pieces: self.pieces.clone().into_iter(), breaks: self.breaks };
        Box::pin(async { Ok(Box::new(body) as Box<dyn Body>) })
    }
}

impl Body for Pieces {
    fn size(&self) -> u64 {
        // What a store says of a size is not what memory is reserved by.
        u64::MAX
    }

    fn next(&mut self) -> Local<'_, Result<Option<Bytes>, ReadError>> {
        Box::pin(async {
            match self.pieces.next() {
                Some(piece) => Ok(Some(Bytes::from_static(piece.as_bytes()))),
                None if self.breaks => Err(ReadError::Gone(draft().handle, "torn".to_owned())),
                None => Ok(None),
            }
        })
    }
}

fn draft() -> DraftFacts {
    DraftFacts {
        handle: Handle::parse("memory:1").expect("well-formed"),
        id: MessageId::new(Timestamp::from_millis(1), 2),
        size: 6,
    }
}

#[test]
fn reads_the_first_bytes_of_a_draft() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    for (bytes_max, breaks, expected) in [
        (100, false, Some("abcdef")),
        (6, false, Some("abcdef")),
        (5, false, Some("abcde")),
        (3, false, Some("abc")),
        (1, true, Some("a")),
        (100, true, None),
    ] {
        let store = Store { pieces: vec!["abc", "", "def"], breaks };
        let content = runtime.block_on(read(&store, &draft(), bytes_max));
        let content = content.ok().map(|bytes| String::from_utf8(bytes).expect("text"));
        assert_eq!(content.as_deref(), expected, "{bytes_max}");
    }
}
