//! A batch as statements: a few, each for many rows at once. The shard is 0 for now.
//!
//! Each names the keys of the rows that it is about as an array: with that they are found by their keys, whatever the server believes
//! of a table that it has not looked at yet.

use std::collections::BTreeMap;

use mail::MessageId;
use queue::{Handle, Owed, State};
use tokio_postgres::types::{ToSql, Type};

use super::operation::{Batch, Change, Put, Struck, is_delay_reported};
use super::rows::{self, number, text, time};
use crate::connection::Parameter;

/// A statement with its parameters, which may be sent again and again.
pub(crate) struct Statement {
    pub(crate) text: &'static str,
    parameters: Vec<(Box<dyn ToSql + Sync>, Type)>,
}

impl Statement {
    pub(crate) fn new(text: &'static str) -> Self {
        Self { text, parameters: Vec::new() }
    }

    pub(crate) fn with(mut self, value: impl ToSql + Sync + 'static, kind: Type) -> Self {
        self.parameters.push((Box::new(value), kind));
        self
    }

    pub(crate) fn parameters(&self) -> Vec<Parameter<'_>> {
        self.parameters.iter().map(|(value, kind)| (&**value, kind.clone())).collect()
    }
}

/// What makes a transaction without rows be written, and with it all before it.
pub(crate) const TOUCH: &str = "SELECT pg_current_xact_id()";

const RETIRE_BODIES: &str = "\
DELETE FROM body WHERE id = ANY (ARRAY (SELECT body_id FROM message WHERE id = ANY ($1) AND body_id IS NOT NULL))";
const RETIRE: &str = "\
WITH message_gone AS (DELETE FROM message WHERE id = ANY ($1)),
    routed_gone AS (DELETE FROM routed WHERE message_id = ANY ($1) AND shard = 0)
DELETE FROM recipient WHERE message_id = ANY ($1) AND shard = 0";
const REPLACE: &str = "DELETE FROM recipient WHERE message_id = ANY ($1) AND shard = 0";
/// What is not accepted, or not any more, leaves no rows.
const PUT: &str = "\
INSERT INTO routed (shard, message_id, routing, handle, facts, hold, held_by_hand, strikes, reroute, owed)
SELECT 0, new.* FROM unnest($1::text[], $2::integer[], $3::text[], $4::bytea[], $5::text[], $6::boolean[],
    $7::integer[], $8::integer[], $9::bytea[]) AS new (message_id)
WHERE EXISTS (SELECT 1 FROM message WHERE id = new.message_id)
ON CONFLICT (message_id, shard) DO UPDATE SET routing = excluded.routing, handle = excluded.handle,
    facts = excluded.facts, hold = excluded.hold, held_by_hand = excluded.held_by_hand,
    strikes = excluded.strikes, reroute = excluded.reroute, owed = excluded.owed";
const PUT_RECIPIENTS: &str = "\
INSERT INTO recipient (shard, message_id, index, channel, host, facts, state, told, delay_reported)
SELECT 0, new.* FROM unnest($1::text[], $2::integer[], $3::text[], $4::text[], $5::bytea[], $6::bytea[],
    $7::boolean[], $8::boolean[]) AS new (message_id)
WHERE EXISTS (SELECT 1 FROM message WHERE id = new.message_id)
ON CONFLICT (message_id, index, shard) DO UPDATE SET channel = excluded.channel, host = excluded.host,
    facts = excluded.facts, state = excluded.state, told = excluded.told, delay_reported = excluded.delay_reported";
const SET_STATES: &str = "\
UPDATE recipient SET state = new.state, told = true, delay_reported = new.delay_reported
FROM unnest($1::text[], $2::integer[], $3::bytea[], $4::boolean[]) AS new (message_id, index, state, delay_reported)
WHERE recipient.message_id = ANY ($1) AND recipient.message_id = new.message_id AND recipient.index = new.index
    AND recipient.shard = 0";
