//! What filters see of a message, with the changes of those before.

use super::*;

fn message(text: &'static str) -> Message {
    Message::new(text.len() as u64, Bytes::from_static(text.as_bytes()), 1 << 20, None)
}

fn shown(message: &Message) -> (String, String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
    (text(message.head()), text(message.body()), text(&message.whole()))
}

#[test]
fn changes_add_up() {
    let first = message("Subject: x\r\n\r\nbody\r\n");
    let as_it_came = ("Subject: x\r\n\r\n", "body\r\n", "Subject: x\r\n\r\nbody\r\n");
    let (head, body, whole) = shown(&first);
    assert_eq!((&*head, &*body, &*whole), as_it_came);
    let edit = Edit::Prepend { name: "X-A".to_owned(), value: "a".to_owned() };
    let second = first.with(std::slice::from_ref(&edit), None);
    assert_eq!(shown(&second).0, "X-A: a\r\nSubject: x\r\n\r\n");
    assert_eq!(shown(&second).1, "body\r\n");
    let remove = Edit::Change { name: "X-A".to_owned(), nth: 1, value: None };
    let third = second.with(std::slice::from_ref(&remove), Some(b"new\rbody"));
    assert_eq!(shown(&third).2, "Subject: x\r\n\r\nnew\r\nbody\r\n");
    assert_eq!(third.edits(), [edit, remove]);
    assert_eq!(
        third.replaced().map(|bytes| &**bytes),
        Some(&b"Subject: x\r\n\r\nnew\r\nbody\r\n"[..])
    );
    assert_eq!(second.replaced(), None);
    let fourth = third.with(&[], None);
    assert_eq!(shown(&fourth), shown(&third));
    assert_eq!(shown(&first).2, "Subject: x\r\n\r\nbody\r\n", "what was before stays");
}

#[test]
fn a_message_without_an_empty_line() {
    for text in ["", "Subject: x\r\n", "no field at all\r\n", "Subject: x\r\nno field\r\n"] {
        let plain = message(text);
        assert_eq!(shown(&plain).2, text);
        let edit = Edit::Append { name: "X-A".to_owned(), value: "a".to_owned() };
        let (head, body, whole) = shown(&plain.with(&[edit], None));
        assert!(head.ends_with("X-A: a\r\n\r\n"), "{head:?}");
        assert_eq!(whole, format!("{head}{body}"));
    }
}
