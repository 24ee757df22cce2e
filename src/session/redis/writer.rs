//! What is written to Redis: in order, all that waits in one go, and announced to the other replicas behind it.
//!
//! What has ended is gone from Redis before its end is announced, so that nobody who hears of it finds it there again. Where
//! another server may take over, a write is answered once a second one has it.

use futures_util::future::try_join_all;
use redis::{Cmd, RedisError, Role, Value, cmd, from_redis_value};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::connect::{Connection, Fault};
use super::link::{Call, Line};
use super::sets::{self, Level};
use super::{NAME, listing, wire};
use crate::clock::{self, Clock, UnixMillis};
use crate::secret::KeyHash;
use crate::session::SessionRecord;
use crate::session::shared::Kept;
use crate::session::store::{Barred, StoreError};
use crate::session::token::DomainToken;

/// One thing to be written.
pub(super) enum Write {
    Put(SessionRecord),
    /// Unless it is there or was ended.
    Adopt(SessionRecord),
    /// Only if it is still there.
    Change(SessionRecord),
    Remove(Vec<KeyHash>),
    Bar(Vec<Barred>),
    PutToken(DomainToken),
    RemoveToken(String),
}

/// With whom to tell. `false`: it was ended before ([`Write::Adopt`]).
pub(super) type Ask = (Write, oneshot::Sender<Result<bool, StoreError>>);

/// Writes that go in one trip at most.
const BATCH: usize = 256;
/// All that may be between a call and its answer: a login is answered within 5 s.
const TRIP: Duration = Duration::from_millis(2500);
/// How long a second server may take.
const SECOND: Duration = Duration::from_millis(700);
/// How long a count of sessions is good at most.
const COUNT_LASTS: Duration = Duration::from_secs(10);
/// What counting may take of a trip.
const COUNTING: Duration = Duration::from_millis(200);
/// Changes that are kept at least: a replica that is further behind compares all it holds.
const CHANGES_KEPT: usize = 100_000;

pub(super) async fn write_all(line: &Line, mut asked: mpsc::UnboundedReceiver<Ask>) {
    let (mut batch, mut counted) = (Vec::with_capacity(BATCH), None);
    while asked.recv_many(&mut batch, BATCH).await > 0 {
        let (writes, answers): (Vec<_>, Vec<_>) = batch.drain(..).unzip();
        let done = match line.connection() {
            Some(Call { connection, is_replicated, number }) => {
                let trip = Trip { connection, is_replicated, by: &line.replica, counted: &mut counted };
                let done = timeout(TRIP, trip.run(writes)).await.map_err(Fault::from).and_then(|done| done);
                done.inspect_err(|_| line.broke(number))
            }
            None => Err(Fault(line.fault())),
        };
        match done {
            Ok(done) => answers.into_iter().zip(done).for_each(|(answer, done)| drop(answer.send(Ok(done)))),
            Err(fault) => {
                let error = StoreError { store: NAME, what: fault.0 };
                answers.into_iter().for_each(|answer| drop(answer.send(Err(error.clone()))));
            }
        }
    }
}

/// One batch on its way.
struct Trip<'a> {
    connection: Connection,
    is_replicated: bool,
    by: &'a str,
    counted: &'a mut Option<Counted>,
}

/// How many sessions there were, by which sets are chosen.
#[derive(Clone, Copy)]
struct Counted {
    sessions: u64,
    at: Instant,
    /// By this replica since.
    written: u64,
}

/// What the first half of a trip found is to be announced.
#[derive(Default)]
struct Announced {
    ended: Vec<KeyHash>,
    changed: Vec<KeyHash>,
    tokens: bool,
    /// Keys that were written, by which nodes are told apart.
    keys: Vec<Vec<u8>>,
    /// Members to be taken out of the users' sets.
    members: BTreeMap<String, Vec<Vec<u8>>>,
}

