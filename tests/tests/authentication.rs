//! Mail authentication from end to end: zones that give each result, dkimpy on the other side, and what follows for who sends.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use serde_json::{Value, json};
use tests::{Client, NameServer, Reply, Sink, Site, system_python, until};

const SIGN: &str = include_str!("authentication/sign.py");
const VERIFY: &str = include_str!("authentication/verify.py");

/// A client at 127.0.0.1, which is a stranger.
const ZONE: &str = "
    1.0.0.127.in-addr.arpa PTR mail.good.test
    mail.good.test A 127.0.0.1
    mail.good.test TXT v=spf1 a -all
    good.test TXT v=spf1 ip4:127.0.0.0/8 -all
    fail.test TXT v=spf1 ip4:192.0.2.1 -all
    softfail.test TXT v=spf1 ~all
    neutral.test TXT v=spf1 ?all
    permerror.test TXT v=spf1 include:permerror.test -all
    servfail.test * !servfail
    silent.test * !silent
    garbage.test * !garbage
    liar.test * !liar
    torn.test * !torn
    loop.test CNAME loop2.test
    loop2.test CNAME loop.test
    _dmarc.good.test TXT v=DMARC1; p=reject
    _dmarc.mild.test TXT v=DMARC1; p=quarantine
    _dmarc.broken.test TXT v=DMARC1; p=whatever
    _dmarc.silent.test * !silent
";

/// A site whose client at 127.0.0.1 may not relay, or may.
fn site(server: &NameServer, is_trusted: bool, filters: &str) -> Site {
    let dns = format!(
        "[dns]\nnameservers = [\"{}\"]\ntimeout = \"200ms\"\nattempts = 1\n",
        server.address()
    );
    let site = Site::new().replace("filters = []", filters).append(&dns);
    match is_trusted {
        true => site,
        false => site.replace("\"127.0.0.0/8\", \"::1/128\"", "\"192.0.2.0/24\""),
    }
}

fn send(site: &Site, helo: &str, sender: &str, recipient: &str, message: &str) -> Reply {
    let mut client = Client::connect(site.smtp.number);
    client.expect(&format!("EHLO {helo}"), 250);
    let message = message.strip_suffix("\r\n").unwrap_or(message);
    client.message(sender, &[recipient], message).expect("a reply")
}

fn plain(subject: &str, from: &str) -> String {
    format!("From: {from}\r\nTo: bob@example.test\r\nSubject: {subject}\r\n\r\nHello\r\n")
}

/// Makes a key and gives its file and its record.
fn key(site: &Site, domain: &str, selector: &str, options: &[&str]) -> (String, String) {
    let path = site.path(&format!("{selector}.pem")).display().to_string();
    let arguments = ["keys", "dkim", domain, selector, "--out", &path];
    let line = site.ok(&[&arguments, options].concat());
    assert!(line.starts_with(&format!("{selector}._domainkey.{domain}. IN TXT (")), "{line}");
    (path, line.split('"').skip(1).step_by(2).collect())
}

/// The one message in a mailbox with this subject, in CRLF lines.
fn arrived(site: &Site, subject: &str) -> String {
    let wanted = format!("Subject: {subject}\n");
    until("the message arrives", || {
        let mailbox = site.mailbox("example.test", "bob");
        let found: Vec<String> = mailbox
            .into_iter()
            .map(|text| text.replace("\r\n", "\n"))
            .filter(|text| text.contains(&wanted))
            .collect();
        assert!(found.len() < 2, "{subject}");
        found.into_iter().next().map(|text| text.replace('\n', "\r\n"))
    })
}

/// The value of our Authentication-Results, unfolded.
fn results(message: &str) -> String {
    let unfolded = message.replace("\r\n\t", " ").replace("\r\n ", " ");
    let mut lines = unfolded.lines();
    let field =
        lines.find_map(|line| line.strip_prefix("Authentication-Results: mta.example.test;"));
    field.unwrap_or_else(|| panic!("no results:\n{message}")).to_owned()
}

