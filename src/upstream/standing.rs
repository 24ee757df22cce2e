//! What requests say of a server (passive health): one that fails several in a row is left out for a time, then tried by
//! one request, and takes its share gradually once it is back. Shared by all threads; written on failures, and on the
//! success that ends them, so that a request to a server without fault only reads.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::clock::monotonic;

/// In how long a server that has come back grows into its share.
pub(super) const SLOW_START: Duration = Duration::from_secs(10);
/// How often of 256 it takes part at first.
const FIRST_SHARE: u64 = 26;
const WHOLE: u64 = 256;

/// `eject = { failures, base, max }`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EjectSettings {
    /// In a row; 0: never.
    pub failures: u32,
    /// How long at first; doubled each time.
    pub base: Duration,
    pub max: Duration,
}

impl Default for EjectSettings {
    fn default() -> Self {
        Self { failures: 5, base: Duration::from_secs(5), max: Duration::from_secs(60) }
    }
}

/// Where a server stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    In,
    /// Its time is over: the one request that claims it tries it.
    Due,
    /// Left out; the number is smaller the sooner it is due.
    Out(u64),
}

/// Times are milliseconds since `born`, never 0.
#[derive(Debug)]
pub(super) struct Standing {
    born: Instant,
    /// In a row.
    failures: AtomicU32,
    /// 0 while it is in; else until when it is out, and in the last bit whether a request tries it.
    out: AtomicU64,
    /// Ejections since it was last well for long.
    times: AtomicU32,
    /// When it came back; 0: it was never away.
    back: AtomicU64,
}

impl Standing {
    pub(super) fn new() -> Self {
        let (failures, times) = (AtomicU32::new(0), AtomicU32::new(0));
        Self { born: monotonic(), failures, out: AtomicU64::new(0), times, back: AtomicU64::new(0) }
    }

    fn at(&self, now: Instant) -> u64 {
        millis(now.saturating_duration_since(self.born)).saturating_add(1)
    }

    pub(super) fn place(&self, now: Instant) -> Place {
        match self.out.load(Ordering::Relaxed) {
            0 => Place::In,
            out if self.at(now) < out >> 1 => Place::Out(out >> 1),
            _ => Place::Due,
        }
    }

    pub(super) fn is_out(&self) -> bool {
        self.out.load(Ordering::Relaxed) != 0
    }

    /// Whether the request that asks is the one to try a server that is due. Should nothing become of that request,
    /// another may after `base`.
    pub(super) fn claim(&self, now: Instant, base: Duration) -> bool {
        let out = self.out.load(Ordering::Relaxed);
        let now = self.at(now);
        let tried = (now.saturating_add(millis(base)) << 1) | 1;
        let is_due = out != 0 && now >= out >> 1;
        is_due && self.out.compare_exchange(out, tried, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// It answered.
    pub(super) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        let out = self.out.load(Ordering::Relaxed);
        // What it answers that began before it was ejected does not bring it back.
        let is_tried = out & 1 == 1;
        if is_tried && self.out.compare_exchange(out, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.came_back();
        }
    }

    /// It takes its share gradually from here on.
    pub(super) fn came_back(&self) {
        self.back.store(self.at(monotonic()), Ordering::Relaxed);
    }

    /// It did not answer. Whether it is to be ejected now: for so many failures in a row, or for the one of the request
    /// that tried it.
    pub(super) fn failed(&self, limit: u32) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        match self.out.load(Ordering::Relaxed) {
            0 => limit > 0 && failures >= limit,
            out => out & 1 == 1,
        }
    }

