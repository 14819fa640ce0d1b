//! Milters over sessions: what is refused when, that nothing of one message is left for the next, several in order, and their deaths.

use std::thread;

use serde_json::{Value, json};
use tests::{Client, Milter, NameServer, Reply, Site, descriptors, until};

/// A site that asks these filters, in a network where nobody has a name.
fn site(filters: &str, dns: &NameServer) -> Site {
    let dns = format!("[dns]\nnameservers = [\"{}\"]\n", dns.address());
    Site::new().replace("filters = []", &format!("filters = [{filters}]")).append(&dns)
}

fn filter(milter: &Milter) -> String {
    format!("{{ milter = \"{}\" }}", milter.endpoint())
}

/// A small message with these orders for the milter `every`.
fn message(subject: &str, orders: &Value) -> String {
    format!("Subject: {subject}\r\nX-Do-every: {orders}\r\n\r\none\r\ntwo")
}

fn send(client: &mut Client, sender: &str, recipients: &[&str], subject: &str) -> Reply {
    client.message(sender, recipients, &message(subject, &json!([]))).expect("a reply")
}

/// Subjects of the messages in a mailbox.
fn subjects(site: &Site, user: &str) -> Vec<String> {
    let mailbox = site.mailbox("example.test", user);
    let subject = |text: &String| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix("Subject: ").map(str::to_owned))
    };
    mailbox.iter().filter_map(subject).collect()
}

/// What a milter does in early steps, by the words in what it is told.
fn early() -> Value {
    let mut plan = Vec::new();
    for callback in ["hello", "envfrom", "envrcpt", "data", "header", "eoh", "body"] {
        for (text, orders) in [
            ("reject", json!([["return", "REJECT"]])),
            ("tempfail", json!([["return", "TEMPFAIL"]])),
            ("discard", json!([["return", "DISCARD"]])),
            ("accept", json!([["return", "ACCEPT"]])),
            ("words", json!([["reply", "554", "5.7.9", "one", "two"], ["return", "REJECT"]])),
            ("later", json!([["reply", "452", "4.7.9", "not now"], ["return", "TEMPFAIL"]])),
        ] {
            plan.push(json!([callback, format!("{callback}-{text}"), orders]));
        }
    }
    plan.push(json!(["body", "body-skip", [["return", "SKIP"]]]));
    plan.into()
}

/// Says these words at each step, and gives the replies: to EHLO, MAIL, each RCPT, DATA and the message, as far as it comes.
fn steps(site: &Site, helo: &str, sender: &str, recipients: &[&str], message: &str) -> Vec<Reply> {
    let mut client = Client::connect(site.smtp.number);
    let mut replies = vec![client.command(&format!("EHLO {helo}.example")).expect("a reply")];
    let mut say = |line: &str, replies: &mut Vec<Reply>| {
        let reply = client.command(line).expect("a reply");
        replies.push(reply.clone());
        reply.code
    };
    if say(&format!("MAIL FROM:<{sender}@example.test>"), &mut replies) != 250 {
        return replies;
    }
    for recipient in recipients {
        say(&format!("RCPT TO:<{recipient}@example.test>"), &mut replies);
    }
    if say("DATA", &mut replies) == 354 {
        say(&format!("{message}\r\n."), &mut replies);
    }
    replies
}

/// The words at each step, the codes of the replies, and whom the message reaches.
type Case = (
    &'static str,
    &'static str,
    &'static [&'static str],
    &'static str,
    &'static [u16],
    &'static [&'static str],
);

const BOTH: &[&str] = &["bob", "carl"];

