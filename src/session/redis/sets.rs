//! The sets that users' sessions are found by: which one is a user's, and how many there are.
//!
//! Redis packs a sorted set of up to 128 members tightly, and a set costs some 150 bytes by itself: a session takes 280 bytes
//! where a set holds 8 to 128, 426 where it holds one, 388 past 128. So there are as many sets as the sessions need. What is
//! written goes to the [`Level`] that fits now; what stands in another stays there until it ends, so that nothing is ever
//! moved, and who looks for sessions looks in all levels.

use std::ops::Range;

use crate::identity::UserName;
use crate::secret::sha256;

/// All users are in one of so many groups, those of one group in the same set. With ten million sessions one holds 76.
pub(super) const GROUPS: u32 = 1 << FINEST.0;

/// With more than that in a set on average the next level is written. Some sets hold more, and few of these more than 128.
/// Redis doubles its own tables at powers of two, which costs most just then: this is between them.
const FULL: u64 = 80;

/// So many bits of a group's number are the number of its set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Level(u32);

const FINEST: Level = Level(17);
/// Each with eight times as many sets as the one before. Its own hold one session each at first: by then ten times as many
/// are in sets that are full.
const LEVELS: [Level; 5] = [Level(5), Level(8), Level(11), Level(14), FINEST];

/// The group of a user.
pub(super) fn group(user: &UserName) -> u32 {
    let [a, b, c, d, ..] = sha256(user.as_str().as_bytes());
    u32::from_be_bytes([a, b, c, d]) % GROUPS
}

impl Level {
    /// Where to write, when there are about so many sessions.
    pub(super) fn fitting(sessions: u64) -> Self {
        LEVELS.into_iter().find(|level| sessions <= FULL << level.0).unwrap_or(FINEST)
    }

    /// The set of a group.
    pub(super) fn key(self, group: u32) -> String {
        let number = self.number(group);
        // As it was named when there was no other level.
        if self == FINEST { format!("postern:u:{number}") } else { format!("postern:u:{}:{number}", self.0) }
    }

    fn number(self, group: u32) -> u32 {
        group >> (FINEST.0 - self.0)
    }

    fn keys(self, groups: &Range<u32>) -> impl Iterator<Item = String> + use<> {
        let step = 1 << (FINEST.0 - self.0);
        (groups.start / step * step..groups.end).step_by(step as usize).map(move |group| self.key(group))
    }
}

/// The sets in which sessions of these groups may be, and others with them.
pub(super) fn keys(groups: &Range<u32>) -> impl Iterator<Item = String> + use<> {
    let groups = groups.clone();
    LEVELS.into_iter().flat_map(move |level| level.keys(&groups))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_sets_as_the_sessions_need() {
        for (sessions, bits) in
            [(0, 5), (2560, 5), (2561, 8), (163_840, 11), (163_841, 14), (1_310_721, 17), (u64::MAX, 17)]
        {
            assert_eq!(Level::fitting(sessions), Level(bits), "{sessions}");
        }
    }

    #[test]
    fn the_sets_of_a_group_are_one_a_level_and_the_finest_is_named_as_ever() {
        let of_one: Vec<_> = keys(&(77_777..77_778)).collect();
        let wanted = [
            "postern:u:5:18",
            "postern:u:8:151",
            "postern:u:11:1215",
            "postern:u:14:9722",
            "postern:u:77777",
        ];
        assert_eq!(of_one, wanted);
        assert!(LEVELS.into_iter().map(|level| level.key(77_777)).eq(of_one));
    }

    #[test]
    fn groups_in_a_row_share_sets_that_are_named_once() {
        let keys: Vec<_> = keys(&(60..130)).collect();
        let coarse: Vec<_> = keys.iter().filter(|key| key.starts_with("postern:u:11:")).collect();
        assert_eq!(coarse, ["postern:u:11:0", "postern:u:11:1", "postern:u:11:2"]);
        assert_eq!(keys.iter().filter(|key| key.matches(':').count() == 2).count(), 70);
        let mut once = keys.clone();
        once.sort();
        once.dedup();
        assert_eq!(once.len(), keys.len());
        assert_eq!(super::keys(&(0..GROUPS)).count(), LEVELS.iter().map(|level| 1 << level.0).sum::<usize>());
    }
}
