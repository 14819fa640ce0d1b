//! One failure at a time, and what follows from it.

use std::path::Path;

use queue::Standing;

use crate::disk::simulated::Fault;
use crate::intake::writer::{Answer, CommitBody, Event};
use crate::ledger::log;
use crate::ledger::machine::Spare;
use crate::place::Layout;
use crate::tests::world::{Acceptor, DIR, Pace, Scheduler, World};
use crate::thread::{Machine, Next, lock};

fn bodies(world: &World) -> usize {
    let is_body = |path: &Path| path.extension().is_some_and(|extension| extension == "body");
    world.disk.files().iter().filter(|(path, _)| is_body(path)).count()
}

#[test]
fn a_failed_sync_closes_the_segment_and_the_next_one_takes_mail() {
    let mut world = World::new(1);
    let mut acceptor = world.acceptor().expect("it can be opened");
    acceptor.commit_small(&mut world, 100);
    assert_eq!(world.accepted.len(), 1);
    world.wait(10);
    // The write, then the sync.
    world.disk.fail_after(1, Fault::Io);
    acceptor.commit_small(&mut world, 100);
    assert_eq!((world.accepted.len(), world.refused), (1, 1));
    // Until a new segment has synced nothing is taken, though the disk would.
    acceptor.commit_small(&mut world, 100);
    assert_eq!((world.accepted.len(), world.refused), (1, 2));
    world.wait(200);
    acceptor.commit_small(&mut world, 100);
    assert_eq!((world.accepted.len(), world.refused), (2, 2));
    assert_eq!(world.segments().len(), 2);
    world.disk.restart();
    let scheduler = world.scheduler().expect("it can be opened");
    world.check(&scheduler);
}

#[test]
fn a_full_disk_is_waited_out() {
    let mut world = World::new(2);
    let mut acceptor = world.acceptor().expect("it can be opened");
    acceptor.commit_small(&mut world, 100);
    world.wait(10);
    for after in 0..40 {
        world.disk.fail_after(after, Fault::Full);
    }
    let full_until = world.disk.operations() + 40;
    while world.disk.operations() < full_until {
        acceptor.commit_small(&mut world, 100);
        world.wait(1000);
    }
    assert_eq!(world.accepted.len(), 1);
    assert!(world.refused > 10, "refused at once, not kept waiting");
    world.wait(10_000);
    acceptor.write(&mut world, Vec::new());
    acceptor.commit_small(&mut world, 100);
    assert_eq!(world.accepted.len(), 2, "it goes on by itself when there is space");
    acceptor.close(&mut world);
    world.disk.restart();
    let scheduler = world.scheduler().expect("it can be opened");
    world.check(&scheduler);
}

#[test]
fn space_is_given_back_when_every_message_has_ended() {
    let mut world = World::new(3);
    let mut acceptor = world.acceptor().expect("it can be opened");
    let mut scheduler = world.scheduler().expect("it can be opened");
    for _ in 0..60 {
        acceptor.commit_small(&mut world, 1000);
        world.wait(3);
        acceptor.write(&mut world, Vec::new());
    }
    acceptor.commit_large(&mut world, 300_000, true);
    acceptor.commit_large(&mut world, 300_000, false);
    world.wait(3);
    acceptor.write(&mut world, Vec::new());
    assert_eq!(world.accepted.len(), 61);
    assert!(world.segments().len() > 3);
    assert_eq!(bodies(&world), 1);
    while world.retired.len() < 61 {
        scheduler.work(&mut world);
        scheduler.sync(&mut world);
        world.wait(30);
        scheduler.turn(&mut world, Vec::new());
    }
    assert_eq!(bodies(&world), 0);
    // The last segment is open until it has been idle for a minute.
    world.wait(4_000);
    scheduler.turn(&mut world, Vec::new());
    assert_eq!(world.segments().len(), 1);
    world.wait(61_000);
    acceptor.write(&mut world, Vec::new());
    scheduler.turn(&mut world, Vec::new());
    world.wait(4_000);
    scheduler.turn(&mut world, Vec::new());
    assert_eq!(world.segments().len(), 0);
    let gone = |scheduler: &Scheduler| lock(&scheduler.book.standings).gone().count();
    assert!(gone(&scheduler) > 3);
    acceptor.commit_small(&mut world, 10);
    scheduler.checkpoint(&mut world);
    scheduler.checkpoint(&mut world);
    assert!(gone(&scheduler) <= 1, "a checkpoint forgets what the directory tells");
    for handle in world.retired.values() {
        assert_eq!(scheduler.book.standing(handle), Standing::Retired);
    }
    drop(scheduler);
    let scheduler = world.scheduler().expect("it can be opened");
    for handle in world.retired.values() {
        assert_eq!(scheduler.book.standing(handle), Standing::Retired);
    }
}

