//! A message that waits, in one block of bytes: a third of what it takes unpacked.
//!
//! ```text
//! message    flags, id, numbers and texts as the flags say, recipients
//! recipient  flags, step of the index, lane, address, numbers and texts as the flags say
//! number     seven bits a byte, the lowest first        text  its length, its bytes
//! ```
//!
//! Nobody reads these bytes but the process that wrote them. The id is left out of a handle that holds it.

use mail::Timestamp;
use mail::{
    Address, BodyType, Delivered, MessageId, Notify, Reply, Ret, StatusCode, SuccessReport,
};
use queue::Handle;

use super::{Details, Message, Place, Recipient, Stand};
use crate::machine::lane::LaneId;

/// A message with more recipients stays unpacked: to unpack it takes time, and what it takes beside them weighs little.
const RECIPIENTS_MAX: usize = 128;
/// What stands in a handle for the id.
const ID_MARK: u8 = 0;

/// Flags of a message. The first says that it, or a recipient of it, is held.
mod message {
    pub(super) const HAS_HOLD: u64 = 1;
    pub(super) const HOLD: u64 = 1 << 1;
    pub(super) const QUARANTINED: u64 = 1 << 2;
    pub(super) const SENDER: u64 = 1 << 3;
    pub(super) const EIGHT_BIT: u64 = 1 << 4;
    pub(super) const SMTPUTF8: u64 = 1 << 5;
    pub(super) const REROUTE: u64 = 1 << 6;
    pub(super) const RET_FULL: u64 = 1 << 7;
    pub(super) const RET_HDRS: u64 = 1 << 8;
    pub(super) const ENVID: u64 = 1 << 9;
}

/// Flags of a recipient.
mod recipient {
    pub(super) const LAST: u64 = 1;
    pub(super) const WAITING: u64 = 1 << 1;
    pub(super) const DELAY_REPORTED: u64 = 1 << 2;
    pub(super) const USER: u64 = 1 << 3;
    pub(super) const HELD: u64 = 1 << 4;
    pub(super) const DELIVERED: u64 = 1 << 5;
    pub(super) const FAILED: u64 = 1 << 6;
    pub(super) const REMOVED: u64 = 1 << 7;
    pub(super) const QUARANTINED: u64 = 1 << 8;
    pub(super) const LOSSES: u64 = 1 << 9;
    pub(super) const ORIGINAL: u64 = 1 << 10;
    pub(super) const ORCPT: u64 = 1 << 11;
    pub(super) const NOTIFY: u64 = 1 << 12;
}

impl Message {
    /// Whether it waits as a whole: what is in hand or owes a report is used soon.
    pub(in crate::machine::backlog) fn may_be_packed(&self) -> bool {
        let in_hand = |recipient: &Recipient| matches!(recipient.place, Place::InHand(_));
        self.owing.is_empty()
            && self.recipients.len() <= RECIPIENTS_MAX
            && !self.recipients.iter().any(in_hand)
    }

    /// As bytes.
    pub(in crate::machine::backlog) fn pack(&self) -> Box<[u8]> {
        let mut pen = Pen(Vec::with_capacity(512));
        pen.number(self.flags());
        pen.0.extend_from_slice(self.id.as_bytes());
        pen.handle(&self.handle, &self.id);
        pen.number(u64::from(self.routing));
        pen.number(u64::from(self.strikes));
        pen.number(self.size);
        pen.number(self.accepted_at.millis());
        self.reroute.into_iter().for_each(|routing| pen.number(u64::from(routing)));
        let texts = [
            self.sender.as_ref().map(Address::as_str),
            self.envid.as_deref(),
            self.hold.as_deref(),
        ];
        texts.into_iter().flatten().for_each(|text| pen.text(text));
        pen.number(self.recipients.len() as u64);
        let mut next = 0;
        for recipient in &self.recipients {
            pen.recipient(recipient, next);
            next = recipient.index.wrapping_add(1);
        }
        pen.0.into_boxed_slice()
    }

    fn flags(&self) -> u64 {
        flag(self.has_hold(), message::HAS_HOLD)
            | flag(self.hold.is_some(), message::HOLD)
            | flag(self.quarantined, message::QUARANTINED)
            | flag(self.sender.is_some(), message::SENDER)
            | flag(self.body == BodyType::EightBitMime, message::EIGHT_BIT)
            | flag(self.smtputf8, message::SMTPUTF8)
            | flag(self.reroute.is_some(), message::REROUTE)
            | flag(self.ret == Some(Ret::Full), message::RET_FULL)
            | flag(self.ret == Some(Ret::Hdrs), message::RET_HDRS)
            | flag(self.envid.is_some(), message::ENVID)
    }

