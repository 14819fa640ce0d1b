//! The kinds of filters, and where each is plugged in: one row of each table below for a kind.
//!
//! A kind is told by the key that an entry of `filters` has. Its module has a function `check` of its settings, and `make`,
//! which gives a [`Filter`]; [`Kind::steps`] says what it wants to hear of early.

use std::rc::Rc;

use config::Problem;
use job::inspect::Steps;

use crate::filter::Filter;
use crate::settings::FilterSetting;
use crate::{authentication, clamd, milter, rules, signing};

/// What a filter may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Rule,
    Milter,
    Rspamd,
    Clamd,
    Authentication,
    DkimSign,
    ArcSeal,
}

/// What filters are made with, beside their own settings.
#[derive(Clone)]
pub(crate) struct Setup {
    /// What the filter is called, in logs and reasons.
    pub(crate) name: String,
    /// Our own name.
    pub(crate) hostname: String,
    /// Our name in Authentication-Results: what the last `authentication` up to here says.
    pub(crate) authserv_id: String,
    /// What looks names up, with its cache; one for all filters of a worker.
    pub(crate) resolver: Rc<dns::Resolver>,
}

impl Kind {
    /// Of which kind an entry is. `key` is where it stands.
    pub(crate) fn of(setting: &FilterSetting, key: &str) -> Result<Self, Problem> {
        let kinds = [
            (setting.milter.is_some(), Self::Milter),
            (setting.rspamd.is_some(), Self::Rspamd),
            (setting.clamd.is_some(), Self::Clamd),
            (setting.authentication.is_some(), Self::Authentication),
            (setting.dkim_sign.is_some(), Self::DkimSign),
            (setting.arc_seal.is_some(), Self::ArcSeal),
        ];
        let mut present = kinds.into_iter().filter_map(|(is_there, kind)| is_there.then_some(kind));
        let Some(kind) = present.next() else {
            return match setting.rule_keys().next() {
                Some(_) => Ok(Self::Rule),
                None => Err(Problem::new(key, "says no message that it is for", WHAT_IT_IS)),
            };
        };
        let other = present.next().map(Self::key);
        let rule_key = || setting.rule_keys().next();
        if let Some(other) = other.or_else(rule_key) {
            let wrong = format!("this filter is of kind {} already", kind.key());
            return Err(Problem::new(
                format!("{key}.{other}"),
                wrong,
                "a filter of its own for each",
            ));
        }
        Ok(kind)
    }

    /// The key that tells it.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Milter => "milter",
            Self::Rspamd => "rspamd",
            Self::Clamd => "clamd",
            Self::Authentication => "authentication",
            Self::DkimSign => "dkim_sign",
            Self::ArcSeal => "arc_seal",
        }
    }

    /// Whether `action` says what it does; the others decide by themselves.
    fn takes_action(self) -> bool {
        matches!(self, Self::Rule | Self::Clamd)
    }

    /// Checks an entry of this kind.
    pub(crate) fn check(self, setting: &FilterSetting, key: &str) -> Result<(), Problem> {
        if setting.action.is_some() && !self.takes_action() {
            let wrong = format!("{} decides by itself", self.key());
            return Err(Problem::new(format!("{key}.action"), wrong, "no action"));
        }
        let wants = [("steps", setting.steps.is_some()), ("reuse", setting.reuse)];
        if let Some((wanted, _)) = wants.into_iter().find(|(_, is_wanted)| *is_wanted)
            && !matches!(self, Self::Milter | Self::Rspamd)
        {
            let wrong = format!("{} is no milter", self.key());
            return Err(Problem::new(format!("{key}.{wanted}"), wrong, format!("no {wanted}")));
        }
        let at = format!("{key}.{}", self.key());
        match self {
            Self::Rule => rules::check(setting, key),
            Self::Milter | Self::Rspamd => milter::check(setting, key),
            Self::Clamd => clamd::check(setting, key),
            Self::Authentication => authentication::check(setting, &at),
            Self::DkimSign | Self::ArcSeal => signing::check(setting, &at),
        }
    }

    /// The early steps that it wants to hear of as they happen.
    pub(crate) fn steps(self, setting: &FilterSetting) -> Steps {
        match self {
            Self::Milter | Self::Rspamd => milter::steps(setting),
            Self::Rule | Self::Clamd | Self::Authentication | Self::DkimSign | Self::ArcSeal => {
                Steps::NONE
            }
        }
    }

    /// Makes it ready; the error says what is wrong.
    pub(crate) fn make(
        self,
        setting: &FilterSetting,
        setup: &Setup,
    ) -> Result<Rc<dyn Filter>, String> {
        match self {
            Self::Rule => rules::make(setting, setup),
            Self::Milter | Self::Rspamd => milter::make(setting, setup),
            Self::Clamd => clamd::make(setting, setup),
            Self::Authentication => authentication::make(setting, setup),
            Self::DkimSign | Self::ArcSeal => signing::make(setting, setup),
        }
    }
}

/// The kind of each filter, and what it is called: as its entry says, else by its kind, from the second of a kind on with its number among
/// them. Where another bears that name, by its place.
pub(crate) fn named(filters: &[FilterSetting]) -> Result<Vec<(Kind, String)>, Problem> {
    let given: Vec<&str> = filters.iter().filter_map(|setting| setting.name.as_deref()).collect();
    let mut kinds: Vec<Kind> = Vec::with_capacity(filters.len());
    let mut named = Vec::with_capacity(filters.len());
    for (index, setting) in filters.iter().enumerate() {
        let place = format!("filters[{index}]");
        let kind = Kind::of(setting, &place)?;
        let name = setting.name.clone().unwrap_or_else(|| {
            let name = match kinds.iter().filter(|other| **other == kind).count() {
                0 => kind.key().to_owned(),
                before => format!("{}-{}", kind.key(), before + 1),
            };
            if given.contains(&&*name) { place } else { name }
        });
        kinds.push(kind);
        named.push((kind, name));
    }
    Ok(named)
}

/// What tells a filter.
const WHAT_IT_IS: &str = "header, body, attachment, attachment_type, size_over or recipient, or one of milter, rspamd, clamd, \
    authentication, dkim_sign, arc_seal";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_without_names_are_called_by_their_kinds() {
        let settings: crate::Settings = toml::from_str(
            r#"filters = [
              { header = "X-A", action = "discard" },
              { clamd = "unix:/a" },
              { name = "mine", header = "X-B", action = "discard" },
              { clamd = "unix:/b" },
              { header = "X-C", action = "discard" },
              { name = "clamd-3", size_over = "1MiB", action = "discard" },
              { clamd = "unix:/c" },
            ]"#,
        )
        .expect("settings");
        let named = named(&settings.filters).expect("filters of kinds");
        let names: Vec<&str> = named.iter().map(|(_, name)| &**name).collect();
        assert_eq!(names, ["rule", "clamd", "mine", "clamd-2", "rule-3", "clamd-3", "filters[6]"]);
    }
}
