//! The session map: every live session by the hash of its key, in memory, backed by a store.
//!
//! A request that is checked reads the map and nothing else. What changes it, changes memory and store in the
//! order that fails safe: a session is durable before it is seen, and unseen before it is durably gone.

#[cfg(test)]
mod tests;

use dashmap::DashMap;
use std::borrow::Borrow;
use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::barred::{Barred, BarredSessions};
use super::counted::{Counted, OperationCounts};
use super::domain_tokens::DomainTokens;
use super::ends::{Cause, Ends};
use super::index::{Index, shared, shared_rights};
use super::store::{Pending, Store, StoreError};
use super::{Session, SessionRecord};
use crate::clock::{Clock, UnixMillis, monotonic};
use crate::identity::{RoleName, UserName};
use crate::permission::Acl;
use crate::secret::{KeyHash, PassThroughBuild};

/// How many expired sessions one [`Sessions::sweep`] takes out: about a millisecond of work.
pub(super) const PORTION: usize = 1000;

/// All live sessions. Shared by all threads and outside of the configuration snapshot: a reload loses none.
pub struct Sessions {
    /// The key's pointer is there for its id; the value is the session, another one after a change of role.
    pub(super) by_key: DashMap<ByKey, Arc<Session>, PassThroughBuild>,
    index: Mutex<Index>,
    domain_tokens: DomainTokens,
    pub(super) store: Arc<dyn Store>,
    pub(super) clock: Clock,
    barred: Mutex<BarredSessions>,
    /// Ends that the store may not know of yet.
    owed: Mutex<VecDeque<Owed>>,
    ends: Ends,
    store_counts: Arc<OperationCounts>,
}

/// What [`Sessions::reconcile`] changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    pub ended: usize,
    pub new_role: usize,
}

impl Sessions {
    /// Loads what the store holds, less what has expired at the clock's now.
    pub async fn open(store: Arc<dyn Store>, clock: &Clock) -> Result<Self, StoreError> {
        let store_counts = Arc::<OperationCounts>::default();
        let store: Arc<dyn Store> = Arc::new(Counted { store, counts: Arc::clone(&store_counts) });
        let mut loading = Loading::default();
        store.load(clock.now(), &mut |record| loading.take(record)).await?;
        let by_key = DashMap::with_capacity_and_hasher(loading.sessions.len(), PassThroughBuild::default());
        for session in &loading.sessions {
            by_key.insert(ByKey(Arc::clone(session)), Arc::clone(session));
        }
        let index = Mutex::new(Index::of(&loading.sessions));
        let domain_tokens = DomainTokens::open(Arc::clone(&store), clock.now()).await?;
        let mut barred = BarredSessions::default();
        store.load_barred(&mut |one| barred.add(one)).await?;
        let (clock, owed, ends, barred) =
            (clock.clone(), Mutex::default(), Ends::default(), Mutex::new(barred));
        Ok(Self { by_key, index, domain_tokens, store, clock, barred, owed, ends, store_counts })
    }

    /// The session with this key, expired or not: the caller judges. The hot path: one lookup, no store.
    #[must_use]
    pub fn get(&self, id: &KeyHash) -> Option<Arc<Session>> {
        self.by_key.get(id).map(|found| Arc::clone(&found))
    }

    /// An expiry that no other session has, or had a moment ago: `wanted`, raised by 1 ms until it is new, so that no
    /// two tokens are the same (contract section 3).
    #[must_use]
    pub fn reserve_expiry(&self, wanted: UnixMillis) -> UnixMillis {
        self.index().give_out_expiry(wanted, self.clock.now())
    }

    /// Makes a session. Answers only after the store has it for good; after an error, and when the future is
    /// dropped before it has answered, there is none. `most` is how many the user may have (0: any number): past it
    /// his oldest end, here at once and, should the store fail just then, in the store with the next sweep.
    pub async fn create(&self, record: SessionRecord, most: usize) -> Result<Arc<Session>, StoreError> {
        let unfinished = Unfinished::new(self, vec![Owed::Remove(record.id)]);
        self.store.put(record.clone()).await?;
        unfinished.finish();
        let session = self.insert(record);
        if most > 0 && self.end_surplus(&session.user, most).await.is_err() {
            tracing::warn!("the end of surplus sessions is not stored yet");
        }
        Ok(session)
    }

    /// Makes a session that lives no longer than the process: that of a socket, which does not either.
    #[must_use]
    pub fn create_unstored(&self, record: SessionRecord) -> Arc<Session> {
        self.insert(record)
    }

