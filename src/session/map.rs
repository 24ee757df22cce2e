//! The session map: every live session by the hash of its key, in memory, backed by a store.
//!
//! A request that is checked reads the map and nothing else. What changes it, changes memory and store in the
//! order that fails safe: a session is durable before it is seen, and unseen before it is durably gone.

#[cfg(test)]
mod tests;

use dashmap::DashMap;
use std::borrow::Borrow;
use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::barred::{Barred, BarredSessions};
use super::counted::{Counted, OperationCounts};
use super::domain_tokens::DomainTokens;
use super::ends::{Cause, Ends};
use super::index::Index;
use super::loading::Loading;
use super::owed::{Owed, Unfinished};
use super::replica::{ANSWERS_ARE_LATE_BY, Sharing};
use super::store::{Pending, Store, StoreError};
use super::{Session, SessionRecord, SessionSettings};
use crate::clock::{Clock, UnixMillis};
use crate::identity::{RoleName, UserName};
use crate::secret::{KeyHash, PassThroughBuild};

/// How many expired sessions one [`Sessions::sweep`] takes out: about a millisecond of work.
pub(super) const PORTION: usize = 1000;

/// How long an expiry that one replica gave out is not given out by another.
const EXPIRY_TAKEN_FOR: Duration = Duration::from_secs(3600);

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
    pub(super) owed: Mutex<VecDeque<Owed>>,
    ends: Ends,
    pub(super) store_counts: Arc<OperationCounts>,
    /// Of a store that replicas share.
    pub(super) sharing: Option<Sharing>,
}

/// What [`Sessions::reconcile`] changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    pub ended: usize,
    pub new_role: usize,
}

impl Sessions {
    /// Loads what the store holds, less what has expired at the clock's now. Of one that replicas share nothing is loaded.
    pub async fn open(store: Arc<dyn Store>, clock: &Clock) -> Result<Self, StoreError> {
        let store_counts = Arc::<OperationCounts>::default();
        let store: Arc<dyn Store> = Arc::new(Counted { store, counts: Arc::clone(&store_counts) });
        let sharing = store.shared().map(Sharing::new);
        let mut loading = Loading::default();
        if sharing.is_none() {
            store.load(clock.now(), &mut |record| loading.take(record)).await?;
        }
        let by_key = DashMap::with_capacity_and_hasher(loading.sessions.len(), PassThroughBuild::default());
        for session in &loading.sessions {
            by_key.insert(ByKey(Arc::clone(session)), Arc::clone(session));
        }
        let index = Mutex::new(Index::of(&loading.sessions));
        let domain_tokens = match &sharing {
            Some(_) => DomainTokens::empty(Arc::clone(&store)),
            None => DomainTokens::open(Arc::clone(&store), clock.now()).await?,
        };
        let mut barred = BarredSessions::default();
        store.load_barred(&mut |one| barred.add(one)).await?;
        let (clock, owed, ends, barred) =
            (clock.clone(), Mutex::default(), Ends::default(), Mutex::new(barred));
        Ok(Self { by_key, index, domain_tokens, store, clock, barred, owed, ends, store_counts, sharing })
    }

    /// Has the store go on with other settings, as far as they can change while it is open.
    pub fn go_on_with(&self, settings: &SessionSettings) {
        self.store.go_on_with(settings);
    }

    /// The last that is asked for: what is stored is there at the next start.
    pub async fn close(&self) -> Result<(), StoreError> {
        self.store.close().await
    }

    /// The session with this key, expired or not: the caller judges. The hot path: one lookup, no store.
    #[must_use]
    pub fn get(&self, id: &KeyHash) -> Option<Arc<Session>> {
        self.by_key.get(id).map(|found| Arc::clone(&found))
    }