#[test]
fn the_highest_number_of_a_segment_is_no_end_of_the_world() {
    let mut world = World::new(17);
    drop(world.acceptor().expect("it can be opened"));
    let highest = crate::place::SegmentName { stripe: crate::place::Stripe(1), sequence: u64::MAX };
    let path = Layout::new(Path::new(DIR)).segment(highest);
    drop(crate::disk::Disk::create(&world.disk, &path).expect("it can be made"));
    world.disk.damage(&path, |bytes| bytes.resize(100, b'x'));
    let mut acceptor = world.acceptor().expect("another stripe is made");
    acceptor.commit_small(&mut world, 10);
    assert_eq!(world.accepted.len(), 1);
}

#[test]
fn drafts_alone_fill_a_segment_too() {
    let mut world = World::new(14);
    let mut acceptor = world.acceptor().expect("it can be opened");
    let size = |world: &World| {
        let files = world.disk.files().into_iter();
        let segments = files.filter(|(path, _)| path.extension().is_some_and(|it| it == "seg"));
        segments.map(|(_, bytes)| bytes.len()).max().unwrap_or(0)
    };
    for _ in 0..100 {
        acceptor.draft(&mut world, 1900);
        acceptor.end_draft(&mut world, false);
    }
    assert!(size(&world) < 20 << 10, "{}", size(&world));
    assert!(world.segments().len() <= 2, "what held nothing but dropped drafts is removed");
    // One that is still looked at keeps its segment.
    acceptor.draft(&mut world, 1900);
    for _ in 0..20 {
        acceptor.draft(&mut world, 1900);
    }
    acceptor.end_draft(&mut world, true);
    world.wait(10);
    acceptor.write(&mut world, Vec::new());
    assert_eq!(world.accepted.len(), 1);
    let scheduler = world.scheduler().expect("it can be opened");
    world.check(&scheduler);
}

#[test]
fn a_disk_that_goes_on_failing_is_asked_less_and_less_and_left_tidy() {
    let mut world = World::new(15);
    let mut acceptor = world.acceptor().expect("it can be opened");
    let mut tries = 0;
    for _ in 0..600 {
        world.wait(50);
        let refused = world.refused;
        let before = world.disk.operations();
        acceptor.write(&mut world, Vec::new());
        if tries == 0 || world.disk.operations() > before {
            // A new segment was begun: after the write of its first record the sync fails.
            world.disk.fail_after(1, Fault::Io);
            tries += 1;
        }
        acceptor.commit_small(&mut world, 10);
        assert_eq!(world.refused, refused + 1);
        assert!(world.segments().len() <= 1, "what was given up holds nothing that was accepted");
    }
    assert!((5..15).contains(&tries), "{tries} in half a minute");
    world.disk.kill();
    drop(acceptor);
    let mut acceptor = world.acceptor().expect("it can be opened");
    acceptor.commit_small(&mut world, 10);
    assert_eq!(world.accepted.len(), 1);
}

