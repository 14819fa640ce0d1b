//! Keys: made, read, refused.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use super::*;

#[test]
fn keys_are_made_once_and_read_again() {
    let directory = tempfile::tempdir().unwrap();
    for (name, kind, start) in [
        ("rsa", Kind::Rsa(2048), "v=DKIM1; h=sha256; k=rsa; p=MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8A"),
        ("ed", Kind::Ed25519, "v=DKIM1; h=sha256; k=ed25519; p="),
    ] {
        let path = directory.path().join(name);
        let made = SigningKey::make(&path, kind).unwrap();
        assert!(made.record().starts_with(start), "{}", made.record());
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(SigningKey::load(&path).unwrap().record(), made.record());
        assert!(matches!(SigningKey::make(&path, kind), Err(KeyFileError::Exists(_))));
        let line = made.zone_line("example.org", "s1");
        assert!(line.starts_with("s1._domainkey.example.org. IN TXT ( \"v=DKIM1;"), "{line}");
        let strings: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
        assert!(strings.iter().all(|part| part.len() < 255));
        assert_eq!(strings.concat(), made.record());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(SigningKey::load(&path), Err(KeyFileError::Open(_))));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(SigningKey::load(&path).is_ok());
    }
    let nowhere = directory.path().join("no/where");
    assert!(matches!(SigningKey::make(&nowhere, Kind::Ed25519), Err(KeyFileError::File { .. })));
    assert!(matches!(SigningKey::make(&nowhere, Kind::Rsa(1024)), Err(KeyFileError::Bits)));
    assert!(SigningKey::load(directory.path()).is_err());
}

#[test]
fn what_is_no_key_is_refused() {
    for text in ["", "nonsense", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"] {
        assert!(SigningKey::from_pem(text.as_bytes()).is_err(), "{text}");
    }
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let error = SigningKey::from_pem(encrypted.as_bytes()).err().unwrap();
    assert!(error.contains("encrypted"), "{error}");
}

#[test]
fn keys_of_openssl_are_read() {
    let run = |arguments: &[&str]| Command::new("openssl").args(arguments).output();
    for arguments in [
        &["genrsa", "2048"][..],
        &["genrsa", "-traditional", "2048"],
        &["genpkey", "-algorithm", "ed25519"],
    ] {
        // A host without the program cannot make such files either.
        let Ok(made) = run(arguments) else { return };
        let key = SigningKey::from_pem(&made.stdout);
        assert!(key.is_ok(), "{arguments:?}: {:?}", key.err());
    }
    let made = run(&["genrsa", "1024"]).unwrap();
    assert!(SigningKey::from_pem(&made.stdout).is_err());
}
