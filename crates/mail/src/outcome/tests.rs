//! Status codes as text, outcomes on the wire.

use proptest::prelude::*;

use super::*;

#[test]
fn status_codes_are_read() {
    for (text, code) in [
        ("2.0.0", Some(StatusCode::new(2, 0, 0))),
        ("5.1.1", Some(StatusCode::new(5, 1, 1))),
        ("4.999.999", Some(StatusCode::new(4, 999, 999))),
        ("3.0.0", None),
        ("5.1", None),
        ("5.1.1.1", None),
        ("5..1", None),
        ("5.1000.1", None),
        ("5.1.x", None),
        ("5.+1.1", None),
        (" 5.1.1", None),
        ("", None),
    ] {
        assert_eq!(text.parse().ok(), code, "{text:?}");
    }
}

#[test]
fn outcomes_keep_their_form_on_the_wire() {
    let reply = Reply {
        status: StatusCode::new(2, 0, 0),
        text: "250 ok".into(),
        remote: Some("mx.example.org".into()),
    };
    for (outcome, json) in [
        (
            Outcome::Delivered(Delivered { reply: reply.clone(), report: SuccessReport::PassedOn }),
            r#"{"delivered":{"status":"2.0.0","text":"250 ok","remote":"mx.example.org","report":"passed_on"}}"#,
        ),
        (
            Outcome::Deferred(Reply::ours(StatusCode::new(4, 4, 1), "no answer")),
            r#"{"deferred":{"status":"4.4.1","text":"no answer"}}"#,
        ),
    ] {
        assert_eq!(serde_json::to_string(&outcome).unwrap(), json);
        assert_eq!(serde_json::from_str::<Outcome>(json).unwrap(), outcome);
    }
}

proptest! {
    #[test]
    fn status_codes_are_read_as_written(class in prop_oneof![Just(2u8), Just(4), Just(5)], subject in 0u16..1000, detail in 0u16..1000) {
        let code = StatusCode::new(class, subject, detail);
        prop_assert_eq!(code.to_string().parse(), Ok(code));
    }

    #[test]
    fn reading_any_status_is_safe(text in ".{0,20}") {
        let _ = text.parse::<StatusCode>();
    }
}
