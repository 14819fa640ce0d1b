//! The bytes of one connection: a Unix socket's as they are, or another host's through TLS.
//!
//! Neither ever waits: what cannot be written now stays in the TLS session and in the link's buffer, and what was read is given on as
//! far as it goes.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use rustls::Connection as Session;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

/// One read takes up to so many bytes.
const READ_BYTES: usize = 256 << 10;
/// The most bytes that a TLS session holds encrypted until they can be written.
const TLS_BYTES_MAX: usize = 256 << 10;
/// One read of a stream that is not split yet.
const SMALL_BYTES: usize = 2048;

thread_local! {
    /// Shared by all connections of the thread: what a read brought …
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
    /// … and what TLS made of it.
    static PLAIN: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A connection that is not in use yet.
pub(crate) enum Stream {
    Unix(UnixStream),
    Tls(Box<TlsStream>),
}

/// A TCP connection whose ends have shaken hands.
pub(crate) struct TlsStream {
    tcp: TcpStream,
    session: Session,
}

/// The writing side of a connection. When it is dropped the peer is told that nothing more comes.
pub(crate) enum Writer {
    Unix(unix::OwnedWriteHalf),
    Tls(TlsWriter),
}

pub(crate) struct TlsWriter {
    tcp: tcp::OwnedWriteHalf,
    session: Rc<RefCell<Session>>,
}

/// The reading side of a connection.
pub(crate) enum Reader {
    Unix(unix::OwnedReadHalf),
    Tls { tcp: tcp::OwnedReadHalf, session: Rc<RefCell<Session>> },
}

/// What a read brought.
pub(crate) enum Brought<T> {
    /// Bytes, and what was made of them.
    Bytes(T),
    /// The peer will say nothing more, and has said so.
    Eof,
}

/// How far a write has come.
#[derive(Default)]
pub(crate) struct Written {
    pub(crate) bytes: usize,
    /// System calls made.
    pub(crate) calls: u64,
}

/// A TCP stream as the TLS session sees it: what would wait is an error.
struct Wire<'a>(&'a TcpStream);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn would_block(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

impl TlsStream {
    /// Shakes hands over a TCP connection, for as long as its caller lets it.
    pub(crate) async fn begin(tcp: TcpStream, mut session: Session) -> io::Result<Self> {
        session.set_buffer_limit(Some(TLS_BYTES_MAX));
        loop {
            while session.wants_write() {
                match session.write_tls(&mut Wire(&tcp)) {
                    Err(error) if would_block(&error) => tcp.writable().await?,
                    result => drop(result?),
                }
            }
            if !session.is_handshaking() {
                return Ok(Self { tcp, session });
            }
            tcp.readable().await?;
            match session.read_tls(&mut Wire(&tcp)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(error) if would_block(&error) => continue,
                result => drop(result?),
            }
            process(&mut session, &tcp)?;
        }
    }

    /// The session: who the peer is, and what was agreed on.
    pub(crate) fn session(&self) -> &Session {
        &self.session
    }
}

/// Decrypts what was read. A peer that broke the rules is told so, if that can be written at once.
fn process(session: &mut Session, tcp: &TcpStream) -> io::Result<rustls::IoState> {
    session.process_new_packets().map_err(|error| {
        let _ = session.write_tls(&mut Wire(tcp));
        io::Error::new(io::ErrorKind::InvalidData, error)
    })
}

/// Lets a session have bytes from the wire; what comes out is appended. Says whether the peer has closed.
fn decrypt(
    session: &mut Session,
    tcp: &TcpStream,
    mut wire: &[u8],
    plain: &mut Vec<u8>,
) -> io::Result<bool> {
    while !wire.is_empty() {
        session.read_tls(&mut wire)?;
        let state = process(session, tcp)?;
        let bytes = state.plaintext_bytes_to_read();
        if bytes > 0 {
            let begin = plain.len();
            plain.resize(begin + bytes, 0);
            session.reader().read_exact(plain.get_mut(begin..).unwrap_or_default())?;
        }
        if state.peer_has_closed() {
            return Ok(true);
        }
    }
    if session.wants_write() {
        // An answer to a change of keys. If it cannot be written now it goes out before whatever is written next.
        let _ = session.write_tls(&mut Wire(tcp));
    }
    Ok(false)
}

impl Stream {
    /// Reads what comes next, and appends it. Nothing more comes when nothing was appended.
    pub(crate) async fn read(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        let begin = bytes.len();
        loop {
            let mut chunk = [0; SMALL_BYTES];
            match self {
                Self::Unix(stream) => {
                    stream.readable().await?;
                    match stream.try_read(&mut chunk) {
                        Err(error) if would_block(&error) => continue,
                        read => bytes.extend_from_slice(chunk.get(..read?).unwrap_or_default()),
                    }
                    return Ok(());
                }
                Self::Tls(stream) => {
                    let TlsStream { tcp, session } = &mut **stream;
                    if take_plain(session, bytes)? {
                        return Ok(());
                    }
                    tcp.readable().await?;
                    let wire = match tcp.try_read(&mut chunk) {
                        Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                        Err(error) if would_block(&error) => continue,
                        read => chunk.get(..read?).unwrap_or_default(),
                    };
                    let closed = decrypt(session, tcp, wire, bytes)?;
                    if closed || bytes.len() > begin {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// The two sides, and what was read and not looked at.
    pub(crate) fn into_split(self) -> (Writer, Reader, Vec<u8>) {
        match self {
            Self::Unix(stream) => {
                let (read, write) = stream.into_split();
                (Writer::Unix(write), Reader::Unix(read), Vec::new())
            }
            Self::Tls(stream) => {
                let TlsStream { tcp, mut session } = *stream;
                let mut first = Vec::new();
                // What is wrong with it shows again at the first read.
                let _ = take_plain(&mut session, &mut first);
                let (read, write) = tcp.into_split();
                let session = Rc::new(RefCell::new(session));
                let writer = TlsWriter { tcp: write, session: Rc::clone(&session) };
                (Writer::Tls(writer), Reader::Tls { tcp: read, session }, first)
            }
        }
    }
}

/// Takes what came with the last of the handshake; says whether there was something.
fn take_plain(session: &mut Session, bytes: &mut Vec<u8>) -> io::Result<bool> {
    let mut chunk = [0; SMALL_BYTES];
    let begin = bytes.len();
    loop {
        match session.reader().read(&mut chunk) {
            Ok(0) => break,
            Err(error) if would_block(&error) => break,
            read => bytes.extend_from_slice(chunk.get(..read?).unwrap_or_default()),
        }
    }
    Ok(bytes.len() > begin)
}

impl Writer {
    /// Writes until everything is on its way, or no more can be; counts on from what `written` says.
    pub(crate) fn write(&self, bytes: &[u8], written: &mut Written) -> io::Result<()> {
        match self {
            Self::Unix(write) => loop {
                match bytes.get(written.bytes..) {
                    None | Some([]) => return Ok(()),
                    Some(rest) => written.bytes += write.try_write(rest)?,
                }
                written.calls += 1;
            },
            Self::Tls(write) => write.write(bytes, written),
        }
    }

    /// Whether more can be written.
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Unix(write) => write.as_ref().poll_write_ready(cx),
            Self::Tls(write) => write.tcp.as_ref().poll_write_ready(cx),
        }
    }

    /// Whether the peer has closed, as the kernel knows now.
    pub(crate) fn hung_up(&self) -> bool {
        match self {
            Self::Unix(write) => sys::hung_up(write.as_ref()),
            Self::Tls(write) => sys::hung_up(write.tcp.as_ref()),
        }
    }
}

impl TlsWriter {
    fn write(&self, bytes: &[u8], written: &mut Written) -> io::Result<()> {
        let mut session = self.session.borrow_mut();
        loop {
            while session.wants_write() {
                if session.write_tls(&mut Wire(self.tcp.as_ref()))? == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                written.calls += 1;
            }
            match bytes.get(written.bytes..) {
                None | Some([]) => return Ok(()),
                // As much as the session may hold.
                Some(rest) => written.bytes += session.writer().write(rest)?,
            }
        }
    }
}

impl Drop for TlsWriter {
    fn drop(&mut self) {
        let mut session = self.session.borrow_mut();
        session.send_close_notify();
        // A peer that does not read is not waited for.
        let _ = session.write_tls(&mut Wire(self.tcp.as_ref()));
    }
}

impl Reader {
    /// One read, and what `take` made of what it brought.
    pub(crate) fn poll_read<T>(
        &mut self,
        cx: &mut Context<'_>,
        take: impl FnOnce(&[u8]) -> T,
    ) -> Poll<io::Result<Brought<T>>> {
        let mut buffer = BUFFER.take();
        buffer.resize(READ_BYTES, 0);
        let brought = match self {
            Self::Unix(read) => {
                let mut filled = ReadBuf::new(&mut buffer);
                match Pin::new(read).poll_read(cx, &mut filled) {
                    Poll::Pending => Poll::Pending,
                    Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
                    Poll::Ready(Ok(())) if filled.filled().is_empty() => {
                        Poll::Ready(Ok(Brought::Eof))
                    }
                    Poll::Ready(Ok(())) => Poll::Ready(Ok(Brought::Bytes(take(filled.filled())))),
                }
            }
            Self::Tls { tcp, session } => {
                poll_read_tls(tcp.as_ref(), session, &mut buffer, cx, take)
            }
        };
        BUFFER.set(buffer);
        brought
    }
}

fn poll_read_tls<T>(
    tcp: &TcpStream,
    session: &RefCell<Session>,
    buffer: &mut [u8],
    cx: &mut Context<'_>,
    take: impl FnOnce(&[u8]) -> T,
) -> Poll<io::Result<Brought<T>>> {
    let wire = loop {
        ready!(tcp.poll_read_ready(cx))?;
        match tcp.try_read(buffer) {
            Err(error) if would_block(&error) => {}
            read => break buffer.get(..read?).unwrap_or_default(),
        }
    };
    if wire.is_empty() {
        let is_told = session.borrow_mut().process_new_packets().is_ok_and(|s| s.peer_has_closed());
        let cut_off = || io::Error::new(io::ErrorKind::UnexpectedEof, "it was cut off");
        return Poll::Ready(if is_told { Ok(Brought::Eof) } else { Err(cut_off()) });
    }
    let mut plain = PLAIN.take();
    plain.clear();
    // Whoever takes the bytes may write to this connection: the session is free again then.
    let closed = decrypt(&mut session.borrow_mut(), tcp, wire, &mut plain);
    let brought = match closed {
        Err(error) => Err(error),
        Ok(true) if plain.is_empty() => Ok(Brought::Eof),
        Ok(_) => Ok(Brought::Bytes(take(&plain))),
    };
    PLAIN.set(plain);
    Poll::Ready(brought)
}