    #[cfg(test)]
    pub(super) fn failures_in_a_row(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Leaves it out from now on; for how long. Whoever was well for `max` begins at `base` again. None: another was
    /// faster. Called by one at a time.
    pub(super) fn eject(&self, now: Instant, settings: &EjectSettings) -> Option<Duration> {
        let now = self.at(now);
        let out = self.out.load(Ordering::Relaxed);
        let (was_in, is_tried) = (out == 0, out & 1 == 1);
        if !was_in && !is_tried {
            return None;
        }
        let well = now.saturating_sub(self.back.load(Ordering::Relaxed));
        if was_in && well >= millis(settings.max) {
            self.times.store(0, Ordering::Relaxed);
        }
        let times = self.times.fetch_add(1, Ordering::Relaxed).min(16);
        let time = settings.base.saturating_mul(1 << times).min(settings.max);
        self.failures.store(0, Ordering::Relaxed);
        self.out.store(now.saturating_add(millis(time)) << 1, Ordering::Relaxed);
        Some(time)
    }

    /// Whether a server that is in takes part in a choice; `dice` is from 0 to 255.
    pub(super) fn takes_part(&self, now: Instant, dice: u8) -> bool {
        let back = self.back.load(Ordering::Relaxed);
        if back == 0 {
            return true;
        }
        let age = self.at(now).saturating_sub(back);
        u64::from(dice) < FIRST_SHARE + age.saturating_mul(WHOLE - FIRST_SHARE) / millis(SLOW_START)
    }
}

fn millis(duration: Duration) -> u64 {
    // Half of what there is: shifts have room.
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).min(u64::MAX >> 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const EJECT: EjectSettings =
        EjectSettings { failures: 3, base: Duration::from_secs(5), max: Duration::from_secs(60) };

    fn seconds(standing: &Standing, n: u64) -> Instant {
        standing.born + Duration::from_secs(n)
    }

    #[test]
    fn failures_in_a_row_count_and_a_success_ends_the_row() {
        let standing = Standing::new();
        assert!(!standing.failed(3) && !standing.failed(3));
        standing.succeeded();
        assert!(!standing.failed(3) && !standing.failed(3) && standing.failed(3));
        let never = Standing::new();
        assert!((0..100).all(|_| !never.failed(0)));
    }

    #[test]
    fn out_then_due_then_one_tries_it_and_its_answer_brings_it_back() {
        let standing = Standing::new();
        let at = |n| seconds(&standing, n);
        assert_eq!(standing.eject(at(0), &EJECT), Some(Duration::from_secs(5)));
        assert_eq!(standing.eject(at(0), &EJECT), None, "two failed at once");
        assert!(matches!(standing.place(at(4)), Place::Out(_)));
        assert!(!standing.claim(at(4), EJECT.base), "not due yet");
        standing.succeeded();
        assert!(standing.is_out(), "an answer to what began before");
        assert_eq!(standing.place(at(6)), Place::Due);
        assert!(standing.claim(at(6), EJECT.base) && !standing.claim(at(6), EJECT.base), "one of two");
        assert!(matches!(standing.place(at(7)), Place::Out(_)), "while it is tried");
        assert_eq!(standing.place(at(12)), Place::Due, "nothing came of the one");
        standing.succeeded();
        assert_eq!(standing.place(at(7)), Place::In);
    }

    #[test]
    fn the_time_doubles_up_to_the_most_and_is_forgiven() {
        let standing = Standing::new();
        let (mut now, mut times) = (standing.born, Vec::new());
        for _ in 0..6 {
            let time = standing.eject(now, &EJECT).unwrap();
            times.push(time.as_secs());
            now += time;
            assert!(standing.claim(now + Duration::from_millis(1), EJECT.base));
            assert!(standing.failed(3), "the one that tried it failed");
        }
        assert_eq!(times, [5, 10, 20, 40, 60, 60]);
        assert!(standing.claim(now + Duration::from_millis(9), EJECT.base) || standing.is_out());
        standing.succeeded();
        // It came back at the machine's own time: just now.
        let again = |n| standing.eject(seconds(&standing, n), &EJECT).unwrap().as_secs();
        assert_eq!(again(30), 60, "well for too short");
        standing.out.store(0, Ordering::Relaxed);
        assert_eq!(again(90), 5, "well for long");
    }

    #[test]
    fn a_share_grows_from_a_tenth_to_the_whole() {
        let standing = Standing::new();
        let share = |now| (0..=u8::MAX).filter(|dice| standing.takes_part(now, *dice)).count();
        assert_eq!(share(seconds(&standing, 0)), 256, "never away");
        standing.came_back();
        let back = monotonic();
        let shares: Vec<_> = (0..=10).map(|n| share(back + Duration::from_secs(n))).collect();
        assert!((26..=30).contains(&shares[0]) && shares[10] == 256, "{shares:?}");
        assert!(shares.windows(2).all(|pair| pair[0] < pair[1]), "{shares:?}");
    }
}
