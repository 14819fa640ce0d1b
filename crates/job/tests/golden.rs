//! Golden frames: each variant of each request and answer, as it stands on the wire.
//!
//! `golden/CONVERSATION.METHOD.request[.VARIANT].json` and `….answer[.VARIANT].json` hold one line each. A change of a
//! type shows there as a change of a file. Run with `GRANGE_GOLDEN=write` to write them anew, then look at the difference
//! and bring `docs/job-sockets.md` up to date.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::PathBuf;

use job::Acknowledged;
use job::admin::{
    Admin, AdminAnswer, AdminRequest, Change, Changed, LaneChange, LaneSummary, ListQuery, Nothing,
    Page, QueuedMessage, Selection, ShowQuery, Status,
};
use job::compact::{Compact, CompactRequest};
use job::deliver::{
    Deliver, DeliverAnswer, DeliverRecipient, DeliverRequest, RecipientOutcome, Report,
};
use job::enqueue::{Enqueue, EnqueueRequest};
use job::farms::{FarmStatus, Farms, FarmsAnswer, FarmsRequest, WorkerStatus};
use job::home::{
    Here, Home, HomeAnswer, HomeRequest, Moved, MovedMessage, MovedRequest, WhereRequest,
};
use job::inspect::{
    DraftFacts, Heard, Inspect, InspectAnswer, InspectRequest, NewSender, Refusal, ReplacedBody,
    Said, Step, Verdict,
};
use job::known::{Known, KnownAnswer, KnownMessage, KnownRequest, Wanted};
use job::outcome::{LateOutcome, OutcomeRequest};
use job::requeue::{Requeue, RequeueRequest};
use job::route::{Route, RouteFacts, RouteRequest};
use job::strike::{Strike, StrikeAnswer, StrikeRequest};
use job::verify::{
    Client, Verified, Verify, VerifyAnswer, VerifyReply, VerifyRequest, WholeDomain,
};
use mail::{
    Address, BodyType, Delivered, Edit, Envelope, MessageId, Notify, Origin, Outcome, Recipient,
    Reply, Ret, StatusCode, SuccessReport, Timestamp,
};
use queue::{Attempt, Handle, ReportKind, RoutedRecipient, State};
use serde_json::Value;
use serde_json::value::RawValue;
use socket::{Conversation, ErrorObject, Request, codes};

#[test]
fn route() {
    let mut golden = Golden::<Route>::new();
    golden.request(
        "",
        5000,
        RouteRequest { handle: handle(), id: id(), routing: 1, facts: Some(facts()) },
    );
    golden.request(
        "by-handle",
        5000,
        RouteRequest { handle: handle(), id: id(), routing: 2, facts: None },
    );
    golden.answer("route", "", Acknowledged {});
    golden.error("route", "not-taken", ErrorObject::new(codes::NOT_TAKEN, "not taken"));
    golden.finish();
}

#[test]
fn verify() {
    let mut golden = Golden::<Verify>::new();
    let recipients = vec![
        address("one@example.test"),
        address("two@example.test"),
        address("three@example.org"),
        address("four@example.test"),
    ];
    let client = Client { address: "192.0.2.7".parse().ok(), may_relay: false };
    golden.request("", 5000, VerifyRequest { sender: Some(sender()), recipients, client });
    golden.request(
        "null-sender",
        5000,
        VerifyRequest {
            sender: None,
            recipients: vec![address("postmaster")],
            client: Client { address: None, may_relay: true },
        },
    );
    let reply = |code, status, text: &str| VerifyReply { code, status, text: text.to_owned() };
    golden.answer(
        "verify",
        "",
        VerifyAnswer {
            recipients: vec![
                Verified::Deliverable,
                Verified::Unknown(reply(550, StatusCode::new(5, 1, 1), "no such user")),
                Verified::RelayDenied(reply(554, StatusCode::new(5, 7, 1), "relaying denied")),
                Verified::Tempfail(reply(
                    451,
                    StatusCode::new(4, 3, 0),
                    "aliases cannot be read now",
                )),
            ],
            domains: Vec::new(),
        },
    );
    golden.answer(
        "verify",
        "domains",
        VerifyAnswer {
            recipients: vec![Verified::Deliverable],
            domains: vec![WholeDomain { domain: "example.org".into(), holds_ms: 10_000 }],
        },
    );
    golden.finish();
}

