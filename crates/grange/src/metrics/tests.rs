use super::*;

/// What the farms keep, as the stages name it.
fn kept() -> Vec<(&'static str, &'static [&'static str])> {
    vec![
        ("smtpserver", smtpserver::COUNTERS),
        ("contentfilter", contentfilter::COUNTERS),
        ("router", router::COUNTERS),
        ("scheduler", scheduler::COUNTERS),
        ("requeue", requeue::COUNTERS),
        ("compact", compact::COUNTERS),
        ("agent", agent_smtp::COUNTERS),
        ("agent", agent_local::COUNTERS),
        ("agent", agent_error::COUNTERS),
    ]
}

#[test]
fn every_counter_is_explained_here_and_in_the_documents() {
    let page = include_str!("../../../../docs/metrics.md");
    for (stage, counters) in kept() {
        for counter in counters {
            let name = counter.strip_suffix("_total").expect("a counter's name");
            assert!(
                families::COUNTED.iter().any(|(of, counted, _)| (*of, *counted) == (stage, name)),
                "{stage} {name} is not explained"
            );
        }
    }
    for (stage, name, help) in families::COUNTED {
        let row = format!("| `grange_{stage}_{name}_total` | {help} |");
        assert!(page.contains(&row), "docs/metrics.md has no row {row}");
        let known = kept().iter().any(|(of, counters)| {
            of == stage
                && counters.iter().any(|counter| counter.strip_suffix("_total") == Some(name))
        });
        assert!(known, "nobody counts {stage} {name}");
    }
}

#[test]
fn a_silent_scheduler_is_seen_and_an_empty_queue_has_no_oldest() {
    let oldest = "grange_queue_oldest_accepted_timestamp_seconds";
    let empty = Status::default();
    let full = Status { oldest: Some(mail::Timestamp::from_millis(5_000)), ..Status::default() };
    for (status, up, line) in [
        (None, "grange_scheduler_up 0", None),
        (Some(&empty), "grange_scheduler_up 1", None),
        (Some(&full), "grange_scheduler_up 1", Some(format!("{oldest} 5"))),
    ] {
        let text = text_of(&[], status).unwrap();
        assert!(text.lines().any(|line| line == up), "{text}");
        let found = text.lines().find(|line| line.starts_with(oldest));
        assert_eq!(found.map(str::to_owned), line);
        assert_eq!(text.contains("grange_queue_lanes "), status.is_some());
        let page = include_str!("../../../../docs/metrics.md");
        for family in text.lines().filter_map(|line| line.strip_prefix("# HELP ")) {
            let name = family.split(' ').next().unwrap();
            assert!(page.contains(&format!("`{name}")), "{name} is not in docs/metrics.md");
        }
    }
}

#[test]
fn farms_of_channels_count_as_agents() {
    for (farm, stage) in [("router", "router"), ("smtp", "agent"), ("mine", "agent")] {
        assert_eq!(families::stage(farm), stage);
    }
}
