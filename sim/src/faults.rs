//! What goes wrong, and what an operator does about it or on purpose.

use job::admin::{AdminRequest, Change, LaneChange, Selection};
use mail::MessageId;
use queue_spool::disk::simulated::{As, Fault as DiskFault};
use scheduler::turns::Arrival;

use crate::acceptor::{CLIENTS, REPORTS};
use crate::agents::ERROR;
use crate::clock::{HOUR, MINUTE, SECOND};
use crate::process::Asked;
use crate::tell::tell;
use crate::world::{Event, World};

/// A fault that ends by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// The disk is full.
    Full,
    /// The wall clock is wrong.
    Clock,
}

impl World {
    pub(crate) fn fault(&mut self) {
        if self.is_calm {
            return;
        }
        let wait = self.chance.between(2 * SECOND, 8 * MINUTE);
        self.after(wait, Event::Fault);
        let which = self.chance.below(14);
        tell!(self.clock, "fault {which}");
        match which {
            0 | 1 => self.kill_scheduler(),
            2 => self.stop(),
            3 => self.power_cut(),
            4 => {
                let after = self.chance.below(60);
                self.disk.fail_after(after, DiskFault::Crash);
            }
            5 | 6 => self.kill_acceptor_of(CLIENTS),
            7 => self.kill_acceptor_of(REPORTS),
            8 => self.kill_all(),
            9 | 10 => self.kill_some_worker(),
            11 => {
                let (after, fault) = (self.chance.below(40), self.chance.percent(60));
                self.disk.fail_after(after, if fault { DiskFault::Io } else { DiskFault::Full });
            }
            12 => {
                let (room, long) =
                    (self.chance.below(6000), self.chance.between(SECOND, 2 * MINUTE));
                self.disk.set_room(room);
                self.after(long, Event::FaultEnds(Fault::Full));
            }
            _ => {
                let by = self.chance.between(SECOND, HOUR);
                self.clock.ahead = if self.chance.percent(50) {
                    self.clock.ahead + by
                } else {
                    self.clock.ahead - by
                };
                self.after(by, Event::FaultEnds(Fault::Clock));
            }
        }
    }

    pub(crate) fn fault_ends(&mut self, fault: Fault) {
        match fault {
            Fault::Full => self.disk.set_room(u64::MAX),
            Fault::Clock => {}
        }
        self.witness.well_since = self.clock.mono;
    }

    fn kill_scheduler(&mut self) {
        if self.process.is_none() {
            return;
        }
        self.witness.crashes(As::Process);
        self.drop_scheduler();
    }

    fn drop_scheduler(&mut self) {
        self.process = None;
        self.compactor.die();
        // Whatever comes for that life is for nobody.
        self.life += 1;
        self.lose_all_jobs();
        let wait = self.chance.between(20, 3 * SECOND);
        self.after(wait, Event::StartScheduler);
    }

    /// The scheduler is stopped in order.
    fn stop(&mut self) {
        if self.process.is_none() {
            return;
        }
        self.stop_scheduler();
        self.witness.crashes(As::Process);
        self.drop_scheduler();
    }

    fn kill_acceptor_of(&mut self, which: usize) {
        self.witness.seen.crashes += 1;
        if which == REPORTS {
            self.kill_reporter(true);
        }
        self.kill_acceptor(which);
    }

    /// The error agent is the acceptor of reports: they die together.
    fn kill_reporter(&mut self, is_crash: bool) {
        while let Some(place) = self.agents.workers.iter().position(|it| it.channel == ERROR) {
            self.kill_worker(place, is_crash);
        }
    }

    fn kill_some_worker(&mut self) {
        let of_mail = self.agents.workers.iter().filter(|it| it.channel != ERROR).count() as u64;
        if of_mail > 0 {
            let place = self.chance.below(of_mail) as usize;
            let is_crash = self.chance.percent(60);
            let places: Vec<usize> = (0..self.agents.workers.len())
                .filter(|at| self.agents.workers[*at].channel != ERROR)
                .collect();
            self.kill_worker(places[place], is_crash);
        }
    }

    /// Every process dies; what was written stays.
    fn kill_all(&mut self) {
        self.witness.crashes(As::Process);
        self.end_processes();
        self.disk.kill();
    }

    /// The power goes.
    pub(crate) fn power_cut(&mut self) {
        tell!(self.clock, "the power goes");
        self.witness.crashes(As::Disk);
        self.end_processes();
        self.disk.restart();
        self.disk.set_room(u64::MAX);
    }

    fn end_processes(&mut self) {
        self.drop_scheduler();
        self.kill_reporter(false);
        for which in [CLIENTS, REPORTS] {
            self.kill_acceptor(which);
        }
    }

    /// From now on nothing goes wrong, and an operator lets everything go.
    pub(crate) fn calm(&mut self) {
        self.is_calm = true;
        self.calm_at = self.clock.mono;
        self.disk.set_room(u64::MAX);
        self.disk.forget_faults();
        self.witness.well_since = self.clock.mono;
        self.want_requeue(MINUTE);
    }

    pub(crate) fn operate(&mut self) {
        let wait = if self.is_calm { HOUR } else { self.chance.between(20 * SECOND, 15 * MINUTE) };
        self.after(wait, Event::Operator);
        if self.is_calm {
            return self.let_go();
        }
        let ids: Vec<MessageId> = self
            .witness
            .mails
            .iter()
            .filter(|(_, mail)| mail.routed.is_some() && !mail.is_ended())
            .map(|(id, _)| *id)
            .collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.chance.below(ids.len() as u64) as usize];
        let one =
            Change { select: Selection { ids: vec![id], ..Selection::default() }, reason: None };
        let lane = LaneChange {
            lane: "smtp/good1.test".to_owned(),
            seconds: Some(self.chance.between(10, 600)),
        };
        let (asked, request) = match self.chance.below(10) {
            0 | 1 => (Asked::Other, AdminRequest::Hold(one)),
            2 | 3 => (Asked::Other, AdminRequest::Release(one)),
            4 => {
                self.witness.mail(id).remove_asked = true;
                (Asked::Removal(id), AdminRequest::Remove(one))
            }
            5 => {
                self.witness.mail(id).fates.iter_mut().for_each(|fate| fate.refused = true);
                (Asked::Other, AdminRequest::Bounce(one))
            }
            6 => (Asked::Other, AdminRequest::Reroute(one)),
            7 => (Asked::Other, AdminRequest::Suspend(lane)),
            _ => (
                Asked::Other,
                AdminRequest::Retry(Change {
                    select: Selection { all: true, ..Selection::default() },
                    reason: None,
                }),
            ),
        };
        self.ask(asked, |token| Arrival::Admin(token, Box::new(request)));
    }

    fn let_go(&mut self) {
        let held =
            Change { select: Selection { held: true, ..Selection::default() }, reason: None };
        let lane = LaneChange { lane: "smtp/good1.test".to_owned(), seconds: None };
        self.ask(Asked::Other, |token| {
            Arrival::Admin(token, Box::new(AdminRequest::Release(held)))
        });
        self.ask(Asked::Other, |token| Arrival::Admin(token, Box::new(AdminRequest::Resume(lane))));
    }
}
