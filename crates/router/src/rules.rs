//! The settings made ready: decisions over tables in memory.
//!
//! ```text
//! recipient ─▶ route of its domain or address? ─▶ may this client? (verify only) ─▶ alias? ──no──▶ listed in users? ─▶ lane
//!                     │ none, or reject              │ no                            └─yes: each target anew │ no
//!                     ▼                              ▼                                                       ▼
//!                  fails                        554 5.7.1                                          postmaster, or fails
//! ```

mod expand;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use job::verify::{Client, Verified, VerifyReply};
use lookup::{Kind, Refreshed, Table, TableError, Unavailable};
use mail::{Address, Envelope, Notify, Recipient, Reply, StatusCode};
use queue::{Attempt, RoutedRecipient, State};

use self::expand::{Place, Resolved};
use crate::explain::{Step, Trace};
use crate::mailbox::Mailbox;
use crate::settings::{From, RouteSetting, Settings};
use crate::{Assignment, Channel, HostError, normalise_host};

/// Everything that decides where mail goes. Answers from memory; nothing here waits.
pub struct Rules {
    routes: Vec<Rule>,
    index: Index,
    aliases: Vec<Arc<dyn Table>>,
    delimiters: String,
    /// This system's name.
    hostname: String,
    postmaster: Option<Address>,
    /// The address of a bare `postmaster`.
    home_postmaster: Option<Address>,
    depth_max: usize,
    recipients_max: usize,
    message_recipients_max: usize,
}

/// A route made ready.
struct Rule {
    position: usize,
    subject: String,
    leads_to: Destination,
    users: Option<Arc<dyn Table>>,
    from: From,
    /// Whether its domain is ours.
    is_local: bool,
}

enum Destination {
    Channel { name: String, has_hosts: bool, host: Option<String> },
    Reject(String),
}

/// Finds the first route that matches without asking each: by what it is for, the lowest position.
#[derive(Default)]
struct Index {
    addresses: HashMap<String, usize>,
    /// The domains of those.
    addressed: HashSet<String>,
    domains: HashMap<String, usize>,
    below: HashMap<String, usize>,
    everything: Option<usize>,
}

/// Why rules could not be made ready.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A table cannot be used.
    #[error("{key}: {error}")]
    Table {
        /// Where it is named: `router.aliases[0]`.
        key: String,
        /// Why.
        error: TableError,
    },
    /// A route names a channel that is not configured.
    #[error("{key}: there is no channel {channel}")]
    Channel {
        /// Which route.
        key: String,
        /// The channel.
        channel: String,
    },
    /// A route's host is not one.
    #[error("{key}")]
    Host {
        /// Which route.
        key: String,
        /// What is wrong.
        #[source]
        source: HostError,
    },
    /// A route's address is not one.
    #[error("{key}: malformed")]
    Address {
        /// Which route.
        key: String,
        /// What is wrong.
        #[source]
        source: mail::AddressError,
    },
}

impl Rules {
    /// Makes the rules of an assignment ready, with tables that are not read yet: until [`Rules::refresh`], whoever asks for
    /// what they hold is told to come again.
    pub fn new(assignment: &Assignment) -> Result<Self, LoadError> {
        let settings = &assignment.settings;
        let mut rules = Self {
            routes: Vec::with_capacity(settings.routes.len()),
            index: Index::default(),
            aliases: Vec::with_capacity(settings.aliases.len()),
            delimiters: settings.recipient_delimiter.clone(),
            hostname: assignment.hostname.clone(),
            postmaster: settings.postmaster.clone(),
            home_postmaster: home_postmaster(settings, &assignment.hostname),
            depth_max: settings.alias_depth_max,
            recipients_max: settings.alias_recipients_max,
            message_recipients_max: settings.message_recipients_max,
        };
        for (position, source) in settings.aliases.iter().enumerate() {
            let key = format!("router.aliases[{position}]");
            let table = lookup::table(source, Kind::Aliases);
            rules.aliases.push(table.map_err(|error| LoadError::Table { key, error })?);
        }
        for (position, route) in settings.routes.iter().enumerate() {
            let rule = Rule::new(position, route, &assignment.channels)?;
            rules.index.add(position, route, &rules.delimiters)?;
            rules.routes.push(rule);
        }
        Ok(rules)
    }

