//! The session map: every live session by the hash of its key, in memory, backed by a store.
//!
//! A request that is checked reads the map and nothing else. What changes it, changes memory and store in the
//! order that fails safe: a session is durable before it is seen, and unseen before it is durably gone.

use dashmap::DashMap;
use std::borrow::Borrow;
use std::collections::{HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::index::{Index, shared};
use super::store::{Pending, Store, StoreError};
use super::{Session, SessionRecord};
use crate::clock::{Clock, UnixMillis};
use crate::identity::{RoleName, UserName};
use crate::secret::{KeyHash, PassThroughBuild};

/// How many expired sessions one [`Sessions::sweep`] takes out: about a millisecond of work.
const PORTION: usize = 1000;

/// All live sessions. Shared by all threads and outside of the configuration snapshot: a reload loses none.
pub struct Sessions {
    /// The key's pointer is there for its id; the value is the session, another one after a change of role.
    by_key: DashMap<ByKey, Arc<Session>, PassThroughBuild>,
    index: Mutex<Index>,
    store: Arc<dyn Store>,
    clock: Clock,
    /// Sessions that are gone here and that the store may still have.
    owed: Mutex<VecDeque<KeyHash>>,
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
        let mut loading = Loading::default();
        store.load(clock.now(), &mut |record| loading.take(record)).await?;
        let by_key = DashMap::with_capacity_and_hasher(loading.sessions.len(), PassThroughBuild::default());
        for session in &loading.sessions {
            by_key.insert(ByKey(Arc::clone(session)), Arc::clone(session));
        }
        let index = Mutex::new(Index::of(&loading.sessions));
        Ok(Self { by_key, index, store, clock: clock.clone(), owed: Mutex::default() })
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
        let unfinished = Unfinished::new(self, vec![record.id]);
        self.store.put(record.clone()).await?;
        unfinished.finish();
        let session = self.insert(record);
        if most > 0 && self.end_surplus(&session.user, most).await.is_err() {
            tracing::warn!("the end of surplus sessions is not stored yet");
        }
        Ok(session)
    }

    /// Ends a session, here at once and in the store before the answer. `false`: there was none (two logouts
    /// at once: one gets `true`). After an error it has ended here, and the sweep tells the store again.
    pub async fn end(&self, id: &KeyHash) -> Result<bool, StoreError> {
        if !self.end_here(id) {
            return Ok(false);
        }
        self.forget(vec![*id]).await.map(|()| true)
    }

    /// Brings the sessions in line with a changed directory: those of users it does not know end, those of users
    /// with another role get it. `role_of` is asked once a session. To be called at start and after each reload.
    ///
    /// A session whose role changes is replaced by another with the same key; what was opened under the old one
    /// sees it as ended, so that a stream does not outlive the right to it.
    pub async fn reconcile(
        &self,
        role_of: impl Fn(&UserName) -> Option<RoleName>,
    ) -> Result<Reconciled, StoreError> {
        let (mut gone, mut changed) = (Vec::new(), Vec::new());
        for session in self.by_key.iter() {
            match role_of(&session.user) {
                None => gone.push(session.id),
                Some(role) if role != session.role => changed.push((session.id, role)),
                Some(_) => {}
            }
        }
        let stored: Vec<_> = changed.into_iter().filter_map(|(id, role)| self.give_role(&id, role)).collect();
        let new_role = stored.len();
        let ended = self.end_all(gone.into_iter()).await?;
        for answer in stored {
            answer.await?;
        }
        Ok(Reconciled { ended, new_role })
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
        self.owed().extend(expired.iter().map(|s| s.id));
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

    /// Takes it out of memory; true for the one caller who did.
    fn end_here(&self, id: &KeyHash) -> bool {
        let mut index = self.index();
        let Some((_, session)) = self.by_key.remove(id) else { return false };
        index.remove(&session);
        session.mark_ended();
        true
    }

    async fn end_surplus(&self, user: &UserName, keep: usize) -> Result<usize, StoreError> {
        let all: Vec<_> = self.index().of_user(user).map(|s| s.id).collect();
        let surplus = all.get(..all.len().saturating_sub(keep)).unwrap_or_default();
        self.end_all(surplus.iter().copied()).await
    }

    async fn end_all(&self, ids: impl Iterator<Item = KeyHash>) -> Result<usize, StoreError> {
        let ended: Vec<_> = ids.filter(|id| self.end_here(id)).collect();
        let count = ended.len();
        if count > 0 {
            self.forget(ended).await?;
        }
        Ok(count)
    }

    async fn forget(&self, ids: Vec<KeyHash>) -> Result<(), StoreError> {
        let unfinished = Unfinished::new(self, ids.clone());
        self.store.remove(ids).await?;
        unfinished.finish();
        Ok(())
    }

    /// None: it ended meanwhile.
    fn give_role(&self, id: &KeyHash, role: RoleName) -> Option<Pending<'_, ()>> {
        let mut index = self.index();
        let old = self.get(id)?;
        index.remove(&old);
        let record = SessionRecord { role, ..old.record() };
        let new = index.add(record.clone());
        // In one step: a request in between must find the one or the other.
        self.by_key.insert(ByKey(Arc::clone(&new)), new);
        old.mark_ended();
        // Asked while the index is held: a logout that ends the new one asks the store after this, and the
        // store keeps that order, so that it cannot keep a session which has ended.
        Some(self.store.put(record))
    }

    /// A panic elsewhere leaves both lists usable: no change of them can be seen half done.
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn owed(&self) -> MutexGuard<'_, VecDeque<KeyHash>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A session found by its id: the map holds pointers, a third of what ids would take, and the id that it
/// compares lies beside what the request is going to read anyway.
struct ByKey(Arc<Session>);

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
}

