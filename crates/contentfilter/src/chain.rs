//! All filters in their order: who is asked about a step or a message, and what follows from an answer or a failure.
//!
//! ```text
//! for each filter:  what it was not told yet (connect, helo, mail, recipient) ─▶ the message ─▶ finding ─┬─▶ changes go to the next
//!                                          failure ─▶ on_failure                                         └─▶ a verdict ends the walk
//! ```

mod told;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

use job::inspect::{Step, Steps, Verdict};
use mail::Envelope;
use tokio::time::timeout_at;

use crate::breaker::Breaker;
use crate::filter::{Filter, FilterError, Finding, Look, Session};
use crate::judgement::{Judgement, of_failure};
use crate::kinds::{self, Setup};
use crate::message::Message;
use crate::run::LATE;
use crate::settings::{OnFailure, Settings, Timeouts};
use crate::trial::Tried;
use told::Told;

/// The largest body that a filter may give a message, in bytes.
pub(crate) const BODY_BYTES_MAX: usize = 256 << 20;

/// The filters of a worker.
pub(crate) struct Chain {
    filters: Vec<Ready>,
}

struct Ready {
    name: String,
    steps: Steps,
    on_failure: OnFailure,
    timeouts: Timeouts,
    filter: Rc<dyn Filter>,
    breaker: RefCell<Breaker>,
}

/// What the filters know of one session.
pub(crate) struct Looks {
    transaction: u64,
    seats: Vec<Seat>,
}

/// One filter's.
#[derive(Default)]
struct Seat {
    look: Option<Box<dyn Look>>,
    told: Told,
    /// It failed, and the session goes on without it.
    left_out: bool,
    /// It is left out elsewhere, and this session tries it for all.
    tries: bool,
    /// What it said at connect or helo that is for each message.
    of_session: Option<Verdict>,
    /// What it said at mail or recipient that is for this message.
    of_transaction: Finding,
}

impl Chain {
    /// Makes checked settings ready; the error names the filter and says what is wrong.
    pub(crate) fn new(
        settings: &Settings,
        hostname: &str,
        dns: &dns::Settings,
    ) -> Result<Self, String> {
        let mut filters = Vec::with_capacity(settings.filters.len());
        let resolver = Rc::new(dns::Resolver::new(dns.clone()));
        let mut authserv_id = hostname.to_owned();
        let named = kinds::named(&settings.filters).map_err(|problem| problem.to_string())?;
        for (setting, (kind, name)) in settings.filters.iter().zip(named) {
            if let Some(own) = &setting.authentication {
                authserv_id = own.authserv_id.clone().unwrap_or_else(|| hostname.to_owned());
            }
            let setup = Setup {
                name,
                hostname: hostname.to_owned(),
                authserv_id: authserv_id.clone(),
                resolver: Rc::clone(&resolver),
            };
            let filter =
                kind.make(setting, &setup).map_err(|wrong| format!("{}: {wrong}", setup.name))?;
            filters.push(Ready {
                name: setup.name,
                steps: kind.steps(setting),
                on_failure: setting.on_failure,
                timeouts: setting.timeouts.clone(),
                filter,
                breaker: RefCell::new(Breaker::new(settings.left_out.0)),
            });
        }
        Ok(Self { filters })
    }

    /// Filters of a test's own.
    #[cfg(test)]
    pub(crate) fn of(filters: Vec<(Rc<dyn Filter>, Steps, OnFailure)>) -> Self {
        let ready = |(index, (filter, steps, on_failure))| Ready {
            name: format!("filters[{index}]"),
            steps,
            on_failure,
            timeouts: Timeouts::default(),
            filter,
            breaker: RefCell::new(Breaker::new(Settings::default().left_out.0)),
        };
        Self { filters: filters.into_iter().enumerate().map(ready).collect() }
    }

    /// Whether any filter looks into messages.
    pub(crate) fn needs_content(&self) -> bool {
        self.filters.iter().any(|ready| ready.filter.needs_content())
    }

    /// Whether any filter wants to hear of the steps before the message.
    pub(crate) fn has_early_steps(&self) -> bool {
        self.filters.iter().any(|ready| ready.steps != Steps::NONE)
    }

