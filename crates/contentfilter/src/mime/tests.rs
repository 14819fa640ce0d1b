//! MIME as it is, as it is malformed, and as bombs.

use proptest::prelude::*;

use super::*;

fn check(message: &str, names: &[&str], texts: &[&str]) {
    for message in [message.to_owned(), message.replace('\n', "\r\n")] {
        let found = parts(message.as_bytes()).expect("an honest message");
        let found_texts: Vec<String> = found
            .texts
            .iter()
            .map(|text| text.replace("\r\n", "\n").trim_end().to_owned())
            .collect();
        assert_eq!(found.names, names, "{message:?}");
        assert_eq!(found_texts, texts, "{message:?}");
    }
}

#[test]
fn finds_text_and_names() {
    check("", &[], &[""]);
    check("Subject: x\n\nhello\n", &[], &["hello"]);
    check("Subject: x", &[], &[""]);
    check("\nno headers\n", &[], &["no headers"]);
    check(
        "Content-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\ncaf=E9 =\nnow",
        &[],
        &["café now"],
    );
    check(
        "Content-Type: application/x; name=a.exe\nContent-Transfer-Encoding: base64\n\naGVsbG8=\n",
        &["a.exe"],
        &[],
    );
    check(
        "Content-Disposition: attachment;\n filename*=utf-8''%c3%a9.scr\n\nx",
        &["é.scr"],
        &["x"],
    );
    check(
        "Content-Disposition: attachment;\n filename*0=\"a.\"; filename*1=exe\nContent-Disposition: inline; filename=b.txt\n\nx",
        &["a.exe", "b.txt"],
        &["x"],
    );
}

const MIXED: &str = "Content-Type: multipart/mixed; boundary=\"b\"

preamble
--b
Content-Type: multipart/alternative; boundary=bb

--bb

plain
--bb
Content-Type: text/html
Content-Transfer-Encoding: BASE64

PGI+aHRtbDwvYj4=
--bb--
epilogue
--b
Content-Type: message/rfc822

Content-Type: application/octet-stream; name=\"inner.exe\"

data
--bx not a boundary
--b  
Content-Type: message/rfc822
Content-Transfer-Encoding: base64

Q29udGVudC1EaXNwb3NpdGlvbjogYXR0YWNobWVudDsgZmlsZW5hbWU9ZGVlcC5zY3IKCmRlZXAK
--b
Content-Type: image/png; name=last.png

";

#[test]
fn goes_through_nested_parts_in_order() {
    check(MIXED, &["inner.exe", "deep.scr", "last.png"], &["plain", "<b>html</b>", "deep"]);
}

#[test]
fn reads_what_is_malformed_as_readers_do() {
    check("Content-Type: multipart/mixed\n\nno boundary", &[], &["no boundary"]);
    check("Content-Type: multipart/mixed; boundary=b\n\nnever seen", &[], &["never seen"]);
    check("Content-Type: multipart/mixed; boundary=b\n\n--b\n\nunclosed", &[], &["unclosed"]);
    check(
        "Content-Type: multipart/digest; boundary=b\n\n--b\n\nContent-Type: text/plain; name=d\n\nx\n--b--",
        &["d"],
        &["x"],
    );
}

/// Attack A19: depth. An encoded message within may hide as much depth as one that is not.
#[test]
fn a_line_that_is_no_field_hides_nothing() {
    check("Subject: x\nbuy pills\nX: y\n\nbody\n", &[], &["body", "buy pills\nX: y\n\nbody"]);
    check(
        "Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: quoted-printable\n<b>\nbu=\ny pills\n",
        &[],
        &["", "<b>\nbuy pills"],
    );
    check(
        "Content-Type: multipart/mixed; boundary=b\n(\n--b\nContent-Disposition: attachment; filename=a.exe\n\nhidden\n--b--\n",
        &["a.exe", "a.exe"],
        &["hidden\n--b--", "hidden"],
    );
    // Only the message's own: a part without header is text as before.
    check(
        "Content-Type: multipart/mixed; boundary=b\n\n--b\nSubject: x\nno field\n\ntext\n--b--\n",
        &[],
        &["text"],
    );
}

