//! The scheduler's section of the configuration, and what its worker is handed.

use std::time::Duration;

use config::{ByteSize, Problem, Span};
use farm::Workers;
use serde::{Deserialize, Deserializer, Serialize};

/// `[scheduler]`: when to try, how much at once, when to give up and when to tell the sender.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// How long after each failed attempt the next is made; the last repeats. Recipients and lanes each count their own.
    /// Default: `["1m", "5m", "15m", "1h", "4h"]`.
    pub retry: Vec<Span>,
    /// How long after acceptance delivery is given up; never without a failed attempt after that time. Default: `"5d"`.
    pub expire: Span,
    /// How long after acceptance the sender is told that delivery is late, once; `"0s"` never. Default: `"4h"`.
    pub delay_notice: Span,
    /// How long after acceptance what a filter quarantined is removed, without a report; what an operator or strikes hold stays.
    /// Default: nothing, quarantined mail stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantine_expire: Option<Span>,
    /// How long a report waits for further recipients of the same message to fail. Default: `"5m"`.
    pub report_delay: Span,
    /// Jobs that a lane may have in hand at first and again after a failure. Default: 5.
    pub lane_start: u32,
    /// Jobs that a lane may have in hand when it does well: one more with each success. Default: 20.
    pub lane_max: u32,
    /// Recipients of one message in one job. Default: 100.
    pub job_recipients: u32,
    /// A lane whose job is unanswered for this long counts as slow: slow lanes hold at most half of a channel. Default: `"30s"`.
    pub slow_after: Span,
    /// How long an agent may work on a job up to the final dot, for a small message. Default: `"20m"`.
    pub deadline: Span,
    /// How much longer for a large one: its size divided by so many bytes a second. Default: `"8KiB"`.
    pub deadline_rate: ByteSize,
    /// How long the answers of jobs in hand are waited for when the scheduler is asked to end. Default: `"8s"`.
    pub drain: Span,
    /// How long what was queued before waits when another host's scheduler has gone without handing over, so that agents can tell
    /// what they did for that one; new mail goes at once. Default: `"15s"`.
    pub takeover_grace: Span,
    /// The farm: always one worker, whatever `start` and `max` say; `concurrency` is how many requests it takes at once.
    /// Default: 10000.
    #[serde(deserialize_with = "workers_over_default")]
    pub workers: Workers,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            retry: [60, 300, 900, 3600, 4 * 3600].map(Span::seconds).to_vec(),
            expire: Span::seconds(5 * 86_400),
            delay_notice: Span::seconds(4 * 3600),
            quarantine_expire: None,
            report_delay: Span::seconds(300),
            lane_start: 5,
            lane_max: 20,
            job_recipients: 100,
            slow_after: Span::seconds(30),
            deadline: Span::seconds(20 * 60),
            deadline_rate: ByteSize(8 << 10),
            drain: Span::seconds(8),
            takeover_grace: Span::seconds(15),
            workers: workers_default(),
        }
    }
}

fn workers_default() -> Workers {
    Workers { start: 1, max: 1, spare_min: 0, spare_max: 1, jobs_max: 0, concurrency: 10_000 }
}

fn workers_over_default<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Workers, D::Error> {
    Workers::over(workers_default(), deserializer)
}

/// The most steps of a retry schedule.
const RETRY_STEPS_MAX: usize = 100;
/// The longest grace after a take-over: mail waits for it.
const TAKEOVER_GRACE_MAX: Duration = Duration::from_secs(3600);
/// The most jobs that one lane may have in hand.
const LANE_JOBS_MAX: u32 = 10_000;

impl Settings {
    /// Checks what types cannot say.
    pub fn check(&self) -> Result<(), Problem> {
        let wrong = |key: &str, wrong: String, right: &str| {
            Err(Problem::new(format!("scheduler.{key}"), wrong, right))
        };
        if self.retry.is_empty() || self.retry.len() > RETRY_STEPS_MAX {
            return wrong(
                "retry",
                format!("{} steps", self.retry.len()),
                "1 to 100 spans, as in [\"1m\", \"5m\", \"1h\"]",
            );
        }
        for (place, step) in self.retry.iter().enumerate() {
            if step.0 < Duration::from_millis(100) {
                return wrong(&format!("retry[{place}]"), step.to_string(), "at least \"100ms\"");
            }
        }
        if self.expire.0.is_zero() {
            return wrong("expire", self.expire.to_string(), "a span such as \"5d\"");
        }
        if self.lane_start == 0 || self.lane_start > self.lane_max {
            return wrong(
                "lane_start",
                format!("{} with lane_max = {}", self.lane_start, self.lane_max),
                "a number from 1 to lane_max",
            );
        }
        if self.lane_max > LANE_JOBS_MAX {
            return wrong("lane_max", self.lane_max.to_string(), "a number from 1 to 10000");
        }
        if self.job_recipients == 0 || self.job_recipients as usize > job::PART_RECIPIENTS_MAX {
            return wrong(
                "job_recipients",
                self.job_recipients.to_string(),
                "a number from 1 to 500",
            );
        }
        if self.slow_after.0.is_zero() {
            return wrong("slow_after", self.slow_after.to_string(), "a span such as \"30s\"");
        }
        if self.deadline.0 < Duration::from_secs(10) {
            return wrong("deadline", self.deadline.to_string(), "at least \"10s\"");
        }
        if self.deadline_rate.0 == 0 {
            return wrong("deadline_rate", "0".to_owned(), "bytes a second, such as \"8KiB\"");
        }
        if self.takeover_grace.0 > TAKEOVER_GRACE_MAX {
            return wrong("takeover_grace", self.takeover_grace.to_string(), "at most \"1h\"");
        }
        self.workers.check("scheduler.workers")
    }
}

/// A channel as the scheduler needs to know it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelFacts {
    /// Its name: `smtp`.
    pub name: String,
    /// The socket its agents serve: a name (`smtp.deliver`), or a path if it has a slash.
    pub socket: String,
    /// The most jobs in hand in all its agents together, whatever their windows say; 0 is no limit.
    #[serde(default)]
    pub slots_max: u32,
}

/// What the scheduler's worker is handed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// Its section of the configuration.
    pub settings: Settings,
    /// This host's name, for the log.
    pub hostname: String,
    /// Every channel that has a farm or a socket.
    pub channels: Vec<ChannelFacts>,
    /// The socket to ask for a requeue pass, as a name or a path; empty when there is none.
    #[serde(default = "requeue_socket")]
    pub requeue: String,
}

fn requeue_socket() -> String {
    "requeue.requeue".to_owned()
}

#[cfg(test)]
mod tests;
