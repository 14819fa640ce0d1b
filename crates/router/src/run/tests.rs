//! How a message is cut into parts.

use mail::{Address, Envelope, MessageId, Recipient, Timestamp};
use queue::Handle;

use super::*;

fn recipient(index: u32) -> RoutedRecipient {
    RoutedRecipient {
        index,
        address: Address::parse(&format!("u{index}@example.org")).expect("well-formed"),
        original: None,
        orcpt: None,
        notify: None,
        channel: "smtp".to_owned(),
        host: "example.org".to_owned(),
        user: format!("u{index}@example.org"),
        state: State::default(),
    }
}

fn request() -> (RouteRequest, RouteFacts) {
    let request = RouteRequest {
        handle: Handle::parse("memory:1").expect("well-formed"),
        id: MessageId::new(Timestamp::from_millis(1), 2),
        routing: 3,
        facts: None,
    };
    let address = Address::parse("anna@example.test").expect("well-formed");
    let envelope = Envelope {
        sender: Some(address.clone()),
        recipients: vec![Recipient::from(address)],
        body: mail::BodyType::EightBitMime,
        smtputf8: true,
        ret: Some(mail::Ret::Full),
        envid: Some("QQ1".to_owned()),
    };
    let hold = Some("virus".to_owned());
    (request, RouteFacts { envelope, size: 7, accepted_at: Timestamp::from_millis(5), hold })
}

#[test]
fn a_large_message_goes_in_parts() {
    for (count, sizes) in [
        (0, vec![0]),
        (1, vec![1]),
        (500, vec![500]),
        (501, vec![500, 1]),
        (1200, vec![500, 500, 200]),
    ] {
        let (request, facts) = request();
        let parts = parts_of(request, facts, (0..count).map(recipient).collect());
        assert_eq!(parts.iter().map(|part| part.recipients.len()).collect::<Vec<_>>(), sizes);
        let mut next = 0;
        for (position, part) in parts.iter().enumerate() {
            assert_eq!(part.part as usize, position);
            assert_eq!(part.more, position + 1 < sizes.len());
            assert_eq!((part.routing, part.size), (3, 7));
            assert_eq!(part.envid.as_deref(), Some("QQ1"));
            assert_eq!(part.hold.as_deref(), Some("virus"));
            assert!(part.smtputf8);
            for one in &part.recipients {
                assert_eq!(one.index, next);
                next += 1;
            }
        }
    }
}