#[test]
fn a_torn_end_that_was_adopted_is_no_damage() {
    let mut world = World::new(16);
    let mut acceptor = world.acceptor().expect("it can be opened");
    acceptor.commit_small(&mut world, 500);
    world.wait(10);
    acceptor.commit_small(&mut world, 500);
    assert_eq!(world.accepted.len(), 2);
    drop(acceptor);
    world.disk.kill();
    let is_segment = |path: &Path| path.extension().is_some_and(|it| it == "seg");
    let files = world.disk.files().into_iter();
    let (path, whole) = files.into_iter().find(|(path, _)| is_segment(path)).expect("it is there");
    world.disk.damage(&path, |bytes| bytes.truncate(whole.len() - 200));
    drop(world.acceptor().expect("it is adopted"));
    let damage = |world: &World| {
        let kind = crate::codec::FileKind::Segment;
        let file = crate::read::OpenFile::open(&world.disk, &path, kind).expect("it is there");
        assert!(file.footer().expect("it can be read").is_some());
        crate::scan::scan(&file, &mut |_| {}).expect("it can be read").damage
    };
    let torn = damage(&world);
    assert!(!torn.is_empty() && torn.iter().all(|damage| !damage.followed), "{torn:?}");
    // A record that the footer lists is damage, though nothing but the footer follows.
    world.disk.damage(&path, |bytes| bytes[64 + 200] ^= 1);
    assert!(damage(&world).iter().any(|damage| damage.followed));
}

fn logs(world: &World) -> Vec<(u64, usize)> {
    let number = |path: &Path| crate::place::log_of(path.file_name()?.to_str()?);
    let files = world.disk.files().into_iter();
    let mut logs: Vec<_> =
        files.filter_map(|(path, bytes)| Some((number(&path)?, bytes.len()))).collect();
    logs.sort_unstable();
    logs
}

#[test]
fn a_full_disk_stops_no_ledger_that_has_room() {
    let mut world = World::new(12);
    let mut acceptor = world.acceptor().expect("it can be opened");
    for _ in 0..8 {
        acceptor.commit_small(&mut world, 10);
        world.wait(3);
        acceptor.write(&mut world, Vec::new());
    }
    let mut scheduler = world.scheduler().expect("it can be opened");
    scheduler.work(&mut world);
    // The next checkpoint finds its log; no other can be made.
    world.disk.set_room(0);
    assert_eq!(scheduler.spare, Spare::There);
    scheduler.checkpoint(&mut world);
    scheduler.checkpoint(&mut world);
    scheduler.checkpoint(&mut world);
    for _ in 0..3 {
        world.wait(6_000);
        scheduler.checkpoint(&mut world);
        scheduler.work(&mut world);
        scheduler.sync(&mut world);
        assert!(!scheduler.failed, "the log it has goes on");
        assert_eq!(scheduler.spare, Spare::Missing);
    }
    world.wait(10);
    scheduler.turn(&mut world, Vec::new());
    assert_eq!(world.routed.len(), 4);
    world.disk.set_room(4096);
    for _ in 0..2 {
        world.disk.kill();
        drop(scheduler);
        scheduler = world.scheduler().expect("it can be opened though no room can be made");
        world.check(&scheduler);
        scheduler.work(&mut world);
        world.wait(10);
        scheduler.sync(&mut world);
        assert!(!scheduler.failed);
    }
    assert_eq!(world.routed.len(), 6);
    world.disk.set_room(1 << 20);
    world.wait(6_000);
    scheduler.turn(&mut world, Vec::new());
    assert_eq!(scheduler.spare, Spare::There);
}

#[test]
fn the_next_log_has_room_for_as_large_a_checkpoint_as_the_last() {
    let mut world = World::new(13);
    let mut acceptor = world.acceptor().expect("it can be opened");
    let mut scheduler = world.scheduler().expect("it can be opened");
    for _ in 0..19 {
        acceptor.commit_small(&mut world, 10);
        world.wait(3);
        acceptor.write(&mut world, Vec::new());
        scheduler.work(&mut world);
    }
    let log_bytes = crate::tests::world::settings().ledger_bytes.0 as usize;
    assert_eq!(scheduler.live.len(), 19);
    for _ in 0..21 {
        scheduler.checkpoint(&mut world);
    }
    world.wait(10);
    scheduler.turn(&mut world, Vec::new());
    let room = logs(&world).last().expect("there is a spare").1;
    assert!(room >= log_bytes + 19 * 150, "{room}");
    // A checkpoint after a failure comes to nothing, and its log does not stay.
    // A chore may come before the write.
    (0..2).for_each(|after| world.disk.fail_after(after, Fault::Io));
    scheduler.work(&mut world);
    assert!(scheduler.failed);
    let before = logs(&world);
    for _ in 0..5 {
        scheduler.checkpoint(&mut world);
        world.disk.fail_after(0, Fault::Full);
        scheduler.checkpoint(&mut world);
        world.wait(10);
        assert!(scheduler.failed);
        assert!(logs(&world).len() <= before.len(), "{:?}", logs(&world));
    }
    for _ in 0..25 {
        world.wait(10);
        scheduler.checkpoint(&mut world);
        if !scheduler.failed {
            break;
        }
    }
    assert!(!scheduler.failed);
    world.disk.restart();
    let scheduler = world.scheduler().expect("it can be opened");
    world.check(&scheduler);
}

