//! Addresses that are and that are not.

use proptest::prelude::*;

use super::*;

#[test]
fn addresses_are_taken_apart() {
    for (text, local, domain) in [
        ("ada@example.test", "ada", "example.test"),
        ("Ada.B+tag@Example.Test", "Ada.B+tag", "Example.Test"),
        ("\"a b\"@example.test", "\"a b\"", "example.test"),
        ("\"a@b\\\"c\"@example.test", "\"a@b\\\"c\"", "example.test"),
        ("ada@[192.0.2.1]", "ada", "[192.0.2.1]"),
        ("ada@[IPv6:2001:db8::1]", "ada", "[IPv6:2001:db8::1]"),
        ("grün@bücher.example", "grün", "bücher.example"),
        ("a!b%c@example.test", "a!b%c", "example.test"),
        ("x@_dmarc.example.test", "x", "_dmarc.example.test"),
        ("Postmaster", "Postmaster", ""),
    ] {
        let address = Address::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!((address.local_part(), address.domain()), (local, domain), "{text}");
        assert_eq!(address.as_str(), text);
    }
}

#[test]
fn what_is_no_address_is_refused() {
    let (long_local, long_domain) = ("x".repeat(65), "x.".repeat(130));
    for (text, error) in [
        ("", AddressError::LocalPart),
        ("@example.test", AddressError::LocalPart),
        ("ada", AddressError::NoDomain),
        ("ada@", AddressError::Domain),
        (".ada@example.test", AddressError::LocalPart),
        ("ada.@example.test", AddressError::LocalPart),
        ("a..b@example.test", AddressError::LocalPart),
        ("a b@example.test", AddressError::LocalPart),
        ("a\r\nb@example.test", AddressError::LocalPart),
        ("\"\"@example.test", AddressError::LocalPart),
        ("\"a", AddressError::LocalPart),
        ("\"a\"b@example.test", AddressError::LocalPart),
        ("\"a\u{7f}\"@example.test", AddressError::LocalPart),
        ("ada@example..test", AddressError::Domain),
        ("ada@-example.test", AddressError::Domain),
        ("ada@example.test.", AddressError::Domain),
        ("ada@exa mple.test", AddressError::Domain),
        ("ada@b@example.test", AddressError::Domain),
        ("ada@[192.0.2.256]", AddressError::Domain),
        ("ada@[192.0.2.1", AddressError::Domain),
        ("ada@[IPv6:xyz]", AddressError::Domain),
        ("ada@[é.0.0.1]", AddressError::Domain),
        (&format!("{long_local}@example.test"), AddressError::LocalPartTooLong),
        (&format!("a@{long_domain}"), AddressError::TooLong),
        (&format!("a@{}.test", "x".repeat(64)), AddressError::Domain),
    ] {
        assert_eq!(Address::parse(text), Err(error), "{text:?}");
    }
}

proptest! {
    #[test]
    fn parsing_anything_is_safe(text in "(?s).{0,80}") {
        if let Ok(address) = Address::parse(&text) {
            prop_assert!(!address.as_str().contains(['\r', '\n', '\0']));
            prop_assert!(address.as_str().starts_with(address.local_part()));
            prop_assert!(address.as_str().ends_with(address.domain()));
        }
    }

    #[test]
    fn what_the_grammar_makes_is_taken(
        text in "[a-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}(\\.[a-z]{1,10}){0,3}@[a-z0-9]{1,20}(\\.[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?){0,3}",
    ) {
        let address = Address::parse(&text).unwrap();
        prop_assert_eq!(format!("{}@{}", address.local_part(), address.domain()), text.clone());
        let json = serde_json::to_string(&address).unwrap();
        prop_assert_eq!(serde_json::from_str::<Address>(&json).unwrap(), address);
    }
}