fn verified(records: &Value, site: &Site, message: &str) -> Value {
    let path = site.path("message");
    std::fs::write(&path, message).expect("a file of the site");
    let output = system_python(VERIFY, &[&records.to_string(), &path.display().to_string()]);
    serde_json::from_str(&output).expect("JSON")
}

#[test]
fn the_header_says_each_result() {
    let server = NameServer::start(ZONE);
    let site = site(&server, false, "filters = [{ authentication = {} }]");
    let (key, record) = key(&site, "good.test", "s1", &[]);
    let signed: Value = serde_json::from_str(&system_python(SIGN, &[&key, &record])).expect("JSON");
    for (name, data) in signed["records"].as_object().expect("records") {
        server.add(&format!("{name} TXT {}", data.as_str().expect("text")));
    }
    let grange = site.start();
    let messages = signed["messages"].as_object().expect("messages");
    let by_dkimpy = |case: &str| messages[case].as_str().expect("text").to_owned();
    let from_good = |case: &str| plain(case, "anna@good.test");
    let from = |case: &str, domain: &str| plain(case, &format!("anna@{domain}"));
    let cases: Vec<(&str, &str, &str, String, &[&str])> = vec![
        (
            "spf-pass",
            "mail.good.test",
            "anna@good.test",
            from_good("spf-pass"),
            &[
                "iprev=pass (",
                "spf=pass smtp.mailfrom=good.test",
                "spf=pass smtp.helo=mail.good.test",
                "dkim=none",
                "dmarc=pass (p=reject) header.from=good.test",
                "arc=none",
            ],
        ),
        (
            "spf-none",
            "x.none.test",
            "a@none.test",
            from("spf-none", "none.test"),
            &[
                "spf=none smtp.mailfrom=none.test",
                "spf=none smtp.helo=x.none.test",
                "dmarc=none header.from=none.test",
            ],
        ),
        (
            "spf-fail",
            "x.test",
            "a@fail.test",
            from_good("spf-fail"),
            &["spf=fail smtp.mailfrom=fail.test", "dmarc=fail (p=reject)"],
        ),
        (
            "spf-softfail",
            "x.test",
            "a@softfail.test",
            from_good("spf-softfail"),
            &["spf=softfail "],
        ),
        ("spf-neutral", "x.test", "a@neutral.test", from_good("spf-neutral"), &["spf=neutral "]),
        (
            "spf-permerror",
            "x.test",
            "a@permerror.test",
            from_good("spf-permerror"),
            &["spf=permerror "],
        ),
        (
            "spf-servfail",
            "x.test",
            "a@servfail.test",
            from_good("spf-servfail"),
            &["spf=temperror "],
        ),
        ("spf-silent", "x.test", "a@silent.test", from_good("spf-silent"), &["spf=temperror "]),
        ("spf-garbage", "x.test", "a@garbage.test", from_good("spf-garbage"), &["spf=temperror "]),
        ("spf-liar", "x.test", "a@liar.test", from_good("spf-liar"), &["spf=temperror "]),
        ("spf-torn", "x.test", "a@torn.test", from_good("spf-torn"), &["spf="]),
        ("spf-loop", "x.test", "a@loop.test", from_good("spf-loop"), &["spf="]),
        (
            "null-sender",
            "mail.good.test",
            "",
            from_good("null-sender"),
            &["spf=pass smtp.helo=mail.good.test", "dmarc=pass"],
        ),
        (
            "dkim-pass",
            "x.test",
            "a@none.test",
            by_dkimpy("dkim-pass"),
            &["dkim=pass header.d=good.test header.s=s1 header.a=rsa-sha256", "dmarc=pass"],
        ),
        ("dkim-simple", "x.test", "a@none.test", by_dkimpy("dkim-simple"), &["dkim=pass"]),
        (
            "dkim-ed",
            "x.test",
            "a@none.test",
            by_dkimpy("dkim-ed"),
            &["dkim=pass header.d=good.test header.s=ed header.a=ed25519-sha256"],
        ),
        (
            "dkim-both",
            "x.test",
            "a@none.test",
            by_dkimpy("dkim-both"),
            &[
                "dkim=pass header.d=good.test header.s=s1",
                "dkim=pass header.d=good.test header.s=ed",
            ],
        ),
        (
            "dkim-fail",
            "x.test",
            "a@none.test",
            by_dkimpy("dkim-fail"),
            &["dkim=fail reason=\"body has changed\"", "dmarc=fail"],
        ),
        (
            "dkim-longer",
            "x.test",
            "a@none.test",
            by_dkimpy("dkim-longer"),
            &["dkim=policy reason=\"body longer than signed\"", "dmarc=fail"],
        ),
        (
            "dkim-sha1",
            "x.test",
            "a@none.test",
            by_dkimpy("dkim-sha1"),
            &["dkim=policy reason=\"rsa-sha1 is not accepted\"", "dmarc=fail"],
        ),
        ("dkim-neutral", "x.test", "a@none.test", by_dkimpy("dkim-neutral"), &["dkim=neutral"]),
        (
            "dkim-temperror",
            "x.test",
            "a@none.test",
            by_dkimpy("dkim-temperror"),
            &["dkim=temperror", "dmarc=temperror"],
        ),
        (
            "dkim-garbage",
            "x.test",
            "a@none.test",
            by_dkimpy("dkim-garbage"),
            &["dkim=temperror", "dmarc=temperror"],
        ),
        (
            "dkim-permerror",
            "x.test",
            "a@none.test",
            by_dkimpy("dkim-permerror"),
            &["dkim=permerror reason=\"no key\""],
        ),
        (
            "dmarc-temperror",
            "x.test",
            "a@none.test",
            from("dmarc-temperror", "silent.test"),
            &["dmarc=temperror", "header.from=silent.test"],
        ),
        (
            "dmarc-permerror",
            "x.test",
            "a@none.test",
            from("dmarc-permerror", "broken.test"),
            &["dmarc=permerror"],
        ),
        (
            "arc-pass",
            "x.test",
            "a@none.test",
            by_dkimpy("arc-pass"),
            &["arc=pass (i=1) header.d=list.test"],
        ),
        (
            "arc-twice",
            "x.test",
            "a@none.test",
            by_dkimpy("arc-twice"),
            &["arc=pass (i=2) header.d=list.test"],
        ),
        (
            "arc-fail",
            "x.test",
            "a@none.test",
            by_dkimpy("arc-fail"),
            &["arc=fail reason=\"body has changed\""],
        ),
        (
            "arc-gap",
            "x.test",
            "a@none.test",
            by_dkimpy("arc-gap"),
            &["arc=fail reason=\"an instance is missing\""],
        ),
    ];
    // All at once: those that wait for DNS wait together.
    std::thread::scope(|scope| {
        for (_, helo, sender, message, _) in &cases {
            let site = &site;
            scope.spawn(move || {
                let reply = send(site, helo, sender, "bob@example.test", message);
                assert_eq!(reply.code, 250, "{reply:?}");
            });
        }
    });
    for (subject, _, _, _, expected) in &cases {
        let found = results(&arrived(&site, subject));
        for part in *expected {
            assert!(found.contains(part), "{subject}: {part} is not in{found}");
        }
        let deceives = subject.starts_with("spf-") && *subject != "spf-pass";
        assert!(!deceives || !found.contains("spf=pass smtp.mailfrom"), "{subject}:{found}");
    }
    site.wait_empty();
    assert!(grange.stop().success());
}

