//! Deadlines and draining.

use super::*;

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(Default::default())
        .expect("a runtime");
    runtime.block_on(future)
}

#[test]
fn a_deadline_ends_a_wait() {
    run(async {
        let watch = Rc::new(Watch::default());
        let timer = watch.timer();
        timer.set(Instant::now());
        let ended = timer.guard(Drain::Waits, std::future::pending::<()>()).await;
        assert_eq!(ended, Err(Interrupt::Expired));
        timer.set(Instant::now() + Duration::from_secs(3600));
        assert_eq!(timer.guard(Drain::Waits, async { 7 }).await, Ok(7));
    });
}

#[test]
fn draining_ends_the_waits_that_it_may() {
    run(async {
        let watch = Rc::new(Watch::default());
        let (early, late) = (watch.timer(), watch.timer());
        let waiting = tokio::task::spawn_local({
            let early = Rc::clone(&early);
            async move { early.guard(Drain::Ends, std::future::pending::<()>()).await }
        });
        tokio::task::yield_now().await;
        watch.drain();
        assert_eq!(waiting.await.expect("the task ends"), Err(Interrupt::Draining));
        assert!(late.is_draining() && watch.timer().is_draining());
        late.set(Instant::now());
        let ended = late.guard(Drain::Waits, std::future::pending::<()>()).await;
        assert_eq!(ended, Err(Interrupt::Expired));
    });
}

#[test]
fn without_sessions_nothing_ticks() {
    run(async {
        let watch = Rc::new(Watch::default());
        drop(watch.timer());
        tokio::time::timeout(Duration::from_secs(60), async {
            while watch.is_ticking.get() {
                tokio::time::sleep(TICK).await;
            }
        })
        .await
        .expect("the clock stops");
        assert!(watch.timers.borrow().is_empty());
    });
}