    /// Ends a session, here at once and in the store before the answer. `false`: there was none (two logouts
    /// at once: one gets `true`). After an error it has ended here, and the sweep tells the store again.
    pub async fn end(&self, id: &KeyHash, cause: Cause) -> Result<bool, StoreError> {
        let Some(owed) = self.end_here(id, cause) else { return Ok(false) };
        self.forget_ended(vec![owed]).await.map(|()| true)
    }

    /// Brings the sessions in line with a changed directory: those of users it does not know end, those of users
    /// with another role get it. `role_of` is asked once a session. To be called at start and after each reload.
    ///
    /// A session whose role changes is replaced by another with the same key; what was opened under the old one
    /// sees it as ended, so that a stream does not outlive the right to it.
    pub async fn reconcile(
        &self,
        role_of: impl Fn(&Session) -> Option<RoleName>,
    ) -> Result<Reconciled, StoreError> {
        let (mut gone, mut changed) = (Vec::new(), Vec::new());
        for session in self.by_key.iter() {
            match role_of(&session) {
                None => gone.push(session.id),
                Some(role) if role != session.role => changed.push((session.id, role)),
                Some(_) => {}
            }
        }
        let stored: Vec<_> = changed
            .into_iter()
            .filter_map(|(id, role)| self.replace(&id, |old| SessionRecord { role, ..old }))
            .map(|(_, stored)| stored)
            .collect();
        let new_role = stored.len();
        let ended = self.end_all(gone.into_iter(), Cause::UserLeft).await?;
        for answer in stored {
            answer.await?;
        }
        Ok(Reconciled { ended, new_role })
    }

    /// The records of domain tokens, kept in the same store.
    #[must_use]
    pub fn domain_tokens(&self) -> &DomainTokens {
        &self.domain_tokens
    }

    /// How many were ended before they expired, by cause.
    #[must_use]
    pub fn ends(&self) -> &Ends {
        &self.ends
    }

    /// The store's name, and what it was asked.
    #[must_use]
    pub fn store_operations(&self) -> (&'static str, &OperationCounts) {
        (self.store.name(), &self.store_counts)
    }

    /// How many live in the map.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    /// A user's sessions, oldest first.
    #[must_use]
    pub fn of_user(&self, user: &UserName) -> Vec<Arc<Session>> {
        self.index().of_user(user).cloned().collect()
    }

    /// Takes a bounded portion of those expired at `now` out of the map, and tells the store of them and of what it
    /// could not be told before; returns how many expired.
    pub async fn sweep(&self, now: UnixMillis) -> usize {
        let expired = self.index().take_expired(now, PORTION);
        for session in &expired {
            self.by_key.remove_if(&session.id, |_, found| Arc::ptr_eq(found, session));
            session.mark_ended();
        }
        let unbarred = self.barred().take_expired(now, PORTION);
        self.owed().extend(expired.iter().map(|s| s.id).chain(unbarred).map(Owed::Remove));
        if let Err(error) = self.settle().await {
            tracing::warn!(%error, "ended sessions are still in the store");
        }
        expired.len()
    }

    /// After an error what is owed is kept for the next time.
    async fn settle(&self) -> Result<(), StoreError> {
        let owed: Vec<_> = {
            let mut owed = self.owed();
            let portion = owed.len().min(2 * PORTION);
            owed.drain(..portion).collect()
        };
        if owed.is_empty() { Ok(()) } else { self.forget(owed).await }
    }

    /// The index is held until both have it, so that none can end it in between and leave half of it.
    fn insert(&self, record: SessionRecord) -> Arc<Session> {
        let mut index = self.index();
        let session = index.add(record);
        self.by_key.insert(ByKey(Arc::clone(&session)), Arc::clone(&session));
        session
    }

    /// Takes it out of memory; for the one caller who did, what the store is to be told.
    fn end_here(&self, id: &KeyHash, cause: Cause) -> Option<Owed> {
        let mut index = self.index();
        let (_, session) = self.by_key.remove(id)?;
        index.remove(&session);
        // Barred before it is seen as ended: whoever finds it gone must not adopt it again.
        let owed = if session.adopted().is_some() && cause.bars() {
            let barred = Barred { id: *id, expires: session.expires };
            self.barred().add(barred);
            Owed::Bar(barred)
        } else {
            Owed::Remove(*id)
        };
        session.mark_ended();
        self.ends.count(cause);
        Some(owed)
    }

