//! The worker's end of the socketpair, its signals, and the meter of its load.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use sys::Signal;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::inner::Inner;
use crate::handover::{self, DrainReason, ToManager, ToWorker, Told};

/// How long the meter measures at a time.
const METER: Duration = Duration::from_secs(1);
/// A load below this, in thousandths, with nothing done: the worker is idle, and its meter rests.
const IDLE: u32 = 10;
/// A worker that somebody sent SIGTERM has so long.
const TERMINATED: Duration = Duration::from_secs(10);

/// Begins to hear the manager and signals, and to measure.
pub(super) fn spawn(inner: &Rc<Inner>) {
    tokio::task::spawn_local(hear(inner.clone()));
    tokio::task::spawn_local(meter(inner.clone()));
    if inner.signals.take().map(|signals| listen(inner.clone(), signals)).is_none() {
        tracing::debug!(worker = %inner.given.worker, "takes no signals");
    }
}

/// Lets the runtime wait for a descriptor to become readable.
///
/// The safe constructor is deprecated, because a type might not own the descriptor that it names; those used here do. Its
/// successor is an unsafe function, of which this crate has none.
#[allow(deprecated)]
pub(super) fn watch<T: AsRawFd>(fd: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(fd, Interest::READABLE)
}

async fn hear(inner: Rc<Inner>) {
    let control = inner.control.try_clone().and_then(watch);
    let control = match control {
        Ok(control) => control,
        Err(error) => {
            tracing::error!(worker = %inner.given.worker, %error, "cannot hear the manager");
            return orphaned(&inner);
        }
    };
    loop {
        let Ok(mut ready) = control.readable().await else {
            return orphaned(&inner);
        };
        match handover::told::<ToWorker>(control.get_ref().as_fd()) {
            Ok(Told::Nothing) => ready.clear_ready(),
            Ok(Told::End) => return orphaned(&inner),
            Ok(Told::Message(message, fds)) => heard(&inner, message, fds),
            Err(error) => {
                tracing::error!(worker = %inner.given.worker, %error, "cannot understand the manager");
                return orphaned(&inner);
            }
        }
    }
}

fn heard(inner: &Inner, message: ToWorker, fds: Vec<std::os::fd::OwnedFd>) {
    match message {
        ToWorker::Workers { ready, crashed } => inner.workers_changed(ready, &crashed),
        ToWorker::Drain { reason, within_ms } => {
            inner.begin_drain(reason, Duration::from_millis(within_ms));
        }
        ToWorker::Probe => inner.tell(&ToManager::Here),
        ToWorker::Settings => {
            if let Some(settings) = read(inner, fds) {
                *inner.new_settings.borrow_mut() = Some(settings);
                inner.changed();
            }
        }
        ToWorker::Places => match read(inner, fds).map(|text| serde_json::from_slice(&text)) {
            Some(Ok(places)) => inner.jobs.places_changed(places),
            Some(Err(error)) => {
                tracing::error!(worker = %inner.given.worker, %error, "cannot read where farms are");
            }
            None => {}
        },
    }
}

/// Reads the memory file that came along with a message.
fn read(inner: &Inner, fds: Vec<std::os::fd::OwnedFd>) -> Option<Vec<u8>> {
    match fds.first().map(sys::read_memfd) {
        Some(Ok(text)) => return Some(text),
        Some(Err(error)) => {
            tracing::error!(worker = %inner.given.worker, %error, "cannot read what the manager gives");
        }
        None => {
            tracing::error!(worker = %inner.given.worker, "the manager gives something without a file");
        }
    }
    None
}

/// The manager has died: nobody would replace or kill this worker any more. It drains, and ends itself when that takes too long.
fn orphaned(inner: &Rc<Inner>) {
    tracing::warn!(worker = %inner.given.worker, "the manager has gone");
    let within = Duration::from_millis(inner.given.orphan_ms);
    inner.begin_drain(DrainReason::Retire, within);
    if !inner.ends_itself() {
        return;
    }
    let inner = inner.clone();
    tokio::task::spawn_local(async move {
        tokio::time::sleep(within).await;
        tracing::warn!(worker = %inner.given.worker, "did not drain in time: ends");
        std::process::exit(1);
    });
}

fn listen(inner: Rc<Inner>, signals: sys::SignalFd) {
    tokio::task::spawn_local(async move {
        let Ok(signals) = watch(signals) else {
            tracing::error!(worker = %inner.given.worker, "cannot wait for signals");
            return;
        };
        while let Ok(mut ready) = signals.readable().await {
            match signals.get_ref().take() {
                Ok(Some(Signal::Terminate | Signal::Interrupt)) => {
                    inner.tell(&ToManager::Draining);
                    inner.begin_drain(DrainReason::Stop, TERMINATED);
                }
                Ok(Some(_)) => {}
                Ok(None) => ready.clear_ready(),
                Err(error) => {
                    tracing::error!(worker = %inner.given.worker, %error, "cannot read signals");
                    return;
                }
            }
        }
    });
}

/// Measures how much of each second this thread was running, as long as there is something to do.
async fn meter(inner: Rc<Inner>) {
    loop {
        inner.metering.set(false);
        inner.meter.notified().await;
        inner.metering.set(true);
        loop {
            inner.touched.set(false);
            let (begun, used) = (Instant::now(), sys::cpu_time());
            tokio::time::sleep(METER).await;
            let running = sys::cpu_time().saturating_sub(used).as_micros();
            let load = running * 1000 / begun.elapsed().as_micros().max(1);
            let load = u32::try_from(load).unwrap_or(1000).min(1000);
            let rests = load < IDLE && !inner.touched.get();
            inner.slot().load().store(if rests { 0 } else { load }, Relaxed);
            inner.judge();
            if rests {
                break;
            }
        }
    }
}
