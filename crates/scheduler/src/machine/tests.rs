//! Tests of the machine, with time and chance given by hand.

mod admin;
mod enqueue;
mod home;
mod lanes;
mod late;
mod replay;
mod reports;
mod schedule;
mod speed;
mod strays;
mod strikes;
mod world;
