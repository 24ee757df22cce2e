//! Sessions that an engine made, in the map beside those of our own.

use std::sync::Arc;
use std::time::Duration;

use super::adopted::Rights;
use super::barred::Barred;
use super::ends::Cause;
use super::map::{ByKey, Sessions};
use super::owed::Owed;
use super::store::StoreError;
use super::{Session, SessionRecord};
use crate::clock::UnixMillis;
use crate::identity::RoleName;
use crate::secret::KeyHash;

/// Longer than a question to an engine takes.
const ANSWERS_ARE_LATE_BY: Duration = Duration::from_secs(60);

impl Sessions {
    /// Makes a session of what an engine told at `now` of one of its own. None: it was ended here, and stays so. One that is
    /// known already stays as it is. A store that fails costs no more than another question after a restart.
    pub async fn adopt(&self, record: SessionRecord, now: UnixMillis) -> Option<Arc<Session>> {
        let (session, stored) = {
            let mut index = self.index();
            if self.barred().has(&record.id) {
                return None;
            }
            if let Some(known) = self.get(&record.id) {
                return Some(known);
            }
            let session = index.add(record.clone());
            if let Some(adopted) = session.adopted() {
                adopted.set_asked(now);
            }
            self.by_key.insert(ByKey(Arc::clone(&session)), Arc::clone(&session));
            self.note_own(record.id);
            (session, self.store.adopt(record))
        };
        match stored.await {
            Ok(true) => self.is_stored(&session.id),
            Ok(false) => {
                // Another replica ended it.
                let _told: Option<Owed> = self.end_here(&session.id, Cause::Elsewhere);
                return None;
            }
            Err(error) => tracing::warn!(%error, "an adopted session is not stored"),
        }
        Some(session)
    }

    /// Gives an adopted session what the engine says of it now. None: it ended meanwhile.
    pub async fn refresh(
        &self,
        session: &Arc<Session>,
        role: RoleName,
        rights: Rights,
        now: UnixMillis,
    ) -> Option<Arc<Session>> {
        let known = session.adopted()?;
        if session.role == role && known.rights == rights {
            known.set_asked(now);
            return Some(Arc::clone(session));
        }
        let (new, stored) =
            self.replace(&session.id, |old| SessionRecord { role, adopted: Some(rights), ..old })?;
        if let Some(adopted) = new.adopted() {
            adopted.set_asked(now);
        }
        if let Err(error) = stored.await {
            tracing::warn!(%error, "the changed rights of a session are not stored");
        }
        Some(new)
    }

    /// Whether a session of an engine was ended here, so that it may not be adopted.
    #[must_use]
    pub fn is_barred(&self, id: &KeyHash) -> bool {
        self.barred().has(id)
    }

    /// The engine does not know it any more either. It is barred a moment longer, for an answer of the engine from
    /// before may still be on its way.
    pub async fn unbar(&self, id: KeyHash) -> Result<(), StoreError> {
        let soon = Barred { id, expires: self.clock.now().plus(ANSWERS_ARE_LATE_BY) };
        {
            let mut barred = self.barred();
            if !barred.remove(&id) {
                return Ok(());
            }
            barred.add(soon);
        }
        self.forget(vec![Owed::Bar(soon)]).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::session::memory::double::KeepsInMemory;
    use crate::session::store::contract::record;

    const NOW: UnixMillis = UnixMillis(1000);

    fn adopted(key: &str) -> SessionRecord {
        SessionRecord { adopted: Some(Rights::OfRole), ..record(key, "100@d", 90_000) }
    }

    async fn opened(store: &Arc<KeepsInMemory>) -> Sessions {
        Sessions::open(Arc::clone(store) as _, &Clock::manual(NOW)).await.unwrap()
    }

    #[tokio::test]
    async fn what_was_ended_here_is_not_adopted_again_also_after_a_restart() {
        let store = Arc::new(KeepsInMemory::default());
        let sessions = opened(&store).await;
        let id = KeyHash::of("a");
        assert!(sessions.adopt(adopted("a"), NOW).await.is_some() && store.holds(&id));
        assert!(sessions.end(&id, Cause::Operator).await.unwrap());
        assert!(sessions.adopt(adopted("a"), NOW).await.is_none() && !store.holds(&id));
        let again = opened(&store).await;
        assert!(again.is_barred(&id) && again.adopt(adopted("a"), NOW).await.is_none());
        // Told to the engine: barred a moment longer, then forgotten.
        again.unbar(id).await.unwrap();
        again.sweep(NOW).await;
        assert!(again.is_barred(&id));
        again.sweep(NOW.plus(ANSWERS_ARE_LATE_BY)).await;
        assert!(!again.is_barred(&id) && !opened(&store).await.is_barred(&id));
    }

    #[tokio::test]
    async fn one_that_the_engine_ended_is_forgotten_whole() {
        let store = Arc::new(KeepsInMemory::default());
        let sessions = opened(&store).await;
        sessions.adopt(adopted("a"), NOW).await.unwrap();
        sessions.end(&KeyHash::of("a"), Cause::EngineEnded).await.unwrap();
        assert!(!sessions.is_barred(&KeyHash::of("a")) && sessions.adopt(adopted("a"), NOW).await.is_some());
    }

    #[tokio::test]
    async fn a_store_that_fails_keeps_no_end_from_acting() {
        let store = Arc::new(KeepsInMemory::default());
        let sessions = opened(&store).await;
        sessions.adopt(adopted("a"), NOW).await.unwrap();
        store.fails.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(sessions.end(&KeyHash::of("a"), Cause::Logout).await.is_err());
        assert!(sessions.adopt(adopted("a"), NOW).await.is_none());
        store.fails.store(false, std::sync::atomic::Ordering::Relaxed);
        sessions.sweep(NOW).await;
        assert!(opened(&store).await.is_barred(&KeyHash::of("a")), "told to the store by the sweep");
    }

    #[tokio::test]
    async fn changed_rights_make_another_session_with_the_same_key() {
        let sessions = opened(&Arc::new(KeepsInMemory::default())).await;
        let first = sessions.adopt(adopted("a"), NOW).await.unwrap();
        let same = sessions.refresh(&first, first.role.clone(), Rights::OfRole, NOW).await.unwrap();
        assert!(Arc::ptr_eq(&first, &same) && same.adopted().unwrap().asked() == NOW);
        let other = sessions.refresh(&first, RoleName::new("admin"), Rights::OfRole, NOW).await.unwrap();
        assert!(first.is_ended() && !other.is_ended() && other.role.as_str() == "admin");
        assert!(Arc::ptr_eq(&sessions.get(&KeyHash::of("a")).unwrap(), &other));
        sessions.end(&other.id, Cause::Logout).await.unwrap();
        assert!(sessions.refresh(&other, RoleName::new("user"), Rights::OfRole, NOW).await.is_none());
    }
}
