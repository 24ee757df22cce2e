//! The link to Redis: connects, compares what the replica holds with what is there, then hears every change; begins anew
//! whenever one of these fails. What is held is trusted while the link stands, and `max_stale` longer.
//!
//! Three things notice that it does not: the stream, asked again and again, does not answer; its numbers have a gap; what
//! is asked beside it (is it the master still, is it the same data) is not as it was.

use arc_swap::ArcSwap;
use redis::streams::StreamReadReply;
use redis::{RedisError, cmd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::change::Change;
use super::connect::{ANSWER, Connection, Fault, RedisSettings, Server, still_master};
use super::wire;
use super::writer::ago;
use crate::clock::monotonic;
use crate::secret::KeyHash;
use crate::session::freshness::{Fresh, Freshness};
use crate::session::shared::{Kept, Replica};
use crate::session::token::DomainToken;

/// How long the stream is waited on before it is asked again: each answer says that it is there.
const WAIT: Duration = Duration::from_millis(500);
/// How often it is looked whether it is the same master and the same data.
const LOOK: Duration = Duration::from_millis(500);
/// Before the next try to connect.
const PAUSE: Duration = Duration::from_millis(250);
/// Sessions that are compared in one call.
const COMPARED: usize = 1000;
/// A fault that stays is told again so often.
const TELL_AGAIN: Duration = Duration::from_secs(30);
/// `1-*` as the id of a stream's entry is Redis 7's.
const LEAST_VERSION: u32 = 7;

/// A connection for calls.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) connection: Connection,
    /// Whether what is written must be on a second server.
    pub(super) is_replicated: bool,
    /// Which link's it is.
    pub(super) number: u64,
}

/// What the link shares with those who ask.
pub(super) struct Line {
    /// Names this replica among those who write to the stream.
    pub(super) replica: String,
    pub(super) freshness: Arc<Freshness>,
    follower: OnceLock<Weak<dyn Replica>>,
    followed: Notify,
    connection: Mutex<Option<Call>>,
    connected: Notify,
    broken: Notify,
    fault: Mutex<String>,
    /// When the store was last known to be heard.
    heard: Mutex<Option<Instant>>,
}

impl Line {
    pub(super) fn new() -> Self {
        Self {
            replica: uuid::Uuid::new_v4().simple().to_string(),
            freshness: Arc::default(),
            follower: OnceLock::new(),
            followed: Notify::new(),
            connection: Mutex::default(),
            connected: Notify::new(),
            broken: Notify::new(),
            fault: Mutex::new("is not connected yet".to_owned()),
            heard: Mutex::default(),
        }
    }

    pub(super) fn follow(&self, replica: Weak<dyn Replica>) {
        let _: Result<(), _> = self.follower.set(replica);
        self.followed.notify_one();
    }

    /// The connection for calls.
    pub(super) fn connection(&self) -> Option<Call> {
        lock(&self.connection).clone()
    }

    /// Why there is none.
    pub(super) fn fault(&self) -> String {
        lock(&self.fault).clone()
    }

    /// A call over a connection failed: the link is made anew, unless it was already.
    pub(super) fn broke(&self, number: u64) {
        if lock(&self.connection).as_ref().is_some_and(|call| call.number == number) {
            self.broken.notify_one();
        }
    }

    /// Waits until there is a connection.
    pub(super) async fn connected(&self) {
        loop {
            let next = self.connected.notified();
            if self.connection().is_some() {
                return;
            }
            next.await;
        }
    }

    fn replica(&self) -> Result<Arc<dyn Replica>, Fault> {
        self.follower.get().and_then(Weak::upgrade).ok_or_else(|| Fault("the gateway ends".to_owned()))
    }