#[test]
fn what_leaves_is_signed_as_dkimpy_reads_it() {
    let server = NameServer::start("");
    let site = site(&server, true, "filters = []");
    let (rsa, rsa_record) = key(&site, "example.test", "rsa", &[]);
    let (ed, ed_record) = key(&site, "example.test", "ed", &["--ed25519"]);
    let site = site.replace("filters = []", &format!(
        r#"filters = [
  {{ header = "Subject", action = {{ add_header = {{ name = "Reply-To", value = "list@example.test" }} }} }},
  {{ dkim_sign = [
    {{ domain = "example.test", selector = "rsa", key = "{rsa}" }},
    {{ domain = "example.test", selector = "ed", key = "{ed}", canonicalization = "simple/simple" }},
  ] }},
]"#
    ));
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    let records = json!({
        "rsa._domainkey.example.test": rsa_record,
        "ed._domainkey.example.test": ed_record,
    });
    let bodies = [
        "Hello\r\n",
        "",
        "trailing space \t\r\n\r\n  \r\n\r\n",
        "caf\u{e9} \u{fc}ber\r\n",
        "..a line with a dot\r\n",
    ];
    for (number, body) in bodies.iter().enumerate() {
        let message = format!(
            "From: Anna <anna@example.test>\r\nTo: carl@example.net,\r\n\tdora@example.net\r\n\
             Subject:  number  {number} \r\nReceived: by somewhere\r\nX-Odd:  value\r\n\r\n{body}"
        );
        let reply =
            send(&site, "client.example.test", "anna@example.test", "carl@example.net", &message);
        assert_eq!(reply.code, 250, "{reply:?}");
    }
    sink.wait(bodies.len());
    let received: Vec<String> = sink.received().iter().map(|one| one.data.clone()).collect();
    for message in &received {
        let found = verified(&records, &site, message);
        let signatures = found["dkim"].as_array().expect("signatures");
        assert_eq!(signatures.len(), 2, "{message}");
        assert!(signatures.iter().all(|one| one["good"] == true), "{found}\n{message}");
        assert!(message.contains("Reply-To: list@example.test"), "{message}");
        // A second author breaks both.
        let forged = format!("From: eve@evil.test\r\n{message}");
        let found = verified(&records, &site, &forged);
        let signatures = found["dkim"].as_array().expect("signatures");
        assert!(signatures.iter().all(|one| one["good"] == false), "{found}");
    }
    // Nothing but the author's domain is signed for.
    let other = plain("other", "anna@other.test");
    assert_eq!(
        send(&site, "c.example.test", "a@example.test", "carl@example.net", &other).code,
        250
    );
    sink.wait(bodies.len() + 1);
    let last = sink.received().last().expect("a message").data.clone();
    assert!(!last.contains("DKIM-Signature"), "{last}");
    assert!(grange.stop().success());
}

