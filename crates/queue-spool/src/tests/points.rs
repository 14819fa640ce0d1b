//! The power goes, or every process dies, at every operation of a life: whatever the moment, nothing that got `250` is lost.
//!
//! A history is a life that follows from a seed: what is accepted, routed, ended, synced, how the disk fails meanwhile. It is
//! lived once to see how many operations it takes, and then again for each of them, up to where that one is cut off in the
//! midst. What recovers must find everything in order; so must what recovers from a crash during that recovery.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::simulated::Fault;
use crate::tests::lives::live;
use crate::tests::world::World;

/// Steps of a history: enough for a few segments, logs and checkpoints.
const STEPS: u32 = 60;
/// Operations of a recovery, more or less: a second crash falls among them.
const RECOVERY_OPERATIONS: u64 = 40;

/// How a history is cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Crash {
    /// What was not synced is lost, in part or whole.
    Power,
    /// Every process dies; what was written stays.
    Processes,
}

#[test]
fn nothing_accepted_is_lost_at_any_point() {
    // `SPOOL_CRASHES=20000` makes so many at least, from `SPOOL_SEED` on; `SPOOL_POINT=7` makes one, of that seed.
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let first = number("SPOOL_SEED").unwrap_or(0);
    if let Some(point) = number("SPOOL_POINT") {
        crash_at(first, point);
        return;
    }
    let wanted = number("SPOOL_CRASHES").unwrap_or(600);
    let (next, crashes) = (AtomicU64::new(first), AtomicU64::new(0));
    let work = || {
        while crashes.load(Ordering::Relaxed) < wanted {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            for point in 0..operations(seed) {
                let crashed = catch_unwind(AssertUnwindSafe(|| crash_at(seed, point)));
                let crashed = crashed.unwrap_or_else(|cause| {
                    eprintln!(
                        "seed {seed} fails at point {point}; this repeats it:\nSPOOL_SEED={seed} SPOOL_POINT={point} \
                         cargo test --profile simulation -p queue-spool --lib at_any_point -- --nocapture"
                    );
                    resume_unwind(cause);
                });
                crashes.fetch_add(crashed, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        let workers = [scope.spawn(work), scope.spawn(work)];
        workers
            .into_iter()
            .for_each(|worker| worker.join().unwrap_or_else(|cause| resume_unwind(cause)));
    });
    let seeds: Range<u64> = first..next.into_inner();
    println!("simulated crashes: {}, of histories {seeds:?}", crashes.into_inner());
}

/// How many changing operations the disk does in a history that is not cut off.
fn operations(seed: u64) -> u64 {
    let mut world = begin(seed);
    let before = world.disk.operations();
    live(&mut world, STEPS, true);
    world.disk.operations() - before
}

/// A world in which the history's own failures are planned.
fn begin(seed: u64) -> World {
    let mut world = World::new(seed);
    for _ in 0..world.draw(4) {
        let after = world.draw(200);
        let fault = if world.draw(2) == 0 { Fault::Io } else { Fault::Full };
        world.disk.fail_after(after, fault);
    }
    world
}

/// Lives a history up to a point, and recovers. Gives how many crashes that took.
fn crash_at(seed: u64, point: u64) -> u64 {
    let mut world = begin(seed);
    world.disk.fail_after(point, Fault::Crash);
    live(&mut world, STEPS, true);
    let crash = if (seed + point).is_multiple_of(3) { Crash::Processes } else { Crash::Power };
    end(&mut world, crash);
    let mut crashes = 1;
    if point.is_multiple_of(2) {
        let after = world.draw(RECOVERY_OPERATIONS);
        world.disk.fail_after(after, Fault::Crash);
        drop((world.scheduler().ok(), world.acceptor()));
        crashes += u64::from(world.disk.is_crashed());
        end(&mut world, crash);
    }
    for _ in 0..2 {
        let scheduler = world.scheduler().expect("the ledger is in order");
        world.check(&scheduler);
        drop(scheduler);
        drop(world.acceptor().expect("a sound disk can be written to"));
    }
    crashes
}

fn end(world: &mut World, crash: Crash) {
    match crash {
        Crash::Power => world.disk.restart(),
        Crash::Processes => world.disk.kill(),
    }
}
