//! Other bodies in a real store: written, adopted by the commit, and gone when nobody needs them.

use job::inspect::Steps;
use mail::{Envelope, Origin};
use queue::{Accept, Intake, SizeHint};
use queue_memory::Memory;

use super::*;
use crate::filter::{Filter, FilterError, Finding, Look};
use crate::settings::OnFailure;

/// A filter that gives each message another body.
struct Replacing;

impl Filter for Replacing {
    fn open(self: Rc<Self>, _: &Session) -> Box<dyn Look> {
        Box::new(Self)
    }
}

impl Look for Replacing {
    fn message<'a>(
        &'a mut self,
        _: &'a Session,
        _: &'a Message,
    ) -> Local<'a, Result<Finding, FilterError>> {
        let edit = Edit::Prepend { name: "X-A".to_owned(), value: "b".to_owned() };
        let found = Finding {
            edits: vec![edit],
            body: Some(b"another\nbody".to_vec()),
            ..Finding::default()
        };
        Box::pin(std::future::ready(Ok(found)))
    }
}

struct Case {
    memory: Memory,
    intake: Rc<dyn Intake>,
    inspector: Inspector,
}

impl Case {
    fn new(can_open: bool) -> Self {
        let memory = Memory::new();
        let filter: Rc<dyn Filter> = Rc::new(Replacing);
        let chain = Chain::of(vec![(filter, Steps::NONE, OnFailure::Accept)]);
        let store = memory.clone();
        let open: OpenIntake = Box::new(move || {
            let opened =
                if can_open { Ok(store.intake()) } else { Err("the disk is full".to_owned()) };
            Box::pin(std::future::ready(opened))
        });
        let settings = crate::Settings::default();
        let inspector = Inspector::new(chain, memory.reader(), open, &settings);
        Self { intake: memory.intake(), memory, inspector }
    }

    /// Writes a draft and has it inspected, as smtpserver does.
    async fn inspect(&self, step: Step) -> (Box<dyn queue::Draft>, Inspected) {
        let text = b"Subject: x\r\n\r\nbody\r\n";
        let mut draft = self.intake.begin(SizeHint::default()).expect("a draft");
        draft.write(text).expect("it is taken");
        let handle = draft.finish().await.expect("it ends");
        let facts = DraftFacts { handle, id: draft.id(), size: text.len() as u64, stored: false };
        let request = InspectRequest { step, draft: Some(facts), ..request() };
        let inspected = self.inspector.inspect(&request, None, || true).await.expect("an answer");
        (draft, inspected)
    }
}

fn accept(inspected: &Inspected) -> Accept {
    Accept {
        envelope: Envelope {
            sender: None,
            recipients: Vec::new(),
            body: Default::default(),
            smtputf8: false,
            ret: None,
            envid: None,
        },
        origin: Origin::default(),
        accepted_at: Timestamp::from_millis(1),
        edits: inspected.answer.edits.clone(),
        hold: None,
        replaced_body: inspected.answer.replaced_body.as_ref().map(|body| body.handle.clone()),
    }
}

#[test]
fn another_body_lives_until_the_transaction_is_over() {
    run_in_time(async {
        let case = Case::new(true);
        let (draft, inspected) = case.inspect(Step::Message).await;
        let body = inspected.answer.replaced_body.clone().expect("another body");
        let expected = "Subject: x\r\n\r\nanother\r\nbody\r\n";
        assert_eq!(body.size, expected.len() as u64);
        assert_eq!(case.inspector.sessions.bodies(), 1);
        let handle = draft.commit(accept(&inspected)).await.expect("it is committed");
        let end = InspectRequest { step: Step::End, draft: None, ..request() };
        case.inspector.inspect(&end, None, || true).await.expect("an answer");
        assert_eq!(case.inspector.sessions.bodies(), 0);
        let mut stored = case.memory.reader().open(&handle).await.expect("a message");
        let text = stored.body.next().await.expect("a piece").expect("of the body");
        assert_eq!(text, expected);
        // What an agent sends of it is what a later filter would have seen.
        let leaving = mail::header::leaving(&text, true, &stored.accepted.accept.edits);
        assert_eq!(leaving.head, b"X-A: b\r\nSubject: x\r\n\r\n");
        assert!(case.memory.reader().open_draft(&body.handle).await.is_err(), "it is gone");
    });
}

#[test]
fn a_message_whose_other_body_is_gone_is_not_stored() {
    run_in_time(async {
        let case = Case::new(true);
        for forget in [Step::End, Step::Quit, Step::Mail] {
            let (draft, inspected) = case.inspect(Step::Message).await;
            let over = InspectRequest { step: forget, draft: None, ..request() };
            case.inspector.inspect(&over, None, || true).await.expect("an answer");
            assert_eq!(case.inspector.sessions.bodies(), 0);
            assert!(draft.commit(accept(&inspected)).await.is_err(), "{forget:?}");
        }
    });
}

/// Whatever the filter's own rule says: the message as it came is not what the filters let through.
#[test]
fn a_message_whose_other_body_cannot_be_stored_is_put_off() {
    run_in_time(async {
        let case = Case::new(false);
        let (_, inspected) = case.inspect(Step::Message).await;
        assert!(matches!(inspected.answer.verdict, Verdict::Tempfail(_)));
        assert!(inspected.answer.edits.is_empty() && inspected.answer.replaced_body.is_none());
        assert!(inspected.failures[0].contains("the disk is full"), "{:?}", inspected.failures);
    });
}