    /// Which filters are left out for now, or are being tried again, and by which rule; nothing if none is.
    pub(crate) fn left_out(&self) -> Option<String> {
        let out = self.filters.iter().filter(|ready| ready.breaker.borrow().is_out());
        let said: Vec<String> =
            out.map(|ready| format!("{} (on_failure {})", ready.name, ready.on_failure)).collect();
        (!said.is_empty()).then(|| format!("left out after failures: {}", said.join(", ")))
    }

    /// Lets go of what is not used.
    pub(crate) fn sweep(&self) {
        self.filters.iter().for_each(|ready| ready.filter.sweep());
    }

    /// Begins to look at a session.
    pub(crate) fn open(&self) -> Looks {
        Looks { transaction: 0, seats: self.filters.iter().map(|_| Seat::default()).collect() }
    }

    /// Asks about a step before the message, by `end`. Of the verdict only refusals are left: what is to be held or discarded is so when
    /// the message comes.
    pub(crate) async fn step(
        &self,
        looks: &mut Looks,
        session: &mut Session,
        step: Step,
        end: Option<Instant>,
    ) -> Judgement {
        let mut judgement = Judgement::default();
        let mut round = Round::new(step, session);
        for (ready, seat) in self.filters.iter().zip(&mut looks.seats) {
            if !ready.steps.contain(step) || seat.left_out {
                continue;
            }
            let found = match ready.ask(seat, session, At::Step(step), end).await {
                Ok(found) => round.early(seat, found),
                Err(error) => {
                    judgement.failures.push(format!("{}: {error}", ready.name));
                    seat.leave_out(&ready.name, ready.on_failure, step)
                }
            };
            round.drop_refused(&found.recipients, session);
            let goes_on = judgement.take(&ready.name, found);
            if !goes_on || (step == Step::Recipient && session.given == 0) {
                break;
            }
        }
        round.end(looks, session);
        judgement
    }

    /// Asks about a message, by `end`; one without content when it could not be read, and why. Gives it as it is to leave. `tried` takes
    /// what each filter said.
    pub(crate) async fn message(
        &self,
        looks: &mut Looks,
        session: &mut Session,
        read: Result<Message, (Message, String)>,
        end: Option<Instant>,
        mut tried: Option<&mut Vec<Tried>>,
    ) -> (Judgement, Message) {
        let mut judgement = Judgement::default();
        let (mut message, unreadable) = match read {
            Ok(message) => (message, None),
            Err((message, why)) => (message, Some(why)),
        };
        let recipients = session.recipients().len();
        for (ready, seat) in self.filters.iter().zip(&mut looks.seats) {
            if let Some(verdict) = &seat.of_session
                && !judgement.take(&ready.name, Finding::from(verdict.clone()))
            {
                break;
            }
            if seat.left_out {
                continue;
            }
            session.added.clone_from(&judgement.add);
            session.removed.clone_from(&judgement.remove);
            let since = tried.is_some().then(Instant::now);
            let asked = match &unreadable {
                Some(why) if ready.filter.needs_content() => Err(FilterError::Message(why.clone())),
                _ => ready.ask(seat, session, At::Message(&message), end).await,
            };
            if let (Some(tried), Some(since)) = (&mut tried, since) {
                tried.push(Tried::new(&ready.name, since.elapsed(), &asked));
            }
            let early = std::mem::take(&mut seat.of_transaction);
            if !judgement.take(&ready.name, early) {
                break;
            }
            let goes_on = match asked {
                Ok(found) => {
                    if !found.edits.is_empty() || found.body.is_some() {
                        message = message.with(&found.edits, found.body.as_deref());
                    }
                    judgement.take(&ready.name, found)
                }
                Err(error) => judgement.fail(&ready.name, ready.on_failure, &error),
            };
            if !goes_on || judgement.is_decided(recipients) {
                break;
            }
        }
        (judgement, message)
    }
}

/// What a filter is asked about.
#[derive(Clone, Copy)]
enum At<'a> {
    /// A step before the message.
    Step(Step),
    /// The message, as the filters before left it.
    Message(&'a Message),
}

impl At<'_> {
    fn step(self) -> Step {
        match self {
            Self::Step(step) => step,
            Self::Message(_) => Step::Message,
        }
    }
}

