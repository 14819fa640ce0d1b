//! Watching a decision: what `grange route` shows is what the real decision noted on its way.

use std::fmt;

use job::verify::{Verified, VerifyReply};
use mail::{Address, Reply};
use serde::Serialize;

/// One step of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// The address, taken apart.
    Address {
        /// As given.
        address: Address,
        /// The local part as it is compared.
        local_part: String,
        /// The local part without its detail, where it has one.
        without_detail: Option<String>,
        /// The domain as it is compared.
        domain: String,
    },
    /// A bare `postmaster` was given a domain.
    Domain {
        /// As given.
        address: Address,
        /// With a domain.
        taken_as: Address,
    },
    /// A route matched.
    Route {
        /// Whom.
        address: Address,
        /// The route's position in `routes`.
        index: usize,
        /// What it is for.
        matches: String,
        /// Where it leads: `channel local`, or `reject`.
        leads_to: String,
    },
    /// No route matched.
    NoRoute {
        /// Whom.
        address: Address,
    },
    /// An alias was found.
    Alias {
        /// Of whom.
        address: Address,
        /// The key that was found.
        key: String,
        /// In which table.
        table: String,
        /// On which line, from 1; 0 in a table without lines.
        line: usize,
        /// What it stands for.
        targets: Vec<String>,
    },
    /// No alias was found, in any of the tables.
    NoAlias {
        /// Of whom.
        address: Address,
    },
    /// The route's list of users was asked.
    Users {
        /// For whom.
        address: Address,
        /// Which table.
        table: String,
        /// The key that was found; nothing if there was none.
        listed: Option<String>,
    },
    /// The postmaster of a domain of ours was found a mailbox.
    Postmaster {
        /// Which.
        address: Address,
        /// Where the mail goes.
        goes_to: Address,
    },
    /// It leads to a lane.
    Place {
        /// Who.
        address: Address,
        /// The channel.
        channel: String,
        /// The lane's host.
        host: String,
        /// The user.
        user: String,
    },
    /// It fails.
    Fail {
        /// Who.
        address: Address,
        /// Why.
        reply: Reply,
    },
    /// A table could not be asked.
    Unavailable {
        /// Which.
        table: String,
    },
    /// The sender was named; no rule looks at it.
    Sender {
        /// The reverse-path.
        sender: Address,
    },
    /// What a client is told at RCPT.
    Verdict {
        /// Whether the client may relay.
        may_relay: bool,
        /// What it is told.
        verdict: Verified,
    },
}

/// Where a decision notes its steps, or does not.
#[derive(Debug, Default)]
pub(crate) struct Trace(Option<Vec<Step>>);

impl Trace {
    /// One that notes nothing and costs nothing.
    pub(crate) const fn silent() -> Self {
        Self(None)
    }

    /// One that notes every step.
    pub(crate) const fn recording() -> Self {
        Self(Some(Vec::new()))
    }

    /// Notes a step; `step` is called only when somebody watches.
    pub(crate) fn note(&mut self, step: impl FnOnce() -> Step) {
        if let Some(steps) = &mut self.0 {
            steps.push(step());
        }
    }

    /// The steps noted.
    pub(crate) fn into_steps(self) -> Vec<Step> {
        self.0.unwrap_or_default()
    }
}

impl fmt::Display for Step {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address { address, local_part, without_detail, domain } => {
                write!(out, "{address}: local part {local_part}")?;
                if let Some(base) = without_detail {
                    write!(out, " (without detail {base})")?;
                }
                match domain.is_empty() {
                    true => write!(out, ", without a domain"),
                    false => write!(out, ", domain {domain}"),
                }
            }
            Self::Domain { address, taken_as } => write!(out, "{address}: taken as {taken_as}"),
            Self::Route { address, index, matches, leads_to } => {
                write!(out, "{address}: routes[{index}], {matches}, leads to {leads_to}")
            }
            Self::NoRoute { address } => write!(out, "{address}: no route matches"),
            Self::Alias { address, key, table, line, targets } => {
                write!(out, "{address}: alias {key} in {table}")?;
                if *line > 0 {
                    write!(out, ":{line}")?;
                }
                write!(out, " stands for {}", targets.join(", "))
            }
            Self::NoAlias { address } => write!(out, "{address}: no alias"),
            Self::Users { address, table, listed: Some(key) } => {
                write!(out, "{address}: users ({table}) lists {key}")
            }
            Self::Users { address, table, listed: None } => {
                write!(out, "{address}: users ({table}) does not list it")
            }
            Self::Postmaster { address, goes_to } => {
                write!(out, "{address}: postmaster is always reachable, at {goes_to}")
            }
            Self::Place { address, channel, host, user } if host.is_empty() => {
                write!(out, "{address}: goes to channel {channel}, user {user}")
            }
            Self::Place { address, channel, host, .. } => {
                write!(out, "{address}: goes to channel {channel}, host {host}")
            }
            Self::Fail { address, reply } => {
                write!(out, "{address}: fails with {} {}", reply.status, reply.text)
            }
            Self::Unavailable { table } => write!(out, "{table} is not available"),
            Self::Sender { sender } => write!(out, "sender {sender}: no rule looks at the sender"),
            Self::Verdict { may_relay, verdict } => {
                let who = if *may_relay { "a client that may relay" } else { "any other client" };
                match verdict {
                    Verified::Deliverable => write!(out, "{who} may send to it"),
                    Verified::Unknown(VerifyReply { code, status, text })
                    | Verified::RelayDenied(VerifyReply { code, status, text })
                    | Verified::Tempfail(VerifyReply { code, status, text }) => {
                        write!(out, "{who} is told {code} {status} {text}")
                    }
                }
            }
        }
    }
}
