//! Damage: a flipped bit in any file of the queue is found, what it concerns is set aside and named, and all else is delivered.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tests::{Client, Mail, Sink, Site, Traffic, find, run, until};

/// Where most mail of these tests goes.
const ELSEWHERE: &str = "bob@sink.example";
/// Messages beside the one that is damaged.
const OTHERS: usize = 20;
/// How the body of a message ends, so that it is found in a file.
const LAST_WORDS: &str = "These are the last words of message";

/// Sends messages, which end with [`LAST_WORDS`] and their numbers; gives their ids in this order.
fn send(site: &Site, numbers: std::ops::Range<usize>, lines: usize) -> Vec<String> {
    let mut client = Client::ready(site.smtp.number);
    let send = |number| {
        let filling = "Neither long nor short, and nobody reads it.\r\n".repeat(lines);
        let message = format!(
            "Subject: x\r\nMessage-ID: <{number}.damage@source.example>\r\n\r\n{filling}{LAST_WORDS} {number}."
        );
        let reply = client.message("alice@example.test", &[ELSEWHERE], &message);
        let reply = reply.expect("a reply");
        reply.queued_as().unwrap_or_else(|| panic!("it is accepted: {reply:?}"))
    };
    numbers.map(send).collect()
}

/// The files of the queue whose names end so, in order.
fn files(site: &Site, folder: &str, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![site.path("data/spool").join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("it can be read") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(end) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Flips one bit of a file: of the byte so far behind the place where these words are.
fn flip(path: &Path, words: &[u8], behind: usize) {
    let mut bytes = std::fs::read(path).expect("it can be read");
    let at = bytes.windows(words.len()).position(|window| window == words);
    let at = at.unwrap_or_else(|| panic!("the words are in {}", path.display())) + behind;
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).expect("it can be written");
}

/// The file that holds these words.
fn holder(files: &[PathBuf], words: &str) -> PathBuf {
    let holds = |path: &&PathBuf| {
        let bytes = std::fs::read(path).expect("it can be read");
        bytes.windows(words.len()).any(|window| window == words.as_bytes())
    };
    files.iter().find(holds).expect("one file holds them").clone()
}

fn last_words(number: usize) -> String {
    format!("{LAST_WORDS} {number}.")
}

/// What is held, with the reasons.
fn held(site: &Site) -> BTreeMap<String, String> {
    let page = site.json(&["queue", "list", "--held", "--json"]);
    let messages = page["messages"].as_array().cloned().expect("a list of messages");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    messages.iter().map(|one| (text(&one["id"]), text(&one["hold"]))).collect()
}

/// Waits until the sink has every message of these numbers but one.
fn all_but(sink: &Sink, count: usize, damaged: usize) {
    let numbers = (0..count).filter(|number| *number != damaged);
    let expected: Vec<String> = numbers.map(|number| format!("{number}.damage")).collect();
    until("every other message arrives", || {
        let tokens = sink.tokens();
        expected.iter().all(|token| tokens.keys().any(|it| it.contains(token))).then_some(())
    });
    let damaged = format!("{damaged}.damage");
    let arrived = sink.tokens();
    assert!(!arrived.keys().any(|token| token == &damaged), "no byte of it is sent");
}

#[test]
fn a_bit_of_a_body_in_a_segment() {
    let site = Site::new();
    let grange = site.start();
    let ids = send(&site, 0..OTHERS + 1, 20);
    until("all is routed", || (site.queued().len() == OTHERS + 1).then_some(()));
    let segment = holder(&files(&site, "intake", ".seg"), &last_words(7));
    flip(&segment, last_words(7).as_bytes(), 3);
    let sink = Sink::start(site.sink.number);
    site.ok(&["queue", "retry", "--all"]);
    all_but(&sink, OTHERS + 1, 7);
    let held = until("it is held", || Some(held(&site)).filter(|held| !held.is_empty()));
    let id = &ids[7];
    assert_eq!(held.keys().collect::<Vec<_>>(), [id], "it alone");
    let name = segment.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(held[id].starts_with("damaged: ") && held[id].contains(&name), "{}", held[id]);
    assert_eq!(site.run(&["queue", "show", "--raw", id]).status.code(), Some(65));
    // Who knows the sender's words may have them delivered after all.
    flip(&segment, &damaged_words(7), 3);
    site.ok(&["queue", "release", id]);
    sink.wait(OTHERS + 1);
    site.wait_empty();
    assert!(grange.stop().success());
}

/// The last words as [`flip`] leaves them.
fn damaged_words(number: usize) -> Vec<u8> {
    let mut words = last_words(number).into_bytes();
    words[3] ^= 0x10;
    words
}

#[test]
fn a_bit_of_a_body_in_a_file_of_its_own() {
    let site = Site::new();
    let grange = site.start();
    // More than 256 KiB.
    let ids = send(&site, 0..3, 8000);
    until("all is routed", || (site.queued().len() == 3).then_some(()));
    let bodies = files(&site, "intake", ".body");
    assert_eq!(bodies.len(), 3);
    flip(&holder(&bodies, &last_words(1)), last_words(1).as_bytes(), 3);
    let sink = Sink::start(site.sink.number);
    site.ok(&["queue", "retry", "--all"]);
    all_but(&sink, 3, 1);
    let held = until("it is held", || Some(held(&site)).filter(|held| !held.is_empty()));
    assert!(held[&ids[1]].contains(".body at byte "), "{held:?}");
    // An operator gives up: the sender is told.
    site.ok(&["queue", "bounce", &ids[1]]);
    until("it is reported", || site.log().contains("reported in").then_some(()));
    until("its file is given back", || files(&site, "intake", ".body").is_empty().then_some(()));
    assert!(grange.stop().success());
}

/// Sends mail to a next hop that is away, and stops; everything is in the queue and routed.
fn filled(site: &Site, count: usize) -> Vec<String> {
    let grange = site.start();
    let ids = send(site, 0..count, 20);
    until("all is routed", || (site.queued().len() == count).then_some(()));
    assert!(grange.stop().success());
    ids
}

/// Starts with a sink, and waits until every message but one has arrived there.
fn delivers_all_but(site: &Site, count: usize, damaged: Option<usize>) {
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    site.ok(&["queue", "retry", "--all"]);
    site.ok(&["requeue"]);
    all_but(&sink, count, damaged.unwrap_or(usize::MAX));
    if damaged.is_none() {
        site.wait_empty();
    }
    assert!(grange.stop().success());
}

fn flip_at(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).expect("it can be read");
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).expect("it can be written");
}