    /// Makes the rules of an assignment ready and reads every table. **Blocks.** Also gives what is legal but hardly meant.
    pub fn load(assignment: &Assignment) -> Result<(Self, Vec<String>), LoadError> {
        let rules = Self::new(assignment)?;
        let mut warnings = Vec::new();
        for table in rules.tables() {
            match table.refresh() {
                Refreshed::Unchanged => {}
                Refreshed::Read { warnings: more, .. } => warnings.extend(more),
                Refreshed::Failed(error) => {
                    return Err(LoadError::Table { key: "router".to_owned(), error });
                }
            }
        }
        if let Some(home) = &rules.home_postmaster {
            let client = Client { address: None, may_relay: true };
            if let Verified::Unknown(reply) = rules.verify(home, &client) {
                warnings.push(format!("mail for postmaster ({home}) fails: {}", reply.text));
            }
        }
        Ok((rules, warnings))
    }

    /// Every table that is asked, each once.
    pub(crate) fn tables(&self) -> Vec<Arc<dyn Table>> {
        let users = self.routes.iter().filter_map(|rule| rule.users.clone());
        self.aliases.iter().cloned().chain(users).collect()
    }

    /// Says whether a recipient may be accepted from a client, and in which words not.
    pub fn verify(&self, recipient: &Address, client: &Client) -> Verified {
        self.verify_watched(recipient, client, &mut Trace::silent())
    }

    fn verify_watched(&self, recipient: &Address, client: &Client, trace: &mut Trace) -> Verified {
        let address = self.with_domain(recipient);
        let mailbox = Mailbox::of(&address, &self.delimiters);
        // A bare postmaster is ours, wherever its mail goes.
        let is_ours = matches!(address, Cow::Owned(_));
        let denied = || Verified::RelayDenied(reply(554, RELAY_DENIED, "relay access denied"));
        match self.find(&mailbox) {
            None if client.may_relay => {
                Verified::Unknown(reply(550, NO_ROUTE, &format!("no route to {}", mailbox.domain)))
            }
            None => denied(),
            Some(Rule { leads_to: Destination::Reject(text), .. }) => {
                Verified::RelayDenied(reply(550, REJECTED, text))
            }
            Some(rule) if rule.from == From::Clients && !client.may_relay && !is_ours => denied(),
            Some(_) => match self.resolve(&address, trace) {
                Err(_) => Verified::Tempfail(reply(451, UNAVAILABLE, "try again later")),
                Ok(resolved) => verdict_of(&address, &resolved),
            },
        }
    }

    /// Whether a recipient that is deliverable is so by its domain alone, which is not ours: then every address of that is, for such
    /// a client.
    pub fn is_judged_by_domain(&self, recipient: &Address) -> bool {
        let mailbox = Mailbox::of(recipient, &self.delimiters);
        let domain = mailbox.domain.as_str();
        // Its postmaster is judged as another address.
        if domain.is_empty() || domain.eq_ignore_ascii_case(&self.hostname) {
            return false;
        }
        self.find(&mailbox).is_some_and(|rule| !rule.is_local && rule.users.is_none())
            && !self.index.addressed.contains(domain)
            && !self.aliases.iter().any(|table| table.may_name(domain))
    }

    /// Decides for every recipient of an envelope: numbered from 0 in a stable order, each mailbox once. What cannot be
    /// routed comes with state `failed`, for the scheduler to report. Fails only while a table is not available.
    pub fn route(&self, envelope: &Envelope) -> Result<Vec<RoutedRecipient>, Unavailable> {
        let mut routed = Vec::with_capacity(envelope.recipients.len());
        let mut merge = Merge::default();
        for recipient in &envelope.recipients {
            let address = self.with_domain(&recipient.address);
            let mut resolved = self.resolve(&address, &mut Trace::silent())?;
            if routed.len() + resolved.len() > self.message_recipients_max {
                let reply = Reply::ours(TOO_MANY, "too many recipients after alias expansion");
                resolved = vec![Resolved { address: address.into_owned(), place: Err(reply) }];
            }
            if let ([_], [_]) = (envelope.recipients.as_slice(), resolved.as_slice()) {
                // Nearly every message: there is nothing to merge.
                routed.extend(resolved.into_iter().map(|one| self.routed(recipient, one)));
                return Ok(routed);
            }
            for resolved in resolved {
                merge.add(&mut routed, self.routed(recipient, resolved));
            }
        }
        Ok(routed)
    }

