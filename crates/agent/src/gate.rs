//! The dot gate.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

/// Says whether what cannot be undone may be done: the final dot, the rename into `new/`, the last byte to a pipe.
///
/// It is open while the connection that sent the job is up, the job's deadline, on our own monotonic clock, has not passed, and a
/// scheduler that may be cut off from here, or no longer in charge, said not long ago that it stands behind its jobs: as long as it is
/// open, nobody sends the job to anybody else. Cheap to clone.
#[derive(Clone)]
pub struct Gate {
    kind: Kind,
    passage: Rc<Cell<Passage>>,
}

/// What became of the gate.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Passage {
    #[default]
    Untouched,
    /// It was found open: what cannot be undone may have been done.
    Passed,
    /// It was shut before: the job is somebody else's.
    Shut,
}

#[derive(Clone)]
enum Kind {
    Socket(socket::Gate),
    Test { connected: Rc<Cell<bool>>, deadline: Option<Instant> },
}

impl Gate {
    /// Waits until the scheduler has said that it stands behind the job, if it was asked and has not answered yet; not for long. Mostly it
    /// has: await this when everything is ready for the deed, and then ask [`Gate::is_open`].
    pub async fn leased(&self) {
        if let Kind::Socket(gate) = &self.kind {
            gate.leased().await;
        }
    }

    /// Whether it is open now, which the kernel is asked. Ask immediately before the deed, not earlier.
    pub fn is_open(&self) -> bool {
        let open = self.looks_open() && self.is_leased();
        if open {
            self.passage.set(Passage::Passed);
        }
        open
    }

    /// The same for who does nothing yet: asked before something is begun that would be in vain.
    pub fn looks_open(&self) -> bool {
        let connected = match &self.kind {
            Kind::Socket(gate) => gate.is_connected(),
            Kind::Test { connected, .. } => connected.get(),
        };
        connected && self.has_time() && self.passage.get() != Passage::Shut
    }

    fn is_leased(&self) -> bool {
        match &self.kind {
            Kind::Socket(gate) => gate.is_leased(),
            Kind::Test { .. } => true,
        }
    }

    /// Shuts it for good, for all that hold a clone, unless it was passed; says whether it is shut.
    pub(crate) fn shut(&self) -> bool {
        if self.passage.get() == Passage::Untouched {
            self.passage.set(Passage::Shut);
        }
        self.passage.get() == Passage::Shut
    }

    /// Whether its deadline has not passed: enough to begin with what can be undone, and no system call.
    pub fn has_time(&self) -> bool {
        self.deadline().is_none_or(|deadline| Instant::now() < deadline)
    }

    /// When it closes at the latest; a bound for the timeouts of what comes before the deed.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.kind {
            Kind::Socket(gate) => gate.deadline(),
            Kind::Test { deadline, .. } => *deadline,
        }
    }

    /// A gate without a connection that stays open.
    pub fn open_for_test() -> Self {
        Self::switch_for_test(None).0
    }

    /// A gate without a connection that is closed.
    pub fn closed_for_test() -> Self {
        let (gate, connected) = Self::switch_for_test(None);
        connected.set(false);
        gate
    }

    /// A gate without a connection that closes at `deadline`, or when the switch beside it is set to false.
    pub fn switch_for_test(deadline: Option<Instant>) -> (Self, Rc<Cell<bool>>) {
        let connected = Rc::new(Cell::new(true));
        (Self::new(Kind::Test { connected: Rc::clone(&connected), deadline }), connected)
    }

    fn new(kind: Kind) -> Self {
        Self { kind, passage: Rc::default() }
    }
}

impl From<socket::Gate> for Gate {
    fn from(gate: socket::Gate) -> Self {
        Self::new(Kind::Socket(gate))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_gate_closes_with_its_connection_and_its_deadline() {
        assert!(Gate::open_for_test().is_open());
        assert!(!Gate::closed_for_test().is_open());
        let (gate, connected) =
            Gate::switch_for_test(Some(Instant::now() + Duration::from_secs(600)));
        assert!(gate.looks_open() && gate.is_open());
        assert!(!gate.shut(), "it was passed");
        connected.set(false);
        assert!(!gate.is_open());
        assert!(gate.has_time());
        assert!(!Gate::switch_for_test(Some(Instant::now())).0.has_time());
        assert!(!Gate::switch_for_test(Some(Instant::now())).0.is_open());
    }

    #[test]
    fn a_gate_that_was_shut_stays_shut_for_all() {
        let gate = Gate::open_for_test();
        let other = gate.clone();
        assert!(other.looks_open() && gate.shut());
        assert!(!other.is_open() && !other.looks_open());
    }
}
