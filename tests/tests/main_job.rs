//! The main job: smtp-source through five farms to smtp-sink, with the manual's configuration.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::process::Command;
use std::time::Duration;

use tests::{Site, SmtpSink, find, run, until_within};

/// Messages to send; `GRANGE_TEST_MESSAGES` asks for another number, 20000 for the whole of it.
const MESSAGES: u64 = 5000;

/// A segment is sealed, and may then be given back, when it has been idle for a minute.
const GIVEN_BACK: Duration = Duration::from_secs(150);

/// What may be left in the spool's segments when no message is: heads and footers.
const LEFT_BYTES_MAX: u64 = 256 * 1024;

#[test]
fn mail_goes_through_and_leaves_nothing_behind() {
    let messages = std::env::var("GRANGE_TEST_MESSAGES")
        .map_or(MESSAGES, |number| number.parse().expect("GRANGE_TEST_MESSAGES is a number"));
    let site = Site::new();
    let sink = SmtpSink::start(site.sink.number);
    let grange = site.start();

    let mut source = Command::new(find("smtp-source"));
    source.args(["-s", "20", "-m", &messages.to_string(), "-l", "4096"]);
    source.args(["-f", "sender@source.example", "-t", "recipient@sink.example"]);
    source.arg(format!("127.0.0.1:{}", site.smtp.number));
    let sent = run(&mut source);
    assert!(sent.status.success(), "{}", String::from_utf8_lossy(&sent.stderr));

    until_within(Duration::from_secs(120), "the sink has every message", || {
        (sink.messages() >= messages).then_some(())
    });
    site.wait_empty();
    assert_eq!(sink.messages(), messages, "each came once");

    let status = site.json(&["status", "--json"]);
    for farm in status["farms"].as_array().expect("a list of farms") {
        let workers = farm["workers"].as_array().expect("a list of workers");
        let done: Vec<u64> =
            workers.iter().filter_map(|worker| worker["jobs_done"].as_u64()).collect();
        let mean = done.iter().sum::<u64>() / done.len().max(1) as u64;
        assert!(done.iter().all(|jobs| jobs * 2 >= mean), "{} is uneven: {done:?}", farm["farm"]);
        assert_eq!(farm["crashes"], 0, "{farm}");
    }

    let intake = site.path("data/spool/intake");
    until_within(GIVEN_BACK, "the spool's space is given back", || {
        (bytes_on_disk(&intake) <= LEFT_BYTES_MAX).then_some(())
    });
    assert!(site.ok(&["spool", "check"]).len() < 10_000);
    assert!(grange.stop().success());
}

/// What a folder's files take up.
fn bytes_on_disk(folder: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries =
        std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let sizes = entries.filter_map(|entry| {
        let path = entry.ok()?.path();
        // A file may go while we look.
        let metadata = path.symlink_metadata().ok()?;
        Some(if metadata.is_dir() { bytes_on_disk(&path) } else { metadata.blocks() * 512 })
    });
    sizes.sum()
}
