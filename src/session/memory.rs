//! The store for `sessions.file = ""`: sessions live in the map alone and are gone with the process.

use super::SessionRecord;
use super::store::{Barred, Each, EachBarred, EachToken, Pending, Store};
use super::token::DomainToken;
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

    fn bar(&self, _: Vec<Barred>) -> Pending<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn load_barred<'a>(&'a self, _: EachBarred<'a>) -> Pending<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn load_tokens<'a>(&'a self, _: EachToken<'a>) -> Pending<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn put_token(&self, _: DomainToken) -> Pending<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn remove_token(&self, _: String) -> Pending<'_, ()> {
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
    struct Kept {
        sessions: BTreeMap<KeyHash, SessionRecord>,
        barred: BTreeMap<KeyHash, Barred>,
        tokens: BTreeMap<String, DomainToken>,
    }

    #[derive(Default)]
    pub(crate) struct KeepsInMemory {
        kept: Mutex<Kept>,
        pub(crate) fails: AtomicBool,
        /// Carries out what it is asked, but never answers.
        pub(crate) is_silent: AtomicBool,
    }

    impl KeepsInMemory {
        pub(crate) fn holds(&self, id: &KeyHash) -> bool {
            self.kept.lock().unwrap().sessions.contains_key(id)
        }

        fn answer(&self, change: impl FnOnce(&mut Kept)) -> Pending<'_, ()> {
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
            self.kept.lock().unwrap().sessions.values().filter(|r| r.expires > now).cloned().for_each(each);
            Box::pin(std::future::ready(Ok(())))
        }

        fn put(&self, record: SessionRecord) -> Pending<'_, ()> {
            self.answer(|kept| drop(kept.sessions.insert(record.id, record)))
        }

        fn remove(&self, ids: Vec<KeyHash>) -> Pending<'_, ()> {
            self.answer(|kept| {
                kept.sessions.retain(|id, _| !ids.contains(id));
                kept.barred.retain(|id, _| !ids.contains(id));
            })
        }

        fn bar(&self, ended: Vec<Barred>) -> Pending<'_, ()> {
            self.answer(|kept| {
                kept.sessions.retain(|id, _| !ended.iter().any(|one| one.id == *id));
                kept.barred.extend(ended.into_iter().map(|one| (one.id, one)));
            })
        }

        fn load_barred<'a>(&'a self, each: EachBarred<'a>) -> Pending<'a, ()> {
            self.kept.lock().unwrap().barred.values().copied().for_each(each);
            Box::pin(std::future::ready(Ok(())))
        }

        fn load_tokens<'a>(&'a self, each: EachToken<'a>) -> Pending<'a, ()> {
            self.kept.lock().unwrap().tokens.values().cloned().for_each(each);
            Box::pin(std::future::ready(Ok(())))
        }

        fn put_token(&self, token: DomainToken) -> Pending<'_, ()> {
            self.answer(|kept| drop(kept.tokens.insert(token.id.clone(), token)))
        }

        fn remove_token(&self, id: String) -> Pending<'_, ()> {
            self.answer(|kept| drop(kept.tokens.remove(&id)))
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
