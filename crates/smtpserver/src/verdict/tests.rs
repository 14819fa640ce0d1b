//! Tables of verdicts and what they come to.

use mail::{Address, StatusCode};

use super::*;

fn refusal(code: u16) -> Refusal {
    Refusal { code, status: StatusCode::new(5, 7, 1), text: format!("no {code}") }
}

fn reject() -> Verdict {
    Verdict::Reject(refusal(550))
}

fn quarantine() -> Verdict {
    Verdict::Quarantine { reason: "odd".to_owned() }
}

/// Decides for two recipients; an answer in words: held recipients with their reason.
fn check(verdict: Verdict, own: Vec<(u32, Verdict)>, mixed: Mixed, expect: &str) {
    let recipients = ["a@x.test", "b@x.test"]
        .map(|text| Recipient::from(Address::parse(text).expect("address")));
    let answer = InspectAnswer { recipients: own, ..InspectAnswer::from(verdict) };
    check_answer(&answer, recipients.to_vec(), mixed, expect);
}

fn check_answer(answer: &InspectAnswer, recipients: Vec<Recipient>, mixed: Mixed, expect: &str) {
    let found = match decide(answer, recipients, mixed) {
        Decision::Discard => "discard".to_owned(),
        Decision::Refuse(reply) => format!("{} {}", reply.code, reply.text),
        Decision::Take { recipients, hold } => {
            let list = recipients.iter().map(|recipient| {
                format!("{} {}", recipient.address, recipient.hold.as_deref().unwrap_or("-"))
            });
            format!("{}; {}", hold.as_deref().unwrap_or("-"), list.collect::<Vec<_>>().join(", "))
        }
    };
    assert_eq!(found, expect);
}

#[test]
fn whoever_refuses_a_message_that_is_for_nobody_any_more_is_heard() {
    let recipient = || vec![Recipient::from(Address::parse("a@x.test").expect("address"))];
    for (verdict, expect) in [
        (Verdict::Accept, "discard"),
        (Verdict::Discard, "discard"),
        (reject(), "550 no 550"),
        (Verdict::Tempfail(refusal(451)), "451 no 451"),
    ] {
        let answer = InspectAnswer { remove: vec![0], ..InspectAnswer::from(verdict) };
        check_answer(&answer, recipient(), Mixed::Quarantine, expect);
    }
}

#[test]
fn verdicts_come_to_one_decision() {
    let keep = Mixed::Quarantine;
    check(Verdict::Accept, vec![], keep, "-; a@x.test -, b@x.test -");
    check(Verdict::Discard, vec![], keep, "discard");
    check(reject(), vec![], keep, "550 no 550");
    check(Verdict::Reject(refusal(250)), vec![], keep, "554 no 250");
    // The session goes on.
    check(Verdict::Tempfail(refusal(421)), vec![], keep, "451 no 421");
    check(Verdict::Tempfail(refusal(550)), vec![], keep, "451 no 550");
    check(quarantine(), vec![], keep, "odd; a@x.test -, b@x.test -");
    check(Verdict::Accept, vec![(1, quarantine())], keep, "-; a@x.test -, b@x.test odd");
    check(quarantine(), vec![(1, Verdict::Accept)], keep, "-; a@x.test odd, b@x.test -");
    check(
        Verdict::Accept,
        vec![(0, reject())],
        keep,
        "-; a@x.test rejected by a filter: no 550, b@x.test -",
    );
    check(Verdict::Accept, vec![(0, reject())], Mixed::Reject, "550 no 550");
    check(Verdict::Accept, vec![(0, reject()), (1, reject())], keep, "550 no 550");
    check(reject(), vec![(0, Verdict::Tempfail(refusal(451)))], keep, "451 no 451");
    check(Verdict::Accept, vec![(0, Verdict::Discard)], keep, "-; b@x.test -");
    check(Verdict::Discard, vec![(0, reject())], keep, "-; a@x.test rejected by a filter: no 550");
    check(Verdict::Accept, vec![(7, reject())], keep, "-; a@x.test -, b@x.test -");
}

#[test]
fn recipients_come_and_go() {
    let recipients: Vec<Recipient> = ["a@x.test", "b@x.test"]
        .map(|text| Recipient::from(Address::parse(text).expect("address")))
        .to_vec();
    let added = Recipient::from(Address::parse("c@x.test").expect("address"));
    let keep = Mixed::Quarantine;
    let check = |answer: InspectAnswer, expect: &str| {
        check_answer(&answer, recipients.clone(), keep, expect);
    };
    let changed =
        |remove: Vec<u32>, add: Vec<Recipient>| InspectAnswer { remove, add, ..Default::default() };
    check(changed(vec![0], vec![]), "-; b@x.test -");
    check(changed(vec![0, 1], vec![]), "discard");
    check(changed(vec![0, 1, 9], vec![added.clone()]), "-; c@x.test -");
    check(
        changed(vec![], vec![added.clone(), added.clone()]),
        "-; a@x.test -, b@x.test -, c@x.test -",
    );
    // Whom a filter removed has no say.
    let own = vec![(0, Verdict::Tempfail(refusal(451))), (1, reject())];
    check(InspectAnswer { recipients: own.clone(), ..changed(vec![0], vec![]) }, "550 no 550");
    let expect = "-; b@x.test rejected by a filter: no 550, c@x.test -";
    check(InspectAnswer { recipients: own, ..changed(vec![0], vec![added]) }, expect);
}
