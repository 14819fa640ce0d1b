use proptest::prelude::*;

use super::*;

#[test]
fn spans_and_sizes_are_read_as_written() {
    let spans =
        [("90s", 90_000), ("5m", 300_000), ("1h30m", 5_400_000), ("2ms", 2), ("5d", 432_000_000)];
    for (text, millis) in spans {
        assert_eq!(text.parse(), Ok(Span::millis(millis)), "{text}");
    }
    for (text, bytes) in [("0", 0), ("64MiB", 64 << 20), ("10 k", 10_000), ("1GiB", 1 << 30)] {
        assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
    }
}

#[test]
fn what_has_no_unit_or_no_number_is_refused() {
    for text in ["", "5", "m", "5 fortnights", "-5m", "99999999999999999999d"] {
        assert_eq!(text.parse::<Span>(), Err(UnitError::Span), "{text}");
    }
    for text in ["", "MiB", "5 parsecs", "99999999999GiB"] {
        assert_eq!(text.parse::<ByteSize>(), Err(UnitError::Size), "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_taken_or_refused(text in ".*") {
        let _ = text.parse::<Span>();
        let _ = text.parse::<ByteSize>();
    }

    #[test]
    fn a_span_reads_back_as_it_was_shown(millis in 0u64..1 << 50) {
        prop_assert_eq!(Span::millis(millis).to_string().parse(), Ok(Span::millis(millis)));
    }

    #[test]
    fn a_size_reads_back_as_it_was_shown(bytes in any::<u64>()) {
        prop_assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
    }
}
