//! SPF: the test suite of RFC 7208 as openspf.org published it and Debian's python3-spf brings it, and attacks.

use std::process::Command;

use serde_json::Value;

use super::*;
use crate::zone::{Zone, run};

fn result(zone: &Zone, client: &str, sender: &str, helo: &str) -> SpfResult {
    let (local_part, domain) = sender.rsplit_once('@').unwrap_or(("", helo));
    let client = client.parse().unwrap();
    run(check(&SpfQuery { client, domain, local_part, helo }, zone))
}

#[test]
fn the_suite_of_rfc_7208_holds() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/spf/suite.py");
    // Debian's, which has the packages.
    let printed = Command::new("/usr/bin/python3").arg(script).output().expect("python3 runs");
    let complaint = String::from_utf8_lossy(&printed.stderr);
    assert!(printed.status.success(), "Debian's python3-spf and python3-yaml: {complaint}");
    let suite: Value = serde_json::from_slice(&printed.stdout).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut wrong = Vec::new();
    let mut passed = 0;
    for scenario in suite.as_array().unwrap() {
        let mut zone = Zone::default();
        for record in scenario["zone"].as_array().unwrap() {
            // In the suite's records each character stands for a byte.
            let data: Vec<u8> = text(&record[2]).chars().map(|one| one as u32 as u8).collect();
            zone.add_bytes(&text(&record[0]), &text(&record[1]), &data);
        }
        for test in scenario["tests"].as_array().unwrap() {
            let (client, sender) = (text(&test["client"]), text(&test["sender"]));
            let found = result(&zone, &client, &sender, &text(&test["helo"])).name();
            let expected = test["result"].as_array().unwrap();
            if expected.iter().any(|one| one == found) {
                passed += 1;
            } else {
                wrong.push(format!("{}: {found}, not {expected:?}", test["name"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(passed > 150, "only {passed} tests");
}

#[test]
fn each_result_comes() {
    let zone = Zone::of(
        "
        pass.test TXT v=spf1 ip4:192.0.2.1 -all
        soft.test TXT v=spf1 ~all
        neutral.test TXT v=spf1 ?all
        none.test TXT some text
        broken.test TXT v=spf1 ip4:192.0.2.1/33 -all
        two.test TXT v=spf1 -all
        two.test TXT v=spf1 +all
        slow.test * !timeout
        asks.test TXT v=spf1 a:slow.test -all
        ",
    );
    for (domain, client, expected) in [
        ("pass.test", "192.0.2.1", "pass"),
        ("pass.test", "::ffff:192.0.2.1", "pass"),
        ("pass.test", "192.0.2.2", "fail"),
        ("PASS.test.", "192.0.2.1", "pass"),
        ("soft.test", "192.0.2.1", "softfail"),
        ("neutral.test", "192.0.2.1", "neutral"),
        ("none.test", "192.0.2.1", "none"),
        ("missing.test", "192.0.2.1", "none"),
        ("broken.test", "192.0.2.1", "permerror"),
        ("two.test", "192.0.2.1", "permerror"),
        ("slow.test", "192.0.2.1", "temperror"),
        ("asks.test", "192.0.2.1", "temperror"),
        ("", "192.0.2.1", "none"),
        ("localhost", "192.0.2.1", "none"),
    ] {
        let found = result(&zone, client, &format!("a@{domain}"), "helo.test");
        assert_eq!(found.name(), expected, "{domain} {client}");
    }
}

#[test]
fn a23_bombs_and_loops_end_within_the_limits() {
    let mut zone = Zone::of(
        "
        loop.test TXT v=spf1 include:loop.test -all
        ring.test TXT v=spf1 redirect=ring2.test
        ring2.test TXT v=spf1 redirect=ring.test
        void.test TXT v=spf1 a:no1.test a:no2.test a:no3.test +all
        macros.test TXT v=spf1 exists:%{S128R+-}%{L99r}%{h}%{i}.%{d}.%{d}.%{d}.test +all
        names.test TXT v=spf1 ptr:names.test -all
        many.test TXT v=spf1 mx -all
        helo.test TXT v=spf1 ptr +all
        1.2.0.192.in-addr.arpa PTR victim.names.test
        ",
    );
    let terms: Vec<String> = (0..11).map(|number| format!("a:h{number}.test")).collect();
    zone.add("eleven.test", "TXT", &format!("v=spf1 {} +all", terms.join(" ")));
    // A tree: each level asks twice for the next.
    for level in 0..20 {
        let next = level + 1;
        let record = format!("v=spf1 include:t{next}.test include:t{next}.test ?all");
        zone.add(&format!("t{level}.test"), "TXT", &record);
    }
    for number in 0..11 {
        zone.add(&format!("h{number}.test"), "A", "198.51.100.1");
        zone.add("many.test", "MX", &format!("{number} h{number}.test"));
    }
    for number in 0..200 {
        zone.add("9.2.0.192.in-addr.arpa", "PTR", &format!("p{number}.test"));
    }
    for (domain, client, expected) in [
        ("loop.test", "192.0.2.1", "permerror"),
        ("ring.test", "192.0.2.1", "permerror"),
        ("t0.test", "192.0.2.1", "permerror"),
        ("void.test", "192.0.2.1", "permerror"),
        ("eleven.test", "192.0.2.1", "permerror"),
        ("many.test", "192.0.2.1", "permerror"),
        // Whoever owns the address may call it what they like: without a way back the name counts for nothing.
        ("names.test", "192.0.2.1", "fail"),
        ("names.test", "192.0.2.9", "fail"),
    ] {
        let before = zone.questions();
        assert_eq!(
            result(&zone, client, &format!("a@{domain}"), "x.test").name(),
            expected,
            "{domain}"
        );
        let asked = zone.questions() - before;
        assert!(asked <= 40, "{domain}: {asked} questions");
    }
    let long = format!("{}@macros.test", "a-b+c".repeat(5000));
    result(&zone, "192.0.2.1", &long, &"h".repeat(5000));
}

#[test]
fn a23_any_text_as_record_is_answered() {
    for record in [
        "v=spf1 a:%",
        "v=spf1 a:%{",
        "v=spf1 a:%{}",
        "v=spf1 a:%{x}",
        "v=spf1 a:%{d0}",
        "v=spf1 a:%{d99999999999999999999}",
        "v=spf1 a/",
        "v=spf1 a//",
        "v=spf1 a/33",
        "v=spf1 a//129",
        "v=spf1 a:",
        "v=spf1 ip4",
        "v=spf1 ip4:",
        "v=spf1 ip6:::::",
        "v=spf1 =",
        "v=spf1 redirect=",
        "v=spf1 exp=",
        "v=spf1 include",
        "v=spf1 all:x",
        "v=spf1 \u{e9}",
        "v=spf1 +",
        "v=spf1 -",
        "v=spf1 a:%{d}\u{0}",
        "v=spf1 exists:\u{7f}.test",
        "v=spf1 ptr/8",
        "v=spf1 -all -",
        "v=spf1 x=%{",
        "v=spf1 a:%%%",
    ] {
        let mut zone = Zone::default();
        zone.add("x.test", "TXT", record);
        let found = result(&zone, "192.0.2.1", "a@x.test", "h.test");
        let lenient = record.contains("%{d9999");
        assert!(lenient || found == SpfResult::PermError, "{record:?}: {found:?}");
    }
}