const CASES: &[Case] = &[
    ("plain", "alice", BOTH, "plain", &[250, 250, 250, 250, 354, 250], BOTH),
    ("hello-accept", "envfrom-reject", BOTH, "unasked", &[250, 250, 250, 250, 354, 250], BOTH),
    ("plain", "envfrom-reject", BOTH, "", &[250, 550], &[]),
    ("plain", "envfrom-tempfail", BOTH, "", &[250, 451], &[]),
    ("plain", "envfrom-words", BOTH, "", &[250, 554], &[]),
    ("plain", "envfrom-later", BOTH, "", &[250, 452], &[]),
    ("plain", "envfrom-discard", BOTH, "s", &[250, 250, 250, 250, 354, 250], &[]),
    (
        "plain",
        "envfrom-accept",
        &["envrcpt-reject", "bob"],
        "taken",
        &[250, 250, 250, 250, 354, 250],
        &["bob"],
    ),
    (
        "plain",
        "alice",
        &["envrcpt-reject", "bob"],
        "one",
        &[250, 250, 550, 250, 354, 250],
        &["bob"],
    ),
    (
        "plain",
        "alice",
        &["envrcpt-tempfail", "bob"],
        "two",
        &[250, 250, 451, 250, 354, 250],
        &["bob"],
    ),
    (
        "plain",
        "alice",
        &["envrcpt-words", "bob"],
        "three",
        &[250, 250, 554, 250, 354, 250],
        &["bob"],
    ),
    ("plain", "alice", &["bob", "envrcpt-discard"], "s", &[250, 250, 250, 250, 354, 250], &[]),
    (
        "plain",
        "alice",
        &["envrcpt-accept", "envrcpt-reject", "bob"],
        "four",
        &[250, 250, 250, 250, 250, 354, 250],
        &["bob"],
    ),
    ("plain", "data-reject", BOTH, "s", &[250, 250, 250, 250, 354, 550], &[]),
    ("plain", "data-later", BOTH, "s", &[250, 250, 250, 250, 354, 452], &[]),
    ("plain", "data-discard", BOTH, "s", &[250, 250, 250, 250, 354, 250], &[]),
    ("plain", "alice", BOTH, "header-reject", &[250, 250, 250, 250, 354, 550], &[]),
    ("plain", "alice", BOTH, "header-discard", &[250, 250, 250, 250, 354, 250], &[]),
    ("plain", "alice", BOTH, "header-accept", &[250, 250, 250, 250, 354, 250], BOTH),
    ("plain", "eoh-words", BOTH, "s", &[250, 250, 250, 250, 354, 554], &[]),
    ("plain", "alice", BOTH, "s\r\n\r\nbody-reject", &[250, 250, 250, 250, 354, 550], &[]),
    ("plain", "alice", BOTH, "s\r\n\r\nbody-tempfail", &[250, 250, 250, 250, 354, 451], &[]),
    ("plain", "alice", BOTH, "body\r\n\r\nbody-accept", &[250, 250, 250, 250, 354, 250], BOTH),
];

#[test]
fn each_answer_is_the_reply_to_its_step() {
    let milter = Milter::start("every", &early());
    let dns = NameServer::start("");
    let site = site(&filter(&milter), &dns);
    let grange = site.start();
    for (helo, sender, recipients, subject, codes, reached) in CASES {
        let replies =
            steps(&site, helo, sender, recipients, &format!("Subject: {subject}\r\n\r\nx"));
        let found: Vec<u16> = replies.iter().map(|reply| reply.code).collect();
        assert_eq!(found, *codes, "{sender} {recipients:?} {subject}: {replies:?}");
        let words = replies.iter().find(|reply| reply.code == 554);
        assert!(words.is_none_or(|reply| reply.lines == ["5.7.9 one", "5.7.9 two"]), "{words:?}");
        for user in *reached {
            until(&format!("{subject} reaches {user}"), || {
                let subject = subject.lines().next().map(str::to_owned);
                subjects(&site, user).contains(&subject?).then_some(())
            });
        }
    }
    // At HELO a session is refused.
    for (helo, code) in [("hello-reject", 550), ("hello-later", 452), ("hello-words", 554)] {
        let mut client = Client::connect(site.smtp.number);
        let reply = client.command(&format!("EHLO {helo}.example")).expect("a reply");
        assert_eq!(reply.code, code, "{helo}: {reply:?}");
    }
    site.wait_empty();
    assert!(!subjects(&site, "bob").contains(&"s".to_owned()), "what was refused or discarded");
    assert!(grange.stop().success());
}

