//! Torn ends of the ledger: what a power cut keeps of unsynced frames counts only as far as nothing before it is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mail::{Delivered, MessageId, Reply, StatusCode, SuccessReport, Timestamp};
use queue::conformance::routed;
use queue::{Handle, Record, ReportKind, Standing, State};

use crate::aside;
use crate::disk::Disk;
use crate::disk::simulated::Fault;
use crate::ledger::log::{self, Found};
use crate::ledger::machine::Event;
use crate::place::Layout;
use crate::tests::world::{DIR, Pace, Scheduler, World};

const WHY: &str = "an operator looks at it";

fn layout() -> Layout {
    Layout::new(Path::new(DIR))
}

/// What a scheduler would know after a start.
#[derive(Default)]
struct Known {
    live: BTreeSet<MessageId>,
    held: BTreeMap<MessageId, Option<String>>,
    owed: BTreeSet<MessageId>,
    delivered: BTreeSet<MessageId>,
    suspended: bool,
}

impl Known {
    fn apply(&mut self, record: Record) {
        match record {
            Record::Routed(it) => drop(self.live.insert(it.id)),
            Record::Snapshot(it) => {
                self.live.insert(it.id);
                self.held.insert(it.id, it.hold.clone());
                let delivered = it.recipients.iter().any(|one| is_delivered(&one.state));
                set(&mut self.delivered, it.id, delivered);
                set(&mut self.owed, it.id, !it.owed.is_empty());
            }
            Record::Outcome { id, recipients } => {
                set(&mut self.delivered, id, recipients.iter().any(|(_, it)| is_delivered(it)));
            }
            Record::Hold { id, reason } => drop(self.held.insert(id, reason)),
            Record::Owes { id, .. } => drop(self.owed.insert(id)),
            Record::Reported { id, .. } => drop(self.owed.remove(&id)),
            Record::Retired { id, .. } => drop(self.live.remove(&id)),
            Record::Suspend { until, .. } => self.suspended = until.is_some(),
            _ => {}
        }
    }
}

fn set(of: &mut BTreeSet<MessageId>, id: MessageId, is_in: bool) {
    if is_in {
        of.insert(id)
    } else {
        of.remove(&id)
    };
}

fn is_delivered(state: &State) -> bool {
    matches!(state, State::Delivered(_))
}

fn delivered() -> State {
    let reply = Reply::ours(StatusCode::new(2, 0, 0), "taken");
    State::Delivered(Delivered { reply, report: SuccessReport::Final })
}

/// A message that is held, one that was delivered in part, one about which a report is owed, one that has ended; all of it synced.
struct Four {
    ids: Vec<MessageId>,
    handles: Vec<Handle>,
}

const RECIPIENTS: u32 = 12;

fn four(world: &mut World, scheduler: &mut Scheduler) -> Four {
    let mut acceptor = world.acceptor().expect("a sound disk");
    for _ in 0..4 {
        acceptor.commit_small(world, 100);
        world.wait(5);
        acceptor.write(world, Vec::new());
    }
    let (ids, handles): (Vec<_>, Vec<_>) =
        world.accepted.iter().map(|(id, handle)| (*id, handle.clone())).unzip();
    for (id, handle) in world.accepted.clone() {
        scheduler.append(world, &[routed(id, &handle, RECIPIENTS)]);
    }
    let until = Some(Timestamp::from_millis(u64::MAX >> 12));
    let due = Timestamp::default();
    let (kind, recipients) = (ReportKind::Delay, vec![0]);
    let records = [
        Record::Hold { id: ids[0], reason: Some(WHY.into()) },
        Record::Outcome { id: ids[1], recipients: vec![(0, delivered())] },
        Record::Owes { id: ids[2], kind, recipients: recipients.clone(), due },
        Record::Owes { id: ids[1], kind, recipients: recipients.clone(), due },
        Record::Reported { id: ids[1], kind, recipients },
        Record::Retired { id: ids[3], handle: handles[3].clone() },
        Record::Suspend { channel: "smtp".into(), host: None, until },
    ];
    scheduler.append(world, &records);
    scheduler.sync(world);
    assert!(world.retired.contains_key(&ids[3]), "all is synced");
    Four { ids, handles }
}

