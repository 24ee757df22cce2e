//! The orders in which sessions are gone through beside their keys: by user, by expiry. Asked at logins, at
//! logouts and by the sweep, never by a checked request.
//!
//! A million sessions must fit in memory, so an order holds pointers and compares through them: about 15
//! bytes a session, where maps with keys of their own would need 100.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use super::adopted::Rights;
use super::{Session, SessionRecord};
use crate::clock::UnixMillis;
use crate::identity::{RoleName, UserName};
use crate::permission::Acl;
use crate::secret::{KeyHash, TokenHash};

/// How long an expiry that was given out is kept from being given out again, whatever became of the login:
/// longer than a login takes, and longer than a clock is set back in one step.
const GIVEN_OUT_FOR: Duration = Duration::from_secs(60);

#[derive(Default)]
pub(super) struct Index {
    by_user: BTreeSet<ByUser>,
    by_expiry: BTreeSet<ByExpiry>,
    given_out: GivenOut,
    roles: HashSet<RoleName>,
    acls: HashSet<Arc<Acl>>,
}

impl Index {
    /// Of sessions that are all known: faster, and denser in memory, than one by one.
    pub(super) fn of(sessions: &[Arc<Session>]) -> Self {
        Self {
            by_user: sessions.iter().cloned().map(ByUser).collect(),
            by_expiry: sessions.iter().cloned().map(ByExpiry).collect(),
            ..Self::default()
        }
    }

    /// Makes a session of the record, its names shared with those of other sessions.
    pub(super) fn add(&mut self, mut record: SessionRecord) -> Arc<Session> {
        if let Some(name) = self.of_user(&record.user).next().map(|s| s.user.clone()) {
            record.user = name;
        }
        record.role = shared(&mut self.roles, record.role);
        record.adopted = record.adopted.map(|rights| shared_rights(&mut self.acls, rights));
        let session = Arc::new(Session::new(record));
        self.insert(&session);
        session
    }

    pub(super) fn insert(&mut self, session: &Arc<Session>) {
        self.by_user.insert(ByUser(Arc::clone(session)));
        self.by_expiry.insert(ByExpiry(Arc::clone(session)));
    }

    pub(super) fn remove(&mut self, session: &Arc<Session>) {
        self.by_user.remove(&ByUser(Arc::clone(session)));
        self.by_expiry.remove(&ByExpiry(Arc::clone(session)));
    }

    /// A user's sessions, oldest first.
    pub(super) fn of_user<'i>(&'i self, user: &UserName) -> impl Iterator<Item = &'i Arc<Session>> + use<'i> {
        let user = user.clone();
        let first = ByUser(before_all(user.clone(), UnixMillis(0)));
        self.by_user.range(first..).map(|s| &s.0).take_while(move |s| s.user == user)
    }

    /// Takes out at most `portion` of those that have expired at `now`.
    pub(super) fn take_expired(&mut self, now: UnixMillis, portion: usize) -> Vec<Arc<Session>> {
        let is_due = |s: &&ByExpiry| s.0.expires <= now;
        let due: Vec<_> =
            self.by_expiry.iter().take_while(is_due).take(portion).map(|s| Arc::clone(&s.0)).collect();
        due.iter().for_each(|session| self.remove(session));
        due
    }

    /// `wanted`, or the first moment after it that no session here ends at and that was not given out lately.
    pub(super) fn give_out_expiry(&mut self, wanted: UnixMillis, now: UnixMillis) -> UnixMillis {
        let mut free = wanted;
        let first = ByExpiry(before_all(UserName::new(""), wanted));
        let mut taken = self.by_expiry.range(first..).map(|s| s.0.expires).peekable();
        loop {
            while taken.next_if(|t| *t < free).is_some() {}
            let is_taken = taken.peek() == Some(&free) || self.given_out.has(free);
            if !is_taken || free.0 == u64::MAX {
                break;
            }
            free.0 += 1;
        }
        self.given_out.note(free, now);
        free
    }
}

/// The one copy of a name that is kept.
pub(super) fn shared<N: Clone + Eq + std::hash::Hash>(kept: &mut HashSet<N>, name: N) -> N {
    match kept.get(&name) {
        Some(kept) => kept.clone(),
        None => {
            kept.insert(name.clone());
            name
        }
    }
}

/// The rights, their list the one copy that is kept: the users of a role share it.
pub(super) fn shared_rights(kept: &mut HashSet<Arc<Acl>>, rights: Rights) -> Rights {
    match rights {
        Rights::OfRole => Rights::OfRole,
        Rights::Listed(acl) => Rights::Listed(shared(kept, acl)),
    }
}

/// Expiries given out lately.
#[derive(Default)]
struct GivenOut {
    all: HashSet<UnixMillis>,
    /// With the moment each was given out, oldest first.
    order: VecDeque<(UnixMillis, UnixMillis)>,
}

impl GivenOut {
    fn has(&self, expiry: UnixMillis) -> bool {
        self.all.contains(&expiry)
    }

