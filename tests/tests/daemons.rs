//! Debian's rspamd, OpenDKIM and OpenDMARC as filters, set up as docs/filters.md says.
#![allow(clippy::indexing_slicing, reason = "a JSON value without the key gives null")]

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tests::{
    Block, Client, Daemon, NameServer, Reply, Site, blocks, find, give, run, system_python, until,
};

/// Signs a message with dkimpy. Arguments: the key's file, the message's.
const SIGN: &str = "
import dkim, sys
key, message = (open(name, 'rb').read() for name in sys.argv[1:3])
signature = dkim.sign(message, b'2026a', b'example.org', key, canonicalize=(b'relaxed', b'relaxed'))
print((signature + message).decode(), end='')
";
const VERIFY: &str = include_str!("authentication/verify.py");

/// What rspamd refuses, marks, and gives another subject.
const GTUBE: &str = "XJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X";
const GTUBE_MARKED: &str = "YJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X";
const GTUBE_REWRITTEN: &str =
    "ZJS*C4JDBQADN1.NSBN3*2IDNEN*GTUBE-STANDARD-ANTI-UBE-TEST-EMAIL*C.34X";

/// The blocks of a section of docs/filters.md.
fn section(name: &str) -> Vec<Block> {
    let found: Vec<Block> =
        blocks("filters.md").into_iter().filter(|block| block.section == name).collect();
    assert!(!found.is_empty(), "docs/filters.md has no blocks in {name}");
    found
}

/// The block that begins with the name of this file.
fn file(blocks: &[Block], name: &str) -> String {
    let line = format!("# {name}\n");
    let mut texts = blocks.iter().map(|block| &block.text);
    texts.find(|text| text.starts_with(&line)).unwrap_or_else(|| panic!("no {name}")).clone()
}

/// The lines of grange.toml.
fn toml(blocks: &[Block]) -> String {
    let found: Vec<&Block> = blocks.iter().filter(|block| block.language == "toml").collect();
    assert_eq!(found.len(), 1, "{blocks:?}");
    found.iter().map(|block| block.text.as_str()).collect()
}

/// Replaces what must be there.
fn change(text: String, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} is not in\n{text}");
    text.replace(from, to)
}

fn endpoint(socket: &Path) -> String {
    format!("unix:{}", socket.display())
}

/// A site with these lines of grange.toml.
fn site(toml: &str) -> Site {
    Site::new().replace("[contentfilter]\nfilters = []\n", toml)
}

fn message(subject: &str, from: &str, body: &str) -> String {
    format!(
        "From: {from}\r\nTo: bob@example.test\r\nSubject: {subject}\r\nDate: Sun, 29 Nov 2026 05:00:00 +0000\r\n\
         Message-ID: <{subject}@example.test>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=us-ascii\r\n\r\n{body}\r\n"
    )
}

fn send(port: u16, sender: &str, message: &str) -> Reply {
    let mut client = Client::ready(port);
    let message = message.strip_suffix("\r\n").unwrap_or(message);
    client.message(sender, &["bob@example.test"], message).expect("a reply")
}

/// The one message in bob's mailbox with this subject, in CRLF lines.
fn arrived(site: &Site, subject: &str) -> String {
    let wanted = format!("Subject: {subject}\n");
    until("the message arrives", || {
        let mailbox = site.mailbox("example.test", "bob");
        let texts = mailbox.into_iter().map(|text| text.replace("\r\n", "\n"));
        let mut found = texts.filter(|text| text.contains(&wanted));
        found.next().map(|text| text.replace('\n', "\r\n"))
    })
}

/// Whether dkimpy takes the signatures of a message for good.
fn signatures(site: &Site, record: (&str, &str), message: &str) -> Vec<bool> {
    let path = site.path("message");
    std::fs::write(&path, message).expect("a file of the site");
    let records = json!({ record.0: record.1 }).to_string();
    let output = system_python(VERIFY, &[&records, &path.display().to_string()]);
    let found: serde_json::Value = serde_json::from_str(&output).expect("JSON");
    let signatures = found["dkim"].as_array().expect("signatures");
    signatures.iter().map(|one| one["good"] == true).collect()
}

#[test]
fn each_block_of_the_page_is_a_configuration() {
    let blocks: Vec<Block> =
        blocks("filters.md").into_iter().filter(|block| block.language == "toml").collect();
    assert!(blocks.len() >= 6, "{blocks:?}");
    for block in blocks {
        let site = Site::new();
        let key = site.path("key.pem").display().to_string();
        site.ok(&["keys", "dkim", "example.org", "2026a", "--out", &key]);
        let text = block.text.replace("/etc/grange/dkim/example.org.2026a.pem", &key);
        let site = site.replace("[contentfilter]\nfilters = []\n", &text);
        let output = site.run(&["check"]);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {told}", block.section);
    }
}

