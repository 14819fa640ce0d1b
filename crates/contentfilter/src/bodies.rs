//! Other bodies that filters gave to messages: each a draft of its own, which lives until its message is committed.

use std::rc::Rc;

use bytes::Bytes;
use job::inspect::ReplacedBody;
use queue::{Draft, Intake, Local, SizeHint};
use tokio::sync::OnceCell;

/// After so many bytes the store is asked whether it has caught up.
const PIECE_BYTES: usize = 64 << 10;

/// Opens the queue for writing, when a body is replaced for the first time; the error says why that cannot be.
pub type OpenIntake = Box<dyn Fn() -> Local<'static, Result<Rc<dyn Intake>, String>>>;

/// Where other bodies are written. A farm whose filters replace none opens nothing.
pub(crate) struct Bodies {
    open: OpenIntake,
    intake: OnceCell<Rc<dyn Intake>>,
}

impl Bodies {
    pub(crate) fn new(open: OpenIntake) -> Self {
        Self { open, intake: OnceCell::new() }
    }

    /// Writes a message with another body. It can be committed as long as the draft lives.
    pub(crate) async fn write(&self, message: &Bytes) -> Result<Replacement, String> {
        let intake = self.intake.get_or_try_init(|| (self.open)()).await?;
        let size = message.len() as u64;
        let written = async {
            let mut draft = intake.begin(SizeHint { declared_bytes: Some(size) })?;
            for piece in message.chunks(PIECE_BYTES) {
                draft.write(piece)?;
                draft.room().await?;
            }
            let handle = draft.finish().await?;
            Ok::<_, queue::IntakeError>(Replacement { body: ReplacedBody { handle, size }, draft })
        };
        written.await.map_err(|error| error.to_string())
    }
}

/// A message with another body, which is dropped with this.
pub(crate) struct Replacement {
    pub(crate) body: ReplacedBody,
    /// Held, so that the store keeps it.
    #[allow(dead_code, reason = "it is held, not looked at")]
    draft: Box<dyn Draft>,
}
