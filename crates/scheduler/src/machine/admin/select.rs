//! Which messages a request of the command line is about.

use job::admin::Selection;
use mail::MessageId;
use socket::{ErrorObject, codes};

use super::super::Scheduler;
use super::super::backlog::{Message, Recipient, Stand};

/// A selection, taken apart.
pub(super) struct Filter<'a> {
    select: &'a Selection,
    lane: Option<(String, Option<String>)>,
    /// Sorted.
    ids: Vec<MessageId>,
}

impl<'a> Filter<'a> {
    pub(super) fn new(select: &'a Selection) -> Result<Self, ErrorObject> {
        let lane = select.lane.as_deref().map(lane_named).transpose()?;
        let mut ids = select.ids.clone();
        ids.sort_unstable();
        Ok(Self { select, lane, ids })
    }

    pub(super) fn names(&self, id: &MessageId) -> bool {
        self.ids.is_empty() || self.ids.binary_search(id).is_ok()
    }

    /// Whether a message is selected of which only the id is known.
    pub(super) fn takes_unrouted(&self, id: &MessageId) -> bool {
        let Selection { lane, domain, sender, quarantined, before, .. } = self.select;
        let is_plain = lane.is_none() && domain.is_none() && sender.is_none();
        is_plain && !quarantined && before.is_none() && self.names(id)
    }

    /// Whether a message is selected: the whole of it (`Some(None)`), or some recipients.
    pub(super) fn matches(
        &self,
        scheduler: &Scheduler,
        message: &Message,
    ) -> Option<Option<Vec<u32>>> {
        let select = self.select;
        if !self.names(&message.id) {
            return None;
        }
        if let Some(wanted) = &select.sender {
            let sender = message.sender.as_ref().map_or("", |sender| sender.as_str());
            let wanted = wanted.trim_start_matches('<').trim_end_matches('>');
            if !sender.eq_ignore_ascii_case(wanted) {
                return None;
            }
        }
        if select.before.is_some_and(|before| message.accepted_at >= before) {
            return None;
        }
        // A hold on the whole message is on each recipient; otherwise some may be held.
        let some_held = select.held && message.hold.is_none();
        let by_filter = message.hold.is_some() && message.quarantined;
        let some_quarantined = select.quarantined && !by_filter;
        let is_held = |one: &Recipient| matches!(one.stand, Stand::Held(_));
        if self.lane.is_none() && select.domain.is_none() && !some_held && !some_quarantined {
            return Some(None);
        }
        let recipients: Vec<u32> = message
            .recipients
            .iter()
            .filter(|recipient| recipient.is_open())
            .filter(|recipient| !some_held || is_held(recipient))
            .filter(|one| !some_quarantined || (is_held(one) && one.quarantined))
            .filter(|recipient| self.is_in(scheduler, recipient))
            .map(|recipient| recipient.index)
            .collect();
        (!recipients.is_empty()).then_some(Some(recipients))
    }

    fn is_in(&self, scheduler: &Scheduler, recipient: &Recipient) -> bool {
        let domain = self.select.domain.as_deref();
        let given = recipient.original().unwrap_or(&recipient.address);
        if domain.is_some_and(|domain| {
            !recipient.address.domain().eq_ignore_ascii_case(domain)
                && !given.domain().eq_ignore_ascii_case(domain)
        }) {
            return false;
        }
        let Some((channel, host)) = &self.lane else { return true };
        let lane = scheduler.lanes.lane(recipient.lane);
        scheduler.lanes.channel_name(lane.channel) == channel
            && host.as_deref().is_none_or(|host| *lane.host == *host)
    }
}

/// Takes `channel` or `channel/host` apart.
pub(super) fn lane_named(text: &str) -> Result<(String, Option<String>), ErrorObject> {
    let (channel, host) = match text.split_once('/') {
        Some((channel, host)) => (channel, Some(host.to_owned())),
        None => (text, None),
    };
    if channel.is_empty() || text.len() > 512 || text.chars().any(char::is_control) {
        return Err(ErrorObject::new(codes::PARAMS, "a lane is CHANNEL or CHANNEL/HOST"));
    }
    Ok((channel.to_owned(), host))
}
