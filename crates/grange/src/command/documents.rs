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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn pages(folder: &Path) -> BTreeMap<String, String> {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let page = |path: std::path::PathBuf| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(&path).unwrap())
        };
        entries.map(page).collect()
    }

    #[test]
    fn the_manual_says_what_the_command_line_takes() {
        let folder = tempfile::tempdir().unwrap();
        man(folder.path()).unwrap();
        let (current, kept) = (pages(folder.path()), pages(Path::new("../../man")));
        let names = |pages: &BTreeMap<String, String>| pages.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&current), names(&kept), "run: cargo run -p grange -- man man");
        for (name, page) in &current {
            assert!(
                kept.get(name) == Some(page),
                "man/{name} has drifted; run: cargo run -p grange -- man man"
            );
        }
    }
}
