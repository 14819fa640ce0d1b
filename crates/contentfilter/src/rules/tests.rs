//! Which filter decides, and what happens when one cannot.

use bytes::Bytes;
use mail::Envelope;

use super::*;
use crate::chain::Chain;
use crate::judgement::Judgement;
use crate::settings::Settings;

fn filters(text: &str) -> Chain {
    let settings: Settings = toml::from_str(text).expect("well-formed settings");
    settings.check().expect("settings without contradiction");
    Chain::new(&settings, "mx.test", &dns::Settings::default()).expect("checked settings")
}

fn judge(filters: &Chain, size: u64, content: Result<&str, &str>) -> (Judgement, Vec<Edit>) {
    judge_for(filters, size, content, &[])
}

fn judge_for(
    filters: &Chain,
    size: u64,
    content: Result<&str, &str>,
    recipients: &[&str],
) -> (Judgement, Vec<Edit>) {
    let recipient =
        |text: &&str| Recipient::from(text.parse::<mail::Address>().expect("an address"));
    let envelope = Envelope {
        sender: None,
        recipients: recipients.iter().map(recipient).collect(),
        body: Default::default(),
        smtputf8: false,
        ret: None,
        envid: None,
    };
    let mut session = Session {
        port: 0,
        trusted: false,
        service: "mx".to_owned(),
        envelope: Some(Rc::new(envelope)),
        ..Session::default()
    };
    let message = |content: &str| {
        let content = Bytes::copy_from_slice(content.as_bytes());
        Message::new(size, content, 1 << 20, None)
    };
    let read = match content {
        Ok(content) => Ok(message(content)),
        Err(why) => Err((message(""), why.to_owned())),
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let mut looks = filters.open();
    let (judgement, message) =
        runtime.block_on(filters.message(&mut looks, &mut session, read, None, None));
    (judgement, message.edits().to_vec())
}

fn word(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accept => "accept".to_owned(),
        Verdict::Reject(refusal) => {
            format!("reject {} {} {}", refusal.code, refusal.status, refusal.text)
        }
        Verdict::Tempfail(refusal) => {
            format!("tempfail {} {} {}", refusal.code, refusal.status, refusal.text)
        }
        Verdict::Quarantine { reason } => format!("quarantine {reason}"),
        Verdict::Discard => "discard".to_owned(),
    }
}

fn shown((judgement, edits): &(Judgement, Vec<Edit>)) -> String {
    let by = judgement.by.as_deref().unwrap_or("-");
    let edits: Vec<String> = edits
        .iter()
        .map(|edit| match edit {
            Edit::Prepend { name, value } => format!(" +{name}: {value}"),
            other => format!(" {other:?}"),
        })
        .collect();
    format!("{by}: {}{}", word(&judgement.verdict()), edits.concat())
}

fn check(filters: &Chain, message: &str, expected: &str) {
    let judged = judge(filters, message.len() as u64, Ok(message));
    assert_eq!(shown(&judged), expected, "{message:?}");
    assert!(judged.0.failures.is_empty());
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
        "rule-5: quarantine rule-5",
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
        "-: accept",
    );
    check(&filters, "X-Trusted: no\r\nX-Trusted: yes\r\n\r\ndrop me", "-: accept");
    check(
        &filters,
        "To: Anna <anna@example.org>\r\n\r\nCONFIDENTIAL",
        "rule-6: tempfail 451 4.7.1 message content refused for now",
    );
    check(&filters, "To: Anna <anna@example.org>\r\n\r\nconfidential", "-: accept");
    check(&filters, "To: anna@example.net\r\n\r\nCONFIDENTIAL", "-: accept");
    check(&filters, "Content-Transfer-Encoding: base64\r\n\r\nRHJvcCBNZQ==", "rule-7: discard");
    let large = format!("Subject: x\r\n\r\n{}", "x".repeat(5000));
    check(&filters, &large, "rule-8: reject 552 5.3.4 message is too large");
    check(&filters, "", "-: accept");
}

