//! xtext from RFC 3461 and anything else.

use proptest::prelude::*;

use super::*;

#[test]
fn xtext_is_read() {
    for (text, bytes) in [
        ("", Ok(&b""[..])),
        ("a+2Bb", Ok(b"a+b")),
        ("a+3db", Ok(b"a=b")),
        ("QQ314159", Ok(b"QQ314159")),
        ("a+0D+0Ab", Ok(b"a\r\nb")),
        ("a=b", Err(XtextError)),
        ("a b", Err(XtextError)),
        ("a+", Err(XtextError)),
        ("a+2", Err(XtextError)),
        ("a+G0", Err(XtextError)),
        ("grün", Err(XtextError)),
    ] {
        assert_eq!(decode(text), bytes.map(<[u8]>::to_vec), "{text:?}");
    }
}

#[test]
fn escapes_are_written() {
    assert_eq!(escape("grün@bücher.example", Strict::Yes), "gr\\x{FC}n@b\\x{FC}cher.example");
    assert_eq!(
        escape("a b+c=d\\e\r\n", Strict::No),
        "a\\x{20}b+c=d\\x{5C}e\\x{0D}\\x{0A}".replace("\\x{20}", " ")
    );
    assert_eq!(escape("a b+c", Strict::Yes), "a\\x{20}b\\x{2B}c");
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
        let text = encode(&bytes);
        prop_assert!(text.bytes().all(|byte| byte.is_ascii_graphic()));
        prop_assert_eq!(decode(&text), Ok(bytes));
    }

    #[test]
    fn reading_anything_is_safe(text in ".{0,80}") {
        let _ = decode(&text);
        prop_assert!(escape(&text, Strict::Yes).bytes().all(|byte| byte.is_ascii_graphic()));
    }
}
