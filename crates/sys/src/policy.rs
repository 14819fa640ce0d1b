//! How the kernel shares cores between this process and others.

use std::io;

/// Asks the kernel to let whoever runs go on when this process has something to do (`SCHED_BATCH`): it then finds more to do at
/// once. Applies to this thread and to those it starts. A policy that somebody chose for this process is left as it is.
pub fn work_in_batches() -> io::Result<()> {
    // SAFETY: the call takes a number and gives one.
    let policy = unsafe { libc::sched_getscheduler(0) };
    if policy != libc::SCHED_OTHER {
        return if policy < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    }
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: the parameters live through the call, which only reads them.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_is_taken_and_a_chosen_one_is_left() {
        let policy = || {
            // SAFETY: as above.
            unsafe { libc::sched_getscheduler(0) }
        };
        // The policy is a thread's own: that of the test's other threads stays.
        let seen = std::thread::spawn(move || {
            work_in_batches().expect("anybody may");
            let batch = policy();
            let parameters = libc::sched_param { sched_priority: 0 };
            // SAFETY: as above.
            let idle =
                unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
            assert_eq!(idle, 0);
            work_in_batches().expect("nothing to do");
            (batch, policy())
        });
        assert_eq!(seen.join().expect("no panic"), (libc::SCHED_BATCH, libc::SCHED_IDLE));
    }
}
