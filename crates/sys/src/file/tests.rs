use std::io::Write;

use super::*;

#[test]
fn reads_without_waiting_what_was_just_written() {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"in the page cache").unwrap();
    let mut buf = [0; 64];
    // A file system without support answers None, which callers must expect anyway.
    if let Some(length) = read_nowait(&file, &mut buf, 3).unwrap() {
        assert_eq!(&buf[..length], b"the page cache");
        assert_eq!(read_nowait(&file, &mut buf, 1000).unwrap(), Some(0));
    }
}

#[test]
fn locks_exclude_each_other_and_end_with_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lock");
    let first = File::create(&path).unwrap();
    let second = File::open(&path).unwrap();
    assert!(flock(&first, Lock::Shared).unwrap());
    assert!(flock(&second, Lock::Shared).unwrap());
    assert!(!flock(&first, Lock::Exclusive).unwrap());
    drop(second);
    assert!(flock(&first, Lock::Exclusive).unwrap());
    let third = File::open(&path).unwrap();
    assert!(!flock(&third, Lock::Shared).unwrap());
    unlock(&first).unwrap();
    assert!(flock(&third, Lock::Shared).unwrap());
}

#[test]
fn room_is_reserved_with_and_without_length() {
    let file = tempfile::tempfile().unwrap();
    fallocate_keep_size(&file, 0, 4096).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 0);
    fallocate(&file, 0, 4096).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 4096);
    fdatasync(&file).unwrap();
}
