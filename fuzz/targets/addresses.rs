//! Addresses, ids, handles, status codes and xtext: what is read is written as it was, and read again as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(address) = mail::Address::parse(text) {
        assert_eq!(address.as_str(), text);
        let joined = match address.domain() {
            "" => address.local_part().to_owned(),
            domain => format!("{}@{domain}", address.local_part()),
        };
        assert_eq!(joined, text);
        assert!(!text.contains(['\r', '\n', '\0']), "an address never ends a line");
    }
    if let Ok(id) = text.parse::<mail::MessageId>() {
        assert_eq!(id.as_str(), text);
    }
    if let Ok(handle) = queue::Handle::parse(text) {
        assert_eq!(handle.as_str(), text);
        assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    if let Ok(code) = text.parse::<mail::StatusCode>() {
        assert_eq!(code.to_string().parse(), Ok(code));
    }
    if let Ok(span) = text.parse::<config::Span>() {
        assert_eq!(span.to_string().parse(), Ok(span));
    }
});
