//! Requests and answers of every conversation, as a peer that means no good would write them.
//!
//! The first byte chooses the conversation, the second the method, the rest is `params`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use socket::{Conversation, Request};

fuzz_target!(|bytes: &[u8]| {
    let [conversation, method, rest @ ..] = bytes else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let Ok(params) = RawValue::from_string(text.to_owned()) else { return };
    match conversation % 9 {
        0 => read::<job::admin::Admin>(*method, &params),
        1 => read::<job::deliver::Deliver>(*method, &params),
        2 => read::<job::enqueue::Enqueue>(*method, &params),
        3 => read::<job::inspect::Inspect>(*method, &params),
        4 => read::<job::known::Known>(*method, &params),
        5 => read::<job::requeue::Requeue>(*method, &params),
        6 => read::<job::route::Route>(*method, &params),
        7 => read::<job::strike::Strike>(*method, &params),
        _ => read::<job::verify::Verify>(*method, &params),
    }
});

const METHODS: &[&str] = &[
    "list", "summary", "show", "hold", "release", "retry", "remove", "bounce", "reroute",
    "suspend", "resume", "status",
];

/// What is taken is written as one line, which reads as the same again.
fn read<C: Conversation>(method: u8, params: &RawValue) {
    let method = match C::NAME {
        "admin" => METHODS[usize::from(method) % METHODS.len()],
        name => name,
    };
    let _ = serde_json::from_str::<C::Answer>(params.get());
    let Ok(request) = C::Request::read(method, params) else { return };
    assert_eq!(request.method(), method);
    let (mut once, mut twice) = (Vec::new(), Vec::new());
    request.write_params(&mut once);
    assert!(!once.contains(&b'\n'), "a frame is one line");
    let written = RawValue::from_string(String::from_utf8(once.clone()).expect("JSON is UTF-8"))
        .expect("JSON");
    C::Request::read(method, &written).expect("our own words are read").write_params(&mut twice);
    assert_eq!(once, twice);
}
