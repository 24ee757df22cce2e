//! Which sessions an operator means: shown in pages, or ended.

use std::sync::Arc;

use super::Session;
use super::ends::Cause;
use super::map::{PORTION, Sessions};
use super::store::StoreError;
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
        self.user.as_ref().is_none_or(|user| session.user == *user)
            && self.domain.as_ref().is_none_or(|domain| session.user.domain() == Some(domain))
            && self.before.is_none_or(|before| session.created < before)
    }
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

    /// At most `limit` of those that fit, in the order of their ids, from behind `after` on.
    pub async fn page(
        &self,
        filter: &Filter,
        after: Option<KeyHash>,
        limit: usize,
    ) -> Result<Vec<Arc<Session>>, StoreError> {
        let mut found = self.fitting(filter).await?;
        found.retain(|session| after.is_none_or(|after| session.id > after));
        if found.len() > limit {
            found.select_nth_unstable_by_key(limit, |session| session.id);
            found.truncate(limit);
        }
        found.sort_unstable_by_key(|session| session.id);
        Ok(found)
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
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let page = sessions.page(&Filter::default(), after, 3).await.unwrap();
            seen.extend(page.iter().map(|s| s.id));
            after = page.last().map(|s| s.id);
            if page.len() < 3 {
                break;
            }
        }
        assert!(seen.is_sorted() && seen.len() == 4, "{seen:?}");
        let of_user = Filter { user: Some(UserName::new("1@x")), ..Filter::default() };
        assert_eq!(sessions.page(&of_user, None, 1).await.unwrap().len(), 1);
    }
}
