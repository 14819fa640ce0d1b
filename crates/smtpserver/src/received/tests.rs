//! The field as it is written, for good names and bad ones.

use super::*;

fn field(helo: &str, client: &str, recipient: Option<&str>) -> String {
    let recipient = recipient.map(|text| Address::parse(text).expect("an address"));
    let received = Received {
        helo,
        client: client.parse().expect("an address"),
        hostname: "mx.example.test",
        protocol: "ESMTP",
        id: MessageId::new(Timestamp::from_millis(0), 0),
        recipient: recipient.as_ref(),
        at: Timestamp::from_millis(1_785_844_800_000),
    };
    received.field()
}

#[test]
fn the_field_is_what_rfc_5321_wants() {
    assert_eq!(
        field("client.example.org", "192.0.2.1", Some("a@example.test")),
        "Received: from client.example.org ([192.0.2.1])\r\n\tby mx.example.test (Grange) with ESMTP id \
         00000000000000000000\r\n\tfor <a@example.test>;\r\n\tTue, 04 Aug 2026 12:00:00 +0000\r\n"
    );
    assert!(field("x", "2001:db8::1", None).contains("([IPv6:2001:db8::1])"));
    assert!(field("x", "::ffff:192.0.2.1", None).contains("([192.0.2.1])"));
    assert!(!field("x", "::1", None).contains("for"));
}

#[test]
fn a11_a_name_cannot_write_header_syntax() {
    let found = field("evil);x;(y<z>\"\\@", "192.0.2.1", None);
    assert!(found.starts_with("Received: from evil??x??y?z???? ([192.0.2.1])\r\n"), "{found}");
}