    /// Whether a packed message, or a recipient of it, is held.
    pub(in crate::machine::backlog) fn packed_has_hold(packed: &[u8]) -> bool {
        packed.first().is_some_and(|flags| u64::from(*flags) & message::HAS_HOLD != 0)
    }

    /// From what [`Message::pack`] made.
    pub(in crate::machine::backlog) fn unpack(packed: &[u8]) -> Self {
        let mut bytes = Packed(packed);
        let flags = bytes.number();
        let has = |wanted: u64| flags & wanted != 0;
        let id = MessageId::from_bytes(bytes.take(MessageId::LENGTH)).expect(OURS);
        let handle = bytes.handle(&id);
        let (routing, strikes) = (bytes.small(), bytes.small());
        let (size, accepted_at) = (bytes.number(), Timestamp::from_millis(bytes.number()));
        let reroute = has(message::REROUTE).then(|| bytes.small());
        let sender = has(message::SENDER).then(|| bytes.address());
        let envid = has(message::ENVID).then(|| bytes.text().into());
        let hold = has(message::HOLD).then(|| bytes.text().into());
        let count = bytes.number() as usize;
        let mut recipients = Vec::with_capacity(count);
        let mut next = 0;
        for _ in 0..count {
            let recipient = bytes.recipient(next);
            next = recipient.index.wrapping_add(1);
            recipients.push(recipient);
        }
        let open = recipients.iter().filter(|recipient| recipient.is_open()).count();
        Self {
            id,
            handle,
            routing,
            reroute,
            sender,
            size,
            accepted_at,
            body: if has(message::EIGHT_BIT) { BodyType::EightBitMime } else { BodyType::SevenBit },
            smtputf8: has(message::SMTPUTF8),
            ret: match (has(message::RET_FULL), has(message::RET_HDRS)) {
                (true, _) => Some(Ret::Full),
                (_, true) => Some(Ret::Hdrs),
                _ => None,
            },
            envid,
            hold,
            quarantined: has(message::QUARANTINED),
            recipients,
            owing: Vec::new(),
            strikes,
            open: u32::try_from(open).expect(OURS),
        }
    }
}

fn flag(set: bool, flag: u64) -> u64 {
    if set { flag } else { 0 }
}

/// Writes the parts of a packed message.
struct Pen(Vec<u8>);

impl Pen {
    fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    fn handle(&mut self, handle: &Handle, id: &MessageId) {
        match handle.as_str().split_once(id.as_str()) {
            Some((before, behind)) => {
                self.number((before.len() + 1 + behind.len()) as u64);
                self.0.extend_from_slice(before.as_bytes());
                self.0.push(ID_MARK);
                self.0.extend_from_slice(behind.as_bytes());
            }
            None => self.text(handle.as_str()),
        }
    }

    fn reply(&mut self, reply: &Reply) {
        let StatusCode { class, subject, detail } = reply.status;
        for part in [u16::from(class), subject, detail] {
            self.number(u64::from(part));
        }
        self.text(&reply.text);
        self.number(u64::from(reply.remote.is_some()));
        reply.remote.iter().for_each(|remote| self.text(remote));
    }

    fn recipient(&mut self, one: &Recipient, next: u32) {
        use recipient::*;
        let details = one.details.as_deref();
        self.number(
            flag(one.last.is_some(), LAST)
                | flag(matches!(one.place, Place::Waiting(_)), WAITING)
                | flag(one.delay_reported, DELAY_REPORTED)
                | flag(one.user.is_some(), USER)
                | flag(matches!(one.stand, Stand::Held(_)), HELD)
                | flag(matches!(one.stand, Stand::Delivered(_)), DELIVERED)
                | flag(matches!(one.stand, Stand::Failed(_)), FAILED)
                | flag(matches!(one.stand, Stand::Removed), REMOVED)
                | flag(one.quarantined, QUARANTINED)
                | flag(one.losses > 0, LOSSES)
                | flag(details.is_some_and(|details| details.original.is_some()), ORIGINAL)
                | flag(details.is_some_and(|details| details.orcpt.is_some()), ORCPT)
                | flag(details.is_some_and(|details| details.notify.is_some()), NOTIFY),
        );
        self.number(u64::from(one.index.wrapping_sub(next)));
        self.number(u64::from(one.lane.0));
        self.text(one.address.as_str());
        self.number(u64::from(one.count));
        self.number(one.next.millis());
        one.last.iter().for_each(|reply| self.reply(reply));
        if let Place::Waiting(due) = one.place {
            self.number(due);
        }
        one.user.iter().for_each(|user| self.text(user));
        match &one.stand {
            Stand::Open | Stand::Removed => {}
            Stand::Held(reason) => self.text(reason),
            Stand::Failed(reply) => self.reply(reply),
            Stand::Delivered(delivered) => {
                self.reply(&delivered.reply);
                self.number(match delivered.report {
                    SuccessReport::PassedOn => 0,
                    SuccessReport::Relayed => 1,
                    SuccessReport::Final => 2,
                });
            }
        }
        if one.losses > 0 {
            self.number(u64::from(one.losses));
        }
        let Some(details) = details else { return };
        details.original.iter().for_each(|original| self.text(original.as_str()));
        details.orcpt.iter().for_each(|orcpt| self.text(orcpt));
        if let Some(Notify { success, failure, delay }) = details.notify {
            self.number(flag(success, 1) | flag(failure, 2) | flag(delay, 4));
        }
    }
}