#[test]
fn records_are_written_while_a_sync_is_under_way() {
    for pace in [Pace::ToldLate, Pace::DoneLate] {
        let mut world = World::new(9);
        let mut acceptor = world.acceptor().expect("it can be opened");
        let mut scheduler = world.scheduler().expect("it can be opened");
        for _ in 0..2 {
            acceptor.commit_small(&mut world, 10);
            world.wait(3);
            acceptor.write(&mut world, Vec::new());
        }
        scheduler.set_pace(&mut world, pace);
        scheduler.work(&mut world);
        scheduler.sync(&mut world);
        assert_eq!((scheduler.written, world.routed.len()), (1, 0));
        scheduler.work(&mut world);
        assert_eq!((scheduler.written, world.routed.len()), (2, 0), "nobody waits for the sync");
        // A checkpoint begins behind it, and so does what was appended after that.
        scheduler.checkpoint(&mut world);
        scheduler.work(&mut world);
        assert_eq!(scheduler.written, 2);
        scheduler.set_pace(&mut world, pace);
        assert_eq!(world.routed.len(), 1, "it covers what was written before it began");
        scheduler.turn(&mut world, Vec::new());
        assert_eq!((scheduler.written, world.routed.len()), (3, 2));
        world.disk.restart();
        let scheduler = world.scheduler().expect("it can be opened");
        world.check(&scheduler);
    }
}

#[test]
fn a_sync_that_fails_late_is_a_failure_of_all_that_was_written_meanwhile() {
    for pace in [Pace::ToldLate, Pace::DoneLate] {
        let mut world = World::new(10);
        let mut acceptor = world.acceptor().expect("it can be opened");
        let mut scheduler = world.scheduler().expect("it can be opened");
        for _ in 0..2 {
            acceptor.commit_small(&mut world, 10);
            world.wait(3);
            acceptor.write(&mut world, Vec::new());
        }
        scheduler.turn(&mut world, Vec::new());
        scheduler.set_pace(&mut world, pace);
        scheduler.work(&mut world);
        // The next operation is the sync, or a write that comes before it.
        world.disk.fail_after(0, Fault::Io);
        scheduler.sync(&mut world);
        scheduler.work(&mut world);
        scheduler.set_pace(&mut world, Pace::AtOnce);
        assert!(scheduler.failed && world.routed.is_empty());
        for _ in 0..10 {
            world.wait(10);
            scheduler.checkpoint(&mut world);
        }
        assert!(!scheduler.failed);
        world.disk.restart();
        let scheduler = world.scheduler().expect("it can be opened");
        assert_eq!(scheduler.live.len(), 2);
        world.check(&scheduler);
    }
}

#[test]
fn a_draft_is_answered_before_the_sync_that_is_due() {
    let mut world = World::new(11);
    let mut acceptor = world.acceptor().expect("it can be opened");
    let mut answers = Vec::new();
    for _ in 0..3 {
        let accept = Box::new(queue::conformance::accept("a@example.test", 1));
        let (committed, drafted) = (world.new_body(10), world.new_body(10));
        let body = CommitBody::Whole(world.bodies[&committed].clone());
        let commit = Event::Commit { id: committed, accept, body, waiter: committed };
        let body = world.bodies[&drafted].clone();
        let draft = Event::Draft { id: drafted, body, waiter: drafted };
        world.wait(10);
        let next = acceptor.writer.turn(world.now, &mut vec![commit, draft], &mut answers);
        let last = answers.pop().expect("it answers");
        assert!(matches!(last, Answer::Drafted(id, Ok(_)) if id == drafted));
        assert!(matches!(next, Next::RestUntil(_)), "a sync is to come");
        // Its commit was answered at the beginning of this turn, however many drafts come.
        if let Some(Answer::Committed(_, result)) = answers.pop() {
            assert!(result.is_ok() && answers.is_empty());
        }
    }
    world.wait(10);
    acceptor.writer.turn(world.now, &mut Vec::new(), &mut answers);
    assert!(!answers.is_empty());
    assert!(answers.iter().all(|answer| matches!(answer, Answer::Committed(_, Ok(_)))));
}

