//! The session map: every live session by the hash of its key, in memory, backed by a store.

use dashmap::{DashMap, Entry};
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::store::{Store, StoreError};
use super::{Session, SessionRecord};
use crate::clock::{Clock, UnixMillis};
use crate::identity::{RoleName, UserName};
use crate::secret::{KeyHash, PassThroughBuild};

/// All live sessions. Shared by all threads and outside of the configuration snapshot: a reload loses none.
pub struct Sessions {
    by_key: DashMap<KeyHash, Arc<Session>, PassThroughBuild>,
    by_user: DashMap<UserName, Vec<Arc<Session>>>,
    expiries: Mutex<Expiries>,
    roles: Mutex<HashSet<RoleName>>,
    /// Ended here, but the store could not be told.
    untold: Mutex<Vec<KeyHash>>,
    store: Arc<dyn Store>,
}

/// Sessions by the time of their expiry.
#[derive(Default)]
struct Expiries {
    queue: VecDeque<Arc<Session>>,
    /// Ended ones that are still in the queue.
    stale: usize,
    /// Given out to logins that are not done.
    reserved: HashSet<UnixMillis>,
}

/// Sessions that one sweep takes away at most.
const PORTION: usize = 1000;

impl Sessions {
    /// Loads what the store holds, less what has expired at the clock's now.
    pub async fn open(store: Arc<dyn Store>, clock: &Clock) -> Result<Self, StoreError> {
        let records = store.load(clock.now()).await?;
        let sessions = Self {
            by_key: DashMap::with_capacity_and_hasher(records.len(), PassThroughBuild::default()),
            by_user: DashMap::new(),
            expiries: Mutex::default(),
            roles: Mutex::default(),
            untold: Mutex::default(),
            store,
        };
        for record in records {
            sessions.insert(record);
        }
        Ok(sessions)
    }

    /// The session with this key, expired or not: the caller judges. The hot path: one lookup, no store.
    #[must_use]
    pub fn get(&self, id: &KeyHash) -> Option<Arc<Session>> {
        self.by_key.get(id).map(|entry| Arc::clone(entry.value()))
    }

    /// Makes a session. Answers only after the store has it for good. `most` is how many the user may have (0: any
    /// number); past it his oldest end.
    pub async fn create(&self, record: SessionRecord, most: usize) -> Result<Arc<Session>, StoreError> {
        let stored = self.store.put(record.clone()).await;
        if let Err(error) = stored {
            lock(&self.expiries).reserved.remove(&record.expires);
            return Err(error);
        }
        let session = self.insert(record);
        lock(&self.expiries).reserved.remove(&session.expires);
        if most > 0 {
            self.end_oldest(&session.user, most).await?;
        }
        Ok(session)
    }

    /// An expiry that no other session has: `wanted`, raised by 1 ms until it is new (contract section 3), so that no
    /// two sessions share a token. It stays given out until [`Sessions::create`] was called with it.
    #[must_use]
    pub fn reserve_expiry(&self, wanted: UnixMillis) -> UnixMillis {
        let mut expiries = lock(&self.expiries);
        let mut free = wanted;
        while expiries.is_taken(free) {
            free.0 += 1;
        }
        expiries.reserved.insert(free);
        free
    }

