//! Settings that are right, and those that are not.

use super::*;

fn settings(filter: &str) -> Settings {
    toml::from_str(&format!("filters = [{{ {filter} }}]")).expect("well-formed settings")
}

#[test]
fn takes_what_is_right() {
    for filter in [
        r#"name = "no-exe", attachment = "\\.(exe|scr)$", action = "reject", text = "no programs, please""#,
        r#"header = "Subject", matches = "^free", action = "quarantine""#,
        r#"header = "X-Bulk", action = { add_header = { name = "Precedence", value = "bulk" } }"#,
        r#"body = "(?-i)secret", size_over = 100, action = "discard", on_failure = "quarantine""#,
        r#"size_over = "20MiB", action = "tempfail", on_failure = "accept""#,
        r#"header = "X-Trusted", action = "accept""#,
        r#"clamd = "unix:/run/clamav/clamd.ctl""#,
        r#"clamd = "inet:127.0.0.1:3310", action = "reject", timeouts = { connect = "1s" }"#,
        r#"recipient = "^info@", attachment_type = "^image/", action = "discard""#,
    ] {
        let settings = settings(filter);
        assert_eq!(settings.check(), Ok(()), "{filter}");
        assert!(!settings.is_empty());
        let json = serde_json::to_string(&settings).expect("settings become JSON");
        assert_eq!(serde_json::from_str::<Settings>(&json).expect("and come back"), settings);
    }
    assert_eq!(Settings::default().check(), Ok(()));
    assert!(Settings::default().is_empty());
}

#[test]
fn says_what_is_wrong() {
    let check = |filter: &str, key: &str, wrong: &str| {
        let problem = settings(filter).check().expect_err(filter);
        assert_eq!(problem.key, format!("contentfilter.filters[0]{key}"), "{filter}");
        assert_eq!(problem.wrong, wrong, "{filter}");
    };
    check("clamd = 'unix:/a', steps = ['mail']", ".steps", "clamd is no milter");
    check("milter = 'unix:/a', steps = ['mail', 'mail']", ".steps", "a step twice");
    check(
        "milter = 'unix:/a', clamd = 'unix:/b'",
        ".clamd",
        "this filter is of kind milter already",
    );
    check("clamd = 'unix:/a', body = 'b'", ".body", "this filter is of kind clamd already");
    check("milter = 'unix:/a', action = 'reject'", ".action", "milter decides by itself");
    check(
        r#"recipient = "^a@", action = { add_header = { name = "X-A", value = "b" } }"#,
        ".action",
        "a header is added for all recipients",
    );
    check(
        r#"size_over = 1, action = "reject", timeouts = { message = "1h" }"#,
        ".timeouts.message",
        "1h",
    );
    check(r#"action = "reject""#, "", "says no message that it is for");
    check(r#"size_over = 1"#, ".action", "says nothing to do");
    check(
        r#"matches = "x", action = "reject""#,
        ".matches",
        "there is no header that it could match",
    );
    check(r#"header = "a b", action = "reject""#, ".header", "not the name of a header field");
    check(r#"body = "a(", action = "reject""#, ".body", "unclosed group");
    check(
        r#"attachment = "(\\w{100}){100}{100}", action = "reject""#,
        ".attachment",
        "the regular expression becomes too large",
    );
    check(
        r#"size_over = 1, action = "reject", text = "a\r\nb""#,
        ".text",
        "not a text for a reply",
    );
    check(r#"size_over = 1, action = "reject", name = "é""#, ".name", "not a text for a reply");
    let long = "a".repeat(PATTERN_BYTES_MAX + 1);
    check(&format!("body = \"{long}\", action = \"reject\""), ".body", "longer than 4096 bytes");
}

/// Attack A18: nothing that is added can begin another line.
#[test]
fn no_header_can_be_injected() {
    for (name, value, key) in [
        ("X-A", "a\\r\\nX-B: b", ".action.add_header.value"),
        ("X-A", "a\\nb", ".action.add_header.value"),
        ("X-A", "a\\rb", ".action.add_header.value"),
        ("X-A", "a\\u0000b", ".action.add_header.value"),
        ("X-A", "a\\u0085b", ".action.add_header.value"),
        ("X-A: b", "c", ".action.add_header.name"),
        ("X A", "c", ".action.add_header.name"),
        ("X-A\\r\\nX-B", "c", ".action.add_header.name"),
        ("", "c", ".action.add_header.name"),
        ("X-é", "c", ".action.add_header.name"),
    ] {
        let filter = format!(
            "size_over = 0, action = {{ add_header = {{ name = \"{name}\", value = \"{value}\" }} }}"
        );
        let problem = settings(&filter).check().expect_err(&filter);
        assert_eq!(problem.key, format!("contentfilter.filters[0]{key}"), "{filter}");
    }
}

#[test]
fn of_what_filters_say_of_failure_the_strictest_holds() {
    use OnFailure::{Accept, Quarantine, Tempfail};
    for (rules, expected) in [
        (&[][..], Accept),
        (&[Accept, Accept], Accept),
        (&[Accept, Quarantine], Quarantine),
        (&[Quarantine, Tempfail, Accept], Tempfail),
    ] {
        let filter = |rule: &OnFailure| FilterSetting { on_failure: *rule, ..Default::default() };
        let filters = rules.iter().map(filter).collect();
        let settings = Settings { filters, ..Settings::default() };
        assert_eq!(settings.on_failure(), expected, "{rules:?}");
    }
}
