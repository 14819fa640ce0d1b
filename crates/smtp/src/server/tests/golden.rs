//! Whole sessions in files: what the client sends in `tests/sessions/NAME.in`, what is said in `NAME.out`.
//!
//! Each line of an `.in` file is sent at once with CRLF, after the replies to the one before it; a line that ends in `\`
//! is sent together with the next, and `\r`, `\n`, `\0`, `\xNN` and `\\` stand for bytes. `\c` at its end leaves CRLF away.
//! A first line `#normalise` chooses that policy. With `GOLDEN_WRITE` set, the `.out` files are written anew.

use std::path::Path;

use super::*;

#[test]
fn sessions_are_as_recorded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sessions");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("the folder can be read").path();
        if path.extension().is_some_and(|extension| extension == "in") {
            check(&path);
            count += 1;
        }
    }
    assert!(count > 0, "there are sessions to check");
}

fn check(path: &Path) {
    let script = std::fs::read_to_string(path).expect("the session can be read");
    let (bare_newline, script) = match script.strip_prefix("#normalise\n") {
        Some(script) => (BareNewline::Normalise, script),
        None => (BareNewline::Reject, &*script),
    };
    let found = transcript(script, bare_newline);
    let path = path.with_extension("out");
    if std::env::var_os("GOLDEN_WRITE").is_some() {
        std::fs::write(&path, &found).expect("the record can be written");
    }
    let expect = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expect, "{}", path.display());
}

fn transcript(script: &str, bare_newline: BareNewline) -> String {
    let mut driven = Driven::new(config(limits(), Pipelining::Strict), bare_newline);
    let mut text = driven.said();
    let mut chunk = Vec::new();
    for line in script.lines() {
        let (line, more) = match line.strip_suffix('\\') {
            Some(line) => (line, true),
            None => (line, false),
        };
        text.push_str(&format!("> {line}\n"));
        chunk.extend(unescape(line));
        if !more {
            driven.feed(&std::mem::take(&mut chunk));
            text.push_str(&driven.said());
        }
    }
    if driven.closed {
        text.push_str("closed\n");
    }
    for taken in driven.taken {
        let envelope = taken.envelope;
        text.push_str(&format!("message {:?} -> {:?}\n", envelope.sender, envelope.recipients));
        text.push_str(&format!("{}\n", taken.body.escape_ascii()));
    }
    text.replace("\r\n", "\n")
}

fn unescape(line: &str) -> Vec<u8> {
    let (line, end): (_, &[u8]) = match line.strip_suffix("\\c") {
        Some(line) => (line, b""),
        None => (line, b"\r\n"),
    };
    let mut out = Vec::new();
    let mut bytes = line.bytes();
    while let Some(byte) = bytes.next() {
        let escaped = if byte == b'\\' { bytes.next() } else { None };
        out.push(match escaped {
            None => byte,
            Some(b'r') => b'\r',
            Some(b'n') => b'\n',
            Some(b'0') => 0,
            Some(b'x') => {
                let mut digit = || {
                    let digit = bytes.next().expect("two digits");
                    char::from(digit).to_digit(16).expect("a hexadecimal digit") as u8
                };
                digit() << 4 | digit()
            }
            Some(other) => other,
        });
    }
    out.extend_from_slice(end);
    out
}
