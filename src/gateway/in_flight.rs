//! `limits.max_requests`: how many exchanges are in flight, over all threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts the exchanges in flight.
#[derive(Clone, Debug, Default)]
pub struct InFlightCount(Arc<AtomicUsize>);

/// A place among them; given back when dropped.
#[derive(Debug)]
pub struct InFlight(Arc<AtomicUsize>);

impl InFlightCount {
    /// A place, unless `max` are taken.
    #[must_use]
    pub fn enter(&self, max: usize) -> Option<InFlight> {
        if self.0.fetch_add(1, Ordering::Relaxed) >= max {
            self.0.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(InFlight(Arc::clone(&self.0)))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_again_once_it_is_given_back() {
        let count = InFlightCount::default();
        let (a, b) = (count.enter(2), count.enter(2));
        assert!(a.is_some() && b.is_some() && count.enter(2).is_none());
        drop(a);
        assert!(count.enter(2).is_some());
    }
}
