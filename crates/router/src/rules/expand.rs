//! From one recipient to the lanes it leads to: aliases, users, postmaster.

use std::collections::HashSet;
use std::sync::Arc;

use lookup::{Entry, Table, Target, Unavailable};
use mail::{Address, Reply};

use super::{
    ALIAS_LOOP, ALIAS_TOO_WIDE, Destination, NO_ROUTE, NO_USER, NOT_SUPPORTED, REJECTED, Rule,
    Rules,
};
use crate::explain::{Step, Trace};
use crate::host::host_of_domain;
use crate::mailbox::Mailbox;

/// One address that a recipient leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resolved {
    pub(super) address: Address,
    pub(super) place: Result<Place, Reply>,
}

/// A lane and a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) channel: String,
    pub(super) host: String,
    pub(super) user: String,
}

/// The expansion of one recipient.
#[derive(Default)]
struct Walk {
    resolved: Vec<Resolved>,
    /// Keys of the aliases that led here, from the recipient on.
    chain: Vec<String>,
    /// Keys that were expanded: what two aliases both lead to is expanded once.
    seen: HashSet<String>,
    /// How many targets were looked at.
    targets: usize,
    is_too_wide: bool,
}

/// An alias that was found: under which key, in which table, and what it says.
struct Alias<'a> {
    key: String,
    table: &'a dyn Table,
    entry: Arc<Entry>,
}

/// An address on its way through the rules.
struct Visit<'a> {
    address: &'a Address,
    mailbox: Mailbox,
    rule: &'a Rule,
}

impl Rules {
    /// Expands a recipient. It leads to at least one address; an alias that leads too far fails as a whole.
    pub(super) fn resolve(
        &self,
        address: &Address,
        trace: &mut Trace,
    ) -> Result<Vec<Resolved>, Unavailable> {
        let mut walk = Walk::default();
        if let Err(unavailable) = self.follow(address, &mut walk, trace) {
            trace.note(|| Step::Unavailable { table: unavailable.0.clone() });
            return Err(unavailable);
        }
        if walk.is_too_wide {
            walk.resolved.clear();
            let text = format!("the alias leads to more than {} addresses", self.recipients_max);
            walk.fail(address, Reply::ours(ALIAS_TOO_WIDE, text), trace);
        }
        Ok(walk.resolved)
    }

    fn follow(
        &self,
        address: &Address,
        walk: &mut Walk,
        trace: &mut Trace,
    ) -> Result<(), Unavailable> {
        let mailbox = Mailbox::of(address, &self.delimiters);
        let Some(rule) = self.find(&mailbox) else {
            trace.note(|| Step::NoRoute { address: address.clone() });
            let text = format!("no route to {}", mailbox.domain);
            walk.fail(address, Reply::ours(NO_ROUTE, text), trace);
            return Ok(());
        };
        trace.note(|| rule.step(address));
        if let Destination::Reject(text) = &rule.leads_to {
            walk.fail(address, Reply::ours(REJECTED, text.clone()), trace);
            return Ok(());
        }
        let visit = Visit { address, mailbox, rule };
        if self.aliases.is_empty() && walk.chain.is_empty() {
            return self.settle(&visit, walk, trace);
        }
        let key = visit.mailbox.key();
        // An alias that names itself means the mailbox behind it.
        if walk.chain.last() == Some(&key) {
            return self.settle(&visit, walk, trace);
        }
        if walk.chain.contains(&key) || walk.chain.len() > self.depth_max {
            let text =
                if walk.chain.contains(&key) { "alias loop" } else { "too many aliases in a row" };
            walk.fail(address, Reply::ours(ALIAS_LOOP, text), trace);
            return Ok(());
        }
        if !walk.seen.insert(key.clone()) {
            return Ok(());
        }
        match self.alias_of(&visit)? {
            None => {
                trace.note(|| Step::NoAlias { address: address.clone() });
                walk.chain.push(key);
                let settled = self.settle(&visit, walk, trace);
                walk.chain.pop();
                settled
            }
            Some(Alias { key: found, table, entry }) => {
                trace.note(|| Step::Alias {
                    address: address.clone(),
                    key: found,
                    table: table.name().to_owned(),
                    line: entry.line,
                    targets: entry.targets.iter().map(Target::to_string).collect(),
                });
                walk.chain.push(key);
                let followed = self.follow_targets(&visit, &entry, walk, trace);
                walk.chain.pop();
                followed
            }
        }
    }

    fn follow_targets(
        &self,
        visit: &Visit<'_>,
        entry: &Entry,
        walk: &mut Walk,
        trace: &mut Trace,
    ) -> Result<(), Unavailable> {
        for target in &entry.targets {
            walk.targets += 1;
            walk.is_too_wide |= walk.targets > self.recipients_max;
            if walk.is_too_wide {
                return Ok(());
            }
            let (name, is_mailbox) = match target {
                Target::Address(address) => {
                    self.follow(address, walk, trace)?;
                    continue;
                }
                Target::Unsupported(_) => {
                    let text = "the alias leads to a program or a file, which is not supported";
                    walk.fail(visit.address, Reply::ours(NOT_SUPPORTED, text), trace);
                    continue;
                }
                Target::Name(name) => (name, false),
                Target::Mailbox(name) => (name, true),
            };
            let Ok(address) = Address::parse(&format!("{name}@{}", visit.address.domain())) else {
                let text = format!("the alias leads to {name}, which is too long for its domain");
                walk.fail(visit.address, Reply::ours(NO_USER, text), trace);
                continue;
            };
            if is_mailbox {
                let mailbox = Mailbox::of(&address, &self.delimiters);
                if let Some(rule) = self.find(&mailbox) {
                    self.settle(&Visit { address: &address, mailbox, rule }, walk, trace)?;
                    continue;
                }
            }
            self.follow(&address, walk, trace)?;
        }
        Ok(())
    }

