//! contentfilter in the path: what its rules accept, reject, hold, discard and mark.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use tests::{Client, Reply, Running, Site, open_to, until};

const FILTERS: &str = r#"filters = [
  { name = "virus", attachment = "\\.exe$", action = "reject", text = "no programs, please" },
  { name = "later", header = "X-Later", action = "tempfail" },
  { name = "suspect", header = "Subject", matches = "lottery", action = "quarantine", text = "looks like a lottery" },
  { name = "noise", body = "heartbeat", action = "discard" },
  { name = "large", size_over = "10KiB", action = { add_header = { name = "X-Size", value = "large" } } },
]"#;

#[test]
fn each_action_does_what_it_says() {
    let site = Site::new().replace("filters = []", FILTERS);
    let grange = site.start();
    let attachment = "Subject: x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\
        Content-Type: application/octet-stream\r\nContent-Disposition: attachment; filename=\"invoice.EXE\"\r\n\r\nMZ\r\n--b--\r\n";
    let refused = send(&site, attachment);
    assert_eq!(refused.code / 100, 5, "{refused:?}");
    assert!(refused.text().contains("no programs, please"), "{refused:?}");
    let later = send(&site, "X-Later: yes\r\nSubject: x\r\n\r\n");
    assert_eq!(later.code / 100, 4, "{later:?}");
    assert_eq!(send(&site, "Subject: x\r\n\r\nheartbeat 4711\r\n").code, 250);
    assert_eq!(
        send(&site, &format!("Subject: big\r\n\r\n{}", "A line of it.\r\n".repeat(1000))).code,
        250
    );
    let held = send(&site, "Subject: You won the LOTTERY\r\n\r\n");
    assert_eq!(held.code, 250, "{held:?}");
    assert_eq!(send(&site, "Subject: plain\r\n\r\n").code, 250);

    let mailbox = until("what is to arrive arrives", || {
        let mailbox = site.mailbox("example.test", "bob");
        (mailbox.len() >= 2).then_some(mailbox)
    });
    let (big, plain): (Vec<&String>, Vec<&String>) =
        mailbox.iter().partition(|text| text.contains("Subject: big"));
    assert_eq!((big.len(), plain.len()), (1, 1), "{mailbox:?}");
    assert!(big.iter().all(|text| text.contains("X-Size: large")));
    assert!(plain.iter().all(|text| !text.contains("X-Size") && text.contains("Subject: plain")));

    let queued = site.queued();
    assert_eq!(queued.len(), 1, "only the quarantined one waits: {queued:?}");
    let id = held.queued_as().expect("the reply names the message");
    let shown = site.ok(&["quarantine", "show", &id]);
    assert!(shown.contains("lottery"), "{shown}");
    let listed = site.ok(&["quarantine", "list", "--domain", "example.test"]);
    assert!(listed.contains(&id) && listed.contains("lottery"), "{listed}");
    site.ok(&["quarantine", "expire", "--older-than", "1h"]);
    assert_eq!(site.queued().len(), 1, "nothing is so old");
    site.ok(&["quarantine", "release", &id]);
    until("it arrives when released", || {
        (site.mailbox("example.test", "bob").len() == 3).then_some(())
    });
    site.wait_empty();
    assert!(grange.stop().success());
}

const HOLDING: &str = r#"filters = [
  { name = "suspect", header = "Subject", matches = "lottery", action = "quarantine", text = "looks like a lottery" },
  { name = "trap", recipient = "^carol@", action = "quarantine", text = "a trap" },
]"#;

