//! How much memory a waiting recipient takes. A process of its own, so that nothing else counts.

use mail::{BodyType, MessageId, Timestamp};
use queue::{Handle, Record, Routed, RoutedRecipient, State};
use scheduler::Settings;
use scheduler::machine::{Actions, Now, Scheduler};

const MESSAGES: u64 = 100_000;
/// What a message of one recipient may take, in bytes, with everything around it.
const BYTES_MAX: u64 = 450;
/// What one more recipient of the same message may take.
const RECIPIENT_BYTES_MAX: u64 = 150;

fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 =
        statm.split(' ').nth(1).and_then(|field| field.parse().ok()).expect("a number");
    pages * 4096
}

fn routed(number: u64, recipients: u32) -> Record {
    let id = MessageId::new(Timestamp::from_millis(1_700_000_000_000 + number), number);
    let recipient = |index: u32| {
        let address = format!("user{number}.{index}@some-domain.example");
        RoutedRecipient {
            index,
            address: address.parse().expect("an address"),
            original: None,
            orcpt: None,
            notify: None,
            channel: "smtp".to_owned(),
            host: format!("host{}.example", number % 1000),
            user: address,
            state: State::default(),
        }
    };
    Record::Routed(Box::new(Routed {
        id,
        handle: Handle::parse(&format!("spool:2.41.{}", number * 4096)).expect("a handle"),
        routing: 1,
        sender: Some("somebody@sender.example".parse().expect("an address")),
        size: 4096,
        accepted_at: Timestamp::from_millis(1_700_000_000_000),
        body: BodyType::SevenBit,
        smtputf8: false,
        ret: None,
        envid: None,
        hold: None,
        recipients: (0..recipients).map(recipient).collect(),
        owed: Vec::new(),
        strikes: 0,
    }))
}

/// Bytes for each of `count` units of work.
fn cost(messages: u64, recipients: u32) -> u64 {
    let before = resident();
    let mut scheduler = Scheduler::new(Settings::default(), &[]);
    for number in 0..messages {
        scheduler.replay(&routed(number, recipients));
    }
    let mut actions = Actions::default();
    let now = Now { wall: Timestamp::from_millis(1_700_000_000_000), mono: 1 };
    scheduler.start(now, &mut || 1, &mut actions);
    scheduler.finish(now, &mut || 1, &mut actions);
    assert_eq!(scheduler.messages() as u64, messages);
    let bytes = resident() - before;
    std::mem::forget(scheduler);
    bytes / (messages * u64::from(recipients))
}

#[test]
fn a_waiting_recipient_is_small() {
    let alone = cost(MESSAGES, 1);
    let many = cost(MESSAGES / 50, 50);
    println!("{alone} bytes for a message of one recipient, {many} for each of fifty");
    assert!(alone < BYTES_MAX, "{alone} bytes");
    assert!(many < RECIPIENT_BYTES_MAX, "{many} bytes");
}
