//! Routers and requeue: hints that are lost, late, or come twice.

use std::time::Duration;

use job::KNOWN_MAX;
use job::enqueue::EnqueueRequest;
use job::known::{KnownMessage, KnownRequest, Wanted};
use job::route::RouteRequest;
use mail::Address;
use queue::{Accepted, Listed, RoutedRecipient, State};
use scheduler::turns::Arrival;

use crate::clock::{HOUR, MINUTE, SECOND};
use crate::process::Asked;
use crate::world::{Event, World};

/// What was accepted longer ago than this is not on its way any more: twice router's deadline.
const OLD_AFTER: Duration = Duration::from_secs(10);

impl World {
    /// Router reads the message and decides where it goes.
    pub(crate) fn route(&mut self, route: RouteRequest) {
        if !self.is_calm && self.chance.percent(4) {
            // Router died.
            return;
        }
        let Ok((accepted, _)) = self.spool.message_now(&route.handle) else { return };
        let parts = self.parts(&route, &accepted);
        self.connections += 1;
        let connection = self.connections;
        let late = !self.is_calm && self.chance.percent(5);
        let first = if late {
            self.chance.between(10 * SECOND, 20 * MINUTE)
        } else {
            self.chance.between(1, 200)
        };
        let again = self.chance.percent(6);
        for (wait, part) in (first..).zip(parts) {
            if again {
                let later = wait + self.chance.below(MINUTE);
                self.after(later, Event::Enqueue(connection + 1, Box::new(part.clone())));
            }
            self.after(wait, Event::Enqueue(connection, Box::new(part)));
        }
        self.connections += 1;
    }

    /// The message as it is handed over: whole, or a recipient at a time.
    fn parts(&mut self, route: &RouteRequest, accepted: &Accepted) -> Vec<EnqueueRequest> {
        let envelope = &accepted.accept.envelope;
        let recipients: Vec<RoutedRecipient> = (0..)
            .zip(&envelope.recipients)
            .map(|(index, one)| routed(index, &one.address, route.routing))
            .collect();
        let whole = EnqueueRequest {
            handle: route.handle.clone(),
            id: route.id,
            routing: route.routing,
            part: 0,
            more: false,
            sender: envelope.sender.clone(),
            size: accepted.size,
            accepted_at: accepted.accept.accepted_at,
            body: envelope.body,
            smtputf8: false,
            ret: None,
            envid: None,
            hold: accepted.accept.hold.clone(),
            recipients,
        };
        if whole.recipients.len() < 2 || !self.chance.percent(20) {
            return vec![whole];
        }
        let last = whole.recipients.len() as u32 - 1;
        (0..)
            .zip(&whole.recipients)
            .map(|(part, one)| EnqueueRequest {
                part,
                more: part < last,
                recipients: vec![one.clone()],
                ..whole.clone()
            })
            .collect()
    }

    pub(crate) fn enqueue(&mut self, connection: u64, request: Box<EnqueueRequest>) {
        let asked = Asked::Enqueue(request.id, request.handle.clone(), !request.more);
        let is_alone = self.chance.percent(50);
        self.ask(asked, |token| Arrival::Enqueue { connection, token, request, is_alone });
    }

    /// Asks for a pass of requeue.
    pub(crate) fn want_requeue(&mut self, wait: u64) {
        let at = self.clock.mono + wait;
        if self.requeue_at.is_none_or(|already| at < already || already < self.clock.mono) {
            self.requeue_at = Some(at);
            self.at(at, Event::Requeue);
        }
    }

    /// One pass: asks the scheduler of all that nobody writes to.
    pub(crate) fn requeue(&mut self) {
        if self.requeue_at.is_some_and(|at| at > self.clock.mono) {
            return;
        }
        self.requeue_at = None;
        let quiet = self.is_calm && self.to_send == 0 && self.clock.mono > self.calm_at + HOUR;
        self.want_requeue(if quiet { 6 * HOUR } else { 5 * MINUTE });
        for segment in self.spool.listed_now(false).unwrap_or_default() {
            for part in segment.chunks(KNOWN_MAX) {
                let message =
                    |one: &Listed| KnownMessage { handle: one.handle.clone(), id: one.id };
                let request = KnownRequest { messages: part.iter().map(message).collect() };
                self.ask(Asked::Known(part.to_vec()), |token| Arrival::Known(token, request));
            }
        }
    }

    /// The scheduler has said what it lacks.
    pub(crate) fn known(&mut self, part: &[Listed], wanted: &[Wanted]) {
        let selection = requeue::select(part, wanted, self.clock.wall(), OLD_AFTER);
        if let Some(wait) = selection.come_again_in {
            self.want_requeue(wait.as_millis() as u64 + 1);
        }
        for route in selection.send.into_iter().chain(selection.alone) {
            let wait = self.chance.below(SECOND);
            self.after(wait, Event::Route(route));
        }
    }
}

/// Where a recipient goes: a domain is a host, but for the local one; an operator's new routing leads elsewhere.
fn routed(index: u32, address: &Address, routing: u32) -> RoutedRecipient {
    let text = address.to_string();
    let domain = text.rsplit('@').next().unwrap_or_default();
    let (channel, host) = match domain {
        "local.test" => ("local", ""),
        "down.test" if routing > 1 => ("smtp", "good1.test"),
        _ => ("smtp", domain),
    };
    RoutedRecipient {
        index,
        address: address.clone(),
        original: None,
        orcpt: None,
        notify: None,
        channel: channel.to_owned(),
        host: host.to_owned(),
        user: text.clone(),
        state: State::default(),
    }
}
