//! What a store was asked and how it went, for the metrics (contract section 7, `store_operations_total`).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::shared::Shared;
use super::store::{Barred, Each, EachBarred, EachToken, Pending, Store};
use super::token::DomainToken;
use super::{SessionRecord, SessionSettings};
use crate::clock::UnixMillis;
use crate::secret::KeyHash;

/// What a store does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Load,
    Put,
    Remove,
    /// Of one session or domain token, in a store that replicas share.
    Find,
}

impl Operation {
    const ALL: [Self; 4] = [Self::Load, Self::Put, Self::Remove, Self::Find];

    /// The word for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Put => "put",
            Self::Remove => "remove",
            Self::Find => "find",
        }
    }
}

/// How often, and how it went: `[good, failed]` by operation.
#[derive(Debug, Default)]
pub struct OperationCounts([[AtomicU64; 2]; Operation::ALL.len()]);

impl OperationCounts {
    pub(super) fn count(&self, operation: Operation, good: bool) {
        self.0[operation as usize][usize::from(!good)].fetch_add(1, Ordering::Relaxed);
    }

    /// Operation, good, failed.
    pub fn counts(&self) -> impl Iterator<Item = (Operation, u64, u64)> {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Operation::ALL.into_iter().zip(&self.0).map(move |(op, [good, bad])| (op, read(good), read(bad)))
    }
}

/// A store whose operations are counted. An operation whose asker went away is not counted as failed: it is carried
/// out.
pub(super) struct Counted {
    pub(super) store: Arc<dyn Store>,
    pub(super) counts: Arc<OperationCounts>,
}

impl Counted {
    fn over<'a, T: 'a>(&'a self, operation: Operation, pending: Pending<'a, T>) -> Pending<'a, T> {
        Box::pin(async move {
            pending
                .await
                .inspect(|_| self.counts.count(operation, true))
                .inspect_err(|_| self.counts.count(operation, false))
        })
    }
}

impl Store for Counted {
    fn load<'a>(&'a self, now: UnixMillis, each: Each<'a>) -> Pending<'a, ()> {
        self.over(Operation::Load, self.store.load(now, each))
    }

    fn put(&self, record: SessionRecord) -> Pending<'_, ()> {
        self.over(Operation::Put, self.store.put(record))
    }

    fn remove(&self, ids: Vec<KeyHash>) -> Pending<'_, ()> {
        self.over(Operation::Remove, self.store.remove(ids))
    }

    fn bar(&self, ended: Vec<Barred>) -> Pending<'_, ()> {
        self.over(Operation::Remove, self.store.bar(ended))
    }

    fn load_barred<'a>(&'a self, each: EachBarred<'a>) -> Pending<'a, ()> {
        self.over(Operation::Load, self.store.load_barred(each))
    }

    fn load_tokens<'a>(&'a self, each: EachToken<'a>) -> Pending<'a, ()> {
        self.over(Operation::Load, self.store.load_tokens(each))
    }

    fn put_token(&self, token: DomainToken) -> Pending<'_, ()> {
        self.over(Operation::Put, self.store.put_token(token))
    }

    fn remove_token(&self, id: String) -> Pending<'_, ()> {
        self.over(Operation::Remove, self.store.remove_token(id))
    }

    fn adopt(&self, record: SessionRecord) -> Pending<'_, bool> {
        self.over(Operation::Put, self.store.adopt(record))
    }

    fn change(&self, record: SessionRecord) -> Pending<'_, ()> {
        self.over(Operation::Put, self.store.change(record))
    }

    fn close(&self) -> Pending<'_, ()> {
        self.store.close()
    }

    fn name(&self) -> &'static str {
        self.store.name()
    }

    fn shared(&self) -> Option<&dyn Shared> {
        self.store.shared()
    }

    fn go_on_with(&self, settings: &SessionSettings) {
        self.store.go_on_with(settings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::memory::double::KeepsInMemory;
    use crate::session::store::contract::record;

    #[tokio::test]
    async fn good_and_failed_operations_are_told_apart() {
        let (store, counts) = (Arc::new(KeepsInMemory::default()), Arc::<OperationCounts>::default());
        let counted = Counted { store: Arc::clone(&store) as _, counts: Arc::clone(&counts) };
        counted.put(record("a", "u", 1)).await.unwrap();
        store.fails.store(true, Ordering::Relaxed);
        counted.put(record("b", "u", 1)).await.unwrap_err();
        counted.remove(vec![KeyHash::of("a")]).await.unwrap_err();
        let seen: Vec<_> = counts.counts().map(|(op, good, bad)| (op.as_str(), good, bad)).collect();
        assert_eq!(seen, [("load", 0, 0), ("put", 1, 1), ("remove", 0, 1), ("find", 0, 0)]);
    }
}
