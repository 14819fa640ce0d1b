use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::{Keys, authorities, host_identity};

fn wanted(out: PathBuf) -> Issue {
    let farms = vec!["router".to_owned(), "smtp-eu".to_owned(), "router".to_owned()];
    Issue { host: "MX1.example".into(), farms, until: days_from_now(30), out, replace: false }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn an_authority_issues_directories_of_keys_that_can_be_used_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path().join("keys");
    init(&authority).unwrap();
    let out = authority.join("mx1.example");
    issue(&authority, &wanted(out.clone())).unwrap();
    let identity = Keys::load(&out).unwrap().identity();
    assert_eq!((identity.host.as_str(), identity.farms.len()), ("mx1.example", 2));
    assert!(identity.may_run("router") && identity.may_run("smtp-eu"));
    assert!(!identity.may_run("scheduler"));
    let left = identity.time_left(SystemTime::now());
    assert!(left > Duration::from_secs(29 * 24 * 3600), "{left:?}");
    assert_eq!(mode(&authority.join(AUTHORITY_KEY_FILE)), 0o600);
    assert_eq!(mode(&out.join(HOST_KEY_FILE)), 0o600);
    assert_eq!(mode(&out.join(HOST_FILE)), 0o644);
    assert!(!out.join(AUTHORITY_KEY_FILE).try_exists().unwrap());
}

#[test]
fn nothing_is_overwritten_without_being_told() {
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path();
    init(authority).unwrap();
    assert!(matches!(init(authority), Err(IssueError::Exists(_))));
    std::fs::rename(authority.join("ca.pem"), authority.join("old")).unwrap();
    assert!(matches!(init(authority), Err(IssueError::Exists(_))));
    std::fs::rename(authority.join("old"), authority.join("ca.pem")).unwrap();
    let mut wanted = wanted(authority.join("out"));
    issue(authority, &wanted).unwrap();
    let key = authority.join("out/host.key");
    let before = std::fs::read(&key).unwrap();
    assert!(matches!(issue(authority, &wanted), Err(IssueError::Exists(_))));
    assert_eq!(std::fs::read(&key).unwrap(), before);
    wanted.replace = true;
    issue(authority, &wanted).unwrap();
    assert_ne!(std::fs::read(&key).unwrap(), before);
    Keys::load(&authority.join("out")).unwrap();
}

#[test]
fn the_authority_that_fits_the_key_signs() {
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (directory.path().join("old"), directory.path().join("new"));
    init(&old).unwrap();
    init(&new).unwrap();
    let read = |from: &Path| std::fs::read_to_string(from.join("ca.pem")).unwrap();
    std::fs::write(new.join("ca.pem"), read(&old) + &read(&new)).unwrap();
    assert_eq!(authorities(&new.join("ca.pem")).unwrap().len(), 2);
    let out = directory.path().join("out");
    issue(&new, &wanted(out.clone())).unwrap();
    // It holds by the new authority alone.
    std::fs::write(out.join("ca.pem"), read(&old)).unwrap();
    assert!(Keys::load(&out).unwrap_err().to_string().contains("ca.pem"));
    std::fs::copy(old.join("ca.key"), new.join("ca.key")).unwrap();
    std::fs::write(new.join("ca.pem"), "").unwrap();
    let replaced = Issue { replace: true, ..wanted(out) };
    assert!(matches!(issue(&new, &replaced), Err(IssueError::NoAuthority(_))));
}

#[test]
fn names_are_checked_and_addresses_do() {
    let directory = tempfile::tempdir().unwrap();
    init(directory.path()).unwrap();
    let good = wanted(directory.path().join("out"));
    let bad = Issue { host: "a b".into(), ..good.clone() };
    assert!(matches!(issue(directory.path(), &bad), Err(IssueError::Name(_))));
    let bad = Issue { farms: vec!["a/b".into()], ..good.clone() };
    assert!(matches!(issue(directory.path(), &bad), Err(IssueError::Name(_))));
    let bad = Issue { farms: Vec::new(), ..good.clone() };
    assert!(matches!(issue(directory.path(), &bad), Err(IssueError::NoFarm)));
    let address = Issue { host: "2001:DB8::1".into(), ..good };
    issue(directory.path(), &address).unwrap();
    let identity = host_identity(&directory.path().join("out/host.pem")).unwrap();
    assert_eq!(identity.host, "2001:db8::1");
}