#[test]
fn a19_deep_nesting_is_refused_and_costs_no_stack() {
    let level = "Content-Type: message/rfc822\r\n\r\n";
    for (levels, is_too_deep) in
        [(MIME_DEPTH_MAX, false), (MIME_DEPTH_MAX + 1, true), (300_000, true)]
    {
        let message = level.repeat(levels);
        assert_eq!(parts(message.as_bytes()).is_err(), is_too_deep, "{levels}");
    }
    let level = "Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n";
    assert_eq!(parts(level.repeat(10_000).as_bytes()), Err(TooComplex));
    let nested: String = (0..1000)
        .map(|n| format!("Content-Type: multipart/mixed; boundary=b{n}\r\n\r\n--b{n}\r\n"))
        .collect();
    assert_eq!(parts(nested.as_bytes()), Err(TooComplex));
    let mut message = "Content-Type: message/rfc822\r\n\r\n".repeat(1000);
    for _ in 0..3 {
        let encoded = encode(message.as_bytes());
        message = format!(
            "Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n{encoded}"
        );
    }
    assert_eq!(parts(message.as_bytes()), Err(TooComplex));
}

/// Attack A19: breadth. Attack A18: 10⁵ headers, and one of a megabyte.
#[test]
fn a19_breadth_is_bounded() {
    let part = "--b\r\n\r\n";
    let head = "Content-Type: multipart/mixed; boundary=b\r\n\r\n";
    assert!(parts(format!("{head}{}", part.repeat(MIME_PARTS_MAX - 2)).as_bytes()).is_ok());
    assert_eq!(parts(format!("{head}{}", part.repeat(1 << 20)).as_bytes()), Err(TooComplex));
    let many = format!("{}\r\nbody", "X-Header: value\r\n".repeat(100_000));
    assert_eq!(parts(many.as_bytes()).expect("headers only").texts, ["body"]);
    let long = format!("Content-Type: {}\r\n\r\nbody", "a".repeat(1 << 20));
    assert!(parts(long.as_bytes()).is_ok());
    let long = format!("Content-Type: text/plain; {}\r\n\r\nbody", "a=b; ".repeat(100_000));
    assert_eq!(parts(long.as_bytes()).expect("one part").texts, ["body"]);
}

fn encode(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0u32, |all, byte| all << 8 | u32::from(*byte))
            << (8 * (3 - chunk.len()));
        for place in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(group >> (18 - 6 * place)) as usize & 63]));
        }
        text.push_str(&"=".repeat(3 - chunk.len()));
    }
    text
}

proptest! {
    #[test]
    fn base64_is_undone(bytes: Vec<u8>) {
        prop_assert_eq!(decode::base64(encode(&bytes).as_bytes()), bytes);
    }

    #[test]
    fn no_message_breaks_it(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("Content-Type: multipart/mixed; boundary=b\r\n".to_owned()),
                Just("Content-Type: message/rfc822\r\n".to_owned()),
                Just("Content-Type: text/plain; charset=utf-16; name*0*=a''%".to_owned()),
                Just("Content-Disposition: attachment; filename=\"".to_owned()),
                Just("Content-Transfer-Encoding: base64\r\n".to_owned()),
                Just("--b\r\n".to_owned()),
                Just("--b--".to_owned()),
                Just("\r\n".to_owned()),
                "[ -~\r\n\u{e9}\u{0}]{0,20}",
            ],
            0..30,
        )
    ) {
        let message = pieces.concat();
        if let Ok(found) = parts(message.as_bytes()) {
            let text: usize = found.texts.iter().map(String::len).sum();
            prop_assert!(text <= 4 * message.len() + 16);
        }
    }
}
