//! Medians, spreads and histograms.
//!
//! Owner: ringbench. Pure.

use hdrhistogram::Histogram;

/// Latencies are kept up to ten minutes, in microseconds, with three digits.
const LATENCY_US_MAX: u64 = 600_000_000;

/// A round's null may differ by this share before its set is measured again.
pub const SPREAD_MAX: f64 = 0.05;

/// The middle value, or the mean of the middle two; `None` of nothing.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        count if count % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// How far the values lie apart, as a share of their median. Zero of fewer than two.
pub fn spread(values: &[f64]) -> f64 {
    let Some(middle) = median(values).filter(|middle| *middle > 0.0) else { return 0.0 };
    let most = values.iter().copied().fold(f64::MIN, f64::max);
    let least = values.iter().copied().fold(f64::MAX, f64::min);
    (most - least) / middle
}

/// Microseconds.
pub type Latency = Histogram<u64>;

pub fn latency() -> Latency {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are valid")
}

/// A histogram as values with their counts: how it travels between processes.
pub fn to_counts(histogram: &Latency) -> Vec<(u64, u64)> {
    histogram.iter_recorded().map(|at| (at.value_iterated_to(), at.count_at_value())).collect()
}

pub fn add_counts(histogram: &mut Latency, counts: &[(u64, u64)]) {
    for (value, count) in counts {
        histogram.saturating_record_n(*value, *count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_spreads() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(spread(&[5.0]), 0.0);
        assert_eq!(spread(&[]), 0.0);
        assert!((spread(&[100.0, 104.0, 98.0]) - 0.06).abs() < 1e-9);
        assert!(spread(&[100.0, 104.0]) < SPREAD_MAX && spread(&[100.0, 94.0]) > SPREAD_MAX);
    }

    #[test]
    fn histograms_travel() {
        let mut histogram = latency();
        for value in [1, 50, 50, 7_000, 1_000_000] {
            histogram.saturating_record(value);
        }
        let mut arrived = latency();
        add_counts(&mut arrived, &to_counts(&histogram));
        assert_eq!(arrived.len(), 5);
        for quantile in [0.1, 0.5, 0.8, 1.0] {
            assert_eq!(arrived.value_at_quantile(quantile), histogram.value_at_quantile(quantile));
        }
    }
}