    /// Ends a session, here at once and in the store before the answer. `false`: there was none (two logouts
    /// at once: one gets `true`). Should the store fail, the session has ended here all the same and the store is
    /// told later.
    pub async fn end(&self, id: &KeyHash) -> Result<bool, StoreError> {
        let Some((id, session)) = self.by_key.remove(id) else { return Ok(false) };
        self.forget(&session);
        lock(&self.expiries).add_stale();
        let told = self.store.remove(vec![id]).await;
        if told.is_err() {
            lock(&self.untold).push(id);
        }
        told.map(|()| true)
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

    /// A user's sessions, in no order.
    #[must_use]
    pub fn of_user(&self, user: &UserName) -> Vec<Arc<Session>> {
        self.by_user.get(user).map(|sessions| sessions.value().clone()).unwrap_or_default()
    }

    /// Takes a bounded portion of those expired at `now` out of the map and the store, and tells the store of ends it
    /// could not be told of; returns how many it took.
    pub async fn sweep(&self, now: UnixMillis) -> usize {
        let expired = lock(&self.expiries).take_expired(now);
        let mut ids: Vec<KeyHash> = Vec::with_capacity(expired.len());
        for session in &expired {
            if self.by_key.remove(&session.id).is_some() {
                self.forget(session);
                ids.push(session.id);
            }
        }
        let taken = ids.len();
        ids.append(&mut lock(&self.untold));
        if !ids.is_empty() && self.store.remove(ids.clone()).await.is_err() {
            lock(&self.untold).append(&mut ids);
        }
        taken
    }

    fn insert(&self, mut record: SessionRecord) -> Arc<Session> {
        record.role = self.shared_role(record.role);
        let session = match self.by_user.entry(record.user.clone()) {
            Entry::Occupied(mut entry) => {
                record.user = entry.key().clone();
                let session = Arc::new(Session::new(record));
                entry.get_mut().push(Arc::clone(&session));
                session
            }
            Entry::Vacant(entry) => {
                let session = Arc::new(Session::new(record));
                entry.insert(vec![Arc::clone(&session)]);
                session
            }
        };
        lock(&self.expiries).add(Arc::clone(&session));
        self.by_key.insert(session.id, Arc::clone(&session));
        session
    }

    /// One text a role, however many sessions have it.
    fn shared_role(&self, role: RoleName) -> RoleName {
        let mut roles = lock(&self.roles);
        if let Some(known) = roles.get(role.as_str()) {
            return known.clone();
        }
        roles.insert(role.clone());
        role
    }

    /// For those who hold the session, and for the user's list.
    fn forget(&self, session: &Arc<Session>) {
        session.mark_ended();
        if let Entry::Occupied(mut entry) = self.by_user.entry(session.user.clone()) {
            entry.get_mut().retain(|other| other.id != session.id);
            if entry.get().is_empty() {
                entry.remove();
            }
        }
    }

    async fn end_oldest(&self, user: &UserName, most: usize) -> Result<(), StoreError> {
        let mut sessions = self.of_user(user);
        sessions.sort_by_key(|session| (session.created, session.expires));
        let surplus = sessions.len().saturating_sub(most);
        for session in sessions.iter().take(surplus) {
            self.end(&session.id).await?;
        }
        Ok(())
    }
}

impl Expiries {
    fn is_taken(&self, at: UnixMillis) -> bool {
        self.reserved.contains(&at) || self.queue.binary_search_by_key(&at, |session| session.expires).is_ok()
    }

    /// Nearly always at the back, for sessions live equally long.
    fn add(&mut self, session: Arc<Session>) {
        let at = self.queue.partition_point(|other| other.expires <= session.expires);
        self.queue.insert(at, session);
    }

    /// An ended session stays in the queue until it would have expired, unless too many do.
    fn add_stale(&mut self) {
        self.stale += 1;
        if self.stale > 1024 && self.stale * 2 > self.queue.len() {
            self.queue.retain(|session| !session.is_ended());
            self.stale = 0;
        }
    }

    fn take_expired(&mut self, now: UnixMillis) -> Vec<Arc<Session>> {
        let expired = self.queue.partition_point(|session| session.expires <= now);
        let taken: Vec<_> = self.queue.drain(..expired.min(PORTION)).collect();
        self.stale = self.stale.saturating_sub(taken.iter().filter(|session| session.is_ended()).count());
        taken
    }
}

/// Nothing that can panic is done under these locks, so what they hold is whole even if poisoned.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStore;
    use super::super::store::Pending;
    use super::super::store::contract::record;
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    async fn sessions() -> Sessions {
        Sessions::open(Arc::new(MemoryStore), &Clock::manual(UnixMillis(0))).await.unwrap()
    }

    fn of(user: &str, key: &str, created: u64, expires: u64) -> SessionRecord {
        SessionRecord { user: UserName::new(user), created: UnixMillis(created), ..record(key, expires) }
    }

    #[tokio::test]
    async fn a_session_is_found_by_its_key_until_it_ends_once() {
        let sessions = sessions().await;
        let session = sessions.create(record("k", 10), 0).await.unwrap();
        assert!(sessions.get(&KeyHash::of("k")).is_some());
        assert!(sessions.end(&session.id).await.unwrap());
        assert!(!sessions.end(&session.id).await.unwrap());
        assert!(sessions.get(&session.id).is_none() && session.is_over(UnixMillis(0)));
        assert!(sessions.of_user(&session.user).is_empty() && sessions.is_empty());
    }

