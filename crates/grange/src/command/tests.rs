use std::path::Path;

use super::*;

fn configuration(data_dir: &Path) -> Configuration {
    let text = format!("hostname = \"mta.example.test\"\ndata_dir = {data_dir:?}\n");
    let file = config::File::parse(Path::new("x.toml"), text).unwrap();
    Configuration::from_file(&file).unwrap()
}

#[test]
fn a_place_without_a_queue_is_no_empty_queue() {
    let folder = std::env::temp_dir().join(format!("grange-command-{}", std::process::id()));
    let configuration = configuration(&folder);
    for _ in 0..2 {
        let failure = stored_somewhere(&configuration).unwrap_err();
        assert_eq!(failure.code(), 66, "{failure}");
        assert!(failure.to_string().contains("no queue in"), "{failure}");
        std::fs::create_dir_all(&folder).unwrap();
    }
    std::fs::create_dir(folder.join("spool")).unwrap();
    stored_somewhere(&configuration).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn what_is_not_there_and_what_cannot_be_read_are_told_apart() {
    let handle: ::queue::Handle = "spool:x".parse().unwrap();
    let source = std::sync::Arc::new(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
    for (error, code) in [
        (ReadError::Gone(handle.clone(), "retired".to_owned()), 66),
        (ReadError::Damaged(handle.clone(), "at byte 64".to_owned()), 65),
        (ReadError::Foreign(handle), 66),
        (ReadError::Io { context: "opening".to_owned(), source }, 74),
    ] {
        assert_eq!(unreadable(error).code(), code);
    }
}