#[test]
fn a_bit_of_the_ledger() {
    let site = site();
    filled(&site, OTHERS);
    // Mail that waits: as it was routed, or as a checkpoint tells of it.
    let words = |path: &PathBuf| {
        let bytes = std::fs::read(path).expect("it can be read");
        bytes.windows(14).position(|window| window == b"bob@sink.examp")
    };
    let log = files(&site, "ledger", ".log").into_iter().find(|log| words(log).is_some());
    let log = log.expect("one of them tells of mail");
    let words = words(&log).expect("it does");
    flip_at(&log, words);
    let name = log.file_name().expect("a name").to_string_lossy().into_owned();
    delivers_all_but(&site, OTHERS, None);
    let told = site.log();
    let told =
        told.lines().find(|line| line.contains("the ledger is damaged")).expect("it is told");
    assert!(told.contains(&name) && told.contains("offset="), "{told}");
}

#[test]
fn a_bit_of_the_head_of_each_segment_and_log() {
    let site = site();
    filled(&site, OTHERS);
    for path in files(&site, "", "") {
        let name = path.to_string_lossy().into_owned();
        if name.ends_with(".log") || name.ends_with(".seg") {
            flip_at(&path, 20);
        }
    }
    delivers_all_but(&site, OTHERS, None);
    assert!(site.log().contains("a bit of a segment's head is wrong"));
    assert!(site.log().contains("a bit of the ledger's head is wrong"));
}

