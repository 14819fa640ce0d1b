//! Messages moved out of their segments: whatever dies, and whenever, each lives in one place, and its space comes back.

use std::collections::BTreeMap;
use std::path::Path;

use mail::MessageId;
use queue::conformance::{accept, deliver, routed, whole};
use queue::{Compaction, CompactionError, Handle, ReadError, Reader, Record, Recovery, Standing};

use crate::compaction::{held, hold, survey};
use crate::disk::simulated::Fault;
use crate::moved;
use crate::place::{Layout, Place, StripeFile, stripe_file_of};
use crate::stripe::stripes;
use crate::tests::world::{Acceptor, DIR, Pace, Scheduler, World, open_message, settings};

/// A message that was copied, and whose scheduler may hear of it late or never.
struct Copied {
    id: MessageId,
    from: Handle,
    to: Handle,
}

fn layout() -> Layout {
    Layout::new(Path::new(DIR))
}

fn segment_bytes() -> u64 {
    settings().segment_bytes.0
}

/// Copies what lives in sealed segments, of each only so many messages.
fn copy(world: &World, scheduler: &Scheduler, per_segment: usize) -> Option<Vec<Copied>> {
    let layout = layout();
    let _held = hold(&world.disk, &layout).ok()?;
    let survey = survey(&world.disk, &layout, segment_bytes()).ok()?;
    let mut found = Vec::new();
    for sealed in survey.segments {
        let name = sealed.segment.0.parse().expect("one of ours");
        let in_it = held(&world.disk, &layout, name).ok()?;
        let live = |id: &MessageId, handle: &Handle| {
            scheduler.live.get(id).is_some_and(|message| message.handle == *handle)
        };
        let handles: Vec<(MessageId, Handle)> = in_it
            .into_iter()
            .filter(|one| live(&one.id, &one.handle))
            .map(|one| (one.id, one.handle))
            .take(per_segment)
            .collect();
        let messages: Vec<Handle> = handles.iter().map(|(_, handle)| handle.clone()).collect();
        let copies = moved::copy_all(&world.disk, &layout, &messages, world.now.wall).map_err(drop);
        for ((id, from), to) in handles.into_iter().zip(copies.ok()?) {
            let to = to.expect("nothing is damaged");
            found.push(Copied { id, from, to });
        }
    }
    Some(found)
}

/// Tells the scheduler of copies, which answers as it does: those that live are moved, and those that have ended are let go.
fn tell(world: &mut World, scheduler: &mut Scheduler, copied: Vec<Copied>) {
    let mut in_vain = Vec::new();
    for Copied { id, from, to } in copied {
        match scheduler.live.get(&id) {
            Some(message) if message.handle == from => {
                scheduler.append(world, &[Record::Moved { id, handle: to }]);
            }
            Some(_) => {}
            None if world.retired.contains_key(&id) => in_vain.push(to),
            None => {}
        }
    }
    let _ = moved::discard(&world.disk, &layout(), &in_vain);
}

/// Looks at all copies as a pass does: those of messages that live at their old places are told of, others let go.
fn tidy(world: &mut World, scheduler: &mut Scheduler) {
    let layout = layout();
    let Some(stripes) =
        hold(&world.disk, &layout).ok().and_then(|_held| stripes(&world.disk, &layout).ok())
    else {
        return;
    };
    let mut told = Vec::new();
    for stripe in stripes {
        let Ok(copies) = moved::list(&world.disk, &layout, stripe) else { return };
        for copy in copies {
            let live = scheduler.live.get(&copy.id).map(|message| message.handle.clone());
            match live {
                Some(handle) if handle == copy.handle => {}
                Some(from) => told.push(Copied { id: copy.id, from, to: copy.handle }),
                None if world.retired.contains_key(&copy.id) => {
                    let _ = moved::discard(&world.disk, &layout, &[copy.handle]);
                }
                None => {}
            }
        }
    }
    // What an earlier process left may not be durable yet.
    let again: Vec<_> = told.iter().map(|copied| copied.from.clone()).collect();
    if moved::copy_all(&world.disk, &layout, &again, world.now.wall).is_ok() {
        tell(world, scheduler, told);
    }
}

/// Every accepted message is in one place, whole, or has ended.
fn check(world: &World, scheduler: &Scheduler) {
    let layout = layout();
    for (id, accepted) in &world.accepted {
        let standing = scheduler.book.standing(accepted);
        let live = scheduler.live.get(id);
        if world.retired.contains_key(id) {
            assert_eq!(standing, Standing::Retired, "{id} ended durably");
            assert!(live.is_none(), "{id} ended durably");
            continue;
        }
        if let Some(message) = live {
            let handle = &message.handle;
            assert_eq!(scheduler.book.standing(handle), Standing::Routed, "{id}: {handle}");
            assert_ne!(
                standing,
                Standing::Unknown,
                "{id}: a late enqueue is one of a known message"
            );
            readable(world, &layout, *id, handle);
        } else if standing == Standing::Unknown {
            readable(world, &layout, *id, accepted);
        } else {
            assert!(world.retiring.contains_key(id), "{id} never ended: {standing:?}");
        }
    }
}

