//! Which sessions an operator means: shown in pages, or ended.

use std::sync::Arc;

use super::ends::Cause;
use super::map::{PORTION, Sessions};
use super::shared::{Position, Shared};
use super::store::StoreError;
use super::{Session, SessionRecord};
use crate::clock::UnixMillis;
use crate::identity::UserName;
use crate::secret::KeyHash;

/// Which sessions are meant: those that fit all that is given.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub user: Option<UserName>,
    pub domain: Option<String>,
    /// Made before this moment.
    pub before: Option<UnixMillis>,
}

impl Filter {
    /// Whether nothing is given: all sessions fit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.user.is_none() && self.domain.is_none() && self.before.is_none()
    }

    pub(super) fn fits(&self, session: &Session) -> bool {
        self.fits_one_of(&session.user, session.created)
    }

    fn fits_one_of(&self, of: &UserName, created: UnixMillis) -> bool {
        self.user.as_ref().is_none_or(|user| of == user)
            && self.domain.as_ref().is_none_or(|domain| of.domain() == Some(domain))
            && self.before.is_none_or(|before| created < before)
    }
}

/// Some of the sessions that fit, and what to ask for to get those behind them; none: these are the last.
#[derive(Debug)]
pub struct Page {
    pub sessions: Vec<Arc<Session>>,
    pub next: Option<String>,
}

