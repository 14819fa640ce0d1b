//! A worker that serves a conversation as the test says, and goes when it is made to.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use socket::{
    Conversation, ErrorObject, Ownership, Responder, Server, ServerSettings, Service, Serving, bind,
};
use tokio::net::{UnixListener, UnixStream};

/// Takes requests, and answers each at once or never.
struct Kept<C: Conversation> {
    taken: RefCell<Vec<C::Request>>,
    alone: RefCell<Vec<bool>>,
    held: RefCell<Vec<Responder<C>>>,
    answer: Option<C::Answer>,
    refusal: Option<i32>,
}

impl<C: Conversation> Service<C> for Kept<C> {
    fn call(&self, request: C::Request, responder: Responder<C>) {
        self.taken.borrow_mut().push(request);
        self.alone.borrow_mut().push(responder.is_alone());
        if let Some(code) = self.refusal {
            return responder.refuse(ErrorObject::new(code, "no"));
        }
        match &self.answer {
            Some(answer) => responder.answer(answer),
            None => self.held.borrow_mut().push(responder),
        }
    }
}

/// A worker that serves a socket until it is dropped.
pub(super) struct Served<C: Conversation> {
    kept: Rc<Kept<C>>,
    server: Server<C>,
    accepting: tokio::task::JoinHandle<()>,
    /// Both ends of a relay, whose ending is the connection's.
    relays: Rc<RefCell<Vec<tokio::task::JoinHandle<()>>>>,
}

impl<C: Conversation> Served<C> {
    /// Binds the socket and answers every request with `answer`, or keeps it unanswered. Call it within a runtime.
    pub(super) fn new(path: &Path, answer: Option<C::Answer>) -> Self {
        Self::with(path, answer, None)
    }

    /// Binds the socket and refuses every request with this code.
    pub(super) fn refusing(path: &Path, code: i32) -> Self {
        Self::with(path, None, Some(code))
    }

    fn with(path: &Path, answer: Option<C::Answer>, refusal: Option<i32>) -> Self {
        let (taken, alone, held) = (RefCell::default(), RefCell::default(), RefCell::default());
        let kept = Rc::new(Kept { taken, alone, held, answer, refusal });
        let server = Server::new(Rc::clone(&kept) as Rc<dyn Service<C>>, ServerSettings::default());
        let listener = bind(path, &Ownership { mode: 0o600, owner: None }).expect("a socket");
        let listener = UnixListener::from_std(listener).expect("a socket");
        let relays = Rc::new(RefCell::new(Vec::new()));
        let accepting = tokio::task::spawn_local({
            let (server, relays) = (server.clone(), Rc::clone(&relays));
            async move {
                while let Ok((mut outer, _)) = listener.accept().await {
                    // Through a relay, so that the test can cut the connection as a death does.
                    let (mut inner, stream) = UnixStream::pair().expect("a pair");
                    server.take(stream, None);
                    let relay = tokio::task::spawn_local(async move {
                        let _ = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
                    });
                    relays.borrow_mut().push(relay);
                }
            }
        });
        Self { kept, server, accepting, relays }
    }

    /// How many requests have come.
    pub(super) fn taken(&self) -> usize {
        self.kept.taken.borrow().len()
    }

    /// Which of the requests came to be alone in hand.
    pub(super) fn alone(&self) -> Vec<bool> {
        self.kept.alone.borrow().clone()
    }

    /// The requests that have come.
    pub(super) fn requests(&self) -> Vec<C::Request>
    where
        C::Request: Clone,
    {
        self.kept.taken.borrow().clone()
    }

    /// Begins to drain.
    pub(super) fn drain(&self) {
        self.server.drain();
    }

    /// Tells every client how many workers there are, and which crashed.
    pub(super) fn tell_workers(&self, workers: u32, crashed: &[u32]) {
        self.server.set_workers(workers, crashed);
    }

    /// Cuts all connections, and nothing is in hand any more, as when a worker dies.
    pub(super) fn cut(&self) {
        for relay in self.relays.take() {
            relay.abort();
        }
        self.kept.held.take();
    }
}

impl<C: Conversation> Drop for Served<C> {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}