#[test]
fn a_message_that_the_scheduler_was_not_told_of_keeps_its_segment() {
    let mut world = World::new(4);
    let mut acceptor = world.acceptor().expect("it can be opened");
    let mut scheduler = world.scheduler().expect("it can be opened");
    acceptor.commit_small(&mut world, 1000);
    world.wait(3);
    scheduler.work(&mut world);
    scheduler.work(&mut world);
    assert_eq!(world.retiring.len(), 1);
    acceptor.commit_small(&mut world, 1000);
    acceptor.close(&mut world);
    for _ in 0..10 {
        world.wait(4_000);
        scheduler.sync(&mut world);
        scheduler.turn(&mut world, Vec::new());
    }
    assert_eq!(world.segments().len(), 1);
    world.check(&scheduler);
    // Told now.
    scheduler.work(&mut world);
    scheduler.work(&mut world);
    scheduler.sync(&mut world);
    world.wait(4_000);
    scheduler.turn(&mut world, Vec::new());
    assert_eq!(world.segments().len(), 0);
}

#[test]
fn damage_in_the_midst_of_the_ledger_costs_what_one_frame_said() {
    let mut world = World::new(5);
    let mut acceptor = world.acceptor().expect("it can be opened");
    let mut scheduler = world.scheduler().expect("it can be opened");
    for _ in 0..5 {
        acceptor.commit_small(&mut world, 10);
        world.wait(30);
        acceptor.write(&mut world, Vec::new());
        scheduler.work(&mut world);
        scheduler.sync(&mut world);
    }
    scheduler.close(&mut world);
    let layout = Layout::new(Path::new(DIR));
    world.disk.damage(&layout.log(1), |bytes| bytes[64 + 40] ^= 1);
    let found = log::find(&world.disk, &layout).expect("it can be read");
    let [damage] = &found.damage[..] else { panic!("{:?}", found.damage) };
    assert_eq!((damage.log, damage.offset, damage.may_be_torn), (1, 64, false));
    let known = |world: &World, scheduler: &Scheduler| {
        let standing = |handle| scheduler.book.standing(handle) != Standing::Unknown;
        world.accepted.values().filter(|handle| standing(handle)).count()
    };
    let mut scheduler = world.scheduler().expect("what is damaged is passed over");
    let before = known(&world, &scheduler);
    assert!((3..=5).contains(&before), "all frames but one are taken: {before}");
    // The ledger is whole again with the next checkpoint, and the damaged log is kept for whoever wants to look.
    for _ in 0..20 {
        scheduler.checkpoint(&mut world);
        world.wait(1_000);
        scheduler.turn(&mut world, Vec::new());
    }
    assert_eq!(known(&world, &scheduler), before);
    let kept = layout.damaged().join("ledger-1.log");
    let is = |world: &World, path: &Path| world.disk.files().iter().any(|(it, _)| it == path);
    assert!(is(&world, &kept) && !is(&world, &layout.log(1)));
    drop(scheduler);
    assert_eq!(log::find(&world.disk, &layout).expect("it can be read").damage, []);
}

/// Three lives of the scheduler, each with a log and a message of its own.
fn three_lives(seed: u64) -> (World, Acceptor) {
    let mut world = World::new(seed);
    let mut acceptor = world.acceptor().expect("it can be opened");
    for _ in 0..3 {
        let mut scheduler = world.scheduler().expect("it can be opened");
        acceptor.commit_small(&mut world, 10);
        world.wait(30);
        acceptor.write(&mut world, Vec::new());
        scheduler.work(&mut world);
        scheduler.sync(&mut world);
        scheduler.close(&mut world);
    }
    (world, acceptor)
}

