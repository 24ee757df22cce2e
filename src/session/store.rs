//! Where sessions outlive the process: the trait that each store keeps (file, memory, Redis).
//!
//! A store is asked at start, at logins and at logouts; a request that is checked waits for one only where replicas share it
//! and its session is not known here yet.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use super::barred::Barred;
use super::file::FileStore;
use super::memory::MemoryOnly;
use super::redis::RedisStore;
use super::shared::Shared;
use super::token::DomainToken;
use super::{SessionRecord, SessionSettings, file_start};
use crate::clock::UnixMillis;
use crate::secret::KeyHash;

/// A future of a store: boxed, for stores are asked at logins and logouts only, never by a checked request.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Takes the records that [`Store::load`] finds, one by one: a million are never held twice.
pub type Each<'a> = &'a mut (dyn FnMut(SessionRecord) + Send);

/// Takes the domain tokens that [`Store::load_tokens`] finds.
pub type EachToken<'a> = &'a mut (dyn FnMut(DomainToken) + Send);

/// Takes what [`Store::load_barred`] finds.
pub type EachBarred<'a> = &'a mut (dyn FnMut(Barred) + Send);

/// A durable place for sessions and minted domain tokens. What `put` and `remove` have answered survives `kill -9`. Both are carried
/// out in the order they were called in, also when their futures are dropped.
pub trait Store: Send + Sync {
    /// Hands out every record that has not expired at `now`.
    fn load<'a>(&'a self, now: UnixMillis, each: Each<'a>) -> Pending<'a, ()>;
    /// Keeps a record, in place of one with the same id.
    fn put(&self, record: SessionRecord) -> Pending<'_, ()>;
    /// Keeps the record of a session that an engine made, unless it has one; `false`: it was barred, and stays so.
    fn adopt(&self, record: SessionRecord) -> Pending<'_, bool> {
        let kept = self.put(record);
        Box::pin(async { kept.await.map(|()| true) })
    }
    /// Keeps what a record is now, unless it was removed meanwhile.
    fn change(&self, record: SessionRecord) -> Pending<'_, ()> {
        self.put(record)
    }
    /// Forgets these, barred or not; one that it does not have is no error.
    fn remove(&self, ids: Vec<KeyHash>) -> Pending<'_, ()>;
    /// Forgets these sessions, and keeps that they have ended until they would have expired.
    fn bar(&self, ended: Vec<Barred>) -> Pending<'_, ()>;
    /// Hands out what was barred and not removed since.
    fn load_barred<'a>(&'a self, each: EachBarred<'a>) -> Pending<'a, ()>;
    /// Hands out every minted domain token.
    fn load_tokens<'a>(&'a self, each: EachToken<'a>) -> Pending<'a, ()>;
    /// Keeps a minted domain token, in place of one with the same id.
    fn put_token(&self, token: DomainToken) -> Pending<'_, ()>;
    /// Forgets a minted domain token; one that it does not have is no error.
    fn remove_token(&self, id: String) -> Pending<'_, ()>;
    /// The last that is asked of it: what was stored is there at the next start.
    fn close(&self) -> Pending<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// For logs and metrics: `memory`, `file`, `redis`.
    fn name(&self) -> &'static str;
    /// Itself, where several replicas share it: they hold what they use, and nothing is loaded at start.
    fn shared(&self) -> Option<&dyn Shared> {
        None
    }
    /// Goes on with other settings, as far as they can change while it is open; which store it is cannot.
    fn go_on_with(&self, _settings: &SessionSettings) {}
}

/// Why a store could not do it: to the client this is a 503.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the session store {store} failed: {what}")]
pub struct StoreError {
    pub store: &'static str,
    pub what: String,
}

/// The store that the configuration names. One that is shared may not be reached yet.
pub fn open(settings: &SessionSettings) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match (&settings.redis, &settings.file) {
        (Some(redis), _) => Arc::new(RedisStore::open(redis.clone())?),
        (None, Some(file)) => Arc::new(FileStore::open(file)?),
        (None, None) => Arc::new(MemoryOnly),
    })
}

/// As [`open`], for the gateway that is going to serve from it: another one is waited for so long, what is damaged is set
/// aside.
pub async fn open_to_serve(
    settings: &SessionSettings,
    patience: Duration,
    now: UnixMillis,
) -> Result<Arc<dyn Store>, StoreError> {
    match (&settings.redis, &settings.file) {
        (None, Some(file)) => Ok(Arc::new(file_start::open(file, patience, now).await?)),
        _ => open(settings),
    }
}

/// What every store must do, checked over each of them.
#[cfg(test)]
pub(super) mod contract {
    use super::*;
    use crate::identity::{RoleName, UserName};
    use crate::permission::Permission;
    use crate::secret::TokenHash;
    use crate::session::adopted::Rights;
    use std::collections::BTreeMap;

    pub(in crate::session) fn record(key: &str, user: &str, expires: u64) -> SessionRecord {
        SessionRecord {
            id: KeyHash::of(key),
            token: TokenHash::of(&format!("token of {key}")),
            user: UserName::new(user),
            role: RoleName::new("low"),
            created: UnixMillis(expires.saturating_sub(1000)),
            expires: UnixMillis(expires),
            client: "2001:db8::7".parse().unwrap(),
            last_used: UnixMillis(7),
            adopted: None,
        }
    }

    /// Far enough ahead for a store with a clock of its own.
    pub(in crate::session) const FAR: u64 = 4_000_000_000_000;

    /// As [`record`], so long after [`FAR`].
    fn far(key: &str, user: &str, expires: u64) -> SessionRecord {
        record(key, user, FAR + expires)
    }

