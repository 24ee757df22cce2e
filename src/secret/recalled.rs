//! SHA-256 of credentials that were found good a moment ago, remembered by each thread: of 220 bytes of token it is the
//! largest part of what a check costs where the processor has no instructions for it.
//!
//! Nothing but the computing of a hash is spared: what is compared with a session is SHA-256 as ever, and nothing here
//! can be out of date. What was hashed is known again by a 128-bit pseudorandom function of it (SipHash-2-4) under a key that
//! the process drew and nobody sees, so two credentials are not taken for each other, however they are chosen.
//! Only good ones are remembered: a flood of forged ones pushes none out.

use siphasher::sip128::{Hasher128, SipHasher24};
use std::cell::RefCell;
use std::hash::Hasher;

use super::{KeyHash, TokenHash};

/// Of a set's places the one that is given away is chosen by the tag, which is as good as chance.
const WAYS: usize = 4;
/// 4096 credentials a thread, in 320 KiB.
const SETS: usize = 1024;

thread_local! {
    static RECALLED: RefCell<Recalled> = RefCell::new(Recalled::new());
}

/// What is kept of a key and the token it was presented with.
#[derive(Clone, Copy)]
pub struct Hashes {
    pub key: KeyHash,
    pub token: TokenHash,
}

/// A key and a token, as they are known again.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Tag(u128);

impl Tag {
    /// None where the process has no key of its own to make one with.
    #[must_use]
    pub fn of(key: &str, token: &str) -> Option<Self> {
        RECALLED.with_borrow(|recalled| recalled.tag(key, token))
    }

    /// The hashes of these credentials, if this thread has found them good lately.
    #[must_use]
    pub fn recall(self) -> Option<Hashes> {
        RECALLED.with_borrow(|recalled| recalled.get(self))
    }

    /// To be called for good credentials alone.
    pub fn remember(self, hashes: Hashes) {
        RECALLED.with_borrow_mut(|recalled| recalled.put(self, hashes));
    }
}

struct Recalled {
    prf: Option<SipHasher24>,
    /// Empty until the first is remembered: most threads check nobody.
    sets: Vec<[Option<(Tag, Hashes)>; WAYS]>,
}

impl Recalled {
    fn new() -> Self {
        let mut key = [0; 16];
        let drawn = aws_lc_rs::rand::fill(&mut key);
        Self { prf: drawn.is_ok().then(|| SipHasher24::new_with_key(&key)), sets: Vec::new() }
    }

    fn tag(&self, key: &str, token: &str) -> Option<Tag> {
        let mut prf = self.prf?;
        // The length says where the key ends.
        prf.write_usize(key.len());
        prf.write(key.as_bytes());
        prf.write(token.as_bytes());
        Some(Tag(prf.finish128().as_u128()))
    }

    fn get(&self, tag: Tag) -> Option<Hashes> {
        let set = self.sets.get(tag.set())?;
        set.iter().flatten().find(|(known, _)| *known == tag).map(|(_, hashes)| *hashes)
    }

    fn put(&mut self, tag: Tag, hashes: Hashes) {
        if self.sets.is_empty() {
            self.sets.resize(SETS, [None; WAYS]);
        }
        let Some(set) = self.sets.get_mut(tag.set()) else { return };
        let free = set.iter().position(|way| way.is_none_or(|(known, _)| known == tag));
        if let Some(way) = set.get_mut(free.unwrap_or(tag.way())) {
            *way = Some((tag, hashes));
        }
    }
}

impl Tag {
    fn set(self) -> usize {
        self.0 as usize % SETS
    }

    fn way(self) -> usize {
        (self.0 >> 64) as usize % WAYS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(key: &str, token: &str) -> Hashes {
        Hashes { key: KeyHash::of(key), token: TokenHash::of(token) }
    }

    fn recalled(key: &str, token: &str) -> Option<KeyHash> {
        Tag::of(key, token).unwrap().recall().map(|hashes| hashes.key)
    }

    #[test]
    fn what_was_remembered_is_recalled_and_nothing_else() {
        Tag::of("key", "token").unwrap().remember(hashes("key", "token"));
        assert_eq!(recalled("key", "token"), Some(KeyHash::of("key")));
        for (key, token) in
            [("key", "toke"), ("keyt", "oken"), ("ke", "ytoken"), ("", "keytoken"), ("KEY", "token")]
        {
            assert!(recalled(key, token).is_none(), "{key} {token}");
        }
    }

    #[test]
    fn a_thread_draws_its_own_key_and_recalls_its_own() {
        let tag = Tag::of("key", "token").unwrap();
        tag.remember(hashes("key", "token"));
        let other =
            std::thread::spawn(|| (Tag::of("key", "token").unwrap(), recalled("key", "token").is_some()));
        let (tag_of_other, is_recalled) = other.join().unwrap();
        assert!(tag != tag_of_other && !is_recalled);
    }

    #[test]
    fn old_ones_are_forgotten_and_none_is_mistaken() {
        let key = |n: usize| format!("key {n}");
        for n in 0..3 * SETS * WAYS {
            Tag::of(&key(n), "t").unwrap().remember(hashes(&key(n), "t"));
        }
        let mut kept = 0;
        for n in 0..3 * SETS * WAYS {
            if let Some(found) = recalled(&key(n), "t") {
                assert_eq!(found, KeyHash::of(&key(n)));
                kept += 1;
            }
        }
        assert!((SETS * WAYS / 2..=SETS * WAYS).contains(&kept), "{kept}");
    }
}