#[test]
fn a_client_is_refused_at_once() {
    for (orders, code) in [
        (json!([["return", "REJECT"]]), 554),
        (json!([["return", "TEMPFAIL"]]), 421),
        (json!([["return", "ACCEPT"]]), 220),
    ] {
        let milter = Milter::start("every", &json!([["connect", "", orders]]));
        let dns = NameServer::start("");
        let site = site(&filter(&milter), &dns);
        let grange = site.start();
        let mut client = Client::open(site.smtp.number).expect("a connection");
        assert_eq!(client.reply().expect("a greeting").code, code, "{orders}");
        if code == 220 {
            client.expect("EHLO client.example", 250);
            assert_eq!(send(&mut client, "a@example.test", &["bob@example.test"], "s").code, 250);
            assert_eq!(milter.calls("envfrom"), Vec::<Vec<String>>::new());
        }
        assert!(grange.stop().success());
    }
}

#[test]
fn a_large_body_comes_whole_or_as_much_as_is_wanted() {
    let milter = Milter::start("every", &early());
    let dns = NameServer::start("");
    let site = site(&filter(&milter), &dns);
    let grange = site.start();
    let lines = "A line of it, not the first.\r\n".repeat(20_000);
    let mut client = Client::ready(site.smtp.number);
    let mut send = |first: &str| {
        let message = format!("Subject: large\r\n\r\n{first}\r\n{lines}end");
        client.message("a@example.test", &["bob@example.test"], &message).expect("a reply").code
    };
    assert_eq!(send("whole"), 250);
    let whole: String = milter.calls("body").concat().concat();
    assert_eq!(whole, format!("whole\r\n{lines}end\r\n"));
    let pieces = milter.calls("body").len();
    assert_eq!(send("body-skip"), 250);
    assert_eq!(milter.calls("body").len(), pieces + 1, "no more than it wanted");
    assert_eq!(milter.calls("eom").len(), 2);
    assert!(grange.stop().success());
}

#[test]
fn nothing_of_one_message_is_left_for_the_next() {
    let milter = Milter::start("every", &early());
    let dns = NameServer::start("");
    let site = site(&filter(&milter), &dns);
    let grange = site.start();
    let all = json!([
        ["addheader", "X-Left", "yes"],
        ["replacebody", "left"],
        ["chgfrom", "<left@example.test>"],
        ["addrcpt", "<left@example.test>"],
        ["quarantine", "left"]
    ]);
    let mut client = Client::ready(site.smtp.number);
    // What was discarded, accepted, refused and given up before, in this session.
    assert_eq!(
        send(&mut client, "envfrom-discard@example.test", &["bob@example.test"], "s").code,
        250
    );
    assert_eq!(
        send(&mut client, "a@example.test", &["envrcpt-discard@example.test"], "s").code,
        250
    );
    assert_eq!(
        send(&mut client, "envfrom-reject@example.test", &["bob@example.test"], "s").code,
        550
    );
    client.expect("RSET", 250);
    let held = client.message("a@example.test", &["bob@example.test"], &message("held", &all));
    assert_eq!(held.expect("a reply").code, 250);
    client.expect("MAIL FROM:<envfrom-accept@example.test>", 250);
    client.expect("RCPT TO:<envrcpt-reject@example.test>", 250);
    client.expect("RSET", 250);
    client.expect("MAIL FROM:<b@example.test>", 250);
    client.expect("RCPT TO:<envrcpt-reject@example.test>", 550);
    client.expect("RSET", 250);
    assert_eq!(
        send(&mut client, "b@example.test", &["bob@example.test"], "same session").code,
        250
    );
    client.expect("QUIT", 221);
    let mut client = Client::ready(site.smtp.number);
    assert_eq!(
        send(&mut client, "c@example.test", &["bob@example.test"], "next session").code,
        250
    );
    for (subject, sender) in [("same session", "b"), ("next session", "c")] {
        let arrived = until("it arrives", || {
            let mailbox = site.mailbox("example.test", "bob");
            mailbox.into_iter().find(|text| text.contains(&format!("Subject: {subject}")))
        });
        assert!(arrived.contains(&format!("Return-Path: <{sender}@example.test>")), "{arrived}");
        assert!(!arrived.contains("X-Left") && arrived.trim_end().ends_with("two"), "{arrived}");
    }
    assert_eq!(site.queued().len(), 1, "the one that is held");
    assert_eq!(site.mailbox("example.test", "bob").len(), 2);
    assert!(site.mailbox("example.test", "left").is_empty());
    assert!(grange.stop().success());
}

