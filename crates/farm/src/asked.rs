//! Who asks the worker of an on-demand farm for a pass while it makes one.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// How long a worker that has done its passes waits for one who is about to ask.
const LINGER: Duration = Duration::from_millis(500);
/// The longest reason that is logged, in characters.
const REASON_MAX: usize = 200;

/// Whether another pass is asked for. A pass serves all that asked before it began.
#[derive(Debug, Default)]
pub struct Asked {
    is_asked: Cell<bool>,
    last_reason: RefCell<String>,
    asked: Notify,
}

impl Asked {
    /// Somebody asks for a pass.
    pub fn ask(&self, reason: &str) {
        self.is_asked.set(true);
        self.last_reason.replace(reason.chars().take(REASON_MAX).collect());
        self.asked.notify_one();
    }

    /// A pass begins: it serves all that asked until now.
    pub fn begin(&self) {
        if self.is_asked.take() {
            tracing::debug!(reason = %self.last_reason.borrow().escape_debug(), "a pass was asked for");
        }
    }

    /// Whether somebody has asked since the last pass began.
    pub fn is_asked(&self) -> bool {
        self.is_asked.get()
    }

    /// Waits until somebody asks.
    pub async fn wait(&self) {
        while !self.is_asked() {
            self.asked.notified().await;
        }
    }

    /// Whether somebody asks within a moment: whoever made the manager start this worker has connected, and may not have been
    /// heard yet.
    pub async fn lingers(&self) -> bool {
        timeout(LINGER, self.wait()).await.is_ok()
    }
}
