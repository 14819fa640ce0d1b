use proptest::prelude::*;

use super::*;

fn check(line: &str, expect: &str) {
    let text = match parse(line.as_bytes()) {
        Ok(Frame::Request { id, method, deadline, params, .. }) => {
            format!("request {id:?} {method} {deadline:?} {}", params.get())
        }
        Ok(Frame::Notification { method, params }) => {
            format!("notification {method} {}", params.get())
        }
        Ok(Frame::Answer { id, result }) => format!("answer {id:?} {}", result.get()),
        Ok(Frame::Error { id, error }) => format!("error {id:?} {error}"),
        Err(malformed) => format!("malformed {:?} {}", malformed.id, malformed.error.code),
    };
    assert_eq!(text, expect, "{line}");
}

#[test]
fn frames_are_told_apart() {
    let cases = [
        (
            r#"{"jsonrpc":"2.0","id":7,"method":"route","deadline_ms":5000,"params":{"a":1}}"#,
            r#"request Number(7) route Some(5s) {"a":1}"#,
        ),
        (r#"{"id":"x-1","method":"r\u006fute"}"#, r#"request Text("\"x-1\"") route None {}"#),
        (r#"{"id":-1,"method":"m","params":null}"#, r#"request Text("-1") m None {}"#),
        (r#"{"method":"drain","params":{},"later":[1,{}]}"#, "notification drain {}"),
        (r#"{"jsonrpc":"2.0","id":1,"result":null}"#, "answer Number(1) null"),
        (
            r#"{"id":1,"error":{"code":-32001,"message":"not taken","data":3}}"#,
            "error Some(Number(1)) not taken (-32001)",
        ),
        (r#"{"id":null,"error":{"code":-32700,"message":"no"}}"#, "error None no (-32700)"),
        ("GET / HTTP/1.1", "malformed None -32700"),
        (r#"{"id":1"#, "malformed None -32700"),
        ("[]", "malformed None -32600"),
        ("42", "malformed None -32600"),
        ("{}", "malformed None -32600"),
        (r#"{"id":3,"method":5}"#, "malformed Some(Number(3)) -32600"),
        (r#"{"id":3,"method":"m","deadline_ms":-1}"#, "malformed Some(Number(3)) -32600"),
        (r#"{"id":null,"method":"m"}"#, "malformed None -32600"),
        (r#"{"id":{},"method":"m"}"#, "malformed None -32600"),
        (
            r#"{"id":9,"result":1,"error":{"code":1,"message":""}}"#,
            "malformed Some(Number(9)) -32600",
        ),
        ("{\"method\":\"\u{0}\"}", "malformed None -32700"),
    ];
    for (line, expect) in cases {
        check(line, expect);
    }
}

#[test]
fn a_deadline_is_bounded_and_an_error_message_too() {
    let line = br#"{"id":1,"method":"m","deadline_ms":18446744073709551615}"#;
    let Ok(Frame::Request { deadline, .. }) = parse(line) else { panic!() };
    assert_eq!(deadline, Some(DEADLINE_MAX));
    let mut out = Vec::new();
    write_error(&mut out, None, &ErrorObject::new(1, "ä".repeat(10_000)));
    assert!(out.len() < MESSAGE_BYTES_MAX + 100);
    assert!(matches!(parse(out.trim_ascii()), Ok(Frame::Error { .. })));
}

#[test]
fn an_answer_too_long_becomes_an_error() {
    let mut out = Vec::new();
    write_answer(&mut out, &Id::Number(1), &"x".repeat(LINE_BYTES_MAX));
    assert!(matches!(parse(out.trim_ascii()), Ok(Frame::Error { id: Some(Id::Number(1)), .. })));
}

#[test]
fn line_ends_and_empty_lines_are_dropped() {
    let mut lines = Lines::default();
    let mut seen = Vec::new();
    lines
        .feed(b"a\r\n\n\r\nb\nc", |line| {
            seen.push(line.to_vec());
            true
        })
        .unwrap();
    assert_eq!(seen, [b"a", b"b"]);
}

#[test]
fn a_line_may_just_have_the_most_bytes() {
    for (length, fits) in [(LINE_BYTES_MAX - 1, true), (LINE_BYTES_MAX, false)] {
        let mut bytes = vec![b'x'; length];
        bytes.push(b'\n');
        for step in [bytes.len(), 4096] {
            let mut lines = Lines::default();
            let result = bytes.chunks(step).try_for_each(|chunk| lines.feed(chunk, |_| true));
            assert_eq!(result.is_ok(), fits, "{length} by {step}");
        }
    }
}

#[test]
fn what_does_not_end_is_refused_before_it_is_all_kept() {
    let mut lines = Lines::default();
    let result = (0..100_000).try_for_each(|_| lines.feed(&[b'x'; 100], |_| true));
    assert_eq!(result, Err(TooLong));
    assert!(lines.partial.len() <= LINE_BYTES_MAX);
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let frame = prop_oneof![
        Just(r#"{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":"\n"}}"#.to_owned()),
        Just(r#"{"id":1,"result":{}}"#.to_owned()),
        "[ -~]{0,40}",
        any::<String>().prop_map(|text| serde_json::to_string(&text).unwrap()),
    ];
    proptest::collection::vec(frame, 0..8)
        .prop_map(|frames| (frames.join("\n") + "\n").into_bytes())
}

fn lines_of(chunks: &[&[u8]]) -> Vec<Vec<u8>> {
    let mut lines = Lines::default();
    let mut seen = Vec::new();
    for chunk in chunks {
        lines
            .feed(chunk, |line| {
                seen.push(line.to_vec());
                true
            })
            .unwrap();
    }
    seen
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn frames_survive_a_split_at_every_byte(bytes in frames()) {
        let whole = lines_of(&[&bytes]);
        for at in 0..bytes.len() {
            let (one, two) = bytes.split_at(at);
            prop_assert_eq!(&lines_of(&[one, two]), &whole);
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        prop_assert_eq!(&lines_of(&single), &whole);
    }

    #[test]
    fn what_is_written_is_read(id: u64, deadline in proptest::option::of(0u64..1_000_000), text: String) {
        let params = serde_json::to_vec(&text).unwrap();
        let mut out = Vec::new();
        write_request(
            &mut out,
            id,
            "method",
            (deadline.map(Duration::from_millis), false),
            &params,
        );
        prop_assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
        match parse(out.trim_ascii_end()) {
            Ok(Frame::Request { id: Id::Number(back), method, deadline: told, params, .. }) => {
                prop_assert_eq!((back, &*method), (id, "method"));
                prop_assert_eq!(told, deadline.map(Duration::from_millis));
                prop_assert_eq!(serde_json::from_str::<String>(params.get()).unwrap(), text);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}

#[test]
fn our_own_frames_are_told_by_their_beginning() {
    for deadline in [None, Some(Duration::from_millis(5000)), Some(Duration::MAX)] {
        for params in ["{}", r#"{"text":"a } \" é"}"#, "[1,{}]"] {
            let mut line = Vec::new();
            write_request(&mut line, u64::MAX, "route", (deadline, false), params.as_bytes());
            let line = line.trim_ascii_end();
            let plain = plain_request(line).unwrap();
            assert_eq!((plain.id, plain.method, plain.params), (u64::MAX, "route", params));
            assert_eq!(plain.deadline, deadline.map(|deadline| deadline.min(DEADLINE_MAX)));
            assert!(plain_answer(line).is_none());
            let Ok(Frame::Request { id, params: slow, .. }) = parse(line) else { panic!() };
            assert_eq!((id, slow.get()), (Id::Number(u64::MAX), params));
        }
    }
    let mut line = Vec::new();
    write_answer(&mut line, &Id::Number(0), &("a", 1));
    let line = line.trim_ascii_end();
    assert_eq!(plain_answer(line), Some((0, r#"["a",1]"#)));
    assert!(plain_request(line).is_none());
}

#[test]
fn other_frames_are_not_taken_for_ours() {
    let cases = [
        r#"{"id":1,"jsonrpc":"2.0","method":"m","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":01,"method":"m","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":18446744073709551616,"method":"m","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":"1","method":"m","params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"m","deadline_ms":-1,"params":{}}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{}"#,
        r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#,
        r#"{"jsonrpc":"2.0","id":1"#,
        r#"{"jsonrpc":"2.0","id":"#,
    ];
    for case in cases {
        let params = plain_request(case.as_bytes()).map(|plain| plain.params.to_owned());
        // Where one is cut short, what is left must not be JSON.
        assert!(params.is_none_or(|params| serde_json::from_str::<&RawValue>(&params).is_err()));
    }
}

proptest! {
    /// Whatever is taken by its beginning, and carries JSON, is what it would have been when read with care.
    #[test]
    fn both_ways_of_reading_agree(tail in r#"[0-9]{1,21}(,"method":"[a-z\\]{0,2}"|)(,"deadline_ms":[0-9]{1,3}|)(,"params":|,"result":)[{}\[\]"a,:1 ]{0,6}"#) {
        let line = format!("{{\"jsonrpc\":\"2.0\",\"id\":{tail}}}");
        let is_json = |text: &str| serde_json::from_str::<&RawValue>(text).is_ok();
        if let Some(plain) = plain_request(line.as_bytes()).filter(|plain| is_json(plain.params) && !plain.method.contains('\\')) {
            let Ok(Frame::Request { id, method, deadline, params, .. }) = parse(line.as_bytes()) else { panic!("{line}") };
            prop_assert_eq!((id, &*method, deadline), (Id::Number(plain.id), plain.method, plain.deadline));
            prop_assert_eq!(params.get(), plain.params.trim());
        }
        if let Some((number, result)) = plain_answer(line.as_bytes()).filter(|(_, result)| is_json(result)) {
            let Ok(Frame::Answer { id, result: slow }) = parse(line.as_bytes()) else { panic!("{line}") };
            prop_assert_eq!((id, slow.get()), (Id::Number(number), result.trim()));
        }
    }
}