/// What is packed is what was packed by this process: anything else is a broken invariant.
const OURS: &str = "a packed message is as it was packed";

/// What is left to be read of a packed message.
struct Packed<'a>(&'a [u8]);

impl<'a> Packed<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at_checked(count).expect(OURS);
        self.0 = rest;
        taken
    }

    fn number(&mut self) -> u64 {
        let mut number = 0;
        let mut place = 0;
        loop {
            let (byte, rest) = self.0.split_first().expect(OURS);
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << place;
            place += 7;
            if byte & 0x80 == 0 {
                return number;
            }
        }
    }

    fn small(&mut self) -> u32 {
        u32::try_from(self.number()).expect(OURS)
    }

    fn text(&mut self) -> &'a str {
        let length = self.number() as usize;
        std::str::from_utf8(self.take(length)).expect(OURS)
    }

    fn address(&mut self) -> Address {
        Address::parse(self.text()).expect(OURS)
    }

    fn handle(&mut self, id: &MessageId) -> Handle {
        let text = self.text();
        match text.split_once(char::from(ID_MARK)) {
            Some((before, behind)) => {
                let mut whole = String::with_capacity(text.len() + MessageId::LENGTH);
                [before, id.as_str(), behind].into_iter().for_each(|part| whole.push_str(part));
                Handle::parse(&whole).expect(OURS)
            }
            None => Handle::parse(text).expect(OURS),
        }
    }

    fn reply(&mut self) -> Reply {
        let class = u8::try_from(self.number()).expect(OURS);
        let [subject, detail] = [(); 2].map(|()| u16::try_from(self.number()).expect(OURS));
        Reply {
            status: StatusCode { class, subject, detail },
            text: self.text().to_owned(),
            remote: (self.number() > 0).then(|| self.text().to_owned()),
        }
    }

    fn stand(&mut self, flags: u64) -> Stand {
        use recipient::*;
        if flags & HELD != 0 {
            Stand::Held(self.text().into())
        } else if flags & FAILED != 0 {
            Stand::Failed(Box::new(self.reply()))
        } else if flags & DELIVERED != 0 {
            let reply = self.reply();
            let report = match self.number() {
                0 => SuccessReport::PassedOn,
                1 => SuccessReport::Relayed,
                _ => SuccessReport::Final,
            };
            Stand::Delivered(Box::new(Delivered { reply, report }))
        } else if flags & REMOVED != 0 {
            Stand::Removed
        } else {
            Stand::Open
        }
    }

    fn details(&mut self, flags: u64) -> Option<Box<Details>> {
        use recipient::*;
        if flags & (ORIGINAL | ORCPT | NOTIFY) == 0 {
            return None;
        }
        let original = (flags & ORIGINAL != 0).then(|| self.address());
        let orcpt = (flags & ORCPT != 0).then(|| self.text().into());
        let notify = (flags & NOTIFY != 0).then(|| self.number());
        let notify = notify.map(|said| Notify {
            success: said & 1 != 0,
            failure: said & 2 != 0,
            delay: said & 4 != 0,
        });
        Some(Box::new(Details { original, orcpt, notify }))
    }

    fn recipient(&mut self, next: u32) -> Recipient {
        use recipient::*;
        let flags = self.number();
        let has = |wanted: u64| flags & wanted != 0;
        let index = next.wrapping_add(self.small());
        let lane = LaneId(self.small());
        let address = self.address();
        let (count, next) = (self.small(), Timestamp::from_millis(self.number()));
        let last = has(LAST).then(|| Box::new(self.reply()));
        let place = if has(WAITING) { Place::Waiting(self.number()) } else { Place::Parked };
        let user = has(USER).then(|| self.text().into());
        let stand = self.stand(flags);
        let losses = if has(LOSSES) { u8::try_from(self.number()).expect(OURS) } else { 0 };
        Recipient {
            index,
            lane,
            address,
            user,
            details: self.details(flags),
            count,
            delay_reported: has(DELAY_REPORTED),
            quarantined: has(QUARANTINED),
            losses,
            next,
            last,
            stand,
            place,
        }
    }
}

#[cfg(test)]
mod tests;
