//! Which filter decides, and what happens when one cannot.

use super::*;

fn filters(text: &str) -> Filters {
    let settings: Settings = toml::from_str(text).expect("well-formed settings");
    settings.check().expect("settings without contradiction");
    Filters::new(&settings).expect("checked settings")
}

fn shown(judgement: &Judgement) -> String {
    let by = judgement.by.as_deref().unwrap_or("-");
    let verdict = match &judgement.verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Reject(refusal) => {
            format!("reject {} {} {}", refusal.code, refusal.status, refusal.text)
        }
        Verdict::Tempfail(refusal) => {
            format!("tempfail {} {} {}", refusal.code, refusal.status, refusal.text)
        }
        Verdict::Quarantine { reason } => format!("quarantine {reason}"),
        Verdict::Discard => "discard".to_owned(),
    };
    let edits: Vec<String> = judgement
        .edits
        .iter()
        .map(|edit| match edit {
            Edit::Prepend { name, value } => format!(" +{name}: {value}"),
            other => format!(" {other:?}"),
        })
        .collect();
    format!("{by}: {verdict}{}", edits.concat())
}

fn check(filters: &Filters, message: &str, expected: &str) {
    let judgement = filters.judge(message.len() as u64, Ok(message.as_bytes()));
    assert_eq!(shown(&judgement), expected, "{message:?}");
    assert!(judgement.failures.is_empty());
}

const EXAMPLE: &str = r#"
    filters = [
      { header = "X-Trusted", matches = "^yes$", action = "accept" },
      { header = "Subject", matches = "r.sum.", action = { add_header = { name = "X-Topic", value = "jobs" } } },
      { name = "no-programs", attachment = "\\.(exe|scr)$", action = "reject", text = "programs are refused here" },
      { header = "List-Id", action = { add_header = { name = "Precedence", value = "list" } } },
      { header = "Subject", matches = "^free money", action = "quarantine" },
      { body = "(?-i)CONFIDENTIAL", header = "To", matches = "@example\\.org", action = "tempfail" },
      { body = "drop me", action = "discard" },
      { size_over = 5000, action = "reject" },
    ]
"#;

#[test]
fn first_decision_holds_and_headers_add_up() {
    let filters = filters(EXAMPLE);
    check(&filters, "Subject: hello\r\n\r\nhello\r\n", "-: accept");
    check(
        &filters,
        "Subject: =?utf-8?q?Free_M=6Fney?=\r\n now\r\n\r\n",
        "filters[4]: quarantine filters[4]",
    );
    check(&filters, "Subject: not free money\r\n\r\n", "-: accept");
    check(
        &filters,
        "SUBJECT: =?iso-8859-1?q?R=E9sum=E9?=\r\nlist-id: <a.test>\r\n\r\nx",
        "-: accept +X-Topic: jobs +Precedence: list",
    );
    check(
        &filters,
        "Subject: resume\r\nContent-Disposition: attachment; filename=A.EXE\r\n\r\nx",
        "no-programs: reject 550 5.7.1 programs are refused here +X-Topic: jobs",
    );
    check(
        &filters,
        "X-Trusted: yes\r\nContent-Disposition: attachment; filename=a.exe\r\n\r\ndrop me",
        "filters[0]: accept",
    );
    check(&filters, "X-Trusted: no\r\nX-Trusted: yes\r\n\r\ndrop me", "filters[0]: accept");
    check(
        &filters,
        "To: Anna <anna@example.org>\r\n\r\nCONFIDENTIAL",
        "filters[5]: tempfail 451 4.7.1 message content refused for now",
    );
    check(&filters, "To: Anna <anna@example.org>\r\n\r\nconfidential", "-: accept");
    check(&filters, "To: anna@example.net\r\n\r\nCONFIDENTIAL", "-: accept");
    check(&filters, "Content-Transfer-Encoding: base64\r\n\r\nRHJvcCBNZQ==", "filters[6]: discard");
    let large = format!("Subject: x\r\n\r\n{}", "x".repeat(5000));
    check(&filters, &large, "filters[7]: reject 552 5.3.4 message is too large");
    check(&filters, "", "-: accept");
}

#[test]
fn a_header_in_the_body_is_not_a_header() {
    let filters = filters("filters = [{ header = \"X-A\", action = \"discard\" }]");
    check(&filters, "Subject: x\r\n\r\nX-A: b\r\n", "-: accept");
    check(&filters, "\r\nX-A: b\r\n", "-: accept");
    check(&filters, "Subject: x\r\n X-A: b\r\n\r\n", "-: accept");
    check(&filters, "Subject: x\r\nX-A:\r\n\r\n", "filters[0]: discard");
    let many = format!("{}X-A: b\r\n\r\n", "X-B: c\r\n".repeat(10_000));
    check(&filters, &many, "filters[0]: discard");
}

#[test]
fn failures_follow_their_rule() {
    let filter = |on_failure: &str| {
        filters(&format!(
            "filters = [{{ name = \"look\", body = \"x\", action = \"discard\", on_failure = \"{on_failure}\" }},
                        {{ size_over = 5, action = \"reject\" }}]"
        ))
    };
    let deep = "Content-Type: message/rfc822\r\n\r\n".repeat(1000);
    for (on_failure, expected) in [
        ("tempfail", "look: tempfail 451 4.3.0 message content cannot be looked at now"),
        ("quarantine", "look: quarantine look could not look at the message"),
        ("accept", "filters[1]: reject 552 5.3.4 message is too large"),
    ] {
        let filters = filter(on_failure);
        for content in [Err("spool:1 is gone"), Ok(deep.as_bytes())] {
            let judgement = filters.judge(6, content);
            assert_eq!(shown(&judgement), expected);
            assert_eq!(judgement.failures.len(), 1);
            assert!(judgement.failures[0].starts_with("look: "));
        }
    }
    // A filter that looks at the size alone needs no content.
    let size_only = filters("filters = [{ size_over = 5, action = \"reject\" }]");
    assert!(!size_only.need_content());
    assert!(size_only.judge(5, Err("gone")).by.is_none());
    assert!(size_only.judge(6, Err("gone")).by.is_some());
}