    pub(in crate::session) async fn all(store: &dyn Store, now: u64) -> BTreeMap<KeyHash, SessionRecord> {
        let mut found = BTreeMap::new();
        let mut take = |record: SessionRecord| assert!(found.insert(record.id, record).is_none());
        store.load(UnixMillis(now), &mut take).await.unwrap();
        found
    }

    /// `reopen` gives the store that a process started later would open; the one given to it is closed.
    pub(in crate::session) async fn holds_for<S: Store>(store: S, reopen: impl Fn(S) -> S) {
        assert!(all(&store, 0).await.is_empty());
        store.put(far("a", "low@example.org", 100)).await.unwrap();
        store.put(far("b", "\u{44e}\0\u{1f511}@example.org", 200)).await.unwrap();
        store.put(record("c", "root", u64::MAX)).await.unwrap();
        let store = reopen(store);
        keeps_every_field(&store).await;
        skips_what_has_expired(&store).await;
        let store = replaces_and_removes(store, &reopen).await;
        keeps_the_order_of_calls(&store).await;
        let store = bars_what_has_ended(store, &reopen).await;
        keeps_domain_tokens(store, reopen).await;
    }

    /// A shared store has it under the session's id, another hands all of them out.
    async fn is_barred(store: &dyn Store, barred: Barred) -> bool {
        let mut found = Vec::new();
        store.load_barred(&mut |one| found.push(one)).await.unwrap();
        match store.shared() {
            Some(shared) => {
                matches!(shared.find(barred.id).await.unwrap(), super::super::shared::Kept::Barred)
            }
            None => found == [barred],
        }
    }

    async fn bars_what_has_ended<S: Store>(store: S, reopen: &impl Fn(S) -> S) -> S {
        let acl = [("cdr", [Permission::Read, Permission::ReadOwn].into_iter().collect())];
        let listed = Rights::Listed(Arc::new(acl.into_iter().collect()));
        store.put(SessionRecord { adopted: Some(listed.clone()), ..far("e", "u", 500) }).await.unwrap();
        store.put(SessionRecord { adopted: Some(Rights::OfRole), ..far("f", "u", 500) }).await.unwrap();
        let store = reopen(store);
        let found = all(&store, 0).await;
        assert_eq!(found[&KeyHash::of("e")].adopted, Some(listed));
        assert_eq!(found[&KeyHash::of("f")].adopted, Some(Rights::OfRole));
        assert_eq!(found[&KeyHash::of("b")].adopted, None);
        let ended = Barred { id: KeyHash::of("e"), expires: UnixMillis(FAR + 500) };
        store.bar(vec![ended]).await.unwrap();
        let store = reopen(store);
        assert!(!all(&store, 0).await.contains_key(&KeyHash::of("e")));
        assert!(is_barred(&store, ended).await);
        store.remove(vec![ended.id]).await.unwrap();
        assert!(!is_barred(&store, ended).await);
        store
    }

    async fn tokens(store: &dyn Store) -> Vec<DomainToken> {
        let mut found = Vec::new();
        store.load_tokens(&mut |token| found.push(token)).await.unwrap();
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found
    }

    async fn keeps_domain_tokens<S: Store>(store: S, reopen: impl Fn(S) -> S) {
        let token = |id: &str, enabled| DomainToken {
            id: id.into(),
            domain: "d\u{44e}.test".into(),
            role: RoleName::new("low"),
            expires: UnixMillis(1),
            enabled,
        };
        assert!(tokens(&store).await.is_empty());
        store.put_token(token("a", true)).await.unwrap();
        store.put_token(token("b", true)).await.unwrap();
        store.put_token(token("a", false)).await.unwrap();
        let store = reopen(store);
        assert_eq!(tokens(&store).await, [token("a", false), token("b", true)]);
        store.remove_token("b".into()).await.unwrap();
        store.remove_token("never there".into()).await.unwrap();
        assert_eq!(tokens(&reopen(store)).await, [token("a", false)]);
    }

    async fn keeps_every_field(store: &dyn Store) {
        let found = all(store, 0).await;
        assert_eq!(found.len(), 3);
        let (kept, put) = (&found[&KeyHash::of("a")], far("a", "low@example.org", 100));
        assert!(kept.token.matches(&put.token));
        assert_eq!(
            (&kept.user, &kept.role, kept.created, kept.expires, kept.client),
            (&put.user, &put.role, put.created, put.expires, put.client)
        );
        // What replicas share does not say when one of them has seen it last.
        assert!(kept.last_used == put.last_used || store.shared().is_some());
        assert_eq!(found[&KeyHash::of("b")].user.as_str(), "\u{44e}\0\u{1f511}@example.org");
    }

    async fn skips_what_has_expired(store: &dyn Store) {
        assert_eq!(all(store, FAR + 99).await.len(), 3);
        assert_eq!(all(store, FAR + 100).await.len(), 2);
    }

    async fn replaces_and_removes<S: Store>(store: S, reopen: impl Fn(S) -> S) -> S {
        store.put(far("b", "other@example.org", 300)).await.unwrap();
        store.remove(vec![KeyHash::of("a"), KeyHash::of("never there")]).await.unwrap();
        let store = reopen(store);
        let found = all(&store, 0).await;
        assert_eq!(found.len(), 2);
        assert_eq!(found[&KeyHash::of("b")].user.as_str(), "other@example.org");
        store
    }

    async fn keeps_the_order_of_calls(store: &dyn Store) {
        drop(store.put(far("d", "low@example.org", 400)));
        store.remove(vec![KeyHash::of("d")]).await.unwrap();
        assert!(!all(store, 0).await.contains_key(&KeyHash::of("d")));
    }
}