#[test]
fn inspect() {
    let mut golden = Golden::<Inspect>::new();
    let step = |step, envelope, draft| InspectRequest {
        session: "smtpserver/1-4711".to_owned(),
        step,
        transaction: u64::from(!matches!(step, Step::Connect | Step::Helo)),
        origin: Origin { helo: origin().helo.filter(|_| step != Step::Connect), ..origin() },
        port: 41_022,
        trusted: false,
        given: u32::from(step == Step::Recipient),
        envelope,
        draft,
    };
    let draft = DraftFacts { handle: handle(), id: id(), size: 4096, stored: false };
    golden.request("connect", 30_000, step(Step::Connect, None, None));
    golden.request("helo", 30_000, step(Step::Helo, None, None));
    golden.request("mail", 30_000, step(Step::Mail, Some(envelope(&[])), None));
    golden.request(
        "recipient",
        30_000,
        step(Step::Recipient, Some(envelope(&["one@example.test"])), None),
    );
    golden.request(
        "message",
        30_000,
        step(Step::Message, Some(envelope(&["one@example.test"])), Some(draft.clone())),
    );
    golden.request(
        "stored",
        30_000,
        InspectRequest {
            session: "grange/4711-1".to_owned(),
            origin: Origin::default(),
            port: 0,
            trusted: true,
            ..step(
                Step::Message,
                Some(envelope(&["one@example.test"])),
                Some(DraftFacts { stored: true, ..draft.clone() }),
            )
        },
    );
    golden.request("end", 30_000, step(Step::End, None, None));
    golden.request("quit", 30_000, step(Step::Quit, None, None));
    let answer = InspectAnswer::from;
    let refusal = |code, status, text: &str| Refusal { code, status, text: text.to_owned() };
    golden.answer("inspect", "accept", answer(Verdict::Accept));
    golden.answer(
        "inspect",
        "reject",
        answer(Verdict::Reject(refusal(554, StatusCode::new(5, 7, 1), "not here"))),
    );
    golden.answer(
        "inspect",
        "tempfail",
        answer(Verdict::Tempfail(refusal(451, StatusCode::new(4, 7, 1), "try later"))),
    );
    golden.answer(
        "inspect",
        "quarantine",
        answer(Verdict::Quarantine { reason: "attachment invoice.exe".to_owned() }),
    );
    golden.answer("inspect", "discard", answer(Verdict::Discard));
    golden.answer(
        "inspect",
        "edits",
        InspectAnswer {
            verdict: Verdict::Accept,
            recipients: vec![(
                1,
                Verdict::Reject(refusal(550, StatusCode::new(5, 7, 1), "not for you")),
            )],
            edits: vec![
                Edit::Prepend { name: "X-Spam".to_owned(), value: "no".to_owned() },
                Edit::Append { name: "X-Seen-By".to_owned(), value: "contentfilter".to_owned() },
                Edit::Insert { index: 1, name: "X-Virus".to_owned(), value: "none".to_owned() },
                Edit::Change {
                    name: "Subject".to_owned(),
                    nth: 1,
                    value: Some("[list] hello".to_owned()),
                },
                Edit::Change { name: "X-Old".to_owned(), nth: 2, value: None },
            ],
            ..InspectAnswer::default()
        },
    );
    golden.answer(
        "inspect",
        "changes",
        InspectAnswer {
            replaced_body: Some(ReplacedBody { handle: handle(), size: 5120 }),
            sender: Some(NewSender { address: Some(sender()) }),
            add: vec![Recipient::from("two@example.test".parse::<Address>().expect("an address"))],
            remove: vec![0],
            ..InspectAnswer::default()
        },
    );
    let held = Verdict::Quarantine { reason: "attachment invoice.exe".to_owned() };
    let said = vec![
        Said { filter: "programs".to_owned(), what: Heard::Verdict(held.clone()) },
        Said { filter: "clamd".to_owned(), what: Heard::Failure("took too long".to_owned()) },
    ];
    golden.answer("inspect", "said", InspectAnswer { said, ..answer(held) });
    golden.finish();
}

