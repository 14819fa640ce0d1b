//! A disk that is full, without inodes, read-only or failing, under load: mail is refused for now with a reason, nothing that got
//! `250` is lost, and all goes on by itself when the trouble is over.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::collections::BTreeMap;
use std::time::Duration;

use tests::{Burst, Client, Mail, Mount, Reply, Running, Sink, Site, Traffic, until, until_within};

/// How soon mail must be accepted again when there is space again.
const RESUME: Duration = Duration::from_secs(5);

/// Sessions that send, and how long each pauses between two messages.
const SESSIONS: usize = 6;
const PAUSE: Duration = Duration::from_millis(10);

#[test]
fn mail_is_refused_before_the_disk_is_full() {
    let site = Site::new();
    let mount = Mount::tmpfs(site.path("data"), "size=300m,mode=755");
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let traffic = Traffic::start(site.smtp.number, SESSIONS, PAUSE, |_| Mail::to(ELSEWHERE));
    until("mail flows", || (traffic.accepted() >= 200).then_some(()));
    // Less than `free_bytes_min`, which is 64 MiB.
    let ballast = mount.fill("ballast", 60 << 20);
    let refusal = until("mail is refused", || refusal(&site));
    assert_eq!(refusal.code, 452, "{refusal:?}");
    assert!(refusal.text().starts_with("4.3.1 "), "{refusal:?}");
    assert!(mount.free_bytes() > 32 << 20, "long before the disk is full");
    std::fs::remove_file(ballast).expect("our own file");
    resumes(&traffic);
    let sent = traffic.stop();
    arrive(&site, &sent, &sink);
    assert!(sent.refused.iter().all(|token| !sink.tokens().contains_key(token)));
    assert!(site.log().contains("bytes are free"), "the log says why");
    end(grange);
}

#[test]
fn a_full_disk_takes_no_mail_and_delivers_what_it_has() {
    let site = Site::new().replace("store = \"spool\"", "store = \"spool\"\nfree_bytes_min = 0");
    let mount = Mount::tmpfs(site.path("data"), "size=300m,mode=755");
    let grange = site.start();
    let traffic = Traffic::start(site.smtp.number, SESSIONS, PAUSE, |number| Mail {
        lines: if number % 5 == 0 { 8000 } else { 20 },
        ..Mail::to(ELSEWHERE)
    });
    until("mail is queued", || (traffic.accepted() >= 200).then_some(()));
    // Under load, so that it is found full at any step.
    for round in 0..3 {
        let ballast = mount.fill("ballast", 0);
        let before = traffic.refused();
        until("mail is refused", || (traffic.refused() >= before + 20).then_some(()));
        // A retry needs no space but the ledger's.
        site.ok(&["queue", "retry", "--all"]);
        let accepted = traffic.accepted();
        std::fs::remove_file(ballast).expect("our own file");
        resumes(&traffic);
        eprintln!("round {round}: {accepted} accepted by then");
    }
    // What is queued leaves while the disk is full.
    let ballast = mount.fill("ballast", 0);
    let sink = Sink::start(site.sink.number);
    site.ok(&["queue", "retry", "--all"]);
    sink.wait(100);
    std::fs::remove_file(ballast).expect("our own file");
    resumes(&traffic);
    let sent = traffic.stop();
    arrive(&site, &sent, &sink);
    end(grange);
}

