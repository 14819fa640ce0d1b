//! A conversation for tests: texts are echoed, at once or when the test says so.

pub(crate) mod hosts;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::{
    Client, ClientSettings, Conversation, Ownership, Responder, Server, ServerSettings, Service,
    bind,
};

pub(crate) enum Echo {}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Say {
    pub(crate) text: String,
}

crate::single_request!(Say, "say");

impl Conversation for Echo {
    const NAME: &'static str = "echo";
    const VERSIONS: &'static [u32] = &[3, 2];
    type Request = Say;
    type Answer = Say;
}

pub(crate) fn say(text: impl Into<String>) -> Say {
    Say { text: text.into() }
}

/// Answers at once, or keeps what comes for the test to answer.
#[derive(Default)]
pub(crate) struct Echoer {
    pub(crate) holds: Cell<bool>,
    pub(crate) held: RefCell<Vec<(Say, Responder<Echo>)>>,
    pub(crate) taken: Cell<usize>,
}

impl Echoer {
    pub(crate) fn holding() -> Rc<Self> {
        let this = Self::default();
        this.holds.set(true);
        Rc::new(this)
    }

    pub(crate) fn answer_all(&self) {
        for (request, responder) in self.held.take() {
            responder.answer(&request);
        }
    }
}

impl Service<Echo> for Echoer {
    fn call(&self, request: Say, responder: Responder<Echo>) {
        self.taken.set(self.taken.get() + 1);
        if self.holds.get() {
            self.held.borrow_mut().push((request, responder));
        } else {
            responder.answer(&request);
        }
    }
}

/// Runs a test on a runtime as a worker has it, for at most 20 seconds.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("the test ends in time");
    });
}

/// Waits until something holds.
pub(crate) async fn until(mut holds: impl FnMut() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// A directory with a socket, and servers that accept on it.
pub(crate) struct Place {
    directory: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("test.echo")
    }

    pub(crate) fn listen(&self) -> UnixListener {
        let listener = bind(&self.path(), &Ownership { mode: 0o600, owner: None }).unwrap();
        UnixListener::from_std(listener).unwrap()
    }

    /// Serves every connection with one server.
    pub(crate) fn serve(&self, echoer: Rc<Echoer>, settings: ServerSettings) -> Server<Echo> {
        let server = Server::new(echoer, settings);
        let listener = self.listen();
        let accepting = server.clone();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                accepting.take(stream, None);
            }
        });
        server
    }

    pub(crate) fn client(&self, deadline: Duration) -> Client<Echo> {
        Client::new(
            self.path(),
            ClientSettings { deadline, waiting_max: 3, ..ClientSettings::default() },
        )
    }

    /// A client that is connected to so many workers.
    pub(crate) async fn connected(&self, workers: usize) -> Client<Echo> {
        let client = self.client(Duration::from_secs(5));
        client.connect();
        until(|| client.peers().len() == workers).await;
        client
    }

    /// A raw peer of the server, its hello read.
    pub(crate) async fn raw(&self) -> Raw {
        Raw::new(UnixStream::connect(self.path()).await.unwrap())
    }
}

/// A peer that writes and reads lines as a person would.
pub(crate) struct Raw {
    stream: BufReader<UnixStream>,
}

impl Raw {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    pub(crate) async fn write(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).await.unwrap();
    }

    pub(crate) async fn line(&mut self) -> String {
        let mut line = String::new();
        self.stream.read_line(&mut line).await.unwrap();
        line.trim_end().to_owned()
    }

    /// Everything until the other end closes.
    pub(crate) async fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest).await;
        String::from_utf8(rest).unwrap()
    }

    /// Reads the hello and chooses a version.
    pub(crate) async fn begin(&mut self) {
        assert!(self.line().await.contains("\"hello\""));
        self.write("{\"jsonrpc\":\"2.0\",\"method\":\"use\",\"params\":{\"version\":2}}\n").await;
    }
}
