//! Processes, descriptors, shared memory and credentials: the only unsafe code.
//!
//! Thin, typed and complete in itself: what the kernel offers, in the shape that farms need it. Nothing here knows what a
//! farm, a socket's conversation or a message is.
//!
//! - [`Spawn`]: fork and exec with an exact set of descriptors, an empty signal mask, user and group.
//! - [`Process`]: a child by pidfd, so that no process id is ever confused with another.
//! - [`Replacement`]: another program in place of this one, in the same process.
//! - [`SignalFd`]: signals as something to poll.
//! - [`SharedMap`]: a file in memory, seen only as atomics.
//! - [`sealed_memfd`]: what a child is told, unchangeable.
//! - [`packet`]: datagrams over a socketpair, with descriptors.
//! - [`work_in_batches`]: who goes first when cores are short.
//! - [`send_last`]: a stream's last bytes with its end.
//! - [`fault`]: places where a test may have something go wrong.
//! - [`read_nowait`], [`fallocate`], [`fdatasync`], [`flock`]: what a spool needs of a file.

mod credentials;
mod execute;
mod farewell;
pub mod fault;
mod file;
mod memory;
pub mod packet;
mod policy;
mod poll;
mod process;
mod signal;
mod spawn;
mod timer;

pub use credentials::{PeerIdentity, effective_ids, peer_identity};
pub use execute::{Replacement, same_program};
pub use farewell::send_last;
pub use file::{
    Lock, fallocate, fallocate_keep_size, fdatasync, flock, read_nowait, sync_directory, unlock,
};
pub use memory::{MEMFD_BYTES_MAX, SharedMap, give_back_text, read_memfd, sealed_memfd};
pub use policy::work_in_batches;
pub use poll::{Interest, hung_up, is_readable, poll};
pub use process::{
    Ended, PeerWatch, Process, accept_tcp, accept_unix, become_subreaper, bind_unix, connect_unix,
    cpu_time, listen_tcp, listen_tcp_everywhere, name_process, open_directory, raise_open_files,
    reap_any, send_at_once, send_signal, take_descriptor, watch_peer,
};
pub use signal::{Signal, SignalFd};
pub use spawn::Spawn;
pub use timer::Timer;