#[test]
fn a_log_whose_head_is_lost_is_set_aside_and_the_others_are_replayed() {
    let (mut world, _acceptor) = three_lives(5);
    let layout = Layout::new(Path::new(DIR));
    let logs: Vec<u64> = log::find(&world.disk, &layout)
        .expect("it can be read")
        .logs
        .iter()
        .map(|log| log.sequence)
        .collect();
    let lost = logs[1];
    world.disk.damage(&layout.log(lost), |bytes| bytes[..64].fill(7));
    let found = log::find(&world.disk, &layout).expect("it can be read");
    assert_eq!(found.unreadable, [lost]);
    assert_eq!(found.logs.len(), logs.len() - 1, "those on both sides of it");
    drop(world.scheduler().expect("it can be opened"));
    let kept = layout.damaged().join(format!("ledger-{lost}.log"));
    assert!(world.disk.files().iter().any(|(path, _)| *path == kept));
}

#[test]
fn a_flipped_byte_in_a_segment_is_gone_and_its_neighbours_are_there() {
    let mut world = World::new(6);
    let mut acceptor = world.acceptor().expect("it can be opened");
    for _ in 0..5 {
        acceptor.commit_small(&mut world, 500);
    }
    world.wait(3);
    acceptor.write(&mut world, Vec::new());
    drop(acceptor);
    world.disk.kill();
    let middle = *world.accepted.keys().nth(2).expect("there are five");
    let handle = world.accepted.remove(&middle).expect("it is there");
    let Some(crate::place::Place::Message(place)) = crate::place::Place::parse(&handle) else {
        panic!("it is a message");
    };
    let path = Layout::new(Path::new(DIR)).segment(place.record.segment);
    world.disk.damage(&path, |bytes| bytes[place.record.offset as usize + 200] ^= 1);
    let (_, _, adopted) = world.spool.intake_machines::<u8>(world.now).expect("it can be opened");
    assert_eq!((adopted.segments, adopted.messages), (1, 4));
    assert!(adopted.damaged_bytes >= 500 && adopted.needs_requeue());
    let scheduler = world.scheduler().expect("it can be opened");
    world.check(&scheduler);
    let layout = Layout::new(Path::new(DIR));
    assert!(crate::tests::world::open_message(&world.disk, &layout, &place).is_err());
}

#[test]
fn a_log_that_was_begun_in_vain_stands_in_nobodys_way() {
    // One after the other, every changing operation of beginning a checkpoint fails, and all that would tidy up after it.
    for after in 0..8 {
        let mut world = World::new(7);
        let mut acceptor = world.acceptor().expect("it can be opened");
        let mut scheduler = world.scheduler().expect("it can be opened");
        acceptor.commit_small(&mut world, 10);
        scheduler.turn(&mut world, Vec::new());
        scheduler.work(&mut world);
        scheduler.sync(&mut world);
        (after..after + 3).for_each(|after| world.disk.fail_after(after, Fault::Full));
        scheduler.checkpoint(&mut world);
        for _ in 0..20 {
            world.wait(6_000);
            scheduler.checkpoint(&mut world);
        }
        world.disk.kill();
        let scheduler = world.scheduler().unwrap_or_else(|error| panic!("{after}: {error}"));
        world.check(&scheduler);
    }
}

#[test]
fn a_missing_log_is_told_of() {
    let (mut world, _acceptor) = three_lives(8);
    let logs = |world: &World| {
        let files = world.disk.files().into_iter().map(|(path, _)| path);
        files.filter(|path| path.extension().is_some_and(|it| it == "log")).collect::<Vec<_>>()
    };
    let first = logs(&world).into_iter().next().expect("there are some");
    crate::disk::Disk::unlink(&world.disk, &first).expect("it is there");
    let layout = Layout::new(Path::new(DIR));
    let found = log::find(&world.disk, &layout).expect("it can be read");
    let [damage] = &found.damage[..] else { panic!("{:?}", found.damage) };
    assert_eq!((layout.log(damage.log), damage.what), (first, "it is missing"));
    drop(world.scheduler().expect("it goes on with what there is"));
}
