//! Sessions: what a login makes, what every request is checked against, and where it is kept.

pub mod file;
pub mod map;
pub mod memory;
pub mod store;
pub mod token;

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::UnixMillis;
use crate::identity::{RoleName, UserName};
use crate::secret::{KeyHash, TokenHash};

/// What a login created. Shared by the requests made under it; only `last_used` and `ended` change.
#[derive(Debug)]
pub struct Session {
    /// The hash of the key: the session's identity.
    pub id: KeyHash,
    pub token: TokenHash,
    pub user: UserName,
    /// Looked up at each request, so that a changed role acts at once (contract section 2).
    pub role: RoleName,
    pub created: UnixMillis,
    pub expires: UnixMillis,
    /// Where the login came from.
    pub client: IpAddr,
    last_used: AtomicU64,
    ended: AtomicBool,
}

/// How far `last_used` may lag behind: a request writes it only when it is older, so that a busy session's
/// cache line is not written by every request.
const LAST_USED_STEP: Duration = Duration::from_secs(1);

/// A session as plain values: what a store keeps, and what a new session is made from.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    pub id: KeyHash,
    pub token: TokenHash,
    pub user: UserName,
    pub role: RoleName,
    pub created: UnixMillis,
    pub expires: UnixMillis,
    pub client: IpAddr,
    pub last_used: UnixMillis,
}

impl Session {
    #[must_use]
    pub fn new(record: SessionRecord) -> Self {
        let SessionRecord { id, token, user, role, created, expires, client, last_used } = record;
        let (last_used, ended) = (AtomicU64::new(last_used.0), AtomicBool::new(false));
        Self { id, token, user, role, created, expires, client, last_used, ended }
    }

    /// Notes a use at `now`.
    pub fn touch(&self, now: UnixMillis) {
        if now.since(self.last_used()) >= LAST_USED_STEP {
            self.last_used.store(now.0, Ordering::Relaxed);
        }
    }

    #[must_use]
    pub fn last_used(&self) -> UnixMillis {
        UnixMillis(self.last_used.load(Ordering::Relaxed))
    }

    /// Marks the session as ended for those who hold it: open streams look here.
    pub fn mark_ended(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether it was ended (logout, revocation) or has expired at `now`.
    #[must_use]
    pub fn is_over(&self, now: UnixMillis) -> bool {
        self.ended.load(Ordering::Acquire) || self.expires <= now
    }

    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

/// `[sessions]` of the configuration.
#[derive(Clone, Debug, Default)]
pub struct SessionSettings {
    /// The store's file; none: memory only.
    pub file: Option<std::path::PathBuf>,
}