#[test]
fn enqueue() {
    let mut golden = Golden::<Enqueue>::new();
    let request = EnqueueRequest {
        handle: handle(),
        id: id(),
        routing: 1,
        part: 0,
        more: false,
        sender: Some(sender()),
        size: 4096,
        accepted_at: accepted_at(),
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        hold: None,
        recipients: vec![routed(0, State::default())],
    };
    golden.request("", 5000, request.clone());
    golden.request(
        "part",
        5000,
        EnqueueRequest {
            part: 1,
            more: true,
            sender: None,
            body: BodyType::EightBitMime,
            smtputf8: true,
            ret: Some(Ret::Full),
            envid: Some("QQ314159".to_owned()),
            hold: Some("quarantined: attachment invoice.exe".to_owned()),
            recipients: vec![
                routed(500, State::Failed(refused())),
                routed(
                    501,
                    State::Held { reason: "quarantined".to_owned(), then: Attempt::default() },
                ),
            ],
            ..request
        },
    );
    golden.answer("enqueue", "", Acknowledged {});
    golden.finish();
}

#[test]
fn deliver() {
    let mut golden = Golden::<Deliver>::new();
    let recipient = |index, address: Address| DeliverRecipient {
        index,
        user: address.to_string(),
        address,
        original: None,
        notify: None,
        orcpt: None,
        outcome: None,
    };
    let request = DeliverRequest {
        handle: handle(),
        id: id(),
        sender: Some(sender()),
        size: 4096,
        accepted_at: accepted_at(),
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        host: "[127.0.0.1]:2526".to_owned(),
        attempt: 1,
        routing: 1,
        settled: None,
        recipients: vec![recipient(0, address("one@example.org"))],
        report: None,
    };
    golden.request("", 300_000, request.clone());
    golden.request(
        "parameters",
        300_000,
        DeliverRequest {
            sender: None,
            body: BodyType::EightBitMime,
            smtputf8: true,
            ret: Some(Ret::Hdrs),
            envid: Some("QQ314159".to_owned()),
            attempt: 3,
            settled: Some(17),
            recipients: vec![DeliverRecipient {
                original: Some(address("list@example.test")),
                notify: Some(Notify { success: true, failure: true, delay: false }),
                orcpt: Some("rfc822;list@example.test".to_owned()),
                ..recipient(7, address("jörg@example.org"))
            }],
            ..request.clone()
        },
    );
    golden.request(
        "report",
        300_000,
        DeliverRequest {
            host: String::new(),
            recipients: vec![DeliverRecipient {
                outcome: Some(Outcome::Failed(refused())),
                ..recipient(0, address("one@example.org"))
            }],
            report: Some(Report { kind: ReportKind::Failure, will_retry_until: None }),
            ..request.clone()
        },
    );
    golden.request(
        "report-delay",
        300_000,
        DeliverRequest {
            host: String::new(),
            recipients: vec![DeliverRecipient {
                outcome: Some(Outcome::Deferred(busy())),
                ..recipient(0, address("one@example.org"))
            }],
            report: Some(Report {
                kind: ReportKind::Delay,
                will_retry_until: Some(Timestamp::from_millis(1_700_432_000_000)),
            }),
            ..request
        },
    );
    let delivered = |report| {
        Outcome::Delivered(Delivered {
            reply: Reply {
                status: StatusCode::new(2, 0, 0),
                text: "250 2.0.0 Ok: queued as 4B1D".to_owned(),
                remote: Some("mx.example.org".to_owned()),
            },
            report,
        })
    };
    let outcome = |index, outcome| RecipientOutcome { index, outcome };
    golden.answer(
        "deliver",
        "",
        DeliverAnswer {
            outcomes: vec![
                outcome(0, delivered(SuccessReport::PassedOn)),
                outcome(1, delivered(SuccessReport::Relayed)),
                outcome(2, delivered(SuccessReport::Final)),
                outcome(3, Outcome::Deferred(busy())),
                outcome(4, Outcome::Failed(refused())),
            ],
            lane: None,
            ..DeliverAnswer::default()
        },
    );
    golden.answer(
        "deliver",
        "lane",
        DeliverAnswer {
            outcomes: vec![],
            lane: Some(Reply::ours(StatusCode::new(4, 4, 1), "cannot connect: connection refused")),
            ..DeliverAnswer::default()
        },
    );
    golden.answer(
        "deliver",
        "damaged",
        DeliverAnswer {
            outcomes: vec![outcome(0, Outcome::Deferred(busy()))],
            damaged: Some("intake/1/7.seg at byte 4160: its record fails its checksum".to_owned()),
            ..DeliverAnswer::default()
        },
    );
    golden.answer(
        "deliver",
        "throttle",
        DeliverAnswer {
            outcomes: vec![outcome(0, Outcome::Deferred(busy()))],
            lane: None,
            throttle: Some(60),
            ..DeliverAnswer::default()
        },
    );
    golden.error(
        "deliver",
        "deadline",
        ErrorObject::new(codes::DEADLINE, "the deadline has passed"),
    );
    golden.finish();
}