#[test]
fn a_forwarded_chain_stays_valid_with_our_seal() {
    let server = NameServer::start(ZONE);
    let site = site(&server, false, "filters = []");
    let (path, record) = key(&site, "good.test", "s1", &[]);
    let (seal, seal_record) = key(&site, "example.test", "arc", &[]);
    let site = site.replace("filters = []", &format!(
        r#"filters = [
  {{ authentication = {{ dmarc = "apply" }} }},
  {{ header = "Subject", action = {{ add_header = {{ name = "Reply-To", value = "list@example.test" }} }} }},
  {{ arc_seal = {{ domain = "example.test", selector = "arc", key = "{seal}" }} }},
]"#
    ));
    let signed: Value =
        serde_json::from_str(&system_python(SIGN, &[&path, &record])).expect("JSON");
    let mut records = signed["records"].clone();
    records["arc._domainkey.example.test"] = seal_record.into();
    for (name, data) in records.as_object().expect("records") {
        server.add(&format!("{name} TXT {}", data.as_str().expect("text")));
    }
    let grange = site.start();
    for (case, sets) in [("dkim-pass", 1), ("arc-pass", 2), ("arc-twice", 3)] {
        let message = signed["messages"][case].as_str().expect("text");
        let reply = send(&site, "x.test", "a@none.test", "bob@example.test", message);
        assert_eq!(reply.code, 250, "{reply:?}");
        let message = arrived(&site, case);
        let found = verified(&records, &site, &message);
        assert_eq!(
            (&found["arc"], &found["sets"]),
            (&json!("pass"), &json!(sets)),
            "{found}\n{message}"
        );
        let wanted = format!("ARC-Authentication-Results: i={sets}; mta.example.test;");
        assert!(message.contains(&wanted), "{message}");
        assert!(message.contains("dmarc=pass"), "{message}");
    }
    // A broken chain is no better for a seal of ours.
    let broken = signed["messages"]["arc-gap"].as_str().expect("text");
    let reply = send(&site, "x.test", "a@none.test", "bob@example.test", broken);
    assert_eq!(reply.code, 250, "{reply:?}");
    assert!(!arrived(&site, "arc-gap").contains("mta.example.test; iprev"));
    let id = reply.queued_as().expect("an id");
    let said = format!("not sealed id={id} filter=arc_seal why=\"the chain that came with it");
    until("the log says so", || site.log().contains(&said).then_some(()));
    assert!(grange.stop().success());
}