    /// Shows every decision about an address, with what any client and one that may relay are told at RCPT.
    pub fn explain(&self, address: &Address, sender: Option<&Address>) -> Vec<Step> {
        let mut trace = Trace::recording();
        let mailbox = Mailbox::of(address, &self.delimiters);
        trace.note(|| Step::Address {
            address: address.clone(),
            local_part: mailbox.local.clone(),
            without_detail: mailbox.has_detail().then(|| mailbox.base().to_owned()),
            domain: mailbox.domain.clone(),
        });
        if let Cow::Owned(taken_as) = self.with_domain(address) {
            trace.note(|| Step::Domain { address: address.clone(), taken_as });
        }
        if let Some(sender) = sender {
            trace.note(|| Step::Sender { sender: sender.clone() });
        }
        let client = |may_relay| Client { address: None, may_relay };
        // Watched are the ways that mail would take, whoever sends it; the verdicts follow.
        let _ = self.resolve(&self.with_domain(address), &mut trace);
        for may_relay in [false, true] {
            let verdict = self.verify(address, &client(may_relay));
            trace.note(|| Step::Verdict { may_relay, verdict });
        }
        trace.into_steps()
    }

    /// A bare `postmaster` gets a domain, and so does that of this system's name, from which our reports come, unless a route is
    /// for that name (RFC 5321 section 4.5.1).
    fn with_domain<'a>(&self, address: &'a Address) -> Cow<'a, Address> {
        match &self.home_postmaster {
            Some(home) if address.domain().is_empty() || self.is_our_postmaster(address) => {
                Cow::Owned(home.clone())
            }
            _ => Cow::Borrowed(address),
        }
    }

    fn is_our_postmaster(&self, address: &Address) -> bool {
        if !address.domain().eq_ignore_ascii_case(&self.hostname) {
            return false;
        }
        let mailbox = Mailbox::of(address, &self.delimiters);
        let found = self.index.find(&mailbox);
        mailbox.local == "postmaster" && (found.is_none() || found == self.index.everything)
    }

    fn find(&self, mailbox: &Mailbox) -> Option<&Rule> {
        self.index.find(mailbox).and_then(|position| self.routes.get(position))
    }

    fn routed(&self, recipient: &Recipient, resolved: Resolved) -> RoutedRecipient {
        let (place, state) = match resolved.place {
            Err(reply) => (Place::default(), State::Failed(reply)),
            Ok(place) => match &recipient.hold {
                None => (place, State::default()),
                Some(reason) => {
                    (place, State::Held { reason: reason.clone(), then: Attempt::default() })
                }
            },
        };
        let original = (resolved.address != recipient.address).then(|| recipient.address.clone());
        RoutedRecipient {
            index: 0,
            address: resolved.address,
            original,
            orcpt: recipient.orcpt.clone(),
            notify: recipient.notify,
            channel: place.channel,
            host: place.host,
            user: place.user,
            state,
        }
    }
}

const NO_ROUTE: StatusCode = StatusCode::new(5, 1, 2);
const NO_USER: StatusCode = StatusCode::new(5, 1, 1);
const RELAY_DENIED: StatusCode = StatusCode::new(5, 7, 1);
const REJECTED: StatusCode = StatusCode::new(5, 7, 1);
const UNAVAILABLE: StatusCode = StatusCode::new(4, 3, 0);
const TOO_MANY: StatusCode = StatusCode::new(5, 5, 3);
const ALIAS_LOOP: StatusCode = StatusCode::new(5, 4, 6);
const ALIAS_TOO_WIDE: StatusCode = StatusCode::new(5, 2, 4);
const NOT_SUPPORTED: StatusCode = StatusCode::new(5, 3, 5);

fn reply(code: u16, status: StatusCode, text: &str) -> VerifyReply {
    VerifyReply { code, status, text: text.to_owned() }
}

/// A recipient is refused at RCPT only when nothing that it leads to can be delivered.
fn verdict_of(address: &Address, resolved: &[Resolved]) -> Verified {
    match resolved.first() {
        Some(Resolved { place: Err(first), .. })
            if resolved.iter().all(|one| one.place.is_err()) =>
        {
            Verified::Unknown(reply(550, first.status, &format!("<{address}>: {}", first.text)))
        }
        _ => Verified::Deliverable,
    }
}

/// The address of a bare `postmaster`: of our first domain; else the setting; else of this system's name.
fn home_postmaster(settings: &Settings, hostname: &str) -> Option<Address> {
    let at = |domain: &str| Address::parse(&format!("postmaster@{domain}")).ok();
    settings.home().and_then(at).or_else(|| settings.postmaster.clone()).or_else(|| at(hostname))
}

