//! Message ids as text and in order.

use proptest::prelude::*;

use super::*;

#[test]
fn ids_have_their_form() {
    let id = MessageId::new(Timestamp::from_millis(0), 0);
    assert_eq!(id.as_str(), "00000000000000000000");
    let all = MessageId::new(Timestamp::from_millis(u64::MAX), u64::MAX);
    assert_eq!(all.as_str(), "zzzzzzzzzzzzzzzzzzzz");
    for text in [
        "",
        "0000000000000000000",
        "000000000000000000000",
        "0000000000000000000i",
        "0000000000000000000A",
    ] {
        assert!(text.parse::<MessageId>().is_err(), "{text:?}");
    }
}

proptest! {
    #[test]
    fn ids_sort_by_time_and_are_read_again(one in 0u64..1 << 48, other in 0u64..1 << 48, chance: u64, chance2: u64) {
        let (a, b) = (
            MessageId::new(Timestamp::from_millis(one), chance),
            MessageId::new(Timestamp::from_millis(other), chance2),
        );
        if one != other {
            prop_assert_eq!(a.cmp(&b), one.cmp(&other));
            prop_assert_eq!(a.as_str().cmp(b.as_str()), one.cmp(&other));
        }
        prop_assert_eq!(a.as_str().parse::<MessageId>(), Ok(a));
        prop_assert_eq!(MessageId::from_bytes(a.as_bytes()), Ok(a));
    }
}
