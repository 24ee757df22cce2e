//! How far what a replica holds of a shared store can be trusted (contract section 2, `sessions.redis.max_stale`).

use std::sync::atomic::{AtomicU8, Ordering};

/// What is known of the store's ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fresh {
    /// The store has not been reached since the start.
    Starting,
    /// Every end is heard of as it happens.
    Current,
    /// The store is away, or what is held has not been compared with it yet: known sessions go on.
    Away,
    /// It has been so for longer than `max_stale`: nothing is known any more.
    Stale,
}

impl Fresh {
    /// Why new traffic is not wanted; none: it is.
    #[must_use]
    pub fn missing(self) -> Option<&'static str> {
        match self {
            Self::Starting => Some("the session store is not reached"),
            Self::Stale => Some("the session store is away longer than sessions.redis.max_stale"),
            Self::Current | Self::Away => None,
        }
    }
}

/// One word, read by each checked request and written when it changes: a cache line that all cores share.
#[derive(Debug, Default)]
pub struct Freshness(AtomicU8);

impl Freshness {
    #[must_use]
    pub fn get(&self) -> Fresh {
        match self.0.load(Ordering::Acquire) {
            0 => Fresh::Starting,
            1 => Fresh::Current,
            2 => Fresh::Away,
            _ => Fresh::Stale,
        }
    }

    /// Whether a session that is held here is good as far as it is known.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        matches!(self.get(), Fresh::Current | Fresh::Away)
    }

    #[must_use]
    pub fn is_current(&self) -> bool {
        self.get() == Fresh::Current
    }

    /// Returns what it was.
    pub(super) fn set(&self, fresh: Fresh) -> Fresh {
        let before = self.get();
        let word = match fresh {
            Fresh::Starting => 0,
            Fresh::Current => 1,
            Fresh::Away => 2,
            Fresh::Stale => 3,
        };
        self.0.store(word, Ordering::Release);
        before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_trusted_while_the_store_is_there_or_was_a_moment_ago() {
        let freshness = Freshness::default();
        assert_eq!(freshness.get(), Fresh::Starting);
        for (fresh, trusted, ready) in [
            (Fresh::Starting, false, false),
            (Fresh::Current, true, true),
            (Fresh::Away, true, true),
            (Fresh::Stale, false, false),
        ] {
            freshness.set(fresh);
            assert_eq!((freshness.get(), freshness.is_trusted()), (fresh, trusted));
            assert_eq!(fresh.missing().is_none(), ready);
        }
    }
}
