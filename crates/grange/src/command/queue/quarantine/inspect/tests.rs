//! Why a message stays held, from what the filters said.

use job::inspect::{Refusal, Said};
use mail::{BodyType, Recipient, StatusCode};

use super::*;

fn envelope(held: &[bool]) -> Envelope {
    let recipient = |(number, held): (usize, &bool)| {
        let address: mail::Address = format!("r{number}@example.test").parse().expect("an address");
        Recipient { hold: held.then(|| "looks odd".to_owned()), ..Recipient::from(address) }
    };
    Envelope {
        sender: None,
        recipients: held.iter().enumerate().map(recipient).collect(),
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
    }
}

fn quarantine(reason: &str) -> Verdict {
    Verdict::Quarantine { reason: reason.to_owned() }
}

fn of(filter: &str, what: Heard) -> Said {
    Said { filter: filter.to_owned(), what }
}

#[test]
fn what_all_accept_is_released() {
    let answer = InspectAnswer::default();
    assert!(why_held(&answer, &envelope(&[false, false]), true).is_empty());
    assert!(why_held(&answer, &envelope(&[true, false]), false).is_empty());
}

#[test]
fn who_says_no_is_named() {
    let refusal = Refusal { code: 451, status: StatusCode::new(4, 3, 0), text: "later".to_owned() };
    for (verdict, words) in [
        (quarantine("found it"), "quarantine: found it"),
        (Verdict::Discard, "discard"),
        (Verdict::Reject(Refusal { code: 550, ..refusal.clone() }), "reject: 550 4.3.0 later"),
        (Verdict::Tempfail(refusal), "tempfail: 451 4.3.0 later"),
    ] {
        let silent = InspectAnswer::from(verdict.clone());
        let why = why_held(&silent, &envelope(&[false]), true);
        assert_eq!(why, [format!("contentfilter: {words}")]);
        let said = vec![of("clamd", Heard::Verdict(verdict))];
        let why = why_held(&InspectAnswer { said, ..silent }, &envelope(&[false]), true);
        assert_eq!(why, [format!("clamd: {words}")]);
    }
}

#[test]
fn a_filter_that_could_not_be_asked_has_not_accepted() {
    let said = vec![of("clamd", Heard::Failure("took too long".to_owned()))];
    let answer = InspectAnswer { said, ..InspectAnswer::default() };
    let why = why_held(&answer, &envelope(&[false]), true);
    assert_eq!(why, ["clamd: failed: took too long"]);
}

#[test]
fn recipients_count_whom_it_is_held_for() {
    let one = |place| InspectAnswer {
        recipients: vec![(place, quarantine("not for you"))],
        ..InspectAnswer::default()
    };
    let held = envelope(&[false, true, false]);
    assert!(why_held(&one(0), &held, false).is_empty(), "nobody it is held for");
    let told = ["r1@example.test: quarantine: not for you"];
    assert_eq!(why_held(&one(1), &held, false), told);
    assert_eq!(why_held(&one(1), &envelope(&[false; 3]), true), told);

    let saved = InspectAnswer {
        recipients: vec![(1, Verdict::Accept)],
        said: vec![of("rule", Heard::Verdict(quarantine("x")))],
        ..InspectAnswer::from(quarantine("x"))
    };
    assert!(why_held(&saved, &held, false).is_empty(), "accepted for those whom it is held for");
    assert_eq!(why_held(&saved, &held, true), ["rule: quarantine: x"]);
}

#[test]
fn of_many_recipients_some_are_named() {
    let recipients = (0..15).map(|place| (place, quarantine("x"))).collect();
    let answer = InspectAnswer { recipients, ..InspectAnswer::default() };
    let why = why_held(&answer, &envelope(&[false; 15]), true);
    assert_eq!(why.len(), TOLD_MAX + 1);
    assert_eq!(why.last().map(String::as_str), Some("and 5 recipients more"));
}