    #[tokio::test]
    async fn past_the_most_a_user_may_have_his_oldest_end() {
        let sessions = sessions().await;
        for (user, key, created) in [("a", "1", 1), ("b", "2", 1), ("a", "3", 2), ("a", "4", 3)] {
            sessions.create(of(user, key, created, created + 100), 2).await.unwrap();
        }
        let alive = |key| sessions.get(&KeyHash::of(key)).is_some();
        assert_eq!([alive("1"), alive("2"), alive("3"), alive("4")], [false, true, true, true]);
    }

    #[tokio::test]
    async fn no_two_sessions_get_one_expiry() {
        let sessions = sessions().await;
        sessions.create(record("old", 51), 0).await.unwrap();
        let given: Vec<_> = (0..4).map(|_| sessions.reserve_expiry(UnixMillis(50)).0).collect();
        assert_eq!(given, [50, 52, 53, 54]);
        sessions.create(record("new", 50), 0).await.unwrap();
        assert_eq!(sessions.reserve_expiry(UnixMillis(50)).0, 55);
    }

    #[tokio::test]
    async fn a_sweep_takes_the_expired_in_portions_and_marks_them_for_those_who_hold_them() {
        let sessions = sessions().await;
        for n in 0..1500 {
            sessions.create(record(&n.to_string(), n), 0).await.unwrap();
        }
        let held = sessions.get(&KeyHash::of("7")).unwrap();
        assert_eq!(sessions.sweep(UnixMillis(1400)).await, PORTION);
        assert_eq!(sessions.sweep(UnixMillis(1400)).await, 401);
        assert_eq!(sessions.sweep(UnixMillis(1400)).await, 0);
        assert_eq!(sessions.len(), 99);
        assert!(held.is_ended());
    }

    #[tokio::test]
    async fn ended_sessions_do_not_pile_up_until_they_would_have_expired() {
        let sessions = sessions().await;
        for n in 0..3000 {
            let session = sessions.create(record(&n.to_string(), n), 0).await.unwrap();
            sessions.end(&session.id).await.unwrap();
        }
        assert!(lock(&sessions.expiries).queue.len() < 1100);
    }

    /// A store that fails while told to.
    struct Faulty(AtomicBool);

    impl Faulty {
        fn answer(&self) -> Pending<'_, ()> {
            let fails = self.0.load(Ordering::Relaxed);
            let error = StoreError { store: "faulty", what: "told to".into() };
            Box::pin(std::future::ready(if fails { Err(error) } else { Ok(()) }))
        }
    }

    impl Store for Faulty {
        fn load(&self, _: UnixMillis) -> Pending<'_, Vec<SessionRecord>> {
            Box::pin(std::future::ready(Ok(vec![record("loaded", 9)])))
        }
        fn put(&self, _: SessionRecord) -> Pending<'_, ()> {
            self.answer()
        }
        fn remove(&self, _: Vec<KeyHash>) -> Pending<'_, ()> {
            self.answer()
        }
        fn name(&self) -> &'static str {
            "faulty"
        }
    }

    #[tokio::test]
    async fn a_login_that_is_not_stored_makes_no_session_and_a_logout_ends_it_all_the_same() {
        let store = Arc::new(Faulty(AtomicBool::new(true)));
        let sessions = Sessions::open(store.clone(), &Clock::manual(UnixMillis(0))).await.unwrap();
        assert!(sessions.create(record("k", 10), 0).await.is_err());
        assert!(sessions.get(&KeyHash::of("k")).is_none());
        assert_eq!(sessions.reserve_expiry(UnixMillis(10)).0, 10, "the expiry is free again");
        assert!(sessions.end(&KeyHash::of("loaded")).await.is_err());
        assert!(sessions.get(&KeyHash::of("loaded")).is_none());
        store.0.store(false, Ordering::Relaxed);
        sessions.sweep(UnixMillis(0)).await;
        assert!(lock(&sessions.untold).is_empty(), "the store was told later");
    }
}
