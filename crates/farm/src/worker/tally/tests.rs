use super::*;

fn board(directory: &tempfile::TempDir, buckets: usize) -> Board {
    Board::create(&directory.path().join("board"), "smtpserver", &[], 3, buckets).unwrap()
}

#[test]
fn workers_see_each_others_counts() {
    let directory = tempfile::tempdir().unwrap();
    let board = board(&directory, 64);
    let (one, two) = (Tally::default(), Tally::default());
    assert_eq!(one.enter(&board, 0, 7), 1);
    assert_eq!(two.enter(&board, 1, 7), 2);
    assert_eq!(one.enter(&board, 0, 7), 3);
    assert_eq!(one.enter(&board, 0, 8), 1);
    two.leave(&board, 1, 7);
    assert_eq!(one.enter(&board, 0, 7), 3);
    for _ in 0..3 {
        one.leave(&board, 0, 7);
    }
    assert_eq!(two.enter(&board, 1, 7), 1);
}

#[test]
fn buckets_are_used_again_and_a_full_table_counts_alone() {
    let directory = tempfile::tempdir().unwrap();
    let board = board(&directory, 32);
    let (one, two) = (Tally::default(), Tally::default());
    for round in 0..10u64 {
        for key in 1..=32 {
            assert_eq!(one.enter(&board, 0, round * 1000 + key), 1);
        }
        assert_eq!(two.enter(&board, 1, round * 1000 + 1), 2);
        // There is no room left: counted by worker only.
        assert_eq!(two.enter(&board, 1, 999_999), 1);
        assert_eq!(two.enter(&board, 1, 999_999), 2);
        assert_eq!(one.enter(&board, 0, 999_999), 1);
        one.leave(&board, 0, 999_999);
        for key in 1..=32 {
            one.leave(&board, 0, round * 1000 + key);
        }
        for key in [round * 1000 + 1, 999_999, 999_999] {
            two.leave(&board, 1, key);
        }
    }
}

#[test]
fn without_a_table_a_worker_counts_for_itself() {
    let directory = tempfile::tempdir().unwrap();
    let board = board(&directory, 0);
    let tally = Tally::default();
    assert_eq!(tally.enter(&board, 0, 0), 1);
    assert_eq!(tally.enter(&board, 0, 0), 2);
    tally.leave(&board, 0, 0);
    assert_eq!(tally.enter(&board, 0, 0), 2);
}

#[test]
fn two_workers_that_meet_a_new_key_together_share_its_bucket() {
    let directory = tempfile::tempdir().unwrap();
    let board = board(&directory, 64);
    // Both saw the bucket empty; one was faster.
    assert!(take_over(&board, 0, 7, 5, 0));
    assert!(take_over(&board, 1, 7, 5, 0));
    assert_eq!(total(&board, 5), 2);
    assert!(!take_over(&board, 2, 8, 5, 0));
    assert_eq!((total(&board, 5), board.tally_key(5).load(Relaxed)), (2, 7));
}
