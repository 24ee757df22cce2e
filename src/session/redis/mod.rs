//! The store that replicas share: Redis 7 or Valkey (contract section 2, `[sessions.redis]`).
//!
//! [`wire`] is how things are written there and [`sets`] where a user's are found, [`connect`] how it is reached, [`writer`]
//! what is told to it, [`link`] what it tells. All of it runs on a thread of its own; a request waits for an answer only when its session is unknown here.

mod change;
mod connect;
mod link;
mod listing;
mod sets;
#[cfg(test)]
pub(super) mod tests;
mod wire;
mod writer;

use arc_swap::ArcSwap;
use redis::{Cmd, RedisError, Value, cmd, from_redis_value};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::freshness::Freshness;
use super::shared::{Failures, Fits, Kept, Position, Replica, Shared, away};
use super::store::{Barred, Each, EachBarred, EachToken, Pending, Store, StoreError};
use super::token::DomainToken;
use super::{SessionRecord, SessionSettings};
use crate::clock::UnixMillis;
use crate::identity::UserName;
use crate::secret::KeyHash;

use connect::{ANSWER, Connection, Fault};
use link::{Call, Line};
use writer::{Ask, Write};

pub use connect::{Place, RedisSettings};

pub(super) const NAME: &str = "redis";

/// How long a program that does one thing waits for the connection.
const FIRST: Duration = Duration::from_secs(5);

/// Keys that are looked at in one step of going through all.
const STEP: usize = 1000;

/// Sessions in Redis.
pub(super) struct RedisStore {
    line: Arc<Line>,
    writes: mpsc::UnboundedSender<Ask>,
    settings: Arc<ArcSwap<RedisSettings>>,
}

impl RedisStore {
    /// Starts the thread that keeps the link; whether Redis is there shows later.
    pub(super) fn open(settings: RedisSettings) -> Result<Self, StoreError> {
        let (line, settings) = (Arc::new(Line::new()), Arc::new(ArcSwap::from_pointee(settings)));
        let (writes, asked) = mpsc::unbounded_channel();
        let failed = |error: std::io::Error| away(NAME, error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (kept, live) = (Arc::clone(&line), Arc::clone(&settings));
        std::thread::Builder::new()
            .name("postern-redis".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = link::keep(&kept, &live) => {}
                        () = link::grow_stale(&kept, &live) => {}
                        // Ends when the store is dropped.
                        () = writer::write_all(&kept, asked) => {}
                    }
                });
            })
            .map_err(failed)?;
        Ok(Self { line, writes, settings })
    }

    fn write(&self, write: Write) -> impl Future<Output = Result<bool, StoreError>> + use<> {
        let (answer, answered) = oneshot::channel();
        // The thread ends with the store alone.
        let _: Result<(), _> = self.writes.send((write, answer));
        async { answered.await.map_err(|_| away(NAME, "the link has ended"))? }
    }

    fn wrote(&self, write: Write) -> Pending<'_, ()> {
        let written = self.write(write);
        Box::pin(async { written.await.map(drop) })
    }

    /// One call, bounded in time. A failure has the link looked at.
    async fn call<T>(
        &self,
        call: impl AsyncFnOnce(&mut Connection) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let Some(Call { mut connection, number, .. }) = self.line.connection() else {
            return Err(away(NAME, self.line.fault()));
        };
        let called =
            timeout(2 * ANSWER, call(&mut connection)).await.map_err(Fault::from).and_then(|called| called);
        called.map_err(|fault| {
            self.line.broke(number);
            away(NAME, fault.0)
        })
    }

    /// As [`RedisStore::call`], for what goes through everything.
    async fn long_call<T>(
        &self,
        call: impl AsyncFnOnce(&mut Connection) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        let Some(Call { mut connection, .. }) = self.line.connection() else {
            return Err(away(NAME, self.line.fault()));
        };
        call(&mut connection).await.map_err(|fault| away(NAME, fault.0))
    }
}