impl Rule {
    fn new(position: usize, route: &RouteSetting, channels: &[Channel]) -> Result<Self, LoadError> {
        let key = format!("router.routes[{position}]");
        let leads_to = match (&route.reject, &route.channel) {
            (Some(text), _) => Destination::Reject(text.clone()),
            (None, name) => {
                let name = name.clone().unwrap_or_default();
                let Some(channel) = channels.iter().find(|channel| channel.name == name) else {
                    return Err(LoadError::Channel { key, channel: name });
                };
                let host = match &route.host {
                    Some(host) if channel.hosts => Some(
                        normalise_host(host)
                            .map_err(|source| LoadError::Host { key: key.clone(), source })?,
                    ),
                    other => other.clone(),
                };
                Destination::Channel { name, has_hosts: channel.hosts, host }
            }
        };
        let users = match &route.users {
            None => None,
            Some(source) => Some(
                lookup::table(source, Kind::Keys)
                    .map_err(|error| LoadError::Table { key: format!("{key}.users"), error })?,
            ),
        };
        Ok(Self {
            position,
            subject: route.subject().to_owned(),
            leads_to,
            users,
            from: route.from(),
            is_local: route.is_local(),
        })
    }

    fn step(&self, address: &Address) -> Step {
        let leads_to = match &self.leads_to {
            Destination::Channel { name, .. } => format!("channel {name}"),
            Destination::Reject(_) => "reject".to_owned(),
        };
        Step::Route {
            address: address.clone(),
            index: self.position,
            matches: self.subject.clone(),
            leads_to,
        }
    }
}

impl Index {
    fn add(
        &mut self,
        position: usize,
        route: &RouteSetting,
        delimiters: &str,
    ) -> Result<(), LoadError> {
        if let Some(text) = &route.address {
            let key = format!("router.routes[{position}].address");
            let address =
                Address::parse(text).map_err(|source| LoadError::Address { key, source })?;
            let mailbox = Mailbox::of(&address, delimiters);
            self.addresses.entry(mailbox.key()).or_insert(position);
            self.addressed.insert(mailbox.domain);
            return Ok(());
        }
        let domain = route.subject().to_ascii_lowercase();
        match domain.strip_prefix("*.") {
            _ if domain == "*" => {
                self.everything.get_or_insert(position);
            }
            Some(parent) => {
                self.below.entry(parent.to_owned()).or_insert(position);
            }
            None => {
                self.domains.entry(domain).or_insert(position);
            }
        }
        Ok(())
    }

    fn find(&self, mailbox: &Mailbox) -> Option<usize> {
        let mut first = self.everything;
        let mut consider = |found: Option<&usize>| {
            if let Some(&position) = found {
                first = Some(first.map_or(position, |first| first.min(position)));
            }
        };
        consider(self.domains.get(&mailbox.domain));
        if !self.addresses.is_empty() {
            consider(self.addresses.get(&mailbox.key()));
            if mailbox.has_detail() {
                consider(self.addresses.get(&mailbox.base_key()));
            }
        }
        if !self.below.is_empty() {
            mailbox.parents().for_each(|parent| consider(self.below.get(parent)));
        }
        first
    }
}

/// Merges recipients that are the same mailbox, and numbers the rest.
#[derive(Default)]
struct Merge {
    positions: HashMap<String, usize>,
}

impl Merge {
    fn add(&mut self, routed: &mut Vec<RoutedRecipient>, mut one: RoutedRecipient) {
        let position = *self.positions.entry(merge_key(&one)).or_insert(routed.len());
        match routed.get_mut(position) {
            Some(first) => merge_into(first, one),
            None => {
                one.index = u32::try_from(position).unwrap_or(u32::MAX);
                routed.push(one);
            }
        }
    }
}

/// What makes two recipients one. The local part of another system's address may have a case that matters.
fn merge_key(one: &RoutedRecipient) -> String {
    let address = one.address.as_str();
    if one.channel == crate::LOCAL_CHANNEL {
        return address.to_ascii_lowercase();
    }
    let domain = one.address.domain().to_ascii_lowercase();
    format!("{}@{domain}", one.address.local_part())
}

/// Whoever asked for a report gets it; what one of them may have now is not held for the other.
fn merge_into(first: &mut RoutedRecipient, other: RoutedRecipient) {
    if first.notify != other.notify {
        let left = first.notify.unwrap_or(Notify::DEFAULT);
        let right = other.notify.unwrap_or(Notify::DEFAULT);
        first.notify = Some(Notify {
            success: left.success || right.success,
            failure: left.failure || right.failure,
            delay: left.delay || right.delay,
        });
    }
    match (&first.state, &other.state) {
        // One way to the mailbox is enough: the other may have ended in a loop of aliases.
        (State::Failed(_), State::Open(_) | State::Held { .. }) => {
            first.channel = other.channel;
            first.host = other.host;
            first.user = other.user;
            first.state = other.state;
        }
        (State::Held { .. }, State::Open(_)) => first.state = other.state,
        _ => {}
    }
}

#[cfg(test)]
mod tests;