impl Four {
    /// Begins, writes and ends a checkpoint in one turn: one write, and one sync if the pace lets it happen.
    fn checkpoint(&self, world: &mut World, scheduler: &mut Scheduler) {
        let snapshot = |at: usize| {
            let Record::Routed(mut message) = routed(self.ids[at], &self.handles[at], RECIPIENTS)
            else {
                panic!("it is a routing")
            };
            match at {
                0 => message.hold = Some(WHY.into()),
                1 => message.recipients[0].state = delivered(),
                _ => {
                    message.owed = vec![queue::Owed {
                        kind: ReportKind::Delay,
                        recipients: vec![0],
                        due: Timestamp::default(),
                    }];
                }
            }
            Record::Snapshot(message)
        };
        let until = Some(Timestamp::from_millis(u64::MAX >> 12));
        let mut events = vec![Event::Begin];
        let suspend = Record::Suspend { channel: "smtp".into(), host: None, until };
        for record in (0..3).map(snapshot).chain([suspend]) {
            scheduler.mark += 1;
            events.push(scheduler.book.append(scheduler.mark, &[record]).expect("it is small"));
        }
        events.push(Event::End(self.ids[0]));
        scheduler.turn(world, events);
    }

    /// Starts anew and asserts that nothing is lost.
    fn check(&self, world: &mut World, told: &str) {
        let mut known = Known::default();
        let started = world.spool.ledger_machine::<MessageId>(world.now, &mut |it| known.apply(it));
        let (_, book, _) = started.expect("a ledger with a torn end is a ledger");
        let [held, part, owed, ended] = self.ids[..] else { panic!("there are four") };
        assert_eq!(known.live, BTreeSet::from([held, part, owed]), "{told}");
        assert_eq!(known.held.get(&held), Some(&Some(WHY.into())), "{told}");
        assert_eq!(known.delivered, BTreeSet::from([part]), "{told}");
        assert_eq!(known.owed, BTreeSet::from([owed]), "{told}");
        assert!(known.suspended, "{told}");
        assert_eq!(book.standing(&self.handles[3]), Standing::Retired, "{told}: {ended}");
    }
}

fn logs(world: &World) -> Vec<(PathBuf, Vec<u8>)> {
    let is_log = |path: &Path| path.extension().is_some_and(|it| it == "log");
    world.disk.files().into_iter().filter(|(path, _)| is_log(path)).collect()
}

/// Makes the frame unreadable in which this text stands.
fn damage(world: &World, text: &str) {
    let place = |bytes: &[u8]| bytes.windows(text.len()).position(|it| it == text.as_bytes());
    let found = logs(world).into_iter().rev().find_map(|(path, it)| Some((path, place(&it)?)));
    let (path, at) = found.expect("it stands somewhere");
    world.disk.damage(&path, |bytes| bytes[at] ^= 0xff);
}

fn find(world: &World) -> Found {
    log::find(&world.disk, &layout()).expect("it can be read")
}

#[test]
fn of_a_checkpoint_torn_by_a_power_cut_nothing_is_lost() {
    let mut torn = 0;
    for seed in 1..=300 {
        let mut world = World::new(seed);
        let mut scheduler = world.scheduler().expect("a new ledger");
        let four = four(&mut world, &mut scheduler);
        scheduler.set_pace(&mut world, Pace::DoneLate);
        four.checkpoint(&mut world, &mut scheduler);
        world.disk.restart();
        drop(scheduler);
        torn += u32::from(find(&world).damage.iter().any(|one| one.may_be_torn));
        four.check(&mut world, &format!("seed {seed}"));
        // The start has begun another log, and left what it did not read.
        world.disk.restart();
        four.check(&mut world, &format!("seed {seed}, again"));
    }
    assert!(torn > 50, "valid frames were left behind a hole: {torn}");
}