impl Store for RedisStore {
    fn load<'a>(&'a self, now: UnixMillis, each: Each<'a>) -> Pending<'a, ()> {
        let take = move |kept| match kept {
            Kept::Record(record) if record.expires > now => each(record),
            Kept::Record(_) | Kept::Barred | Kept::Nothing => {}
        };
        Box::pin(self.long_call(async move |calls| go_through(calls, take).await))
    }

    fn put(&self, record: SessionRecord) -> Pending<'_, ()> {
        self.wrote(Write::Put(record))
    }

    fn adopt(&self, record: SessionRecord) -> Pending<'_, bool> {
        Box::pin(self.write(Write::Adopt(record)))
    }

    fn change(&self, record: SessionRecord) -> Pending<'_, ()> {
        self.wrote(Write::Change(record))
    }

    fn remove(&self, ids: Vec<KeyHash>) -> Pending<'_, ()> {
        self.wrote(Write::Remove(ids))
    }

    fn bar(&self, ended: Vec<Barred>) -> Pending<'_, ()> {
        self.wrote(Write::Bar(ended))
    }

    /// What was barred stands under the session's own key, and is found there.
    fn load_barred<'a>(&'a self, _: EachBarred<'a>) -> Pending<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn load_tokens<'a>(&'a self, each: EachToken<'a>) -> Pending<'a, ()> {
        Box::pin(self.long_call(async move |calls| {
            link::tokens(calls).await?.into_iter().for_each(each);
            Ok(())
        }))
    }

    fn put_token(&self, token: DomainToken) -> Pending<'_, ()> {
        self.wrote(Write::PutToken(token))
    }

    fn remove_token(&self, id: String) -> Pending<'_, ()> {
        self.wrote(Write::RemoveToken(id))
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn shared(&self) -> Option<&dyn Shared> {
        Some(self)
    }

    /// Where it is stays as it was at start; the rest counts from the next connection on, `max_stale` and `local_logins`
    /// at once. A link that stands is not cut for it: with a wrong password there would be none.
    fn go_on_with(&self, settings: &SessionSettings) {
        if let Some(redis) = &settings.redis {
            let place = self.settings.load().place.clone();
            self.settings.store(Arc::new(RedisSettings { place, ..redis.clone() }));
        }
    }
}

impl Shared for RedisStore {
    fn freshness(&self) -> &Arc<Freshness> {
        &self.line.freshness
    }

    fn takes_local_logins(&self) -> bool {
        self.settings.load().local_logins
    }

    fn follow(&self, replica: Weak<dyn Replica>) {
        self.line.follow(replica);
    }