#[test]
fn policies_are_applied_and_nobody_speaks_in_our_name() {
    let server = NameServer::start(ZONE);
    let site = site(&server, false, r#"filters = [{ authentication = { dmarc = "apply" } }]"#);
    let grange = site.start();
    let send_from = |case: &str, sender: &str, from: &str| {
        send(&site, "mail.good.test", sender, "bob@example.test", &plain(case, from))
    };
    let refused = send_from("refused", "a@none.test", "ceo@good.test");
    assert_eq!(refused.code, 550, "{refused:?}");
    assert!(
        refused.text().starts_with("5.7.26 ") && refused.text().contains("good.test"),
        "{refused:?}"
    );
    // A second author, a display name that is an address, an encoded word: A20.
    for from in [
        "a@none.test, ceo@good.test",
        "a@none.test\r\nFrom: ceo@good.test",
        "ceo@good.test <a@none.test>",
        "=?utf-8?Q?ceo=40good.test?= a@none.test",
    ] {
        let reply = send_from("a20", "a@none.test", from);
        assert_eq!(reply.code, 550, "{from}: {reply:?}");
    }
    let held = send_from("held", "a@none.test", "a@mild.test");
    assert_eq!(held.code, 250, "{held:?}");
    let later = send_from("later", "a@none.test", "a@silent.test");
    assert_eq!(later.code, 451, "{later:?}");
    assert!(later.text().starts_with("4.7.26 "), "{later:?}");
    let queued = site.queued();
    assert_eq!(queued.len(), 1, "{queued:?}");
    let shown = site.ok(&["queue", "show", &held.queued_as().expect("an id")]);
    assert!(shown.contains("the DMARC record of mild.test"), "{shown}");

    // A24: our name, in disguise.
    let forged = "Authentication-Results: mta.example.test; dmarc=pass header.from=bank.test\r\n\
        authentication-results:\r\n (x) \"MTA.example.TEST\" 1; dkim=pass header.d=bank.test\r\n\
        Authentication-Results: other.test; dkim=pass header.d=other.test\r\n";
    let message = format!("{forged}{}", plain("forged", "a@none.test"));
    assert_eq!(send(&site, "x.test", "a@none.test", "bob@example.test", &message).code, 250);
    let message = arrived(&site, "forged");
    assert!(!message.contains("bank.test"), "{message}");
    assert!(message.contains("other.test; dkim=pass"), "{message}");
    assert!(results(&message).contains("dmarc=none header.from=none.test"), "{message}");
    assert!(grange.stop().success());
}
