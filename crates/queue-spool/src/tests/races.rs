//! Files that another process removes at the worst moment.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::codec::Nonce;
use crate::disk::simulated::SimulatedDisk;
use crate::disk::{Access, Disk, DiskFile, Held, Lock};
use crate::ledger::log::{find, find_beside_writer};
use crate::place::{Layout, Stripe};
use crate::tests::world::{DIR, World, settings};
use crate::{Now, Spool};

/// A disk on which somebody removes a file, once, just before we open or unlink one of its kind.
struct Raced {
    disk: SimulatedDisk,
    /// What the file's name ends in.
    extension: Mutex<Option<&'static str>>,
}

impl Raced {
    fn new(disk: &SimulatedDisk, extension: &'static str) -> Arc<Self> {
        Arc::new(Self { disk: disk.clone(), extension: Mutex::new(Some(extension)) })
    }

    fn race(&self, path: &Path) {
        let mut extension = self.extension.lock().expect("nobody panicked");
        if extension.is_some_and(|it| path.extension().is_some_and(|found| found == it)) {
            *extension = None;
            self.disk.unlink(path).expect("it is there");
        }
    }

    fn has_happened(&self) -> bool {
        self.extension.lock().expect("nobody panicked").is_none()
    }
}

impl Disk for Raced {
    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.make_dir(path)
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.create(path)
    }

    fn open(&self, path: &Path, access: Access) -> io::Result<Box<dyn DiskFile>> {
        self.race(path);
        self.disk.open(path, access)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.race(path);
        self.disk.unlink(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn lock(&self, path: &Path, lock: Lock) -> io::Result<Option<Box<dyn Held>>> {
        self.disk.lock(path, lock)
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.disk.free_bytes(dir)
    }

    fn nonce(&self) -> io::Result<Nonce> {
        self.disk.nonce()
    }
}

#[test]
fn adoption_goes_on_when_the_scheduler_has_just_removed_a_body() {
    let mut world = World::new(18);
    let mut acceptor = world.acceptor().expect("it can be opened");
    let stripe = Stripe(1);
    acceptor.commit_small(&mut world, 10);
    let id = world.new_body(10);
    let body = Layout::new(Path::new(DIR)).body(stripe, id);
    drop(world.disk.create(&body).expect("it can be made"));
    drop(acceptor);
    world.disk.kill();
    let disk = Raced::new(&world.disk, "body");
    let spool = Spool::new(disk.clone(), Path::new(DIR), settings());
    let now: Now = world.now;
    let (_, _, adopted) = spool.intake_machines::<u8>(now).expect("it can be opened");
    assert!(disk.has_happened());
    assert_eq!((adopted.messages, adopted.bodies_removed), (1, 0));
    let files = world.disk.files();
    let in_stripe = |number: u32| {
        let dir = Layout::new(Path::new(DIR)).stripe(Stripe(number));
        files.iter().any(|(path, _)| path.starts_with(&dir))
    };
    assert!(!in_stripe(stripe.0 + 1), "the stripe is kept, no other made");
}

#[test]
fn who_looks_at_the_ledger_looks_again_when_a_log_has_just_been_removed() {
    let mut world = World::new(19);
    let mut acceptor = world.acceptor().expect("it can be opened");
    let mut scheduler = world.scheduler().expect("it can be opened");
    acceptor.commit_small(&mut world, 10);
    scheduler.work(&mut world);
    // Its oldest log is not needed any more and still there.
    scheduler.checkpoint(&mut world);
    scheduler.checkpoint(&mut world);
    scheduler.close(&mut world);
    let layout = Layout::new(Path::new(DIR));
    let first = world.disk.list(&layout.ledger()).expect("it is there").into_iter();
    let first = first.filter_map(|name| crate::place::log_of(&name)).min().expect("there are some");
    let spare = layout.log(0);
    drop(world.disk.create(&spare).expect("it can be made"));
    assert!(first > 0);
    assert!(find(&*Raced::new(&world.disk, "log"), &layout).is_err());
    drop(world.disk.create(&spare).expect("it can be made"));
    let disk = Raced::new(&world.disk, "log");
    let found = find_beside_writer(&*disk, &layout).expect("it looks again");
    assert!(disk.has_happened() && !found.logs.is_empty());
}
