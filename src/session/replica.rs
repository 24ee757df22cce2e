//! The map as that of one replica among several: what it does not hold is asked of the shared store, what others end is
//! ended here, and what is held is trusted no longer than the store is heard (contract section 2, `[sessions.redis]`).

use arc_swap::ArcSwapOption;
use moka::future::Cache;
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::barred::Barred;
use super::counted::Operation;
use super::domain_tokens::KnownToken;
use super::ends::Cause;
use super::freshness::Freshness;
use super::map::{ByKey, Sessions};
use super::owed::Owed;
use super::shared::{Kept, Replica, Shared, away};
use super::store::{Pending, StoreError};
use super::token::DomainToken;
use super::{Session, SessionRecord};
use crate::identity::{RoleName, UserName};
use crate::secret::{KeyHash, TokenHash};

/// How long a no of the store is remembered: a client who tries again and again with an ended session.
const NO_FOR: Duration = Duration::from_secs(1);
/// How many are remembered: a flood forgets the oldest.
const NOES: u64 = 100_000;
/// Longer than an answer of the store may be on its way: what ended meanwhile is not taken from it.
pub(super) const ANSWERS_ARE_LATE_BY: Duration = Duration::from_secs(60);

/// Logouts of sessions that nobody could look up are noted up to here: any good token brings one.
const MOST_OWED: usize = 100_000;

/// The role that a user has here now; none: he is not known here. The last says that an engine made the session.
pub type RoleOf = dyn Fn(&UserName, &RoleName, bool) -> Option<RoleName> + Send + Sync;

/// What a map has that is one of several.
pub(super) struct Sharing {
    pub(super) freshness: Arc<Freshness>,
    role_of: ArcSwapOption<Box<RoleOf>>,
    noes: Cache<KeyHash, ()>,
    /// Sessions that the store does not have: of sockets, and of logins that it is told of later.
    own: Mutex<HashSet<KeyHash>>,
}

/// What is known of a session's key.
#[derive(Clone, Debug)]
pub enum Found {
    Session(Arc<Session>),
    /// It was ended, whatever an engine says of it.
    Ended,
    Unknown,
}

/// What is not remembered.
enum Other {
    Found(Found),
    Failed(StoreError),
}

impl Sharing {
    pub(super) fn new(shared: &dyn Shared) -> Self {
        Self {
            freshness: Arc::clone(shared.freshness()),
            role_of: ArcSwapOption::empty(),
            noes: Cache::builder().max_capacity(NOES).time_to_live(NO_FOR).build(),
            own: Mutex::default(),
        }
    }

    /// Sessions that the store does not have.
    pub(super) fn own(&self) -> MutexGuard<'_, HashSet<KeyHash>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn role_of(&self, record: &SessionRecord) -> Option<RoleName> {
        match &*self.role_of.load() {
            Some(role_of) => role_of(&record.user, &record.role, record.adopted.is_some()),
            None => Some(record.role.clone()),
        }
    }
}

impl Sessions {
    /// The store, where replicas share it.
    #[must_use]
    pub fn shared(&self) -> Option<&dyn Shared> {
        self.store.shared()
    }

    /// How far the shared store is heard; none: there is none.
    #[must_use]
    pub fn freshness(&self) -> Option<&Arc<Freshness>> {
        self.sharing.as_ref().map(|sharing| &sharing.freshness)
    }

    /// From here on this map is told what other replicas do. `role_of` is asked of each session that comes from the store.
    pub fn follow(self: &Arc<Self>, role_of: Box<RoleOf>) {
        if let (Some(sharing), Some(shared)) = (&self.sharing, self.store.shared()) {
            sharing.role_of.store(Some(Arc::new(role_of)));
            let this: Weak<Self> = Arc::downgrade(self);
            shared.follow(this);
        }
    }

    /// Whether a session that is held is good as far as the store is heard. One load, where there is nothing wrong.
    #[must_use]
    pub fn trusts(&self, session: &Session) -> bool {
        self.trusts_what_is_held()
            || self.sharing.as_ref().is_none_or(|sharing| sharing.own().contains(&session.id))
    }

    /// As [`Sessions::trusts`], for domain tokens of the store.
    #[must_use]
    pub fn trusts_what_is_held(&self) -> bool {
        self.sharing.as_ref().is_none_or(|sharing| sharing.freshness.is_trusted())
    }

