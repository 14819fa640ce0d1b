//! Every bit of every file of a small spool, one at a time: it is found, and no message but the one it belongs to suffers.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use mail::MessageId;
use queue::Standing;

use crate::RepairMode;
use crate::check::check_on;
use crate::disk::Disk;
use crate::disk::simulated::SimulatedDisk;
use crate::place::{Layout, MessagePlace, Place};
use crate::read::Fault;
use crate::repair::repair_on;
use crate::tests::world::{DIR, World, open_message};

type Files = Vec<(PathBuf, Vec<u8>)>;

fn layout() -> Layout {
    Layout::new(Path::new(DIR))
}

/// A spool with a message of each kind, some of them routed, one ended; the last segment is sealed or not.
fn spool(sealed: bool) -> (World, Files) {
    let mut world = World::new(3);
    let mut acceptor = world.acceptor().expect("it can be opened");
    let mut scheduler = world.scheduler().expect("it can be opened");
    acceptor.commit_small(&mut world, 100);
    acceptor.commit_large(&mut world, 2100, true);
    acceptor.draft(&mut world, 80);
    world.wait(5);
    acceptor.write(&mut world, Vec::new());
    acceptor.end_draft(&mut world, true);
    world.wait(5);
    acceptor.write(&mut world, Vec::new());
    for _ in 0..3 {
        scheduler.work(&mut world);
        scheduler.sync(&mut world);
    }
    for _ in 0..5 {
        acceptor.commit_small(&mut world, 60);
        world.wait(5);
        acceptor.write(&mut world, Vec::new());
    }
    scheduler.close(&mut world);
    if sealed {
        acceptor.close(&mut world);
    } else {
        drop(acceptor);
    }
    world.disk.kill();
    let files = world.disk.files();
    (world, files)
}

/// The same files on a disk of their own.
fn copy(files: &Files) -> SimulatedDisk {
    let disk = SimulatedDisk::new(1);
    for (path, bytes) in files {
        let mut dirs: Vec<_> = path.ancestors().skip(1).collect();
        dirs.reverse();
        dirs.iter().for_each(|dir| disk.make_dir(dir).expect("it can be made"));
        let file = disk.create(path).expect("it can be made");
        file.write_at(bytes, 0).expect("it can be written");
        file.sync().expect("it can be synced");
        dirs.iter().for_each(|dir| disk.sync_dir(dir).expect("it can be synced"));
    }
    disk
}

fn is_lock(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == "lock")
}

/// Of the zeros behind a log's last frame, a few places stand for all.
fn places(path: &Path, bytes: &[u8]) -> Vec<usize> {
    let written = match path.extension().is_some_and(|extension| extension == "log") {
        true => bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 64),
        false => bytes.len(),
    };
    let behind = (written..bytes.len()).step_by(997);
    (0..written.min(bytes.len())).chain(behind).collect()
}

#[test]
fn check_finds_every_flipped_bit() {
    for sealed in [true, false] {
        let (_, files) = spool(sealed);
        let flips: Vec<(usize, usize)> = (0..files.len())
            .filter(|number| !is_lock(&files[*number].0))
            .flat_map(|number| {
                let (path, bytes) = &files[number];
                places(path, bytes).into_iter().map(move |at| (number, at))
            })
            .collect();
        let (some, others) = flips.split_at(flips.len() / 2);
        std::thread::scope(|scope| {
            scope.spawn(|| find_all(&files, some, sealed));
            find_all(&files, others, sealed);
        });
    }
}

/// Checks a spool with a bit of each of these bytes wrong, of a sealed one with another too; with `SPOOL_EVERY_BIT` set, with each.
fn find_all(files: &Files, flips: &[(usize, usize)], sealed: bool) {
    let every = std::env::var_os("SPOOL_EVERY_BIT").is_some();
    let disk = copy(files);
    let before = check_on(&disk, &layout()).expect("it can be read");
    assert!(before.is_sound() && before.messages >= 5, "{before:?}");
    for (number, at) in flips {
        let path = &files[*number].0;
        let bits = match (every, sealed) {
            (true, _) => (0..8).collect(),
            (false, true) => vec![at % 8, (at + 5) % 8],
            (false, false) => vec![at % 8],
        };
        for bit in bits {
            disk.damage(path, |bytes| bytes[*at] ^= 1 << bit);
            let report = check_on(&disk, &layout()).expect("it can be read");
            assert!(
                report.findings != before.findings,
                "bit {bit} of byte {at} of {} is not found: {report:?}",
                path.display()
            );
            disk.damage(path, |bytes| bytes[*at] ^= 1 << bit);
        }
    }
    assert_eq!(check_on(&disk, &layout()).expect("it can be read"), before);
}