const SET_DELAYED: &str = "\
UPDATE recipient SET delay_reported = true FROM unnest($1::text[], $2::integer[]) AS new (message_id, index)
WHERE recipient.message_id = ANY ($1) AND recipient.message_id = new.message_id AND recipient.index = new.index
    AND recipient.shard = 0";
const SET_HOLDS: &str = "\
UPDATE routed SET hold = new.hold, held_by_hand = new.hold IS NOT NULL
FROM unnest($1::text[], $2::text[]) AS new (message_id, hold)
WHERE routed.message_id = ANY ($1) AND routed.message_id = new.message_id AND routed.shard = 0";
const SET_STRIKES: &str = "\
UPDATE routed SET strikes = new.strikes FROM unnest($1::text[], $2::integer[]) AS new (message_id, strikes)
WHERE routed.message_id = ANY ($1) AND routed.message_id = new.message_id AND routed.shard = 0";
const SET_REROUTES: &str = "\
UPDATE routed SET reroute = CASE WHEN new.reroute > routed.routing THEN new.reroute END
FROM unnest($1::text[], $2::integer[]) AS new (message_id, reroute)
WHERE routed.message_id = ANY ($1) AND routed.message_id = new.message_id AND routed.shard = 0";
const SET_HANDLES: &str = "\
UPDATE routed SET handle = new.handle FROM unnest($1::text[], $2::text[]) AS new (message_id, handle)
WHERE routed.message_id = ANY ($1) AND routed.message_id = new.message_id AND routed.shard = 0";
const SET_OWED: &str = "\
UPDATE routed SET owed = new.owed FROM unnest($1::text[], $2::bytea[]) AS new (message_id, owed)
WHERE routed.message_id = ANY ($1) AND routed.message_id = new.message_id AND routed.shard = 0";
const FORGIVE: &str = "DELETE FROM strike WHERE message_id = ANY ($1) AND shard = 0";
const STRIKE: &str = "\
INSERT INTO strike (shard, message_id, handle, strikes, hold)
SELECT 0, new.* FROM unnest($1::text[], $2::text[], $3::integer[], $4::text[]) AS new (message_id)
WHERE EXISTS (SELECT 1 FROM message WHERE id = new.message_id)
ON CONFLICT (message_id, shard) DO UPDATE SET handle = excluded.handle, strikes = excluded.strikes, hold = excluded.hold";
const RESUME: &str = "\
DELETE FROM suspended USING unnest($1::text[], $2::text[], $3::boolean[]) AS gone (channel, host, every)
WHERE suspended.shard = 0 AND suspended.channel = gone.channel AND suspended.host = gone.host
    AND suspended.every = gone.every";
const SUSPEND: &str = "\
INSERT INTO suspended (shard, channel, host, every, until)
SELECT 0, new.* FROM unnest($1::text[], $2::text[], $3::boolean[], $4::bigint[]) AS new (channel)
ON CONFLICT (shard, channel, host, every) DO UPDATE SET until = excluded.until";

/// The statements of a batch, in the order in which they are to be sent.
pub(super) fn statements(batch: &Batch) -> Vec<Statement> {
    let mut statements = Vec::new();
    if !batch.retired.is_empty() {
        for text in [RETIRE_BODIES, RETIRE] {
            statements.push(Statement::new(text).with(ids(&batch.retired), Type::TEXT_ARRAY));
        }
    }
    strikes(&batch.struck, &mut statements);
    puts(&batch.puts, &mut statements);
    changes(&batch.changes, &mut statements);
    suspensions(batch, &mut statements);
    statements
}

fn ids<'a>(ids: impl IntoIterator<Item = &'a MessageId>) -> Vec<String> {
    ids.into_iter().map(|id| id.as_str().to_owned()).collect()
}

