use config::Span;
use mail::MessageId;
use queue::{Handle, Segment};

use super::*;

const KIB: u64 = 1 << 10;

fn survivor(kib: u64) -> Survivor {
    let held = Held {
        handle: Handle::parse("memory:1").expect("a handle"),
        id: MessageId::new(Timestamp::default(), 1),
        accepted_at: Timestamp::default(),
        record_bytes: kib * KIB,
        body_within: true,
    };
    Survivor { held, size: kib * KIB - 500 }
}

fn candidate(name: &str, kib: u64, survivors: &[u64], is_young: bool) -> Candidate {
    let sealed = Sealed { segment: Segment(name.to_owned()), bytes: kib * KIB };
    let survivors = survivors.iter().map(|kib| survivor(*kib)).collect();
    Candidate { sealed, survivors, is_young }
}

#[track_caller]
fn check(settings: &Settings, candidates: &[Candidate], spare_kib: u64, expected: &[&str]) {
    let chosen = choose(settings, candidates.to_vec(), spare_kib * KIB);
    let names: Vec<_> = chosen.iter().map(|one| one.sealed.segment.0.as_str()).collect();
    assert_eq!(names, expected);
}

#[test]
fn old_and_mostly_dead_segments_are_chosen_the_emptiest_first() {
    let all = [
        candidate("half", 100, &[20, 30], false),
        candidate("less", 100, &[20, 29], false),
        candidate("least", 100, &[3], false),
        candidate("ended", 100, &[], false),
        candidate("young", 100, &[1], true),
    ];
    check(&Settings::default(), &all, 1000, &["least", "less"]);
    let settings = Settings { live_max: 10, ..Settings::default() };
    check(&settings, &all, 1000, &["least"]);
    let settings = Settings { live_max: 60, ..Settings::default() };
    check(&settings, &all, 1000, &["least", "less", "half"]);
}

#[test]
fn what_copies_would_not_make_smaller_is_left() {
    // Each takes a block of 4 KiB, whatever it holds.
    let tiny = [1; 30];
    check(&Settings::default(), &[candidate("a", 100, &tiny, false)], 0, &[]);
    check(&Settings::default(), &[candidate("a", 100, &tiny[..24], false)], 0, &["a"]);
}

#[test]
fn young_segments_are_chosen_as_far_as_the_bound_demands() {
    let all = [
        candidate("a", 100, &[10], true),
        candidate("b", 100, &[20], true),
        candidate("c", 100, &[30], true),
        candidate("d", 100, &[70], true),
    ];
    // Beyond twice what lives they take 80, 60 and 40 KiB; the last takes less.
    check(&Settings::default(), &all, 180, &[]);
    check(&Settings::default(), &all, 179, &["a"]);
    check(&Settings::default(), &all, 100, &["a"]);
    check(&Settings::default(), &all, 99, &["a", "b"]);
    check(&Settings::default(), &all, 0, &["a", "b", "c"]);
    // A low share does not loosen the bound.
    let old: Vec<_> = all.iter().map(|one| Candidate { is_young: false, ..one.clone() }).collect();
    let settings = Settings { live_max: 1, ..Settings::default() };
    check(&settings, &old, 180, &[]);
    check(&settings, &old, 99, &["a", "b"]);
}

#[test]
fn a_body_beside_its_record_counts() {
    let mut one = survivor(1);
    (one.held.record_bytes, one.size) = (500, 90 * KIB);
    assert_eq!(one.copy_bytes(), 500 + 90 * KIB);
    one.held.body_within = false;
    assert_eq!(one.copy_bytes(), 500, "a body in a file of its own stays there");
    let settings = Settings::default();
    let sealed = Sealed { segment: Segment("a".to_owned()), bytes: 100 * KIB };
    assert!(!stays(&settings, &sealed, 50 * KIB - 1));
    assert!(stays(&settings, &sealed, 50 * KIB));
}

#[test]
fn the_age_is_counted_from_acceptance() {
    let settings = Settings { age_min: Span::seconds(60), ..Settings::default() };
    let now = Timestamp::from_millis(1_000_000);
    let young = |millis| is_young(&settings, Timestamp::from_millis(millis), now);
    assert!(young(1_000_000 - 59_999));
    assert!(!young(1_000_000 - 60_000));
    assert!(young(1_000_000 + 5_000));
    assert!(!young(1_000_000 + 5_001), "a clock was set back");
}
