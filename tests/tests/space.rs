//! Space: a few messages that wait for long keep no old segments, and what is removed or delivered leaves nothing behind.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tests::{Client, Port, Running, Sink, Site, burst, descendants, free_port, title, until};

/// Small, so that a few hundred messages fill many.
const SEGMENT_BYTES: u64 = 64 << 10;
/// Messages for a next hop that is away.
const WAITING: usize = 16;
/// Messages for one that is there, between two of those.
const PASSING: usize = 60;
/// How often a worker is killed at its work; its manager waits twice as long each time.
const KILLS: u64 = 5;
/// How long a test looks for a worker that may have ended before it was seen.
const GLIMPSE: Duration = Duration::from_millis(300);

/// A site with small segments, a route to a next hop that is away, and no patience.
fn site(away: &Port, compact: &str) -> Site {
    let route = format!(
        "routes = [\n  {{ domain = \"away.example\", channel = \"smtp\", host = \"[127.0.0.1]:{}\" }},",
        away.number
    );
    let queue = format!(
        "[queue]\nstore = \"spool\"\nsegment_bytes = {SEGMENT_BYTES}\nseal_after = \"1s\"\n"
    );
    Site::new()
        .replace("routes = [", &route)
        .replace("[queue]\nstore = \"spool\"\n", &queue)
        .append(&format!("\n[compact]\n{compact}\n"))
}

/// Sends mail that passes and, in between, some that has to wait; gives what waits, by its token.
fn send(site: &Site, sink: &Sink) -> BTreeMap<String, String> {
    let mut waiting = BTreeMap::new();
    for number in 0..WAITING {
        burst(site.smtp.number, PASSING, 4, "recipient@sink.example");
        let lines = match number {
            3 => 8000,
            _ => number * number * 2,
        };
        let token = format!("waiting.{number}");
        let body = format!("Line {number} of a message that waits.\r\n").repeat(lines + 1);
        let message = format!("Subject: x\r\nMessage-ID: <{token}@source.example>\r\n\r\n{body}");
        let mut client = Client::ready(site.smtp.number);
        let reply = client.message("alice@example.test", &["bob@away.example"], &message);
        assert_eq!(reply.expect("a reply").code, 250);
        // The client ends it with a line of its own.
        waiting.insert(token, message + "\r\n");
    }
    sink.wait(WAITING * PASSING);
    until("only what waits is in the queue", || (site.queued().len() == WAITING).then_some(()));
    waiting
}

/// The files of messages below a folder, by what their names end in: how many, and how many bytes.
fn files(site: &Site) -> BTreeMap<String, (u64, u64)> {
    let mut found = BTreeMap::new();
    for stripe in entries(&site.path("data/spool/intake")) {
        for file in entries(&stripe) {
            // It may have gone meanwhile.
            let Ok(about) = std::fs::metadata(&file) else { continue };
            let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let kind = name.rsplit('.').next().unwrap_or_default();
            if matches!(kind, "seg" | "body" | "moved") || name == "moved.new" {
                let entry: &mut (u64, u64) = found.entry(kind.to_owned()).or_default();
                entry.0 += 1;
                entry.1 += about.len();
            }
        }
    }
    found
}

fn entries(folder: &Path) -> Vec<std::path::PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path != folder).collect()
}

/// Whether the queue takes less than twice what lives in it and two segments a stripe.
fn is_within_bound(site: &Site, live_bytes: u64) -> bool {
    let stripes = entries(&site.path("data/spool/intake")).len() as u64;
    let used: u64 = files(site).values().map(|(_, bytes)| bytes).sum();
    used <= 2 * live_bytes + 2 * SEGMENT_BYTES * stripes
}

/// Kills a worker of compact, if one is seen.
fn kill_compact(grange: &Running<'_>, after: Duration) -> bool {
    let until = Instant::now() + GLIMPSE;
    while Instant::now() < until {
        let is_compact =
            |pid: &u32| title(*pid).is_some_and(|title| title.contains("worker compact"));
        if let Some(pid) = descendants(grange.pid()).into_iter().find(is_compact) {
            std::thread::sleep(after);
            grange.signal(pid, Signal::KILL);
            return true;
        }
    }
    false
}

/// Waits until compact has left nothing that it could give back.
fn settle(site: &Site, live_bytes: u64) {
    let mut last = BTreeMap::new();
    until("old segments are given back", || {
        site.ok(&["compact"]);
        std::thread::sleep(Duration::from_millis(500));
        let now = files(site);
        let rest = now == last && is_within_bound(site, live_bytes);
        last = now;
        rest.then_some(())
    });
}

