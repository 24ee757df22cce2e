//! Which server gets a request. Each thread counts for itself.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::pool::Lane;
use super::retry::Tried;
use super::standing::Place;
use super::{Balance, UpstreamSettings};

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
    /// How long a request has to try a server that was ejected, before another may.
    trial: Duration,
    cursor: Cell<usize>,
}

/// What speaks for a server; the first is the best.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// It was ejected and is to be tried: one request is enough, so it goes there.
    Due,
    /// The requests that this thread has there; 0 where turns are taken.
    In(usize),
    /// It could not be reached a moment ago, or came back a moment ago and it is not its turn yet.
    Spared(usize),
    /// Ejected; sooner due is better. Asked only if there is no other: requests alone never leave an upstream without
    /// a server, since a wrong verdict on all of them would be worse than the fault. Health checks do, to 503.
    Out(u64),
}

impl Balancer {
    pub(super) fn new(settings: &UpstreamSettings) -> Self {
        Self { how: settings.balance, trial: settings.eject.base, cursor: Cell::new(0) }
    }

    /// A healthy server that was not tried, the best there is.
    pub(super) fn pick(&self, lanes: &[Rc<Lane>], tried: &Tried, now: Instant) -> Result<Rc<Lane>, NoServer> {
        if !lanes.is_empty() && !lanes.iter().any(|lane| lane.is_healthy()) {
            return Err(NoServer::Unhealthy);
        }
        let start = self.cursor.get();
        self.cursor.set(start.wrapping_add(1));
        let dice = dice(start);
        loop {
            let rotated = (0..lanes.len()).filter_map(|i| lanes.get(start.wrapping_add(i) % lanes.len()));
            let good = rotated.filter(|lane| lane.is_healthy() && !tried.has(lane));
            // The first of equals wins, so ties rotate with the cursor.
            let ranked = good.map(|lane| (self.rank(lane, now, dice), lane)).min_by(|a, b| a.0.cmp(&b.0));
            match ranked {
                // Another thread was faster: its rank is another now.
                Some((Rank::Due, lane)) if !lane.claim(now, self.trial) => {}
                Some((_, lane)) => return Ok(lane.clone()),
                None => return Err(NoServer::Exhausted),
            }
        }
    }

    fn rank(&self, lane: &Lane, now: Instant, dice: u8) -> Rank {
        let load = match self.how {
            Balance::LeastRequest => lane.outstanding(),
            Balance::RoundRobin => 0,
        };
        match lane.place(now) {
            Place::In if lane.is_shunned(now) || !lane.takes_part(now, dice) => Rank::Spared(load),
            Place::In => Rank::In(load),
            Place::Due => Rank::Due,
            Place::Out(until) => Rank::Out(until),
        }
    }
}

/// Spread evenly over the choices that follow each other.
fn dice(n: usize) -> u8 {
    let [high, ..] = (n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    high
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_are_fair_also_for_every_second_and_third_choice() {
        for step in 1..=4 {
            let below = (0..4000).filter(|n| dice(n * step) < 64).count();
            assert!((900..=1100).contains(&below), "{step}: {below}");
        }
    }
}