#[test]
fn what_is_held_is_released_once_the_filters_accept_it() {
    let site = Site::new().replace("filters = []", HOLDING);
    let grange = site.start();
    let held = |reply: std::io::Result<Reply>| {
        let reply = reply.expect("a reply");
        assert_eq!(reply.code, 250, "{reply:?}");
        reply.queued_as().expect("the reply names the message")
    };
    let whole = held(Ok(send(&site, "Subject: a lottery\r\n\r\n")));
    let mut client = Client::ready(site.smtp.number);
    let recipients = ["bob@example.test", "carol@example.test"];
    let partly = held(client.message("alice@example.test", &recipients, "Subject: two\r\n\r\n"));
    let mailboxes = || ["bob", "carol"].map(|user| site.mailbox("example.test", user).len());
    until("both are held, and one is delivered to who is not concerned", || {
        let listed = site.json(&["quarantine", "list", "--json"]);
        let messages = listed["messages"].as_array().map_or(0, Vec::len);
        (messages == 2 && mailboxes() == [1, 0]).then_some(())
    });
    let inspect = |more: &[&str]| {
        let output = site.run(&[&["quarantine", "release", "--inspect"], more].concat());
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };

    let (code, said) = inspect(&["--all"]);
    assert_eq!(code, Some(1), "{said}");
    for told in [
        format!("{whole} stays held\n  suspect: quarantine: looks like a lottery\n"),
        format!("{partly} stays held\n  carol@example.test: quarantine: a trap\n"),
        "0 messages, 0 recipients\n".to_owned(),
    ] {
        assert!(said.contains(&told), "{said}");
    }

    let failing = HOLDING.replace(
        "  { name = \"trap\", recipient = \"^carol@\", action = \"quarantine\", text = \"a trap\" },",
        "  { name = \"viruses\", clamd = \"unix:/nonexistent/clamd.ctl\", on_failure = \"accept\" },",
    );
    reload(&site, &grange, &failing);
    let (code, said) = inspect(&["--json", &partly]);
    assert_eq!(code, Some(1), "{said}");
    let report: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(
        (&report["messages"], &report["held"][0]["id"]),
        (&0.into(), &partly.as_str().into())
    );
    let why = report["held"][0]["why"][0].as_str().expect("a reason");
    assert!(why.starts_with("viruses: failed: cannot be reached"), "{said}");
    assert_eq!(mailboxes(), [1, 0]);

    reload(
        &site,
        &grange,
        &HOLDING.replace("lottery\", action", "raffle\", action").replace("carol", "dora"),
    );
    let (code, said) = inspect(&["--all"]);
    assert_eq!((code, said.as_str()), (Some(0), "2 messages, 2 recipients\n"));
    until("they arrive", || (mailboxes() == [2, 1]).then_some(()));
    site.wait_empty();
    let (code, _) = inspect(&[&whole]);
    assert_eq!(code, Some(66), "it is not held any more");
    assert!(grange.stop().success());
}

/// Reloads with other filters, and waits until their workers have taken over.
fn reload(site: &Site, grange: &Running<'_>, filters: &str) {
    let newest = || {
        let farm = grange.farm("contentfilter");
        let workers = farm["workers"].as_array().cloned().unwrap_or_default();
        let ready = workers.iter().filter(|worker| worker["state"] == "ready");
        let generations: Vec<u64> =
            ready.filter_map(|worker| worker["generation"].as_u64()).collect();
        (generations.iter().min() == generations.iter().max())
            .then(|| generations.first().copied())?
    };
    let before = until("the old ones are ready", newest);
    std::fs::write(site.config(), site.text().replace(HOLDING, filters)).expect("a configuration");
    grange.signal(grange.pid(), Signal::HUP);
    until("the new ones are", || newest().filter(|generation| *generation > before));
}

#[test]
fn a_trial_says_what_each_filter_would_say() {
    let site = Site::new().replace("filters = []", FILTERS);
    let message = site.path("message.eml");
    let write = |text: &str| std::fs::write(&message, text).expect("a file");
    let arguments = |more: &[&'static str]| {
        let mut words = vec!["filter", "test"];
        words.extend_from_slice(more);
        words.push(message.to_str().expect("a name"));
        site.run(&words)
    };
    write(&format!("Subject: big\n\n{}", "A line of it.\n".repeat(1000)));
    let marked = arguments(&["--show"]);
    let said = String::from_utf8_lossy(&marked.stdout).into_owned();
    assert!(marked.status.success(), "{said}");
    assert!(said.contains("large: accept") && said.contains("together: accept"), "{said}");
    assert!(said.contains("\nX-Size: large\r\n"), "{said}");
    write("Subject: lottery\n\n");
    let held = arguments(&[]);
    let said = String::from_utf8_lossy(&held.stdout).into_owned();
    assert_eq!(held.status.code(), Some(1));
    assert!(said.contains("suspect: quarantine: looks like a lottery"), "{said}");
}

#[test]
fn a_dead_filter_never_lets_mail_through() {
    let site = Site::new()
        .replace("filters = []", FILTERS)
        .replace("[smtpserver]\n", "[smtpserver]\ninspect_timeout = \"2s\"\n");
    let grange = site.start_only(&[
        "smtpserver",
        "router",
        "scheduler",
        "local",
        "smtp",
        "error",
        "requeue",
    ]);
    let reply = send(&site, "Subject: plain\r\n\r\n");
    assert_eq!(reply.code / 100, 4, "{reply:?}");
    assert!(site.queued().is_empty());
    assert!(grange.stop().success());
}

fn send(site: &Site, message: &str) -> Reply {
    let mut client = Client::ready(site.smtp.number);
    client.message("alice@example.test", &["bob@example.test"], message).expect("a reply")
}

/// A clamd of the test's own, which answers nothing before it is told to.
struct SlowClamd {
    port: u16,
    /// Messages that it was sent whole and has not answered.
    waiting: Arc<AtomicUsize>,
    answers: Arc<AtomicBool>,
}

impl SlowClamd {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let port = listener.local_addr().expect("an address").port();
        let (waiting, answers) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (counted, asked) = (Arc::clone(&waiting), Arc::clone(&answers));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (counted, asked) = (Arc::clone(&counted), Arc::clone(&asked));
                std::thread::spawn(move || answer(stream, &counted, &asked));
            }
        });
        Self { port, waiting, answers }
    }
}

