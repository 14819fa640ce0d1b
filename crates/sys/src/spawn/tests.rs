//! The test program executes itself: argument 0 of the copy says what it shall do.

use std::io::{Seek, Write};
use std::time::{Duration, Instant};

use super::*;
use crate::Ended;

/// Runs one test of this program alone in a new process, with a variable by which that test knows that it is the child.
fn child(test: &str) -> Spawn<'static> {
    Spawn::new(["sys-tests", test, "--exact", "--quiet", "--test-threads=1"])
        .variable("SYS_SPAWN_CHILD", "1")
        .without_variable("HOME")
}

fn is_child() -> bool {
    std::env::var_os("SYS_SPAWN_CHILD").is_some()
}

fn wait(process: &Process) -> Ended {
    let end = Instant::now() + Duration::from_secs(30);
    loop {
        let mut interest = [crate::Interest::new(process.as_fd())];
        crate::poll(&mut interest, Some(Duration::from_secs(1))).unwrap();
        if let Some(ended) = process.ended().unwrap() {
            return ended;
        }
        assert!(Instant::now() < end, "the child ends");
    }
}

#[test]
fn a_child_has_the_named_descriptors_and_no_others() {
    if is_child() {
        let mut content = String::new();
        File::from(crate::take_descriptor(3).unwrap()).read_to_string(&mut content).unwrap();
        assert_eq!(content, "one");
        File::from(crate::take_descriptor(4).unwrap()).read_to_string(&mut content).unwrap();
        assert_eq!(content, "onetwo");
        assert!(std::env::var_os("HOME").is_none());
        for number in 5..200 {
            // The test harness opens a few of its own (epoll never, pipes perhaps); none of ours is inherited.
            if let Ok(target) = std::fs::read_link(format!("/proc/self/fd/{number}")) {
                assert!(!target.to_string_lossy().contains("sys-leak"), "{number} is {target:?}");
            }
        }
        let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        assert!(status.contains("SigBlk:\t0000000000000000"), "{status}");
        return;
    }
    let file = |content: &str| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file.rewind().unwrap();
        file
    };
    let (one, two) = (file("one"), file("two"));
    let leak = rustix::fs::memfd_create("sys-leak", rustix::fs::MemfdFlags::empty()).unwrap();
    let mut spawn = child("spawn::tests::a_child_has_the_named_descriptors_and_no_others");
    // Their own numbers are in the way of each other on purpose.
    let numbers =
        (spawn.descriptor(borrowed(one.as_raw_fd())), spawn.descriptor(borrowed(two.as_raw_fd())));
    assert_eq!(numbers, (3, 4));
    let process = spawn.start().unwrap();
    assert_eq!(wait(&process), Ended::Exit(0));
    drop(leak);
}

#[test]
fn a_child_takes_its_user_and_group() {
    if is_child() {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        assert!(status.contains("Uid:\t65534\t65534\t65534\t65534"), "{status}");
        assert!(status.contains("Gid:\t65534\t65534\t65534\t65534"), "{status}");
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        return;
    }
    let spawn = child("spawn::tests::a_child_takes_its_user_and_group");
    match spawn.identity(Some((65534, 65534))).start() {
        Ok(process) => assert_eq!(wait(&process), Ended::Exit(0)),
        // Only root can: anybody else must be told, not obeyed by halves.
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
    }
}

#[test]
fn a_signal_is_told_from_an_exit() {
    if is_child() {
        std::thread::sleep(Duration::from_secs(60));
        return;
    }
    let process = child("spawn::tests::a_signal_is_told_from_an_exit").start().unwrap();
    assert_eq!(process.ended().unwrap(), None);
    process.signal(crate::Signal::Kill).unwrap();
    let ended = wait(&process);
    assert!(ended.is_killed(), "{ended}");
    process.signal(crate::Signal::Terminate).unwrap();
}
