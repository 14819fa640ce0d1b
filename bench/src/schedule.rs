//! The scheduler's turns with its ledger: taken over, sent to an agent, delivered, ended.
//!
//! ```text
//!  enqueue ─▶ turn ─▶ ledger writes ─▶ turn ─▶ job ─▶ delivered ─▶ turn ─▶ ledger writes ─▶ ended
//! ```

use std::hint::black_box;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use job::route::RouteRequest;
use queue::{Handle, Ledger, LedgerError, Local};
use queue_spool::SpoolLedger;
use queue_spool::place::{MessagePlace, Place};
use scheduler::machine::{Answer, ChannelId, Peer, Scheduler, Send, Token};
use scheduler::turns::{Around, Arrival, Awaited, Hands, Turns};
use scheduler::{ChannelFacts, Settings};
use socket::PeerId;

use crate::example::{self, CHANNEL, Clock};
use crate::rounds;
use crate::store::Acceptor;

/// How long a round takes.
const ROUND: Duration = Duration::from_millis(5);
/// Turns in which a round must have come to its end.
const TURNS_MAX: u32 = 20;
/// No checkpoint is worth it before the ledger has so many bytes: one is another measure.
const CHECKPOINT_BYTES_MIN: u64 = 1 << 40;
/// Where records of a segment begin, in bytes.
const ALIGNMENT: u64 = 64;

pub(crate) fn run(count: u32) {
    // One message is stored, so that there is a segment; the others are only said to be in it.
    let mut acceptor = Acceptor::new();
    let places = acceptor.commit(count..count + 1, &example::body());
    let place = places.first().copied().expect("a message was committed");
    let ledger = acceptor.spool.ledger().expect("an empty spool takes a ledger");
    let mut process = Process::new(ledger, acceptor.clock.clone());
    for numbers in rounds(count) {
        process.clock.pass(ROUND);
        process.enqueue(numbers.map(|number| (handle(&place, number), example::id(number))));
        process.settle();
    }
    assert_eq!(process.notes.enqueued, count, "every message was taken over");
}

/// The handle of another message in the same segment.
fn handle(first: &MessagePlace, number: u32) -> Handle {
    let mut place = *first;
    let length = u64::from(place.record.length).next_multiple_of(ALIGNMENT);
    place.record.offset += length * u64::from(number + 1);
    place.record.id = example::id(number);
    Place::Message(place).handle()
}

/// The scheduler, with one worker of one channel.
struct Process {
    turns: Turns,
    ledger: Rc<SpoolLedger>,
    clock: Clock,
    notes: Notes,
    arrivals: Vec<Arrival>,
    chance: u64,
}

/// What turns have done, for after the turn.
#[derive(Default)]
struct Notes {
    sent: Vec<Send>,
    awaiting: Vec<(Awaited, Local<'static, Result<(), LedgerError>>)>,
    enqueued: u32,
}

impl Hands for Notes {
    fn answer(&mut self, _: Token, answer: Answer) {
        assert!(matches!(answer, Answer::Enqueued), "nothing of the example is refused");
        self.enqueued += 1;
    }

    fn send(&mut self, send: Send) {
        self.sent.push(send);
    }

    fn unsent(&mut self, _: u64) {
        unreachable!("the ledger does not fail")
    }

    fn connect(&mut self, _: ChannelId) {}

    fn requeue(&mut self) {}

    fn hint(&mut self, _: Vec<RouteRequest>) {}

    fn await_ledger(&mut self, awaited: Awaited, until: Local<'static, Result<(), LedgerError>>) {
        self.awaiting.push((awaited, until));
    }
}

impl Process {
    fn new(ledger: Rc<SpoolLedger>, clock: Clock) -> Self {
        let channels = [ChannelFacts {
            name: CHANNEL.into(),
            socket: format!("{CHANNEL}.deliver"),
            slots_max: 0,
        }];
        let scheduler = Scheduler::new(Settings::default(), &channels);
        let replayed = ledger.replay_by_hand(clock.of_spool(), CHECKPOINT_BYTES_MIN, &mut |_| {});
        replayed.expect("an empty ledger can be read");
        let mut turns = Turns::new(scheduler, Rc::clone(&ledger) as Rc<dyn Ledger>);
        let channel = turns.channel(CHANNEL);
        let peer = Peer { id: PeerId(1), pid: 1, window: socket::WINDOW, draining: false };
        let (notes, arrivals) = (Notes::default(), Vec::new());
        let mut process = Self { turns, ledger, clock, notes, arrivals, chance: 1 };
        process.turn(|turns, around, _| turns.begin(around));
        process.arrivals.push(Arrival::Peers(channel, vec![peer]));
        process.settle();
        process
    }

    fn enqueue(&mut self, messages: impl Iterator<Item = (Handle, mail::MessageId)>) {
        self.arrivals.extend(messages.zip(1..).map(|((handle, id), token)| Arrival::Enqueue {
            connection: 1,
            token: Token(token),
            request: Box::new(example::enqueue(handle, id)),
            is_alone: false,
        }));
    }

    /// Makes turns until nothing arrives any more, and every message has ended.
    fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            self.turn(Turns::turn);
            self.ledger_turn();
            let sent = std::mem::take(&mut self.notes.sent);
            self.arrivals.extend(sent.into_iter().map(|send| Arrival::Answered {
                job: black_box(send).job,
                result: Ok(example::delivered()),
                from: None,
            }));
            if self.arrivals.is_empty() && !self.ledger.is_asked() {
                assert_eq!(self.turns.scheduler().messages(), 0, "every message has ended");
                return;
            }
        }
        panic!("a round does not come to its end");
    }

    fn turn(&mut self, turn: impl FnOnce(&mut Turns, &mut Around<'_>, Vec<Arrival>)) {
        let arrivals = std::mem::take(&mut self.arrivals);
        let chance = &mut self.chance;
        let mut around = Around {
            now: self.clock.of_scheduler(),
            chance: &mut || {
                *chance = chance.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                *chance
            },
            hands: &mut self.notes,
        };
        turn(&mut self.turns, &mut around, arrivals);
    }

    /// The ledger writes what it was asked to, and syncs when that is due; what has been reached arrives.
    fn ledger_turn(&mut self) {
        let now = self.clock.of_spool();
        self.ledger.turn(now);
        if let Some(file) = self.ledger.to_sync() {
            self.ledger.sync_ended(now, file.sync());
        }
        let mut context = Context::from_waker(Waker::noop());
        let arrivals = &mut self.arrivals;
        self.notes.awaiting.retain_mut(|(awaited, until)| {
            match Pin::new(until).poll(&mut context) {
                Poll::Ready(result) => {
                    arrivals.push(Arrival::Reached(*awaited, result));
                    false
                }
                Poll::Pending => true,
            }
        });
    }
}
