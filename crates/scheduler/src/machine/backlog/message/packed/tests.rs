use mail::{Delivered, Notify, SuccessReport};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use queue::{Attempt, Routed, RoutedRecipient, State};

use super::*;
use crate::machine::lane::Lanes;

fn reply() -> impl Strategy<Value = Reply> {
    let remote = option::of("[a-z.]{0,20}");
    (0..3u8, 0..1000u16, 0..1000u16, ".{0,60}", remote).prop_map(
        |(class, subject, detail, text, remote)| {
            let class = [2, 4, 5][usize::from(class)];
            Reply { status: StatusCode::new(class, subject, detail), text, remote }
        },
    )
}

fn attempt() -> impl Strategy<Value = Attempt> {
    (any::<u32>(), any::<u64>(), option::of(reply()), any::<bool>()).prop_map(
        |(count, next, last, delay_reported)| {
            let next = Timestamp::from_millis(next);
            Attempt { count, next, last, delay_reported }
        },
    )
}

fn state() -> impl Strategy<Value = State> {
    let report = prop_oneof![
        Just(SuccessReport::PassedOn),
        Just(SuccessReport::Relayed),
        Just(SuccessReport::Final)
    ];
    prop_oneof![
        4 => attempt().prop_map(State::Open),
        1 => (".{0,30}", attempt()).prop_map(|(reason, then)| State::Held { reason, then }),
        1 => (reply(), report)
            .prop_map(|(reply, report)| State::Delivered(Delivered { reply, report })),
        1 => reply().prop_map(State::Failed),
        1 => Just(State::Removed),
    ]
}

fn address() -> impl Strategy<Value = Address> {
    "[a-zü]{1,20}@[a-z]{1,10}\\.test".prop_map(|text| Address::parse(&text).expect("an address"))
}

fn notify() -> impl Strategy<Value = Notify> {
    (any::<bool>(), any::<bool>(), any::<bool>()).prop_map(|(success, failure, delay)| Notify {
        success,
        failure,
        delay,
    })
}

fn recipient() -> impl Strategy<Value = RoutedRecipient> {
    let details = (option::of(address()), option::of(".{0,20}"), option::of(notify()));
    (any::<u32>(), address(), any::<bool>(), details, 0..5u8, state()).prop_map(
        |(index, address, plain, (original, orcpt, notify), host, state)| RoutedRecipient {
            index,
            user: if plain { address.to_string() } else { "somebody else".to_owned() },
            address,
            original,
            orcpt,
            notify,
            channel: "smtp".to_owned(),
            host: format!("h{host}.test"),
            state,
        },
    )
}

/// What is not written down of a recipient: its losses, and when it is due if it waits.
type Moment = (u8, Option<u64>);

prop_compose! {
    fn message()(
        (number, at_id, size, accepted) in (any::<u64>(), any::<bool>(), any::<u64>(), any::<u64>()),
        (routing, strikes, reroute) in (any::<u32>(), any::<u32>(), option::of(any::<u32>())),
        (sender, envid, hold) in (option::of(address()), option::of(".{0,20}"), option::of(".{0,40}")),
        (eight_bit, smtputf8, by_hand, ret) in (any::<bool>(), any::<bool>(), any::<bool>(), 0..3u8),
        recipients in vec((recipient(), any::<Moment>()), 0..6),
    ) -> Message {
        let id = MessageId::new(Timestamp::from_millis(number), number);
        let handle = if at_id { format!("spool:1.2.3.{id}.m") } else { format!("pg:{number}") };
        let mut recipients = recipients;
        recipients.sort_by_key(|(recipient, _)| recipient.index);
        recipients.dedup_by_key(|(recipient, _)| recipient.index);
        let (recipients, moments): (Vec<_>, Vec<_>) = recipients.into_iter().unzip();
        let routed = Routed {
            id,
            handle: Handle::parse(&handle).expect("a handle"),
            routing,
            sender,
            size,
            accepted_at: Timestamp::from_millis(accepted),
            body: if eight_bit { BodyType::EightBitMime } else { BodyType::SevenBit },
            smtputf8,
            ret: [None, Some(Ret::Full), Some(Ret::Hdrs)][usize::from(ret)],
            envid,
            hold,
            recipients,
            owed: Vec::new(),
            strikes,
        };
        let mut message = Message::new(&routed, &mut Lanes::default());
        message.reroute = reroute;
        message.quarantined &= !by_hand;
        for (recipient, (losses, due)) in message.recipients.iter_mut().zip(moments) {
            recipient.losses = losses;
            recipient.place = due.map_or(Place::Parked, Place::Waiting);
        }
        message
    }
}

proptest! {
    #[test]
    fn what_is_unpacked_is_what_was_packed(message in message()) {
        let packed = message.pack();
        let unpacked = Message::unpack(&packed);
        prop_assert_eq!(format!("{message:?}"), format!("{unpacked:?}"));
        prop_assert_eq!(Message::packed_has_hold(&packed), message.has_hold());
        prop_assert_eq!(unpacked.pack(), packed);
    }
}

#[test]
fn an_ordinary_message_that_waits_is_small() {
    let id = MessageId::new(Timestamp::from_millis(1_800_000_000_000), 1);
    let text = "450 4.2.0 Recipient address rejected: Greylisted".to_owned();
    let attempt = Attempt {
        count: 1,
        next: Timestamp::from_millis(1_800_000_300_000),
        last: Some(Reply { status: StatusCode::new(4, 2, 0), text, remote: None }),
        delay_reported: false,
    };
    let routed = Routed {
        id,
        handle: Handle::parse(&format!("spool:1.12.1234560.4567.{id}.m")).expect("a handle"),
        routing: 1,
        sender: Some(Address::parse("sender@source.example").expect("an address")),
        size: 4096,
        accepted_at: Timestamp::from_millis(1_800_000_000_000),
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        hold: None,
        recipients: vec![RoutedRecipient {
            index: 0,
            address: Address::parse("recipient@sink.example").expect("an address"),
            original: None,
            orcpt: None,
            notify: None,
            channel: "smtp".to_owned(),
            host: "sink.example".to_owned(),
            user: "recipient@sink.example".to_owned(),
            state: State::Open(attempt),
        }],
        owed: Vec::new(),
        strikes: 0,
    };
    let message = Message::new(&routed, &mut Lanes::default());
    assert!(message.may_be_packed());
    let bytes = message.pack().len();
    assert!(bytes < 180, "{bytes} bytes");
}