#[test]
fn a_few_messages_that_wait_keep_no_old_segments() {
    let away = free_port();
    let site = site(&away, "age_min = \"1s\"");
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let mut waiting = send(&site, &sink);
    let live_bytes: u64 = waiting.values().map(|message| message.len() as u64).sum();
    let ids: BTreeMap<String, String> = site
        .queued()
        .iter()
        .map(|message| {
            let id = message["id"].as_str().expect("an id").to_owned();
            (id, message["handle"].as_str().expect("a handle").to_owned())
        })
        .collect();

    // Whoever is killed at it loses nothing and leaves nothing.
    let mut killed = 0;
    for turn in 0..KILLS {
        site.ok(&["compact"]);
        killed += u32::from(kill_compact(&grange, Duration::from_millis(4 * turn)));
    }
    assert!(killed > 0, "a worker was seen");
    settle(&site, live_bytes);
    let found = files(&site);
    assert!(found["moved"].0 >= WAITING as u64 / 2, "{found:?}");
    // Each segment of the mail that passed would be there still.
    assert!(found.get("seg").is_none_or(|(count, _)| *count < WAITING as u64 / 2), "{found:?}");
    assert!(!found.contains_key("new"), "{found:?}");
    let check = site.run(&["spool", "check"]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));

    // The handle from before still names the message, and so does the one that it has now.
    let now = site.queued();
    let moved: Vec<_> = now
        .iter()
        .filter(|message| {
            Some(message["handle"].as_str().expect("a handle"))
                != ids.get(message["id"].as_str().expect("an id")).map(String::as_str)
        })
        .collect();
    assert!(!moved.is_empty());
    for message in &moved {
        let id = message["id"].as_str().expect("an id");
        let body = site.ok(&["body", message["handle"].as_str().expect("a handle")]);
        assert_eq!(body, site.ok(&["body", &ids[id]]));
        assert_eq!(
            body.replace('\r', ""),
            site.ok(&["queue", "show", id, "--raw"]).replace('\r', "")
        );
    }

    // What an operator removes gives its space back.
    let last = moved.first().expect("one was moved");
    let id = last["id"].as_str().expect("an id");
    let token = waiting
        .keys()
        .find(|token| site.ok(&["queue", "show", id, "--raw"]).contains(&format!("<{token}@")));
    let token = token.expect("it is one of ours").clone();
    let before = files(&site)["moved"].0;
    site.ok(&["queue", "remove", id]);
    waiting.remove(&token);
    until("its file is gone", || (files(&site)["moved"].0 == before - 1).then_some(()));

    // All others are seen without a scheduler too, and outlive a restart.
    assert!(grange.stop().success());
    let mut seen: Vec<_> = site.queued().iter().map(|message| message["id"].to_string()).collect();
    seen.sort();
    let mut expected: Vec<_> =
        now.iter().filter(|one| one["id"] != *id).map(|one| one["id"].to_string()).collect();
    expected.sort();
    assert_eq!(seen, expected);
    let grange = site.start();
    site.ok(&["requeue"]);
    let hop = Sink::start(away.number);
    site.ok(&["queue", "retry", "--all"]);
    hop.wait(waiting.len());
    site.wait_empty();
    for received in hop.received().iter() {
        let token = waiting.keys().find(|token| received.data.contains(&format!("<{token}@")));
        let token = token.expect("it is one of ours").clone();
        let message = waiting.remove(&token).expect("each comes once");
        // Only our own field stands before it.
        let (head, rest) =
            received.data.split_at(received.data.len().saturating_sub(message.len()));
        assert_eq!(rest, message, "as it was sent");
        assert!(head.starts_with("Received: "), "{head}");
    }
    assert!(waiting.is_empty(), "{:?}", waiting.keys());
    until("nothing is left", || files(&site).is_empty().then_some(()));
    assert!(grange.stop().success());
}

#[test]
fn the_bound_holds_whatever_the_age() {
    let away = free_port();
    // By itself, every two seconds, and although nothing is old enough to be copied without need.
    let site = site(&away, "every = \"2s\"\nage_min = \"1d\"");
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let waiting = send(&site, &sink);
    let live_bytes: u64 = waiting.values().map(|message| message.len() as u64).sum();
    until("the queue is within its bound", || is_within_bound(&site, live_bytes).then_some(()));
    let farm = grange.farm("compact");
    assert_eq!(farm["on_demand"], true, "{farm}");
    // And goes down to nothing when everything is removed.
    site.ok(&["queue", "remove", "--all"]);
    until("nothing is left", || files(&site).is_empty().then_some(()));
    assert!(grange.stop().success());
}
