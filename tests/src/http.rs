//! A small HTTP server that takes posts and keeps their bodies.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// The most bytes of a body.
const BODY_BYTES_MAX: usize = 1 << 20;

/// What a client posted.
#[derive(Debug, Clone)]
pub struct Post {
    /// Its header lines.
    pub headers: Vec<String>,
    /// Its body.
    pub body: String,
}

/// A server that answers every post with 200, after a while. It lives as long as the test.
pub struct HttpServer {
    /// Its port.
    pub port: u16,
    posts: Arc<Mutex<Vec<Post>>>,
}

impl HttpServer {
    /// Starts it; `pause` is how long each answer takes.
    pub fn start(pause: Duration) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let posts = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&posts);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let posts = Arc::clone(&kept);
                std::thread::spawn(move || {
                    if let Ok(post) = read(&stream) {
                        posts.lock().expect("no panic").push(post);
                        std::thread::sleep(pause);
                        let _ = (&stream).write_all(
                            b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                        );
                    }
                });
            }
        });
        Self { port, posts }
    }

    /// What was posted so far.
    pub fn posts(&self) -> MutexGuard<'_, Vec<Post>> {
        self.posts.lock().expect("no panic")
    }
}

/// Reads a post whole; one that ends early is an error, and was not made.
fn read(stream: &TcpStream) -> std::io::Result<Post> {
    let mut reader = BufReader::new(stream);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        match line.trim_end() {
            "" => break,
            line => headers.push(line.to_owned()),
        }
    }
    let length = headers
        .iter()
        .find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok())
        .unwrap_or(0);
    if length > BODY_BYTES_MAX {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Post { headers, body: String::from_utf8_lossy(&body).into_owned() })
}