#[test]
fn a_bit_of_the_small_files() {
    let site = site();
    filled(&site, OTHERS);
    let next = files(&site, "intake", "/next");
    assert!(!next.is_empty());
    next.iter().for_each(|next| flip_at(next, 0));
    flip_at(&site.path("data/spool/format"), 0);
    delivers_all_but(&site, OTHERS, None);
    assert!(site.log().contains("a stripe's next number cannot be read"));
    assert!(site.log().contains("the format file is damaged"));
}

/// A queue in which one message of many was never routed, in a segment that nobody sealed, and is damaged. Gives its id.
fn with_a_damaged_record(site: &Site) -> String {
    let mut grange = site.start();
    send(site, 0..1, 20);
    until("one is routed", || (site.queued().len() == 1).then_some(()));
    grange.signal(grange.manager("scheduler"), Signal::STOP);
    let schedulers = grange.workers("scheduler");
    schedulers.iter().for_each(|pid| grange.signal(*pid, Signal::STOP));
    let ids = send(site, 1..OTHERS + 1, 20);
    // Before all else: the kernel continues what is stopped when its parent dies, and none of these may be routed.
    schedulers.iter().for_each(|pid| grange.signal(*pid, Signal::KILL));
    grange.kill_all();
    let segment = holder(&files(site, "intake", ".seg"), &last_words(7));
    flip(&segment, last_words(7).as_bytes(), 3);
    ids[6].clone()
}

/// What was set aside names the message and holds its bytes.
fn is_kept(site: &Site, id: &str) {
    let aside = files(site, "damaged", "");
    let text = aside.iter().find(|path| path.to_string_lossy().ends_with(".txt"));
    let text = std::fs::read_to_string(text.expect("it is explained")).expect("it is text");
    assert!(text.contains(id), "{text}");
    let holds =
        |path: &PathBuf| std::fs::read(path).is_ok_and(|it| has_bytes(&it, &damaged_words(7)));
    assert!(aside.iter().any(holds));
}

#[test]
fn a_bit_of_a_record_that_was_never_routed() {
    let site = site();
    let id = with_a_damaged_record(&site);
    delivers_all_but(&site, OTHERS + 1, Some(7));
    let log = site.log();
    let told = log.lines().find(|line| line.contains("it is set aside") && line.contains(&id));
    assert!(told.is_some(), "its id is told");
    is_kept(&site, &id);
}