#[test]
fn an_outcome_counts_only_with_the_routing_before_it() {
    for proven in [false, true] {
        let mut world = World::new(1);
        let mut scheduler = world.scheduler().expect("a new ledger");
        let four = four(&mut world, &mut scheduler);
        scheduler.set_pace(&mut world, Pace::DoneLate);
        let id = four.ids[2];
        let Record::Routed(mut again) = routed(id, &four.handles[2], RECIPIENTS) else {
            panic!("it is a routing")
        };
        again.routing = 77;
        scheduler.append(&mut world, &[Record::Routed(again)]);
        scheduler.append(&mut world, &[Record::Outcome { id, recipients: vec![(0, delivered())] }]);
        if proven {
            scheduler.close(&mut world);
        } else {
            drop(scheduler);
        }
        world.disk.kill();
        damage(&world, "\"routing\":77");
        let found = find(&world);
        let [one] = &found.damage[..] else { panic!("{:?}", found.damage) };
        assert_eq!(one.may_be_torn, !proven);
        let mut known = Known::default();
        let started = world.spool.ledger_machine::<MessageId>(world.now, &mut |it| known.apply(it));
        drop(started.expect("it is a ledger"));
        assert_eq!(
            known.delivered.contains(&id),
            proven,
            "damage is passed over, a torn end is not"
        );
    }
}

#[test]
fn damage_in_a_checkpoint_is_passed_over_and_older_logs_are_worth_more() {
    // With a frame behind it that says it was synced, and without: no older log is left, which says it too.
    for close in [true, false] {
        let mut world = World::new(2);
        let mut scheduler = world.scheduler().expect("a new ledger");
        let four = four(&mut world, &mut scheduler);
        let before = logs(&world);
        four.checkpoint(&mut world, &mut scheduler);
        for _ in 0..20 {
            world.wait(1_000);
            scheduler.turn(&mut world, Vec::new());
        }
        if close {
            scheduler.close(&mut world);
        } else {
            drop(scheduler);
        }
        world.disk.kill();
        damage(&world, WHY);
        let found = find(&world);
        let [one] = &found.damage[..] else { panic!("{:?}", found.damage) };
        assert!(!one.may_be_torn);
        let mut known = Known::default();
        for log in &found.logs[found.start..] {
            let standings = std::sync::Mutex::default();
            log::replay(log, &layout(), &standings, &mut |it| known.apply(it), &mut Vec::new())
                .expect("it can be replayed");
        }
        assert_eq!(known.live.len(), 2, "what one frame said is lost");
        // Is the log before it still there, nothing is lost.
        let (path, bytes) = before.first().expect("there was one");
        assert!(logs(&world).iter().all(|(it, _)| it != path), "it was removed");
        let file = world.disk.create(path).expect("it can be made");
        file.write_at(bytes, 0).expect("it can be written");
        drop(file);
        four.check(&mut world, "with the log before");
    }
}

#[test]
fn a_full_disk_leaves_nothing_in_the_place_of_what_is_set_aside() {
    let world = World::new(3);
    let of = layout().log(1);
    world.disk.make_dir(Path::new(DIR)).expect("it is there");
    for dir in [layout().root().to_owned(), layout().ledger()] {
        world.disk.make_dir(&dir).expect("it can be made");
    }
    let file = world.disk.create(&of).expect("it can be made");
    file.write_at(b"nothing of use", 0).expect("it can be written");
    let mut failed = 0;
    for after in 0..12 {
        world.disk.fail_after(after, Fault::Full);
        let done = aside::part(&world.disk, &layout(), (&of, 8), b"of use", "a test");
        failed += u32::from(done.is_err());
        world.disk.kill();
        if done.is_ok() {
            break;
        }
        let names = world.disk.list(&layout().damaged()).unwrap_or_default();
        assert!(names.iter().all(|name| !name.contains(".at-8.2")), "{after}: {names:?}");
    }
    assert!(failed > 4, "each step had its turn");
    let aside = aside::file(&world.disk, &layout(), &of, "a test").expect("there is room");
    assert_eq!(aside, layout().damaged().join("ledger-1.log"));
}
