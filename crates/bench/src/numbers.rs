//! Rates, medians, percentiles.

use std::time::Duration;

/// So many a second.
#[allow(clippy::cast_precision_loss, reason = "a count of events")]
pub(crate) fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// The one in the middle, or the mean of the two there.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 {
        return sorted[middle];
    }
    f64::midpoint(sorted[middle - 1], sorted[middle])
}

/// The time in milliseconds that so many of a thousand do not exceed.
pub(crate) fn per_mille(mut times: Vec<Duration>, of_thousand: usize) -> f64 {
    times.sort_unstable();
    let place = (times.len() * of_thousand).div_ceil(1000);
    times[place.max(1) - 1].as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_edge() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0]) - 2.5).abs() < 1e-9);
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        for (of_thousand, millis) in [(500, 100.0), (990, 198.0), (1000, 200.0), (1, 1.0)] {
            assert!((per_mille(times.clone(), of_thousand) - millis).abs() < 1e-9);
        }
    }
}
