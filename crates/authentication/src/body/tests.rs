//! Canonical bodies, as RFC 6376 has them and as dkimpy makes them.

use super::*;

fn text(canonicalization: Canonicalization, body: &str) -> String {
    let mut out = Vec::new();
    write(canonicalization, body.as_bytes(), &mut |part| out.extend_from_slice(part));
    String::from_utf8(out).unwrap()
}

#[test]
fn bodies_are_as_rfc_6376_has_them() {
    for (body, relaxed, simple) in [
        ("", "", "\r\n"),
        ("\r\n", "", "\r\n"),
        ("\r\n\r\n", "", "\r\n"),
        (" \r\n", "", " \r\n"),
        ("a", "a\r\n", "a\r\n"),
        ("a\r\n", "a\r\n", "a\r\n"),
        ("a\r\n\r\n\r\n", "a\r\n", "a\r\n"),
        ("a\r\n \t\r\n\r\n", "a\r\n", "a\r\n \t\r\n"),
        ("a \t\r\n\r\n  \r\n\r\n", "a\r\n", "a \t\r\n\r\n  \r\n"),
        (" C \r\nD \t E\r\n\r\n\r\n", " C\r\nD E\r\n", " C \r\nD \t E\r\n"),
        ("\t a\tb  c d\r\n", " a b c d\r\n", "\t a\tb  c d\r\n"),
        ("a\r\n\r\nb", "a\r\n\r\nb\r\n", "a\r\n\r\nb\r\n"),
        ("\r\n\r\na", "\r\n\r\na\r\n", "\r\n\r\na\r\n"),
        ("a\n b\n", "a\r\n b\r\n", "a\r\n b\r\n"),
    ] {
        assert_eq!(text(Canonicalization::Relaxed, body), relaxed, "{body:?}");
        assert_eq!(text(Canonicalization::Simple, body), simple, "{body:?}");
    }
}

#[test]
fn hashes_are_as_dkimpy_makes_them() {
    let body = b"trailing space \t\r\n\r\n  \r\n\r\n";
    for (canonicalization, expected) in [
        (Canonicalization::Relaxed, "bjLkfiDjHVMqxSvMTLR4gKzaCkln7uG8mNMaGhC5l4w="),
        (Canonicalization::Simple, "c8+UlfVtM8sVghoaoB9nHzqfLQMmHklsXwZdhwgODgM="),
    ] {
        assert_eq!(crate::tags::encode(&hash(canonicalization, body, None).0), expected);
    }
    let (first, whole) = hash(Canonicalization::Relaxed, b"a\r\nb\r\n", Some(3));
    assert_eq!((first, whole), (hash(Canonicalization::Relaxed, b"a\r\n", None).0, 6));
}