#[test]
fn a_header_in_the_body_is_not_a_header() {
    let filters = filters("filters = [{ header = \"X-A\", action = \"discard\" }]");
    check(&filters, "Subject: x\r\n\r\nX-A: b\r\n", "-: accept");
    check(&filters, "\r\nX-A: b\r\n", "-: accept");
    check(&filters, "Subject: x\r\n X-A: b\r\n\r\n", "-: accept");
    check(&filters, "Subject: x\r\nX-A:\r\n\r\n", "rule: discard");
    let many = format!("{}X-A: b\r\n\r\n", "X-B: c\r\n".repeat(10_000));
    check(&filters, &many, "rule: discard");
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
        // Held, but later filters are asked.
        ("quarantine", "rule-2: reject 552 5.3.4 message is too large"),
        ("accept", "rule-2: reject 552 5.3.4 message is too large"),
    ] {
        let filters = filter(on_failure);
        for content in [Err("spool:1 is gone"), Ok(&*deep)] {
            let judged = judge(&filters, 6, content);
            assert_eq!(shown(&judged), expected);
            assert_eq!(judged.0.failures.len(), 1);
            assert!(judged.0.failures[0].starts_with("look: "));
        }
    }
    // A filter that looks at the size alone needs no content.
    let size_only = filters("filters = [{ size_over = 5, action = \"reject\" }]");
    assert!(!size_only.needs_content());
    assert!(judge(&size_only, 5, Err("gone")).0.by.is_none());
    assert!(judge(&size_only, 6, Err("gone")).0.by.is_some());
}

#[test]
fn single_recipients_and_what_adds_up() {
    let filters = filters(
        r#"filters = [
          { recipient = "^vip@", action = "accept" },
          { recipient = "^(vip|trap)@", action = "discard" },
          { attachment_type = "^application/x-msdownload$", action = "quarantine", text = "a program" },
          { header = "Subject", matches = "held too", action = "quarantine", text = "later" },
          { header = "Subject", matches = "refuse", action = "reject" },
          { size_over = 0, action = { add_header = { name = "X-Seen", value = "yes" } } },
          { header = "X-Seen", recipient = "^anna@", action = "reject", text = "not for anna" },
        ]"#,
    );
    let judge = |message: &str| {
        let to = ["vip@a.test", "trap@a.test", "anna@a.test", "bert@a.test"];
        let judged = judge_for(&filters, message.len() as u64, Ok(message), &to);
        let own: Vec<String> =
            judged.0.recipients().iter().map(|(to, own)| format!("{to} {}", word(own))).collect();
        (shown(&judged), own)
    };
    let discard = || "1 discard".to_owned();
    let reject = || "2 reject 550 5.7.1 not for anna".to_owned();
    let seen = " +X-Seen: yes";
    assert_eq!(
        judge("Subject: x\r\n\r\n"),
        (format!("-: accept{seen}"), vec![discard(), reject()])
    );
    // What one filter adds, the next sees; and a quarantine does not end the walk.
    let program = "Subject: held too\r\nContent-Type: APPLICATION/x-MSDownload\r\n\r\nMZ";
    let held = format!("rule-3: quarantine a program{seen}");
    assert_eq!(judge(program), (held, vec![discard(), reject()]));
    let refused = "rule-5: reject 550 5.7.1 message content refused".to_owned();
    assert_eq!(judge("Subject: refuse\r\n\r\n"), (refused, vec!["0 accept".to_owned(), discard()]));
}

/// Attack A18: header sections without end, of very many fields, of very long ones, and encoded words within each other.
#[test]
fn a18_header_bombs_are_looked_through() {
    let filters = filters(
        r#"filters = [
          { header = "Subject", matches = "needle", action = { add_header = { name = "X-Seen", value = "yes" } } },
          { header = "X-Last", action = "discard" },
        ]"#,
    );
    let fields = "X-B: c\r\n".repeat(100_000);
    let long = format!("X-Long: {}\r\n", "y".repeat(1 << 20));
    let folded = format!("X-Folded: a\r\n{}", " b\r\n".repeat(100_000));
    let words = format!("Subject: {}needle\r\n", "=?utf-8?q?=3D?= ".repeat(20_000));
    let open = format!("Subject: {}needle\r\n", "=?utf-8?b?".repeat(50_000));
    for (bomb, expected) in [
        (format!("{fields}X-Last: y\r\n\r\n"), "rule-2: discard"),
        (format!("{folded}X-Last: y\r\n\r\n"), "rule-2: discard"),
        (format!("{words}X-Last: y\r\n\r\n"), "rule-2: discard +X-Seen: yes"),
        (format!("{open}X-Last: y\r\n\r\n"), "rule-2: discard +X-Seen: yes"),
        // Without an end; the last line without its own.
        (format!("{fields}{fields}"), "-: accept"),
        (format!("X-Last: y\r\n{long}X-B: c"), "rule-2: discard"),
        // What lies beyond what is looked at is not seen, whatever the size.
        (format!("{long}X-Last: y\r\n\r\n"), "-: accept"),
    ] {
        check(&filters, &bomb, expected);
    }
}
