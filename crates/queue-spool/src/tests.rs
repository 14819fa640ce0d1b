//! Tests that need the inside of the crate: the codec, and the machines on a simulated disk.

mod codec;
mod damage;
mod faults;
mod filled;
mod lives;
mod moves;
mod points;
mod races;
mod standing;
mod stores;
mod torn;
mod world;
