//! What the store is still to be told: kept until it has answered, and told again by the sweep.

use std::collections::VecDeque;
use std::sync::{MutexGuard, PoisonError};

use super::SessionRecord;
use super::barred::Barred;
use super::map::{PORTION, Sessions};
use super::replica::ANSWERS_ARE_LATE_BY;
use super::shared::Kept;
use super::store::StoreError;
use crate::clock::monotonic;
use crate::secret::{KeyHash, TokenHash};

/// What the store is to be told of an end.
#[derive(Clone, Debug)]
pub(super) enum Owed {
    Remove(KeyHash),
    Bar(Barred),
    /// Of a login while the store was away.
    Put(Box<SessionRecord>),
    /// If it is this token's: of a logout while nobody could say.
    RemoveOf(KeyHash, TokenHash),
}

impl Sessions {
    /// After an error what is owed is kept for the next time.
    pub(super) async fn settle(&self) -> Result<(), StoreError> {
        let owed: Vec<_> = {
            let mut owed = self.owed();
            let portion = owed.len().min(2 * PORTION);
            owed.drain(..portion).collect()
        };
        if owed.is_empty() { Ok(()) } else { self.forget(owed).await }
    }

    pub(super) async fn forget_ended(&self, ids: Vec<Owed>) -> Result<(), StoreError> {
        let ended = monotonic();
        self.forget(ids).await?;
        if self.sharing.is_none() {
            self.ends().took(monotonic().saturating_duration_since(ended));
        }
        Ok(())
    }

    pub(super) async fn forget(&self, owed: Vec<Owed>) -> Result<(), StoreError> {
        let (mut removed, mut barred, mut put, mut of) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for one in &owed {
            match one {
                Owed::Remove(id) => removed.push(*id),
                Owed::Bar(one) => barred.push(*one),
                Owed::Put(record) => put.push(SessionRecord::clone(record)),
                Owed::RemoveOf(id, token) => of.push((*id, *token)),
            }
        }
        let unfinished = Unfinished::new(self, owed);
        for record in put {
            let id = record.id;
            // Once: told again, it would bring back one that another replica has ended meanwhile.
            if self.is_own(&id) {
                self.store.put(record).await?;
                self.is_stored(&id);
            }
        }
        for record in self.only_their_owners(of).await? {
            match record.adopted {
                Some(_) => barred.push(Barred { id: record.id, expires: record.expires }),
                None => removed.push(record.id),
            }
        }
        if !barred.is_empty() {
            self.store.bar(barred).await?;
        }
        if !removed.is_empty() {
            self.store.remove(removed.clone()).await?;
            self.told(&removed);
        }
        unfinished.finish();
        Ok(())
    }

    /// Of these, the sessions of the store that have this token.
    async fn only_their_owners(
        &self,
        of: Vec<(KeyHash, TokenHash)>,
    ) -> Result<Vec<SessionRecord>, StoreError> {
        let mut theirs = Vec::new();
        for (id, token) in of {
            let Some(shared) = self.store.shared() else { continue };
            if let Kept::Record(record) = shared.find(id).await?
                && record.token.matches(&token)
            {
                theirs.push(record);
            }
        }
        Ok(theirs)
    }

    /// The store knows of these ends: what it answered before may still be on its way.
    fn told(&self, removed: &[KeyHash]) {
        if self.sharing.is_some() {
            let until = self.clock.now().plus(ANSWERS_ARE_LATE_BY);
            removed.iter().for_each(|id| self.barred().add(Barred { id: *id, expires: until }));
        }
    }

    pub(super) fn owe(&self, one: Owed) {
        self.owed().push_back(one);
    }

    pub(super) fn owes(&self) -> bool {
        !self.owed().is_empty()
    }

    pub(super) fn owed(&self) -> MutexGuard<'_, VecDeque<Owed>> {
        self.owed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sessions that the store is being asked about. Dropped before it has answered - an error, or a client who
/// went away - it leaves them to the sweep, for the store may have them.
pub(super) struct Unfinished<'a> {
    sessions: &'a Sessions,
    pub(super) owed: Vec<Owed>,
}

impl<'a> Unfinished<'a> {
    pub(super) fn new(sessions: &'a Sessions, owed: Vec<Owed>) -> Self {
        Self { sessions, owed }
    }

    pub(super) fn finish(mut self) {
        self.owed.clear();
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.owed.is_empty() {
            self.sessions.owed().extend(self.owed.drain(..));
        }
    }
}
