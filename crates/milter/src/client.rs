//! The conversation with a milter over a stream.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::options::{Event, Options};
use crate::packet::{Answer, Change, Malformed, PIECE_BYTES_MAX, Packet, Packets};

/// How much of what is not answered is sent at once, in bytes.
const OUTPUT_BYTES: usize = 64 << 10;
/// The least room for what is read, in bytes.
const INPUT_BYTES: usize = 4 << 10;
/// What a change counts beside its texts, in bytes.
pub const CHANGE_BYTES: usize = 64;

/// Why a milter could not say anything. The connection is of no use any more.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed or was closed.
    #[error("{0}")]
    Lost(#[from] std::io::Error),
    /// What it said makes no sense.
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

impl Error {
    fn closed() -> Self {
        std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the milter closed the connection")
            .into()
    }
}

/// A client's address as a milter is told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The address; nothing if there is none.
    pub address: Option<IpAddr>,
    /// The port.
    pub port: u16,
}

/// Of which kind an address is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    Inet = b'4' as isize,
    /// IPv6.
    Inet6 = b'6' as isize,
    /// No address is known.
    Unknown = b'U' as isize,
}

impl Peer {
    /// The kind of the address; an IPv4 address in IPv6 is one of IPv4.
    pub fn family(&self) -> Family {
        match self.address.map(|address| address.to_canonical()) {
            Some(IpAddr::V4(_)) => Family::Inet,
            Some(IpAddr::V6(_)) => Family::Inet6,
            None => Family::Unknown,
        }
    }
}

/// What has happened, as a milter is told it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command<'a> {
    /// A client connected.
    Connect {
        /// Its name, or what stands for one.
        name: &'a str,
        /// Its address.
        peer: Peer,
    },
    /// HELO or EHLO, with the name.
    Helo(&'a str),
    /// MAIL: the address in angle brackets, then the parameters.
    Mail(&'a [String]),
    /// RCPT, in the same way.
    Recipient(&'a [String]),
    /// DATA.
    Data,
    /// A header field as it stands: the name, and all behind the colon without the last line end.
    Header(&'a str, &'a [u8]),
    /// The end of the header section.
    EndOfHeader,
    /// A piece of the body, at most [`PIECE_BYTES_MAX`].
    Body(&'a [u8]),
}

impl Command<'_> {
    /// The event that it tells.
    pub fn event(&self) -> Event {
        match self {
            Self::Connect { .. } => Event::Connect,
            Self::Helo(_) => Event::Helo,
            Self::Mail(_) => Event::Mail,
            Self::Recipient(_) => Event::Recipient,
            Self::Data => Event::Data,
            Self::Header(..) => Event::Header,
            Self::EndOfHeader => Event::EndOfHeader,
            Self::Body(_) => Event::Body,
        }
    }

    fn write(&self, options: &Options, out: &mut Vec<u8>) {
        match self {
            Self::Connect { name, peer } => {
                text(name.as_bytes(), out);
                out.push(peer.family() as u8);
                if let Some(address) = peer.address {
                    out.extend_from_slice(&peer.port.to_be_bytes());
                    text(address.to_canonical().to_string().as_bytes(), out);
                }
            }
            Self::Helo(name) => text(name.as_bytes(), out),
            Self::Mail(words) | Self::Recipient(words) => {
                words.iter().for_each(|word| text(word.as_bytes(), out));
            }
            Self::Header(name, value) => {
                text(name.as_bytes(), out);
                // Without that wish, the one space that belongs to the colon is left out.
                let value = match options.has_leading_space() {
                    true => value,
                    false => value.strip_prefix(b" ").unwrap_or(value),
                };
                // Folds are line feeds to milters.
                let is_kept = |byte: &&u8| **byte != b'\r';
                text(&value.iter().filter(is_kept).copied().collect::<Vec<u8>>(), out);
            }
            Self::Body(piece) => {
                out.extend_from_slice(piece.get(..PIECE_BYTES_MAX).unwrap_or(piece));
            }
            Self::Data | Self::EndOfHeader => {}
        }
    }
}

/// A text with its NUL; it has no other.
fn text(text: &[u8], out: &mut Vec<u8>) {
    out.extend(text.iter().filter(|byte| **byte != 0));
    out.push(0);
}

/// How much a milter may change of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The largest body, in bytes.
    pub body: usize,
    /// All other changes, in bytes with [`CHANGE_BYTES`] for each.
    pub changes: usize,
}

/// What came of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The changes in their order.
    pub changes: Vec<Change>,
    /// Another body.
    pub body: Option<Vec<u8>>,
    /// What the milter said at last.
    pub answer: Answer,
}