    /// What a key that is not held names: asked of the store, once for all who ask at the same time.
    pub async fn find(&self, id: &KeyHash) -> Result<Found, StoreError> {
        let (Some(sharing), Some(shared)) = (&self.sharing, self.store.shared()) else {
            return Ok(Found::Unknown);
        };
        if self.is_barred(id) {
            return Ok(Found::Ended);
        }
        must_be_current(sharing, self.store.name())?;
        let asked = async {
            if let Some(known) = self.get(id) {
                return Err(Other::Found(Found::Session(known)));
            }
            let found = shared.find(*id).await;
            self.store_counts.count(Operation::Find, found.is_ok());
            match found {
                Ok(Kept::Nothing) => Ok(()),
                Ok(Kept::Barred) => Err(Other::Found(Found::Ended)),
                Ok(Kept::Record(record)) => Err(Other::Found(self.take_in(record))),
                Err(error) => Err(Other::Failed(error)),
            }
        };
        match sharing.noes.try_get_with(*id, asked).await.as_ref().map_err(Arc::as_ref) {
            Ok(()) => Ok(Found::Unknown),
            Err(Other::Found(found)) => Ok(found.clone()),
            Err(Other::Failed(error)) => Err(error.clone()),
        }
    }

    /// A domain token that is not known here.
    pub async fn find_token(&self, id: &str) -> Result<Option<Arc<KnownToken>>, StoreError> {
        let (Some(sharing), Some(shared)) = (&self.sharing, self.store.shared()) else { return Ok(None) };
        must_be_current(sharing, self.store.name())?;
        let found = shared.find_token(id.to_owned()).await;
        self.store_counts.count(Operation::Find, found.is_ok());
        Ok(found?.map(|record| self.domain_tokens().take_in(record)))
    }

    /// A logout of a session that is not held while the store cannot say whose it is: it ends when the store is back,
    /// if it is this token's.
    pub fn end_later(&self, id: KeyHash, token: TokenHash) {
        if self.owed().len() < MOST_OWED {
            self.owe(Owed::RemoveOf(id, token));
        }
    }

    /// A session of the store is held from here on, unless it ended while it was on its way.
    fn take_in(&self, record: SessionRecord) -> Found {
        let role = self.sharing.as_ref().and_then(|sharing| sharing.role_of(&record));
        let Some(role) = role else { return Found::Unknown };
        let mut index = self.index();
        if self.barred().has(&record.id) {
            return Found::Ended;
        }
        if let Some(known) = self.get(&record.id) {
            return Found::Session(known);
        }
        let session = index.add(SessionRecord { role, ..record });
        self.by_key.insert(ByKey(Arc::clone(&session)), Arc::clone(&session));
        Found::Session(session)
    }

    /// Ends here what the store knows the end of already.
    fn end_told(&self, ids: &[KeyHash], cause: Cause) {
        let until = self.clock.now().plus(ANSWERS_ARE_LATE_BY);
        for id in ids {
            // First: whoever does not find it any more must not take it in again.
            self.barred().add(Barred { id: *id, expires: until });
            let _told: Option<Owed> = self.end_here(id, cause);
        }
    }

    /// Notes that the store does not have it.
    pub(super) fn note_own(&self, id: KeyHash) {
        if let Some(sharing) = &self.sharing {
            sharing.own().insert(id);
        }
    }

    /// Whether the store does not have it.
    pub(super) fn is_own(&self, id: &KeyHash) -> bool {
        self.sharing.as_ref().is_some_and(|sharing| sharing.own().contains(id))
    }

    /// Those that the store does not have.
    pub(super) fn own_sessions(&self) -> Vec<Arc<Session>> {
        let own = self.sharing.as_ref().map(|sharing| sharing.own().clone()).unwrap_or_default();
        own.iter().filter_map(|id| self.get(id)).collect()
    }

    /// Notes that the store has it now.
    pub(super) fn is_stored(&self, id: &KeyHash) {
        if let Some(sharing) = &self.sharing {
            sharing.own().remove(id);
        }
    }

    pub(super) fn takes_local_logins(&self) -> bool {
        self.store.shared().is_some_and(Shared::takes_local_logins)
    }

