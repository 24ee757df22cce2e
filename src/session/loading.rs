//! The sessions of a store as the map takes them over at start.

use std::collections::HashSet;
use std::sync::Arc;

use super::index::{shared, shared_rights};
use super::{Session, SessionRecord};
use crate::identity::{RoleName, UserName};
use crate::permission::Acl;

/// Sessions as they come from the store, one copy of each name.
#[derive(Default)]
pub(super) struct Loading {
    pub(super) sessions: Vec<Arc<Session>>,
    users: HashSet<UserName>,
    roles: HashSet<RoleName>,
    acls: HashSet<Arc<Acl>>,
}

impl Loading {
    pub(super) fn take(&mut self, mut record: SessionRecord) {
        record.user = shared(&mut self.users, record.user);
        record.role = shared(&mut self.roles, record.role);
        record.adopted = record.adopted.map(|rights| shared_rights(&mut self.acls, rights));
        self.sessions.push(Arc::new(Session::new(record)));
    }
}
