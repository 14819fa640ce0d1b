//! The jobs of a message's life over their sockets, both ends: verify, route, enqueue, deliver, and the answers.
//!
//! Both ends are those of crate `socket`, in one runtime; the kernel's part is not counted.

use std::cell::Cell;
use std::hint::black_box;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use job::Acknowledged;
use job::deliver::Deliver;
use job::enqueue::Enqueue;
use job::route::Route;
use job::verify::{Client as SmtpClient, Verified, Verify, VerifyAnswer, VerifyRequest};
use queue::Handle;
use socket::{
    CallError, Client, ClientSettings, Conversation, Ownership, Responder, SendOptions,
    ServerSettings, Service, bind, serve_listener,
};
use tokio::sync::Notify;

use crate::example::{self, RECIPIENT, SENDER};
use crate::{on_a_runtime, rounds};

/// How long an answer may take: longer than the program runs.
const DEADLINE: Duration = Duration::from_secs(3600);
/// Where the example's message is stored.
const HANDLE: &str = "spool:1.1.64.4608.01hf8s5t00example000.m";

pub(crate) fn run(count: u32) {
    let folder = tempfile::tempdir().expect("there is room for sockets");
    on_a_runtime(exchange(folder.path(), count));
}

async fn exchange(folder: &Path, count: u32) {
    let (handle, id) = (Handle::parse(HANDLE).expect("a well-formed handle"), example::id(0));
    let verify = VerifyRequest {
        sender: Some(example::address(SENDER)),
        recipients: vec![example::address(RECIPIENT)],
        client: SmtpClient { address: Some([192, 0, 2, 1].into()), may_relay: true },
    };
    let route = example::route(handle.clone(), id);
    let enqueue = example::enqueue(handle.clone(), id);
    let deliver = example::deliver(handle, id);
    let deliverable = VerifyAnswer { recipients: vec![Verified::Deliverable], domains: Vec::new() };
    let verifying = Line::<Verify>::connect(folder, deliverable).await;
    let routing = Line::<Route>::connect(folder, Acknowledged {}).await;
    let enqueuing = Line::<Enqueue>::connect(folder, Acknowledged {}).await;
    let delivering = Line::<Deliver>::connect(folder, example::delivered()).await;
    for numbers in rounds(count) {
        let many = numbers.len();
        verifying.ask(&verify, many).await;
        routing.ask(&route, many).await;
        enqueuing.ask(&enqueue, many).await;
        delivering.ask(&deliver, many).await;
    }
}

/// A connection of one conversation, both ends of it.
struct Line<C: Conversation> {
    client: Client<C>,
    answered: Rc<Answered>,
}

/// How many requests have been answered since somebody asked.
#[derive(Default)]
struct Answered {
    count: Cell<usize>,
    changed: Notify,
}

impl<C: Conversation> Line<C> {
    /// Serves the conversation, with this answer to each request, and connects to it.
    async fn connect(folder: &Path, answer: C::Answer) -> Self {
        let path = folder.join(C::NAME);
        let listener = bind(&path, &Ownership { mode: 0o600, owner: None });
        let listener = listener.expect("the folder is ours");
        let service = Rc::new(Always(answer));
        tokio::task::spawn_local(serve_listener::<C>(listener, service, ServerSettings::default()));
        let client = Client::new(path, ClientSettings::default());
        client.connect();
        while client.peers().is_empty() {
            client.changed().await;
        }
        Self { client, answered: Rc::default() }
    }

    /// Sends the request so many times at once, and waits for the answers.
    async fn ask(&self, request: &C::Request, many: usize) {
        self.answered.count.set(0);
        for _ in 0..many {
            let answered = self.answered.clone();
            let options = SendOptions { deadline: Some(DEADLINE), ..SendOptions::default() };
            let on_answer = move |answer| answered.take::<C>(answer);
            let sent = self.client.send(black_box(request), options, on_answer);
            sent.expect("the window has room");
        }
        while self.answered.count.get() < many {
            self.answered.changed.notified().await;
        }
    }
}

impl Answered {
    fn take<C: Conversation>(&self, answer: Result<C::Answer, CallError>) {
        assert!(black_box(answer).is_ok(), "every request is answered");
        self.count.set(self.count.get() + 1);
        self.changed.notify_one();
    }
}

/// Answers each request the same.
struct Always<A>(A);

impl<C: Conversation> Service<C> for Always<C::Answer> {
    fn call(&self, request: C::Request, responder: Responder<C>) {
        black_box(request);
        responder.answer(&self.0);
    }
}
