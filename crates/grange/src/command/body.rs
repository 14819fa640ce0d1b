//! `grange body HANDLE`: a message as it leaves, for agents written in other languages.

use std::io::Write;
use std::process::ExitCode;

use agent::Outgoing;

use super::{Failure, block_on};
use crate::configuration::Configuration;
use crate::stores;

/// Prints the message with its edits applied.
pub(super) fn run(
    configuration: &Configuration,
    handle: &queue::Handle,
) -> Result<ExitCode, Failure> {
    let (reader, _) = stores::read_only(configuration)?;
    block_on(async {
        let mut message = Outgoing::open(&*reader, handle)
            .await
            .map_err(|error| Failure::NotFound(error.to_string()))?;
        let mut out = std::io::stdout().lock();
        while let Some(piece) = message.next().await.map_err(anyhow::Error::from)? {
            out.write_all(&piece)?;
        }
        out.flush()?;
        Ok(ExitCode::SUCCESS)
    })?
}
