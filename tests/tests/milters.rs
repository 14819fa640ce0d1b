//! Milters written with an independent library: what they hear, beside what they hear of Postfix, and what comes of what they answer.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tests::{
    Answer, Client, Heard, Milter, NameServer, Port, Postfix, Received, Reply, Sink, Site,
    free_port, until,
};

/// What a next hop offers, so that wishes for reports are handed on.
const OFFERS: &[&str] = &["PIPELINING", "8BITMIME", "SMTPUTF8", "DSN", "ENHANCEDSTATUSCODES"];

/// A site that asks a milter, whose client has a name that its address leads to and that leads back, or none.
fn site(filters: &str, dns: &NameServer) -> Site {
    let dns = format!("[dns]\nnameservers = [\"{}\"]\n", dns.address());
    Site::new().replace("filters = []", &format!("filters = [{filters}]")).append(&dns)
}

fn filter(milter: &Milter) -> String {
    format!("{{ milter = \"{}\" }}", milter.endpoint())
}

fn sink(port: &Port) -> Sink {
    Sink::offering(port.number, OFFERS, |_| Answer::Usual)
}

/// A session with all that can happen: two messages, one that is given up by RSET, one by EHLO and one by QUIT.
fn dialogue(port: u16) {
    let mut client = Client::connect(port);
    client.expect("EHLO client.example", 250);
    client.expect("MAIL FROM:<alice@example.test> BODY=8BITMIME RET=HDRS ENVID=abc", 250);
    client.expect("RCPT TO:<bob@example.net>", 250);
    client.expect("RCPT TO:<\"odd one\"@example.org> NOTIFY=NEVER", 250);
    client.expect("DATA", 354);
    let first = "Received: from x by y\r\nFrom: alice@example.test\r\nDate: Sun, 29 Nov 2026 05:00:00 +0000\r\n\
        Message-Id: <1@example.test>\r\nSubject: folded\r\n\tover two lines\r\nX-Empty:\r\nX-Tight:value\r\n\
        X-Wide:   value \r\nX-Utf8: \u{e9}\r\n\r\none\r\n..two\r\n\r\n.";
    client.expect(first, 250);
    client.expect("MAIL FROM:<>", 250);
    client.expect("RCPT TO:<carl@example.net>", 250);
    client.expect("DATA", 354);
    let second = "From: alice@example.test\r\nDate: Sun, 29 Nov 2026 05:00:00 +0000\r\n\
        Message-Id: <2@example.test>\r\n\r\n.";
    client.expect(second, 250);
    client.expect("MAIL FROM:<alice@example.test>", 250);
    client.expect("RCPT TO:<carl@example.net>", 250);
    client.expect("RSET", 250);
    client.expect("MAIL FROM:<dora@example.test>", 250);
    client.expect("RCPT TO:<carl@example.net>", 250);
    client.expect("EHLO again.example", 250);
    client.expect("MAIL FROM:<emil@example.test>", 250);
    client.expect("QUIT", 221);
}

/// All that was heard of the session in which there was mail, when it has ended.
fn heard_to_the_end(milter: &Milter) -> Vec<Heard> {
    until("the session ends", || {
        let heard = milter.heard();
        let session = heard.iter().find(|one| one.callback == "envfrom")?.session;
        let is_of_it = |one: &Heard| one.session == session && one.callback != "negotiate";
        let heard: Vec<Heard> = heard.into_iter().filter(is_of_it).collect();
        heard.iter().any(|one| one.callback == "close").then_some(heard)
    })
}

/// Macros that only Postfix has before it has taken a message: where it will go, and at which of our addresses it came.
const OF_POSTFIX: &[&str] =
    &["{mail_host}", "{mail_mailer}", "{rcpt_host}", "{rcpt_mailer}", "{daemon_addr}"];
/// Macros whose values are each MTA's own.
const OWN: &[&str] = &["j", "v", "i", "_", "{daemon_name}"];

