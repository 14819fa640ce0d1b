use std::sync::atomic::Ordering;

use super::*;

#[test]
fn a_sealed_memfd_keeps_its_content() {
    let fd = sealed_memfd("test", b"settings").unwrap();
    assert_eq!(read_memfd(&fd).unwrap(), b"settings");
    assert_eq!(read_memfd(&fd).unwrap(), b"settings", "reading twice gives the same");
    let mut file = File::from(fd);
    assert!(file.write_all(b"changed").is_err());
    assert!(file.set_len(1).is_err());
}

#[test]
fn an_open_memfd_is_refused() {
    let fd =
        rustix::fs::memfd_create("open", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    assert!(read_memfd(&fd).is_err());
}

#[test]
fn two_maps_of_a_file_share_their_atomics() {
    let file = tempfile::tempfile().unwrap();
    crate::fallocate(&file, 0, 4096).unwrap();
    let one = SharedMap::new(&file, 4096).unwrap();
    let two = SharedMap::new(&file, 4096).unwrap();
    one.word(8).store(7, Ordering::Relaxed);
    one.half(4092).store(9, Ordering::Relaxed);
    one.quarter(2).store(3, Ordering::Relaxed);
    assert_eq!(two.word(8).load(Ordering::Relaxed), 7);
    assert_eq!(two.half(4092).load(Ordering::Relaxed), 9);
    assert_eq!(two.quarter(2).load(Ordering::Relaxed), 3);
}

#[test]
#[should_panic(expected = "aligned within its map")]
fn an_atomic_past_the_end_is_a_bug() {
    let file = tempfile::tempfile().unwrap();
    crate::fallocate(&file, 0, 4096).unwrap();
    SharedMap::new(&file, 4096).unwrap().word(4092);
}

#[test]
fn a_short_file_is_not_mapped() {
    let file = tempfile::tempfile().unwrap();
    assert!(SharedMap::new(&file, 4096).is_err());
}

#[test]
fn the_program_runs_on_after_its_text_was_given_back() {
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }
    let before = resident();
    give_back_text().unwrap();
    let after = resident();
    assert!(after <= before, "{after} kB after, {before} kB before");
    assert_eq!("still here".len(), 10);
}