impl Trip<'_> {
    async fn run(mut self, writes: Vec<Write>) -> Result<Vec<bool>, Fault> {
        let (now, level) = (Clock::system().now(), self.level(writes.len()).await);
        let (mut cmds, mut counts) = (Vec::new(), Vec::with_capacity(writes.len()));
        for write in &writes {
            let before = cmds.len();
            commands(write, now, level, &mut cmds);
            counts.push(cmds.len() - before);
        }
        let mut answers = self.connection.all(cmds).await?.into_iter();
        let (mut announced, mut done) = (Announced::default(), Vec::with_capacity(writes.len()));
        for (write, count) in writes.iter().zip(counts) {
            let answers: Vec<_> = answers.by_ref().take(count).collect();
            done.push(announced.note(write, answers)?);
        }
        self.announce(&announced).await?;
        if self.is_replicated {
            self.wait_for_second(announced).await?;
        }
        Ok(done)
    }

    /// Where these are written. Counted again while others may have written much, and when this replica has.
    async fn level(&mut self, writes: usize) -> Level {
        let counted = match *self.counted {
            Some(counted) if counted.is_good() => counted,
            before => {
                let counted = timeout(COUNTING, listing::count_keys(&mut self.connection)).await;
                // A node of a cluster may be away: what is of another one is written all the same.
                let sessions = counted.ok().and_then(Result::ok);
                let sessions = sessions.or(before.map(|before| before.sessions)).unwrap_or(u64::MAX);
                Counted { sessions, at: clock::monotonic(), written: 0 }
            }
        };
        let written = counted.written.saturating_add(u64::try_from(writes).unwrap_or(u64::MAX));
        *self.counted = Some(Counted { written, ..counted });
        Level::fitting(counted.sessions)
    }

    async fn announce(&mut self, announced: &Announced) -> Result<(), RedisError> {
        let Announced { ended, changed, tokens, members, .. } = announced;
        let mut cmds: Vec<Cmd> =
            members.iter().map(|(key, members)| cmd("ZREM").arg(key).arg(members).clone()).collect();
        if announced.is_news() {
            let mut add = cmd("XADD");
            add.arg(wire::CHANGES).arg("MAXLEN").arg("~").arg(CHANGES_KEPT).arg("1-*");
            add.arg(wire::BY).arg(self.by).arg(wire::AT).arg(micros());
            for (name, ids) in [(wire::ENDED, ended), (wire::CHANGED, changed)] {
                if !ids.is_empty() {
                    add.arg(name).arg(wire::ids(ids));
                }
            }
            if *tokens {
                add.arg(wire::TOKENS_CHANGED).arg(1);
            }
            cmds.push(add);
        }
        self.connection.all(cmds).await.map(drop)
    }

    async fn wait_for_second(&mut self, announced: Announced) -> Result<(), Fault> {
        let mut keys: BTreeMap<u16, Vec<u8>> =
            announced.keys.into_iter().map(|key| (wire::slot(&key), key)).collect();
        if matches!(self.connection, Connection::One(_)) {
            keys = keys.into_iter().take(1).collect();
        }
        let each = keys.into_values().map(|key| has_second(self.connection.clone(), key));
        try_join_all(each).await.map(drop)
    }
}

/// What was written to the node of this key is on a second one. A master without any replica has nobody to wait for: what
/// it has written is as safe as it can be now. That is asked first: WAIT would hold the connection up for all its time.
async fn has_second(mut connection: Connection, key: Vec<u8>) -> Result<(), Fault> {
    match connection.ask_node_of(&key, cmd("ROLE")).await? {
        Role::Primary { replicas, .. } if replicas.is_empty() => return Ok(()),
        Role::Primary { .. } => {}
        _ => return Err(Fault("is no master".to_owned())),
    }
    let wait = cmd("WAIT").arg(1).arg(u64::try_from(SECOND.as_millis()).unwrap_or(700)).clone();
    match connection.ask_node_of(&key, wait).await? {
        0_u64 => Err(Fault("no replica of Redis has confirmed the write".to_owned())),
        _ => Ok(()),
    }
}

impl Counted {
    fn is_good(&self) -> bool {
        self.at.elapsed() < COUNT_LASTS && self.written < (self.sessions / 8).max(256)
    }
}

impl Announced {
    fn is_news(&self) -> bool {
        !self.ended.is_empty() || !self.changed.is_empty() || self.tokens
    }

