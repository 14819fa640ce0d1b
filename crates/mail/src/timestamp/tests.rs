//! Dates as text.

use super::Timestamp;

#[test]
fn dates_are_written_as_headers_want_them() {
    for (seconds, text) in [
        (0, "Thu, 01 Jan 1970 00:00:00 +0000"),
        (951_782_399, "Mon, 28 Feb 2000 23:59:59 +0000"),
        (951_782_400, "Tue, 29 Feb 2000 00:00:00 +0000"),
        (951_868_800, "Wed, 01 Mar 2000 00:00:00 +0000"),
        (1_081_036_800, "Sun, 04 Apr 2004 00:00:00 +0000"),
        (1_785_844_800, "Tue, 04 Aug 2026 12:00:00 +0000"),
        (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 +0000"),
        (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 +0000"),
    ] {
        assert_eq!(Timestamp::from_millis(seconds * 1000).rfc5322(), text);
    }
}

#[test]
fn dates_are_written_as_programs_want_them() {
    for (millis, text) in [
        (0, "1970-01-01T00:00:00.000Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (1_795_455_753_120, "2026-11-23T17:42:33.120Z"),
    ] {
        assert_eq!(Timestamp::from_millis(millis).rfc3339(), text);
    }
}

#[test]
fn the_last_point_in_time_can_be_written() {
    let last = Timestamp::from_millis(u64::MAX);
    assert_eq!(last.rfc5322(), "Fri, 31 Dec 9999 23:59:59 +0000");
    assert!(last.rfc3339().starts_with("9999-12-31T23:59:59."));
}
