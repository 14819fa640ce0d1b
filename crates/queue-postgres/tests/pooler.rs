//! Everything works through a pooler that gives each transaction another of its connections.

use queue::conformance::{accept, begin, deliver, pattern, whole};
use queue::{Reader as _, Recovery as _};
use queue_postgres::Database;
use queue_postgres::testing::{Bouncer, block_on, settings, shared};

#[test]
fn transactions_may_be_pooled() {
    let name = shared().database();
    let bouncer = Bouncer::start(shared(), 3);
    let database = Database::new(&bouncer.url(&name), &settings()).expect("it is a URL");
    block_on(async {
        queue_postgres::check(&database).await.expect("it is sound");
        let intakes: Vec<_> = (0..4)
            .map(|_| queue_postgres::open_intake(&database).expect("it can be opened"))
            .collect();
        let reader = queue_postgres::open_reader(&database).expect("it can be opened");
        let mut commits = Vec::new();
        for number in 0..200usize {
            let length = if number % 50 == 0 { 700_000 } else { 1000 + number };
            let body = pattern(length, number as u8);
            let mut draft = begin(&*intakes[number % 4], &body).await;
            if number % 7 == 0 {
                let handle = draft.finish().await.expect("it can be finished");
                reader.open_draft(&handle).await.expect("it can be read");
            }
            commits.push((body, draft.commit(accept("a@example.test", 1))));
        }
        let mut handles = Vec::new();
        for (body, commit) in commits {
            let handle = commit.await.expect("it is accepted");
            handles.push((body, handle));
        }
        // Many questions at once on one connection.
        let reads: Vec<_> = handles
            .into_iter()
            .map(|(body, handle)| {
                let reader = reader.clone();
                tokio::task::spawn_local(async move {
                    let stored = reader.open(&handle).await.expect("it is there");
                    assert!(whole(stored).await == body, "it is whole");
                })
            })
            .collect();
        for read in reads {
            read.await.expect("it ends well");
        }
        deliver(&*intakes[0], b"one more", accept("a@example.test", 1)).await;
        let recovery = queue_postgres::open_recovery(&database).expect("it can be opened");
        let mut listed = 0;
        for segment in recovery.segments(false).await.expect("it can be read") {
            listed += recovery.accepted(&segment).await.expect("it can be read").len();
        }
        assert_eq!(listed, 201, "{}", bouncer.log());
    });
}