/// What a start makes of a spool: the messages that are delivered from it, and those that are known and damaged.
fn start(world: &mut World, files: &Files) -> (BTreeSet<MessageId>, BTreeSet<MessageId>, bool) {
    let disk = copy(files);
    world.disk = disk.clone();
    world.spool = crate::Spool::new(
        std::sync::Arc::new(disk.clone()),
        Path::new(DIR),
        crate::tests::world::settings(),
    );
    drop(world.acceptor().expect("a spool can be written to, whatever bit is wrong"));
    let scheduler = world.scheduler().expect("a ledger can be read, whatever bit is wrong");
    let (mut whole, mut damaged) = (BTreeSet::new(), BTreeSet::new());
    let listed = world.listed().into_iter();
    let unknown = listed.filter(|(_, handle)| scheduler.book.standing(handle) == Standing::Unknown);
    let live = scheduler.live.values().map(|message| (message.id, message.handle.clone()));
    for (id, handle) in unknown.chain(live) {
        let Some(Place::Message(place)) = Place::parse(&handle) else { panic!("{handle}") };
        match read(&disk, &place) {
            Ok(body) => {
                assert!(body == world.bodies[&id], "no wrong byte comes out of {id}");
                whole.insert(id);
            }
            Err(Fault::Damaged(_)) => drop(damaged.insert(id)),
            Err(fault) => panic!("{id} is gone: {fault:?}"),
        }
    }
    let aside = disk.list(&layout().damaged()).is_ok_and(|names| !names.is_empty());
    (whole, damaged, aside)
}

fn read(disk: &dyn Disk, place: &MessagePlace) -> Result<Vec<u8>, Fault> {
    let (_, mut pieces) = open_message(disk, &layout(), place).map_err(|fault| match fault {
        Fault::Gone(why) => Fault::Damaged(why),
        fault => fault,
    })?;
    let mut body = Vec::new();
    while let Some(piece) = pieces.next()? {
        body.extend(piece);
    }
    Ok(body)
}

#[test]
fn a_flipped_bit_costs_one_message_at_most_and_that_one_is_kept() {
    for sealed in [true, false] {
        let (mut world, files) = spool(sealed);
        let (all, none, _) = start(&mut world, &files);
        assert!(all.len() >= 5 && none.is_empty(), "{all:?} {none:?}");
        for number in 0..files.len() {
            let (path, bytes) = files[number].clone();
            // Every head, and of the rest one byte in five: every bit has had its turn in the checks above.
            for at in places(&path, &bytes).into_iter().filter(|at| at % 64 < 4 || at % 5 == 0) {
                let mut damaged = files.clone();
                damaged[number].1[at] ^= 1 << (at % 8);
                let (whole, unreadable, aside) = start(&mut world, &damaged);
                let lost: Vec<_> = all.difference(&whole).collect();
                let told = format!("byte {at} of {}: {lost:?}", path.display());
                assert!(lost.len() <= 1, "{told}");
                assert!(lost.iter().all(|id| unreadable.contains(id) || aside), "{told}");
                let is_ledger = path.extension().is_some_and(|extension| extension == "log");
                assert!(lost.is_empty() || !is_ledger, "{told}");
            }
        }
    }
}

#[test]
fn a_repair_costs_no_message_and_keeps_every_byte_it_takes_out() {
    let (mut world, files) = spool(true);
    let (all, ..) = start(&mut world, &files);
    for number in 0..files.len() {
        let (path, bytes) = files[number].clone();
        for at in places(&path, &bytes).into_iter().filter(|at| at % 7 == 0) {
            let mut damaged = files.clone();
            damaged[number].1[at] ^= 1 << (at % 8);
            let disk = copy(&damaged);
            let told = format!("byte {at} of {}", path.display());
            let said = repair_on(&disk, &layout(), RepairMode::Say).expect("nobody uses it");
            assert_eq!(
                without_locks(&disk),
                without_locks(&copy(&damaged)),
                "{told}: said, not done"
            );
            let done = repair_on(&disk, &layout(), RepairMode::Do).expect("nobody uses it");
            assert_eq!(said.steps.len(), done.steps.len(), "{told}: {said:?} {done:?}");
            let (whole, unreadable, aside) = start(&mut world, &disk.files());
            let lost: Vec<_> = all.difference(&whole).collect();
            assert!(lost.len() <= 1, "{told}: {lost:?}");
            assert!(lost.iter().all(|id| unreadable.contains(id) || aside), "{told}: {lost:?}");
            // What is left to do is the operator's, the scheduler's, or nobody's.
            for left in done.left.iter().filter(|left| left.damage) {
                let is_known = left.id.is_some() || left.what.contains("padding");
                assert!(is_known || left.file.starts_with("ledger"), "{told}: {left:?}");
            }
        }
    }
}

fn without_locks(disk: &SimulatedDisk) -> Files {
    disk.files().into_iter().filter(|(path, _)| !is_lock(path)).collect()
}
