//! What a round costs and how rounds are put together.

use std::time::Duration;

use crate::Failure;

/// Ticks in a second of `/proc/stat`, which Linux fixes at 100 for user space.
const TICKS: f64 = 100.0;

/// CPU time that all processes of the machine have used since it started.
pub(super) fn machine_cpu() -> Result<Duration, Failure> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("cpu "))
        .ok_or("no cpu line in /proc/stat")?;
    let ticks: Vec<u64> = line.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    // user nice system idle iowait irq softirq; what is stolen and what guests use is not work of ours.
    let busy: u64 = [0, 1, 2, 5, 6].iter().filter_map(|place| ticks.get(*place)).sum();
    Ok(Duration::from_secs_f64(busy as f64 / TICKS))
}

/// The median; of an even number, the mean of the middle two.
pub(super) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle).copied().unwrap_or(f64::NAN);
    if values.len() % 2 == 1 {
        return upper;
    }
    let lower = middle.checked_sub(1).and_then(|place| values.get(place)).copied();
    lower.map_or(upper, |lower| (lower + upper) / 2.0)
}

/// The values that these parts of all are not above.
pub(super) fn percentile<const N: usize>(mut values: Vec<f64>, parts: [f64; N]) -> [f64; N] {
    values.sort_by(f64::total_cmp);
    parts.map(|part| {
        let place = (part * values.len() as f64).ceil() as usize;
        values.get(place.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let values: Vec<f64> = (1..=1000).rev().map(f64::from).collect();
        assert_eq!(percentile(values, [0.5, 0.99, 0.999]), [500.0, 990.0, 999.0]);
        assert_eq!(percentile(vec![7.0], [0.5, 0.999]), [7.0, 7.0]);
    }

    #[test]
    fn medians() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(vec![]).is_nan());
    }
}