/// Runs `grange spool repair` as the owner of the queue.
fn repair(site: &Site, more: &[&str]) -> (Option<i32>, String) {
    let (program, config) = (tests::program().to_string_lossy().into_owned(), site.config());
    let mut command = match tests::is_root() {
        true => tests::as_user("nobody", &program),
        false => Command::new(&program),
    };
    let output = run(command.arg("--config").arg(config).args(["spool", "repair"]).args(more));
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn a_repair_explains_what_it_does() {
    let site = site();
    let id = with_a_damaged_record(&site);
    let checked = site.run(&["spool", "check"]);
    let text = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(text.lines().any(|line| line.starts_with("DAMAGE") && line.contains(&id)), "{text}");
    assert_eq!(checked.status.code(), Some(65));
    // Who was killed may hold a lock for a moment yet.
    let (code, said) = until("nobody uses the queue", || {
        Some(repair(&site, &["--dry-run"])).filter(|(code, _)| *code != Some(75))
    });
    assert_eq!(code, Some(65), "{said}");
    assert!(said.contains("nothing was changed") && said.contains("sealed"), "{said}");
    assert!(site.path("data/spool/damaged").read_dir().is_err(), "it only says so");
    let (_, done) = repair(&site, &[]);
    assert!(done.contains("damaged records copied to damaged/"), "{done}");
    is_kept(&site, &id);
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let (code, busy) = repair(&site, &[]);
    assert_eq!(code, Some(75), "{busy}");
    site.ok(&["requeue"]);
    site.ok(&["queue", "retry", "--all"]);
    all_but(&sink, OTHERS + 1, 7);
    site.wait_empty();
    assert!(grange.stop().success());
}

/// What the reader in another language says of the queue, by id.
fn read_by_python(site: &Site) -> BTreeMap<String, Value> {
    let output =
        run(Command::new(find("python3")).arg(READER).arg(site.path("data")).arg("--json"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    let list: Vec<Value> = serde_json::from_slice(&output.stdout).expect("it prints JSON");
    list.into_iter().map(|one| (one["id"].as_str().expect("an id").to_owned(), one)).collect()
}

/// How many bodies the reader in another language is asked for.
const BODIES_READ: usize = 16;
/// The reader of the spool that the documents describe.
const READER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/spool-reader.py");

#[test]
fn a_reader_in_python_lists_every_message_of_a_live_spool() {
    let queue = "[queue]\nstore = \"spool\"\nsegment_bytes = 65536\nseal_after = \"1s\"\n";
    let away = tests::free_port();
    let route = format!(
        "routes = [\n  {{ domain = \"away.example\", channel = \"smtp\", host = \"[127.0.0.1]:{}\" }},",
        away.number
    );
    let site = Site::new()
        .replace("[queue]\nstore = \"spool\"\n", queue)
        .replace("routes = [", &route)
        .append("\n[compact]\nage_min = \"1s\"\n");
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    // Most of it passes, some waits, some is large; what waits is moved out of old segments.
    let traffic = Traffic::start(site.smtp.number, 6, Duration::from_millis(5), |number| Mail {
        lines: if number % 41 == 7 { 8000 } else { 20 },
        recipient: if number % 7 == 0 { "bob@away.example" } else { ELSEWHERE }.to_owned(),
    });
    for round in 1..=3 {
        until("mail flows", || (traffic.accepted() >= 150 * round).then_some(()));
        let waits = |list: &BTreeMap<String, Value>| -> BTreeSet<String> {
            let away = |one: &&Value| one["recipients"][0] == "bob@away.example";
            list.values()
                .filter(away)
                .map(|one| one["id"].as_str().unwrap_or_default().to_owned())
                .collect()
        };
        let queued = || {
            site.queued().into_iter().map(|one| {
                let mut brief = one.clone();
                brief["recipients"][0] = one["recipients"][0]["address"].clone();
                (one["id"].as_str().unwrap_or_default().to_owned(), brief)
            })
        };
        let before = waits(&queued().collect());
        let read = waits(&read_by_python(&site));
        let after = waits(&queued().collect());
        let missed: Vec<_> = before.difference(&read).collect();
        assert!(!before.is_empty() && missed.is_empty(), "{missed:?} of {} missed", before.len());
        assert!(after.is_superset(&read), "what is read is there");
    }
    let sent = traffic.stop();
    assert!(sent.accepted.len() >= 450 && sent.refused.is_empty());
    site.ok(&["compact"]);
    let page = until("only what waits is left", || {
        let page = site.queued();
        let all = page.iter().all(|one| one["recipients"][0]["address"] == "bob@away.example");
        (all && !page.is_empty()).then_some(page)
    });
    sink.wait(sent.accepted.len() - page.len());
    let read = read_by_python(&site);
    assert_eq!(read.len(), page.len());
    for one in &page {
        let id = one["id"].as_str().expect("an id");
        let it = &read[id];
        assert_eq!((&it["size"], &it["sender"]), (&one["size"], &one["sender"]));
        assert_eq!(it["recipients"][0], one["recipients"][0]["address"]);
        assert_eq!(it["state"], "queued");
    }
    // How many wait depends on how long the reader took; the body of each would take it too long.
    for one in page.iter().step_by(page.len().div_ceil(BODIES_READ)) {
        let id = one["id"].as_str().expect("an id");
        let ours = site.run(&["queue", "show", "--raw", id]);
        let theirs = run(Command::new(find("python3"))
            .arg(READER)
            .arg(site.path("data"))
            .args(["--raw", id]));
        assert!(ours.status.success() && theirs.status.success());
        assert!(ours.stdout == theirs.stdout, "{id}");
    }
    assert!(grange.stop().success());
}

/// Copies a folder with what is in it, into the place of another.
fn restore(from: &Path, to: &Path) {
    match std::fs::remove_dir_all(to) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{error}"),
        _ => {}
    }
    let copied = run(Command::new(find("cp")).arg("-a").arg(from).arg(to));
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
}

#[test]
fn a_queue_restored_from_parts_of_different_times() {
    let site = site();
    let spool = site.path("data/spool");
    filled(&site, 5);
    let (old, new) = (site.path("old"), site.path("new"));
    restore(&spool, &old);
    let grange = site.start();
    let later = send(&site, 5..OTHERS, 20);
    until("all is routed", || (site.queued().len() == OTHERS).then_some(()));
    assert!(grange.stop().success());
    restore(&spool, &new);
    // A ledger older than the segments, and none at all: what it does not know is routed.
    restore(&old.join("ledger"), &spool.join("ledger"));
    delivers_all_but(&site, OTHERS, None);
    restore(&new, &spool);
    std::fs::remove_dir_all(spool.join("ledger")).expect("it can be removed");
    delivers_all_but(&site, OTHERS, None);
    // A ledger newer than the segments: what is gone is not sent, and what comes now is no stranger.
    restore(&new, &spool);
    restore(&old.join("intake"), &spool.join("intake"));
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let fresh = send(&site, OTHERS..OTHERS + 5, 20);
    site.ok(&["queue", "retry", "--all"]);
    all_but(&sink, 5, usize::MAX);
    until("what is new arrives too", || {
        let tokens = sink.tokens();
        let arrived = |number: usize| tokens.contains_key(&format!("{number}.damage"));
        (OTHERS..OTHERS + 5).all(arrived).then_some(())
    });
    until("only what is not there is left", || {
        let ids: BTreeSet<_> = site
            .queued()
            .iter()
            .map(|one| one["id"].as_str().unwrap_or_default().to_owned())
            .collect();
        (fresh.iter().all(|id| !ids.contains(id)) && ids.iter().all(|id| later.contains(id)))
            .then_some(())
    });
    assert!(grange.stop().success());
}

#[test]
fn files_that_somebody_put_there() {
    let site = site();
    filled(&site, OTHERS);
    let stripe = files(&site, "intake", ".seg")[0].parent().expect("a folder").to_owned();
    let segment = files(&site, "intake", ".seg")[0].clone();
    std::fs::copy(&segment, stripe.join("1.seg")).expect("a copy under another name");
    std::fs::copy(&segment, stripe.join("7.64.moved")).expect("a copy under another name");
    std::fs::copy(&segment, stripe.join("copy of a segment.seg")).expect("a copy");
    std::fs::create_dir(stripe.join("2.seg")).expect("a folder");
    std::fs::write(stripe.join("3.seg"), vec![b'x'; 5000]).expect("rubbish");
    std::fs::write(stripe.join("4.seg"), "").expect("nothing");
    std::fs::write(site.path("data/spool/ledger/99.log"), "rubbish").expect("rubbish");
    std::fs::write(site.path("data/spool/ledger/README"), "hello").expect("a note");
    let made = run(Command::new(find("mkfifo")).arg(stripe.join("5.seg")));
    assert!(made.status.success());
    let checked = site.run(&["spool", "check", "--json"]);
    assert_eq!(checked.status.code(), Some(65));
    let checked: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    let findings = checked["findings"].as_array().expect("a list");
    for name in [
        "/1.seg",
        "/2.seg",
        "/3.seg",
        "/5.seg",
        "/7.64.moved",
        "ledger/99.log",
        "ledger/README",
        "/copy of a segment.seg",
    ] {
        let found = findings
            .iter()
            .any(|one| one["file"].as_str().is_some_and(|file| file.ends_with(name)));
        assert!(found, "{name} is not told of: {findings:?}");
    }
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    site.ok(&["queue", "retry", "--all"]);
    sink.wait(OTHERS);
    site.wait_empty();
    site.ok(&["requeue"]);
    assert!(grange.stop().success());
    assert!(sink.tokens().values().all(|times| *times == 1), "nothing comes twice");
}

fn site() -> Site {
    Site::new().replace("[router]", "[requeue]\nevery = \"10s\"\n[router]")
}

fn has_bytes(bytes: &[u8], words: &[u8]) -> bool {
    bytes.windows(words.len()).any(|window| window == words)
}
