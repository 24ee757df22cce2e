//! The store for `sessions.file = ""`: sessions live in the map alone and are gone with the process.

use super::SessionRecord;
use super::store::{Each, Pending, Store};
use crate::clock::UnixMillis;
use crate::secret::KeyHash;

/// Keeps nothing: what the map holds would only be held twice.
pub(super) struct MemoryOnly;

impl Store for MemoryOnly {
    fn load<'a>(&'a self, _: UnixMillis, _: Each<'a>) -> Pending<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn put(&self, _: SessionRecord) -> Pending<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn remove(&self, _: Vec<KeyHash>) -> Pending<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}

/// A store for tests: it keeps, and it fails or stands still when told to.
#[cfg(test)]
pub(crate) mod double {
    use super::super::store::StoreError;
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[derive(Default)]
    pub(crate) struct KeepsInMemory {
        kept: Mutex<BTreeMap<KeyHash, SessionRecord>>,
        pub(crate) fails: AtomicBool,
        /// Carries out what it is asked, but never answers.
        pub(crate) is_silent: AtomicBool,
    }

    impl KeepsInMemory {
        pub(crate) fn holds(&self, id: &KeyHash) -> bool {
            self.kept.lock().unwrap().contains_key(id)
        }

        fn answer(&self, change: impl FnOnce(&mut BTreeMap<KeyHash, SessionRecord>)) -> Pending<'_, ()> {
            if self.fails.load(Ordering::Relaxed) {
                let error = StoreError { store: "double", what: "told to".into() };
                return Box::pin(std::future::ready(Err(error)));
            }
            change(&mut self.kept.lock().unwrap());
            if self.is_silent.load(Ordering::Relaxed) {
                return Box::pin(std::future::pending());
            }
            Box::pin(std::future::ready(Ok(())))
        }
    }

    impl Store for KeepsInMemory {
        fn load<'a>(&'a self, now: UnixMillis, each: Each<'a>) -> Pending<'a, ()> {
            self.kept.lock().unwrap().values().filter(|r| r.expires > now).cloned().for_each(each);
            Box::pin(std::future::ready(Ok(())))
        }

        fn put(&self, record: SessionRecord) -> Pending<'_, ()> {
            self.answer(|kept| drop(kept.insert(record.id, record)))
        }

        fn remove(&self, ids: Vec<KeyHash>) -> Pending<'_, ()> {
            self.answer(|kept| kept.retain(|id, _| !ids.contains(id)))
        }

        fn name(&self) -> &'static str {
            "double"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::double::KeepsInMemory;
    use crate::session::store::contract;

    #[tokio::test]
    async fn the_double_keeps_the_contract_too() {
        contract::holds_for(KeepsInMemory::default(), |store| store).await;
    }
}
