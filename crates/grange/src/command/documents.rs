//! Man pages and completions, from the same definitions as the command line.

use std::path::Path;
use std::process::ExitCode;

use super::Failure;
use crate::{cli, print};

/// Prints a shell's completions.
pub(super) fn completions(shell: clap_complete::Shell) -> Result<ExitCode, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut cli::definitions(), "grange", &mut text);
    print::bytes(&text);
    Ok(ExitCode::SUCCESS)
}

/// Writes `grange.1` and a page for each command, `grange-queue-list.1` and so on.
pub(super) fn man(directory: &Path) -> Result<ExitCode, Failure> {
    std::fs::create_dir_all(directory)?;
    let mut definitions = cli::definitions().disable_help_subcommand(true);
    definitions.build();
    page(directory, &definitions, "grange")?;
    Ok(ExitCode::SUCCESS)
}

fn page(directory: &Path, command: &clap::Command, name: &str) -> std::io::Result<()> {
    let titled = command.clone().name(clap::builder::Str::from(name.to_owned())).display_name(name);
    let mut text = Vec::new();
    clap_mangen::Man::new(titled).date("").render(&mut text)?;
    std::fs::write(directory.join(format!("{name}.1")), text)?;
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        page(directory, below, &format!("{name}-{}", below.get_name()))?;
    }
    Ok(())
}
