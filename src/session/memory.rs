//! `sessions.file = ""`: nothing outlives the process.

use std::future::ready;

use super::SessionRecord;
use super::store::{Pending, Store};
use crate::clock::UnixMillis;
use crate::secret::KeyHash;

/// Keeps nothing: the session map is all there is.
pub struct MemoryStore;

impl Store for MemoryStore {
    fn load(&self, _: UnixMillis) -> Pending<'_, Vec<SessionRecord>> {
        Box::pin(ready(Ok(Vec::new())))
    }

    fn put(&self, _: SessionRecord) -> Pending<'_, ()> {
        Box::pin(ready(Ok(())))
    }

    fn remove(&self, _: Vec<KeyHash>) -> Pending<'_, ()> {
        Box::pin(ready(Ok(())))
    }

    fn name(&self) -> &'static str {
        "memory"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_keeps_the_contract_and_nothing_else() {
        super::super::store::contract::keeps(|| MemoryStore, false).await;
    }
}
