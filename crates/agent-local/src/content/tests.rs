//! Line ends, whatever the pieces.

use proptest::prelude::*;

use super::*;

fn converted(line_ending: LineEnding, pieces: &[&[u8]]) -> String {
    let mut converter = Converter::new(line_ending);
    let mut out = Vec::new();
    for piece in pieces {
        converter.push(piece, &mut out);
    }
    converter.finish(&mut out);
    String::from_utf8_lossy(&out).into_owned()
}

#[test]
fn line_ends_are_the_mailboxs() {
    for (pieces, lf) in [
        (&[&b"a\r\nb\r\n"[..]][..], "a\nb\n"),
        (&[b"a\r", b"\nb"], "a\nb"),
        (&[b"a\r", b"", b"b"], "a\rb"),
        (&[b"a\r", b"\r\n"], "a\r\n"),
        (&[b"a\r"], "a\r"),
        (&[b"\r\n", b"\r\n"], "\n\n"),
        (&[b"a\nb"], "a\nb"),
    ] {
        assert_eq!(converted(LineEnding::Lf, pieces), lf, "{pieces:?}");
        let whole = String::from_utf8(pieces.concat()).unwrap();
        assert_eq!(converted(LineEnding::Crlf, pieces), whole);
    }
}

proptest! {
    #[test]
    fn pieces_do_not_matter(text in "[ab\r\n]{0,40}", cut in 0usize..40) {
        let cut = cut.min(text.len());
        let (before, after) = text.as_bytes().split_at(cut);
        let expected = text.replace("\r\n", "\n");
        prop_assert_eq!(converted(LineEnding::Lf, &[before, after]), expected);
    }
}
