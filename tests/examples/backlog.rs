//! Makes the queue that a scheduler finds at its start, with the store's own code: `backlog DATA_DIR [options]`.
//!
//! Messages are committed as an acceptor does it, and what the scheduler would have written of them is in the ledger: each recipient
//! was routed, was tried once and is deferred for hours. Then other mail passes through, which is accepted, routed and ended, with
//! checkpoints as a scheduler writes them. Every lane's host is an address of this machine at which nobody listens, and no name is
//! ever looked up.

use std::collections::VecDeque;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Instant, SystemTime};

use mail::{Address, Envelope, MessageId, Origin, Reply, StatusCode, Timestamp};
use queue::{
    Accept, Attempt, Draft, Handle, Intake, Ledger, Record, Routed, RoutedRecipient, SizeHint,
    State,
};

type Failure = Box<dyn Error>;

const USAGE: &str = "usage: backlog DATA_DIR [--messages 1000000] [--recipients 1000000] [--lanes 10000] [--passed 0] [--wait 14400]
  --messages    messages that live
  --recipients  recipients of all of them
  --lanes       lanes that these are in
  --passed      messages with one recipient that have come and gone
  --wait        seconds until the recipients are due; 0: all are";

/// Messages that are under way at once.
const SLICE: usize = 5000;
/// Snapshots in one write of a checkpoint, as the scheduler makes them.
const SNAPSHOTS: usize = 500;
/// What is said of every recipient that waits.
const REPLY: &str = "450 4.2.0 <user@example.test>: Recipient address rejected: Greylisted";

fn main() -> Result<(), Failure> {
    let plan = Plan::parse(&std::env::args().skip(1).collect::<Vec<_>>())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())?;
    runtime.block_on(make(&plan))
}

/// What is to be made.
struct Plan {
    data_dir: PathBuf,
    messages: usize,
    recipients: usize,
    lanes: usize,
    passed: usize,
    wait_seconds: usize,
}

impl Plan {
    fn parse(words: &[String]) -> Result<Self, Failure> {
        let (data_dir, options) = words.split_first().ok_or(USAGE)?;
        let mut plan = Self {
            data_dir: data_dir.into(),
            messages: 1_000_000,
            recipients: 1_000_000,
            lanes: 10_000,
            passed: 0,
            wait_seconds: 14_400,
        };
        for pair in options.chunks(2) {
            let [name, value] = pair else { return Err(USAGE.into()) };
            let field = match name.as_str() {
                "--messages" => &mut plan.messages,
                "--recipients" => &mut plan.recipients,
                "--lanes" => &mut plan.lanes,
                "--passed" => &mut plan.passed,
                "--wait" => &mut plan.wait_seconds,
                _ => return Err(USAGE.into()),
            };
            *field = value.parse()?;
        }
        // Addresses of 127/8 whose last two numbers tell the lanes apart.
        if plan.lanes == 0 || plan.lanes > 65_536 || plan.recipients < plan.messages {
            return Err("1 to 65536 lanes, and a recipient for each message".into());
        }
        Ok(plan)
    }

    /// The recipients of one of the messages that live: as many in each, but for a rest.
    fn recipients_of(&self, message: usize) -> std::ops::Range<usize> {
        let begin = |message: usize| message * self.recipients / self.messages;
        begin(message)..begin(message + 1)
    }

    fn host(&self, recipient: usize) -> String {
        let lane = recipient % self.lanes;
        format!("[127.90.{}.{}]:9", lane / 256, lane % 256)
    }
}

async fn make(plan: &Plan) -> Result<(), Failure> {
    let begun = Instant::now();
    let settings = queue_spool::Settings::default();
    let (intake, _) = queue_spool::open_intake(&plan.data_dir, &settings)?;
    let mut book = Book::open(&plan.data_dir, &settings).await?;
    let all: Vec<usize> = (0..plan.messages).collect();
    for slice in all.chunks(slice_of(plan)) {
        let recipients = slice.iter().map(|message| plan.recipients_of(*message));
        let routed = accept(plan, &*intake, recipients.collect()).await?;
        book.enqueue(&routed).await?;
        book.defer(plan, routed).await?;
    }
    println!(
        "{} messages with {} recipients in {} lanes after {:.1?}",
        plan.messages,
        plan.recipients,
        plan.lanes,
        begun.elapsed()
    );
    let mut passed = 0;
    while passed < plan.passed {
        let slice = SLICE.min(plan.passed - passed);
        let one_each = (passed..passed + slice).map(|recipient| recipient..recipient + 1);
        let routed = accept(plan, &*intake, one_each.collect()).await?;
        book.enqueue(&routed).await?;
        book.retire(&routed).await?;
        passed += slice;
    }
    println!("{passed} messages passed through after {:.1?}", begun.elapsed());
    book.close().await
}

/// Messages of a slice, so that large ones are fewer at once.
fn slice_of(plan: &Plan) -> usize {
    (SLICE * plan.messages / plan.recipients).max(1)
}

