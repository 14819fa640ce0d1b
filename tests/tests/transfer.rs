//! A queue carried from one store to another: ids, attempts, holds and bodies come along, and nothing comes twice.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::collections::BTreeMap;
use std::path::Path;

use queue_postgres::testing;
use serde_json::{Value, json};
use tests::{Answer, Client, Event, Sink, Site, as_user, is_root, program, run, until};

/// Runs a command of grange's on the queue as the user to whom a spool belongs.
fn as_owner(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = match is_root() {
        true => as_user("nobody", program().to_str().expect("a path of letters")),
        false => std::process::Command::new(program()),
    };
    let output = run(command.args(arguments).arg("--config").arg(site.config()));
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What must come along of each message, by its id.
fn queued(site: &Site) -> BTreeMap<String, Value> {
    let messages = site.queued().into_iter().map(|message| {
        let recipient = &message["recipients"][0];
        let attempts = &recipient["state"]["open"]["count"];
        let kept = json!([
            message["sender"],
            message["size"],
            message["accepted_at"],
            message["hold"],
            recipient["address"],
            recipient["host"],
            attempts,
        ]);
        (message["id"].as_str().expect("an id").to_owned(), kept)
    });
    messages.collect()
}

/// Fills a site whose next hop takes nothing now: what is deferred, a large body, a held message, a suspended lane.
fn fill(site: &Site) -> (Vec<String>, BTreeMap<String, Value>) {
    let grange = site.start();
    let _sink = Sink::scripted(site.sink.number, |event| match event {
        Event::Command(line) if line.starts_with("RCPT") => Answer::Say("450 4.2.0 later".into()),
        _ => Answer::Usual,
    });
    let mut client = Client::ready(site.smtp.number);
    let mut send = |recipient: &str, lines: usize| {
        let token = recipient.replace('@', ".at.");
        let text = format!(
            "Subject: x\r\nMessage-ID: <{token}@source.example>\r\n\r\n{}",
            "A line.\r\n".repeat(lines)
        );
        let reply = client.message("alice@example.test", &[recipient], &text).expect("a reply");
        (token, reply.queued_as().expect("the reply names the message"))
    };
    let sent = [
        send("one@sink.example", 10),
        send("large@sink.example", 60_000),
        send("held@sink.example", 10),
    ];
    until("each was tried", || {
        let tried =
            |message: &Value| message["recipients"][0]["state"]["open"]["count"].as_u64() > Some(0);
        (site.queued().len() == 3 && site.queued().iter().all(tried)).then_some(())
    });
    site.ok(&["queue", "hold", &sent[2].1, "--reason", "looks odd"]);
    // Nothing is tried any more, so that what is written down now is what is there.
    site.ok(&["queue", "suspend", "smtp"]);
    let before = queued(site);
    assert!(grange.stop().success());
    (sent.into_iter().map(|(token, _)| token).collect(), before)
}

fn export(site: &Site, to: &Path) {
    let path = to.to_str().expect("a path of letters");
    let (code, said) = as_owner(site, &["queue", "export", path]);
    assert_eq!((code, said.as_str()), (Some(0), "grange: 3 messages written\n"));
}

#[test]
fn a_queue_is_carried_from_one_spool_to_another() {
    let new = Site::new();
    // Its directories are made, and are the workers'.
    assert!(new.start().stop().success());
    carried(&new);
}

#[test]
fn a_queue_is_carried_from_a_spool_to_a_database() {
    let server = testing::shared();
    let store = server.url(&server.empty_database());
    let new = on_database(&store);
    new.ok(&["store", "init"]);
    carried(&new);
    let rows = |table| server.sql(&database_of(&store), &format!("SELECT count(*) FROM {table}"));
    for table in ["message", "body", "routed", "recipient"] {
        until(&format!("{table} is empty"), || (rows(table).trim() == "0").then_some(()));
    }
}

/// A site whose queue is in this database.
fn on_database(store: &str) -> Site {
    let queue = format!("store = {store:?}\n\n[queue.postgres]\nmay_lose = [\"fsync\"]");
    Site::new().replace("store = \"spool\"", &queue)
}

fn database_of(store: &str) -> String {
    let (_, name) = store.rsplit_once('/').expect("a database's name");
    name.split('?').next().unwrap_or_default().to_owned()
}

/// Carries a queue from a spool to a new place, and delivers it from there.
fn carried(new: &Site) {
    let old = Site::new();
    let (tokens, before) = fill(&old);
    let folder = tempfile::tempdir().expect("a scratch directory");
    tests::open_to(folder.path(), 0o777);
    let file = folder.path().join("queue");
    export(&old, &file);
    let path = file.to_str().expect("a path of letters");
    // Cut off, it is refused, and what was read stays; then all of it is read.
    let whole = std::fs::read(&file).expect("it was written");
    let cut = folder.path().join("cut");
    std::fs::write(&cut, &whole[..whole.len() - 30]).expect("a file can be written");
    let (code, said) = as_owner(new, &["queue", "import", cut.to_str().expect("letters")]);
    assert_eq!(code, Some(65), "{said}");
    for _ in 0..2 {
        let (code, said) = as_owner(new, &["queue", "import", path]);
        assert_eq!((code, said.as_str()), (Some(0), "grange: 3 messages read, and in the queue\n"));
    }
    let grange = new.start();
    assert_eq!(queued(new), before);
    // They go where they were routed to.
    let sink = Sink::start(old.sink.number);
    let lanes = new.json(&["queue", "summary", "--json"]);
    assert_eq!(lanes["lanes"][0]["reason"], "suspended", "{lanes}");
    new.ok(&["queue", "resume", "smtp"]);
    new.ok(&["queue", "retry", "--all"]);
    sink.wait(2);
    let (held, _) = before.iter().find(|(_, kept)| kept[3] == "looks odd").expect("one is held");
    new.ok(&["queue", "release", held]);
    sink.wait(3);
    new.wait_empty();
    assert!(sink.tokens().into_iter().eq(tokens_once(tokens)));
    assert!(grange.stop().success());
}

#[test]
fn a_queue_that_a_scheduler_works_with_is_not_carried() {
    let site = Site::new();
    let grange = site.start();
    let (code, said) = as_owner(&site, &["queue", "export", "-"]);
    assert_eq!(code, Some(75), "{said}");
    assert!(grange.stop().success());
}

fn tokens_once(mut tokens: Vec<String>) -> impl Iterator<Item = (String, usize)> {
    tokens.sort();
    tokens.into_iter().map(|token| (token, 1))
}
