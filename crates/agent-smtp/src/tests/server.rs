//! A server that does as its script says, connection by connection.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
use tokio::net::{TcpListener, TcpStream};

/// Steps of one connection:
/// `> text` says a line (`>> text` without a line end) · `< PREFIX` reads a line, which must begin so · `.` reads a message to its
/// dot · `half` reads a little of it · `stall` waits until the client has gone · `reset` · `endless` never ends its reply · `flood`
/// never ends its line. At the script's end the connection is closed.
pub(crate) type Script = &'static [&'static str];

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    /// What each connection's client said, line by line.
    heard: Rc<RefCell<Vec<Vec<String>>>>,
}

/// A session up to the first transaction.
pub(crate) const HELLO: Script = &["> 220 hi", "< EHLO", "> 250-hi", "> 250 PIPELINING"];
/// A transaction with one recipient up to its message.
pub(crate) const ONE: Script =
    &["< MAIL", "< RCPT", "< DATA", "> 250 ok", "> 250 ok", "> 354 go", "."];

impl Server {
    /// Serves as many connections as there are scripts, then refuses.
    pub(crate) async fn start(scripts: Vec<Vec<&'static str>>) -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap(), scripts).await
    }

    pub(crate) async fn start_on(address: SocketAddr, scripts: Vec<Vec<&'static str>>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard: Rc<RefCell<Vec<Vec<String>>>> = Rc::default();
        let server = Self { address, heard: Rc::clone(&heard) };
        tokio::task::spawn_local(async move {
            for (number, script) in scripts.into_iter().enumerate() {
                let (stream, _) = listener.accept().await.unwrap();
                // What is said before a reset must have left.
                stream.set_nodelay(true).unwrap();
                heard.borrow_mut().push(Vec::new());
                let heard = Rc::clone(&heard);
                tokio::task::spawn_local(async move {
                    let hear = |line: &str| heard.borrow_mut()[number].push(line.to_owned());
                    follow(stream, &script, hear).await;
                });
            }
        });
        server
    }

    pub(crate) fn heard(&self) -> Vec<Vec<String>> {
        self.heard.borrow().clone()
    }

    /// The lane's host that leads here.
    pub(crate) fn host(&self) -> String {
        format!("[{}]:{}", self.address.ip(), self.address.port())
    }
}

async fn follow(stream: TcpStream, script: &[&str], hear: impl Fn(&str)) {
    let mut stream = BufStream::new(stream);
    for step in script {
        let result = match step.split_once(' ') {
            Some((">", text)) => say(&mut stream, format!("{text}\r\n").as_bytes()).await,
            Some((">>", text)) => say(&mut stream, text.as_bytes()).await,
            Some(("<", prefix)) => match line(&mut stream).await {
                Ok(line) => {
                    hear(&line);
                    assert!(line.starts_with(prefix), "{line:?} instead of {prefix:?}");
                    Ok(())
                }
                Err(error) => Err(error),
            },
            _ => match *step {
                "." => message(&mut stream, &hear).await,
                "half" => stream.read_exact(&mut [0; 10]).await.map(drop),
                "stall" => stalled(&mut stream, &hear).await,
                "reset" => {
                    stream.into_inner().set_zero_linger().unwrap();
                    return;
                }
                "endless" => forever(&mut stream, b"250-more\r\n").await,
                "flood" => forever(&mut stream, &[b'2'; 100]).await,
                step => panic!("no such step: {step}"),
            },
        };
        if let Err(error) = result {
            return hear(&format!("({})", error.kind()));
        }
    }
    // Whatever else the client says is of interest too.
    while let Ok(line) = line(&mut stream).await {
        hear(&line);
        if line == "QUIT" {
            let _ = say(&mut stream, b"221 bye\r\n").await;
        }
        if script.last() != Some(&"open") {
            return;
        }
    }
}

async fn say(stream: &mut BufStream<TcpStream>, bytes: &[u8]) -> std::io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

async fn line(stream: &mut BufStream<TcpStream>) -> std::io::Result<String> {
    let mut line = String::new();
    match stream.read_line(&mut line).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(line.strip_suffix("\r\n").expect("lines end with CRLF").to_owned()),
    }
}

async fn message(stream: &mut BufStream<TcpStream>, hear: &impl Fn(&str)) -> std::io::Result<()> {
    let mut length = 0;
    loop {
        let line = line(stream).await?;
        length += line.len() + 2;
        if line == "." {
            hear(&format!("message of {}", length - 3));
            return Ok(());
        }
    }
}

async fn stalled(stream: &mut BufStream<TcpStream>, hear: &impl Fn(&str)) -> std::io::Result<()> {
    let mut rest = Vec::new();
    let result = stream.read_to_end(&mut rest).await;
    hear(&format!("then {:?}", String::from_utf8_lossy(&rest)));
    result.map(drop)
}

async fn forever(stream: &mut BufStream<TcpStream>, bytes: &[u8]) -> std::io::Result<()> {
    loop {
        say(stream, bytes).await?;
    }
}
