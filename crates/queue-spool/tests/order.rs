//! The ledger gives back every record, as it was and in its order: what this log promises beyond what every ledger must.

use mail::{Delivered, MessageId, Reply, StatusCode, SuccessReport, Timestamp};
use queue::conformance::routed;
use queue::{Handle, Ledger, Record, State};
use queue_spool::Settings;

fn id_of(number: u64) -> MessageId {
    MessageId::new(Timestamp::from_millis(1), number)
}

fn some_record(number: u64) -> Record {
    let id = id_of(number / 4);
    let handle = Handle::parse(&format!("elsewhere:{}", number / 4)).expect("a handle");
    match number % 7 {
        0 | 1 => routed(id, &handle, 1 + (number % 3) as u32),
        2 => {
            let text = format!("250 2.0.0 as {number} \u{2028} \n");
            let reply = Reply { status: StatusCode::new(2, 0, 0), text, remote: None };
            let delivered = Delivered { reply, report: SuccessReport::Relayed };
            Record::Outcome { id, recipients: vec![(0, State::Delivered(delivered))] }
        }
        3 => Record::Hold {
            id,
            reason: number.is_multiple_of(2).then(|| format!("reason {number}")),
        },
        4 => Record::Strike { handle, id, strikes: number as u32, hold: None },
        5 => Record::Suspend { channel: "smtp".into(), host: None, until: None },
        _ => Record::Retired { id, handle },
    }
}

#[test]
fn records_come_back_in_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime can be built");
    runtime.block_on(async {
        let mut written = Vec::new();
        for life in 0..3u64 {
            let ledger = queue_spool::open_ledger(dir.path(), &Settings::default());
            let ledger = ledger.expect("nobody has it");
            let mut replayed = Vec::new();
            ledger.replay(&mut |record| replayed.push(record)).await.expect("it can be replayed");
            assert_eq!(replayed, written);
            for batch in 0..20 {
                let batch: Vec<_> = (0..=batch)
                    .map(|number| some_record(life * 1000 + batch * 50 + number))
                    .collect();
                let mark = ledger.append(&batch).expect("it can be written");
                written.extend(batch);
                match mark.0 % 3 {
                    0 => ledger.written(mark).await.expect("it can be written"),
                    1 => ledger.synced(mark).await.expect("it can be synced"),
                    _ => {}
                }
            }
        }
    });
}