fn puts(puts: &BTreeMap<MessageId, Put>, statements: &mut Vec<Statement>) {
    let replaced: Vec<&MessageId> =
        puts.iter().filter(|(_, put)| !put.is_new).map(|(id, _)| id).collect();
    if !replaced.is_empty() {
        statements.push(Statement::new(REPLACE).with(ids(replaced), Type::TEXT_ARRAY));
    }
    if puts.is_empty() {
        return;
    }
    let each = puts.values();
    let statement = Statement::new(PUT)
        .with(ids(puts.keys()), Type::TEXT_ARRAY)
        .with(column(each.clone(), |put| number(put.message.routing)), Type::INT4_ARRAY)
        .with(column(each.clone(), |put| handle(&put.message.handle)), Type::TEXT_ARRAY)
        .with(column(each.clone(), |put| rows::facts(&put.message)), Type::BYTEA_ARRAY)
        .with(column(each.clone(), |put| put.message.hold.as_deref().map(text)), Type::TEXT_ARRAY)
        .with(column(each.clone(), |put| put.held_by_hand), Type::BOOL_ARRAY)
        .with(column(each.clone(), |put| number(put.message.strikes)), Type::INT4_ARRAY)
        .with(column(each.clone(), |put| put.reroute.map(number)), Type::INT4_ARRAY)
        .with(column(each, |put| rows::owed(&put.message.owed)), Type::BYTEA_ARRAY);
    statements.push(statement);
    let each = puts
        .values()
        .flat_map(|put| put.message.recipients.iter().map(move |recipient| (put, recipient)));
    let statement = Statement::new(PUT_RECIPIENTS)
        .with(column(each.clone(), |(put, _)| put.message.id.to_string()), Type::TEXT_ARRAY)
        .with(column(each.clone(), |(_, one)| number(one.index)), Type::INT4_ARRAY)
        .with(column(each.clone(), |(_, one)| text(&one.channel)), Type::TEXT_ARRAY)
        .with(column(each.clone(), |(_, one)| text(&one.host)), Type::TEXT_ARRAY)
        .with(column(each.clone(), |(_, one)| rows::recipient_facts(one)), Type::BYTEA_ARRAY)
        .with(column(each.clone(), |(_, one)| rows::state(&one.state)), Type::BYTEA_ARRAY)
        .with(column(each.clone(), |(put, one)| put.told.contains(&one.index)), Type::BOOL_ARRAY)
        .with(column(each, |(_, one)| is_delay_reported(&one.state)), Type::BOOL_ARRAY);
    statements.push(statement);
}

fn column<I: Iterator, T>(items: I, value: impl FnMut(I::Item) -> T) -> Vec<T> {
    items.map(value).collect()
}

fn handle(handle: &Handle) -> String {
    handle.as_str().to_owned()
}

/// Adds a statement for those messages whose change has something.
fn set<T, V>(
    statements: &mut Vec<Statement>,
    statement: &'static str,
    kind: Type,
    changes: &BTreeMap<MessageId, Change>,
    changed: impl Fn(&Change) -> Option<&T>,
    value: impl Fn(&T) -> V,
) where
    Vec<V>: ToSql + Sync + 'static,
{
    let (mut ids, mut values) = (Vec::new(), Vec::new());
    for (id, change) in changes {
        if let Some(changed) = changed(change) {
            ids.push(id.to_string());
            values.push(value(changed));
        }
    }
    if !ids.is_empty() {
        let statement = Statement::new(statement).with(ids, Type::TEXT_ARRAY);
        statements.push(statement.with(values, kind));
    }
}

fn changes(changes: &BTreeMap<MessageId, Change>, statements: &mut Vec<Statement>) {
    if changes.is_empty() {
        return;
    }
    recipient_changes(changes, statements);
    let hold = |hold: &Option<String>| hold.as_deref().map(text);
    set(statements, SET_HOLDS, Type::TEXT_ARRAY, changes, |change| change.hold.as_ref(), hold);
    let strikes = |strikes: &u32| number(*strikes);
    set(statements, SET_STRIKES, Type::INT4_ARRAY, changes, |it| it.strikes.as_ref(), strikes);
    set(
        statements,
        SET_REROUTES,
        Type::INT4_ARRAY,
        changes,
        |it| it.reroute.as_ref(),
        |it| number(it.0),
    );
    set(statements, SET_HANDLES, Type::TEXT_ARRAY, changes, |it| it.handle.as_ref(), handle);
    let owed = |owed: &Vec<Owed>| rows::owed(owed);
    set(statements, SET_OWED, Type::BYTEA_ARRAY, changes, |it| it.owed.as_ref(), owed);
}