    /// Finds an alias: the whole address before the bare name, with detail before without; a domain's catch-all last, and not
    /// for those whom the route lists.
    fn alias_of(&self, visit: &Visit<'_>) -> Result<Option<Alias<'_>>, Unavailable> {
        if self.aliases.is_empty() {
            return Ok(None);
        }
        let Visit { mailbox, rule, .. } = visit;
        let mut keys = vec![mailbox.key()];
        if mailbox.has_detail() {
            keys.push(mailbox.base_key());
        }
        if rule.is_local {
            keys.push(mailbox.local.clone());
            if mailbox.has_detail() {
                keys.push(mailbox.base().to_owned());
            }
        }
        for key in keys {
            if let Some(alias) = self.alias(key)? {
                return Ok(Some(alias));
            }
        }
        let key = format!("@{}", mailbox.domain);
        match self.alias(key)? {
            Some(_) if rule.listed(mailbox)?.is_some() => Ok(None),
            found => Ok(found),
        }
    }

    fn alias(&self, key: String) -> Result<Option<Alias<'_>>, Unavailable> {
        for table in &self.aliases {
            if let Some(entry) = table.lookup(&key)? {
                return Ok(Some(Alias { key, table: &**table, entry }));
            }
        }
        Ok(None)
    }

    /// An address without alias: is it somebody's?
    fn settle(
        &self,
        visit: &Visit<'_>,
        walk: &mut Walk,
        trace: &mut Trace,
    ) -> Result<(), Unavailable> {
        let Visit { address, mailbox, rule } = visit;
        let is_postmaster = rule.is_local && mailbox.local == "postmaster";
        if rule.users.is_none() && !(is_postmaster && self.postmaster.is_some()) {
            walk.place(visit, mailbox.base(), trace);
            return Ok(());
        }
        if let Some(users) = &rule.users {
            let listed = rule.listed(mailbox)?;
            trace.note(|| Step::Users {
                address: (*address).clone(),
                table: users.name().to_owned(),
                listed: listed.as_ref().map(|(key, _)| key.clone()),
            });
            if let Some((_, user)) = listed {
                walk.place(visit, user, trace);
                return Ok(());
            }
        }
        if is_postmaster {
            return self.settle_postmaster(visit, walk, trace);
        }
        walk.fail(address, Reply::ours(NO_USER, "no such user"), trace);
        Ok(())
    }

    /// The postmaster of a domain of ours, whom neither alias nor list names: the setting's mailbox, or that of our first domain.
    fn settle_postmaster(
        &self,
        visit: &Visit<'_>,
        walk: &mut Walk,
        trace: &mut Trace,
    ) -> Result<(), Unavailable> {
        let note = |goes_to: &Address, trace: &mut Trace| {
            trace.note(|| Step::Postmaster {
                address: visit.address.clone(),
                goes_to: goes_to.clone(),
            });
        };
        if let Some(postmaster) = &self.postmaster {
            let mailbox = Mailbox::of(postmaster, &self.delimiters);
            if mailbox.key() != visit.mailbox.key() {
                note(postmaster, trace);
                return self.follow(postmaster, walk, trace);
            }
        }
        let home = self.home_postmaster.as_ref().unwrap_or(visit.address);
        let mailbox = Mailbox::of(home, &self.delimiters);
        note(home, trace);
        match self.find(&mailbox) {
            Some(rule) if rule.is_local => {
                let visit = Visit { address: home, mailbox, rule };
                walk.place(&visit, visit.mailbox.base(), trace);
            }
            _ => walk.place(visit, visit.mailbox.base(), trace),
        }
        Ok(())
    }
}

impl Rule {
    /// Looks a mailbox up in the route's users: under which key it is listed, and which user it is.
    fn listed<'a>(&self, mailbox: &'a Mailbox) -> Result<Option<(String, &'a str)>, Unavailable> {
        let Some(users) = &self.users else {
            return Ok(None);
        };
        let with_detail =
            [(mailbox.key(), mailbox.local.as_str()), (mailbox.local.clone(), &mailbox.local)];
        let without =
            [(mailbox.base_key(), mailbox.base()), (mailbox.base().to_owned(), mailbox.base())];
        let without = without.into_iter().filter(|_| mailbox.has_detail());
        for (key, user) in with_detail.into_iter().chain(without) {
            if users.lookup(&key)?.is_some() {
                return Ok(Some((key, user)));
            }
        }
        Ok(None)
    }
}

impl Walk {
    fn place(&mut self, visit: &Visit<'_>, user: &str, trace: &mut Trace) {
        let Visit { address, mailbox, rule } = visit;
        let Destination::Channel { name, has_hosts, host } = &rule.leads_to else {
            unreachable!("a route that rejects has been dealt with before users are asked");
        };
        let place = Place {
            channel: name.clone(),
            host: match host {
                Some(host) => host.clone(),
                None if *has_hosts => host_of_domain(&mailbox.domain),
                None => String::new(),
            },
            user: if *has_hosts { address.as_str().to_owned() } else { user.to_owned() },
        };
        trace.note(|| Step::Place {
            address: (*address).clone(),
            channel: place.channel.clone(),
            host: place.host.clone(),
            user: place.user.clone(),
        });
        self.resolved.push(Resolved { address: (*address).clone(), place: Ok(place) });
    }

    fn fail(&mut self, address: &Address, reply: Reply, trace: &mut Trace) {
        trace.note(|| Step::Fail { address: address.clone(), reply: reply.clone() });
        self.resolved.push(Resolved { address: address.clone(), place: Err(reply) });
    }
}