impl Ready {
    /// Asks one filter within its time and before `end`, unless it failed too often lately. After a failure its look is dropped.
    async fn ask(
        &self,
        seat: &mut Seat,
        session: &mut Session,
        at: At<'_>,
        end: Option<Instant>,
    ) -> Result<Finding, FilterError> {
        let now = Instant::now();
        if end.is_some_and(|end| end <= now) {
            seat.close();
            return Err(FilterError::Late);
        }
        if !self.breaker.borrow_mut().may_ask(&mut seat.tries, now) {
            seat.close();
            return Err(FilterError::LeftOut);
        }
        let result = self.hear(seat, session, at, end).await;
        let result = result.and_then(|found| match found.body.as_ref().map(Vec::len) {
            Some(bytes) if bytes > BODY_BYTES_MAX => {
                Err(FilterError::Malformed(format!("another body of {bytes} bytes")))
            }
            _ => Ok(found),
        });
        match &result {
            Ok(found) => {
                let decides = found.verdict != Verdict::Accept || !found.recipients.is_empty();
                if self.breaker.borrow_mut().succeeded(at.step(), decides) {
                    tracing::info!(filter = %self.name, "is asked again");
                }
            }
            Err(error) => {
                seat.close();
                seat.tries = false;
                let now = Instant::now();
                if error.is_of_filter() && self.breaker.borrow_mut().failed(at.step(), now) {
                    tracing::warn!(filter = %self.name, "failed too often, left out for a while");
                }
            }
        }
        result
    }

    /// Tells a look what it has not heard yet of the session, then of the message.
    async fn hear(
        &self,
        seat: &mut Seat,
        session: &mut Session,
        at: At<'_>,
        end: Option<Instant>,
    ) -> Result<Finding, FilterError> {
        let mut found = Finding::default();
        let before = session.recipients().len().saturating_sub(session.given);
        if seat.told.recipients > 0 && !seat.told.is_of(session, before) {
            seat.close();
        }
        let Seat { look, told, .. } = seat;
        let look = look.get_or_insert_with(|| Rc::clone(&self.filter).open(session));
        let given = session.given;
        for step in [Step::Connect, Step::Helo, Step::Mail, Step::Recipient] {
            if !told.is_due(step, session) {
                continue;
            }
            session.given = match step {
                Step::Recipient => session.recipients().len() - told.recipients,
                _ => 0,
            };
            let times = u32::try_from(session.given).unwrap_or(u32::MAX).max(1);
            let time = self.timeouts.command.0.saturating_mul(times);
            let heard = in_time(time, end, look.step(session, step)).await;
            let heard = heard.map(|heard| of_step(heard, step, session));
            told.note(step, session);
            session.given = given;
            let heard = heard?;
            found.recipients.extend(heard.recipients);
            if heard.verdict != Verdict::Accept {
                found.verdict = heard.verdict;
            }
            if !matches!(found.verdict, Verdict::Accept | Verdict::Quarantine { .. }) {
                return Ok(found);
            }
        }
        let At::Message(message) = at else { return Ok(found) };
        // It is for nobody.
        if !found.recipients.is_empty() && found.recipients.len() == session.recipients().len() {
            return Ok(found);
        }
        let time = self.timeouts.message.0;
        let mut last = in_time(time, end, look.message(session, message)).await?;
        last.recipients.splice(..0, found.recipients);
        if last.verdict == Verdict::Accept {
            last.verdict = found.verdict;
        }
        Ok(last)
    }
}

/// What of a finding counts at a step: verdicts. One for all recipients that are new is one for each.
fn of_step(found: Finding, step: Step, session: &Session) -> Finding {
    let Finding { verdict, mut recipients, .. } = found;
    if step == Step::Recipient && verdict != Verdict::Accept {
        let rest = session.new_recipients().map(|(place, _)| place);
        let rest: Vec<u32> =
            rest.filter(|place| !recipients.iter().any(|(own, _)| own == place)).collect();
        recipients.extend(rest.into_iter().map(|place| (place, verdict.clone())));
        return Finding { recipients, ..Finding::default() };
    }
    Finding { recipients, ..Finding::from(verdict) }
}

/// Waits for a filter, as long as it may take. That others have left it no time is not its fault.
async fn in_time<T>(
    time: std::time::Duration,
    end: Option<Instant>,
    asked: impl Future<Output = Result<T, FilterError>>,
) -> Result<T, FilterError> {
    let own = Instant::now() + time;
    let (end, late) = match end {
        Some(end) if end < own => (end, FilterError::Message(LATE.to_owned())),
        _ => (own, FilterError::Late),
    };
    timeout_at(end.into(), asked).await.unwrap_or(Err(late))
}

