//! What a milter says, whatever it is, made a message: for fuzzing and property tests.

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use ::milter::Client;
use bytes::Bytes;
use mail::{Envelope, MessageId, Recipient, Timestamp, header};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::look::AtMilter;
use super::{Connection, Milter};
use crate::endpoint::{Endpoint, Stream};
use crate::filter::{FilterError, Finding, Look, Session};
use crate::message::Message;

/// A milter that says this in pieces, an answer for whatever it is told, and goes away.
struct Said {
    rest: Bytes,
    /// What it says next.
    now: Bytes,
}

/// The letters that end an answer.
const ENDS: &[u8] = b"cartdsyf4O";

impl Said {
    /// Takes packets up to one that ends an answer; all that is left if none does.
    fn answer(&mut self) {
        let mut length = 0;
        while let Some(rest) = self.rest.get(length..)
            && let Some(bytes) = rest.first_chunk()
        {
            let packet = usize::try_from(u32::from_be_bytes(*bytes)).unwrap_or(usize::MAX);
            length = length.saturating_add(4).saturating_add(packet);
            if rest.get(4).is_some_and(|letter| packet > 0 && ENDS.contains(letter)) {
                self.now = self.rest.split_to(length.min(self.rest.len()));
                return;
            }
        }
        self.now = std::mem::take(&mut self.rest);
    }
}

impl AsyncRead for Said {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if self.now.is_empty() && !self.rest.is_empty() {
            return Poll::Pending;
        }
        let length = self.now.len().min(out.remaining()).min(7);
        out.put_slice(&self.now.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Said {
    fn poll_write(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.answer();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Has a milter that says this look at a message, and makes its changes; sees to it that what leaves is well formed.
pub(crate) fn hear(said: &[u8]) -> Result<Finding, FilterError> {
    let said: Box<dyn Stream> =
        Box::new(Said { rest: Bytes::copy_from_slice(said), now: Bytes::new() });
    let mut conversation = pin!(async {
        let connection = Client::negotiate(said).await?;
        find(connection).await
    });
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(found) = conversation.as_mut().poll(&mut context) else {
        panic!("nothing here has to be waited for");
    };
    if let Ok(found) = &found {
        let left = message().with(&found.edits, found.body.as_deref());
        assert!(is_lines(left.head()), "{:?}", left.head());
        assert!(left.replaced().is_none() || is_lines(left.body()), "{:?}", left.body());
        let fields: usize = header::fields(left.head()).map(|field| field.raw().len()).sum();
        assert_eq!(fields, left.head().len().saturating_sub(2), "{:?}", left.head());
    }
    found
}

async fn find(connection: Connection) -> Result<Finding, FilterError> {
    let milter = Rc::new(Milter {
        name: "milter".to_owned(),
        endpoint: Endpoint::Unix("/nonexistent".to_owned()),
        connect_time: Duration::from_secs(1),
        name_time: Duration::from_secs(1),
        reuses: false,
        hostname: "mx.test".to_owned(),
        resolver: Rc::new(dns::Resolver::new(dns::Settings::default())),
        idle: RefCell::default(),
    });
    AtMilter::with(milter, connection).message(&session(), &message()).await
}

/// Whether every line feed has its carriage return, and every carriage return its line feed.
fn is_lines(bytes: &[u8]) -> bool {
    let pairs = bytes.windows(2).filter(|pair| pair == b"\r\n").count();
    let count = |letter| bytes.iter().filter(|byte| **byte == letter).count();
    count(b'\r') == pairs && count(b'\n') == pairs
}

/// A message with our own Received field.
pub(super) fn message() -> Message {
    let text = format!(
        "Received: from a by mx.test (Grange) with ESMTP id {};\r\n\tnow\r\nReceived: from elsewhere\r\n\
         Subject: hello\r\nX-A: 1\r\nX-A: 2\r\n\r\nThe body.\r\n",
        id().as_str()
    );
    Message::new(text.len() as u64, Bytes::from(text), 1 << 20, None)
}

fn id() -> MessageId {
    MessageId::new(Timestamp::from(std::time::SystemTime::UNIX_EPOCH), 1)
}

/// A session with two recipients.
pub(super) fn session() -> Session {
    let address = |text: &str| text.parse::<mail::Address>().expect("an address");
    let recipients = ["b@x.test", "c@x.test"];
    Session {
        address: Some([192, 0, 2, 1].into()),
        port: 4711,
        trusted: false,
        service: "mx".to_owned(),
        helo: Some("client.test".to_owned()),
        protocol: Some("ESMTP".to_owned()),
        envelope: Some(Rc::new(Envelope {
            sender: Some(address("a@x.test")),
            recipients: recipients.map(address).map(Recipient::from).into(),
            body: mail::BodyType::SevenBit,
            smtputf8: false,
            ret: None,
            envid: None,
        })),
        given: 2,
        id: Some(id()),
        ..Session::default()
    }
}
