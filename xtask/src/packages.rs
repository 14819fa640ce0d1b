//! What the tests need from Debian: installed when we are root, named when we are not.

use std::process::{Command, Stdio};

use crate::Failure;
use crate::process::{find, is_root, succeeds};

/// A program that is run, and the Debian package that brings it.
type Needed = (&'static str, &'static str);

/// What the system tests and most benchmarks run.
const NEEDED: &[Needed] = &[
    ("smtp-source", "postfix"),
    ("smtp-sink", "postfix"),
    ("swaks", "swaks"),
    ("socat", "socat"),
    ("python3", "python3"),
    ("ps", "procps"),
    ("setpriv", "util-linux"),
    ("faketime", "faketime"),
    ("ip", "iproute2"),
    ("c++", "g++"),
    // Its cluster of its own is made, but not started, and not used: tests make servers of theirs.
    ("/usr/lib/postgresql/15/bin/postgres", "postgresql-15"),
    ("pgbouncer", "pgbouncer"),
    ("clamd", "clamav-daemon"),
    ("/usr/lib/python3/dist-packages/dkim/__init__.py", "python3-dkim"),
    ("/usr/lib/python3/dist-packages/authres/__init__.py", "python3-authres"),
    ("/usr/share/doc/python3-spf/rfc7208-tests.yml.gz", "python3-spf"),
    ("/usr/lib/python3/dist-packages/yaml/__init__.py", "python3-yaml"),
    ("/usr/lib/python3/dist-packages/Milter/__init__.py", "python3-milter"),
    ("rspamd", "rspamd"),
    ("opendkim", "opendkim"),
    ("opendkim-genkey", "opendkim-tools"),
    // Else opendmarc brings a client of a database for its reports, and looks for the database.
    ("/usr/share/dbconfig-common/internal/dbc-no-thanks", "dbconfig-no-thanks"),
    ("opendmarc", "opendmarc"),
];

/// What signs and verifies beside Postfix.
const SIGNER: &[Needed] = &[("opendkim", "opendkim"), ("opendkim-genkey", "opendkim-tools")];

/// What counts instructions.
const COUNTER: &[Needed] = &[("valgrind", "valgrind")];

/// While this file says 101, Debian's packages start none of their services.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Sees to it that everything is there that the system tests and most benchmarks need.
pub(crate) fn provide() -> Result<(), Failure> {
    see_to(NEEDED)
}

/// Sees to it that instructions can be counted.
pub(crate) fn provide_counter() -> Result<(), Failure> {
    see_to(COUNTER)
}

/// Sees to it that a benchmark can sign and verify beside Postfix.
pub(crate) fn provide_signer() -> Result<(), Failure> {
    see_to(SIGNER)
}

fn see_to(needed: &[Needed]) -> Result<(), Failure> {
    let packages = missing(needed);
    if packages.is_empty() {
        return Ok(());
    }
    if !is_root() {
        return Err(format!(
            "the tests need Debian's packages {}: install them, or run as root",
            packages.join(" ")
        )
        .into());
    }
    if find("apt-get").is_none() {
        return Err(format!(
            "the tests need what Debian packages as {}, and there is no apt-get",
            packages.join(" ")
        )
        .into());
    }
    install(&packages)?;
    match missing(needed) {
        rest if rest.is_empty() => Ok(()),
        rest => Err(format!("still missing after apt-get install: {}", rest.join(" ")).into()),
    }
}

fn missing(needed: &[Needed]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = needed
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    packages.dedup();
    packages
}

fn install(packages: &[&str]) -> Result<(), Failure> {
    let _quiet = Quiet::begin()?;
    // A list that is days old names files that the mirrors no longer have.
    if !succeeds(&mut apt_get(&["update", "--quiet"]))? {
        return Err("apt-get update failed".into());
    }
    let mut arguments = vec!["install", "--quiet", "--yes", "--no-install-recommends"];
    arguments.extend_from_slice(packages);
    if succeeds(&mut apt_get(&arguments))? { Ok(()) } else { Err("apt-get install failed".into()) }
}

fn apt_get(arguments: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
    command
}

/// Keeps freshly installed services (Postfix) from starting, for as long as it lives.
struct Quiet {
    ours: bool,
}

impl Quiet {
    fn begin() -> Result<Self, std::io::Error> {
        let path = std::path::Path::new(POLICY);
        if path.try_exists()? {
            return Ok(Self { ours: false });
        }
        std::fs::write(path, "#!/bin/sh\nexit 101\n")?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(path, mode)?;
        Ok(Self { ours: true })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if self.ours
            && let Err(error) = std::fs::remove_file(POLICY)
        {
            eprintln!("xtask: cannot remove {POLICY}, which keeps services from starting: {error}");
        }
    }
}
