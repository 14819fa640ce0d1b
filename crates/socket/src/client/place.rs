//! Where a client connects: one or more places, each with its own workers and its own dialling.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;

use tls::Keys;
use tokio::sync::Notify;

use super::connection::FarmState;
use crate::Address;

/// Process ids of Linux have so many bits at most (`PID_MAX_LIMIT`).
const PID_BITS: u32 = 22;
/// So many places of other hosts have numbers of their own.
const HOSTS_MAX: u32 = (1 << (u32::BITS - PID_BITS)) - 1;

/// Where the workers of a farm are found.
#[derive(Debug, Clone)]
pub struct Places {
    /// Its addresses: a client keeps connections to each.
    pub addresses: Vec<Address>,
    /// What is asked for, and what is shown, where an address is a host's.
    pub remote: Option<Remote>,
}

/// What a client of another host's socket asks for, and shows.
#[derive(Debug, Clone)]
pub struct Remote {
    /// This host's keys.
    pub keys: Rc<Keys>,
    /// The farm that the other host's certificate must name.
    pub farm: String,
    /// The socket, such as `router.route`: it chooses the conversation, and who may hold it.
    pub socket: String,
}

impl From<PathBuf> for Places {
    fn from(path: PathBuf) -> Self {
        Self { addresses: vec![Address::Path(path)], remote: None }
    }
}

impl Remote {
    fn is(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.keys, &other.keys)
            && self.farm == other.farm
            && self.socket == other.socket
    }
}

/// One of the places of a client.
pub(super) struct Place {
    pub(super) address: Address,
    pub(super) remote: Option<Remote>,
    /// Tells its host from others.
    host: u32,
    /// How many workers it has ready, as last heard; one before that.
    workers: Cell<u32>,
    pub(super) dialling: Cell<bool>,
    /// Wakes the dialling task from its pause, when something has changed; also from the next one, if it is just connecting.
    pub(super) redial: Notify,
    /// The client has moved away from it.
    pub(super) left: Cell<bool>,
}

impl Place {
    /// The places of a client, of which some may be there already; `count` is how many of other hosts it has had.
    pub(super) fn arrange(
        places: &Places,
        before: &[Rc<Self>],
        count: &Cell<u32>,
    ) -> Vec<Rc<Self>> {
        let mut arranged: Vec<Rc<Self>> = Vec::new();
        for address in &places.addresses {
            if arranged.iter().any(|place| place.address == *address) {
                continue;
            }
            let remote = match address {
                Address::Path(_) => None,
                Address::Tcp { .. } => places.remote.clone(),
            };
            let kept = before.iter().find(|place| {
                place.address == *address
                    && match (&place.remote, &remote) {
                        (Some(one), Some(other)) => one.is(other),
                        (one, other) => one.is_none() && other.is_none(),
                    }
            });
            let place = kept.cloned();
            arranged
                .push(place.unwrap_or_else(|| Rc::new(Self::new(address.clone(), remote, count))));
        }
        arranged
    }

    fn new(address: Address, remote: Option<Remote>, count: &Cell<u32>) -> Self {
        let host = match address {
            Address::Path(_) => 0,
            Address::Tcp { .. } => 1 + count.replace(count.get() + 1) % HOSTS_MAX,
        };
        Self {
            address,
            remote,
            host,
            workers: Cell::new(1),
            dialling: Cell::new(false),
            redial: Notify::new(),
            left: Cell::new(false),
        }
    }

    /// The number by which a client knows a process.
    ///
    /// Process ids say nothing beyond their host. So a client puts a number of the place above the id: nothing for this host, and
    /// one of its own for each address of another. Whatever names a process, [`super::Peer::pid`], [`super::CallError::Lost`]
    /// or [`super::Client::on_crash`], names it so, and nobody takes it apart again.
    pub(super) fn process(&self, pid: u32) -> u32 {
        self.host << PID_BITS | pid & ((1 << PID_BITS) - 1)
    }

    pub(super) fn workers(&self) -> u32 {
        self.workers.get()
    }

    /// Takes note of how many workers are ready; says whether there are more than before.
    pub(super) fn has_grown(&self, state: &FarmState) -> bool {
        self.workers.replace(state.workers()) < state.workers()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_hosts_are_told_apart_and_places_are_kept() {
        let count = Cell::new(0);
        let address = |text: &str| text.parse::<Address>().unwrap();
        let places = |texts: &[&str]| Places {
            addresses: texts.iter().map(|text| address(text)).collect(),
            remote: None,
        };
        let first = Place::arrange(&places(&["/a", "tcp:b:1", "tcp:c:1", "tcp:b:1"]), &[], &count);
        let processes: Vec<u32> = first.iter().map(|place| place.process(4_194_303)).collect();
        assert_eq!(processes, [0x3f_ffff, 0x7f_ffff, 0xbf_ffff]);
        let second = Place::arrange(&places(&["tcp:c:1", "tcp:d:1", "/e"]), &first, &count);
        assert!(Rc::ptr_eq(&first[2], &second[0]));
        assert_eq!(second[1].process(7), 3 << 22 | 7);
        assert_eq!(second[2].process(7), 7);
    }
}
