//! Tables of networks and clients.

use super::*;

fn network(text: &str) -> Network {
    text.parse().expect(text)
}

#[test]
fn clients_are_in_or_out() {
    for (text, client, expect) in [
        ("127.0.0.0/8", "127.1.2.3", true),
        ("127.0.0.0/8", "128.0.0.1", false),
        ("127.0.0.0/8", "::ffff:127.0.0.1", true),
        ("0.0.0.0/0", "203.0.113.9", true),
        ("0.0.0.0/0", "2001:db8::1", false),
        ("192.0.2.7", "192.0.2.7", true),
        ("192.0.2.7", "192.0.2.8", false),
        ("192.0.2.7/24", "192.0.2.99", true),
        ("::1/128", "::1", true),
        ("2001:db8::/32", "2001:db8:ffff::1", true),
        ("2001:db8::/32", "2001:db9::1", false),
        ("::/0", "192.0.2.1", false),
        ("[2001:db8::]/33", "2001:db8:8000::1", false),
    ] {
        let client = client.parse().expect("an address");
        assert_eq!(network(text).contains(client), expect, "{text} {client}");
    }
}

#[test]
fn what_is_no_network() {
    for text in [
        "",
        "127.0.0.1/33",
        "::1/129",
        "127.0.0/8",
        "10.0.0.0/+8",
        "10.0.0.0/",
        "host/8",
        "1.2.3.4/8/8",
    ] {
        assert_eq!(text.parse::<Network>(), Err(NetworkError), "{text}");
    }
    assert!(!network("192.0.2.7/24").is_plain());
    assert_eq!(network("192.0.2.7/24").plain().to_string(), "192.0.2.0/24");
}