#[test]
fn outcome() {
    let mut golden = Golden::<LateOutcome>::new();
    let one = |index, outcome| RecipientOutcome { index, outcome };
    let request = OutcomeRequest {
        handle: handle(),
        id: id(),
        attempt: 2,
        routing: 1,
        report: None,
        outcomes: vec![one(0, Outcome::Failed(refused())), one(4, Outcome::Deferred(busy()))],
    };
    golden.request("", 10_000, request.clone());
    let reply = Reply::ours(StatusCode::new(2, 0, 0), "committed");
    let written = Outcome::Delivered(Delivered { reply, report: SuccessReport::PassedOn });
    let report = Some(ReportKind::Failure);
    let outcomes = vec![one(0, written)];
    golden.request("report", 10_000, OutcomeRequest { attempt: 1, report, outcomes, ..request });
    golden.answer("outcome", "", Acknowledged {});
    golden.finish();
}

#[test]
fn known() {
    let mut golden = Golden::<Known>::new();
    let message = KnownMessage { handle: handle(), id: id() };
    golden.request("", 5000, KnownRequest { messages: vec![message] });
    golden.answer(
        "known",
        "",
        KnownAnswer { wanted: vec![Wanted { index: 0, routing: 1, strikes: 2 }] },
    );
    golden.finish();
}

#[test]
fn home() {
    let mut golden = Golden::<Home>::new();
    let message = KnownMessage { handle: handle(), id: id() };
    let asked = WhereRequest { messages: vec![message.clone(), message.clone(), message] };
    golden.request("", 10_000, HomeRequest::Where(asked));
    let copy: Handle = "spool:2.41.8192.moved".parse().expect("a handle");
    let answer = HomeAnswer {
        here: vec![Here { index: 0, size: 4096 }],
        moved: vec![Moved { index: 1, handle: copy.clone() }],
        ended: vec![2],
    };
    golden.answer("where", "", answer);
    let message = MovedMessage { id: id(), from: handle(), to: copy.clone() };
    let told = MovedRequest { messages: vec![message.clone(), message] };
    golden.request("", 10_000, HomeRequest::Moved(told));
    let moved = vec![Moved { index: 0, handle: copy }];
    golden.answer("moved", "", HomeAnswer { moved, ended: vec![1], ..HomeAnswer::default() });
    golden.finish();
}