#[test]
fn a_milter_hears_what_it_hears_of_postfix() {
    let (of_postfix, of_grange) =
        (Milter::start("every", &json!([])), Milter::start("every", &json!([])));
    let dns = NameServer::start("");
    let site = site(&filter(&of_grange), &dns);
    let sink = sink(&site.sink);
    let milters = format!("smtpd_milters = {}\n", of_postfix.endpoint());
    let postfix = Postfix::start_with(site.sink.number, &milters);
    let grange = site.start();
    dialogue(postfix.port.number);
    dialogue(site.smtp.number);
    sink.wait(4);
    site.wait_empty();
    let (wanted, found) = (heard_to_the_end(&of_postfix), heard_to_the_end(&of_grange));
    let calls = |heard: &[Heard]| -> Vec<(String, Vec<String>)> {
        let mut calls: Vec<_> =
            heard.iter().map(|one| (one.callback.clone(), one.arguments.clone())).collect();
        // Another port each time, and we may find a name.
        calls.iter_mut().filter(|call| call.0 == "connect").for_each(|call| call.1.clear());
        calls
    };
    assert_eq!(calls(&found), calls(&wanted));
    for (found, wanted) in found.iter().zip(&wanted) {
        for (name, value) in &wanted.macros {
            let ours = found.macros.get(name);
            let early = name == "i" && ["envfrom", "envrcpt"].contains(&found.callback.as_str());
            if OF_POSTFIX.contains(&name.as_str()) || early {
                continue;
            }
            let what = format!("{name} at {} {:?}", found.callback, found.arguments);
            match OWN.contains(&name.as_str()) {
                true => assert!(ours.is_some(), "{what}"),
                false => assert_eq!(ours, Some(value), "{what}"),
            }
        }
    }
    let id = found.iter().find(|one| one.callback == "eom").and_then(|one| one.macros.get("i"));
    let id = id.expect("the message has a name");
    assert!(sink.received().iter().any(|one| one.data.contains(&format!(" id {id}"))), "{id}");
    assert!(grange.stop().success());
}

