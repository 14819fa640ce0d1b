//! Header sections, whole and odd, and their edits.

use proptest::prelude::*;

use super::*;

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn prepend(name: &str, value: &str) -> Edit {
    Edit::Prepend { name: name.into(), value: value.into() }
}

fn append(name: &str, value: &str) -> Edit {
    Edit::Append { name: name.into(), value: value.into() }
}

fn insert(index: u32, name: &str, value: &str) -> Edit {
    Edit::Insert { index, name: name.into(), value: value.into() }
}

fn change(name: &str, nth: u32, value: Option<&str>) -> Edit {
    Edit::Change { name: name.into(), nth, value: value.map(str::to_owned) }
}

#[test]
fn the_section_ends_where_it_should() {
    for (message, header, body, complete) in [
        ("A: b\r\n\r\nbody\r\n", 6, 8, true),
        ("A: b\r\n c\r\n\r\n", 10, 12, true),
        ("\r\nbody\r\n", 0, 2, true),
        ("no header at all\r\n", 0, 0, true),
        ("A: b\r\nno field\r\nC: d\r\n\r\n", 6, 6, true),
        (" leading: space\r\n", 0, 0, true),
        ("A: b\r\nC: ", 6, 6, false),
        ("A: b\r\n", 6, 6, false),
        ("A : b\r\n\r\n", 7, 9, true),
        ("From someone Mon Nov 23\r\nA: b\r\n", 0, 0, true),
        (": no name\r\n", 0, 0, true),
        ("A: b\n\nbody\n", 5, 6, true),
        ("", 0, 0, false),
    ] {
        assert_eq!(section(message.as_bytes()), Section { header, body, complete }, "{message:?}");
    }
}

#[test]
fn fields_are_found_and_unfolded() {
    let message =
        b"Subject: one\r\nRECEIVED: a\r\n\tb\r\nreceived:c\r\nX :y\r\n\r\nSubject: body\r\n";
    let found: Vec<(String, String)> =
        fields(message).map(|field| (field.name().to_owned(), text(&field.value()))).collect();
    let expected = [("Subject", "one"), ("RECEIVED", "a\tb"), ("received", "c"), ("X", "y")];
    assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(count(message, "Received"), 2);
    assert_eq!(first(message, "subject").map(|field| text(&field.value())), Some("one".into()));
    assert_eq!(first(message, "To"), None);
    assert_eq!(count(b"Subject: cut", "subject"), 1, "a message that ends in its header");
}

#[test]
fn edits_change_what_they_name() {
    let section = b"A: 1\r\nB: 2\r\nA: 3\r\n fold\r\n";
    for (edits, expected) in [
        (vec![prepend("X", "y")], "X: y\r\nA: 1\r\nB: 2\r\nA: 3\r\n fold\r\n"),
        (vec![append("X", " y")], "A: 1\r\nB: 2\r\nA: 3\r\n fold\r\nX: y\r\n"),
        (vec![insert(0, "X", "y")], "X: y\r\nA: 1\r\nB: 2\r\nA: 3\r\n fold\r\n"),
        (vec![insert(2, "X", "y")], "A: 1\r\nB: 2\r\nX: y\r\nA: 3\r\n fold\r\n"),
        (vec![insert(9, "X", "y")], "A: 1\r\nB: 2\r\nA: 3\r\n fold\r\nX: y\r\n"),
        (vec![insert(1, "X\r\nY", "y")], "A: 1\r\nB: 2\r\nA: 3\r\n fold\r\n"),
        (vec![change("a", 2, Some("9"))], "A: 1\r\nB: 2\r\na: 9\r\n"),
        (vec![change("a", 1, None)], "B: 2\r\nA: 3\r\n fold\r\n"),
        (vec![change("a", 1, None), change("a", 1, None)], "B: 2\r\n"),
        (vec![change("a", 3, None)], "A: 1\r\nB: 2\r\nA: 3\r\n fold\r\n"),
        (vec![change("C", 1, Some("new"))], "A: 1\r\nB: 2\r\nA: 3\r\n fold\r\nC: new\r\n"),
        (vec![prepend("Bad Name", "y"), append("", "y")], "A: 1\r\nB: 2\r\nA: 3\r\n fold\r\n"),
        (
            vec![prepend("X", "one\r\nEvil: two\r\n\r\nbody")],
            "X: one\r\n Evil: two\r\n body\r\nA: 1\r\nB: 2\r\nA: 3\r\n fold\r\n",
        ),
        (vec![prepend("X", "a\r\n\tb")], "X: a\r\n\tb\r\nA: 1\r\nB: 2\r\nA: 3\r\n fold\r\n"),
    ] {
        assert_eq!(text(&edit(section, &edits)), expected, "{edits:?}");
    }
}

#[test]
fn a_field_of_ours_is_folded() {
    let mut out = Vec::new();
    write(&mut out, "Subject", "short\r\nand safe");
    assert_eq!(text(&out), "Subject: short  and safe\r\n".replace("  ", " "));
    out.clear();
    write(&mut out, "X", &"word ".repeat(40));
    assert!(text(&out).lines().all(|line| line.len() <= FOLD_BYTES), "{}", text(&out));
    assert_eq!(text(&out).matches("word").count(), 40);
}

proptest! {
    #[test]
    fn looking_at_anything_is_safe(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let found = section(&bytes);
        prop_assert!(found.header <= found.body && found.body <= bytes.len());
        let raw: usize = fields(&bytes).map(|field| field.raw().len()).sum();
        prop_assert!(raw <= bytes.len());
    }

    #[test]
    fn fields_put_together_are_the_section(
        names in proptest::collection::vec(("[!-9;-~]{1,10}", "[ -~]{0,40}(\r\n [ -~]{1,20})?"), 0..8),
    ) {
        let section: String = names.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect();
        let message = format!("{section}\r\nbody: text\r\n");
        let together: Vec<u8> = fields(message.as_bytes()).flat_map(|field| field.raw().to_vec()).collect();
        prop_assert_eq!(text(&together), section.clone());
        prop_assert_eq!(text(&edit(section.as_bytes(), &[])), section);
    }

    #[test]
    fn an_edit_adds_exactly_one_field(value in "(?s).{0,300}") {
        let out = edit(b"A: 1\r\n", &[prepend("X", &value)]);
        prop_assert_eq!(fields(&out).count(), 2);
        let whole: usize = fields(&out).map(|field| field.raw().len()).sum();
        prop_assert_eq!(whole, out.len());
    }

    #[test]
    fn a_written_field_is_one_field_of_legal_lines(value in "(?s).{0,3000}") {
        let mut out = Vec::new();
        write(&mut out, "X-Test", &value);
        prop_assert_eq!(fields(&out).count(), 1);
        prop_assert_eq!(fields(&out).map(|field| field.raw().len()).sum::<usize>(), out.len());
        prop_assert!(out.split(|byte| *byte == b'\n').all(|line| line.len() <= LINE_BYTES_MAX + 1));
    }
}