#[test]
fn each_sees_what_those_before_it_changed() {
    let (first, second) =
        (Milter::start("every", &json!([])), Milter::start_tcp("second", &json!([])));
    let dns = NameServer::start("");
    let site = site(&format!("{}, {}", filter(&first), filter(&second)), &dns);
    let grange = site.start();
    let orders = json!([
        ["addheader", "X-First", "added"],
        ["chgheader", "Subject", 1, "changed"],
        ["addheader", "X-Top", "inserted", 0],
        ["replacebody", "another body\r\n"]
    ]);
    let next = json!([
        ["chgheader", "X-First", 1, "seen"],
        ["chgheader", "X-Top", 1, ""],
        ["addheader", "X-Second", "added"]
    ]);
    let message =
        format!("Subject: given\r\nX-Do-every: {orders}\r\nX-Do-second: {next}\r\n\r\nbody");
    let mut client = Client::ready(site.smtp.number);
    let reply = client.message("a@example.test", &["bob@example.test"], &message).expect("a reply");
    assert_eq!(reply.code, 250, "{reply:?}");
    let saw = second.calls("header");
    for (name, value) in [("X-First", "added"), ("Subject", "changed"), ("X-Top", "inserted")] {
        assert!(saw.contains(&vec![name.to_owned(), value.to_owned()]), "{saw:?}");
    }
    assert!(!saw.contains(&vec!["Subject".to_owned(), "given".to_owned()]), "{saw:?}");
    assert_eq!(second.calls("body").concat().concat(), "another body\r\n");
    assert!(first.calls("header").contains(&vec!["Subject".to_owned(), "given".to_owned()]));
    let arrived = until("it arrives", || site.mailbox("example.test", "bob").into_iter().next());
    let arrived = arrived.replace("\r\n", "\n");
    assert!(
        arrived.contains("X-First: seen\n") && arrived.contains("X-Second: added\n"),
        "{arrived}"
    );
    assert!(!arrived.contains("\nX-Top:") && arrived.ends_with("\n\nanother body\n"), "{arrived}");
    // The second is not asked about what the first has refused.
    let refused = json!([["return", "REJECT"]]);
    let before = second.calls("eom").len();
    let reply =
        client.message("a@example.test", &["bob@example.test"], &self::message("s", &refused));
    assert_eq!(reply.expect("a reply").code, 550);
    assert_eq!(second.calls("eom").len(), before);
    assert!(grange.stop().success());
}