#[test]
fn a_milter_hears_who_the_client_is() {
    let wishes = json!([["negotiate", "", [["setsymlist", 2, "{client_name} {daemon_name}"]]]]);
    let (usual, wishing) =
        (Milter::start_tcp("usual", &json!([])), Milter::start("wishing", &wishes));
    let dns = NameServer::start(
        "1.0.0.127.in-addr.arpa PTR client.example.test\nclient.example.test A 127.0.0.1",
    );
    let site = site(&format!("{}, {}", filter(&usual), filter(&wishing)), &dns);
    let grange = site.start();
    let mut client = Client::ready(site.smtp.number);
    client.expect("MAIL FROM:<alice@example.test>", 250);
    client.expect("RCPT TO:<bob@example.test>", 250);
    client.expect("QUIT", 221);
    let heard = heard_to_the_end(&usual);
    let callback = |name| heard.iter().find(|one| one.callback == name).expect("it is heard");
    let connect = callback("connect");
    // The machine's own table may know another.
    let name = connect.arguments[0].as_str();
    assert!(!name.starts_with('[') && name != "unknown", "{name}");
    let (address, port): (String, u16) =
        serde_json::from_str(&connect.arguments[1]).expect("an address and a port");
    assert_eq!(address, "127.0.0.1");
    let port = port.to_string();
    let known = [
        ("j", "mta.example.test"),
        ("_", &format!("{name} [127.0.0.1]")),
        ("{daemon_name}", "mx"),
        ("{client_addr}", "127.0.0.1"),
        ("{client_name}", name),
        ("{client_ptr}", name),
        ("{client_port}", &port),
    ];
    for (name, value) in known {
        assert_eq!(connect.macros.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(connect.macros["v"].starts_with("Grange "), "{connect:?}");
    let mail = callback("envfrom");
    assert_eq!(mail.macros["{mail_addr}"], "alice@example.test");
    assert_eq!(callback("envrcpt").macros["{rcpt_addr}"], "bob@example.test");
    assert_eq!(callback("hello").arguments, ["client.example"]);
    // Who says what it wants with MAIL is sent that, and no other.
    let of_wishing = heard_to_the_end(&wishing);
    let mail = of_wishing.iter().find(|one| one.callback == "envfrom").expect("it is heard");
    assert_eq!(mail.macros["{client_name}"], name);
    assert!(!mail.macros.contains_key("{mail_addr}"), "{mail:?}");
    assert!(grange.stop().success());
}

/// Orders for the end of a message, which Postfix and we follow in the same way.
fn changes() -> Vec<Value> {
    let all = json!([
        [],
        [["addheader", "X-New", "value"]],
        [["addheader", "X-New", "folded\n\tvalue"]],
        [["addheader", "X-New", "value", 0]],
        [["addheader", "X-New", "value", 1]],
        [["addheader", "X-New", "value", 2]],
        [["addheader", "X-New", "value", 100]],
        [["addheader", "X-New", "one", 0], ["addheader", "X-New", "two", 0]],
        [["chgheader", "X-Two", 2, "other"]],
        [["chgheader", "X-Two", 1, ""]],
        [["chgheader", "X-Two", 5, "five"]],
        [["chgheader", "X-None", 1, "made"]],
        [["chgheader", "X-None", 1, ""]],
        [["chgheader", "Received", 1, "changed"]],
        [["chgheader", "x-two", 1, ""], ["chgheader", "x-two", 1, "was second"]],
        [["addheader", "X-Two", "third"], ["chgheader", "X-Two", 3, "third changed"]],
        [["addheader", "X-Two", "zeroth", 0], ["chgheader", "X-Two", 1, "first now"]],
        [["replacebody", "new\r\n"], ["replacebody", "body\r\n"]],
        [["replacebody", "bare\nlines\r\n.dot\r\n"]],
        [["replacebody", "no line end"]],
        [["replacebody", ""]],
        [["chgfrom", "<new@example.test>"]],
        [["chgfrom", "<>"]],
        [["chgfrom", "<new@example.test>", "RET=HDRS ENVID=abc"]],
        [["addrcpt", "<emil@example.net>"]],
        [["addrcpt", "<emil@example.net>", "NOTIFY=NEVER"]],
        [["delrcpt", "<dora@example.net>"]],
        [["delrcpt", "<DORA@example.net>"]],
        [["delrcpt", "<nobody@example.net>"]],
        [["delrcpt", "<dora@example.net>"], ["addrcpt", "<emil@example.net>"]],
        [["delrcpt", "<dora@example.net>"], ["delrcpt", "<carl@example.net>"]],
        [["progress"], ["progress"], ["addheader", "X-New", "value"]],
        [["reply", "550", "5.7.9", "one", "two", "three"], ["return", "REJECT"]],
        [["reply", "451", "4.7.9", "later"], ["return", "TEMPFAIL"]],
        [["return", "REJECT"]],
        [["return", "TEMPFAIL"]],
        [["return", "DISCARD"]],
        [["return", "ACCEPT"]],
        [["addheader", "X-New", "value"], ["return", "ACCEPT"]]
    ]);
    all.as_array().cloned().expect("a list")
}

/// Sends a message with these orders to two recipients.
fn ordered(port: u16, subject: &str, orders: &Value) -> Reply {
    let message = format!(
        "Received: from x by y\r\nFrom: alice@example.test\r\nDate: Sun, 29 Nov 2026 05:00:00 +0000\r\n\
         Message-Id: <m@example.test>\r\nX-Two: first\r\nSubject: {subject}\r\nX-Two: second\r\n\
         X-Do-every: {orders}\r\n\r\none\r\ntwo"
    );
    let mut client = Client::ready(port);
    let recipients = ["carl@example.net", "dora@example.net"];
    client.message("alice@example.test", &recipients, &message).expect("a reply")
}

/// What arrived, without what is different with each MTA: the sender, the recipients with what reports they want, the message.
fn essence(received: &[Received], subject: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let wanted = format!("\r\nSubject: {subject}\r\n");
    let mine: Vec<&Received> = received.iter().filter(|one| one.data.contains(&wanted)).collect();
    let recipient = |text: &String| {
        let words = text.split(' ').filter(|word| !word.starts_with("ORCPT="));
        words.collect::<Vec<&str>>().join(" ")
    };
    let recipients: Vec<String> =
        mine.iter().flat_map(|one| one.recipients.iter().map(recipient)).collect();
    let set: BTreeSet<String> = recipients.iter().cloned().collect();
    assert_eq!(set.len(), recipients.len(), "each once: {recipients:?}");
    let text = |one: &&Received| {
        let sender = one.sender.split(' ').next().unwrap_or_default();
        format!("{sender}\r\n{}", without_ours(&one.data))
    };
    (mine.iter().map(text).collect(), set)
}

/// A message with a mark for the Received field of whoever took it from our client.
fn without_ours(message: &str) -> String {
    let start = message.find("Received: from client.example ").expect("it was received");
    let (before, rest) = message.split_at(start);
    let mut lines = rest.split_inclusive('\n').skip(1);
    let rest: String = lines.by_ref().skip_while(|line| line.starts_with('\t')).collect();
    format!("{before}Received: here\r\n{rest}")
}

#[test]
fn each_change_arrives_as_from_postfix() {
    let (of_postfix, of_grange) =
        (Milter::start("every", &json!([])), Milter::start_tcp("every", &json!([])));
    let dns = NameServer::start("");
    let site = site(&filter(&of_grange), &dns);
    let elsewhere = free_port();
    let (from_grange, from_postfix) = (sink(&site.sink), sink(&elsewhere));
    let milters = format!("smtpd_milters = {}\n", of_postfix.endpoint());
    let postfix = Postfix::start_with(elsewhere.number, &milters);
    let grange = site.start();
    let mut arriving = Vec::new();
    for (number, orders) in changes().iter().enumerate() {
        let subject = format!("case {number}");
        let wanted = ordered(postfix.port.number, &subject, orders);
        let found = ordered(site.smtp.number, &subject, orders);
        assert_eq!(found.code, wanted.code, "{orders}: {found:?} {wanted:?}");
        let words = orders.to_string();
        if words.contains("reply") {
            assert_eq!(found, wanted, "{orders}");
        }
        if found.code == 250 && !words.contains("DISCARD") && !words.contains("carl") {
            arriving.push((subject, orders.clone()));
        }
    }
    let arrives = |sink: &Sink, subject: &str| {
        until(&format!("{subject} arrives"), || {
            let found = essence(&sink.received(), subject);
            (!found.1.is_empty()).then_some(())
        });
    };
    for (subject, orders) in &arriving {
        arrives(&from_postfix, subject);
        arrives(&from_grange, subject);
        // Recipients may come one by one.
        until(&format!("{orders} arrives whole"), || {
            let wanted = essence(&from_postfix.received(), subject);
            (wanted.1.len() == essence(&from_grange.received(), subject).1.len()).then_some(())
        });
        let (wanted, found) =
            (essence(&from_postfix.received(), subject), essence(&from_grange.received(), subject));
        assert_eq!(found, wanted, "{orders}");
    }
    site.wait_empty();
    let subjects = |sink: &Sink| -> BTreeSet<String> {
        let received = sink.received();
        let line = |one: &Received| {
            let mut lines = one.data.lines();
            lines.find(|line| line.starts_with("Subject: ")).map(str::to_owned)
        };
        received.iter().filter_map(line).collect()
    };
    assert_eq!(subjects(&from_grange).len(), arriving.len(), "and nothing else arrives");
    assert!(grange.stop().success());
}

#[test]
fn what_postfix_does_otherwise() {
    let milter = Milter::start("every", &json!([]));
    let dns = NameServer::start("");
    let site = site(&filter(&milter), &dns);
    let sink = sink(&site.sink);
    let grange = site.start();
    // A recipient who is there already does not get it twice.
    let twice = json!([["addrcpt", "<carl@example.net>"]]);
    assert_eq!(ordered(site.smtp.number, "twice", &twice).code, 250);
    // Nothing that a milter says begins a line that it is not to begin.
    let smuggled = json!([["addheader", "X-Bad", "a\r\nX-Smuggled: yes\n\nbody\rX-More: yes"]]);
    let reply = ordered(site.smtp.number, "smuggled", &smuggled);
    assert!([250, 451].contains(&reply.code), "{reply:?}");
    let held = ordered(site.smtp.number, "held", &json!([["quarantine", "it smells"]]));
    assert_eq!(held.code, 250, "{held:?}");
    until("the one arrives", || (essence(&sink.received(), "twice").1.len() == 2).then_some(()));
    let shown = site.ok(&["quarantine", "show", &held.queued_as().expect("an id")]);
    assert!(shown.contains("it smells"), "{shown}");
    site.ok(&["quarantine", "release", &held.queued_as().expect("an id")]);
    site.wait_empty();
    assert_eq!(essence(&sink.received(), "held").1.len(), 2);
    for one in sink.received().iter() {
        assert!(!one.data.replace("\r\n", "").contains(['\r', '\n']), "{one:?}");
        assert!(
            !one.data.contains("\r\nX-Smuggled") && !one.data.contains("\r\nX-More"),
            "{one:?}"
        );
        assert!(one.data.ends_with("\r\n\r\none\r\ntwo\r\n"), "{one:?}");
    }
    assert!(grange.stop().success());
}