impl Loading {
    fn take(&mut self, mut record: SessionRecord) {
        record.user = shared(&mut self.users, record.user);
        record.role = shared(&mut self.roles, record.role);
        self.sessions.push(Arc::new(Session::new(record)));
    }
}

/// Sessions that the store is being asked about. Dropped before it has answered - an error, or a client who
/// went away - it leaves them to the sweep, for the store may have them.
struct Unfinished<'a> {
    sessions: &'a Sessions,
    ids: Vec<KeyHash>,
}

impl<'a> Unfinished<'a> {
    fn new(sessions: &'a Sessions, ids: Vec<KeyHash>) -> Self {
        Self { sessions, ids }
    }

    fn finish(mut self) {
        self.ids.clear();
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.ids.is_empty() {
            self.sessions.owed().extend(self.ids.drain(..));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::memory::double::KeepsInMemory;
    use crate::session::store::contract::record;
    use std::sync::atomic::Ordering;

    async fn opened() -> (Sessions, Arc<KeepsInMemory>) {
        let store = Arc::new(KeepsInMemory::default());
        let sessions = Sessions::open(Arc::clone(&store) as _, &Clock::manual(UnixMillis(0))).await.unwrap();
        (sessions, store)
    }

    /// Polls a future once and drops it, as a client does who goes away.
    async fn abandon<F: Future>(future: F) {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_ready())).await;
    }

    fn ids(sessions: &Sessions, user: &str) -> Vec<KeyHash> {
        sessions.of_user(&UserName::new(user)).iter().map(|s| s.id).collect()
    }

    #[tokio::test]
    async fn a_session_is_found_by_its_key_until_it_ends() {
        let (sessions, store) = opened().await;
        let made = sessions.create(record("a", "u", 100), 0).await.unwrap();
        assert!(Arc::ptr_eq(&sessions.get(&KeyHash::of("a")).unwrap(), &made));
        assert!(sessions.get(&KeyHash::of("A")).is_none());
        assert!(store.holds(&made.id));
        assert!(sessions.end(&made.id).await.unwrap());
        assert!(made.is_ended() && !store.holds(&made.id) && sessions.is_empty());
        assert!(!sessions.end(&made.id).await.unwrap());
        assert!(ids(&sessions, "u").is_empty());
    }

    #[tokio::test]
    async fn what_the_store_holds_is_there_after_opening() {
        let (sessions, store) = opened().await;
        sessions.create(record("a", "u", 100), 0).await.unwrap();
        sessions.create(record("b", "u", 200), 0).await.unwrap();
        let again = Sessions::open(store as _, &Clock::manual(UnixMillis(100))).await.unwrap();
        assert_eq!(ids(&again, "u"), [KeyHash::of("b")]);
        assert_eq!(again.reserve_expiry(UnixMillis(200)), UnixMillis(201));
    }