#[test]
fn rspamd_refuses_marks_and_passes() {
    let blocks = section("rspamd");
    let mut rspamd = Daemon::new("");
    let user = "_rspamd:_rspamd";
    for folder in ["/var/lib/rspamd", "/var/log/rspamd"] {
        rspamd.folder(folder, user);
    }
    let socket = rspamd.folder("/run/rspamd", user).join("milter.sock");
    let local = rspamd.folder("/etc/rspamd/local.d", user);
    for name in ["worker-proxy.inc", "worker-normal.inc", "milter_headers.conf"] {
        let text = file(&blocks, &format!("/etc/rspamd/local.d/{name}"));
        std::fs::write(local.join(name), text).expect("written");
    }
    // What is not as the page has it: sockets of its own, headers for a client of 127.0.0.1, and more to test with.
    let more = rspamd.folder("/etc/rspamd/override.d", user);
    for (name, text) in [
        ("worker-proxy.inc", "bind_socket = \"/run/rspamd/milter.sock mode=0666\";\n"),
        ("worker-controller.inc", "bind_socket = \"/run/rspamd/controller.sock\";\n"),
        ("milter_headers.conf", "skip_local = false;\n"),
        ("options.inc", "enable_test_patterns = true;\n"),
    ] {
        std::fs::write(more.join(name), text).expect("written");
    }
    let arguments = ["-f", "-c", "/etc/rspamd/rspamd.conf", "-u", "_rspamd", "-g", "_rspamd"];
    rspamd.start("rspamd", &arguments, &socket);

    let site = site(&change(toml(&blocks), "inet:127.0.0.1:11332", &endpoint(&socket)));
    let grange = site.start();
    let send = |subject: &str, body: &str| {
        send(site.smtp.number, "anna@example.org", &message(subject, "anna@example.org", body))
    };
    let refused = send("refused", GTUBE);
    assert_eq!((refused.code, refused.text().as_str()), (554, "5.7.1 Gtube pattern"));
    assert!(site.queued().is_empty(), "what was refused is nowhere");
    assert_eq!(send("innocent", "Shall we meet at noon?").code, 250);
    let innocent = arrived(&site, "innocent");
    assert!(innocent.contains("X-Rspamd-Action: no action\r\n"), "{innocent}");
    assert!(innocent.contains("\r\nX-Spamd-Result: default: False ["), "{innocent}");
    assert!(innocent.ends_with("\r\n\r\nShall we meet at noon?\r\n"), "{innocent}");
    assert_eq!(send("marked", GTUBE_MARKED).code, 250);
    let marked = arrived(&site, "marked");
    assert!(marked.contains("X-Spam: Yes\r\n"), "{marked}");
    assert_eq!(send("rewritten", GTUBE_REWRITTEN).code, 250);
    arrived(&site, "*** SPAM *** rewritten");
    site.wait_empty();
    assert_eq!(site.mailbox("example.test", "bob").len(), 3);
    assert!(grange.stop().success());
}

/// A daemon, where its socket is for us, and the record of its key.
struct OpenDkim {
    _daemon: Daemon,
    socket: PathBuf,
    key: PathBuf,
    record: String,
}

/// An OpenDKIM with a key, as the page says, in a network that knows the zone; `edit` changes its configuration.
fn opendkim(zone: &str, edit: impl Fn(String) -> String) -> OpenDkim {
    let blocks = section("OpenDKIM");
    let mut daemon = Daemon::new(zone);
    let keys = daemon.folder("/etc/dkimkeys", "opendkim:opendkim");
    let made = run(Command::new(find("opendkim-genkey"))
        .args(["--bits=2048", "--domain=example.org", "--selector=2026a", "--directory"])
        .arg(&keys));
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let text = std::fs::read_to_string(keys.join("2026a.txt")).expect("a record");
    let record: String = text.split('"').skip(1).step_by(2).collect();
    let key = keys.join("2026a.private");
    give(&key, "opendkim:opendkim");
    // Our workers are in no group of its.
    let text = change(file(&blocks, "/etc/opendkim.conf"), "UMask             007", "UMask 000");
    daemon.write("/etc/opendkim.conf", &edit(text));
    daemon.dns.add(&format!("2026a._domainkey.example.org TXT {record}"));
    let socket = daemon.folder("/run/opendkim", "opendkim:opendkim").join("opendkim.sock");
    daemon.start("opendkim", &["-f", "-x", "/etc/opendkim.conf"], &socket);
    OpenDkim { _daemon: daemon, socket, key, record }
}

