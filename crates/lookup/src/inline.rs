//! A table in the configuration itself.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::text::{canonical, parse_targets};
use crate::{Content, Entry, Kind, OneOrMany, Refreshed, Table, TableError, Unavailable};

/// A table whose entries stand in the configuration. It never changes.
#[derive(Debug)]
pub struct InlineTable {
    content: Content,
    /// Whether its warnings have been told.
    told: AtomicBool,
}

impl InlineTable {
    /// A table of keys without values.
    pub fn of_keys(keys: &[String]) -> Self {
        let entry = Arc::new(Entry { line: 0, targets: Vec::new() });
        let entries = keys.iter().map(|key| (canonical(key), Arc::clone(&entry))).collect();
        let domain = |key: &String| Some(canonical(key).rsplit_once('@')?.1.to_owned());
        let domains = keys.iter().filter_map(domain).collect();
        let content = Content { entries, domains, warnings: Vec::new() };
        Self { content, told: AtomicBool::new(false) }
    }

    /// A table of keys with values.
    pub fn of_map(map: &BTreeMap<String, OneOrMany>, kind: Kind) -> Result<Self, TableError> {
        let mut content = Content::default();
        for (key, values) in map {
            let malformed = |wrong: String| TableError::Malformed {
                place: format!("inline table, key {}", key.escape_debug()),
                wrong,
            };
            let targets = match kind {
                Kind::Keys => Vec::new(),
                Kind::Aliases => parse_targets(values.as_slice()).map_err(malformed)?,
            };
            content.add(0, key, kind, targets).map_err(malformed)?;
        }
        Ok(Self { content, told: AtomicBool::new(false) })
    }
}

impl Table for InlineTable {
    fn name(&self) -> &str {
        "inline"
    }

    fn lookup(&self, key: &str) -> Result<Option<Arc<Entry>>, Unavailable> {
        let entries = &self.content.entries;
        Ok(match entries.get(key) {
            Some(entry) => Some(Arc::clone(entry)),
            None => entries.get(&canonical(key)).cloned(),
        })
    }

    fn may_name(&self, domain: &str) -> bool {
        self.content.domains.contains(domain)
    }

    fn refresh(&self) -> Refreshed {
        if self.told.swap(true, Ordering::Relaxed) {
            return Refreshed::Unchanged;
        }
        let warning = |(_, text): &(usize, String)| format!("inline table: {text}");
        let warnings = self.content.warnings.iter().map(warning).collect();
        Refreshed::Read { entries: self.content.entries.len(), warnings }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance;

    #[test]
    fn conforms() {
        conformance::check(&|entries, kind| {
            let one = |value: &str| OneOrMany::One(value.to_owned());
            let table = match kind {
                Kind::Keys => {
                    let keys: Vec<_> = entries.iter().map(|(key, _)| (*key).to_owned()).collect();
                    InlineTable::of_keys(&keys)
                }
                Kind::Aliases => {
                    let map = entries.iter().map(|(key, value)| ((*key).to_owned(), one(value)));
                    InlineTable::of_map(&map.collect(), kind).expect("the suite's entries are good")
                }
            };
            assert!(
                matches!(table.refresh(), Refreshed::Read { entries: n, .. } if n == entries.len())
            );
            Arc::new(table)
        });
    }

    #[test]
    fn a_bad_entry_names_its_key() {
        let map = BTreeMap::from([("info".to_owned(), OneOrMany::One("a b".to_owned()))]);
        let error = InlineTable::of_map(&map, Kind::Aliases).expect_err("a b is no address");
        assert!(error.to_string().starts_with("inline table, key info: \"a b\" is neither"));
    }
}