    /// Whether it was done: see [`Ask`].
    fn note(&mut self, write: &Write, answers: Vec<Value>) -> Result<bool, RedisError> {
        match write {
            Write::Put(record) => self.wrote(record),
            Write::Adopt(record) => {
                self.wrote(record);
                let before: Option<Vec<u8>> =
                    answers.into_iter().next().map(from_redis_value).transpose()?.flatten();
                let before = before.and_then(|value| wire::read(wire::half(&record.id), &value));
                return Ok(!matches!(before, Some(Kept::Barred)));
            }
            Write::Change(record) => {
                self.changed.push(record.id);
                self.wrote(record);
            }
            Write::Remove(ids) => self.removed(ids.iter().copied(), answers)?,
            Write::Bar(ended) => self.removed(ended.iter().map(|one| one.id), answers)?,
            Write::PutToken(_) | Write::RemoveToken(_) => {
                self.tokens = true;
                self.keys.push(wire::TOKENS.into());
            }
        }
        if self.is_news() {
            self.keys.push(wire::CHANGES.into());
        }
        Ok(true)
    }

    fn wrote(&mut self, record: &SessionRecord) {
        self.keys.push(wire::session_key(&record.id));
    }

    fn removed(&mut self, ids: impl Iterator<Item = KeyHash>, answers: Vec<Value>) -> Result<(), RedisError> {
        for (id, answer) in ids.zip(answers) {
            let value: Option<Vec<u8>> = from_redis_value(answer)?;
            if let Some(Kept::Record(record)) = value.and_then(|value| wire::read(wire::half(&id), &value)) {
                let group = sets::group(&record.user);
                for key in sets::keys(&(group..group + 1)) {
                    self.members.entry(key).or_default().push(wire::half(&id).to_vec());
                }
            }
            self.keys.push(wire::session_key(&id));
            self.ended.push(id);
        }
        Ok(())
    }
}

fn commands(write: &Write, now: UnixMillis, level: Level, out: &mut Vec<Cmd>) {
    let set = |record: &SessionRecord| {
        cmd("SET")
            .arg(wire::session_key(&record.id))
            .arg(wire::session(record))
            .arg("PXAT")
            .arg(redis_time(record.expires))
            .clone()
    };
    match write {
        Write::Put(record) => {
            out.push(set(record));
            index(record, now, level, out);
        }
        Write::Adopt(record) => {
            out.push(set(record).arg("NX").arg("GET").clone());
            index(record, now, level, out);
        }
        Write::Change(record) => out.push(set(record).arg("XX").clone()),
        Write::Remove(ids) => {
            out.extend(ids.iter().map(|id| cmd("GETDEL").arg(wire::session_key(id)).clone()))
        }
        Write::Bar(ended) => out.extend(ended.iter().map(|one| {
            cmd("SET")
                .arg(wire::session_key(&one.id))
                .arg(wire::barred())
                .arg("PXAT")
                .arg(redis_time(one.expires))
                .arg("GET")
                .clone()
        })),
        Write::PutToken(token) => {
            out.push(cmd("HSET").arg(wire::TOKENS).arg(&token.id).arg(wire::token(token)).clone())
        }
        Write::RemoveToken(id) => out.push(cmd("HDEL").arg(wire::TOKENS).arg(id).clone()),
    }
}

/// The set lives as long as the last of its sessions. GT does nothing for a set without an expiry, which NX gives it.
fn index(record: &SessionRecord, now: UnixMillis, level: Level, out: &mut Vec<Cmd>) {
    let (key, expires) = (level.key(sets::group(&record.user)), redis_time(record.expires));
    out.push(cmd("ZREMRANGEBYSCORE").arg(&key).arg("-inf").arg(redis_time(now)).clone());
    out.push(cmd("ZADD").arg(&key).arg(expires).arg(wire::half(&record.id)).clone());
    out.push(cmd("PEXPIREAT").arg(&key).arg(expires).arg("NX").clone());
    out.push(cmd("PEXPIREAT").arg(&key).arg(expires).arg("GT").clone());
}

/// Redis refuses times that do not fit; nobody waits so long.
fn redis_time(at: UnixMillis) -> u64 {
    at.0.clamp(1, 1 << 53)
}

fn micros() -> u64 {
    let since = Clock::system().precisely().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// How long ago another replica wrote this: by both clocks, never negative.
pub(super) fn ago(at: u64) -> Duration {
    Duration::from_micros(micros().saturating_sub(at))
}