#[test]
fn opendkim_signs_as_dkimpy_reads_it() {
    let opendkim = opendkim("", |text| text);
    let toml = toml(&section("OpenDKIM"));
    let toml = change(toml, "unix:/run/opendkim/opendkim.sock", &endpoint(&opendkim.socket));
    let site = site(&toml);
    let grange = site.start();
    for (subject, body) in
        [("signed", "Hello"), ("folded\r\n\tsubject", "caf\u{e9}  \r\n\r\n..dots\r\n\r\n")]
    {
        let reply =
            send(site.smtp.number, "anna@example.org", &message(subject, "anna@example.org", body));
        assert_eq!(reply.code, 250, "{reply:?}");
        let arrived = arrived(&site, &subject.replace("\r\n", "\n"));
        let record = ("2026a._domainkey.example.org", opendkim.record.as_str());
        let unwrapped = unwrapped(&arrived);
        assert_eq!(signatures(&site, record, &unwrapped), [true], "{arrived}");
        let forged = unwrapped.replace("Subject: ", "Subject: not ");
        assert_eq!(signatures(&site, record, &forged), [false], "{arrived}");
    }
    // Nobody's domain is signed for.
    let reply =
        send(site.smtp.number, "anna@example.net", &message("other", "anna@example.net", "Hello"));
    assert_eq!(reply.code, 250, "{reply:?}");
    assert!(!arrived(&site, "other").contains("DKIM-Signature"));
    assert!(grange.stop().success());
}

/// A message of a mailbox as it was before it was put there: without what the mailbox adds at its top.
fn unwrapped(message: &str) -> String {
    let is_ours =
        |line: &&str| line.starts_with("Return-Path:") || line.starts_with("Delivered-To:");
    message.split_inclusive('\n').skip_while(is_ours).collect()
}

#[test]
fn opendkim_says_what_signatures_of_others_are_worth() {
    // The test's client is a stranger, and there is one name server alone.
    let opendkim = opendkim("", |text| {
        change(text, "127.0.0.1,192.0.2.0/24", "192.0.2.0/24") + "Nameservers 127.0.0.1\n"
    });
    let toml = toml(&section("OpenDKIM"));
    let toml = change(toml, "unix:/run/opendkim/opendkim.sock", &endpoint(&opendkim.socket));
    let site = site(&toml);
    let grange = site.start();
    let plain = site.path("plain");
    for (subject, said) in
        [("good", "dkim=pass"), ("changed", "dkim=fail"), ("unsigned", "dkim=none")]
    {
        let text = message(subject, "anna@example.org", "Hello");
        std::fs::write(&plain, &text).expect("written");
        let signed = || {
            let key = opendkim.key.display().to_string();
            system_python(SIGN, &[&key, &plain.display().to_string()])
        };
        let text = match subject {
            "good" => signed(),
            "changed" => signed().replace("Hello", "Goodbye"),
            _ => text,
        };
        let reply = send(site.smtp.number, "anna@example.org", &text);
        assert_eq!(reply.code, 250, "{reply:?}");
        let arrived = arrived(&site, subject);
        let results = results_of(&arrived);
        match subject {
            "unsigned" => assert_eq!(results, "", "{arrived}"),
            _ => {
                let wanted = "Authentication-Results: mta.example.test;";
                assert!(results.starts_with(wanted) && results.contains(said), "{arrived}");
            }
        }
        let signatures = arrived.matches("DKIM-Signature:").count();
        assert_eq!(signatures, usize::from(subject != "unsigned"), "nothing is signed: {arrived}");
    }
    assert!(grange.stop().success());
}

/// The Authentication-Results fields, unfolded.
fn results_of(message: &str) -> String {
    let unfolded = message.replace("\r\n\t", " ").replace("\r\n ", " ");
    let lines = unfolded.lines().filter(|line| line.starts_with("Authentication-Results: "));
    lines.collect::<Vec<&str>>().join("\n")
}

/// What OpenDMARC and whoever looks before it are asked about. The client is 127.0.0.1.
const ZONE: &str = "
    good.test TXT v=spf1 ip4:127.0.0.1 -all
    mild.test TXT v=spf1 ip4:192.0.2.1 -all
    other.test TXT v=spf1 ip4:127.0.0.1 -all
    strict.test TXT v=spf1 ip4:192.0.2.1 -all
    _dmarc.good.test TXT v=DMARC1; p=reject
    _dmarc.strict.test TXT v=DMARC1; p=reject
    _dmarc.mild.test TXT v=DMARC1; p=none
