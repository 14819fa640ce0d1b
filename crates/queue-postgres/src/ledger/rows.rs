//! What the columns of the scheduler's rows hold.
//!
//! Columns of their own have what changes and what an operator asks for; `facts`, `state` and `owed` are JSON as UTF-8. Numbers of 32
//! bits without a sign stand in columns that have one, bit by bit.

use mail::{Address, BodyType, MessageId, Notify, Ret, Timestamp};
use queue::{Handle, Owed, Record, Routed, RoutedRecipient, State};
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;

use super::operation::report_delay;
use crate::Fault;

/// What of a message never changes.
#[derive(Serialize, Deserialize)]
struct Facts {
    #[serde(rename = "from", default, skip_serializing_if = "Option::is_none")]
    sender: Option<Address>,
    size: u64,
    #[serde(rename = "at")]
    accepted_at: Timestamp,
    #[serde(default, skip_serializing_if = "is_default")]
    body: BodyType,
    #[serde(default, skip_serializing_if = "is_default")]
    smtputf8: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ret: Option<Ret>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    envid: Option<String>,
}

/// What of a recipient never changes.
#[derive(Serialize, Deserialize)]
struct RecipientFacts {
    #[serde(rename = "to")]
    address: Address,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    original: Option<Address>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    orcpt: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    notify: Option<Notify>,
    /// Nothing when it is the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A number of 32 bits, as a column with a sign has it.
pub(super) fn number(number: u32) -> i32 {
    number.cast_signed()
}

/// A time, as a column has it: milliseconds since 1970.
pub(super) fn time(at: Timestamp) -> i64 {
    at.millis().cast_signed()
}

/// A text as a column may have it: not with a zero, which the database takes nowhere.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{2400}")
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("what a record has can be JSON")
}

pub(super) fn facts(message: &Routed) -> Vec<u8> {
    json(&Facts {
        sender: message.sender.clone(),
        size: message.size,
        accepted_at: message.accepted_at,
        body: message.body,
        smtputf8: message.smtputf8,
        ret: message.ret,
        envid: message.envid.clone(),
    })
}

pub(super) fn recipient_facts(recipient: &RoutedRecipient) -> Vec<u8> {
    let user = (recipient.user != recipient.address.as_str()).then(|| recipient.user.clone());
    json(&RecipientFacts {
        address: recipient.address.clone(),
        original: recipient.original.clone(),
        orcpt: recipient.orcpt.clone(),
        notify: recipient.notify,
        user,
    })
}

/// A state; nothing is that of a recipient to be tried at once.
pub(super) fn state(state: &State) -> Option<Vec<u8>> {
    (*state != State::default()).then(|| json(state))
}

/// Reports; nothing when none is owed.
pub(super) fn owed(owed: &[Owed]) -> Option<Vec<u8>> {
    (!owed.is_empty()).then(|| json(&owed))
}

/// The columns of `routed`, in the order in which [`message`] takes them.
pub(super) const MESSAGE: &str =
    "message_id, routing, handle, facts, hold, held_by_hand, strikes, reroute, owed";
/// The columns of `recipient`, in the order in which [`Recipient::of`] takes them.
pub(super) const RECIPIENT: &str =
    "message_id, index, channel, host, facts, state, told, delay_reported";

/// A message as its rows have it.
pub(super) struct Stored {
    pub(super) message: Routed,
    held_by_hand: bool,
    /// Recipients that are held and were not when they were routed.
    told: Vec<(u32, State)>,
    reroute: Option<u32>,
}

/// A recipient as its row has it.
pub(super) struct Recipient {
    pub(super) id: MessageId,
    recipient: RoutedRecipient,
    told: bool,
}