/// Commits messages with these recipients; gives them as they are routed.
async fn accept(
    plan: &Plan,
    intake: &dyn Intake,
    messages: Vec<std::ops::Range<usize>>,
) -> Result<Vec<Routed>, Failure> {
    let mut under_way = Vec::new();
    for recipients in messages {
        let mut draft = intake.begin(SizeHint::default())?;
        let body = format!("Subject: {}\r\n\r\nA message that waits.\r\n", recipients.start);
        draft.write(body.as_bytes())?;
        let routed = routed(plan, &*draft, recipients, body.len() as u64)?;
        let envelope = Envelope {
            sender: routed.sender.clone(),
            recipients: routed.recipients.iter().map(|one| one.address.clone().into()).collect(),
            body: routed.body,
            smtputf8: false,
            ret: None,
            envid: None,
        };
        let accept = Accept {
            envelope,
            origin: Origin { service: "mx".into(), ..Origin::default() },
            accepted_at: routed.accepted_at,
            edits: Vec::new(),
            hold: None,
            replaced_body: None,
        };
        under_way.push((routed, tokio::task::spawn_local(draft.commit(accept))));
    }
    let mut accepted = Vec::new();
    for (mut routed, commit) in under_way {
        routed.handle = commit.await??;
        accepted.push(routed);
    }
    Ok(accepted)
}

fn routed(
    plan: &Plan,
    draft: &dyn Draft,
    recipients: std::ops::Range<usize>,
    size: u64,
) -> Result<Routed, Failure> {
    let recipients = (0..).zip(recipients).map(|(index, recipient)| {
        let lane = recipient % plan.lanes;
        let text = format!("user-{recipient}@lane-{lane}.example.test");
        Ok(RoutedRecipient {
            index,
            address: Address::parse(&text)?,
            original: None,
            orcpt: None,
            notify: None,
            channel: "smtp".into(),
            host: plan.host(recipient),
            user: text,
            state: State::default(),
        })
    });
    Ok(Routed {
        id: draft.id(),
        // Until it is committed.
        handle: Handle::parse("spool:none")?,
        routing: 1,
        sender: Some(Address::parse("newsletter@sender.example.test")?),
        size,
        accepted_at: SystemTime::now().into(),
        body: mail::BodyType::default(),
        smtputf8: false,
        ret: None,
        envid: None,
        hold: None,
        recipients: recipients.collect::<Result<_, Failure>>()?,
        owed: Vec::new(),
        strikes: 0,
    })
}

/// The ledger, written as the scheduler writes it.
struct Book {
    ledger: Rc<queue_spool::SpoolLedger>,
    /// Every message that lives, as a snapshot has it.
    live: Vec<Routed>,
}

impl Book {
    async fn open(data_dir: &Path, settings: &queue_spool::Settings) -> Result<Self, Failure> {
        let ledger = queue_spool::open_ledger(data_dir, settings)?;
        ledger.replay(&mut |_| {}).await?;
        Ok(Self { ledger, live: Vec::new() })
    }

    async fn append(&mut self, records: &[Record]) -> Result<(), Failure> {
        let mark = self.ledger.append(records)?;
        self.ledger.written(mark).await?;
        Ok(())
    }

    async fn enqueue(&mut self, routed: &[Routed]) -> Result<(), Failure> {
        let record = |routed: &Routed| Record::Routed(Box::new(routed.clone()));
        let records: Vec<Record> = routed.iter().map(record).collect();
        self.append(&records).await
    }

    /// Every recipient was tried and is to be tried later.
    async fn defer(&mut self, plan: &Plan, mut routed: Vec<Routed>) -> Result<(), Failure> {
        let mut records = Vec::new();
        for message in &mut routed {
            for recipient in &mut message.recipients {
                recipient.state = State::Open(deferred(plan, &recipient.host));
            }
            let states = message.recipients.iter().map(|one| (one.index, one.state.clone()));
            records.push(Record::Outcome { id: message.id, recipients: states.collect() });
        }
        self.append(&records).await?;
        self.live.append(&mut routed);
        self.checkpoint().await
    }

    async fn retire(&mut self, routed: &[Routed]) -> Result<(), Failure> {
        let ends: Vec<(MessageId, Handle)> =
            routed.iter().map(|one| (one.id, one.handle.clone())).collect();
        let records: Vec<Record> =
            ends.into_iter().map(|(id, handle)| Record::Retired { id, handle }).collect();
        self.append(&records).await?;
        self.checkpoint().await
    }

    /// Writes a checkpoint when one is due.
    async fn checkpoint(&mut self) -> Result<(), Failure> {
        if !self.ledger.checkpoint_due() {
            return Ok(());
        }
        self.ledger.begin_checkpoint()?;
        let live = std::mem::take(&mut self.live);
        let mut waits = VecDeque::new();
        for slice in live.chunks(SNAPSHOTS) {
            let record = |routed: &Routed| Record::Snapshot(Box::new(routed.clone()));
            let records: Vec<Record> = slice.iter().map(record).collect();
            waits.push_back(self.ledger.append(&records)?);
            if waits.len() > 8
                && let Some(first) = waits.pop_front()
            {
                self.ledger.written(first).await?;
            }
        }
        self.live = live;
        self.ledger.end_checkpoint().await?;
        Ok(())
    }

    async fn close(self) -> Result<(), Failure> {
        let mark = self.ledger.append(&[])?;
        self.ledger.synced(mark).await?;
        Ok(())
    }
}

fn deferred(plan: &Plan, host: &str) -> Attempt {
    let now = Timestamp::from(SystemTime::now());
    Attempt {
        count: 1,
        next: now.after(std::time::Duration::from_secs(plan.wait_seconds as u64)),
        last: Some(Reply {
            status: StatusCode::new(4, 2, 0),
            text: REPLY.to_owned(),
            remote: Some(host.to_owned()),
        }),
        delay_reported: false,
    }
}