/// A connection to a milter that has been negotiated.
///
/// No method limits its time; one that was dropped in the middle leaves a connection that must be dropped, too.
pub struct Client<S> {
    stream: S,
    options: Options,
    packets: Packets,
    output: Vec<u8>,
    is_in_transaction: bool,
    /// What it was told last is the end of a message, and it had nothing against it.
    has_had_message: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Negotiates over a new connection.
    ///
    /// # Errors
    ///
    /// The milter is not there or speaks something else.
    pub async fn negotiate(mut stream: S) -> Result<Self, Error> {
        stream.write_all(&Options::ours()).await?;
        stream.flush().await?;
        let mut packets = Packets::default();
        let offer = match next(&mut stream, &mut packets).await? {
            Packet::Offer(offer) => offer,
            _ => return Err(Malformed::OutOfPlace.into()),
        };
        let options = Options::agree(offer)?;
        Ok(Self {
            stream,
            options,
            packets,
            output: Vec::new(),
            is_in_transaction: false,
            has_had_message: false,
        })
    }

    /// What was agreed on.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Tells what has happened, and gives the answer; [`Answer::Continue`] if none is due. `value_of` gives the values of macros, those
    /// of more than one letter in braces; those without a value are left out.
    ///
    /// What is not answered may wait for what is, see [`Self::flush`].
    ///
    /// # Errors
    ///
    /// The connection is of no use any more.
    pub async fn tell(
        &mut self,
        command: Command<'_>,
        value_of: impl Fn(&str) -> Option<String>,
    ) -> Result<Answer, Error> {
        let event = command.event();
        if event == Event::Mail {
            self.is_in_transaction = true;
        }
        if !self.options.tells(event) {
            return Ok(Answer::Continue);
        }
        self.has_had_message = false;
        if self.options.answers(event) {
            self.nothing_is_said()?;
        }
        self.macros(event, value_of);
        let options = &self.options;
        push(&mut self.output, event.letter(), |out| command.write(options, out));
        if !self.options.answers(event) {
            if self.output.len() >= OUTPUT_BYTES {
                self.flush().await?;
            }
            return Ok(Answer::Continue);
        }
        self.flush().await?;
        match self.answer().await? {
            Answer::Skip if event != Event::Body || !self.options.may_skip() => {
                Err(Malformed::OutOfPlace.into())
            }
            answer => Ok(answer),
        }
    }

    /// Tells the end of the message, and gives what came of it. The transaction is over then.
    ///
    /// # Errors
    ///
    /// The connection is of no use any more. None of the changes must be made.
    pub async fn end_of_message(
        &mut self,
        value_of: impl Fn(&str) -> Option<String>,
        limits: Limits,
    ) -> Result<Ended, Error> {
        self.nothing_is_said()?;
        self.macros(Event::EndOfMessage, value_of);
        push(&mut self.output, Event::EndOfMessage.letter(), |_| ());
        self.flush().await?;
        let mut ended = Ended { changes: Vec::new(), body: None, answer: Answer::Continue };
        let mut bytes = 0_usize;
        loop {
            match next(&mut self.stream, &mut self.packets).await? {
                Packet::Progress => {}
                Packet::Body(piece) if self.options.allow_body() => {
                    let body = ended.body.get_or_insert_default();
                    body.extend_from_slice(&piece);
                    if body.len() > limits.body {
                        return Err(Malformed::TooMuch(limits.body).into());
                    }
                }
                Packet::Change(change) if self.options.allow(&change) => {
                    bytes = bytes.saturating_add(change.bytes() + CHANGE_BYTES);
                    if bytes > limits.changes {
                        return Err(Malformed::TooMuch(limits.changes).into());
                    }
                    ended.changes.push(change);
                }
                Packet::Body(_) | Packet::Change(_) => return Err(Malformed::NotAgreed.into()),
                Packet::Answer(Answer::Skip) | Packet::Offer(_) => {
                    return Err(Malformed::OutOfPlace.into());
                }
                Packet::Answer(answer) => {
                    self.is_in_transaction = false;
                    self.has_had_message = answer == Answer::Continue;
                    ended.answer = answer;
                    return Ok(ended);
                }
            }
        }
    }

    /// The transaction is over before the end of its message: nothing of it may be kept. Sent at once if that can be, or else before what
    /// is told next.
    pub fn abort(&mut self) {
        if std::mem::take(&mut self.is_in_transaction) {
            self.has_had_message = false;
            push(&mut self.output, b'A', |_| ());
            self.send_what_can_be();
        }
    }

