//! What a filter's verdicts come to for a whole message.

use job::inspect::{InspectAnswer, Refusal, Verdict};
use mail::Recipient;
use smtp::server::Reply;

use crate::settings::Mixed;

/// What is done with a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is stored for the recipients that are left, some of which may be held; a hold may be on all of it.
    Take { recipients: Vec<Recipient>, hold: Option<String> },
    /// Nothing is stored, and the client hears this.
    Refuse(Reply),
    /// Nothing is stored, and the client hears `250`.
    Discard,
}

/// Decides by the verdicts on single recipients, and the one on the message for all others. Recipients that a filter removed have no
/// say; those that it added are as all others.
///
/// Any that says "later" puts it off for all; only if all reject is it refused; what is mixed is taken, and those who reject are
/// held, or by setting it is refused.
pub(crate) fn decide(answer: &InspectAnswer, recipients: Vec<Recipient>, mixed: Mixed) -> Decision {
    let verdict_on = |place: usize| {
        let own = answer.recipients.iter().rev().find(|(of, _)| *of as usize == place);
        own.map_or(&answer.verdict, |(_, verdict)| verdict)
    };
    let is_removed = |place: usize| answer.remove.iter().any(|of| *of as usize == place);
    let kept = recipients.into_iter().enumerate().filter(|(place, _)| !is_removed(*place));
    let (mut recipients, mut verdicts): (Vec<Recipient>, Vec<&Verdict>) =
        kept.map(|(place, recipient)| (recipient, verdict_on(place))).unzip();
    for added in &answer.add {
        if !recipients.iter().any(|recipient| recipient.address == added.address) {
            recipients.push(added.clone());
            verdicts.push(&answer.verdict);
        }
    }
    // A filter removed all of them, and another has a say still.
    if verdicts.is_empty() {
        verdicts.push(&answer.verdict);
    }
    let tempfail = verdicts.iter().find_map(|verdict| match verdict {
        Verdict::Tempfail(refusal) => Some(refusal),
        _ => None,
    });
    if let Some(refusal) = tempfail {
        return Decision::Refuse(reply(refusal, 451, 4));
    }
    let mut rejects = verdicts.iter().filter_map(|verdict| match verdict {
        Verdict::Reject(refusal) => Some(refusal),
        _ => None,
    });
    if let Some(first) = rejects.next()
        && (mixed == Mixed::Reject || rejects.count() + 1 == verdicts.len())
    {
        return Decision::Refuse(reply(first, 554, 5));
    }
    let one_hold = match &answer.verdict {
        Verdict::Quarantine { reason } if answer.recipients.is_empty() => Some(reason.clone()),
        _ => None,
    };
    let held = one_hold.is_some();
    let left: Vec<Recipient> = recipients
        .into_iter()
        .zip(verdicts)
        .filter_map(|(recipient, verdict)| match verdict {
            Verdict::Discard => None,
            Verdict::Quarantine { reason } if !held => {
                Some(Recipient { hold: Some(reason.clone()), ..recipient })
            }
            Verdict::Reject(refusal) => {
                let reason = format!("rejected by a filter: {}", refusal.text.replace('\n', " "));
                Some(Recipient { hold: Some(reason), ..recipient })
            }
            _ => Some(recipient),
        })
        .collect();
    match left.is_empty() {
        true => Decision::Discard,
        false => Decision::Take { recipients: left, hold: one_hold },
    }
}

/// A refusal as a reply; a code of another class than the verdict's is a fault of the filter and is mended. The session goes on, so
/// that 421 is none of its replies.
pub(crate) fn reply(refusal: &Refusal, fallback: u16, class: u16) -> Reply {
    let is_fit = refusal.code / 100 == class && refusal.code != 421;
    let code = if is_fit { refusal.code } else { fallback };
    let lines: Vec<_> = refusal.text.split('\n').map(mail::header::sanitise).collect();
    Reply::new(code, refusal.status.subject, refusal.status.detail, lines.join("\n"))
}

#[cfg(test)]
mod tests;