    async fn end_surplus(&self, user: &UserName, keep: usize) -> Result<usize, StoreError> {
        let all: Vec<_> = self.index().of_user(user).map(|s| s.id).collect();
        let surplus = all.get(..all.len().saturating_sub(keep)).unwrap_or_default();
        self.end_all(surplus.iter().copied(), Cause::Surplus).await
    }

    pub(super) async fn end_all(
        &self,
        ids: impl Iterator<Item = KeyHash>,
        cause: Cause,
    ) -> Result<usize, StoreError> {
        let ended: Vec<_> = ids.filter_map(|id| self.end_here(&id, cause)).collect();
        let count = ended.len();
        if count > 0 {
            self.forget_ended(ended).await?;
        }
        Ok(count)
    }

    async fn forget_ended(&self, ids: Vec<Owed>) -> Result<(), StoreError> {
        let ended = monotonic();
        self.forget(ids).await?;
        self.ends.stored_after(monotonic().saturating_duration_since(ended));
        Ok(())
    }

    pub(super) async fn forget(&self, owed: Vec<Owed>) -> Result<(), StoreError> {
        let (mut removed, mut barred) = (Vec::new(), Vec::new());
        for one in &owed {
            match one {
                Owed::Remove(id) => removed.push(*id),
                Owed::Bar(one) => barred.push(*one),
            }
        }
        let unfinished = Unfinished::new(self, owed);
        if !barred.is_empty() {
            self.store.bar(barred).await?;
        }
        if !removed.is_empty() {
            self.store.remove(removed).await?;
        }
        unfinished.finish();
        Ok(())
    }

    /// Puts another session with the same key in a session's place. None: it ended meanwhile.
    pub(super) fn replace(
        &self,
        id: &KeyHash,
        change: impl FnOnce(SessionRecord) -> SessionRecord,
    ) -> Option<(Arc<Session>, Pending<'_, ()>)> {
        let mut index = self.index();
        let old = self.get(id)?;
        index.remove(&old);
        let record = change(old.record());
        let new = index.add(record.clone());
        // In one step: a request in between must find the one or the other.
        self.by_key.insert(ByKey(Arc::clone(&new)), Arc::clone(&new));
        old.mark_ended();
        // Asked while the index is held: a logout that ends the new one asks the store after this, and the
        // store keeps that order, so that it cannot keep a session which has ended.
        Some((new, self.store.put(record)))
    }

    /// A panic elsewhere leaves both lists usable: no change of them can be seen half done.
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn barred(&self) -> MutexGuard<'_, BarredSessions> {
        self.barred.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owed(&self) -> MutexGuard<'_, VecDeque<Owed>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the store is to be told of an end.
#[derive(Clone, Copy, Debug)]
pub(super) enum Owed {
    Remove(KeyHash),
    Bar(Barred),
}

/// A session found by its id: the map holds pointers, a third of what ids would take, and the id that it
/// compares lies beside what the request is going to read anyway.
pub(super) struct ByKey(pub(super) Arc<Session>);

impl Borrow<KeyHash> for ByKey {
    fn borrow(&self) -> &KeyHash {
        &self.0.id
    }
}

impl Hash for ByKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.id.hash(state);
    }
}

impl PartialEq for ByKey {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for ByKey {}

/// Sessions as they come from the store, one copy of each name.
#[derive(Default)]
struct Loading {
    sessions: Vec<Arc<Session>>,
    users: HashSet<UserName>,
    roles: HashSet<RoleName>,
    acls: HashSet<Arc<Acl>>,
}

impl Loading {
    fn take(&mut self, mut record: SessionRecord) {
        record.user = shared(&mut self.users, record.user);
        record.role = shared(&mut self.roles, record.role);
        record.adopted = record.adopted.map(|rights| shared_rights(&mut self.acls, rights));
        self.sessions.push(Arc::new(Session::new(record)));
    }
}

/// Sessions that the store is being asked about. Dropped before it has answered - an error, or a client who
/// went away - it leaves them to the sweep, for the store may have them.
struct Unfinished<'a> {
    sessions: &'a Sessions,
    owed: Vec<Owed>,
}

impl<'a> Unfinished<'a> {
    fn new(sessions: &'a Sessions, owed: Vec<Owed>) -> Self {
        Self { sessions, owed }
    }

    fn finish(mut self) {
        self.owed.clear();
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.owed.is_empty() {
            self.sessions.owed().extend(self.owed.drain(..));
        }
    }
}