    /// Whether another session may follow over the connection.
    ///
    /// Sendmail's library takes that only behind the end of a message to which it said `continue`. Elsewhere it passes over it, and over
    /// the client that comes next, without an answer.
    pub fn may_have_another(&self) -> bool {
        self.options.may_be_reused() && self.has_had_message && !self.is_in_transaction
    }

    /// The session is over, and another will begin with the connection. Says whether the connection can be used for that.
    pub fn next_session(&mut self) -> bool {
        if !self.may_have_another() {
            return false;
        }
        push(&mut self.output, b'K', |_| ());
        self.send_what_can_be() && self.is_fresh()
    }

    /// Takes leave, as far as that can be done without waiting.
    pub fn quit(mut self) {
        self.abort();
        push(&mut self.output, b'Q', |_| ());
        self.send_what_can_be();
    }

    /// Whether the connection stands and nothing unasked has come, as far as that is known without waiting.
    pub fn is_fresh(&mut self) -> bool {
        self.nothing_is_said().is_ok()
    }

    /// Whatever has come before a question would be taken for its answer; only progress means nothing.
    fn nothing_is_said(&mut self) -> Result<(), Error> {
        let mut context = Context::from_waker(Waker::noop());
        loop {
            let mut bytes = [0; 256];
            let mut read = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(&mut context, &mut read) {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if read.filled().is_empty() => return Err(Error::closed()),
                Poll::Ready(read_in) => read_in?,
            }
            self.packets.buffer().extend_from_slice(read.filled());
            while let Some(packet) = self.packets.take()? {
                if packet != Packet::Progress {
                    return Err(Malformed::Unasked.into());
                }
            }
        }
        if self.packets.is_empty() { Ok(()) } else { Err(Malformed::Unasked.into()) }
    }

    /// Sends what waits.
    ///
    /// # Errors
    ///
    /// The connection is of no use any more.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.stream.write_all(&self.output).await?;
        self.stream.flush().await?;
        self.output.clear();
        Ok(())
    }

    async fn answer(&mut self) -> Result<Answer, Error> {
        loop {
            match next(&mut self.stream, &mut self.packets).await? {
                Packet::Progress => {}
                Packet::Answer(answer) => return Ok(answer),
                Packet::Change(_) | Packet::Body(_) | Packet::Offer(_) => {
                    return Err(Malformed::OutOfPlace.into());
                }
            }
        }
    }

    fn macros(&mut self, event: Event, value_of: impl Fn(&str) -> Option<String>) {
        let Some(stage) = event.stage() else { return };
        let names = self.options.macros(stage);
        let values: Vec<(&str, String)> =
            names.filter_map(|name| Some((name, value_of(name)?))).collect();
        if values.is_empty() {
            return;
        }
        push(&mut self.output, b'D', |out| {
            out.push(event.letter());
            for (name, value) in &values {
                text(name.as_bytes(), out);
                text(value.as_bytes(), out);
            }
        });
    }

    /// Sends what waits without waiting; says whether all of it is gone.
    fn send_what_can_be(&mut self) -> bool {
        let mut context = Context::from_waker(Waker::noop());
        let mut sent = 0;
        while let Some(rest) = self.output.get(sent..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.stream).poll_write(&mut context, rest) {
                Poll::Ready(Ok(count)) if count > 0 => sent += count,
                _ => break,
            }
        }
        self.output.drain(..sent.min(self.output.len()));
        let is_flushed = Pin::new(&mut self.stream).poll_flush(&mut context).is_ready();
        self.output.is_empty() && is_flushed
    }
}

impl Change {
    /// How many bytes it holds.
    fn bytes(&self) -> usize {
        match self {
            Self::AddHeader { name, value }
            | Self::InsertHeader { name, value, .. }
            | Self::ChangeHeader { name, value, .. } => name.len() + value.len(),
            Self::Sender { address, parameters } | Self::AddRecipient { address, parameters } => {
                address.len() + parameters.len()
            }
            Self::RemoveRecipient(text) | Self::Quarantine(text) => text.len(),
        }
    }
}

/// Appends a packet.
fn push(out: &mut Vec<u8>, letter: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    out.push(letter);
    write(out);
    let length = u32::try_from(out.len() - start - 4).unwrap_or(u32::MAX);
    if let Some(place) = out.get_mut(start..start + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// Waits for the next packet.
async fn next<S: AsyncRead + Unpin>(
    stream: &mut S,
    packets: &mut Packets,
) -> Result<Packet, Error> {
    loop {
        if let Some(packet) = packets.take()? {
            return Ok(packet);
        }
        let buffer = packets.buffer();
        buffer.reserve(INPUT_BYTES);
        if stream.read_buf(buffer).await? == 0 {
            return Err(Error::closed());
        }
    }
}

#[cfg(test)]
mod tests;
