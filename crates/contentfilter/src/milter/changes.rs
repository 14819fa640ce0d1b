//! The changes of a milter as a finding: addresses are read, header places are those of the whole section.

use ::milter::Change;
use job::inspect::Verdict;
use mail::{Address, Edit, Recipient};
use smtp::grammar::RcptParameters;

use super::received::Received;
use crate::filter::{FilterError, Finding, Session};

/// Puts changes together. Nothing of them is made if one makes no sense.
pub(super) fn finding(
    changes: Vec<Change>,
    session: &Session,
    received: &Received,
    name: &str,
    hostname: &str,
) -> Result<Finding, FilterError> {
    let mut found = Finding::default();
    for change in changes {
        match change {
            Change::AddHeader { name, value } => found.edits.push(Edit::Append { name, value }),
            Change::InsertHeader { index, name, value } => {
                found.edits.push(Edit::Insert { index, name, value });
            }
            Change::ChangeHeader { nth, name, value } => {
                let nth = received.nth(&name, nth);
                let value = Some(value).filter(|value| !value.is_empty());
                found.edits.push(Edit::Change { name, nth, value });
            }
            // Its parameters are of the sender's session, not of ours to the next hop.
            Change::Sender { address: text, .. } => found.sender = Some(sender(&text, hostname)?),
            Change::AddRecipient { address: text, parameters } => {
                let recipient = recipient(&text, &parameters, hostname)?;
                let is_there = |other: &Recipient| is_same(&other.address, &recipient.address);
                let kept = (0..).zip(session.recipients());
                let is_gone =
                    |place: &u32| session.removed.contains(place) || found.remove.contains(place);
                let mut kept = kept.filter(|(place, _)| !is_gone(place));
                let is_added = session.added.iter().any(is_there)
                    && !found.retract.iter().any(|gone| is_same(gone, &recipient.address));
                if !kept.any(|(_, other)| is_there(other))
                    && !is_added
                    && !found.add.iter().any(is_there)
                {
                    found.add.push(recipient);
                }
            }
            Change::RemoveRecipient(text) => {
                let gone = address(&text, hostname)?;
                found.add.retain(|recipient| !is_same(&recipient.address, &gone));
                let all = (0..).zip(session.recipients());
                let same = all.filter(|(_, recipient)| is_same(&recipient.address, &gone));
                found.remove.extend(same.map(|(place, _)| place));
                let added = session.added.iter().map(|recipient| &recipient.address);
                found.retract.extend(added.filter(|added| is_same(added, &gone)).cloned());
            }
            Change::Quarantine(reason) => {
                let reason = match reason.is_empty() {
                    true => format!("{name} asks for it"),
                    false => reason,
                };
                found.verdict = Verdict::Quarantine { reason };
            }
        }
    }
    Ok(found)
}

/// A sender; an empty one is the null sender.
fn sender(text: &str, hostname: &str) -> Result<Option<Address>, FilterError> {
    match bare(text).is_empty() {
        true => Ok(None),
        false => address(text, hostname).map(Some),
    }
}

fn recipient(text: &str, parameters: &str, hostname: &str) -> Result<Recipient, FilterError> {
    let address = address(text, hostname)?;
    let RcptParameters { notify, orcpt } = RcptParameters::parse(parameters.trim())
        .map_err(|wrong| FilterError::Malformed(format!("{parameters:?}: {wrong}")))?;
    Ok(Recipient { notify, orcpt, ..Recipient::from(address) })
}

/// An address in angle brackets or without; one without a domain is of this host.
fn address(text: &str, hostname: &str) -> Result<Address, FilterError> {
    let bare = bare(text);
    let whole = match bare.contains('@') {
        true => bare.to_owned(),
        false => format!("{bare}@{hostname}"),
    };
    whole.parse().map_err(|wrong| FilterError::Malformed(format!("{text:?}: {wrong}")))
}

fn bare(text: &str) -> &str {
    let text = text.trim();
    text.strip_prefix('<').and_then(|text| text.strip_suffix('>')).unwrap_or(text)
}

/// Whether two addresses are the same, the domain in whatever case.
fn is_same(one: &Address, other: &Address) -> bool {
    one.local_part() == other.local_part() && one.domain().eq_ignore_ascii_case(other.domain())
}
