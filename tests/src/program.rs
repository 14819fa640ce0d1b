//! The program under test, and the programs of others.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// The `grange` to be tested: `GRANGE_BINARY`, else one that cargo builds now.
pub fn program() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| match std::env::var_os("GRANGE_BINARY") {
        Some(path) => path.into(),
        None => build(),
    })
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = [
        "build",
        "--quiet",
        "--package",
        "grange",
        "--features",
        "faults",
        "--message-format",
        "json",
    ];
    let output = Command::new(cargo)
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "grange does not build");
    let messages = String::from_utf8_lossy(&output.stdout);
    let mut executables = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    executables.next_back().expect("cargo tells where it put the program")
}

/// Where a program stands: in `PATH`, or among the system's. One that is missing fails the test: `cargo xtask test` installs it.
pub fn find(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/lib/postfix/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed; as root, cargo xtask test installs it"))
}

/// Whether the test runs as root: then workers run as `nobody`.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command that runs as another user. Only root can.
pub fn as_user(user: &str, program: &str) -> Command {
    assert!(is_root(), "running as another user needs root");
    let mut command = Command::new(find("setpriv"));
    let id = |flag: &str| {
        let output = run(Command::new("id").args([flag, user]));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    command
        .arg(format!("--reuid={}", id("-u")))
        .arg(format!("--regid={}", id("-g")))
        .args(["--clear-groups", "--"])
        .arg(find(program));
    command
}

/// Runs a command to its end, with its output kept.
pub fn run(command: &mut Command) -> Output {
    let name = format!("{command:?}");
    // A program that was just written is busy while a child of another test, on its way to exec, has it open for writing.
    crate::until("a program can be executed", || match command.stdin(Stdio::null()).output() {
        Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => None,
        output => Some(output.unwrap_or_else(|error| panic!("{name}: {error}"))),
    })
}

/// Runs a Python program and gives what it printed; its failure fails the test.
pub fn python(source: &str, arguments: &[&str]) -> String {
    python_of(find("python3"), source, arguments)
}

/// The same with the system's Python, which has the modules that are Debian's packages.
pub fn system_python(source: &str, arguments: &[&str]) -> String {
    python_of("/usr/bin/python3".into(), source, arguments)
}

fn python_of(program: PathBuf, source: &str, arguments: &[&str]) -> String {
    let output = run(Command::new(program).arg("-c").arg(source).args(arguments));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "python3 ended with {}:\n{stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Sets who may do what in a folder of the test's.
pub fn open_to(folder: &std::path::Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::Permissions::from_mode(mode);
    std::fs::set_permissions(folder, mode).expect("our own folder");
}
