//! What a newcomer meets first: `grange try --once`, and what the program says of itself.

use std::process::Command;

use tests::{program, run};

#[test]
fn three_journeys_are_shown() {
    let output = run(Command::new(program()).args(["try", "--once"]));
    let (told, errors) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{told}\n{errors}", output.status);
    for journey in ["delivered", "relayed", "bounced"] {
        assert!(told.contains(journey), "{journey}:\n{told}");
    }
}

#[test]
fn wrong_usage_ends_with_64_and_says_what_is_right() {
    let output = run(Command::new(program()).args(["queue", "lsit"]));
    assert_eq!(output.status.code(), Some(64));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.contains("list"), "{told}");
}

#[test]
fn manual_pages_are_what_the_program_says() {
    let folder = tempfile_dir();
    let output = run(Command::new(program()).arg("man").arg(folder.path()));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let kept = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../man");
    let names = |path: &std::path::Path| {
        let entries =
            std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut names: Vec<_> = entries.map(|entry| entry.expect("an entry").file_name()).collect();
        names.retain(|name| name.to_string_lossy().ends_with(".1"));
        names.sort();
        names
    };
    assert_eq!(names(folder.path()), names(&kept), "`grange man man` writes them anew");
    for name in names(&kept) {
        let read =
            |folder: &std::path::Path| std::fs::read_to_string(folder.join(&name)).expect("a page");
        assert_eq!(
            read(folder.path()),
            read(&kept),
            "{}: `grange man man` writes it anew",
            name.to_string_lossy()
        );
    }
}

fn tempfile_dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a scratch directory")
}
