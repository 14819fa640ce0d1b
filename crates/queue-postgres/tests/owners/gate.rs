//! A way to a server on which what the client says can be held up, and answers be lost.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use queue_postgres::testing::USER;

/// How long a test waits for something to come to pass.
const PATIENCE: Duration = Duration::from_secs(30);

/// A port of the loopback interface that leads to a server's socket. Its threads end with the process.
#[derive(Clone)]
pub(crate) struct Gate {
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
    is_held: bool,
    /// What clients have said while it was held, and servers have answered afterwards, as text.
    held: String,
    answered: String,
    /// Connections that were held and have not ended.
    held_open: usize,
    /// The answer to the next COMMIT of a transaction that says this is lost, and its connection with it.
    loses: Option<&'static str>,
    lost: usize,
}

impl Gate {
    pub(crate) fn to(server: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Mutex::default();
        let shared = Shared { server: server.to_owned(), state, changed: Condvar::new() };
        let shared = Arc::new(shared);
        let its = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let its = its.clone();
                std::thread::spawn(move || its.serve(&client));
            }
        });
        Self { port, shared }
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// Nothing that clients say gets through, until [`Gate::go_on`]; a client that ends meanwhile has said it all the same.
    pub(crate) fn hold(&self) {
        self.shared.with(|state| state.is_held = true);
    }

    pub(crate) fn go_on(&self) {
        self.shared.with(|state| state.is_held = false);
    }

    /// Waits until clients have said this while it was held.
    pub(crate) fn wait_for_held(&self, text: &str) {
        self.shared.wait(|state| state.held.contains(text));
    }

    /// Waits until the server has dealt with all that was held of clients that have ended, and gives what it answered.
    pub(crate) fn wait_for_answers(&self) -> String {
        self.shared.wait(|state| !state.is_held && state.held_open == 0);
        self.shared.with(|state| state.answered.clone())
    }

    /// Loses the answer to the next COMMIT of a transaction that says this.
    pub(crate) fn lose_answer_to(&self, text: &'static str) {
        self.shared.with(|state| state.loses = Some(text));
    }

    pub(crate) fn wait_for_losses(&self, losses: usize) {
        self.shared.wait(|state| state.lost >= losses);
    }
}

impl Shared {
    fn with<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let done = work(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
        done
    }

    fn wait(&self, holds: impl Fn(&State) -> bool) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(state, PATIENCE, |state| !holds(state));
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(holds(&state), "it does not come to pass: {} {}", state.held, state.answered);
    }

    fn serve(&self, client: &TcpStream) {
        let Ok(server) = UnixStream::connect(&self.server) else { return };
        let was_held = Mutex::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let _ = self.answer(&server, client, &was_held);
                let _ = client.shutdown(Shutdown::Both);
            });
            let _ = self.forward(client, &server, &was_held);
            // Whoever has read all that was sent answers it.
            let _ = server.shutdown(Shutdown::Write);
        });
    }

    /// Hands on what the client says, as it comes.
    fn forward(
        &self,
        mut client: &TcpStream,
        mut server: &UnixStream,
        was_held: &Mutex<bool>,
    ) -> io::Result<()> {
        let mut said = String::new();
        let mut bytes = vec![0; 1 << 16];
        loop {
            let length = client.read(&mut bytes)?;
            let Some(part) = bytes.get(..length).filter(|part| !part.is_empty()) else {
                return Ok(());
            };
            let text = String::from_utf8_lossy(part);
            said.push_str(&text);
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.is_held {
                let mut was_held = was_held.lock().unwrap_or_else(PoisonError::into_inner);
                state.held_open += usize::from(!std::mem::replace(&mut *was_held, true));
                drop(was_held);
                state.held.push_str(&text);
                self.changed.notify_all();
                let waited = self.changed.wait_timeout_while(state, PATIENCE, |it| it.is_held);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
            let loses = state.loses.take_if(|text| said.contains(*text) && said.contains("COMMIT"));
            drop(state);
            if loses.is_some() {
                // The client's side goes first, so that no answer can get through.
                client.shutdown(Shutdown::Both)?;
            }
            server.write_all(part)?;
            if loses.is_some() {
                return Ok(());
            }
            if text.contains("COMMIT") {
                said.clear();
            }
        }
    }

    fn answer(
        &self,
        mut server: &UnixStream,
        mut client: &TcpStream,
        was_held: &Mutex<bool>,
    ) -> io::Result<()> {
        let mut bytes = vec![0; 1 << 16];
        loop {
            let length = server.read(&mut bytes)?;
            let Some(part) = bytes.get(..length).filter(|part| !part.is_empty()) else {
                let was_held = *was_held.lock().unwrap_or_else(PoisonError::into_inner);
                self.with(|state| {
                    state.lost += 1;
                    state.held_open -= usize::from(was_held);
                });
                return Ok(());
            };
            if *was_held.lock().unwrap_or_else(PoisonError::into_inner) {
                self.with(|state| state.answered.push_str(&String::from_utf8_lossy(part)));
            }
            // Nobody may be there to hear it any more: the server is read all the same.
            let _ = client.write_all(part);
        }
    }
}
