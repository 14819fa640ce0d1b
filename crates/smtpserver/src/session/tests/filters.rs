//! Filters that want to hear of steps before the message.

use job::inspect::{InspectAnswer, InspectRequest, NewSender, ReplacedBody, Step, Steps};

use super::*;

fn reject(code: u16, text: &str) -> Verdict {
    let status = StatusCode::new(5, 7, 1);
    Verdict::Reject(Refusal { code, status, text: text.to_owned() })
}

fn later(code: u16) -> Verdict {
    let status = StatusCode::new(4, 7, 1);
    Verdict::Tempfail(Refusal { code, status, text: "later".to_owned() })
}

/// What a filter was asked: the step, the transaction, how many recipients there were and how many were new.
fn asked(farm: &Farm) -> Vec<(Step, u64, usize, u32)> {
    let recipients = |request: &InspectRequest| {
        request.envelope.as_ref().map_or(0, |envelope| envelope.recipients.len())
    };
    let inspected = farm.inspected();
    inspected.iter().map(|one| (one.step, one.transaction, recipients(one), one.given)).collect()
}

#[test]
fn each_step_is_asked_about_as_it_happens() {
    run(async {
        let farm = Farm::early(Steps::ALL).await;
        farm.script(|_| InspectAnswer::default());
        let mut caller = Caller::greeted(&farm).await;
        caller
            .say("MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\nRCPT TO:<x@unknown.test>\r\nRCPT TO:<c@example.test>\r\n")
            .await;
        assert_eq!(caller.codes(4).await, [250, 250, 550, 250]);
        caller.say("RCPT TO:<d@example.test>\r\nDATA\r\n").await;
        assert_eq!(caller.codes(2).await, [250, 354]);
        caller.say("text\r\n.\r\n").await;
        assert_eq!(caller.codes(1).await, [250]);
        caller.say("MAIL FROM:<>\r\nRSET\r\nMAIL FROM:<e@example.org>\r\nQUIT\r\n").await;
        assert_eq!(caller.codes(4).await, [250, 250, 250, 221]);
        assert!(caller.is_over().await);
        while farm.inspected().len() < 10 {
            tokio::task::yield_now().await;
        }
        let expected = [
            (Step::Connect, 0, 0, 0),
            // HELO ends a transaction, as RSET does.
            (Step::Helo, 1, 0, 0),
            (Step::Mail, 2, 0, 0),
            // Those that router accepts, and that came together, in one request.
            (Step::Recipient, 2, 2, 2),
            (Step::Recipient, 2, 3, 1),
            (Step::Message, 2, 3, 0),
            (Step::End, 2, 0, 0),
            (Step::Mail, 3, 0, 0),
            // After RSET it is another transaction, so that nothing that a filter kept counts for it.
            (Step::Mail, 4, 0, 0),
            (Step::Quit, 4, 0, 0),
        ];
        assert_eq!(asked(&farm), expected);
        let inspected = farm.inspected();
        assert!(inspected.iter().all(|one| one.session == inspected[0].session));
        assert!(inspected.iter().all(|one| one.port > 0 && one.trusted));
        assert_eq!(inspected[0].origin.helo, None);
        assert_eq!(inspected[1].origin.helo.as_deref(), Some("client.example.org"));
        assert_eq!(inspected[1].origin.protocol.as_deref(), Some("ESMTP"));
    });
}

#[test]
fn only_steps_that_are_wanted_are_asked_about() {
    run(async {
        for (steps, expected) in [
            (Steps::NONE, vec![Step::Message]),
            (
                Steps { mail: true, ..Steps::NONE },
                vec![Step::Mail, Step::Message, Step::End, Step::Quit],
            ),
        ] {
            let farm = Farm::early(steps).await;
            farm.script(|_| InspectAnswer::default());
            let mut caller = Caller::greeted(&farm).await;
            caller.say(ENVELOPE).await;
            assert_eq!(caller.codes(3).await, [250, 250, 354]);
            caller.say("text\r\n.\r\n").await;
            assert_eq!(caller.codes(1).await, [250]);
            drop(caller);
            while asked(&farm).len() < expected.len() {
                tokio::task::yield_now().await;
            }
            let steps: Vec<Step> = asked(&farm).into_iter().map(|one| one.0).collect();
            assert_eq!(steps, expected);
        }
    });
}