#[test]
fn farms() {
    let mut golden = Golden::<Farms>::new();
    golden.request("", 5000, FarmsRequest {});
    let worker = WorkerStatus {
        worker: "router/0".to_owned(),
        pid: 4711,
        generation: 1,
        state: "ready".to_owned(),
        jobs: 3,
        connections: 0,
        capacity: 1000,
        jobs_done: 1234,
        load: 250,
        notice: None,
    };
    let notice = Some("has something to tell".to_owned());
    let other = WorkerStatus {
        worker: "router/1".to_owned(),
        pid: 4712,
        state: "draining".to_owned(),
        notice,
        ..worker.clone()
    };
    let router = FarmStatus {
        farm: "router".to_owned(),
        manager: Some(4700),
        alive: true,
        on_demand: false,
        crashes: 0,
        counters: BTreeMap::from([("routed_total".to_owned(), 1234)]),
        workers: vec![worker, other],
    };
    let (host, version) = ("q1.example.test".to_owned(), "0.1.0".to_owned());
    golden.answer("farms", "", FarmsAnswer { host, version, farms: vec![router] });
    golden.finish();
}

#[test]
fn compact() {
    let mut golden = Golden::<Compact>::new();
    let reason = "asked on the command line".to_owned();
    golden.request("", 5000, CompactRequest { reason });
    golden.answer("compact", "", Acknowledged {});
    golden.finish();
}

#[test]
fn strike() {
    let mut golden = Golden::<Strike>::new();
    golden.request(
        "",
        5000,
        StrikeRequest { handle: handle(), id: id(), stage: "router".to_owned(), alone: false },
    );
    golden.request(
        "alone",
        5000,
        StrikeRequest { handle: handle(), id: id(), stage: "scheduler".to_owned(), alone: true },
    );
    golden.answer("strike", "", StrikeAnswer { strikes: 1, held: false });
    golden.answer("strike", "held", StrikeAnswer { strikes: 3, held: true });
    golden.finish();
}

#[test]
fn requeue() {
    let mut golden = Golden::<Requeue>::new();
    golden.request("", 5000, RequeueRequest { reason: "the ledger was replayed".to_owned() });
    golden.answer("requeue", "", Acknowledged {});
    golden.finish();
}

#[test]
fn admin() {
    let mut golden = Golden::<Admin>::new();
    let select = Selection {
        ids: vec![id()],
        lane: Some("smtp/[127.0.0.1]:2526".to_owned()),
        domain: Some("example.org".to_owned()),
        sender: Some("<>".to_owned()),
        held: true,
        quarantined: true,
        before: Some(Timestamp::from_millis(1_764_000_000_000)),
        all: false,
    };
    let change = |reason: Option<&str>| Change {
        select: Selection { ids: vec![id()], ..Selection::default() },
        reason: reason.map(str::to_owned),
    };
    let everything =
        Change { select: Selection { all: true, ..Selection::default() }, reason: None };
    let lane = |seconds| LaneChange { lane: "smtp/[127.0.0.1]:2526".to_owned(), seconds };
    golden.request("", 30_000, AdminRequest::List(ListQuery::default()));
    golden.request(
        "page",
        30_000,
        AdminRequest::List(ListQuery { select, limit: Some(100), cursor: Some(id().to_string()) }),
    );
    golden.request("", 30_000, AdminRequest::Summary(Nothing {}));
    golden.request("", 30_000, AdminRequest::Show(ShowQuery { id: id() }));
    golden.request("", 30_000, AdminRequest::Hold(change(Some("looks odd"))));
    golden.request("", 30_000, AdminRequest::Release(change(None)));
    golden.request("", 30_000, AdminRequest::Retry(everything));
    golden.request("", 30_000, AdminRequest::Remove(change(None)));
    golden.request("", 30_000, AdminRequest::Bounce(change(Some("no longer wanted"))));
    golden.request("", 30_000, AdminRequest::Reroute(change(None)));
    golden.request("", 30_000, AdminRequest::Suspend(lane(Some(3600))));
    golden.request("", 30_000, AdminRequest::Resume(lane(None)));
    golden.request("", 30_000, AdminRequest::Status(Nothing {}));
    golden.answer(
        "list",
        "",
        AdminAnswer::List(Page { messages: vec![queued()], cursor: Some(id().to_string()) }),
    );
    golden.answer("list", "end", AdminAnswer::List(Page { messages: vec![], cursor: None }));
    golden.answer("summary", "", AdminAnswer::Summary(vec![summary(), quiet_summary()]));
    golden.answer("show", "", AdminAnswer::Message(Box::new(queued())));
    golden.answer("hold", "", AdminAnswer::Changed(Changed { messages: 1, recipients: 3 }));
    golden.answer("status", "", AdminAnswer::Status(Box::new(status())));
    golden.error("show", "not-found", ErrorObject::new(codes::NOT_FOUND, "no such message"));
    golden.finish();
}

