//! The last words on a connection.

use std::io;
use std::os::fd::AsFd;

use rustix::net::{SendFlags, Shutdown};

/// Sends the last bytes of a stream together with its end, so that the peer is woken once for both. Never waits.
///
/// Gives how many bytes were taken. When those are not all, the stream is still open, and the rest is to be sent as usual.
pub fn send_last(stream: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::MORE | SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    let count = rustix::net::send(&stream, bytes, flags)?;
    if count == bytes.len() {
        rustix::net::shutdown(&stream, Shutdown::Write)?;
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn what_was_sent_last_comes_before_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("up");
        let (mut server, _) = listener.accept().expect("a client");
        server.write_all(b"first ").expect("sent");
        assert_eq!(send_last(&server, b"last").expect("sent"), 4);
        let mut read = String::new();
        client.read_to_string(&mut read).expect("the stream ends while the socket is open");
        assert_eq!(read, "first last");
        assert!(send_last(&server, b"more").is_err());
    }

    #[test]
    fn what_finds_no_room_leaves_the_stream_open() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client = TcpStream::connect(listener.local_addr().expect("bound")).expect("up");
        let (mut server, _) = listener.accept().expect("a client");
        let large = vec![b'x'; 64 << 20];
        let count = send_last(&server, &large).expect("a part is taken");
        assert!((1..large.len()).contains(&count), "{count}");
        let reader = std::thread::spawn(move || {
            let mut read = Vec::new();
            client.read_to_end(&mut read).map(|_| read.len())
        });
        server.write_all(large.split_at(count).1).expect("it goes on");
        drop(server);
        assert_eq!(reader.join().expect("no panic").expect("read"), large.len());
    }
}
