//! All sessions page by page, in the order of the users' groups: a page reads what stands on it and not every session there
//! is. Where there are few sessions most sets are empty, and all of them are gone through instead.

use redis::{RedisError, cmd, from_redis_value};
use std::ops::Range;

use super::connect::{Connection, Fault};
use super::{STEP, go_through, sets, take_kept};
use crate::clock::Clock;
use crate::session::SessionRecord;
use crate::session::shared::{Fits, Kept, Position};

/// Keys that are gone through faster than the sets are looked at.
pub(super) const FEW_KEYS: u64 = 50_000;
/// Groups that are looked at in the first call: with ten million sessions they hold some thousand.
const FEW: u32 = 16;
/// And at most, where those before held little: in a cluster each is a question of its own.
const MANY: u32 = 512;

pub(super) async fn some(
    calls: &mut Connection,
    after: Option<Position>,
    least: usize,
    fits: Fits<'_>,
    few_keys: u64,
) -> Result<Vec<(Position, SessionRecord)>, Fault> {
    let wanted = |kept, groups: &Range<u32>| match kept {
        Kept::Record(record) if fits(&record) => {
            let position = Position { group: sets::group(&record.user), id: record.id };
            let is_wanted = groups.contains(&position.group) && after.is_none_or(|after| position > after);
            is_wanted.then_some((position, record))
        }
        Kept::Record(_) | Kept::Barred | Kept::Nothing => None,
    };
    let mut found = Vec::new();
    if count_keys(calls).await? <= few_keys {
        go_through(calls, |kept| found.extend(wanted(kept, &(0..sets::GROUPS)))).await?;
    } else {
        let (mut from, mut span) = (after.map_or(0, |after| after.group), FEW);
        while found.len() < least && from < sets::GROUPS {
            let groups = from..from.saturating_add(span).min(sets::GROUPS);
            let halves = halves_of(calls, groups.clone()).await?;
            for halves in halves.chunks(STEP) {
                take_kept(calls, halves, &mut |kept| found.extend(wanted(kept, &groups))).await?;
            }
            from = groups.end;
            if halves.len() < STEP {
                span = span.saturating_mul(2).min(MANY);
            }
        }
    }
    found.sort_unstable_by_key(|(position, _)| *position);
    Ok(found)
}

/// About as many as there are sessions: what else is there is little beside them.
pub(super) async fn count_keys(calls: &mut Connection) -> Result<u64, RedisError> {
    // Of a cluster the client sums what its masters say.
    calls.ask(&cmd("DBSIZE")).await
}

/// What stands in the sets of these groups and has not expired, each once, and what else stands there.
pub(super) async fn halves_of(calls: &mut Connection, groups: Range<u32>) -> Result<Vec<Vec<u8>>, Fault> {
    let now = Clock::system().now();
    let range = |key| cmd("ZRANGE").arg(key).arg(now.0).arg("+inf").arg("BYSCORE").clone();
    let mut all = Vec::new();
    for answer in calls.all(sets::keys(&groups).map(range).collect()).await? {
        let halves: Vec<Vec<u8>> = from_redis_value(answer).map_err(RedisError::from)?;
        all.extend(halves);
    }
    // What was written twice, with other sets in between, stands in both.
    all.sort_unstable();
    all.dedup();
    Ok(all)
}