    #[tokio::test]
    async fn a_session_that_could_not_be_stored_is_not_there() {
        let (sessions, store) = opened().await;
        store.fails.store(true, Ordering::Relaxed);
        assert!(sessions.create(record("a", "u", 100), 0).await.is_err());
        assert!(sessions.is_empty() && ids(&sessions, "u").is_empty());
    }

    #[tokio::test]
    async fn a_login_that_is_abandoned_leaves_nothing_in_the_store() {
        let (sessions, store) = opened().await;
        store.is_silent.store(true, Ordering::Relaxed);
        abandon(sessions.create(record("a", "u", 100), 0)).await;
        assert!(store.holds(&KeyHash::of("a")) && sessions.is_empty());
        store.is_silent.store(false, Ordering::Relaxed);
        sessions.settle().await.unwrap();
        assert!(!store.holds(&KeyHash::of("a")));
    }

    #[tokio::test]
    async fn when_the_store_fails_a_session_ends_here_and_there_later() {
        let (sessions, store) = opened().await;
        let made = sessions.create(record("a", "u", 100), 0).await.unwrap();
        store.fails.store(true, Ordering::Relaxed);
        assert!(sessions.end(&made.id).await.is_err());
        assert!(made.is_ended() && sessions.is_empty() && store.holds(&made.id));
        assert!(sessions.settle().await.is_err());
        store.fails.store(false, Ordering::Relaxed);
        assert_eq!(sessions.sweep(UnixMillis(0)).await, 0);
        assert!(!store.holds(&made.id));
    }

    #[tokio::test]
    async fn a_sweep_ends_what_has_expired() {
        let (sessions, store) = opened().await;
        let old = sessions.create(record("a", "u", 100), 0).await.unwrap();
        sessions.create(record("b", "u", 101), 0).await.unwrap();
        assert_eq!(sessions.sweep(UnixMillis(100)).await, 1);
        assert!(old.is_ended() && sessions.get(&old.id).is_none());
        assert_eq!((sessions.len(), sessions.sweep(UnixMillis(100)).await), (1, 0));
        assert!(!store.holds(&old.id) && store.holds(&KeyHash::of("b")));
    }

    #[tokio::test]
    async fn the_oldest_sessions_of_a_user_end_beyond_his_number() {
        let (sessions, store) = opened().await;
        for (key, user, expires) in [("b", "u", 5002), ("a", "u", 5001), ("x", "v", 1), ("c", "u", 5003)] {
            sessions.create(record(key, user, expires), 2).await.unwrap();
        }
        assert_eq!(ids(&sessions, "u"), [KeyHash::of("b"), KeyHash::of("c")]);
        assert!(!store.holds(&KeyHash::of("a")));
        assert_eq!(sessions.len(), 3);
    }

    #[tokio::test]
    async fn a_changed_directory_ends_and_changes_sessions() {
        let (sessions, store) = opened().await;
        let gone = sessions.create(record("a", "gone", 100), 0).await.unwrap();
        let moved = sessions.create(record("b", "moved", 100), 0).await.unwrap();
        let same = sessions.create(record("c", "same", 100), 0).await.unwrap();
        let role_of = |user: &UserName| match user.as_str() {
            "gone" => None,
            "moved" => Some(RoleName::new("high")),
            _ => Some(RoleName::new("low")),
        };
        let done = sessions.reconcile(role_of).await.unwrap();
        assert_eq!(done, Reconciled { ended: 1, new_role: 1 });
        assert!(gone.is_ended() && moved.is_ended() && !same.is_ended());
        let now = sessions.get(&moved.id).unwrap();
        assert_eq!((now.role.as_str(), now.is_ended()), ("high", false));
        assert_eq!(sessions.reconcile(role_of).await.unwrap(), Reconciled::default());
        let again = Sessions::open(store as _, &Clock::manual(UnixMillis(0))).await.unwrap();
        assert_eq!(again.get(&moved.id).unwrap().role.as_str(), "high");
        assert!(again.get(&gone.id).is_none());
    }

    #[tokio::test]
    async fn of_many_who_end_a_session_at_once_one_did() {
        let (sessions, _) = opened().await;
        let made = sessions.create(record("a", "u", 100), 0).await.unwrap();
        let ended = std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| sessions.end_here(&made.id))).collect();
            all.into_iter().map(|t| usize::from(t.join().unwrap())).sum::<usize>()
        });
        assert_eq!(ended, 1);
    }
}