    fn heard(&self) {
        *lock(&self.heard) = Some(monotonic());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Keeps the link up until the program ends.
pub(super) async fn keep(line: &Line, settings: &ArcSwap<RedisSettings>) {
    let mut told: Option<(String, Instant)> = None;
    // Connections that a dead link has left: what they may still carry must not be done behind what comes now.
    let (mut left, mut number) = (Vec::new(), 0);
    loop {
        // A call over the link before, which failed behind it.
        tokio::select! { biased; () = line.broken.notified() => {}, () = std::future::ready(()) => {} }
        let fault = match once(line, settings, &mut left, &mut number).await {
            Ok(never) => match never {},
            Err(fault) => fault,
        };
        *lock(&line.connection) = None;
        lock(&line.fault).clone_from(&fault.0);
        let was_there = line.freshness.get() == Fresh::Current;
        if was_there {
            line.freshness.set(Fresh::Away);
        }
        // An outage that is like the one before is told all the same.
        let again = was_there
            || told.as_ref().is_none_or(|(what, at)| *what != fault.0 || at.elapsed() >= TELL_AGAIN);
        if again {
            tracing::error!(
                fault = %fault,
                max_stale = ?settings.load().max_stale,
                "Redis is away: known sessions go on for max_stale; logins are answered 503 unless local_logins is set"
            );
            told = Some((fault.0, monotonic()));
        }
        sleep(PAUSE).await;
    }
}

/// Turns what is held stale when its time is over. Beside the link, which may be waiting for something.
pub(super) async fn grow_stale(line: &Line, settings: &ArcSwap<RedisSettings>) {
    loop {
        sleep(Duration::from_millis(50)).await;
        let heard = *lock(&line.heard);
        let is_over = heard.is_none_or(|at| at.elapsed() >= settings.load().max_stale);
        if line.freshness.get() == Fresh::Away && is_over {
            line.freshness.set(Fresh::Stale);
            tracing::error!(
                "Redis is away longer than max_stale: requests that need a session are answered 503, and open streams end"
            );
            doubt(line).await;
        }
    }
}

/// An end elsewhere would not be heard of here: what is open goes on no longer than new requests do.
async fn doubt(line: &Line) {
    let Ok(replica) = line.replica() else { return };
    replica.tokens_doubted();
    for ids in replica.held().chunks(COMPARED) {
        // Back meanwhile: what is left has been compared.
        if line.freshness.get() != Fresh::Stale {
            return;
        }
        replica.doubted(ids);
        tokio::task::yield_now().await;
    }
}

/// Connects, compares and follows. Returns only when the link is lost.
async fn once(
    line: &Line,
    settings: &ArcSwap<RedisSettings>,
    left: &mut Vec<(String, u64)>,
    number: &mut u64,
) -> Result<std::convert::Infallible, Fault> {
    let now = settings.load_full();
    let (mut calls, server) = Connection::open(&now, ANSWER).await?;
    let (stream, same) = Connection::open(&now, WAIT + ANSWER).await?;
    if same != server {
        return Err(Fault("another server became the master meanwhile".to_owned()));
    }
    let run = check_version(&mut calls).await?;
    cut_off(&mut calls, left, run).await;
    let mark = Mark::read(&mut calls).await?;
    *number += 1;
    let (connection, is_replicated) = (calls.clone(), server.is_replicated());
    *lock(&line.connection) = Some(Call { connection, is_replicated, number: *number });
    line.connected.notify_waiters();
    while line.follower.get().is_none() {
        line.followed.notified().await;
    }
    tracing::info!(?server, "connected to Redis");
    let began = monotonic();
    let compared = compare(line, &mut calls).await?;
    line.heard();
    if line.freshness.set(Fresh::Current) != Fresh::Current {
        tracing::info!(compared, took = ?began.elapsed(), "sessions are shared by Redis");
    }
    let looked = look(settings, calls, &server, &mark);
    tokio::select! {
        lost = follow(line, stream, mark.last) => lost,
        lost = looked => lost,
        () = line.broken.notified() => Err(Fault("a call failed".to_owned())),
    }
}

/// Where the data stands: which it is, and the number of its last change.
struct Mark {
    epoch: String,
    last: u64,
}

impl Mark {
    async fn read(calls: &mut Connection) -> Result<Self, Fault> {
        let new = uuid::Uuid::new_v4().simple().to_string();
        let () = calls.ask(cmd("SET").arg(wire::EPOCH).arg(new).arg("NX")).await?;
        Self::look(calls).await?.ok_or_else(|| Fault("the data was lost just now".to_owned()))
    }

    /// None: there is no epoch any more.
    async fn look(calls: &mut Connection) -> Result<Option<Self>, Fault> {
        let epoch: Option<String> = calls.ask(cmd("GET").arg(wire::EPOCH)).await?;
        let entries: redis::streams::StreamRangeReply =
            calls.ask(cmd("XREVRANGE").arg(wire::CHANGES).arg("+").arg("-").arg("COUNT").arg(1)).await?;
        let last = entries.ids.first().map_or(Ok(0), |entry| number(&entry.id))?;
        Ok(epoch.map(|epoch| Self { epoch, last }))
    }
}

/// The number of a change, from 1 on: Redis gives the first the id `1-0`.
fn number(id: &str) -> Result<u64, Fault> {
    let number = id.strip_prefix("1-").and_then(|number| number.parse::<u64>().ok()?.checked_add(1));
    number.ok_or_else(|| Fault(format!("{} holds the entry {id}, which is none of postern's", wire::CHANGES)))
}

/// What a reader asks for who has heard of the changes up to this one.
fn behind(last: u64) -> String {
    last.checked_sub(1).map_or_else(|| "0-0".to_owned(), |sequence| format!("1-{sequence}"))
}

/// Returns which run of the server it is, as far as it may be asked.
async fn check_version(calls: &mut Connection) -> Result<Option<String>, Fault> {
    let text: Result<String, RedisError> =
        calls.ask_node_of(wire::CHANGES.as_bytes(), cmd("INFO").arg("server").clone()).await;
    // Who may not ask is believed.
    let Ok(text) = text else { return Ok(None) };
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let version = field("redis_version:");
    let major = version.and_then(|version| version.split('.').next()?.parse::<u32>().ok());
    match (version, major) {
        (Some(version), Some(major)) if major < LEAST_VERSION => {
            Err(Fault(format!("is Redis {version}; {LEAST_VERSION} or newer is needed")))
        }
        _ => Ok(field("run_id:").map(str::to_owned)),
    }
}

/// What the connections before this one may still carry is dropped, or was done. Notes this one for the next time. Another
/// run of the server has other connections by the same numbers.
async fn cut_off(calls: &mut Connection, left: &mut Vec<(String, u64)>, run: Option<String>) {
    let (Connection::One(_), Some(run)) = (&calls, run) else { return };
    for (_, id) in left.drain(..).filter(|(of, _)| *of == run) {
        let _: Result<u64, _> = calls.ask(cmd("CLIENT").arg("KILL").arg("ID").arg(id)).await;
    }
    if let Ok(id) = calls.ask::<u64>(cmd("CLIENT").arg("ID")).await {
        left.push((run, id));
    }
}

/// What ended or changed while nobody heard of it. What the store was not told comes first: it would seem lost.
async fn compare(line: &Line, calls: &mut Connection) -> Result<usize, Fault> {
    line.replica()?.deliver().await.map_err(|error| Fault(error.what))?;
    let replica = line.replica()?;
    replica.tokens(tokens(calls).await?);
    let held = replica.held();
    for ids in held.chunks(COMPARED) {
        let (mut lost, mut found) = (Vec::new(), Vec::new());
        for (id, kept) in ids.iter().zip(kept(calls, ids).await?) {
            match kept {
                Kept::Record(record) => found.push(record),
                Kept::Barred | Kept::Nothing => lost.push(*id),
            }
        }
        if !lost.is_empty() {
            replica.lost(&lost);
        }
        replica.changed(found);
        tokio::task::yield_now().await;
    }
    Ok(held.len())
}

/// What is kept under each of these ids.
pub(super) async fn kept(calls: &mut Connection, ids: &[KeyHash]) -> Result<Vec<Kept>, Fault> {
    let mut get = cmd("MGET");
    for id in ids {
        get.arg(wire::session_key(id));
    }
    let values: Vec<Option<Vec<u8>>> = calls.ask(&get).await?;
    let read = |(id, value): (&KeyHash, Option<Vec<u8>>)| match value
        .map(|value| wire::read(wire::half(id), &value))
    {
        Some(Some(Kept::Record(record))) if record.id != *id => Kept::Nothing,
        Some(Some(kept)) => kept,
        Some(None) | None => Kept::Nothing,
    };
    Ok(ids.iter().zip(values).map(read).collect())
}

pub(super) async fn tokens(calls: &mut Connection) -> Result<Vec<DomainToken>, Fault> {
    let all: std::collections::HashMap<String, Vec<u8>> = calls.ask(cmd("HGETALL").arg(wire::TOKENS)).await?;
    Ok(all.iter().filter_map(|(id, value)| wire::read_token(id, value)).collect())
}

/// Hears every change behind `last`.
async fn follow(
    line: &Line,
    mut stream: Connection,
    mut last: u64,
) -> Result<std::convert::Infallible, Fault> {
    loop {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(1000).arg("BLOCK").arg(u64::try_from(WAIT.as_millis()).unwrap_or(500));
        read.arg("STREAMS").arg(wire::CHANGES).arg(behind(last));
        let answer: Option<StreamReadReply> = timeout(WAIT + ANSWER, stream.ask(&read)).await??;
        line.heard();
        for entry in answer.into_iter().flat_map(|answer| answer.keys).flat_map(|key| key.ids) {
            let number = number(&entry.id)?;
            if number != last + 1 {
                return Err(Fault(format!("the changes from {} to {number} were missed", last + 1)));
            }
            last = number;
            apply(line, &mut stream, &Change::read(entry.map)?).await?;
        }
    }
}

async fn apply(line: &Line, calls: &mut Connection, change: &Change) -> Result<(), Fault> {
    // What is one's own acted before it was written.
    if change.by == line.replica {
        return Ok(());
    }
    let replica = line.replica()?;
    if !change.ended.is_empty() {
        replica.ended(&change.ended, ago(change.at));
    }
    if !change.changed.is_empty() {
        let found = kept(calls, &change.changed).await?;
        replica.changed(
            found
                .into_iter()
                .filter_map(|kept| if let Kept::Record(record) = kept { Some(record) } else { None })
                .collect(),
        );
    }
    if change.tokens {
        replica.tokens(tokens(calls).await?);
    }
    Ok(())
}

/// Whether it is the same data on the same master, again and again.
async fn look(
    settings: &ArcSwap<RedisSettings>,
    mut calls: Connection,
    server: &Server,
    mark: &Mark,
) -> Result<std::convert::Infallible, Fault> {
    let mut last = mark.last;
    loop {
        sleep(LOOK).await;
        still_master(&settings.load_full(), &mut calls, server).await?;
        match Mark::look(&mut calls).await? {
            Some(now) if now.epoch == mark.epoch && now.last >= last => last = now.last,
            _ => {
                return Err(Fault(
                    "the data was lost; what is held is compared with what is left".to_owned(),
                ));
            }
        }
    }
}