#[test]
fn a_refusal_is_the_reply_to_its_step() {
    for (verdict, greeting, other) in [
        (reject(550, "no"), 554, 550),
        (reject(571, "no"), 554, 571),
        (later(450), 421, 450),
        // To say 421 and go on would be wrong.
        (later(421), 421, 451),
        (Verdict::Discard, 220, 250),
        (Verdict::Quarantine { reason: "odd".to_owned() }, 220, 250),
    ] {
        run(async {
            let refusing = |step: Step| {
                let verdict = verdict.clone();
                async move {
                    let farm = Farm::early(Steps::ALL).await;
                    farm.script(move |request| match request.step == step {
                        true => InspectAnswer::from(verdict.clone()),
                        false => InspectAnswer::default(),
                    });
                    farm
                }
            };
            let farm = refusing(Step::Connect).await;
            let mut caller = Caller(farm.connect().await, Vec::new());
            assert_eq!(caller.codes(1).await, [greeting], "{verdict:?}");
            if greeting != 220 {
                assert!(caller.is_over().await);
            }
            let farm = refusing(Step::Helo).await;
            let mut caller = Caller::new(&farm).await;
            caller.say(HELLO).await;
            assert_eq!(caller.codes(1).await, [other], "{verdict:?}");
            caller.say("MAIL FROM:<a@example.org>\r\n").await;
            assert_eq!(caller.codes(1).await, [if other == 250 { 250 } else { 503 }]);
            let farm = refusing(Step::Mail).await;
            let mut caller = Caller::greeted(&farm).await;
            caller.say("MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\n").await;
            assert_eq!(caller.codes(2).await, [other, if other == 250 { 250 } else { 503 }]);
            let farm = refusing(Step::Recipient).await;
            let mut caller = Caller::greeted(&farm).await;
            caller.say("MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\nRCPT TO:<c@example.test>\r\n").await;
            assert_eq!(caller.codes(3).await, [250, other, other]);
        });
    }
}

#[test]
fn single_recipients_are_refused() {
    run(async {
        let farm = Farm::early(Steps { recipient: true, ..Steps::NONE }).await;
        farm.script(|request| {
            let envelope = request.envelope.as_ref().expect("an envelope");
            let to = (0..).zip(&envelope.recipients);
            let bad = to.filter(|(_, to)| {
                to.address.local_part() == "bad" && request.step == Step::Recipient
            });
            let recipients = bad.map(|(place, _)| (place, reject(550, "not this one"))).collect();
            InspectAnswer { recipients, ..InspectAnswer::default() }
        });
        let mut caller = Caller::greeted(&farm).await;
        caller.say("MAIL FROM:<a@example.org>\r\nRCPT TO:<b@example.test>\r\nRCPT TO:<bad@example.test>\r\nRCPT TO:<x@unknown.test>\r\nRCPT TO:<c@example.test>\r\nDATA\r\n").await;
        assert_eq!(caller.codes(6).await, [250, 250, 550, 550, 250, 354]);
        caller.say("text\r\n.\r\n").await;
        assert_eq!(caller.codes(1).await, [250]);
        let stored = farm.stored().pop().expect("a message");
        let to: Vec<&str> =
            stored.accept.envelope.recipients.iter().map(|to| to.address.as_str()).collect();
        assert_eq!(to, ["b@example.test", "c@example.test"]);
    });
}

#[test]
fn filters_that_do_not_answer_put_the_client_off_at_mail() {
    run(async {
        let farm = Farm::early(Steps::ALL).await;
        farm.judge(None);
        let mut caller = Caller::greeted(&farm).await;
        caller.say("MAIL FROM:<a@example.org>\r\n").await;
        assert_eq!(caller.codes(1).await, [451]);
        farm.judge(Some(Verdict::Accept));
        caller.say("MAIL FROM:<a@example.org>\r\n").await;
        assert_eq!(caller.codes(1).await, [250]);
        farm.judge(None);
        caller.say("RCPT TO:<b@example.test>\r\n").await;
        assert_eq!(caller.codes(1).await, [451]);
    });
}

#[test]
fn the_envelope_is_changed_before_the_commit() {
    run(async {
        let farm = Farm::filtered(|_| {}).await;
        farm.script(|request| InspectAnswer {
            sender: Some(NewSender { address: "other@example.org".parse().ok() }),
            add: vec![mail::Recipient::from(
                "new@example.test".parse::<mail::Address>().expect("an address"),
            )],
            remove: vec![0],
            replaced_body: request
                .draft
                .as_ref()
                .map(|draft| ReplacedBody { handle: draft.handle.clone(), size: 4711 }),
            ..InspectAnswer::default()
        });
        let mut caller = Caller::greeted(&farm).await;
        caller.say(ENVELOPE).await;
        assert_eq!(caller.codes(3).await, [250, 250, 354]);
        caller.say("text\r\n.\r\n").await;
        assert_eq!(caller.codes(1).await, [250]);
        let accept = farm.stored().pop().expect("a message").accept;
        assert_eq!(
            accept.envelope.sender.as_ref().map(|sender| sender.as_str()),
            Some("other@example.org")
        );
        assert_eq!(accept.envelope.recipients.len(), 1);
        assert_eq!(accept.envelope.recipients[0].address.as_str(), "new@example.test");
        assert!(accept.replaced_body.is_some());
        assert_eq!(farm.hints()[0].facts.as_ref().map(|facts| facts.size), Some(4711));
        // The worker that holds the other body is told that it is no longer needed.
        assert_eq!(asked(&farm).pop().map(|last| last.0), Some(Step::End));
    });
}