#[test]
fn connections_are_used_again_and_none_is_left() {
    const SESSIONS: usize = 50;
    let milter = Milter::start("every", &json!([]));
    let dns = NameServer::start("");
    let site = site(&format!("{{ milter = \"{}\", reuse = true }}", milter.endpoint()), &dns);
    let grange = site.start();
    let port = site.smtp.number;
    let session = move |number: usize| {
        let mut client = Client::ready(port);
        // Some go in the middle.
        match number % 3 {
            0 => assert_eq!(
                send(&mut client, "a@example.test", &["bob@example.test"], "s").code,
                250
            ),
            1 => drop(client.expect("MAIL FROM:<a@example.test>", 250)),
            _ => drop(client.expect("QUIT", 221)),
        }
    };
    // Sendmail's library can go on only behind the end of a message.
    (0..SESSIONS).for_each(|_| session(0));
    let opened = milter.calls("negotiate").len();
    assert!(opened <= SESSIONS / 2, "{opened} connections for {SESSIONS} sessions");
    let probes = milter.calls("connect").len() - SESSIONS;
    thread::scope(|scope| {
        (0..SESSIONS).for_each(|number| drop(scope.spawn(move || session(number))))
    });
    until("all sessions have ended", || {
        (milter.calls("close").len() >= milter.calls("connect").len()).then_some(())
    });
    assert_eq!(milter.calls("connect").len(), 2 * SESSIONS + probes);
    site.wait_empty();
    assert_eq!(site.mailbox("example.test", "bob").len(), SESSIONS + SESSIONS.div_ceil(3));
    assert!(grange.stop().success());
    until("no connection is left", || (descriptors(milter.pid())? < 12).then_some(()));
}

#[test]
fn a_milter_killed_in_the_middle_follows_its_rule() {
    for (rule, code) in [("tempfail", 451), ("quarantine", 250), ("accept", 250)] {
        let plan = json!([["eom", "stall@", [["stall"]]]]);
        let mut milter = Milter::start("every", &plan);
        let dns = NameServer::start("");
        let filters = format!("{{ milter = \"{}\", on_failure = \"{rule}\" }}", milter.endpoint());
        let site = site(&filters, &dns);
        let grange = site.start();
        let mark = json!([["addheader", "X-Marked", "yes"]]);
        let port = site.smtp.number;
        let deliver = |subject: &str| {
            let mut client = Client::ready(port);
            client.message("a@example.test", &["bob@example.test"], &message(subject, &mark))
        };
        assert_eq!(deliver("before").expect("a reply").code, 250);
        // At the end of a message.
        let stalled = thread::spawn(move || {
            let mut client = Client::ready(port);
            send(&mut client, "stall@example.test", &["bob@example.test"], "in hand")
        });
        until("it has the message", || (milter.calls("eom").len() == 2).then_some(()));
        milter.kill();
        let reply = stalled.join().expect("a session");
        assert_eq!(reply.code, code, "{rule}: {reply:?}");
        milter.restart();
        assert_eq!(deliver("again").expect("a reply").code, 250, "{rule}");
        // Between a recipient and the message, and then between two messages of the session.
        let mut client = Client::ready(port);
        client.expect("MAIL FROM:<a@example.test>", 250);
        client.expect("RCPT TO:<bob@example.test>", 250);
        milter.kill();
        client.expect("DATA", 354);
        let reply = client.command("Subject: at once\r\n\r\nx\r\n.").expect("a reply");
        assert_eq!(reply.code, code, "{rule}: {reply:?}");
        milter.restart();
        let reply =
            client.message("a@example.test", &["bob@example.test"], &message("back", &mark));
        assert_eq!(reply.expect("a reply").code, 250, "{rule}");
        let wanted: &[&str] = match rule {
            "accept" => &["before", "in hand", "again", "at once", "back"],
            _ => &["before", "again", "back"],
        };
        until("what is taken arrives", || {
            (subjects(&site, "bob").len() == wanted.len()).then_some(())
        });
        let mut found = subjects(&site, "bob");
        found.sort();
        let mut wanted: Vec<&str> = wanted.to_vec();
        wanted.sort_unstable();
        assert_eq!(found, wanted, "{rule}");
        assert_eq!(site.queued().len(), if rule == "quarantine" { 2 } else { 0 }, "{rule}");
        assert!(grange.stop().success());
    }
}