    /// An expiry that no other session has, or had a moment ago: `wanted`, raised by 1 ms until it is new, so that no
    /// two tokens are the same (contract section 3).
    pub async fn reserve_expiry(&self, wanted: UnixMillis) -> Result<UnixMillis, StoreError> {
        let mut free = self.index().give_out_expiry(wanted, self.clock.now());
        if let Some(shared) = self.store.shared() {
            // Of the others, those that a replica gave out lately: an hour is longer than their clocks differ.
            loop {
                match shared.claim(format!("exp:{}", free.0), EXPIRY_TAKEN_FOR).await {
                    Ok(true) => break,
                    Ok(false) => {
                        free = self.index().give_out_expiry(UnixMillis(free.0 + 1), self.clock.now());
                    }
                    Err(_) if self.takes_local_logins() => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(free)
    }

    /// Makes a session. Answers only after the store has it for good; after an error, and when the future is
    /// dropped before it has answered, there is none. `most` is how many the user may have (0: any number): past it
    /// his oldest end, here at once and, should the store fail just then, in the store with the next sweep.
    pub async fn create(&self, record: SessionRecord, most: usize) -> Result<Arc<Session>, StoreError> {
        let mut unfinished = Unfinished::new(self, vec![Owed::Remove(record.id)]);
        match self.store.put(record.clone()).await {
            Ok(()) => unfinished.finish(),
            Err(_) if self.takes_local_logins() => {
                self.note_own(record.id);
                unfinished.owed = vec![Owed::Put(Box::new(record.clone()))];
            }
            Err(error) => return Err(error),
        }
        let session = self.insert(record);
        if most > 0 && self.end_surplus(&session.user, most).await.is_err() {
            tracing::warn!("the end of surplus sessions is not stored yet");
        }
        Ok(session)
    }

    /// Makes a session that lives no longer than the process: that of a socket, which does not either.
    #[must_use]
    pub fn create_unstored(&self, record: SessionRecord) -> Arc<Session> {
        self.note_own(record.id);
        self.insert(record)
    }

    /// Ends a session, here at once and in the store before the answer. `false`: there was none (two logouts
    /// at once: one gets `true`). After an error it has ended here, and the sweep tells the store again. One that another
    /// replica holds ends too.
    pub async fn end(&self, id: &KeyHash, cause: Cause) -> Result<bool, StoreError> {
        if self.get(id).is_none() {
            // It is held from here on, where the store knows it.
            self.find(id).await?;
        }
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
                None => gone.push(Arc::clone(&session)),
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
        let ended = self.end_everywhere(&gone, Cause::UserLeft).await?;
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
        // A store that is shared has its own expiry, and is not to announce it.
        if self.sharing.is_none() {
            self.owed().extend(expired.iter().map(|s| s.id).chain(unbarred).map(Owed::Remove));
        }
        // A shared store that is away is told when it is back, before it is trusted.
        if self.sharing.as_ref().is_some_and(|sharing| !sharing.freshness.is_current()) {
            return expired.len();
        }
        if let Err(error) = self.settle().await {
            tracing::warn!(%error, "ended sessions are still in the store");
        }
        expired.len()
    }

    /// The index is held until both have it, so that none can end it in between and leave half of it.
    fn insert(&self, record: SessionRecord) -> Arc<Session> {
        let mut index = self.index();
        if self.sharing.is_some() && self.barred().has(&record.id) {
            // Another replica ended it while the store answered.
            let session = Arc::new(Session::new(record));
            session.mark_ended();
            return session;
        }
        let session = index.add(record);
        self.by_key.insert(ByKey(Arc::clone(&session)), Arc::clone(&session));
        session
    }

    /// Takes it out of memory; for the one caller who did, what the store is to be told.
    pub(super) fn end_here(&self, id: &KeyHash, cause: Cause) -> Option<Owed> {
        let mut index = self.index();
        let (_, session) = self.by_key.remove(id)?;
        index.remove(&session);
        // Barred before it is seen as ended: whoever finds it gone must not adopt it again.
        let owed = if session.adopted().is_some() && cause.bars() {
            let barred = Barred { id: *id, expires: session.expires };
            self.barred().add(barred);
            Owed::Bar(barred)
        } else {
            if let Some(sharing) = &self.sharing {
                sharing.own().remove(id);
                // Until the store knows, nor a moment later: an answer of it may be on its way. Whom the engine may know again,
                // it is asked about again.
                let soon = self.clock.now().plus(ANSWERS_ARE_LATE_BY);
                let is_engines = session.adopted().is_some() && cause.is_asked_again();
                let until = if is_engines { soon } else { session.expires.max(soon) };
                self.barred().add(Barred { id: *id, expires: until });
            }
            Owed::Remove(*id)
        };
        session.mark_ended();
        self.ends.count(cause);
        Some(owed)
    }

    /// Puts another session with the same key in a session's place. None: it ended meanwhile.
    pub(super) fn replace(
        &self,
        id: &KeyHash,
        change: impl FnOnce(SessionRecord) -> SessionRecord,
    ) -> Option<(Arc<Session>, Pending<'_, ()>)> {
        let mut index = self.index();
        let (new, record) = self.put_in_place(&mut index, id, change)?;
        // Asked while the index is held: a logout that ends the new one asks the store after this, and the
        // store keeps that order, so that it cannot keep a session which has ended.
        Some((new, self.store.change(record)))
    }

    /// As [`Sessions::replace`], of what the store has already.
    pub(super) fn replace_here(
        &self,
        id: &KeyHash,
        change: impl FnOnce(SessionRecord) -> SessionRecord,
    ) -> Option<Arc<Session>> {
        self.put_in_place(&mut self.index(), id, change).map(|(new, _)| new)
    }

    fn put_in_place(
        &self,
        index: &mut Index,
        id: &KeyHash,
        change: impl FnOnce(SessionRecord) -> SessionRecord,
    ) -> Option<(Arc<Session>, SessionRecord)> {
        let old = self.get(id)?;
        index.remove(&old);
        let record = change(old.record());
        let new = index.add(record.clone());
        // In one step: a request in between must find the one or the other.
        self.by_key.insert(ByKey(Arc::clone(&new)), Arc::clone(&new));
        old.mark_ended();
        Some((new, record))
    }

    /// A panic elsewhere leaves both lists usable: no change of them can be seen half done.
    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn barred(&self) -> MutexGuard<'_, BarredSessions> {
        self.barred.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
