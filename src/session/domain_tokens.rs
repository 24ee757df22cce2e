//! The records that make domain tokens good: those of the configuration and those that were minted, which the store
//! keeps. Outside of the configuration's snapshot, as the sessions are: an end acts at once, on open streams too.

use dashmap::DashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::adopted::{Adopted, Rights};
use super::store::{Store, StoreError};
use super::token::DomainToken;
use crate::clock::UnixMillis;
use crate::identity::UserName;

/// A record and its caller's name, `id@domain`.
#[derive(Debug)]
pub struct KnownToken {
    pub record: DomainToken,
    pub user: UserName,
    pub origin: Origin,
    /// Of one that an engine made: what it told.
    adopted: Option<Adopted>,
    /// Disabled, removed or changed since: what was opened under it ends.
    gone: AtomicBool,
}

/// Where a record comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    Configuration,
    Minted,
    /// Of an engine's, which alone can change it.
    Engine,
}

impl KnownToken {
    fn new(record: DomainToken, origin: Origin) -> Arc<Self> {
        Self::with(record, origin, None)
    }

    fn with(record: DomainToken, origin: Origin, adopted: Option<Adopted>) -> Arc<Self> {
        let user = UserName::new(&format!("{}@{}", record.id, record.domain));
        Arc::new(Self { record, user, origin, adopted, gone: AtomicBool::new(false) })
    }

    /// The engine's side of one that it made.
    #[must_use]
    pub fn adopted(&self) -> Option<&Adopted> {
        self.adopted.as_ref()
    }

    /// Whether it has expired at `now`, or was disabled or removed.
    #[must_use]
    pub fn is_over(&self, now: UnixMillis) -> bool {
        self.record.expires <= now || self.gone.load(Ordering::Acquire)
    }

    fn end(&self) {
        self.gone.store(true, Ordering::Release);
    }
}

/// Why a record is not changed.
#[derive(Debug, thiserror::Error)]
pub enum TokenFault {
    #[error("there is no such token")]
    Unknown,
    #[error("the token stands in the configuration; change it there")]
    Configured,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How many tokens of an engine are held before those that have expired are looked for. A good signature is needed
/// for each.
const MAX_ADOPTED: usize = 10_000;

/// All records, by id.
pub struct DomainTokens {
    by_id: DashMap<Box<str>, Arc<KnownToken>>,
    /// Those of an engine; in memory alone, for it can be asked again. Behind those of our own.
    adopted: DashMap<Box<str>, Arc<KnownToken>>,
    store: Arc<dyn Store>,
    /// One change at a time: memory and store agree on the order.
    changing: tokio::sync::Mutex<()>,
    /// Minted ones that the configuration hides by a record of the same id.
    hidden: Mutex<Vec<Arc<KnownToken>>>,
}

impl DomainTokens {
    /// Loads what the store holds, less what has expired at `now`.
    pub async fn open(store: Arc<dyn Store>, now: UnixMillis) -> Result<Self, StoreError> {
        let by_id = DashMap::new();
        let mut take = |record: DomainToken| {
            if record.expires > now {
                by_id.insert(record.id.as_str().into(), KnownToken::new(record, Origin::Minted));
            }
        };
        store.load_tokens(&mut take).await?;
        let (changing, hidden) = (tokio::sync::Mutex::default(), Mutex::default());
        Ok(Self { by_id, adopted: DashMap::new(), store, changing, hidden })
    }

    /// None yet: those of a store that replicas share come with [`DomainTokens::replace_minted`].
    #[must_use]
    pub fn empty(store: Arc<dyn Store>) -> Self {
        let (changing, hidden) = (tokio::sync::Mutex::default(), Mutex::default());
        Self { by_id: DashMap::new(), adopted: DashMap::new(), store, changing, hidden }
    }

    /// What the store holds now, less what has expired at `now`, in place of what was minted before. One that has not
    /// changed lives on.
    pub fn replace_minted(&self, all: Vec<DomainToken>, now: UnixMillis) {
        let mut new: std::collections::HashMap<String, DomainToken> = all
            .into_iter()
            .filter(|record| record.expires > now)
            .map(|record| (record.id.clone(), record))
            .collect();
        let mut hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stays = |known: &Arc<KnownToken>| {
            let is_same = new.get(&known.record.id) == Some(&known.record);
            if is_same {
                new.remove(&known.record.id);
            } else {
                known.end();
            }
            is_same
        };
        hidden.retain(&mut stays);
        self.by_id.retain(|_, known| known.origin != Origin::Minted || stays(known));
        for (id, record) in new {
            let known = KnownToken::new(record, Origin::Minted);
            if self.by_id.get(id.as_str()).is_some_and(|known| known.origin == Origin::Configuration) {
                hidden.push(known);
            } else {
                self.by_id.insert(id.into(), known);
            }
        }
    }

    /// What was opened under minted ones ends; they are what they were.
    pub fn doubt_minted(&self) {
        for mut known in self.by_id.iter_mut().filter(|known| known.origin == Origin::Minted) {
            let again = KnownToken::new(known.record.clone(), Origin::Minted);
            std::mem::replace(&mut *known, again).end();
        }
    }

