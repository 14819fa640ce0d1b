//! A small SMTP client that does what it is told, also what no client should do.

use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// How long the client waits for a reply.
const REPLY: Duration = Duration::from_secs(60);

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(10);

/// A connection to an SMTP server.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<TcpStream>,
}

/// A reply: its code, and its lines without code and line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// Three digits.
    pub code: u16,
    /// The texts of its lines.
    pub lines: Vec<String>,
}

impl Reply {
    /// All texts, joined by line ends.
    pub fn text(&self) -> String {
        self.lines.join("\n")
    }

    /// The message id in `250 2.0.0 … queued as ID`.
    pub fn queued_as(&self) -> Option<String> {
        let text = self.text();
        let (_, id) = text.rsplit_once("queued as ")?;
        Some(id.trim().to_owned())
    }
}

impl Client {
    /// Connects and takes the greeting, which must be 220.
    pub fn connect(port: u16) -> Self {
        let mut client = Self::open(port).expect("the server can be connected to");
        let greeting = client.reply().expect("the server greets");
        assert_eq!(greeting.code, 220, "{greeting:?}");
        client
    }

    /// Connects without waiting for the greeting.
    pub fn open(port: u16) -> std::io::Result<Self> {
        Self::open_at((Ipv4Addr::LOCALHOST, port).into())
    }

    /// Connects to a server elsewhere, without waiting for the greeting.
    pub fn open_at(server: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&server, CONNECT)?;
        stream.set_read_timeout(Some(REPLY))?;
        stream.set_write_timeout(Some(REPLY))?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(stream) })
    }

    /// Connects, greets and is greeted: ready for MAIL.
    pub fn ready(port: u16) -> Self {
        let mut client = Self::connect(port);
        client.expect("EHLO client.example", 250);
        client
    }

    /// Writes bytes as they are.
    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.reader.get_mut().write_all(bytes)
    }

    /// Reads a reply, all its lines. The end of the connection is an error.
    pub fn reply(&mut self) -> std::io::Result<Reply> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            let malformed = || std::io::Error::other(format!("not a reply: {line:?}"));
            let code = line.get(..3).and_then(|code| code.parse().ok()).ok_or_else(malformed)?;
            let last = line.get(3..4) != Some("-");
            lines.push(line.get(4..).unwrap_or_default().trim_end().to_owned());
            if last {
                return Ok(Reply { code, lines });
            }
        }
    }

    /// Sends a line and takes the reply.
    pub fn command(&mut self, line: &str) -> std::io::Result<Reply> {
        self.write(format!("{line}\r\n").as_bytes())?;
        self.reply()
    }

    /// Sends a line; the reply must have this code.
    pub fn expect(&mut self, line: &str, code: u16) -> Reply {
        let reply = self.command(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert_eq!(reply.code, code, "{line}: {reply:?}");
        reply
    }

    /// Sends a message in a transaction and gives the reply to its end. `message` has its line ends, and no dots at their begin.
    pub fn message(
        &mut self,
        sender: &str,
        recipients: &[&str],
        message: &str,
    ) -> std::io::Result<Reply> {
        let mut last = self.command(&format!("MAIL FROM:<{sender}>"))?;
        for recipient in recipients {
            if last.code == 250 {
                last = self.command(&format!("RCPT TO:<{recipient}>"))?;
            }
        }
        if last.code == 250 {
            last = self.command("DATA")?;
        }
        if last.code != 354 {
            return Ok(last);
        }
        self.write(format!("{message}\r\n.\r\n").as_bytes())?;
        self.reply()
    }

    /// Closes our half, and gives what still came: replies until the server closes its half.
    pub fn rest(mut self) -> Vec<Reply> {
        let _ = self.reader.get_mut().shutdown(Shutdown::Write);
        let mut replies = Vec::new();
        while let Ok(reply) = self.reply() {
            replies.push(reply);
        }
        replies
    }

    /// Whether the server has closed the connection, or closes it within the time of a reply.
    pub fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        match std::io::Read::read(&mut self.reader, &mut byte) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}