";

/// An OpenDMARC as the page says, which looks at mail of the test's client; `more` is added to its configuration.
fn opendmarc(more: &str) -> (Daemon, PathBuf) {
    let blocks = section("OpenDMARC");
    let mut daemon = Daemon::new(ZONE);
    // Debian has no folder for it.
    let ignored = daemon.path("ignore.hosts");
    let text = file(&blocks, "/etc/opendmarc/ignore.hosts");
    std::fs::write(&ignored, change(text, "127.0.0.1\n", "")).expect("written");
    let text = file(&blocks, "/etc/opendmarc.conf");
    let text = change(text, "/etc/opendmarc/ignore.hosts", &ignored.display().to_string());
    let text = change(text, "mx.example.org", "mta.example.test");
    // Our workers are in no group of its.
    let text = change(text, "UMask               0002", "UMask 0000");
    daemon.write("/etc/opendmarc.conf", &(text + more));
    let socket = daemon.folder("/run/opendmarc", "opendmarc:opendmarc").join("opendmarc.sock");
    daemon.start("opendmarc", &["-f", "-c", "/etc/opendmarc.conf"], &socket);
    (daemon, socket)
}

/// Who sends, who is its author, and what comes of it: what OpenDMARC says, or nothing where it refuses.
type Case = (&'static str, &'static str, &'static str, Option<&'static str>);

const DMARC: &[Case] = &[
    ("dmarc-pass", "anna@good.test", "anna@good.test", Some("dmarc=pass")),
    ("dmarc-foreign", "eve@other.test", "anna@good.test", None),
    ("dmarc-none", "anna@other.test", "anna@other.test", Some("dmarc=none")),
];

/// OpenDMARC itself takes whatever comes from 127.0.0.1 for SPF's pass.
const BY_SPF: &[Case] = &[
    ("spf-fail", "anna@strict.test", "anna@strict.test", None),
    ("spf-mild", "anna@mild.test", "anna@mild.test", Some("dmarc=fail")),
];

fn dmarc_is_applied(site: &Site, cases: &[&Case]) {
    for (subject, sender, from, said) in cases {
        let reply = send(site.smtp.number, sender, &message(subject, from, "Hello"));
        let Some(said) = said else {
            assert_eq!(reply.code, 550, "{subject}: {reply:?}");
            let domain = from.split('@').nth(1).expect("a domain");
            assert_eq!(reply.text(), format!("5.7.1 rejected by DMARC policy for {domain}"));
            continue;
        };
        assert_eq!(reply.code, 250, "{subject}: {reply:?}");
        let arrived = arrived(site, subject);
        let results = results_of(&arrived);
        assert!(results.lines().any(|line| line.contains(&format!("test; {said}"))), "{arrived}");
    }
    site.wait_empty();
    let taken = cases.iter().filter(|case| case.3.is_some()).count();
    assert_eq!(site.mailbox("example.test", "bob").len(), taken, "nothing else is there");
}

#[test]
fn opendmarc_believes_our_authentication_results() {
    let (_daemon, socket) = opendmarc("");
    let server = NameServer::start(ZONE);
    let toml = toml(&section("OpenDMARC"));
    let toml = change(toml, "unix:/run/opendmarc/opendmarc.sock", &endpoint(&socket));
    let dns = format!("[dns]\nnameservers = [\"{}\"]\n", server.address());
    let site = site(&toml).replace("\"127.0.0.0/8\", \"::1/128\"", "\"192.0.2.0/24\"").append(&dns);
    let grange = site.start();
    dmarc_is_applied(&site, &DMARC.iter().chain(BY_SPF).collect::<Vec<&Case>>());
    assert!(grange.stop().success());
}

#[test]
fn opendmarc_looks_itself_behind_opendkim() {
    let opendkim = opendkim(ZONE, |text| {
        change(text, "127.0.0.1,192.0.2.0/24", "192.0.2.0/24") + "AuthservID mta.example.test\n"
    });
    let (_daemon, opendmarc) = opendmarc("SPFSelfValidate true\n");
    let filter = |socket: &Path| format!("{{ milter = \"{}\" }}", endpoint(socket));
    let filters = format!("filters = [{}, {}]", filter(&opendkim.socket), filter(&opendmarc));
    let site = Site::new().replace("filters = []", &filters);
    let grange = site.start();
    dmarc_is_applied(&site, &DMARC.iter().collect::<Vec<&Case>>());
    assert!(grange.stop().success());
}