impl Looks {
    /// Takes notice of the transaction that a request is about: what is left of another one is forgotten.
    pub(crate) fn enter(&mut self, transaction: u64) {
        if self.transaction != transaction {
            self.transaction = transaction;
            self.reset();
        }
    }

    /// The transaction is over.
    pub(crate) fn reset(&mut self) {
        for seat in &mut self.seats {
            if let Some(look) = &mut seat.look {
                look.reset();
            }
            seat.told.mail = false;
            seat.told.recipients = 0;
            seat.of_transaction = Finding::default();
        }
    }
}

impl Seat {
    fn close(&mut self) {
        self.look = None;
        self.told = Told::default();
        self.of_transaction = Finding::default();
    }

    /// Decides what a failure before the message comes to. To put a client off there is time until MAIL, where the filter is asked again.
    fn leave_out(&mut self, name: &str, rule: OnFailure, step: Step) -> Finding {
        let verdict = of_failure(name, rule);
        match rule {
            OnFailure::Tempfail if matches!(step, Step::Connect | Step::Helo) => {}
            OnFailure::Tempfail => return Finding::from(verdict),
            OnFailure::Accept => self.left_out = true,
            OnFailure::Quarantine => {
                self.left_out = true;
                self.of_session = Some(verdict);
            }
        }
        Finding::default()
    }
}

/// A step that goes from filter to filter: recipients that one refuses are not shown to the next.
struct Round {
    step: Step,
    /// Recipients that the filters had accepted before.
    before: usize,
    /// Where the recipients that are left stood in the envelope of the request.
    places: Vec<u32>,
}

impl Round {
    fn new(step: Step, session: &Session) -> Self {
        let asked = session.recipients().len();
        Self {
            step,
            before: asked.saturating_sub(session.given),
            places: (0..).take(asked).collect(),
        }
    }

    /// Keeps what is to be done with the message when it comes, and gives what is to be said now, by the places of the request.
    fn early(&self, seat: &mut Seat, found: Finding) -> Finding {
        let is_now =
            |verdict: &Verdict| matches!(verdict, Verdict::Reject(_) | Verdict::Tempfail(_));
        let place = |(place, verdict)| {
            let place = self.places.get(usize::try_from(place).ok()?)?;
            Some((*place, verdict))
        };
        let placed = found.recipients.into_iter().filter_map(place);
        let (recipients, later): (Vec<_>, Vec<_>) =
            placed.partition(|(_, verdict)| is_now(verdict));
        seat.of_transaction.recipients.extend(later);
        let verdict = match found.verdict {
            Verdict::Accept => Verdict::Accept,
            verdict if is_now(&verdict) => verdict,
            later => {
                match self.step {
                    Step::Connect | Step::Helo => seat.of_session = Some(later),
                    _ => seat.of_transaction.verdict = later,
                }
                Verdict::Accept
            }
        };
        Finding { recipients, ..Finding::from(verdict) }
    }

    /// Takes the recipients that a filter refused out of what the next is shown.
    fn drop_refused(&mut self, refused: &[(u32, Verdict)], session: &mut Session) {
        let Some(envelope) = session.envelope.as_mut().filter(|_| !refused.is_empty()) else {
            return;
        };
        let is_refused = |place: u32| refused.iter().any(|(other, _)| *other == place);
        let mut envelope_left = Envelope::clone(envelope);
        let mut places = self.places.iter();
        envelope_left.recipients.retain(|_| places.next().is_some_and(|place| !is_refused(*place)));
        self.places.retain(|place| !is_refused(*place));
        session.given = envelope_left.recipients.len().saturating_sub(self.before);
        *envelope = Rc::new(envelope_left);
    }

    /// Numbers anew what was kept of recipients, as the next request will.
    fn end(self, looks: &mut Looks, session: &Session) {
        for seat in &mut looks.seats {
            if seat.told.recipients > self.before {
                seat.told.note(Step::Recipient, session);
            }
            let of = std::mem::take(&mut seat.of_transaction.recipients);
            let now = |place: u32| self.places.iter().position(|other| *other == place);
            let renumbered = of
                .into_iter()
                .filter_map(|(place, verdict)| Some((u32::try_from(now(place)?).ok()?, verdict)));
            seat.of_transaction.recipients = renumbered.collect();
        }
    }
}

#[cfg(test)]
mod tests;