    /// Ends these, wherever they are held; returns how many of them there were.
    pub(super) async fn end_everywhere(
        &self,
        sessions: &[Arc<Session>],
        cause: Cause,
    ) -> Result<usize, StoreError> {
        let ended: Vec<_> = sessions.iter().filter_map(|session| self.end_wherever(session, cause)).collect();
        let count = ended.len();
        if count > 0 {
            self.forget_ended(ended).await?;
        }
        Ok(count)
    }

    fn end_wherever(&self, session: &Session, cause: Cause) -> Option<Owed> {
        let here = self.end_here(&session.id, cause);
        if here.is_some() || self.sharing.is_none() {
            return here;
        }
        let barred = Barred { id: session.id, expires: session.expires };
        self.barred().add(barred);
        self.ends().count(cause);
        let is_an_engines = session.adopted().is_some() && cause.bars();
        Some(if is_an_engines { Owed::Bar(barred) } else { Owed::Remove(session.id) })
    }

    /// The oldest of a user's sessions end, until `keep` are left.
    pub(super) async fn end_surplus(&self, user: &UserName, keep: usize) -> Result<usize, StoreError> {
        let all = self.of_user_everywhere(user).await?;
        let surplus = all.get(..all.len().saturating_sub(keep)).unwrap_or_default();
        self.end_everywhere(surplus, Cause::Surplus).await
    }

    /// A user's sessions, those that other replicas hold too.
    pub(super) async fn of_user_everywhere(&self, user: &UserName) -> Result<Vec<Arc<Session>>, StoreError> {
        let mut found = self.of_user(user);
        if let Some(shared) = self.store.shared() {
            let held: HashSet<_> = found.iter().map(|session| session.id).collect();
            let others =
                shared.of_user(user.clone()).await?.into_iter().filter(|record| !held.contains(&record.id));
            found.extend(others.map(|record| Arc::new(Session::new(record))));
            found.sort_by_key(|session| (session.created, session.expires, session.id));
        }
        Ok(found)
    }

    /// Every session of the store that is not held here.
    pub(super) async fn elsewhere(
        &self,
        mut each: impl FnMut(Arc<Session>) + Send,
    ) -> Result<(), StoreError> {
        if self.sharing.is_none() {
            return Ok(());
        }
        let mut take = |record: SessionRecord| {
            if self.get(&record.id).is_none() {
                each(Arc::new(Session::new(record)));
            }
        };
        self.store.load(self.clock.now(), &mut take).await
    }
}

fn must_be_current(sharing: &Sharing, store: &'static str) -> Result<(), StoreError> {
    if sharing.freshness.is_current() { Ok(()) } else { Err(away(store, "is away")) }
}

impl Replica for Sessions {
    fn ended(&self, ids: &[KeyHash], ago: Duration) {
        self.end_told(ids, Cause::Elsewhere);
        self.ends().took(ago);
    }

    fn lost(&self, ids: &[KeyHash]) {
        self.end_told(ids, Cause::Lost);
    }

    fn changed(&self, records: Vec<SessionRecord>) {
        let Some(sharing) = &self.sharing else { return };
        for record in records {
            let Some(held) = self.get(&record.id) else { continue };
            match sharing.role_of(&record) {
                None => drop(self.end_here(&record.id, Cause::UserLeft)),
                Some(role)
                    if role == held.role && held.adopted().map(|a| &a.rights) == record.adopted.as_ref() => {}
                Some(role) => drop(self.replace_here(&record.id, |old| SessionRecord {
                    role,
                    adopted: record.adopted,
                    ..old
                })),
            }
        }
    }

    fn held(&self) -> Vec<KeyHash> {
        let now = self.clock.now();
        let own = self.sharing.as_ref().map(|sharing| sharing.own().clone()).unwrap_or_default();
        let is_kept = |session: &Session| !session.is_over(now) && !own.contains(&session.id);
        self.by_key.iter().filter(|session| is_kept(session)).map(|session| session.id).collect()
    }

    fn doubted(&self, ids: &[KeyHash]) {
        for id in ids {
            // Another one with the same key, so that what was opened under the old one sees it as ended.
            drop(self.replace_here(id, |old| old));
        }
    }

    fn tokens_doubted(&self) {
        self.domain_tokens().doubt_minted();
    }

    fn tokens(&self, all: Vec<DomainToken>) {
        self.domain_tokens().replace_minted(all, self.clock.now());
    }

    fn deliver(&self) -> Pending<'_, ()> {
        Box::pin(async {
            while self.owes() {
                self.settle().await?;
            }
            Ok(())
        })
    }
}