/// Why there is no page.
#[derive(Debug, thiserror::Error)]
pub enum PageFault {
    #[error("after must be what next was")]
    After,
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Sessions {
    /// Ends all that fit, here at once each, and in the store before the answer; returns how many. After an error
    /// those that ended here are told to the store again, and the others live.
    pub async fn end_fitting(&self, filter: &Filter) -> Result<usize, StoreError> {
        let fitting = self.fitting(filter).await?;
        let mut ended = 0;
        for portion in fitting.chunks(PORTION) {
            ended += self.end_everywhere(portion, Cause::Operator).await?;
        }
        Ok(ended)
    }

    /// At most `limit` of those that fit. `after` is the `next` of the page before. They are in the order of their ids, where
    /// replicas share a store in one of its own.
    pub async fn page(&self, filter: &Filter, after: Option<&str>, limit: usize) -> Result<Page, PageFault> {
        let mut found = match (self.store.shared(), &filter.user) {
            (Some(shared), None) => {
                let after = after.map(|text| position(text).ok_or(PageFault::After)).transpose()?;
                self.some_of_all(shared, filter, after, limit + 1).await?
            }
            _ => {
                let after = after.map(|text| KeyHash::from_hex(text).ok_or(PageFault::After)).transpose()?;
                self.by_id(filter, after, limit + 1).await?
            }
        };
        let is_last = found.len() <= limit;
        found.truncate(limit);
        let next = found.last().filter(|_| !is_last).map(|(position, _)| position.clone());
        Ok(Page { sessions: found.into_iter().map(|(_, session)| session).collect(), next })
    }

    /// With what names each as a place in the list.
    async fn by_id(
        &self,
        filter: &Filter,
        after: Option<KeyHash>,
        limit: usize,
    ) -> Result<Vec<(String, Arc<Session>)>, StoreError> {
        let mut found = self.fitting(filter).await?;
        found.retain(|session| after.is_none_or(|after| session.id > after));
        if found.len() > limit {
            found.select_nth_unstable_by_key(limit, |session| session.id);
            found.truncate(limit);
        }
        found.sort_unstable_by_key(|session| session.id);
        Ok(found.into_iter().map(|session| (session.id.to_string(), session)).collect())
    }

    /// As [`Sessions::by_id`], of all that a shared store has: a page of ten million must not read them all.
    async fn some_of_all(
        &self,
        shared: &dyn Shared,
        filter: &Filter,
        after: Option<Position>,
        limit: usize,
    ) -> Result<Vec<(String, Arc<Session>)>, StoreError> {
        let fits = |record: &SessionRecord| {
            filter.fits_one_of(&record.user, record.created) && !self.is_barred(&record.id)
        };
        let held =
            |record: SessionRecord| self.get(&record.id).unwrap_or_else(|| Arc::new(Session::new(record)));
        let stored = shared.some(after, limit, &fits).await?;
        let mut found: Vec<_> =
            stored.into_iter().map(|(position, record)| (position, held(record))).collect();
        let own = self.own_sessions().into_iter().filter(|session| filter.fits(session));
        let own = own.map(|session| (shared.position(&session.user, session.id), session));
        found.extend(own.filter(|(position, _)| after.is_none_or(|after| *position > after)));
        found.sort_by_key(|(position, _)| *position);
        found.dedup_by_key(|(position, _)| *position);
        found.truncate(limit);
        Ok(found
            .into_iter()
            .map(|(Position { group, id }, session)| (format!("{group}-{id}"), session))
            .collect())
    }

    /// A user's are found by the index; others by looking at all. Those that other replicas hold are among them.
    async fn fitting(&self, filter: &Filter) -> Result<Vec<Arc<Session>>, StoreError> {
        if let Some(user) = &filter.user {
            let of_user = self.of_user_everywhere(user).await?;
            return Ok(of_user.into_iter().filter(|s| filter.fits(s)).collect());
        }
        let mut found: Vec<_> =
            self.by_key.iter().filter(|s| filter.fits(s)).map(|s| Arc::clone(&s)).collect();
        self.elsewhere(|session| found.extend(Some(session).filter(|s| filter.fits(s)))).await?;
        Ok(found)
    }
}

/// What [`Sessions::page`] wrote.
fn position(text: &str) -> Option<Position> {
    let (group, id) = text.split_once('-')?;
    Some(Position { group: group.parse().ok()?, id: KeyHash::from_hex(id)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::session::memory::double::KeepsInMemory;
    use crate::session::store::contract::record;
    use std::sync::Arc;

    /// `record` makes them 1000 ms before they expire.
    async fn some() -> (Sessions, Arc<KeepsInMemory>) {
        let store = Arc::new(KeepsInMemory::default());
        let sessions = Sessions::open(Arc::clone(&store) as _, &Clock::manual(UnixMillis(0))).await.unwrap();
        for (key, user, expires) in
            [("a", "1@x", 2000), ("b", "1@x", 3000), ("c", "2@x", 4000), ("d", "1", 5000)]
        {
            sessions.create(record(key, user, expires), 0).await.unwrap();
        }
        (sessions, store)
    }

    fn left(sessions: &Sessions) -> Vec<&'static str> {
        ["a", "b", "c", "d"].into_iter().filter(|key| sessions.get(&KeyHash::of(key)).is_some()).collect()
    }

    #[tokio::test]
    async fn exactly_those_that_fit_all_that_is_given_end_here_and_in_the_store() {
        let filter = |user: Option<&str>, domain: Option<&str>, before: Option<u64>| Filter {
            user: user.map(UserName::new),
            domain: domain.map(Into::into),
            before: before.map(UnixMillis),
        };
        for (filter, ended, remain) in [
            (filter(Some("1@x"), None, None), 2, vec!["c", "d"]),
            (filter(None, Some("x"), None), 3, vec!["d"]),
            (filter(None, None, Some(3000)), 2, vec!["c", "d"]),
            (filter(Some("1@x"), None, Some(2000)), 1, vec!["b", "c", "d"]),
            (filter(Some("1@x"), Some("y"), None), 0, vec!["a", "b", "c", "d"]),
            (filter(Some("1@X"), None, None), 0, vec!["a", "b", "c", "d"]),
        ] {
            let (sessions, store) = some().await;
            assert_eq!(sessions.end_fitting(&filter).await.unwrap(), ended, "{filter:?}");
            assert_eq!(left(&sessions), remain, "{filter:?}");
            assert_eq!(store.holds(&KeyHash::of("a")), remain.contains(&"a"));
            assert_eq!(
                sessions.ends().counts().map(|(_, n)| n).collect::<Vec<_>>(),
                [0, ended as u64, 0, 0, 0, 0, 0, 0]
            );
        }
    }

    #[tokio::test]
    async fn pages_hold_each_session_once_in_the_order_of_ids() {
        let (sessions, _) = some().await;
        let (mut seen, mut after) = (Vec::new(), None::<String>);
        loop {
            let page = sessions.page(&Filter::default(), after.as_deref(), 3).await.unwrap();
            seen.extend(page.sessions.iter().map(|s| s.id));
            after = page.next;
            if after.is_none() {
                break;
            }
        }
        assert!(seen.is_sorted() && seen.len() == 4, "{seen:?}");
        let of_user = Filter { user: Some(UserName::new("1@x")), ..Filter::default() };
        assert_eq!(sessions.page(&of_user, None, 1).await.unwrap().sessions.len(), 1);
        let fault = sessions.page(&of_user, Some("x"), 1).await;
        assert!(matches!(fault, Err(PageFault::After)));
    }
}