fn queued() -> QueuedMessage {
    let waiting = Attempt {
        count: 2,
        next: Timestamp::from_millis(1_700_000_300_000),
        last: Some(busy()),
        delay_reported: true,
    };
    let delivered = Delivered {
        reply: Reply::ours(StatusCode::new(2, 0, 0), "delivered to the mailbox"),
        report: SuccessReport::Final,
    };
    QueuedMessage {
        id: id(),
        state: "held".to_owned(),
        sender: Some(sender()),
        size: 4096,
        accepted_at: accepted_at(),
        handle: handle(),
        hold: Some("by the operator".to_owned()),
        recipients: vec![
            routed(0, State::Open(waiting)),
            routed(1, State::Held { reason: "quarantined".to_owned(), then: Attempt::default() }),
            routed(2, State::Delivered(delivered)),
            routed(3, State::Failed(refused())),
            routed(4, State::Removed),
        ],
        recipients_total: 5,
    }
}

fn summary() -> LaneSummary {
    LaneSummary {
        channel: "smtp".to_owned(),
        host: "[127.0.0.1]:2526".to_owned(),
        recipients: 12,
        active: 0,
        held: 1,
        concurrency: 5,
        ages: [8, 3, 1, 0, 0],
        reason: Some("backing off".to_owned()),
        next: Some(Timestamp::from_millis(1_700_000_300_000)),
        last: Some("cannot connect: connection refused".to_owned()),
    }
}

fn quiet_summary() -> LaneSummary {
    LaneSummary {
        channel: "local".to_owned(),
        host: String::new(),
        active: 2,
        reason: None,
        next: None,
        last: None,
        ..summary()
    }
}

fn status() -> Status {
    Status {
        messages: 12,
        recipients: 14,
        active: 2,
        held: 1,
        lanes: 2,
        lanes_backing_off: 1,
        oldest: Some(accepted_at()),
        enqueued: 1000,
        delivered: 985,
        deferred: 20,
        failed: 3,
        reports: 3,
    }
}

fn id() -> MessageId {
    MessageId::new(accepted_at(), 0x5_dead_beef_cafe)
}

fn handle() -> Handle {
    Handle::parse("spool:2.41.8192").expect("a handle")
}

fn accepted_at() -> Timestamp {
    Timestamp::from_millis(1_700_000_000_000)
}

fn address(text: &str) -> Address {
    Address::parse(text).expect("an address")
}

fn sender() -> Address {
    address("sender@source.example")
}

fn busy() -> Reply {
    Reply {
        status: StatusCode::new(4, 2, 2),
        text: "452 4.2.2 mailbox full".to_owned(),
        remote: Some("mx.example.org".to_owned()),
    }
}

fn refused() -> Reply {
    Reply {
        status: StatusCode::new(5, 1, 1),
        text: "550 5.1.1 no such user".to_owned(),
        remote: Some("mx.example.org".to_owned()),
    }
}

fn origin() -> Origin {
    Origin {
        service: "mx".to_owned(),
        client: "192.0.2.7".parse().ok(),
        helo: Some("client.example".to_owned()),
        protocol: Some("ESMTP".to_owned()),
        user: None,
    }
}

fn envelope(recipients: &[&str]) -> Envelope {
    Envelope {
        sender: Some(sender()),
        recipients: recipients.iter().map(|text| address(text).into()).collect(),
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
    }
}

fn facts() -> RouteFacts {
    let wishes = Recipient {
        address: address("two@example.org"),
        notify: Some(Notify::NEVER),
        orcpt: Some("rfc822;two@example.org".to_owned()),
        hold: Some("quarantined".to_owned()),
    };
    let mut envelope = envelope(&["one@example.test"]);
    envelope.recipients.push(wishes);
    envelope.body = BodyType::EightBitMime;
    envelope.smtputf8 = true;
    envelope.ret = Some(Ret::Hdrs);
    envelope.envid = Some("QQ314159".to_owned());
    RouteFacts {
        envelope,
        size: 4096,
        accepted_at: accepted_at(),
        hold: Some("quarantined".to_owned()),
    }
}

