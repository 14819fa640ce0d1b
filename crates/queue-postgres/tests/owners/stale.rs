//! An owner whose time has passed, and whose writes come late: they change nothing.

use mail::{Reply, StatusCode, Timestamp};
use queue::conformance::routed;
use queue::{Attempt, LedgerError, Record, ReportKind, State};
use queue_postgres::testing::{block_on, shared};

use super::gate::Gate;
use super::support::{acquire, messages, over, replay, routings, synced, tables};

#[test]
fn no_record_of_a_stale_owner_changes_a_row() {
    let name = shared().database();
    let url = shared().url(&name);
    let gate = Gate::to(&shared().socket());
    block_on(async {
        let mail = messages(&url, 8).await;
        let first = acquire(&gate.url(&name), "the first").await;
        replay(&*first.ledger).await;
        let (known, new) = mail.split_at(5);
        let suspend = |channel: &str, until| Record::Suspend {
            channel: channel.into(),
            host: Some("a.test".into()),
            until,
        };
        let at = Timestamp::from_millis(1_700_000_000_000);
        let strike = |number: usize, strikes| {
            let (id, handle) = mail.get(number).expect("there are so many").clone();
            Record::Strike { handle, id, strikes, hold: None }
        };
        let mut before = routings(known);
        before.extend([suspend("smtp", Some(at)), strike(6, 1), strike(7, 2)]);
        synced(&*first.ledger, &before).await.expect("it is its own");

        gate.hold();
        let id = |number: usize| mail.get(number).expect("there are so many").0;
        let handle = |number: usize| mail.get(number).expect("there are so many").1.clone();
        let reply = Reply { status: StatusCode::new(4, 2, 0), text: "later".into(), remote: None };
        let state = State::Open(Attempt { count: 1, last: Some(reply), ..Attempt::default() });
        let (kind, recipients) = (ReportKind::Delay, vec![0]);
        let Record::Routed(snapshot) = routed(id(2), &handle(2), 4) else { unreachable!("it is") };
        let late = [
            Record::Outcome { id: id(0), recipients: vec![(0, state)] },
            Record::Hold { id: id(0), reason: Some("late".into()) },
            Record::Owes { id: id(0), kind, recipients: recipients.clone(), due: at },
            Record::Owes { id: id(1), kind, recipients: recipients.clone(), due: at },
            Record::Reported { id: id(1), kind, recipients },
            strike(1, 1),
            Record::Reroute { id: id(1), routing: 2 },
            Record::Moved { id: id(1), handle: handle(3) },
            Record::Snapshot(snapshot),
            routed(id(3), &handle(3), 2),
            Record::Retired { id: id(4), handle: handle(4) },
            routed(id(5), &handle(5), 1),
            strike(6, 2),
            Record::Hold { id: id(7), reason: None },
            suspend("smtp", None),
            suspend("local", Some(at)),
        ];
        assert_eq!(new.len(), 3);
        let mark = first.ledger.append(&late).expect("it does not know yet");
        let written = first.ledger.written(mark);
        gate.wait_for_held("DELETE FROM body");

        let second = acquire(&url, "the second").await;
        let replayed = replay(&*second.ledger).await;
        assert_eq!(replayed.len(), known.len() + 3);
        let before = tables(shared(), &name);
        gate.go_on();
        let answers = gate.wait_for_answers();
        assert!(answers.contains("division by zero"), "{answers}");
        assert_eq!(tables(shared(), &name), before);
        assert!(matches!(written.await, Err(LedgerError::Fenced(_))));
        assert!(matches!(over(&first.ledger).await, LedgerError::Fenced(_)));
        assert!(matches!(first.ledger.append(&late), Err(LedgerError::Fenced(_))));
        let looked_up = first.ledger.look_up(&[&handle(6)]);
        if let Some(looked_up) = looked_up {
            assert!(matches!(looked_up.await, Err(LedgerError::Fenced(_))));
        }
        drop(first);
        assert_eq!(tables(shared(), &name), before);
        synced(&*second.ledger, &late).await.expect("the second may");
        assert_ne!(tables(shared(), &name), before, "each of them would have changed something");
    });
}
