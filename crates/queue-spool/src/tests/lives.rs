//! Whatever dies, whenever: nothing that got `250` is lost, nothing that was synced is forgotten.

use crate::disk::simulated::Fault;
use crate::tests::world::{Acceptor, Pace, Scheduler, World};

/// How a life ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Power,
    Kill,
    Clean,
}

#[test]
fn nothing_accepted_is_lost() {
    // `SPOOL_SEED=17` repeats one, `SPOOL_SEEDS=5000` tries more, from `SPOOL_SEED` on if that is set too.
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let seeds = match (number("SPOOL_SEED"), number("SPOOL_SEEDS")) {
        (Some(seed), seeds) => seed..seed + seeds.unwrap_or(1),
        (None, seeds) => 0..seeds.unwrap_or(40),
    };
    let mut told = (0, 0, 0);
    for seed in seeds {
        let result = std::panic::catch_unwind(|| live_and_die(seed));
        let world = result.unwrap_or_else(|cause| {
            eprintln!("seed {seed} fails; SPOOL_SEED={seed} repeats it");
            std::panic::resume_unwind(cause);
        });
        told.0 += world.accepted.len();
        told.1 += world.retired.len();
        told.2 += world.refused;
    }
    // A simulation in which nothing happens proves nothing.
    assert!(told.0 > 0 && told.1 > 0, "{told:?}");
    eprintln!("accepted, ended and refused in all: {told:?}");
}

fn live_and_die(seed: u64) -> World {
    let mut world = World::new(seed);
    for _ in 0..6 {
        let end = match world.draw(3) {
            0 => End::Power,
            1 => End::Kill,
            _ => End::Clean,
        };
        if end == End::Power {
            let after = world.draw(150);
            world.disk.fail_after(after, Fault::Crash);
        }
        for _ in 0..world.draw(4) {
            let after = world.draw(300);
            let fault = if world.draw(2) == 0 { Fault::Io } else { Fault::Full };
            world.disk.fail_after(after, fault);
        }
        live(&mut world, 120, end == End::Clean);
        match end {
            End::Power => world.disk.restart(),
            End::Kill | End::Clean => world.disk.kill(),
        }
        // A life without failures finds everything in order.
        let scheduler = world.scheduler().expect("the ledger is in order");
        world.check(&scheduler);
        drop(scheduler);
        drop(world.acceptor().expect("a sound disk can be written to"));
        let scheduler = world.scheduler().expect("the ledger is in order");
        world.check(&scheduler);
    }
    world
}

/// Lets two acceptors and a scheduler work until the power goes, or for so many steps; a clean life ends in order.
pub(super) fn live(world: &mut World, steps: u32, is_clean: bool) {
    let mut acceptors: Vec<Acceptor> = (0..2).filter_map(|_| world.acceptor()).collect();
    let mut scheduler = world.scheduler().ok();
    if let Some(scheduler) = &scheduler
        && !world.disk.is_crashed()
    {
        world.check(scheduler);
    }
    for _ in 0..steps {
        if world.disk.is_crashed() {
            return;
        }
        step(world, &mut acceptors, &mut scheduler);
    }
    if is_clean {
        acceptors.into_iter().for_each(|acceptor| acceptor.close(world));
        if let Some(scheduler) = scheduler {
            scheduler.close(world);
        }
    }
}

#[test]
fn a_checkpoint_with_a_hole_is_not_complete() {
    let mut world = World::new(7);
    let mut acceptor = world.acceptor().expect("a sound disk");
    acceptor.commit_small(&mut world, 100);
    let mut scheduler = world.scheduler().expect("a new ledger");
    scheduler.work(&mut world);
    scheduler.sync(&mut world);
    assert_eq!(world.routed.len(), 1, "one message is routed, and that is synced");
    // The checkpoint is written to its end, and the power goes before its sync: the disk kept its end, and not the snapshot.
    scheduler.set_pace(&mut world, Pace::DoneLate);
    // Its beginning, one snapshot, its end.
    for _ in 0..3 {
        scheduler.checkpoint(&mut world);
    }
    world.disk.kill();
    drop(scheduler);
    let (newest, bytes) = world
        .disk
        .files()
        .into_iter()
        .filter(|(path, bytes)| {
            path.extension().is_some_and(|it| it == "log") && position(bytes, b"snapshot").is_some()
        })
        .max()
        .expect("a log with a snapshot");
    let at = position(&bytes, b"snapshot").expect("it holds one");
    world.disk.damage(&newest, |bytes| bytes[at] ^= 0xff);
    let scheduler = world.scheduler().expect("a damaged ledger is a ledger");
    world.check(&scheduler);
    assert_eq!(scheduler.live.len(), 1, "the log before the checkpoint still counts");
}

fn position(bytes: &[u8], text: &[u8]) -> Option<usize> {
    bytes.windows(text.len()).position(|window| window == text)
}

fn step(world: &mut World, acceptors: &mut [Acceptor], scheduler: &mut Option<Scheduler>) {
    let choice = world.draw(16);
    let length = world.draw(1900) as usize;
    let which = world.draw(2) as usize;
    if let Some(acceptor) = acceptors.get_mut(which) {
        match choice {
            0..=3 => acceptor.commit_small(world, length),
            4 => acceptor.draft(world, length),
            5 => acceptor.end_draft(world, true),
            6 => acceptor.end_draft(world, false),
            7 => acceptor.commit_large(world, 2000 * (1 + length % 200), !length.is_multiple_of(3)),
            _ => {}
        }
    }
    if let Some(scheduler) = scheduler {
        match world.draw(12) {
            0 => scheduler.set_pace(world, Pace::AtOnce),
            1 | 2 => scheduler.set_pace(world, Pace::ToldLate),
            3 | 4 => scheduler.set_pace(world, Pace::DoneLate),
            _ => {}
        }
        match choice {
            8..=10 => scheduler.work(world),
            11 => scheduler.sync(world),
            12 | 13 => scheduler.checkpoint(world),
            _ if scheduler.failed => scheduler.checkpoint(world),
            _ => {}
        }
    }
    let millis = match world.draw(20) {
        0 => 70_000,
        1..=4 => 5_000,
        5..=10 => 3,
        _ => 0,
    };
    world.wait(millis);
    acceptors.iter_mut().for_each(|acceptor| acceptor.write(world, Vec::new()));
    if let Some(scheduler) = scheduler {
        scheduler.turn(world, Vec::new());
    }
}