    fn note(&mut self, expiry: UnixMillis, now: UnixMillis) {
        while let Some((at, old)) = self.order.front()
            && now.since(*at) > GIVEN_OUT_FOR
        {
            self.all.remove(old);
            self.order.pop_front();
        }
        if self.all.insert(expiry) {
            self.order.push_back((now, expiry));
        }
    }
}

/// Orders by user, then by age.
struct ByUser(Arc<Session>);

/// Orders by expiry.
struct ByExpiry(Arc<Session>);

impl Ord for ByUser {
    fn cmp(&self, other: &Self) -> Ordering {
        let place = |s: &Session| (s.created, s.expires, s.id);
        self.0.user.cmp(&other.0.user).then_with(|| place(&self.0).cmp(&place(&other.0)))
    }
}

impl Ord for ByExpiry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.0.expires, self.0.id).cmp(&(other.0.expires, other.0.id))
    }
}

impl PartialOrd for ByUser {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialOrd for ByExpiry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for ByUser {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl PartialEq for ByExpiry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for ByUser {}
impl Eq for ByExpiry {}

/// A place in an order: what sorts before all sessions of this user, or all with this expiry.
fn before_all(user: UserName, expires: UnixMillis) -> Arc<Session> {
    Arc::new(Session::new(SessionRecord {
        id: KeyHash::from_bytes([0; 32]),
        token: TokenHash::from_bytes([0; 32]),
        user,
        role: RoleName::new(""),
        created: UnixMillis(0),
        expires,
        client: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        last_used: UnixMillis(0),
        adopted: None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::store::contract::record;
    use proptest::prelude::*;

    #[test]
    fn a_users_sessions_come_oldest_first_and_share_his_name() {
        let mut index = Index::default();
        for (key, user, expires) in [("c", "b", 3000), ("a", "b", 2000), ("x", "a", 1), ("y", "bb", 1)] {
            index.add(record(key, user, expires));
        }
        let of_b: Vec<_> = index.of_user(&UserName::new("b")).cloned().collect();
        assert_eq!(of_b.iter().map(|s| s.id).collect::<Vec<_>>(), [KeyHash::of("a"), KeyHash::of("c")]);
        assert!(std::ptr::eq(of_b[0].user.as_str(), of_b[1].user.as_str()));
        assert!(std::ptr::eq(of_b[0].role.as_str(), of_b[1].role.as_str()));
    }

    #[test]
    fn an_expiry_is_not_given_out_again_after_its_session_ended() {
        let (mut index, now) = (Index::default(), UnixMillis(1000));
        let first = index.give_out_expiry(UnixMillis(5000), now);
        let session = index.add(record("a", "u", first.0));
        index.remove(&session);
        assert_eq!(index.give_out_expiry(UnixMillis(5000), now), UnixMillis(5001));
    }

    #[test]
    fn a_shorter_life_than_that_of_older_sessions_is_honoured() {
        let mut index = Index::of(&[Arc::new(Session::new(record("a", "u", 9_000_000)))]);
        index.give_out_expiry(UnixMillis(9_000_000), UnixMillis(0));
        assert_eq!(index.give_out_expiry(UnixMillis(10), UnixMillis(0)), UnixMillis(10));
    }

    proptest! {
        #[test]
        fn no_two_expiries_are_the_same_and_each_is_raised_as_little_as_can_be(
            loaded in prop::collection::vec(0u64..60, 0..30),
            wanted in prop::collection::vec((0u64..60, any::<bool>()), 1..40),
        ) {
            let sessions: Vec<_> = loaded.iter().enumerate()
                .map(|(n, e)| Arc::new(Session::new(record(&n.to_string(), "u", *e)))).collect();
            let mut index = Index::of(&sessions);
            let mut seen: HashSet<u64> = loaded.into_iter().collect();
            for (n, (wanted, login)) in wanted.into_iter().enumerate() {
                let expiry = index.give_out_expiry(UnixMillis(wanted), UnixMillis(0)).0;
                prop_assert!((wanted..expiry).all(|e| seen.contains(&e)));
                prop_assert!(seen.insert(expiry));
                if login {
                    index.add(record(&format!("login {n}"), "u", expiry));
                }
            }
        }

        #[test]
        fn the_expired_are_taken_in_portions_until_none_is_left(
            expiries in prop::collection::vec(0u64..100, 0..50), now in 0u64..100, portion in 1usize..7,
        ) {
            let mut index = Index::default();
            for (n, expires) in expiries.iter().enumerate() {
                index.add(record(&n.to_string(), "u", *expires));
            }
            let mut taken = 0;
            loop {
                let some = index.take_expired(UnixMillis(now), portion);
                prop_assert!(some.len() <= portion && some.iter().all(|s| s.expires.0 <= now));
                taken += some.len();
                if some.is_empty() { break }
            }
            prop_assert_eq!(taken, expiries.iter().filter(|e| **e <= now).count());
            prop_assert_eq!(index.of_user(&UserName::new("u")).count(), expiries.len() - taken);
        }
    }
}
