//! A record from its line of JSON.
//!
//! The kind of a record stands before its fields, as we write it. So the kinds that a ledger is full of are read straight into their
//! types; what is written in another order, or is of another kind, is read the long way, in which a record is first taken apart.

use mail::MessageId;
use queue::{Handle, Record, Routed, State};
use serde::Deserialize;

/// Reads records; keeps a buffer from one to the next.
#[derive(Default)]
pub(crate) struct Decoder {
    fields: Vec<u8>,
}

#[derive(Deserialize)]
struct Outcome {
    id: MessageId,
    recipients: Vec<(u32, State)>,
}

#[derive(Deserialize)]
struct Retired {
    id: MessageId,
    handle: Handle,
}

impl Decoder {
    /// The record of a line.
    pub(crate) fn record(&mut self, line: &[u8]) -> serde_json::Result<Record> {
        if let Some(rest) = line.strip_prefix(br#"{"record":"routed","#) {
            self.fields_of(rest).map(Record::Routed)
        } else if let Some(rest) = line.strip_prefix(br#"{"record":"snapshot","#) {
            self.fields_of::<Box<Routed>>(rest).map(Record::Snapshot)
        } else if let Some(rest) = line.strip_prefix(br#"{"record":"outcome","#) {
            let Outcome { id, recipients } = self.fields_of(rest)?;
            Ok(Record::Outcome { id, recipients })
        } else if let Some(rest) = line.strip_prefix(br#"{"record":"retired","#) {
            let Retired { id, handle } = self.fields_of(rest)?;
            Ok(Record::Retired { id, handle })
        } else {
            serde_json::from_slice(line)
        }
    }

    /// Reads an object without its first field, given what follows that.
    fn fields_of<T: for<'a> Deserialize<'a>>(&mut self, rest: &[u8]) -> serde_json::Result<T> {
        self.fields.clear();
        self.fields.push(b'{');
        self.fields.extend_from_slice(rest);
        serde_json::from_slice(&self.fields)
    }
}

#[cfg(test)]
mod tests {
    use queue::conformance::routed;
    use queue::{Attempt, ReportKind};

    use super::*;

    #[test]
    fn what_is_written_is_read_back_whatever_its_kind() {
        let id = MessageId::new(mail::Timestamp::from_millis(7), 7);
        let handle = Handle::parse("spool:1.2.64.300.x.m").expect("a handle");
        let Record::Routed(whole) = routed(id, &handle, 3) else { panic!("it is a routing") };
        let records = [
            Record::Routed(whole.clone()),
            Record::Snapshot(whole),
            Record::Outcome { id, recipients: vec![(2, State::Open(Attempt::default()))] },
            Record::Retired { id, handle: handle.clone() },
            Record::Moved { id, handle: handle.clone() },
            Record::Hold { id, reason: Some("because".into()) },
            Record::Reported { id, kind: ReportKind::Delay, recipients: vec![1] },
            Record::Strike { handle, id, strikes: 2, hold: None },
        ];
        let mut decoder = Decoder::default();
        for record in records {
            let line = serde_json::to_vec(&record).expect("it can be written");
            assert_eq!(decoder.record(&line).expect("it can be read"), record);
            // In another order of its fields, it is the same.
            let text = String::from_utf8(line).expect("JSON");
            let (kind, rest) = text.trim_matches(['{', '}']).split_once(',').expect("two fields");
            let turned = format!("{{{rest},{kind}}}");
            assert_eq!(decoder.record(turned.as_bytes()).expect("it can be read"), record);
        }
        assert!(decoder.record(br#"{"record":"routed","id":"x"}"#).is_err());
    }
}