fn readable(world: &World, layout: &Layout, id: MessageId, handle: &Handle) {
    let Some(Place::Message(place)) = Place::parse(handle) else { panic!("{handle}") };
    let (accepted, mut pieces) = open_message(&world.disk, layout, &place)
        .unwrap_or_else(|fault| panic!("{handle} is readable: {fault:?}"));
    let mut body = Vec::new();
    while let Some(piece) = pieces.next().expect("every piece is readable") {
        body.extend(piece);
    }
    assert!(body == world.bodies[&id], "{id} has its body");
    assert_eq!(accepted.id, id);
}

/// How many files of messages there are in the stripes.
fn files(world: &World) -> BTreeMap<&'static str, usize> {
    let mut counts = BTreeMap::new();
    for (path, _) in world.disk.files() {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let kind = match stripe_file_of(name) {
            StripeFile::Segment(_) => "seg",
            StripeFile::Body(_) => "body",
            StripeFile::Moved(..) => "moved",
            StripeFile::Other if name.ends_with(".new") => "new",
            StripeFile::Other => continue,
        };
        *counts.entry(kind).or_default() += 1;
    }
    counts
}

fn settle(world: &mut World, scheduler: &mut Scheduler) {
    for _ in 0..4 {
        scheduler.sync(world);
        world.wait(4_000);
        scheduler.turn(world, Vec::new());
    }
}

/// Accepts messages of every kind, routes them, and ends all but each tenth; the segments are sealed.
fn accept_and_end(world: &mut World) -> Scheduler {
    let mut acceptor = world.acceptor().expect("it can be opened");
    for number in 0..70 {
        match number % 10 {
            0 if number % 20 == 0 => acceptor.commit_small(world, 700),
            0 if number % 30 == 0 => acceptor.commit_large(world, 5_000, true),
            0 => {
                acceptor.draft(world, 900);
                acceptor.end_draft(world, true);
            }
            _ => acceptor.commit_small(world, 1000),
        }
        world.wait(3);
        acceptor.write(world, Vec::new());
    }
    acceptor.close(world);
    let mut scheduler = world.scheduler().expect("it can be opened");
    let routings: Vec<_> =
        world.accepted.iter().map(|(id, handle)| routed(*id, handle, 1)).collect();
    assert_eq!(routings.len(), 70);
    scheduler.append(world, &routings);
    let ended: Vec<_> = world
        .accepted
        .iter()
        .enumerate()
        .filter(|(number, _)| number % 10 != 0)
        .map(|(_, (id, handle))| Record::Retired { id: *id, handle: handle.clone() })
        .collect();
    scheduler.append(world, &ended);
    settle(world, &mut scheduler);
    scheduler
}

fn end_all(world: &mut World, scheduler: &mut Scheduler) {
    let retired = |message: &queue::Routed| Record::Retired {
        id: message.id,
        handle: message.handle.clone(),
    };
    let records: Vec<_> = scheduler.live.values().map(retired).collect();
    scheduler.append(world, &records);
    settle(world, scheduler);
}

#[test]
fn a_few_survivors_pin_no_segment() {
    let mut world = World::new(1);
    let mut scheduler = accept_and_end(&mut world);
    let before = files(&world);
    assert!(before["seg"] > 3, "{before:?}");
    let copied = copy(&world, &scheduler, usize::MAX).expect("the disk is sound");
    assert_eq!(copied.len(), 7, "each once");
    tell(&mut world, &mut scheduler, copied);
    settle(&mut world, &mut scheduler);
    assert_eq!(files(&world), BTreeMap::from([("body", 1), ("moved", 7)]));
    check(&world, &scheduler);
    // Nothing is left to be copied, and what is there is left alone.
    assert!(copy(&world, &scheduler, usize::MAX).expect("the disk is sound").is_empty());
    tidy(&mut world, &mut scheduler);
    assert_eq!(files(&world)["moved"], 7);
    end_all(&mut world, &mut scheduler);
    assert_eq!(files(&world), BTreeMap::new(), "everything comes back");
    check(&world, &scheduler);
    // What is durably gone is forgotten at the second checkpoint; the messages stay known as ended.
    for _ in 0..4 {
        scheduler.checkpoint(&mut world);
    }
    assert_eq!(crate::thread::lock(&scheduler.book.standings).ended_files().count(), 0);
    check(&world, &scheduler);
}

