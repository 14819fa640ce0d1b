//! What the filters come to together.

use std::collections::{BTreeMap, BTreeSet};

use job::inspect::{Refusal, Verdict};
use mail::{Address, Recipient, StatusCode};

use crate::filter::{FilterError, Finding};
use crate::settings::OnFailure;

const CANNOT_LOOK: StatusCode = StatusCode::new(4, 3, 0);

/// What the filters say of a message or a step, all together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Judgement {
    /// What ended the walk; accept when nothing did.
    decided: Verdict,
    /// The filter that ended it or held the message.
    pub(crate) by: Option<String>,
    /// Why the message is to be held.
    hold: Option<String>,
    /// Single recipients, by their places in the envelope.
    recipients: BTreeMap<u32, Verdict>,
    pub(crate) sender: Option<Option<Address>>,
    pub(crate) add: Vec<Recipient>,
    pub(crate) remove: BTreeSet<u32>,
    /// Filters that could not be asked, and why.
    pub(crate) failures: Vec<String>,
}

impl Default for Judgement {
    fn default() -> Self {
        Self {
            decided: Verdict::Accept,
            by: None,
            hold: None,
            recipients: BTreeMap::new(),
            sender: None,
            add: Vec::new(),
            remove: BTreeSet::new(),
            failures: Vec::new(),
        }
    }
}

impl Judgement {
    /// Takes what a filter found; says whether the next is asked. The first who decides on a recipient is right, and so is the first who
    /// decides on all.
    pub(crate) fn take(&mut self, name: &str, finding: Finding) -> bool {
        for (place, verdict) in finding.recipients {
            let is_open =
                matches!(self.recipients.get(&place), None | Some(Verdict::Quarantine { .. }));
            if is_open {
                self.recipients.insert(place, verdict);
            }
        }
        if finding.sender.is_some() {
            self.sender = finding.sender;
        }
        self.add.retain(|added| !finding.retract.contains(&added.address));
        self.add.extend(finding.add);
        self.remove.extend(finding.remove);
        match finding.verdict {
            Verdict::Accept => !finding.is_last,
            Verdict::Quarantine { reason } => {
                if self.hold.is_none() {
                    self.hold = Some(reason);
                    self.by = Some(name.to_owned());
                }
                !finding.is_last
            }
            verdict => {
                self.decided = verdict;
                self.by = Some(name.to_owned());
                false
            }
        }
    }

    /// Takes that a filter could not be asked, by its rule; says whether the next is asked.
    pub(crate) fn fail(&mut self, name: &str, rule: OnFailure, error: &FilterError) -> bool {
        self.failures.push(format!("{name}: {error}"));
        self.take(name, Finding::from(of_failure(name, rule)))
    }

    /// The verdict for all of whom nothing else is said.
    pub(crate) fn verdict(&self) -> Verdict {
        match (&self.decided, &self.hold) {
            (Verdict::Accept, Some(reason)) => Verdict::Quarantine { reason: reason.clone() },
            (decided, _) => decided.clone(),
        }
    }

    /// The verdicts for single recipients, where they differ from the one for all.
    pub(crate) fn recipients(&self) -> Vec<(u32, Verdict)> {
        let verdict = self.verdict();
        let own = self.recipients.iter().filter(|(_, own)| match own {
            // Who was accepted beforehand is still held with the message.
            Verdict::Accept => !matches!(verdict, Verdict::Quarantine { .. } | Verdict::Accept),
            own => **own != verdict,
        });
        own.map(|(place, own)| (*place, own.clone())).collect()
    }

    /// Whether it is decided on each of so many recipients, so that nobody else needs be asked.
    pub(crate) fn is_decided(&self, recipients: usize) -> bool {
        let decided = self.recipients.values();
        let decided = decided.filter(|verdict| !matches!(verdict, Verdict::Quarantine { .. }));
        recipients > 0 && decided.count() == recipients
    }
}

/// What the failure of a filter comes to, by its rule.
pub(crate) fn of_failure(name: &str, rule: OnFailure) -> Verdict {
    match rule {
        OnFailure::Accept => Verdict::Accept,
        OnFailure::Tempfail => Verdict::Tempfail(Refusal {
            code: 451,
            status: CANNOT_LOOK,
            text: "message content cannot be looked at now".to_owned(),
        }),
        OnFailure::Quarantine => {
            Verdict::Quarantine { reason: format!("{name} could not look at the message") }
        }
    }
}
