//! `grange body HANDLE`: a message as it leaves, for agents written in other languages.

use std::process::ExitCode;

use agent::Outgoing;

use super::{Failure, block_on, stored_somewhere, unreadable};
use crate::configuration::Configuration;
use crate::print;

/// Prints the message with its edits applied.
pub(super) fn run(
    configuration: &Configuration,
    handle: &queue::Handle,
) -> Result<ExitCode, Failure> {
    stored_somewhere(configuration)?;
    let reader = configuration.stores().reader()?;
    block_on(async {
        let mut message = Outgoing::open(&*reader, handle).await.map_err(unreadable)?;
        while let Some(piece) = message.next().await.map_err(anyhow::Error::from)? {
            print::bytes(&piece);
        }
        Ok(ExitCode::SUCCESS)
    })?
}