/// What happens in the test below, from the first copy to the last byte that comes back.
fn move_and_end(world: &mut World, scheduler: &mut Scheduler) {
    if let Some(copied) = copy(world, scheduler, usize::MAX) {
        tell(world, scheduler, copied);
    }
    settle(world, scheduler);
    for _ in 0..12 {
        scheduler.checkpoint(world);
    }
    end_all(world, scheduler);
    for _ in 0..2 {
        scheduler.checkpoint(world);
    }
    settle(world, scheduler);
}

#[test]
fn a_crash_at_any_disk_operation_loses_nothing_and_leaves_nothing() {
    let mut crashes = 0;
    for (after, power) in (0..).flat_map(|after| [(after, true), (after, false)]) {
        let mut world = World::new(after + 100);
        let mut scheduler = accept_and_end(&mut world);
        world.disk.fail_after(after, Fault::Crash);
        move_and_end(&mut world, &mut scheduler);
        if !world.disk.is_crashed() {
            break;
        }
        crashes += 1;
        drop(scheduler);
        if power {
            world.disk.restart()
        } else {
            world.disk.kill()
        }
        drop(world.acceptor().expect("a sound disk can be written to"));
        let mut scheduler = world.scheduler().expect("the ledger is in order");
        check(&world, &scheduler);
        // What a crash left behind goes: a checkpoint first, as the scheduler makes one when it cannot be sure.
        for _ in 0..20 {
            scheduler.checkpoint(&mut world);
        }
        tidy(&mut world, &mut scheduler);
        if let Some(copied) = copy(&world, &scheduler, usize::MAX) {
            tell(&mut world, &mut scheduler, copied);
        }
        settle(&mut world, &mut scheduler);
        check(&world, &scheduler);
        assert!(!files(&world).contains_key("seg"), "after {after}: {:?}", files(&world));
        end_all(&mut world, &mut scheduler);
        assert_eq!(files(&world), BTreeMap::new(), "after {after}");
        check(&world, &scheduler);
    }
    assert!(crashes > 100, "{crashes}");
}

/// Everything at once, for many seeds: `SPOOL_SEED` repeats one and `SPOOL_SEEDS` tries more, as in the lives without moves.
#[test]
fn lives_with_moves_lose_nothing() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let (first, seeds) = match (number("SPOOL_SEED"), number("SPOOL_SEEDS")) {
        (Some(seed), seeds) => (seed, seeds.unwrap_or(1)),
        (None, seeds) => (0, seeds.unwrap_or(40)),
    };
    let mut moves = 0;
    for seed in first..first + seeds {
        let result = std::panic::catch_unwind(|| live_and_die(seed));
        moves += result.unwrap_or_else(|cause| {
            eprintln!("seed {seed} fails; SPOOL_SEED={seed} repeats it");
            std::panic::resume_unwind(cause);
        });
    }
    assert!(moves > 0, "a simulation in which nothing happens proves nothing");
}

fn live_and_die(seed: u64) -> usize {
    let mut world = World::new(seed + 1000);
    let mut moves = 0;
    for _ in 0..6 {
        let power = world.draw(2) == 0;
        if power {
            let after = world.draw(250);
            world.disk.fail_after(after, Fault::Crash);
        }
        for _ in 0..world.draw(3) {
            let after = world.draw(300);
            let fault = if world.draw(2) == 0 { Fault::Io } else { Fault::Full };
            world.disk.fail_after(after, fault);
        }
        moves += live(&mut world);
        if power {
            world.disk.restart()
        } else {
            world.disk.kill()
        }
        let scheduler = world.scheduler().expect("the ledger is in order");
        check(&world, &scheduler);
        drop(scheduler);
        drop(world.acceptor().expect("a sound disk can be written to"));
        let scheduler = world.scheduler().expect("the ledger is in order");
        check(&world, &scheduler);
    }
    moves
}

fn live(world: &mut World) -> usize {
    let mut acceptor = world.acceptor();
    let Ok(mut scheduler) = world.scheduler() else { return 0 };
    let (mut copied, mut moves) = (Vec::new(), 0);
    for _ in 0..150 {
        if world.disk.is_crashed() {
            break;
        }
        if let Some(acceptor) = &mut acceptor {
            accept_something(world, acceptor);
        }
        let pace = [Pace::AtOnce, Pace::ToldLate, Pace::DoneLate][world.draw(3) as usize];
        match world.draw(16) {
            0..=4 => scheduler.work(world),
            5 | 6 => scheduler.sync(world),
            7 | 8 => scheduler.checkpoint(world),
            9 => scheduler.set_pace(world, pace),
            10 => {
                let per_segment = world.draw(4) as usize;
                let more = copy(world, &scheduler, per_segment).unwrap_or_default();
                moves += more.len();
                copied.extend(more);
            }
            11 | 12 => tell(world, &mut scheduler, std::mem::take(&mut copied)),
            13 => tidy(world, &mut scheduler),
            _ if scheduler.failed => scheduler.checkpoint(world),
            _ => {}
        }
        let millis = [0, 0, 0, 3, 3, 5_000, 5_000, 70_000][world.draw(8) as usize];
        world.wait(millis);
        if let Some(acceptor) = &mut acceptor {
            acceptor.write(world, Vec::new());
        }
        scheduler.turn(world, Vec::new());
    }
    moves
}