#[test]
fn a_disk_without_inodes() {
    let site = Site::new().replace(
        "store = \"spool\"",
        "store = \"spool\"\nsegment_bytes = \"128KiB\"\nbody_file_bytes_min = \"16KiB\"",
    );
    let mount = Mount::tmpfs(site.path("data"), "size=300m,nr_inodes=200,mode=755");
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let traffic = Traffic::start(site.smtp.number, SESSIONS, PAUSE, |number| Mail {
        lines: if number % 3 == 0 { 1000 } else { 20 },
        ..Mail::to(ELSEWHERE)
    });
    until("mail flows", || (traffic.accepted() >= 100).then_some(()));
    let mut ballast = Vec::new();
    for number in 0.. {
        let path = mount.path().join(format!("ballast.{number}"));
        match std::fs::File::create(&path) {
            Ok(_) => ballast.push(path),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
                break;
            }
        }
    }
    let before = traffic.refused();
    until("mail is refused", || (traffic.refused() >= before + 20).then_some(()));
    let big = "A line of a body that needs a file of its own.\r\n".repeat(1000);
    let reply = until("a large one is refused", || {
        let mut client = Client::ready(site.smtp.number);
        let text = format!("Subject: x\r\n\r\n{big}");
        let reply = client.message("alice@example.test", &[ELSEWHERE], &text).ok()?;
        (reply.code != 250).then_some(reply)
    });
    assert_eq!((reply.code, reply.text().get(..5)), (452, Some("4.3.1")), "{reply:?}");
    for path in ballast {
        std::fs::remove_file(path).expect("our own file");
    }
    resumes(&traffic);
    let sent = traffic.stop();
    arrive(&site, &sent, &sink);
    end(grange);
}

/// Operations that fail for a while, and how.
const FAILING: &[(&str, &str)] = &[
    ("segment.write.before", "EIO"),
    ("segment.sync.before", "EIO"),
    ("segment.create.before", "EIO"),
    ("stripe.sync_dir.before", "EIO"),
    ("next.rename.before", "EIO"),
    ("next.create.before", "EROFS"),
    ("segment.write.before", "EROFS"),
    ("body.create.before", "EMFILE"),
    ("body.write.before", "ENOSPC"),
    ("body.sync.before", "EIO"),
    ("ledger.write.before", "EIO"),
    ("ledger.sync.before", "EIO"),
    ("ledger.write.before", "ENOSPC"),
    ("ledger.write.before", "EROFS"),
];

#[test]
fn operations_that_fail() {
    let site = Site::new().replace(
        "store = \"spool\"",
        "store = \"spool\"\nsegment_bytes = \"256KiB\"\nbody_file_bytes_min = \"32KiB\"\nledger_bytes = \"64KiB\"",
    );
    let faults = site.faults();
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let traffic = Traffic::start(site.smtp.number, SESSIONS, PAUSE, |number| Mail {
        lines: if number % 3 == 0 { 1000 } else { 20 },
        ..Mail::to(ELSEWHERE)
    });
    for (point, errno) in FAILING {
        let accepted = traffic.accepted();
        until("mail flows", || (traffic.accepted() >= accepted + 100).then_some(()));
        let log = site.log().len();
        let (fired, refused) = (faults.fired().len(), traffic.refused());
        faults.arm(point, &format!("{errno} always"));
        let at_the_door = !point.starts_with("ledger");
        // A ledger that has failed is left alone for a while.
        let times = if at_the_door { 3 } else { 1 };
        until(&format!("{point} fails with {errno}"), || {
            (faults.fired().len() >= fired + times).then_some(())
        });
        if at_the_door {
            until("mail is refused", || (traffic.refused() > refused).then_some(()));
        }
        assert!(faults.disarm(point));
        if at_the_door {
            resumes(&traffic);
        }
        until(&format!("the log tells of {point} {errno}"), || {
            let told = site.log().split_off(log);
            told.lines()
                .any(|line| line.contains(" error ") || line.contains(" warn "))
                .then_some(())
        });
        eprintln!("{point} {errno}: over");
    }
    let sent = traffic.stop();
    // Dispatching goes on by itself.
    arrive(&site, &sent, &sink);
    end(grange);
}

#[test]
fn a_sync_that_failed_is_never_taken_for_a_success() {
    let site = Site::new();
    let faults = site.faults();
    let _grange = site.start();
    let mut client = Client::ready(site.smtp.number);
    let send = |client: &mut Client| {
        client.message("alice@example.test", &[ELSEWHERE], "Subject: x\r\n\r\n").expect("a reply")
    };
    assert_eq!(send(&mut client).code, 250);
    let segments = || {
        let stripes = std::fs::read_dir(site.path("data/spool/intake")).expect("it is there");
        let names = stripes.flat_map(|stripe| {
            std::fs::read_dir(stripe.expect("an entry").path()).expect("a stripe")
        });
        names
            .filter(|name| {
                name.as_ref().is_ok_and(|it| it.path().extension().is_some_and(|it| it == "seg"))
            })
            .count()
    };
    let before = segments();
    // It fails once; the next one of the same file would say that all is well.
    faults.arm("segment.sync.before", "EIO");
    let reply = send(&mut client);
    assert_eq!(reply.code, 451, "{reply:?}");
    assert!(reply.text().starts_with("4.3.0 "), "{reply:?}");
    until_within(RESUME, "mail is accepted again", || {
        let reply = send(&mut client);
        (reply.code == 250).then_some(())
    });
    assert!(segments() > before, "in another segment");
}

