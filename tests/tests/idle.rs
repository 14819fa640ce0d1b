//! Managers are small, and farms that have nothing to do do nothing.

use std::time::Duration;

use tests::{Sink, Site, burst, cpu_ticks, descendants, rss_kib, threads, title};

/// How long the idle farms are watched.
const WATCHED: Duration = Duration::from_secs(10);

/// What all processes together may use meanwhile, in hundredths of a second: a thousandth of one CPU, and a tick for rounding.
const TICKS_MAX: u64 = 2;

/// Resident memory of a manager, in KiB.
const MANAGER_RSS_MAX: u64 = 6 * 1024;

#[test]
fn idle_farms_use_no_cpu_and_managers_are_small() {
    let site = Site::new();
    let sink = Sink::start(site.sink.number);
    let grange = site.start();
    burst(site.smtp.number, 500, 10, "recipient@sink.example");
    sink.wait(500);
    site.wait_empty();

    let family = descendants(grange.pid());
    let managers: Vec<u32> = family
        .iter()
        .copied()
        .filter(|pid| title(*pid).is_some_and(|title| title.contains(" farm ")))
        .chain([grange.pid()])
        .collect();
    assert!(managers.len() >= 6, "a manager for each farm, and the program itself: {managers:?}");
    for pid in managers {
        let name = title(pid).unwrap_or_default();
        assert_eq!(threads(pid), Some(1), "{name}");
        let rss = rss_kib(pid).expect("a living process");
        assert!(rss < MANAGER_RSS_MAX, "{name} has {rss} KiB");
    }
    for pid in &family {
        let name = title(*pid).unwrap_or_default();
        assert!(name.starts_with("grange"), "ps shows {name}");
    }

    // What they did for the mail is over when two looks a second apart are the same.
    let mut last = ticks(&family);
    tests::until("the farms come to rest", || {
        std::thread::sleep(Duration::from_secs(1));
        let now = ticks(&family);
        let rest = now == last;
        last = now;
        rest.then_some(())
    });
    std::thread::sleep(WATCHED);
    let used = ticks(&family) - last;
    assert!(used <= TICKS_MAX, "{used} hundredths of a second in {WATCHED:?}");
    assert!(grange.stop().success());
}

fn ticks(family: &[u32]) -> u64 {
    family.iter().filter_map(|pid| cpu_ticks(*pid)).sum()
}