fn accept_something(world: &mut World, acceptor: &mut Acceptor) {
    let length = world.draw(1900) as usize;
    match world.draw(10) {
        0..=4 => acceptor.commit_small(world, length),
        5 => acceptor.draft(world, length),
        6 => acceptor.end_draft(world, true),
        7 => acceptor.end_draft(world, false),
        8 => acceptor.commit_large(world, 2000 * (1 + length % 20), true),
        _ => {}
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime can be built");
    runtime.block_on(work)
}

#[test]
fn a_damaged_record_is_not_copied() {
    let world = World::new(7);
    let (disk, spool) = (world.disk.clone(), world.spool.clone());
    block_on(async {
        let intake = spool.intake().expect("it opens").0;
        let (_, sound) = deliver(&*intake, b"sound", accept("a@example.test", 1)).await;
        let (_, damaged) = deliver(&*intake, b"damaged", accept("a@example.test", 1)).await;
        drop(intake);
        let Some(Place::Message(place)) = Place::parse(&damaged) else { panic!("{damaged}") };
        let at = place.record.offset as usize + place.record.length as usize - 1;
        disk.damage(&layout().segment(place.record.segment), |bytes| bytes[at] ^= 1);
        let compaction = spool.compaction().expect("it opens");
        compaction.survey().await.expect("nobody else is at it");
        let other = spool.compaction().expect("it opens");
        assert!(matches!(other.survey().await, Err(CompactionError::Busy)));
        let copies = compaction.copy(vec![sound.clone(), damaged]).await.expect("there is room");
        let [Ok(copy), Err(ReadError::Damaged(_, why))] = &copies[..] else { panic!("{copies:?}") };
        assert!(why.contains("fails its checksum"), "{why}");
        assert_eq!(compaction.copies().await.expect("it reads").len(), 1);
        // A copy is taken as it is, and made anew when it is damaged.
        let path = {
            let Some(Place::Message(place)) = Place::parse(copy) else { panic!("{copy}") };
            layout().moved(&place.record)
        };
        let of = |path: &Path| disk.files().into_iter().find(|file| file.0 == *path).expect("it").1;
        let before = of(&path);
        compaction.copy(vec![sound.clone()]).await.expect("there is room");
        assert!(of(&path) == before);
        disk.damage(&path, |bytes| bytes[before.len() - 70] ^= 1);
        compaction.copy(vec![sound.clone()]).await.expect("there is room");
        assert_ne!(of(&path), before);
        let stored = spool.reader().expect("it opens").open(copy).await.expect("it is whole");
        assert_eq!(whole(stored).await, &b"sound"[..]);
        compaction.discard(vec![copy.clone()]).await.expect("it can be removed");
        assert!(compaction.copies().await.expect("it reads").is_empty());
        drop(compaction);
        other.survey().await.expect("the other has ended");
    });
}

#[test]
fn without_a_ledger_what_was_moved_is_found_again() {
    let mut world = World::new(8);
    let mut scheduler = accept_and_end(&mut world);
    let copied = copy(&world, &scheduler, usize::MAX).expect("the disk is sound");
    tell(&mut world, &mut scheduler, copied);
    settle(&mut world, &mut scheduler);
    drop(scheduler);
    for (path, _) in world.disk.files() {
        if path.extension().is_some_and(|extension| extension == "log") {
            crate::disk::Disk::unlink(&world.disk, &path).expect("it is there");
        }
    }
    world.disk.kill();
    let scheduler = world.scheduler().expect("it begins anew");
    let recovery = world.spool.recovery().expect("it opens");
    let listed = block_on(async {
        let mut listed = Vec::new();
        for segment in recovery.segments(false).await.expect("it reads") {
            listed.extend(recovery.accepted(&segment).await.expect("it reads"));
        }
        listed
    });
    assert_eq!(listed.len(), 7);
    for one in listed {
        assert_eq!(scheduler.book.standing(&one.handle), Standing::Unknown, "{}", one.handle);
    }
}
