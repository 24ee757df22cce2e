//! Durations counted in fixed classes.

use std::time::Duration;

/// The upper bounds of the classes, in seconds: from what a gateway beside its backend takes to what a slow report
/// takes.
pub const BOUNDS: [f64; 16] =
    [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// [`BOUNDS`] in microseconds.
const MICROS: [u64; BOUNDS.len()] = [
    250, 500, 1000, 2500, 5000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 60_000_000,
];

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Histogram {
    /// How many fell into each class; the last has no upper bound.
    classes: [u64; BOUNDS.len() + 1],
    micros: u64,
}

impl Histogram {
    pub fn add(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let class = MICROS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        if let Some(count) = self.classes.get_mut(class) {
            *count += 1;
        }
        self.micros = self.micros.saturating_add(micros);
    }

    pub fn merge(&mut self, other: &Self) {
        self.classes.iter_mut().zip(other.classes).for_each(|(mine, theirs)| *mine += theirs);
        self.micros = self.micros.saturating_add(other.micros);
    }

    /// In seconds.
    #[must_use]
    pub fn sum(&self) -> f64 {
        Duration::from_micros(self.micros).as_secs_f64()
    }

    #[must_use]
    pub fn count(&self) -> u64 {
        self.classes.iter().sum()
    }

    /// Each class's upper bound (the last is infinite) and how many fell into it alone.
    #[must_use]
    pub fn classes(&self) -> Vec<(f64, u64)> {
        BOUNDS.into_iter().chain([f64::MAX]).zip(self.classes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_class_that_holds_it() {
        let mut histogram = Histogram::default();
        for micros in [0, 250, 251, 60_000_000, 60_000_001] {
            histogram.add(Duration::from_micros(micros));
        }
        let filled: Vec<_> = histogram.classes().into_iter().filter(|(_, n)| *n > 0).collect();
        assert_eq!(filled, [(0.00025, 2), (0.0005, 1), (60.0, 1), (f64::MAX, 1)]);
        assert_eq!(histogram.count(), 5);
        assert!((histogram.sum() - 120.000_502).abs() < 1e-9);
    }

    #[test]
    fn bounds_are_the_same_in_both_units_and_rise() {
        for (seconds, micros) in BOUNDS.iter().zip(MICROS) {
            assert_eq!(Duration::from_secs_f64(*seconds), Duration::from_micros(micros));
        }
        assert!(MICROS.is_sorted());
    }

    #[test]
    fn merging_adds() {
        let (mut a, mut b) = (Histogram::default(), Histogram::default());
        a.add(Duration::from_millis(1));
        b.add(Duration::from_millis(1));
        b.add(Duration::from_millis(3));
        a.merge(&b);
        assert_eq!((a.count(), a.sum()), (3, 0.005));
    }
}
