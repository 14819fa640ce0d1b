//! A proxy in front of a server that cuts connections at the COMMIT of an accept transaction.
//!
//! It understands so much of the protocol (PostgreSQL, chapter 55): a first message without a type, then a letter and a length.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::USER;

/// Where a connection is cut, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The server never hears of the COMMIT.
    BeforeCommit,
    /// The server hears of it and answers, and nobody hears the answer.
    AfterCommit,
}

/// How long the server may take to answer a COMMIT whose answer is thrown away.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// How long a test waits for a cut.
const CUT_MAX: Duration = Duration::from_secs(30);

/// A proxy on a port of the loopback interface, shared by its clones. Its threads end with the process.
#[derive(Clone)]
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    server: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    cut: Option<Cut>,
    cuts: usize,
    /// Answers that were thrown away.
    answers: usize,
    /// New connections are refused.
    is_closed: bool,
    /// They will be, from the next cut on.
    closes_with_cut: bool,
}

impl Proxy {
    /// Starts one in front of a server's socket.
    pub fn start(server: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Mutex::default();
        let shared = Shared { server: server.to_owned(), state, changed: Condvar::new() };
        let shared = Arc::new(shared);
        let its = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if its.with(|state| state.is_closed) {
                    continue;
                }
                let its = its.clone();
                std::thread::spawn(move || its.serve(client));
            }
        });
        Self { port, shared }
    }

    /// The URL of one of the server's databases, through this.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// The port that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Cuts the connection over which the next accept transaction is committed.
    pub fn cut(&self, cut: Cut) {
        self.shared.with(|state| state.cut = Some(cut));
    }

    /// The same, and refuses every connection from then on, until [`Self::open`].
    pub fn cut_and_close(&self, cut: Cut) {
        self.shared.with(|state| (state.cut, state.closes_with_cut) = (Some(cut), true));
    }

    /// Lets connections through again.
    pub fn open(&self) {
        self.shared.with(|state| state.is_closed = false);
    }

    /// Waits until it has cut so many connections.
    pub fn wait_for_cuts(&self, cuts: usize) {
        self.shared.wait(|state| state.cuts >= cuts);
    }

    /// Waits until the server has answered so many COMMITs whose answers were thrown away.
    pub fn wait_for_answers(&self, answers: usize) {
        self.shared.wait(|state| state.answers >= answers);
    }
}

impl Shared {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn wait(&self, holds: impl Fn(&State) -> bool) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, CUT_MAX, |state| !holds(state));
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(holds(&state), "it does not come to pass");
    }

    fn serve(&self, client: TcpStream) {
        let Ok(server) = UnixStream::connect(&self.server) else { return };
        let (Ok(from_server), Ok(to_client)) = (server.try_clone(), client.try_clone()) else {
            return;
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut from, mut to) = (&from_server, &to_client);
                let _ = io::copy(&mut from, &mut to);
                let _ = to_client.shutdown(Shutdown::Both);
            });
            let _ = self.forward(&client, &server);
            let _ = client.shutdown(Shutdown::Both);
            let _ = server.shutdown(Shutdown::Both);
        });
    }

    /// Hands on what the client says, message by message, until the connection is to be cut.
    fn forward(&self, client: &TcpStream, server: &UnixStream) -> io::Result<()> {
        let (mut from, mut to) = (client, server);
        let mut is_accept = false;
        let mut head = 4;
        loop {
            let mut message = vec![0; head];
            from.read_exact(&mut message)?;
            let length = message.last_chunk::<4>().map_or(4, |bytes| u32::from_be_bytes(*bytes));
            let mut rest = vec![0; (length as usize).saturating_sub(4)];
            from.read_exact(&mut rest)?;
            let kind = if head == 5 { message.first().copied() } else { None };
            head = 5;
            let says = |text: &str| rest.windows(text.len()).any(|part| part == text.as_bytes());
            is_accept |= kind == Some(b'P') && says("INTO message");
            let is_commit = kind == Some(b'Q') && says("COMMIT");
            let cut =
                if is_commit && is_accept { self.with(|state| state.cut.take()) } else { None };
            message.extend_from_slice(&rest);
            if let Some(cut) = cut {
                self.with(|state| {
                    state.cuts += 1;
                    state.is_closed |= std::mem::take(&mut state.closes_with_cut);
                });
                self.changed.notify_all();
                // The client's side goes first, so that no answer can get through.
                client.shutdown(Shutdown::Both)?;
                return match cut {
                    Cut::BeforeCommit => Ok(()),
                    Cut::AfterCommit => self.let_commit(&message, server),
                };
            }
            to.write_all(&message)?;
            is_accept &= !is_commit;
        }
    }

    /// Hands the COMMIT on, and throws away what is answered.
    fn let_commit(&self, message: &[u8], server: &UnixStream) -> io::Result<()> {
        let mut server = server;
        server.write_all(message)?;
        // Whoever has read all that was sent has answered it.
        server.shutdown(Shutdown::Write)?;
        server.set_read_timeout(Some(ANSWER_MAX))?;
        io::copy(&mut server, &mut io::sink())?;
        self.with(|state| state.answers += 1);
        self.changed.notify_all();
        Ok(())
    }
}
