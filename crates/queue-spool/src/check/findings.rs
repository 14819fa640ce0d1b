//! What a check found, one by one, in words.

use std::path::Path;

use queue::LedgerError;
use serde::Serialize;

use super::{DamageReport, Report};
use crate::ledger::log::LedgerDamage;
use crate::place::Layout;

/// One thing that is not as it should be. Fields are stable: `grange spool check --json` prints this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file, below `spool`.
    pub file: String,
    /// Where in it, in bytes; nothing when it is about the file as a whole.
    pub offset: Option<u64>,
    /// The message concerned, when it is known.
    pub id: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What that means for mail, and what helps.
    pub means: String,
    /// Whether it is damage. All else is only worth knowing.
    pub damage: bool,
}

impl Finding {
    fn new(file: String, offset: Option<u64>, what: &str, means: &str) -> Self {
        let (what, means) = (what.to_owned(), means.to_owned());
        Self { file, offset, id: None, what, means, damage: true }
    }

    pub(super) fn of_ledger(layout: &Layout, damage: &LedgerDamage) -> Self {
        let means = match damage.may_be_torn {
            true => "a power cut may have left it; at most what was delivered then comes twice",
            false => "what it said there is forgotten: mail may be routed and delivered again",
        };
        let offset = (damage.bytes > 0).then_some(damage.offset);
        let file = below(layout, &layout.log(damage.log));
        Self { damage: !damage.may_be_torn, ..Self::new(file, offset, damage.what, means) }
    }

    pub(super) fn of_ledger_error(error: &LedgerError) -> Self {
        let means = "the scheduler does not start";
        Self::new("ledger".into(), None, &error.to_string(), means)
    }

    pub(super) fn of_log_head(layout: &Layout, log: u64) -> Self {
        let file = below(layout, &layout.log(log));
        Self::new(file, Some(0), "a bit of the log's head is wrong", "it is read all the same")
    }

    pub(super) fn of_padding(layout: &Layout, path: &Path, offset: u64) -> Self {
        Self::new(below(layout, path), Some(offset), "padding is not zero", "nobody reads it")
    }

    pub(super) fn of_torn_log(layout: &Layout, path: &Path, offset: u64) -> Self {
        let means = "the end of a write that a crash or a power cut tore, or the last frame is damaged: \
                     then what it said is forgotten, and mail may come twice";
        let what = "no frame there passes its checks, and nothing proves that one was on disk";
        Self { damage: false, ..Self::new(below(layout, path), Some(offset), what, means) }
    }

    pub(super) fn of_unused_log(layout: &Layout, path: &Path) -> Self {
        let means = "it holds nothing, and is written over when it is begun";
        let what = "a log that was made ready is not zero";
        Self { damage: false, ..Self::new(below(layout, path), Some(0), what, means) }
    }

    pub(super) fn of_small(layout: &Layout, path: &Path) -> Self {
        let means = "it is written anew at the next start";
        Self::new(below(layout, path), None, "its number fails its checksum", means)
    }

    pub(super) fn of_next(layout: &Layout, path: &Path, last: u64) -> Self {
        let means = "it is from another time than the segments; a higher number is taken";
        let what = format!("it is not above segment {last}");
        Self { damage: false, ..Self::new(below(layout, path), None, &what, means) }
    }

    pub(super) fn of_stranger(layout: &Layout, path: &Path) -> Self {
        let means = "it is ignored";
        let what = "no file of the queue";
        Self { damage: false, ..Self::new(below(layout, path), None, what, means) }
    }

    fn of_damage(file: &str, damage: &DamageReport) -> Self {
        let means = match (&damage.id, damage.torn_end) {
            (_, true) => "the end of a write that never got 250, unless the file is from a backup",
            (Some(_), _) => {
                "this message is not sent: it is held once it is routed, else listed as damaged"
            }
            (None, _) if damage.is_around => "no message is concerned",
            (None, _) => "messages that were there cannot be read; those that are routed are held",
        };
        let found = Self::new(file.to_owned(), Some(damage.offset), &damage.what, means);
        Self { id: damage.id.clone(), damage: !damage.torn_end, ..found }
    }
}

/// A path below the spool.
pub(crate) fn below(layout: &Layout, path: &Path) -> String {
    path.strip_prefix(layout.root()).unwrap_or(path).display().to_string()
}

/// Adds what the report says of segments, copies and bodies; in the order of files.
pub(super) fn collect(report: &mut Report) {
    let mut found = Vec::new();
    for segment in &report.segments {
        let file = match segment.segment.split_once('.') {
            Some((stripe, sequence)) => format!("intake/{stripe}/{sequence}.seg"),
            None => segment.segment.clone(),
        };
        found.extend(segment.damage.iter().map(|damage| Finding::of_damage(&file, damage)));
    }
    for moved in &report.moved {
        let Some(what) = &moved.damage else { continue };
        let file = match moved.moved.split_once('.') {
            Some((stripe, name)) => format!("intake/{stripe}/{name}.moved"),
            None => moved.moved.clone(),
        };
        let means = "this message is not sent: it is held once it is routed";
        found.push(Finding { id: moved.id.clone(), ..Finding::new(file, None, what, means) });
    }
    for body in &report.unnamed_bodies {
        let means = "a writer is at work on it, or died: then it is removed at the next start";
        let what = "no accept record names it";
        found.push(Finding { damage: false, ..Finding::new(body.clone(), None, what, means) });
    }
    report.findings.extend(found);
    report.findings.sort_by(|a, b| (&a.file, a.offset).cmp(&(&b.file, b.offset)));
}
