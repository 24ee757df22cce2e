//! Sessions of an engine that were ended here while the engine may still know them: none of them is adopted again.

use std::collections::{BTreeSet, HashMap};

use crate::clock::UnixMillis;
use crate::secret::{KeyHash, PassThroughBuild};

/// One that has ended, until it would have expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Barred {
    pub id: KeyHash,
    pub expires: UnixMillis,
}

#[derive(Default)]
pub(super) struct BarredSessions {
    expires: HashMap<KeyHash, UnixMillis, PassThroughBuild>,
    by_expiry: BTreeSet<(UnixMillis, KeyHash)>,
}

impl BarredSessions {
    pub(super) fn add(&mut self, Barred { id, expires }: Barred) {
        self.remove(&id);
        self.expires.insert(id, expires);
        self.by_expiry.insert((expires, id));
    }

    pub(super) fn has(&self, id: &KeyHash) -> bool {
        self.expires.contains_key(id)
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, id: &KeyHash) -> bool {
        let known = self.expires.remove(id);
        known.is_some_and(|expires| self.by_expiry.remove(&(expires, *id)))
    }

    /// Takes out at most `portion` of those that have expired at `now`.
    pub(super) fn take_expired(&mut self, now: UnixMillis, portion: usize) -> Vec<KeyHash> {
        let due: Vec<_> =
            self.by_expiry.iter().take_while(|(at, _)| *at <= now).take(portion).map(|(_, id)| *id).collect();
        for id in &due {
            self.remove(id);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_barred_until_it_would_have_expired() {
        let (a, b) = (KeyHash::of("a"), KeyHash::of("b"));
        let mut barred = BarredSessions::default();
        barred.add(Barred { id: a, expires: UnixMillis(5) });
        barred.add(Barred { id: b, expires: UnixMillis(9) });
        barred.add(Barred { id: a, expires: UnixMillis(7) });
        assert!(barred.take_expired(UnixMillis(6), 9).is_empty() && barred.has(&a));
        assert_eq!(barred.take_expired(UnixMillis(9), 1), [a]);
        assert!(!barred.has(&a) && barred.remove(&b) && !barred.remove(&b));
    }
}