fn recipient_changes(changes: &BTreeMap<MessageId, Change>, statements: &mut Vec<Statement>) {
    let states = changes.iter().flat_map(|(id, change)| {
        change.states.iter().map(move |(index, state)| (id, index, state))
    });
    let states: Vec<(&MessageId, &u32, &State)> = states.collect();
    if !states.is_empty() {
        let each = states.iter();
        let statement = Statement::new(SET_STATES)
            .with(column(each.clone(), |(id, ..)| id.to_string()), Type::TEXT_ARRAY)
            .with(column(each.clone(), |(_, index, _)| number(**index)), Type::INT4_ARRAY)
            .with(column(each.clone(), |(.., state)| rows::state(state)), Type::BYTEA_ARRAY)
            .with(column(each, |(.., state)| is_delay_reported(state)), Type::BOOL_ARRAY);
        statements.push(statement);
    }
    let delayed = changes
        .iter()
        .flat_map(|(id, change)| change.delayed.iter().map(move |index| (id, *index)));
    let delayed: Vec<(&MessageId, u32)> = delayed.collect();
    if !delayed.is_empty() {
        let each = delayed.iter();
        let statement = Statement::new(SET_DELAYED)
            .with(column(each.clone(), |(id, _)| id.to_string()), Type::TEXT_ARRAY)
            .with(column(each, |(_, index)| number(*index)), Type::INT4_ARRAY);
        statements.push(statement);
    }
}

fn strikes(struck: &BTreeMap<MessageId, Option<Struck>>, statements: &mut Vec<Statement>) {
    let forgiven: Vec<_> =
        struck.iter().filter(|(_, struck)| struck.is_none()).map(|(id, _)| id).collect();
    if !forgiven.is_empty() {
        statements.push(Statement::new(FORGIVE).with(ids(forgiven), Type::TEXT_ARRAY));
    }
    let struck: Vec<(&MessageId, &Struck)> =
        struck.iter().filter_map(|(id, struck)| Some((id, struck.as_ref()?))).collect();
    if !struck.is_empty() {
        let each = struck.iter();
        let statement = Statement::new(STRIKE)
            .with(column(each.clone(), |(id, _)| id.to_string()), Type::TEXT_ARRAY)
            .with(column(each.clone(), |(_, one)| handle(&one.handle)), Type::TEXT_ARRAY)
            .with(column(each.clone(), |(_, one)| number(one.strikes)), Type::INT4_ARRAY)
            .with(column(each, |(_, one)| one.hold.as_deref().map(text)), Type::TEXT_ARRAY);
        statements.push(statement);
    }
}

fn suspensions(batch: &Batch, statements: &mut Vec<Statement>) {
    let (suspended, resumed): (Vec<_>, Vec<_>) =
        batch.suspended.iter().partition(|(_, until)| until.is_some());
    for (lanes, statement) in [(resumed, RESUME), (suspended, SUSPEND)] {
        if lanes.is_empty() {
            continue;
        }
        let each = lanes.iter();
        let host = |host: &Option<String>| text(host.as_deref().unwrap_or_default());
        let mut added = Statement::new(statement)
            .with(column(each.clone(), |((channel, _), _)| text(channel)), Type::TEXT_ARRAY)
            .with(column(each.clone(), |((_, its), _)| host(its)), Type::TEXT_ARRAY)
            .with(column(each.clone(), |((_, host), _)| host.is_none()), Type::BOOL_ARRAY);
        if statement == SUSPEND {
            let until = column(each, |(_, until)| until.map_or(0, time));
            added = added.with(until, Type::INT8_ARRAY);
        }
        statements.push(added);
    }
}
