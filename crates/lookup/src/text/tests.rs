//! The text of tables, good and bad.

use proptest::prelude::*;

use super::*;

fn show(text: &str) -> Result<Vec<String>, LineError> {
    let content = parse(text, Kind::Aliases)?;
    let mut shown: Vec<_> = content
        .entries
        .iter()
        .map(|(key, entry)| {
            let targets: Vec<String> = entry.targets.iter().map(Target::to_string).collect();
            format!("{}|{key}|{}", entry.line, targets.join("|"))
        })
        .collect();
    shown.sort();
    Ok(shown)
}

fn check(text: &str, expected: &[&str]) {
    assert_eq!(show(text).expect("well-formed"), expected, "{text:?}");
}

fn check_error(text: &str, line: usize, wrong: &str) {
    let (at, what) = show(text).expect_err("malformed");
    assert_eq!(at, line, "{text:?}: {what}");
    assert!(what.contains(wrong), "{text:?}: {what:?} should say {wrong:?}");
}

#[test]
fn reads_entries() {
    check("", &[]);
    check("# nothing\n\n   \t\n  # nothing either\n", &[]);
    check("info: anna", &["1|info|anna"]);
    check("Info :anna\r\n", &["1|info|anna"]);
    check("info:anna,berta , carl,\n", &["1|info|anna|berta|carl"]);
    check("info:\n anna,\n# between\n\n\tberta\nb: c\n", &["1|info|anna|berta", "6|b|c"]);
    check(
        "info@example.test  anna@example.org, berta",
        &["1|info@example.test|anna@example.org|berta"],
    );
    check("a@[IPv6:2001:db8::1]: b", &["1|a@[ipv6:2001:db8::1]|b"]);
    check("\"a b\": \"c, d\"@example.test, e", &["1|\"a b\"|\"c, d\"@example.test|e"]);
    check("\"anna\"@example.test: b", &["1|anna@example.test|b"]);
    check("@example.test: anna", &["1|@example.test|anna"]);
    check("jörg: anna", &["1|jörg|anna"]);
    check(
        "list: \"|/bin/x a, b\", /var/mail/x, :include:/etc/list",
        &["1|list|\\\"|/bin/x a, b\\\"|/var/mail/x|:include:/etc/list"],
    );
    check("list :include:/etc/list", &["1|list|:include:/etc/list"]);
    check("a: b\nA: c", &["1|a|b"]);
}

#[test]
fn says_what_is_wrong_and_where() {
    check_error("  info: anna", 1, "no entry that it could go on with");
    check_error("a: b\ninfo\n", 2, "an alias without an address");
    check_error("a: b\n\ninfo: ,\n", 3, "an alias without an address");
    check_error("info: anna # not a comment", 1, "neither an address nor a name");
    check_error("info: \"anna", 1, "a quote is not closed");
    check_error("\"info: anna", 1, "a quote is not closed");
    check_error(": anna", 1, "a key is missing");
    check_error("in..fo: anna", 1, "not a name, an address or @domain");
    check_error("info: anna@", 1, "neither an address nor a name");
    check_error("info: anna@-bad-", 1, "neither an address nor a name");
    check_error("info: anna>", 1, "closing bracket only");
    check_error("info: an\u{0}na", 1, "control character");
}

#[test]
fn warns_of_what_is_hardly_meant() {
    let content = parse("a: |/bin/sh\nb: c\nb: d\n", Kind::Aliases).expect("well-formed");
    let shown: Vec<String> =
        content.warnings.iter().map(|(line, text)| format!("{line}: {text}")).collect();
    assert_eq!(
        shown,
        [
            "1: a: |/bin/sh: programs, files and inclusions are not supported, and mail for it fails",
            "3: b stands already on line 2, which holds",
        ]
    );
}

#[test]
fn takes_passwd_and_plain_lists_as_keys() {
    let text = "root:x:0:0:root:/root:/bin/bash\nanna\nberta@example.test OK\n";
    let content = parse(text, Kind::Keys).expect("well-formed");
    let mut keys: Vec<_> = content.entries.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["anna", "berta@example.test", "root"]);
}

proptest! {
    #[test]
    fn no_text_breaks_it(text in "[ -~\u{e9}\u{0}\r\n\t]{0,200}") {
        for kind in [Kind::Aliases, Kind::Keys] {
            if let Err((line, wrong)) = parse(&text, kind) {
                prop_assert!(line >= 1 && line <= text.lines().count());
                prop_assert!(!wrong.is_empty());
            }
        }
    }

    #[test]
    fn what_is_written_is_read(
        entries in proptest::collection::btree_map(
            "[a-z][a-z0-9]{0,8}(@[a-z]{1,8}\\.test)?",
            proptest::collection::vec("[a-zA-Z0-9+]{1,9}(@[a-z]{1,8}\\.test)?", 1..5),
            0..20,
        ),
        folded: bool,
    ) {
        let separator = if folded { ",\n\t" } else { ", " };
        let text: String =
            entries.iter().map(|(key, targets)| format!("{key}: {}\n", targets.join(separator))).collect();
        let content = parse(&text, Kind::Aliases).expect("well-formed");
        prop_assert_eq!(content.entries.len(), entries.len());
        for (key, targets) in &entries {
            let read: Vec<String> =
                content.entries[key].targets.iter().map(Target::to_string).collect();
            prop_assert_eq!(&read, targets);
        }
    }
}