#[test]
fn no_file_descriptors_left() {
    let site = Site::new().replace("start = 2, max = 2", "start = 1, max = 1");
    let sink = Sink::start(site.sink.number);
    let grange = site.start_with_open_files(100);
    let worker = *grange.workers("smtpserver").first().expect("a ready worker");
    let crowd: Vec<_> =
        (0..150).map(|_| Client::open(site.smtp.number).expect("the kernel takes it")).collect();
    until("the log tells of it", || site.log().contains("Too many open files").then_some(()));
    let before = tests::cpu_ticks(worker).expect("it lives");
    std::thread::sleep(Duration::from_secs(2));
    let used = tests::cpu_ticks(worker).expect("it lives") - before;
    assert!(used < 50, "{used} hundredths of a second of CPU in two seconds: it spins");
    let lines = site.log().matches("Too many open files").count();
    assert!(lines < 20, "{lines} lines about it");
    drop(crowd);
    until_within(RESUME, "mail is accepted again", || {
        let mut client = Client::open(site.smtp.number).ok()?;
        client.reply().ok().filter(|it| it.code == 220)?;
        client.command("EHLO client.example").ok()?;
        let text = "Subject: x\r\n\r\n";
        let reply = client.message("alice@example.test", &[ELSEWHERE], text).ok()?;
        (reply.code == 250).then_some(())
    });
    sink.wait(1);
    end(grange);
}

/// Somebody whose mail goes to the sink.
const ELSEWHERE: &str = "recipient@sink.example";

/// What a client is told now, if that is no.
fn refusal(site: &Site) -> Option<Reply> {
    let mut client = Client::ready(site.smtp.number);
    let reply = client
        .message("alice@example.test", &["bob@sink.example"], "Subject: x\r\n\r\nx\r\n")
        .expect("a reply");
    (reply.code != 250).then_some(reply)
}

/// The trouble is over: mail is accepted again, soon.
fn resumes(traffic: &Traffic) {
    let before = traffic.accepted();
    until_within(RESUME, "mail is accepted again", || {
        (traffic.accepted() > before + 5).then_some(())
    });
}

/// Everything with `250` comes; what came otherwise was at least sent.
fn arrive(site: &Site, sent: &Burst, sink: &Sink) {
    until_within(Duration::from_secs(150), "what got 250 arrives", || {
        let tokens = sink.tokens();
        sent.accepted.iter().all(|token| tokens.contains_key(token)).then_some(())
    });
    site.wait_empty();
    let tokens: BTreeMap<String, usize> = sink.tokens();
    let known = |token: &String| {
        let sets = [&sent.accepted, &sent.unsure, &sent.refused];
        sets.iter().any(|set| set.contains(token))
    };
    // Probes carry no token.
    let strangers: Vec<_> =
        tokens.keys().filter(|token| *token != "none" && !known(token)).collect();
    assert!(strangers.is_empty(), "came without having been sent: {strangers:?}");
    let twice: Vec<_> =
        tokens.iter().filter(|(token, count)| *token != "none" && **count > 1).collect();
    assert!(twice.is_empty(), "nobody died: {twice:?}");
}

/// Nobody died of it.
fn end(grange: Running<'_>) {
    for farm in ["smtpserver", "router", "scheduler", "smtp", "local", "error"] {
        let farm = grange.farm(farm);
        assert_eq!(farm["crashes"], 0, "{farm}");
        assert_eq!(farm["alive"], true, "{farm}");
    }
    assert!(grange.stop().success());
}
