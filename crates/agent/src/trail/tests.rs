use job::deliver::{DeliverRecipient, RecipientOutcome};
use mail::{BodyType, Delivered, MessageId, StatusCode, SuccessReport};
use queue::Handle;

use super::*;

fn reply(class: u8, text: &str) -> Reply {
    Reply::ours(StatusCode::new(class, 0, 0), text)
}

fn delivered(text: &str) -> Outcome {
    Outcome::Delivered(Delivered { reply: reply(2, text), report: SuccessReport::Final })
}

/// Checks the fates of recipients 0, 1, 2 … that fared so; nobody's outcome is missing but where there is none.
fn check(
    outcomes: &[Option<Outcome>],
    lane: Option<Reply>,
    expected: &[(Kind, &str, &str, usize)],
) {
    let recipient = |index| DeliverRecipient {
        index,
        address: format!("r{index}@example.test").parse().unwrap(),
        original: None,
        orcpt: None,
        notify: None,
        user: String::new(),
        outcome: None,
    };
    let request = DeliverRequest {
        handle: Handle::parse("test:1").unwrap(),
        id: MessageId::new(Timestamp::from_millis(1), 1),
        sender: None,
        size: 1,
        accepted_at: Timestamp::from_millis(1),
        body: BodyType::default(),
        smtputf8: false,
        ret: None,
        envid: None,
        host: String::new(),
        attempt: 1,
        routing: 1,
        settled: None,
        recipients: (0..).take(outcomes.len()).map(recipient).collect(),
        report: None,
    };
    let outcomes = outcomes.iter().zip(0..);
    let outcomes = outcomes.filter_map(|(outcome, index)| {
        outcome.clone().map(|outcome| RecipientOutcome { index, outcome })
    });
    let answer = DeliverAnswer { outcomes: outcomes.collect(), lane, ..DeliverAnswer::default() };
    let found = fates(&request, &answer);
    let found: Vec<(Kind, &str, &str, usize)> = found
        .iter()
        .map(|fate| {
            let text = fate.reply.map_or("", |reply| reply.text.as_str());
            (fate.kind, text, fate.recipient, fate.recipients)
        })
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn recipients_that_fared_alike_share_a_line() {
    let failed = || Some(Outcome::Failed(reply(5, "unknown")));
    check(&[Some(delivered("ok"))], None, &[(Kind::Delivered, "ok", "r0@example.test", 1)]);
    check(
        &[Some(delivered("ok")), failed(), Some(delivered("ok")), failed()],
        None,
        &[
            (Kind::Delivered, "ok", "r0@example.test", 2),
            (Kind::Failed, "unknown", "r1@example.test", 2),
        ],
    );
}

#[test]
fn who_was_not_answered_is_deferred_in_the_lanes_words() {
    check(
        &[None, Some(delivered("ok")), None],
        Some(reply(4, "421 too busy")),
        &[
            (Kind::Deferred, "421 too busy", "r0@example.test", 2),
            (Kind::Delivered, "ok", "r1@example.test", 1),
        ],
    );
}

#[test]
fn a_server_of_many_words_does_not_fill_the_log() {
    let outcomes: Vec<_> = (0..50).map(|n| Some(delivered(&format!("queued as {n}")))).collect();
    let mut expected: Vec<(Kind, String, String, usize)> = (0..10)
        .map(|n| (Kind::Delivered, format!("queued as {n}"), format!("r{n}@example.test"), 1))
        .collect();
    expected[9].3 = 41;
    let expected: Vec<_> = expected
        .iter()
        .map(|(kind, text, address, count)| (*kind, text.as_str(), address.as_str(), *count))
        .collect();
    check(&outcomes, None, &expected);
}
