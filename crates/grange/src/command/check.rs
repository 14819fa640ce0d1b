//! `grange check`: says whether the configuration is right, and if not, what would be.

use std::path::Path;
use std::process::ExitCode;

use super::{Failure, table};
use crate::cli;
use crate::configuration::Configuration;
use crate::stores;

/// Checks; the exit code is 0, or 78.
pub(super) fn run(path: &Path, options: &cli::Check) -> Result<ExitCode, Failure> {
    let configuration = Configuration::load_with_tables(path)?;
    if options.print {
        let queue = configuration.queue.clone().without_secrets();
        table::json(&Configuration { queue, ..configuration })?;
        return Ok(ExitCode::SUCCESS);
    }
    match configuration.stores().check_version() {
        Err(error) if stores::is_newer(&error) => return Err(error.into()),
        Err(error) => println!("note: whether this program knows the queue's format: {error:#}"),
        Ok(()) => {}
    }
    for notice in &configuration.notices {
        println!("note: {notice}");
    }
    println!("{} is right", path.display());
    Ok(ExitCode::SUCCESS)
}
