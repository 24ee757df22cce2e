//! Where sessions outlive the process: the trait that each store keeps (memory, file, later Redis).

use std::pin::Pin;
use std::sync::Arc;

use super::file::FileStore;
use super::memory::MemoryStore;
use super::{SessionRecord, SessionSettings};
use crate::clock::UnixMillis;
use crate::secret::KeyHash;

/// A future of a store: boxed, for stores are asked at logins and logouts only, never by a checked request.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// A durable place for sessions. What `put` and `remove` have answered survives `kill -9`.
pub trait Store: Send + Sync {
    /// All sessions that have not expired at `now`; the others are forgotten.
    fn load(&self, now: UnixMillis) -> Pending<'_, Vec<SessionRecord>>;
    fn put(&self, record: SessionRecord) -> Pending<'_, ()>;
    /// Removes those that are there.
    fn remove(&self, ids: Vec<KeyHash>) -> Pending<'_, ()>;
    /// For logs and metrics: `memory`, `file`.
    fn name(&self) -> &'static str;
}

/// Why a store could not do it: to the client this is a 503.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the session store ({store}) failed: {what}")]
pub struct StoreError {
    pub store: &'static str,
    pub what: String,
}

/// The store that the settings ask for.
pub fn open(settings: &SessionSettings) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match &settings.file {
        Some(path) => Arc::new(FileStore::open(path)?),
        None => Arc::new(MemoryStore),
    })
}

#[cfg(test)]
pub(crate) mod contract {
    //! What every store keeps, run over each of them.

    use super::*;
    use crate::identity::{RoleName, UserName};
    use crate::secret::TokenHash;

    pub(crate) fn record(key: &str, expires: u64) -> SessionRecord {
        SessionRecord {
            id: KeyHash::of(key),
            token: TokenHash::of(key),
            user: UserName::new("100@d"),
            role: RoleName::new("user"),
            created: UnixMillis(1),
            expires: UnixMillis(expires),
            client: "2001:db8::1".parse().unwrap(),
            last_used: UnixMillis(2),
        }
    }

    /// `reopen` gives a store over the same data; `durable` says whether it finds what the first one kept.
    pub(crate) async fn keeps<S: Store>(open: impl Fn() -> S, durable: bool) {
        let store = open();
        assert!(store.load(UnixMillis(0)).await.unwrap().is_empty());
        for (key, expires) in [("a", 100), ("b", 200), ("c", 300)] {
            store.put(record(key, expires)).await.unwrap();
        }
        store.remove(vec![KeyHash::of("b"), KeyHash::of("never there")]).await.unwrap();
        drop(store);

        let mut kept = open().load(UnixMillis(100)).await.unwrap();
        if !durable {
            assert!(kept.is_empty());
            return;
        }
        assert_eq!(kept.len(), 1, "b was removed and a has expired");
        let (kept, put) = (kept.remove(0), record("c", 300));
        assert_eq!((kept.id, kept.user, kept.role), (put.id, put.user, put.role));
        assert_eq!((kept.created, kept.expires, kept.last_used), (put.created, put.expires, put.last_used));
        assert!(kept.token.matches(&put.token) && kept.client == put.client);
    }
}
