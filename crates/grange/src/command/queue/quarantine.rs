//! `grange quarantine …`: the queue's commands, on what filters hold and nothing else.

mod inspect;

use std::process::ExitCode;

use job::admin::{AdminRequest, Change, Selection};
use mail::Timestamp;

use super::{apply_to, list, show};
use crate::cli;
use crate::command::{Failure, block_on, table};
use crate::configuration::Configuration;

/// Runs a command on what filters hold.
pub(in crate::command) fn run(
    configuration: &Configuration,
    command: cli::Quarantine,
) -> Result<ExitCode, Failure> {
    block_on(async {
        match command {
            cli::Quarantine::List { select, page } => {
                list(configuration, &selection(select), page).await
            }
            cli::Quarantine::Show(options) => show(configuration, options).await,
            cli::Quarantine::Release(cli::Release { inspect: false, change }) => {
                apply(configuration, AdminRequest::Release, change).await
            }
            cli::Quarantine::Release(cli::Release { inspect: true, change }) => {
                let select = named(change.select)?;
                inspect::release(configuration, &select, change.output).await
            }
            cli::Quarantine::Remove(change) => {
                apply(configuration, AdminRequest::Remove, change).await
            }
            cli::Quarantine::Expire { older_than, output } => {
                let age = u64::try_from(older_than.0.as_millis()).unwrap_or(u64::MAX);
                let before = table::now().millis().saturating_sub(age);
                let select = Selection {
                    quarantined: true,
                    before: Some(Timestamp::from_millis(before)),
                    ..Selection::default()
                };
                let change = Change { select, reason: None };
                apply_to(configuration, AdminRequest::Remove, change, output).await
            }
        }
    })?
}

fn selection(select: cli::SelectQuarantined) -> Selection {
    let cli::SelectQuarantined { ids, domain, sender, all } = select;
    Selection { ids, domain, sender, all, quarantined: true, ..Selection::default() }
}

async fn apply(
    configuration: &Configuration,
    request: fn(Change) -> AdminRequest,
    change: cli::QuarantineChange,
) -> Result<ExitCode, Failure> {
    let cli::QuarantineChange { select, output } = change;
    let change = Change { select: named(select)?, reason: None };
    apply_to(configuration, request, change, output).await
}

/// A selection for a change, which must say something.
fn named(select: cli::SelectQuarantined) -> Result<Selection, Failure> {
    let names_nothing =
        select.ids.is_empty() && select.domain.is_none() && select.sender.is_none() && !select.all;
    if names_nothing {
        let right = "say which messages: ids, --domain, --sender or --all";
        return Err(Failure::Usage(right.to_owned()));
    }
    Ok(selection(select))
}
