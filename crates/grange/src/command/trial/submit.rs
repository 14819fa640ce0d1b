//! Sends one message to the trial, as any client would.

use std::net::SocketAddr;

use anyhow::{Context, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::command::Failure;

/// One message.
pub(super) struct Submission {
    pub(super) to: SocketAddr,
    pub(super) sender: String,
    pub(super) recipient: String,
    /// A word by which the message is known again where it arrives.
    pub(super) token: String,
}

impl Submission {
    /// Sends it; the answer is the id it was given.
    pub(super) async fn send(&self) -> Result<String, Failure> {
        let stream = TcpStream::connect(self.to)
            .await
            .with_context(|| format!("cannot connect to {}", self.to))?;
        let mut stream = BufReader::new(stream);
        let Self { sender, recipient, token, .. } = self;
        let text = format!(
            "From: <{sender}>\r\nTo: <{recipient}>\r\nSubject: a trial message\r\n\
             Message-ID: <{token}@here.test>\r\n\r\nThis message is to be {token}.\r\n.\r\n"
        );
        let steps = [
            (String::new(), 220),
            ("EHLO client.here.test\r\n".to_owned(), 250),
            (format!("MAIL FROM:<{sender}>\r\n"), 250),
            (format!("RCPT TO:<{recipient}>\r\n"), 250),
            ("DATA\r\n".to_owned(), 354),
            (text, 250),
        ];
        let mut reply = String::new();
        for (step, expected) in steps {
            stream.write_all(step.as_bytes()).await?;
            reply = read_reply(&mut stream).await?;
            if !reply.starts_with(&format!("{expected}")) {
                return Err(anyhow::anyhow!("{} was answered {reply}", step.trim_end()).into());
            }
        }
        stream.write_all(b"QUIT\r\n").await?;
        let id = reply.trim_end().rsplit(' ').next().unwrap_or_default();
        Ok(id.to_owned())
    }
}

/// Reads a reply of one or more lines; gives the last.
async fn read_reply(stream: &mut BufReader<TcpStream>) -> anyhow::Result<String> {
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            bail!("the server closed the connection");
        }
        if line.as_bytes().get(3) != Some(&b'-') {
            return Ok(line.trim_end().to_owned());
        }
    }
}
