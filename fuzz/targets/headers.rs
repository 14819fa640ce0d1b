//! Header sections of strangers' messages: found, counted, edited, without a panic and without a new line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mail::header;

fuzz_target!(|message: &[u8]| {
    let section = header::section_of(message);
    assert!(message.starts_with(section));
    for field in header::fields(message) {
        let _ = (field.value(), field.raw_value());
        assert!(
            !field.name().is_empty()
                && field.name().bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
        );
    }
    let _ = header::count(message, "Received");
    let text = String::from_utf8_lossy(message);
    let clean = header::sanitise(&text);
    assert!(!clean.contains(['\r', '\n', '\0']));
    let mut line = Vec::new();
    header::write(&mut line, "X-Test", &text);
    // Whatever the value holds, it is one field: each further line is a fold.
    let written = String::from_utf8_lossy(&line);
    assert!(written.ends_with("\r\n"));
    assert!(
        written
            .trim_end_matches("\r\n")
            .split("\r\n")
            .skip(1)
            .all(|fold| fold.starts_with([' ', '\t']))
    );
    let edits = [
        mail::Edit::Prepend { name: "X-Seen".to_owned(), value: "yes".to_owned() },
        mail::Edit::Change { name: "Subject".to_owned(), nth: 1, value: None },
    ];
    let _ = header::edit(section, &edits);
});
