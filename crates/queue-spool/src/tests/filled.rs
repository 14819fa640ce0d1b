//! Segments that are filled with zeros ahead of their records, and syncs that do not wait for company.

use std::path::Path;

use mail::MessageId;

use crate::codec::HEAD_BYTES;
use crate::disk::Disk as _;
use crate::intake::writer::{CommitBody, Event};
use crate::place::Layout;
use crate::stripe::Adopted;
use crate::tests::world::{Acceptor, DIR, World};

fn size(world: &World) -> usize {
    match world.segments().as_slice() {
        [(_, bytes)] => bytes.len(),
        others => panic!("{} segments", others.len()),
    }
}

fn commit(world: &mut World, acceptor: &mut Acceptor, body: Vec<u8>) {
    let id = world.new_body(0);
    world.bodies.insert(id, body.clone());
    let accept = Box::new(queue::conformance::accept("a@example.test", 1));
    let body = CommitBody::Whole(body);
    acceptor.write(world, vec![Event::Commit { id, accept, body, waiter: id }]);
    world.wait(10);
}

fn adopt(world: &World) -> Adopted {
    let machines = world.spool.intake_machines::<MessageId>(world.now);
    machines.expect("it can be opened").2
}

#[test]
fn a_segment_grows_by_leaps_and_is_cut_when_it_is_sealed() {
    let mut world = World::new(21);
    let mut acceptor = world.acceptor().expect("it can be opened");
    let mut sizes = Vec::new();
    while sizes.len() < 10 {
        commit(&mut world, &mut acceptor, vec![b'x'; 500]);
        sizes.push(size(&world));
    }
    let grown = sizes.windows(2).filter(|pair| matches!(pair, [a, b] if a < b)).count();
    assert!((2..8).contains(&grown), "{sizes:?}");
    let filled = size(&world);
    acceptor.close(&mut world);
    let (_, sealed) = world.segments().pop().expect("it is there");
    assert!(sealed.len() < filled, "{} of {filled}", sealed.len());
    let trailer = sealed.len() - HEAD_BYTES;
    assert_eq!(sealed.get(trailer..trailer + 8), Some(&b"GrSealed"[..]));
}

#[test]
fn what_a_dead_writer_filled_is_no_damage() {
    // One that ends where zeros begin, and one that ends with zeros of its own.
    for last in [vec![b'x'; 500], [vec![b'x'; 100], vec![0; 900]].concat(), vec![0; 1000]] {
        let mut world = World::new(22);
        let mut acceptor = world.acceptor().expect("it can be opened");
        for _ in 0..9 {
            commit(&mut world, &mut acceptor, vec![b'x'; 500]);
        }
        let before = size(&world);
        commit(&mut world, &mut acceptor, last);
        assert_eq!(size(&world), before, "the last one stands in what was filled");
        world.disk.restart();
        assert_eq!(world.listed().len(), 10, "before adoption");
        let adopted = adopt(&world);
        assert_eq!((adopted.messages, adopted.damaged_bytes), (10, 0));
        assert!(size(&world) < before, "it was cut");
        let scheduler = world.scheduler().expect("it can be opened");
        world.check(&scheduler);
    }
}

#[test]
fn a_torn_record_in_what_was_filled_is_a_torn_end() {
    let mut world = World::new(23);
    let mut acceptor = world.acceptor().expect("it can be opened");
    for _ in 0..9 {
        commit(&mut world, &mut acceptor, vec![b'x'; 500]);
    }
    let (path, bytes) = world.segments().pop().expect("it is there");
    let end = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    let end = end.next_multiple_of(HEAD_BYTES);
    commit(&mut world, &mut acceptor, vec![b'x'; 500]);
    world.accepted.pop_last();
    // Its head has come to the disk and the rest has not.
    world.disk.restart();
    world
        .disk
        .damage(&path, |bytes| bytes.iter_mut().skip(end + HEAD_BYTES).for_each(|it| *it = 0));
    let adopted = adopt(&world);
    assert_eq!((adopted.messages, adopted.damaged_bytes), (9, HEAD_BYTES as u64));
    let aside = world.disk.list(&Layout::new(Path::new(DIR)).damaged()).unwrap_or_default();
    assert!(aside.is_empty(), "nothing is set aside of what nobody was promised: {aside:?}");
    let scheduler = world.scheduler().expect("it can be opened");
    world.check(&scheduler);
}

#[test]
fn a_disk_without_room_for_zeros_has_room_for_mail() {
    let mut world = World::new(24);
    let mut acceptor = world.acceptor().expect("it can be opened");
    let mut sizes = Vec::new();
    for count in 0..9 {
        if count == 3 {
            // Enough for six records, and not for a page of zeros behind the one that would bring them.
            world.disk.set_room(6 << 10);
        }
        commit(&mut world, &mut acceptor, vec![b'x'; 500]);
        sizes.push(size(&world));
    }
    assert_eq!((world.accepted.len(), world.refused), (9, 0));
    let grown = sizes.windows(2).filter(|pair| matches!(pair, [a, b] if b - a < 1100)).count();
    assert_eq!(grown, 8, "{sizes:?}");
    let scheduler = world.scheduler().expect("it can be opened");
    world.check(&scheduler);
}

#[test]
fn a_sync_does_not_wait_for_more_company_than_there_is() {
    let mut world = World::new(25);
    let mut acceptor = world.acceptor().expect("it can be opened");
    commit(&mut world, &mut acceptor, vec![b'x'; 10]);
    let accepted = |world: &World| world.accepted.len();
    let send = |world: &mut World, acceptor: &mut Acceptor, company| {
        let id = world.new_body(10);
        let body = CommitBody::Whole(world.bodies[&id].clone());
        let accept = Box::new(queue::conformance::accept("a@example.test", 1));
        let commit = Event::Commit { id, accept, body, waiter: id };
        acceptor.write(world, vec![Event::Company(company), commit]);
    };
    // Alone, one after the other, in the same moment.
    for count in 2..5 {
        send(&mut world, &mut acceptor, 1);
        assert_eq!(accepted(&world), count);
    }
    // Of eight the fifth is the one that more than half have waited for.
    for _ in 0..4 {
        send(&mut world, &mut acceptor, 8);
        assert_eq!(accepted(&world), 4);
    }
    send(&mut world, &mut acceptor, 8);
    assert_eq!(accepted(&world), 9);
    // Others may not come: then the spacing ends the wait.
    send(&mut world, &mut acceptor, 8);
    assert_eq!(accepted(&world), 9);
    world.wait(2);
    acceptor.write(&mut world, Vec::new());
    assert_eq!(accepted(&world), 10);
    // When they do not come any more, it is not waited for them for long.
    for _ in 0..8 {
        world.wait(2);
        send(&mut world, &mut acceptor, 1);
    }
    send(&mut world, &mut acceptor, 1);
    assert_eq!(accepted(&world), 19);
}
