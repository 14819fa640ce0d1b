//! What an operator may write, and what is said of the rest.

use super::*;

#[test]
fn the_defaults_are_right_and_go_both_ways() {
    let settings = Settings::default();
    assert_eq!(settings.check(), Ok(()));
    let text = serde_json::to_string(&settings).expect("JSON");
    assert_eq!(serde_json::from_str::<Settings>(&text).expect("settings"), settings);
    assert_eq!(serde_json::from_str::<Settings>("{}").expect("settings"), settings);
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        (r#"{"retry":[]}"#, "scheduler.retry"),
        (r#"{"retry":["1m","0s"]}"#, "scheduler.retry[1]"),
        (r#"{"expire":"0s"}"#, "scheduler.expire"),
        (r#"{"lane_start":0}"#, "scheduler.lane_start"),
        (r#"{"lane_start":30}"#, "scheduler.lane_start"),
        (r#"{"lane_max":20000}"#, "scheduler.lane_max"),
        (r#"{"job_recipients":501}"#, "scheduler.job_recipients"),
        (r#"{"slow_after":"0s"}"#, "scheduler.slow_after"),
        (r#"{"deadline":"1s"}"#, "scheduler.deadline"),
        (r#"{"deadline_rate":0}"#, "scheduler.deadline_rate"),
        (r#"{"workers":{"concurrency":0}}"#, "scheduler.workers.concurrency"),
    ];
    for (text, key) in cases {
        let settings: Settings = serde_json::from_str(text).expect("types are right");
        assert_eq!(settings.check().map_err(|problem| problem.key), Err(key.to_owned()), "{text}");
    }
    assert!(serde_json::from_str::<Settings>(r#"{"retries":["1m"]}"#).is_err());
}