    /// Holds one that the store has and that was not known here. One that is known stays.
    pub fn take_in(&self, record: DomainToken) -> Arc<KnownToken> {
        let id: Box<str> = record.id.as_str().into();
        let known = KnownToken::new(record, Origin::Minted);
        Arc::clone(&self.by_id.entry(id).or_insert(known))
    }

    /// Puts the configuration's records in place of those of the configuration before. One that has not changed lives
    /// on.
    pub fn configure(&self, records: &[DomainToken]) {
        let mut hidden = self.hidden.lock().unwrap_or_else(PoisonError::into_inner);
        self.by_id.retain(|_, known| {
            let stays = known.origin == Origin::Minted || records.contains(&known.record);
            if !stays {
                known.end();
            }
            stays
        });
        for minted in hidden.drain(..) {
            self.by_id.entry(minted.record.id.as_str().into()).or_insert(minted);
        }
        for record in records {
            let id: Box<str> = record.id.as_str().into();
            if self.by_id.get(&id).is_some_and(|known| known.origin == Origin::Configuration) {
                continue;
            }
            hidden.extend(self.by_id.insert(id, KnownToken::new(record.clone(), Origin::Configuration)));
        }
    }

    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<KnownToken>> {
        let found = self.by_id.get(id).map(|found| Arc::clone(&found));
        found.or_else(|| self.adopted.get(id).map(|found| Arc::clone(&found)))
    }

    /// Notes what an engine told at `now` of a token of its own. One that has not changed lives on.
    pub fn adopt(&self, record: DomainToken, rights: Rights, now: UnixMillis) -> Arc<KnownToken> {
        if let Some(known) = self.adopted.get(record.id.as_str())
            && known.record == record
            && let Some(adopted) = known.adopted.as_ref().filter(|adopted| adopted.rights == rights)
        {
            adopted.set_asked(now);
            return Arc::clone(&known);
        }
        if self.adopted.len() >= MAX_ADOPTED {
            self.adopted.retain(|_, known| !known.is_over(now));
        }
        let id: Box<str> = record.id.as_str().into();
        let known = KnownToken::with(record, Origin::Engine, Some(Adopted::new(rights, now)));
        if let Some(before) = self.adopted.insert(id, Arc::clone(&known)) {
            before.end();
        }
        known
    }

    /// The engine does not know this token any more: what was opened under it ends.
    pub fn forget_adopted(&self, id: &str) {
        if let Some((_, known)) = self.adopted.remove(id) {
            known.end();
        }
    }

    /// A domain's records, by id.
    #[must_use]
    pub fn of_domain(&self, domain: &str) -> Vec<Arc<KnownToken>> {
        let mut found: Vec<_> =
            self.by_id.iter().filter(|t| t.record.domain == domain).map(|t| Arc::clone(&t)).collect();
        found.sort_by(|a, b| a.record.id.cmp(&b.record.id));
        found
    }

    /// Keeps a new record; it is good once this has answered.
    pub async fn mint(&self, record: DomainToken) -> Result<(), StoreError> {
        let _one = self.changing.lock().await;
        self.store.put_token(record.clone()).await?;
        self.by_id.insert(record.id.as_str().into(), KnownToken::new(record, Origin::Minted));
        Ok(())
    }

    /// Turns a minted token off or on. Off acts here at once, whatever the store says.
    pub async fn set_enabled(&self, domain: &str, id: &str, enabled: bool) -> Result<(), TokenFault> {
        let _one = self.changing.lock().await;
        let known = self.minted(domain, id)?;
        let record = DomainToken { enabled, ..known.record.clone() };
        if enabled {
            self.store.put_token(record.clone()).await?;
            self.replace(&known, record);
        } else {
            self.replace(&known, record.clone());
            self.store.put_token(record).await?;
        }
        Ok(())
    }

    /// Forgets a minted token. After an error it is disabled here, and to be removed again.
    pub async fn remove(&self, domain: &str, id: &str) -> Result<(), TokenFault> {
        let _one = self.changing.lock().await;
        let known = self.minted(domain, id)?;
        self.replace(&known, DomainToken { enabled: false, ..known.record.clone() });
        self.store.remove_token(id.to_owned()).await?;
        self.by_id.remove(id);
        Ok(())
    }

    fn minted(&self, domain: &str, id: &str) -> Result<Arc<KnownToken>, TokenFault> {
        let known = self.by_id.get(id).map(|found| Arc::clone(&found));
        let known = known.filter(|known| known.record.domain == domain).ok_or(TokenFault::Unknown)?;
        match known.origin {
            Origin::Minted => Ok(known),
            Origin::Configuration | Origin::Engine => Err(TokenFault::Configured),
        }
    }

