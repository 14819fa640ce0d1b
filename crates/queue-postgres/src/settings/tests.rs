//! The settings as an operator writes them, and what cannot work.

use super::*;

#[test]
fn the_defaults_work_and_are_written_as_they_are_read() {
    let settings = Settings::default();
    assert_eq!(settings.check(), Ok(()));
    let text = serde_json::to_string(&settings).expect("they can be written");
    assert_eq!(serde_json::from_str::<Settings>(&text).expect("they can be read"), settings);
    let may_lose = r#"{"may_lose":["synchronous_commit","fsync","full_page_writes"]}"#;
    let settings: Settings = serde_json::from_str(may_lose).expect("these are names");
    let names: Vec<_> = settings.may_lose.iter().map(|one| one.name()).collect();
    assert_eq!(names, ["synchronous_commit", "fsync", "full_page_writes"]);
    for wrong in [r#"{"may_lose":["everything"]}"#, r#"{"nothing":1}"#] {
        assert!(serde_json::from_str::<Settings>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_cannot_work_is_named() {
    let file = || Some(PathBuf::from("file"));
    let cases = [
        ("connect_timeout", Settings { connect_timeout: Span::millis(1), ..Settings::default() }),
        (
            "statement_timeout",
            Settings { statement_timeout: Span::millis(1), ..Settings::default() },
        ),
        ("commit_timeout", Settings { commit_timeout: Span::seconds(3600), ..Settings::default() }),
        ("connections", Settings { connections: 0, ..Settings::default() }),
        ("large_bodies_max", Settings { large_bodies_max: 0, ..Settings::default() }),
        ("draft_bytes_max", Settings { draft_bytes_max: ByteSize(1), ..Settings::default() }),
        ("certificate_file", Settings { key_file: file(), ..Settings::default() }),
        ("ca_file", Settings { certificate_file: file(), key_file: file(), ..Settings::default() }),
    ];
    for (key, settings) in cases {
        let problem = settings.check().expect_err(key);
        assert_eq!(problem.key, format!("queue.postgres.{key}"));
    }
}
