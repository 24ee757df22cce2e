//! All sessions page by page: through the users' sets in the order of their numbers, so that a page reads what stands on it
//! and not every session there is.

use redis::{RedisError, cmd, from_redis_value};

use super::connect::{Connection, Fault};
use super::{STEP, take_kept, wire};
use crate::clock::Clock;
use crate::session::SessionRecord;
use crate::session::shared::{Fits, Kept, Position};

/// Sets that are looked at in the first call: with ten million sessions they hold some thousand.
const FEW: u16 = 16;
/// And at most, where those before held little.
const MANY: u16 = 4096;

pub(super) async fn some(
    calls: &mut Connection,
    after: Option<Position>,
    least: usize,
    fits: Fits<'_>,
) -> Result<Vec<(Position, SessionRecord)>, Fault> {
    let (mut found, mut from, mut span) = (Vec::new(), after.map_or(0, |after| after.group), FEW);
    while found.len() < least && from < wire::BUCKETS {
        let to = from.saturating_add(span).min(wire::BUCKETS);
        let halves = halves_of(calls, from..to).await?;
        let mut take = |kept| {
            if let Kept::Record(record) = kept {
                let position = Position { group: wire::bucket(&record.user), id: record.id };
                if after.is_none_or(|after| position > after) && fits(&record) {
                    found.push((position, record));
                }
            }
        };
        for halves in halves.chunks(STEP) {
            take_kept(calls, halves, &mut take).await?;
        }
        from = to;
        if halves.len() < STEP {
            span = span.saturating_mul(2).min(MANY);
        }
    }
    found.sort_unstable_by_key(|(position, _)| *position);
    Ok(found)
}

/// What stands in these sets and has not expired.
async fn halves_of(calls: &mut Connection, sets: std::ops::Range<u16>) -> Result<Vec<Vec<u8>>, Fault> {
    let now = Clock::system().now();
    let range = |set| cmd("ZRANGE").arg(wire::bucket_key(set)).arg(now.0).arg("+inf").arg("BYSCORE").clone();
    let mut all = Vec::new();
    for answer in calls.all(sets.map(range).collect()).await? {
        let halves: Vec<Vec<u8>> = from_redis_value(answer).map_err(RedisError::from)?;
        all.extend(halves);
    }
    Ok(all)
}