/// Why a row makes no sense.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("a row of {table} for {id} cannot be read: {why}")]
    Row { table: &'static str, id: String, why: String },
    #[error(transparent)]
    Fault(#[from] Fault),
}

pub(super) fn unreadable(table: &'static str, id: &str, why: impl ToString) -> Unreadable {
    Unreadable::Row { table, id: id.escape_debug().to_string(), why: why.to_string() }
}

/// Takes a message from its row of `routed`.
pub(super) fn message(row: &Row) -> Result<Stored, Unreadable> {
    let id: &str = row.try_get(0).map_err(|error| unreadable("routed", "?", error))?;
    let wrong = |why: &dyn ToString| unreadable("routed", id, why.to_string());
    let sql = |error: tokio_postgres::Error| wrong(&error);
    let facts: &[u8] = row.try_get(3).map_err(sql)?;
    let facts: Facts = serde_json::from_slice(facts).map_err(|error| wrong(&error))?;
    let owed: Option<&[u8]> = row.try_get(8).map_err(sql)?;
    let owed = owed.map(serde_json::from_slice::<Vec<Owed>>).transpose();
    let handle: &str = row.try_get(2).map_err(sql)?;
    let message = Routed {
        id: id.parse().map_err(|error| wrong(&error))?,
        handle: Handle::parse(handle).map_err(|error| wrong(&error))?,
        routing: row.try_get::<_, i32>(1).map_err(sql)?.cast_unsigned(),
        sender: facts.sender,
        size: facts.size,
        accepted_at: facts.accepted_at,
        body: facts.body,
        smtputf8: facts.smtputf8,
        ret: facts.ret,
        envid: facts.envid,
        hold: row.try_get(4).map_err(sql)?,
        recipients: Vec::new(),
        owed: owed.map_err(|error| wrong(&error))?.unwrap_or_default(),
        strikes: row.try_get::<_, i32>(6).map_err(sql)?.cast_unsigned(),
    };
    let reroute: Option<i32> = row.try_get(7).map_err(sql)?;
    Ok(Stored {
        message,
        held_by_hand: row.try_get(5).map_err(sql)?,
        told: Vec::new(),
        reroute: reroute.map(i32::cast_unsigned),
    })
}

impl Recipient {
    /// Takes a recipient from its row of `recipient`.
    pub(super) fn of(row: &Row) -> Result<Self, Unreadable> {
        let id: &str = row.try_get(0).map_err(|error| unreadable("recipient", "?", error))?;
        let wrong = |why: &dyn ToString| unreadable("recipient", id, why.to_string());
        let sql = |error: tokio_postgres::Error| wrong(&error);
        let facts: &[u8] = row.try_get(4).map_err(sql)?;
        let facts: RecipientFacts = serde_json::from_slice(facts).map_err(|error| wrong(&error))?;
        let state: Option<&[u8]> = row.try_get(5).map_err(sql)?;
        let state = state.map(serde_json::from_slice::<State>).transpose();
        let mut state = state.map_err(|error| wrong(&error))?.unwrap_or_default();
        if row.try_get(7).map_err(sql)? {
            report_delay(&mut state);
        }
        let user = facts.user.unwrap_or_else(|| facts.address.as_str().to_owned());
        let recipient = RoutedRecipient {
            index: row.try_get::<_, i32>(1).map_err(sql)?.cast_unsigned(),
            address: facts.address,
            original: facts.original,
            orcpt: facts.orcpt,
            notify: facts.notify,
            channel: row.try_get(2).map_err(sql)?,
            host: row.try_get(3).map_err(sql)?,
            user,
            state,
        };
        let id = id.parse().map_err(|error| wrong(&error))?;
        Ok(Self { id, recipient, told: row.try_get(6).map_err(sql)? })
    }

    /// Its index, as its column has it.
    pub(super) fn index(&self) -> i32 {
        number(self.recipient.index)
    }
}

impl Stored {
    pub(super) fn add(&mut self, Recipient { recipient, told, .. }: Recipient) {
        if told && matches!(recipient.state, State::Held { .. }) {
            self.told.push((recipient.index, recipient.state.clone()));
        }
        self.message.recipients.push(recipient);
    }

    /// The records that amount to it.
    pub(super) fn records(self, records: &mut Vec<Record>) {
        let Self { message, held_by_hand, told, reroute } = self;
        let id = message.id;
        let hold = message.hold.clone().filter(|_| held_by_hand);
        records.push(Record::Snapshot(Box::new(message)));
        // Whoever was held by the routing is let go when its time has come, others are not.
        if hold.is_some() {
            records.push(Record::Hold { id, reason: hold });
        }
        if !told.is_empty() {
            records.push(Record::Outcome { id, recipients: told });
        }
        if let Some(routing) = reroute {
            records.push(Record::Reroute { id, routing });
        }
    }
}