fn routed(index: u32, state: State) -> RoutedRecipient {
    RoutedRecipient {
        index,
        address: address("one@example.org"),
        original: (index == 1).then(|| address("list@example.test")),
        orcpt: (index == 1).then(|| "rfc822;list@example.test".to_owned()),
        notify: (index == 1).then_some(Notify::DEFAULT),
        channel: "smtp".to_owned(),
        host: "[127.0.0.1]:2526".to_owned(),
        user: "one@example.org".to_owned(),
        state,
    }
}

/// What was written before a field could be left out, and what agents of somebody's own leave out.
#[test]
fn longer_and_shorter_frames_are_read_too() {
    let read = |params: &str| {
        let raw = RawValue::from_string(params.to_owned()).expect("JSON");
        EnqueueRequest::read("enqueue", &raw).expect("an old frame")
    };
    let common = r#""handle":"spool:2.41.8192","id":"065wzsb801eynpzezjqy","routing":1,"sender":null,"size":1,"accepted_at":1"#;
    let recipient = r#""index":0,"address":"one@example.org","channel":"smtp","host":"","user":"one@example.org""#;
    let long = read(&format!(
        r#"{{{common},"body":"7bit","smtputf8":false,"recipients":[{{{recipient},"state":{{"open":{{"count":0,"next":0,"delay_reported":false}}}}}}]}}"#
    ));
    let short = read(&format!(r#"{{{common},"recipients":[{{{recipient}}}]}}"#));
    assert_eq!(long, short);
    let deliver = |more: &str| {
        let params = format!(r#"{{{common}{more},"host":"","attempt":1,"recipients":[]}}"#);
        let raw = RawValue::from_string(params).expect("JSON");
        DeliverRequest::read("deliver", &raw).expect("an old frame")
    };
    assert_eq!(deliver(r#","body":"7bit","smtputf8":false"#), deliver(""));
    let answer = |text: &str| serde_json::from_str::<DeliverAnswer>(text).expect("an answer");
    let said =
        r#"{"outcomes":[{"index":0,"outcome":{"delivered":{"status":"2.0.0","text":"ok"}}}]}"#;
    let outcomes = answer(said).outcomes;
    let outcome = outcomes.first().map(|one| &one.outcome);
    assert!(
        matches!(outcome, Some(Outcome::Delivered(one)) if one.report == SuccessReport::Final),
        "{outcome:?}"
    );
    assert!(answer(r#"{"throttle":60}"#).outcomes.is_empty());
}

/// People's programs read lists: nothing is left out there.
#[test]
fn lists_show_every_state() {
    let mut message = queued();
    message.recipients = vec![routed(0, State::default())];
    let shown = serde_json::to_value(&message).expect("JSON");
    let state = shown.pointer("/recipients/0/state/open/count");
    assert_eq!(state, Some(&Value::from(0)), "{shown}");
}

#[test]
fn the_manual_quotes_golden_frames() {
    let manual = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs/job-sockets.md");
    let manual = std::fs::read_to_string(manual).expect("the manual of job sockets");
    let golden: BTreeSet<String> = std::fs::read_dir(folder())
        .expect("the golden folder")
        .map(|entry| std::fs::read_to_string(entry.expect("an entry").path()).expect("a frame"))
        .collect();
    let mut quoted = 0;
    for line in manual.lines().filter(|line| line.starts_with("{\"jsonrpc\"")) {
        let frame: Value = serde_json::from_str(line).expect("the manual's frames are JSON");
        let method = frame.get("method").and_then(Value::as_str).unwrap_or_default();
        // What every conversation shares is tested where it is written, in crate socket.
        let is_lease = frame.pointer("/result/lease_ms").is_some();
        if !["hello", "use", "workers", "drain", "ping", "in_hand"].contains(&method) && !is_lease {
            assert!(golden.contains(&format!("{line}\n")), "no golden frame is {line}");
            quoted += 1;
        }
    }
    assert!(quoted > 20, "the manual shows frames");
}

/// The golden files of one conversation.
struct Golden<C: Conversation> {
    written: BTreeSet<String>,
    wrong: Vec<String>,
    conversation: std::marker::PhantomData<C>,
}

impl<C: Conversation> Golden<C>
where
    C::Request: PartialEq + Debug,
    C::Answer: PartialEq + Debug,
{
    fn new() -> Self {
        Self { written: BTreeSet::new(), wrong: Vec::new(), conversation: std::marker::PhantomData }
    }

    fn request(&mut self, variant: &str, deadline_ms: u64, request: C::Request) {
        let method = request.method();
        let mut params = Vec::new();
        request.write_params(&mut params);
        let params = String::from_utf8(params).expect("JSON is UTF-8");
        let line = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","deadline_ms":{deadline_ms},"params":{params}}}"#
        );
        self.compare(method, "request", variant, &line);

        let read = |params: &Value| {
            let raw = RawValue::from_string(params.to_string()).expect("JSON");
            C::Request::read(method, &raw)
        };
        let mut params: Value = serde_json::from_str(&params).expect("JSON");
        assert_eq!(read(&params).as_ref(), Ok(&request), "{method} is read back as it was");
        let fields = params.as_object_mut().expect("params are an object");
        fields.insert("from_a_later_version".to_owned(), Value::Null);
        assert_eq!(read(&params).as_ref(), Ok(&request), "{method} ignores unknown fields");
        assert!(read(&Value::from(1)).is_err(), "{method} takes an object only");
    }

    fn answer(&mut self, method: &str, variant: &str, answer: C::Answer) {
        let result = serde_json::to_string(&answer).expect("an answer becomes JSON");
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#);
        self.compare(method, "answer", variant, &line);
        let back: C::Answer = serde_json::from_str(&result).expect("an answer is read back");
        assert_eq!(back, answer);
    }

    fn error(&mut self, method: &str, variant: &str, error: ErrorObject) {
        let object = serde_json::to_string(&error).expect("an error becomes JSON");
        let line = format!(r#"{{"jsonrpc":"2.0","id":1,"error":{object}}}"#);
        self.compare(method, "error", variant, &line);
        assert_eq!(
            serde_json::from_str::<ErrorObject>(&object).expect("an error is read back"),
            error
        );
    }

    /// Compares a line with its file, or writes the file.
    fn compare(&mut self, method: &str, part: &str, variant: &str, line: &str) {
        serde_json::from_str::<Value>(line).expect("a frame is JSON");
        assert!(!line.contains('\n'), "a frame is one line");
        let dot = if variant.is_empty() { "" } else { "." };
        let name = format!("{}.{method}.{part}{dot}{variant}.json", C::NAME);
        let path = folder().join(&name);
        if std::env::var("GRANGE_GOLDEN").is_ok_and(|mode| mode == "write") {
            std::fs::write(&path, format!("{line}\n")).expect("a golden file can be written");
        }
        match std::fs::read_to_string(&path) {
            Ok(golden) if golden.strip_suffix('\n') == Some(line) => {}
            Ok(golden) => self.wrong.push(format!("{name}\n  golden {golden}  now    {line}\n")),
            Err(error) => self.wrong.push(format!("{name}: {error}\n  now    {line}\n")),
        }
        assert!(self.written.insert(name), "each variant has a name of its own");
    }

    /// Fails if a file differs, or one of this conversation stands for nothing.
    fn finish(self) {
        assert!(
            self.wrong.is_empty(),
            "the wire format changed (GRANGE_GOLDEN=write accepts it):\n{}",
            self.wrong.join("\n")
        );
        for entry in std::fs::read_dir(folder()).expect("the golden folder") {
            let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
            let ours = name.split('.').next() == Some(C::NAME);
            assert!(!ours || self.written.contains(&name), "{name} stands for nothing any more");
        }
    }
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}