    fn connected(&self) -> Pending<'_, ()> {
        Box::pin(async {
            timeout(FIRST, self.line.connected()).await.map_err(|_| away(NAME, self.line.fault()))
        })
    }

    fn find(&self, id: KeyHash) -> Pending<'_, Kept> {
        Box::pin(self.call(async move |calls| {
            let mut found = link::kept(calls, &[id]).await?;
            Ok(found.pop().unwrap_or(Kept::Nothing))
        }))
    }

    fn find_token(&self, id: String) -> Pending<'_, Option<DomainToken>> {
        Box::pin(self.call(async move |calls| {
            let value: Option<Vec<u8>> = calls.ask(cmd("HGET").arg(wire::TOKENS).arg(&id)).await?;
            Ok(value.and_then(|value| wire::read_token(&id, &value)))
        }))
    }

    fn of_user(&self, user: UserName) -> Pending<'_, Vec<SessionRecord>> {
        Box::pin(self.call(async move |calls| {
            let group = sets::group(&user);
            let halves = listing::halves_of(calls, group..group + 1).await?;
            let mut found = Vec::new();
            for halves in halves.chunks(STEP) {
                take_kept(calls, halves, &mut |kept| match kept {
                    Kept::Record(record) if record.user == user => found.push(record),
                    Kept::Record(_) | Kept::Barred | Kept::Nothing => {}
                })
                .await?;
            }
            Ok(found)
        }))
    }

    fn position(&self, user: &UserName, id: KeyHash) -> Position {
        Position { group: sets::group(user), id }
    }

    fn some<'a>(
        &'a self,
        after: Option<Position>,
        least: usize,
        fits: Fits<'a>,
    ) -> Pending<'a, Vec<(Position, SessionRecord)>> {
        Box::pin(
            self.long_call(async move |calls| {
                listing::some(calls, after, least, fits, listing::FEW_KEYS).await
            }),
        )
    }

    fn claim(&self, name: String, time: Duration) -> Pending<'_, bool> {
        Box::pin(self.call(async move |calls| {
            let mut set = cmd("SET");
            set.arg(wire::name_key(&name)).arg("").arg("NX").arg("PX").arg(millis(time));
            let taken: Option<String> = calls.ask(&set).await?;
            Ok(taken.is_some())
        }))
    }

    fn failures(&self, of: [String; 2]) -> Pending<'_, [Failures; 2]> {
        Box::pin(self.call(async move |calls| {
            let each = |name: &String| -> [Cmd; 2] {
                let key = wire::failures_key(name);
                [cmd("GET").arg(&key).clone(), cmd("PTTL").arg(&key).clone()]
            };
            let mut answers = calls.all(of.iter().flat_map(each).collect()).await?.into_iter();
            let mut next = || answers.next().unwrap_or(Value::Nil);
            let mut found = [Failures::default(); 2];
            for found in &mut found {
                let count: Option<u64> = from_redis_value(next()).map_err(RedisError::from)?;
                // -2: there is no such key.
                let left: Option<i64> = from_redis_value(next()).map_err(RedisError::from)?;
                let left = left.and_then(|left| u64::try_from(left).ok()).map(Duration::from_millis);
                *found = Failures { count: count.unwrap_or_default(), left: left.unwrap_or_default() };
            }
            Ok(found)
        }))
    }

    fn count_failure(&self, of: [String; 2], window: Duration) -> Pending<'_, [Failures; 2]> {
        Box::pin(self.call(async move |calls| {
            let each = |name: &String| -> [Cmd; 2] {
                let key = wire::failures_key(name);
                let expire = cmd("PEXPIRE").arg(&key).arg(millis(window)).arg("NX").clone();
                [cmd("INCR").arg(&key).clone(), expire]
            };
            let answers = calls.all(of.iter().flat_map(each).collect()).await?;
            let mut counted = [Failures { count: 0, left: window }; 2];
            for (counted, answer) in counted.iter_mut().zip(answers.into_iter().step_by(2)) {
                counted.count = from_redis_value(answer).map_err(RedisError::from)?;
            }
            Ok(counted)
        }))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Every session there is, in no order.
async fn go_through(calls: &mut Connection, mut each: impl FnMut(Kept)) -> Result<(), Fault> {
    let mut seen = std::collections::HashSet::new();
    for master in calls.masters().await? {
        let mut cursor: u64 = 0;
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(wire::SESSION_KEYS).arg("COUNT").arg(STEP);
            let (next, keys): (u64, Vec<Vec<u8>>) = calls.ask_master(master, scan).await?;
            // A key may come more than once.
            let halves: Vec<_> = keys
                .iter()
                .filter_map(|key| wire::half_of_key(key))
                .filter(|half| seen.insert(half.to_vec()))
                .map(<[u8]>::to_vec)
                .collect();
            take_kept(calls, &halves, &mut each).await?;
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
    }
    Ok(())
}

async fn take_kept(
    calls: &mut Connection,
    halves: &[Vec<u8>],
    each: &mut impl FnMut(Kept),
) -> Result<(), Fault> {
    if halves.is_empty() {
        return Ok(());
    }
    let mut get = cmd("MGET");
    for half in halves {
        get.arg(wire::key_of_half(half));
    }
    let values: Vec<Option<Vec<u8>>> = calls.ask(&get).await?;
    for (half, value) in halves.iter().zip(values) {
        if let Some(kept) = value.and_then(|value| wire::read(half, &value)) {
            each(kept);
        }
    }
    Ok(())
}
