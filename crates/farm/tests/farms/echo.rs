//! The conversation and the TCP service of the farms under test.

use std::rc::Rc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket::{Conversation, Responder, Service};

/// The conversation.
pub(crate) enum Echo {}

impl Conversation for Echo {
    const NAME: &'static str = "echo";
    const VERSIONS: &'static [u32] = &[1];
    type Request = Say;
    type Answer = Said;
}

/// What a worker is to do.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Say {
    /// Answer only after so long.
    pub(crate) hold_ms: u64,
    /// Panic instead of answering.
    pub(crate) panic: bool,
    /// Resign instead of answering.
    pub(crate) resign: bool,
    /// Keep the processor busy for so long.
    pub(crate) spin_ms: u64,
    /// For the log.
    pub(crate) reason: String,
}

socket::single_request!(Say, "echo");

/// Who answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Said {
    /// The worker's name.
    pub(crate) worker: String,
    /// Its process id.
    pub(crate) pid: u32,
    /// The text of its settings.
    pub(crate) text: String,
}

/// Settings of a farm under test.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Settings {
    /// Told in every answer.
    pub(crate) text: String,
    /// On demand: a line is added here for every pass.
    #[serde(default)]
    pub(crate) passes: Option<std::path::PathBuf>,
    /// On demand: asks for another pass after so long, once.
    #[serde(default)]
    pub(crate) come_again_ms: Option<u64>,
    /// The worker ends before it is ready.
    #[serde(default)]
    pub(crate) fails: bool,
    /// The worker stands by while nothing of that name is there.
    #[serde(default)]
    pub(crate) stands_by: Option<std::path::PathBuf>,
}

/// The service.
pub(crate) struct Echoer {
    /// What it answers.
    pub(crate) said: Rc<std::cell::RefCell<Said>>,
    /// Counts.
    pub(crate) worker: farm::Worker,
}

impl Service<Echo> for Echoer {
    fn call(&self, request: Say, responder: Responder<Echo>) {
        assert!(!request.panic, "asked to panic");
        if request.resign {
            return self.worker.resign();
        }
        self.worker.count(0, 1);
        let begun = std::time::Instant::now();
        while begun.elapsed() < Duration::from_millis(request.spin_ms) {}
        let said = self.said.clone();
        if request.hold_ms == 0 {
            return responder.answer(&said.borrow());
        }
        tokio::task::spawn_local(async move {
            tokio::time::sleep(Duration::from_millis(request.hold_ms)).await;
            responder.answer(&said.borrow());
        });
    }
}