    fn replace(&self, old: &KnownToken, record: DomainToken) {
        self.by_id.insert(record.id.as_str().into(), KnownToken::new(record, Origin::Minted));
        old.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::RoleName;
    use crate::session::memory::double::KeepsInMemory;

    const NOW: UnixMillis = UnixMillis(10);

    fn record(id: &str, role: &str) -> DomainToken {
        let (id, domain, role) = (id.to_owned(), "d".to_owned(), RoleName::new(role));
        DomainToken { id, domain, role, expires: UnixMillis(100), enabled: true }
    }

    async fn opened() -> (DomainTokens, Arc<KeepsInMemory>) {
        let store = Arc::new(KeepsInMemory::default());
        (DomainTokens::open(Arc::clone(&store) as _, NOW).await.unwrap(), store)
    }

    fn ids(tokens: &DomainTokens) -> Vec<(String, bool)> {
        tokens.of_domain("d").iter().map(|t| (t.record.id.clone(), t.record.enabled)).collect()
    }

    #[tokio::test]
    async fn a_minted_token_is_kept_turned_off_and_on_and_removed() {
        let (tokens, store) = opened().await;
        tokens.mint(record("a", "low")).await.unwrap();
        let held = tokens.get("a").unwrap();
        tokens.set_enabled("d", "a", false).await.unwrap();
        assert!(held.is_over(NOW), "what was opened under it ends");
        let again = DomainTokens::open(Arc::clone(&store) as _, NOW).await.unwrap();
        assert_eq!(ids(&again), [("a".to_owned(), false)]);
        tokens.set_enabled("d", "a", true).await.unwrap();
        assert!(!tokens.get("a").unwrap().is_over(NOW));
        tokens.remove("d", "a").await.unwrap();
        assert!(ids(&tokens).is_empty());
        assert!(ids(&DomainTokens::open(store as _, NOW).await.unwrap()).is_empty());
        assert!(matches!(tokens.remove("d", "a").await, Err(TokenFault::Unknown)));
    }

    #[tokio::test]
    async fn a_token_is_reached_under_its_own_domain_alone() {
        let (tokens, _) = opened().await;
        tokens.mint(record("a", "low")).await.unwrap();
        assert!(matches!(tokens.set_enabled("other", "a", false).await, Err(TokenFault::Unknown)));
        assert!(matches!(tokens.remove("D", "a").await, Err(TokenFault::Unknown)));
        assert!(tokens.of_domain("other").is_empty());
    }

    #[tokio::test]
    async fn a_configuration_replaces_its_own_records_and_no_others() {
        let (tokens, _) = opened().await;
        tokens.mint(record("m", "low")).await.unwrap();
        tokens.configure(&[record("a", "low"), record("b", "low"), record("m", "high")]);
        let held = ["a", "b", "m"].map(|id| tokens.get(id).unwrap());
        assert_eq!(held[2].record.role.as_str(), "high", "the configuration's comes first");
        assert!(matches!(tokens.remove("d", "a").await, Err(TokenFault::Configured)));
        tokens.configure(&[record("a", "low"), record("b", "high")]);
        assert_eq!(held.map(|t| t.is_over(NOW)), [false, true, true]);
        assert_eq!(tokens.get("b").unwrap().record.role.as_str(), "high");
        assert_eq!(tokens.get("m").unwrap().origin, Origin::Minted, "it was only hidden");
    }

    #[tokio::test]
    async fn what_a_shared_store_holds_replaces_what_was_minted() {
        let (tokens, _) = opened().await;
        tokens.replace_minted(vec![record("a", "low"), record("b", "low"), record("c", "low")], NOW);
        tokens.configure(&[record("c", "high")]);
        let held = ["a", "b", "c"].map(|id| tokens.get(id).unwrap());
        let disabled = DomainToken { enabled: false, ..record("b", "low") };
        let expired = DomainToken { expires: NOW, ..record("e", "low") };
        tokens.replace_minted(vec![record("a", "low"), disabled, record("d", "low"), expired], NOW);
        assert_eq!(
            held.map(|t| t.is_over(NOW)),
            [false, true, false],
            "the configuration's is not the store's"
        );
        assert_eq!(
            ids(&tokens),
            [("a".to_owned(), true), ("b".to_owned(), false), ("c".to_owned(), true), ("d".to_owned(), true)]
        );
        tokens.configure(&[]);
        assert!(tokens.get("c").is_none(), "what it hid is gone from the store");
        let held = tokens.get("a").unwrap();
        tokens.doubt_minted();
        assert!(held.is_over(NOW) && !tokens.get("a").unwrap().is_over(NOW));
    }

    #[tokio::test]
    async fn a_store_that_fails_never_leaves_more_open_than_was_asked() {
        let (tokens, store) = opened().await;
        tokens.mint(record("a", "low")).await.unwrap();
        store.fails.store(true, Ordering::Relaxed);
        assert!(tokens.mint(record("b", "low")).await.is_err() && tokens.get("b").is_none());
        assert!(tokens.remove("d", "a").await.is_err());
        assert_eq!(ids(&tokens), [("a".to_owned(), false)]);
        assert!(tokens.set_enabled("d", "a", true).await.is_err());
        assert_eq!(ids(&tokens), [("a".to_owned(), false)]);
        store.fails.store(false, Ordering::Relaxed);
        tokens.remove("d", "a").await.unwrap();
    }
}
