//! Which server gets a request. Each thread counts for itself.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

use super::Balance;
use super::pool::Lane;

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoServer {
    /// None is healthy.
    Unhealthy,
    /// All were tried, or there are none.
    Exhausted,
}

/// The choice among one upstream's servers.
#[derive(Debug)]
pub(super) struct Balancer {
    how: Balance,
    cursor: Cell<usize>,
}

impl Balancer {
    pub(super) fn new(how: Balance) -> Self {
        Self { how, cursor: Cell::new(0) }
    }

    /// A healthy server that is not in `tried`; one that could not be reached a moment ago only if there is no other.
    pub(super) fn pick(
        &self,
        lanes: &[Rc<Lane>],
        tried: &[usize],
        now: Instant,
    ) -> Result<(usize, Rc<Lane>), NoServer> {
        if !lanes.is_empty() && !lanes.iter().any(|lane| lane.is_healthy()) {
            return Err(NoServer::Unhealthy);
        }
        let start = self.cursor.get();
        self.cursor.set(start.wrapping_add(1));
        let rotated = (0..lanes.len()).map(|i| (start.wrapping_add(i)) % lanes.len());
        let open = rotated.filter_map(|i| Some((i, lanes.get(i)?)));
        let good = open.filter(|(i, lane)| lane.is_healthy() && !tried.contains(i));
        let cost = |lane: &Lane| match self.how {
            Balance::LeastRequest => (lane.is_shunned(now), lane.outstanding()),
            Balance::RoundRobin => (lane.is_shunned(now), 0),
        };
        // The first of equals wins, so ties rotate with the cursor.
        let best = good.min_by_key(|(_, lane)| cost(lane));
        best.map(|(i, lane)| (i, lane.clone())).ok_or(NoServer::Exhausted)
    }
}
