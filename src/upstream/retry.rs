//! Which servers were tried for a request, and how many tries more the thread may make: a share of its requests, so that
//! an upstream that fails is not asked twice as much for it.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Instant;

use super::pool::Lane;
use crate::clock::monotonic;

/// What a retry costs, when a request earns 1.
const COST: u32 = 5;
/// What a second earns by itself: three retries.
const PER_SECOND: u128 = 3 * COST as u128;
/// What is there at first, and the most that is saved.
const FIRST: u32 = 10 * COST;
const MOST: u32 = 100 * COST;

/// The retries that a thread may make at one upstream: a fifth of its requests and three a second.
#[derive(Debug)]
pub(super) struct Budget {
    saved: Cell<u32>,
    since: Cell<Instant>,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { saved: Cell::new(FIRST), since: Cell::new(monotonic()) }
    }

    /// A request has come.
    pub(super) fn earn(&self) {
        self.saved.set((self.saved.get() + 1).min(MOST));
    }

    /// Whether one more try may be made.
    pub(super) fn spend(&self, now: Instant) -> bool {
        let millis = now.saturating_duration_since(self.since.get()).as_millis();
        let earned = u32::try_from(millis * PER_SECOND / 1000).unwrap_or(MOST).min(MOST);
        if earned > 0 {
            self.since.set(now);
        }
        let saved = (self.saved.get() + earned).min(MOST);
        let left = saved.checked_sub(COST);
        self.saved.set(left.unwrap_or(saved));
        left.is_some()
    }
}

/// The servers that were tried for one request, and what the last one failed with.
#[derive(Default)]
pub(super) struct Tried {
    servers: Vec<Rc<Lane>>,
    pub(super) last: Option<io::Error>,
}

impl Tried {
    pub(super) fn add(&mut self, lane: &Rc<Lane>) {
        self.servers.push(lane.clone());
    }

    pub(super) fn count(&self) -> usize {
        self.servers.len()
    }

    pub(super) fn has(&self, lane: &Rc<Lane>) -> bool {
        self.servers.iter().any(|tried| Rc::ptr_eq(tried, lane))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn retries_are_a_fifth_of_the_requests_and_a_few_a_second() {
        let budget = Budget::new();
        let start = budget.since.get();
        let spent = |now| (0..1000).filter(|_| budget.spend(now)).count();
        assert_eq!(spent(start), 10);
        (0..100).for_each(|_| budget.earn());
        assert_eq!(spent(start), 20);
        assert_eq!(spent(start + Duration::from_secs(2)), 6);
        (0..10_000).for_each(|_| budget.earn());
        assert_eq!(spent(start + Duration::from_secs(2)), 100, "what is saved has an end");
    }
}
