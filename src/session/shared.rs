//! A store that replicas share: what it is asked beside keeping, and what it tells each of them (`ARCHITECTURE.md`,
//! Replicas). A replica holds what it has used; the store is asked about the rest, and tells every replica what ended.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::SessionRecord;
use super::freshness::Freshness;
use super::store::{Pending, StoreError};
use super::token::DomainToken;
use crate::identity::UserName;
use crate::secret::KeyHash;

/// What the store has under a session's id.
#[derive(Debug)]
pub enum Kept {
    Record(SessionRecord),
    /// It was ended, and the engine that made it may still know it.
    Barred,
    Nothing,
}

/// Failures of logins in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    pub count: u64,
    /// Until the window ends.
    pub left: Duration,
}

/// Where a session stands when a store goes through all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub group: u32,
    pub id: KeyHash,
}

/// Which sessions are wanted.
pub type Fits<'a> = &'a (dyn Fn(&SessionRecord) -> bool + Sync);

/// A store of several replicas.
pub trait Shared: Send + Sync {
    /// How far what is held here can be trusted.
    fn freshness(&self) -> &Arc<Freshness>;
    /// Whether a login is taken while the store is away, and told to it later (`local_logins`).
    fn takes_local_logins(&self) -> bool;
    /// From here on `replica` is told what others do. Once.
    fn follow(&self, replica: Weak<dyn Replica>);
    /// Waits for the first connection: for programs that do one thing and end.
    fn connected(&self) -> Pending<'_, ()>;
    fn find(&self, id: KeyHash) -> Pending<'_, Kept>;
    fn find_token(&self, id: String) -> Pending<'_, Option<DomainToken>>;
    /// A user's sessions that have not expired, in no order.
    fn of_user(&self, user: UserName) -> Pending<'_, Vec<SessionRecord>>;
    /// Where a session of this user stands.
    fn position(&self, user: &UserName, id: KeyHash) -> Position;
    /// Of the sessions that fit and stand behind `after` the first, in order: `least` or more, where there are so many.
    fn some<'a>(
        &'a self,
        after: Option<Position>,
        least: usize,
        fits: Fits<'a>,
    ) -> Pending<'a, Vec<(Position, SessionRecord)>>;
    /// Takes a name for a time; `false`: another had taken it.
    fn claim(&self, name: String, time: Duration) -> Pending<'_, bool>;
    /// Failures that were counted under each of these names.
    fn failures(&self, of: [String; 2]) -> Pending<'_, [Failures; 2]>;
    /// Counts one under each of these names and says how many there are now; a window begins with its first.
    fn count_failure(&self, of: [String; 2], window: Duration) -> Pending<'_, [Failures; 2]>;
}

/// A replica, as its store sees it.
pub trait Replica: Send + Sync {
    /// Another replica ended these, so long ago.
    fn ended(&self, ids: &[KeyHash], ago: Duration);
    /// The store does not have these any more.
    fn lost(&self, ids: &[KeyHash]);
    /// The role or the rights of these may be others now.
    fn changed(&self, records: Vec<SessionRecord>);
    /// Every session that is held here and that the store should have.
    fn held(&self) -> Vec<KeyHash>;
    /// It is not known any more whether these are good: what is open under them ends. They stay, to be compared when the
    /// store is back.
    fn doubted(&self, ids: &[KeyHash]);
    /// As [`Replica::doubted`], of all minted domain tokens.
    fn tokens_doubted(&self);
    /// All minted domain tokens there are.
    fn tokens(&self, all: Vec<DomainToken>);
    /// Tells the store what it has not been told while it was away.
    fn deliver(&self) -> Pending<'_, ()>;
}

/// The store is away.
pub(super) fn away(store: &'static str, what: impl Into<String>) -> StoreError {
    StoreError { store, what: what.into() }
}
