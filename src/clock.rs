//! Time: the only place that asks the operating system for it. Everything else is given a [`Clock`] or a
//! value of it, so that tests can set the time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A moment as milliseconds since 1970-01-01T00:00:00Z: the unit of `exp` in tokens and of `expires` in the
/// login answer (contract section 3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// This moment plus `d`; stays at the largest value instead of wrapping.
    #[must_use]
    pub fn plus(self, d: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(d.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this moment is; zero when it is not later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Debug for UnixMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

/// Where the time comes from: the system, or a value that a test sets.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    set: Option<Arc<AtomicU64>>,
}

impl Clock {
    /// The system's clock.
    #[must_use]
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands at `now` until [`Clock::set`] moves it; clones move together.
    #[must_use]
    pub fn manual(now: UnixMillis) -> Self {
        Self { set: Some(Arc::new(AtomicU64::new(now.0))) }
    }

    /// Moves a manual clock; without effect on the system's.
    pub fn set(&self, now: UnixMillis) {
        if let Some(set) = &self.set {
            set.store(now.0, Ordering::Relaxed);
        }
    }

    /// The wall clock. Before 1970 it reads 0.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now(&self) -> UnixMillis {
        match &self.set {
            Some(set) => UnixMillis(set.load(Ordering::Relaxed)),
            None => UnixMillis(
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX)),
            ),
        }
    }

    /// As [`Clock::now`], as finely as the system has it.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn precisely(&self) -> SystemTime {
        match &self.set {
            Some(set) => UNIX_EPOCH + Duration::from_millis(set.load(Ordering::Relaxed)),
            None => SystemTime::now(),
        }
    }
}

/// The monotonic clock, for durations within this process.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn monotonic() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_and_its_clones_move_together() {
        let clock = Clock::manual(UnixMillis(5));
        let other = clock.clone();
        clock.set(UnixMillis(9));
        assert_eq!(other.now(), UnixMillis(9));
    }

    #[test]
    fn sums_and_differences_do_not_wrap() {
        assert_eq!(UnixMillis(u64::MAX).plus(Duration::from_secs(1)), UnixMillis(u64::MAX));
        assert_eq!(UnixMillis(1).since(UnixMillis(2)), Duration::ZERO);
    }
}
