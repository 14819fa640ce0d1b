//! `grange check`: says whether the configuration is right, and if not, what would be.

use std::path::Path;
use std::process::ExitCode;

use super::{Failure, table};
use crate::cli;
use crate::configuration::Configuration;
use crate::privilege;

/// Checks; the exit code is 0, or 78.
pub(super) fn run(path: &Path, options: &cli::Check) -> Result<ExitCode, Failure> {
    let configuration = Configuration::load(path)?;
    if options.print {
        table::json(&configuration)?;
        return Ok(ExitCode::SUCCESS);
    }
    let here = privilege::notices(&configuration.top);
    let tables = configuration.router.unreadable_tables();
    for notice in configuration.notices.iter().chain(&here).chain(&tables) {
        println!("note: {notice}");
    }
    println!("{} is right", path.display());
    Ok(ExitCode::SUCCESS)
}