/// Reads an INSTREAM, and says that all is well once that is wanted.
fn answer(mut stream: impl Read + Write, waiting: &AtomicUsize, answers: &AtomicBool) {
    if read_stream(&mut stream).is_err() {
        return;
    }
    waiting.fetch_add(1, Ordering::SeqCst);
    until("the answer is wanted", || answers.load(Ordering::SeqCst).then_some(()));
    waiting.fetch_sub(1, Ordering::SeqCst);
    let _ = stream.write_all(b"stream: OK\0");
}

/// Reads an INSTREAM to its end.
fn read_stream(stream: &mut impl Read) -> std::io::Result<()> {
    let mut command = [0; 10];
    let mut length = [0; 4];
    stream.read_exact(&mut command)?;
    loop {
        stream.read_exact(&mut length)?;
        if length == [0; 4] {
            return Ok(());
        }
        let mut piece = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut piece)?;
    }
}

/// A clamd of the test's own at a path, which finds nothing.
fn start_clamd(path: &Path) {
    let listener = UnixListener::bind(path).expect("a socket");
    // Workers run as another user.
    open_to(path, 0o777);
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            if read_stream(&mut stream).is_ok() {
                let _ = stream.write_all(b"stream: OK\0");
            }
        }
    });
}

#[test]
fn a_filter_that_keeps_failing_is_left_out_and_status_says_so() {
    let site = Site::new();
    let clamd = site.path("clamd.ctl");
    let filters = format!(
        "left_out = \"1s\"\nworkers = {{ start = 1, max = 1, spare_min = 0 }}\nfilters = [{{ name = \"viruses\", clamd = \"unix:{}\" }}]",
        clamd.display()
    );
    let site = site.replace("filters = []", &filters);
    let grange = site.start();
    let notice = || grange.farm("contentfilter")["workers"][0]["notice"].clone();
    let metric = || {
        let metrics = site.ok(&["metrics"]);
        let name = "grange_farm_notices{farm=\"contentfilter\"} ";
        let line = metrics.lines().find_map(|line| line.strip_prefix(name));
        line.expect("the metric is there").to_owned()
    };
    for _ in 0..4 {
        let reply = send(&site, "Subject: x\r\n\r\n");
        assert_eq!(reply.code, 451, "{reply:?}");
        assert!(notice().is_null());
    }
    assert_eq!(metric(), "0");
    assert_eq!(send(&site, "Subject: x\r\n\r\n").code, 451);
    let told = "left out after failures: viruses (on_failure tempfail)";
    assert_eq!(notice(), told);
    assert_eq!(metric(), "1");
    let shown = site.ok(&["status"]);
    assert!(shown.lines().any(|line| line == format!("contentfilter/1: {told}")), "{shown}");

    start_clamd(&clamd);
    until("it is asked again", || (send(&site, "Subject: x\r\n\r\n").code == 250).then_some(()));
    assert!(notice().is_null());
    assert_eq!(metric(), "0");
    assert!(!site.ok(&["status"]).contains("left out"));
    assert!(grange.stop().success());
}

#[test]
fn a_worker_killed_with_two_hundred_messages_in_it_loses_none() {
    const MESSAGES: usize = 200;
    let clamd = SlowClamd::start();
    let filters = format!(
        "workers = {{ start = 1, max = 1, spare_min = 0 }}\nfilters = [{{ clamd = \"inet:127.0.0.1:{}\" }}]",
        clamd.port
    );
    let site = Site::new().replace("filters = []", &filters);
    let grange = site.start();
    let port = site.smtp.number;
    let sessions: Vec<_> = (0..MESSAGES)
        .map(|number| {
            std::thread::spawn(move || {
                let message = format!("Subject: number {number}\r\n\r\ntext\r\n");
                let mut client = Client::ready(port);
                client.message("alice@example.test", &["bob@example.test"], &message)
            })
        })
        .collect();
    until("all are in the worker", || {
        (clamd.waiting.load(Ordering::SeqCst) == MESSAGES).then_some(())
    });
    let before = grange.workers("contentfilter");
    assert_eq!(before.len(), 1);
    grange.signal(before[0], Signal::KILL);
    clamd.answers.store(true, Ordering::SeqCst);
    for session in sessions {
        let reply = session.join().expect("a session").expect("a reply");
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    site.wait_empty();
    let mailbox = site.mailbox("example.test", "bob");
    let subject =
        |text: &String| text.lines().find(|line| line.starts_with("Subject: ")).map(str::to_owned);
    let subjects: BTreeSet<String> = mailbox.iter().filter_map(subject).collect();
    assert_eq!((mailbox.len(), subjects.len()), (MESSAGES, MESSAGES), "each once");
    assert!(grange.stop().success());
}
