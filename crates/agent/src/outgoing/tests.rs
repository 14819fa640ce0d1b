//! Messages with and without changes, in pieces of any size.

use std::collections::HashMap;

use mail::{Edit, Envelope, MessageId, Origin, Timestamp};
use queue::{Accept, Local, Stored};

use super::*;

/// A store of messages and drafts by handle, whose pieces are as small as asked.
struct Shelf {
    accept: Accept,
    bodies: HashMap<&'static str, &'static str>,
    piece: usize,
}

struct Pieces {
    size: u64,
    pieces: std::vec::IntoIter<Bytes>,
}

impl Shelf {
    fn body(&self, handle: &Handle) -> Result<Box<dyn Body>, ReadError> {
        let Some(text) = self.bodies.get(handle.as_str()) else {
            return Err(ReadError::Gone(handle.clone(), "not here".into()));
        };
        let pieces: Vec<Bytes> =
            text.as_bytes().chunks(self.piece).map(Bytes::copy_from_slice).collect();
        Ok(Box::new(Pieces { size: text.len() as u64, pieces: pieces.into_iter() }))
    }
}

impl Reader for Shelf {
    fn open(&self, handle: &Handle) -> Local<'_, Result<Stored, ReadError>> {
        let id = MessageId::new(Timestamp::from_millis(1), 1);
        let opened = self.body(handle).map(|body| Stored {
            accepted: Accepted { id, size: body.size(), accept: self.accept.clone() },
            body,
        });
        Box::pin(async { opened })
    }

    fn open_draft(&self, handle: &Handle) -> Local<'_, Result<Box<dyn Body>, ReadError>> {
        let opened = self.body(handle);
        Box::pin(async { opened })
    }
}

impl Body for Pieces {
    fn size(&self) -> u64 {
        self.size
    }

    fn next(&mut self) -> Local<'_, Result<Option<Bytes>, ReadError>> {
        let piece = self.pieces.next();
        Box::pin(async { Ok(piece) })
    }
}

fn leaves(stored: &'static str, edits: &[Edit], piece: usize) -> String {
    let envelope = Envelope {
        sender: None,
        recipients: Vec::new(),
        body: mail::BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
    };
    let shelf = Shelf {
        accept: Accept {
            envelope,
            origin: Origin::default(),
            accepted_at: Timestamp::default(),
            edits: edits.to_vec(),
            hold: None,
            replaced_body: None,
        },
        bodies: [("test:1", stored)].into(),
        piece,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut outgoing = Outgoing::open(&shelf, &"test:1".parse().unwrap()).await.unwrap();
        let mut whole = Vec::new();
        let size = outgoing.size().unwrap();
        while let Some(piece) = outgoing.next().await.unwrap() {
            whole.extend_from_slice(&piece);
        }
        assert_eq!(whole.len() as u64, size, "{}", String::from_utf8_lossy(&whole));
        String::from_utf8(whole).unwrap()
    })
}

#[test]
fn a_message_leaves_with_its_changes() {
    let x = [Edit::Prepend { name: "X".into(), value: "y".into() }];
    let gone = [Edit::Change { name: "A".into(), nth: 1, value: None }];
    let message = "A: 1\r\n\r\nbody\r\n";
    for (stored, edits, expected) in [
        (message, &[][..], message),
        (message, &x[..], "X: y\r\nA: 1\r\n\r\nbody\r\n"),
        (message, &gone[..], "\r\nbody\r\n"),
        ("\r\nbody\r\n", &x[..], "X: y\r\n\r\nbody\r\n"),
        ("no header\r\n", &x[..], "X: y\r\n\r\nno header\r\n"),
        ("no header\r\n", &gone[..], "no header\r\n"),
        ("A: 1\r\nodd\r\n", &x[..], "X: y\r\nA: 1\r\n\r\nodd\r\n"),
        ("A: 1\r\n", &x[..], "X: y\r\nA: 1\r\n\r\n"),
        ("", &x[..], "X: y\r\n\r\n"),
    ] {
        for piece in [1, 3, 1000] {
            assert_eq!(leaves(stored, edits, piece), expected, "{stored:?} {edits:?}");
        }
    }
}

#[test]
fn an_endless_header_section_is_not_held_in_memory() {
    let field = format!("X-Long: {}\r\n", "y".repeat(900));
    let stored: &'static str = Box::leak(
        format!("{}\r\nbody\r\n", field.repeat(2 * header::SECTION_BYTES_MAX / 900))
            .into_boxed_str(),
    );
    let edits = [Edit::Prepend { name: "X".into(), value: "y".into() }];
    assert_eq!(leaves(stored, &edits, 65_536), format!("X: y\r\n{stored}"));
}
