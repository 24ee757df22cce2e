//! Sessions: what a login makes, what every request is checked against, and where it is kept.

pub mod adopted;
pub mod adopter;
mod barred;
pub mod counted;
pub mod domain_tokens;
pub mod ends;
pub mod engine_logout;
mod file;
mod file_place;
mod file_rows;
mod file_start;
mod file_writer;
pub mod filter;
pub mod freshness;
mod index;
mod loading;
pub mod map;
mod memory;
mod owed;
pub mod redis;
pub mod replica;
pub mod shared;
pub mod store;
mod taken_over;
pub mod token;

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::UnixMillis;
use crate::identity::{RoleName, UserName};
use crate::secret::{KeyHash, TokenHash};

use adopted::{Adopted, Rights};

/// What a login created. Shared by the requests made under it; only its last use and its end change.
///
/// A million of them are held, so they are packed: 136 bytes each.
#[derive(Debug)]
pub struct Session {
    /// The hash of the key: the session's identity.
    pub id: KeyHash,
    pub token: TokenHash,
    pub user: UserName,
    /// Its ACL is looked up at each request, so that a changed role acts at once (contract section 2).
    pub role: RoleName,
    pub created: UnixMillis,
    pub expires: UnixMillis,
    /// IPv4 addresses as IPv6 ones.
    client: Ipv6Addr,
    /// Of a session that an engine made; boxed, for most are made here.
    adopted: Option<Box<Adopted>>,
    /// Last use in ms, and [`ENDED`].
    state: AtomicU64,
}

/// The bit of a session's state that says it has ended.
const ENDED: u64 = 1 << 63;

/// How far the last use may lag behind: a request writes it only when it is older, so that a busy session's
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
    /// Where the login came from.
    pub client: IpAddr,
    pub last_used: UnixMillis,
    /// The rights of a session that an engine made; none: it was made here.
    pub adopted: Option<Rights>,
}

impl Session {
    #[must_use]
    pub fn new(record: SessionRecord) -> Self {
        let SessionRecord { id, token, user, role, created, expires, client, last_used, adopted } = record;
        let client = match client {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(v6) => v6,
        };
        let adopted = adopted.map(|rights| Box::new(Adopted::new(rights, UnixMillis(0))));
        let state = AtomicU64::new(last_used.0 & !ENDED);
        Self { id, token, user, role, created, expires, client, adopted, state }
    }

    /// The session as plain values, as they stand now.
    #[must_use]
    pub fn record(&self) -> SessionRecord {
        SessionRecord {
            id: self.id,
            token: self.token,
            user: self.user.clone(),
            role: self.role.clone(),
            created: self.created,
            expires: self.expires,
            client: self.client(),
            last_used: self.last_used(),
            adopted: self.adopted().map(|adopted| adopted.rights.clone()),
        }
    }

    /// The engine's side of a session that it made.
    #[must_use]
    pub fn adopted(&self) -> Option<&Adopted> {
        self.adopted.as_deref()
    }

    /// Where the login came from.
    #[must_use]
    pub fn client(&self) -> IpAddr {
        IpAddr::V6(self.client).to_canonical()
    }

    /// Notes a use at `now`.
    pub fn touch(&self, now: UnixMillis) {
        let before = self.state.load(Ordering::Relaxed);
        if before & ENDED == 0 && now.since(UnixMillis(before)) >= LAST_USED_STEP {
            // Fails when it has ended meanwhile, which must not be overwritten, or another request was faster.
            let _ = self.state.compare_exchange(before, now.0 & !ENDED, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    #[must_use]
    pub fn last_used(&self) -> UnixMillis {
        UnixMillis(self.state.load(Ordering::Relaxed) & !ENDED)
    }

    /// Marks the session as ended for those who hold it: open streams look here.
    pub fn mark_ended(&self) {
        self.state.fetch_or(ENDED, Ordering::Release);
    }

    /// Whether it was ended (logout, revocation) or has expired at `now`.
    #[must_use]
    pub fn is_over(&self, now: UnixMillis) -> bool {
        self.is_ended() || self.expires <= now
    }

    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.state.load(Ordering::Acquire) & ENDED != 0
    }
}

/// `[sessions]` of the configuration.
#[derive(Clone, Debug, Default)]
pub struct SessionSettings {
    /// The store's file; none: memory only.
    pub file: Option<std::path::PathBuf>,
    /// Instead of a file: shared with other replicas.
    pub redis: Option<redis::RedisSettings>,
    pub adopt: Option<adopter::AdoptSettings>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_small_and_gives_back_what_it_was_made_from() {
        assert_eq!(size_of::<Session>(), 136);
        for client in ["192.0.2.1", "2001:db8::7"] {
            let made =
                SessionRecord { client: client.parse().unwrap(), ..store::contract::record("a", "u", 9) };
            let session = Session::new(made.clone());
            assert_eq!(session.client(), made.client);
            assert_eq!(session.record().last_used, made.last_used);
        }
    }

    #[test]
    fn a_use_is_noted_once_a_second_and_never_hides_the_end() {
        let session = Session::new(store::contract::record("a", "u", 90_000));
        let first = session.last_used().plus(LAST_USED_STEP);
        session.touch(first);
        session.touch(first.plus(Duration::from_millis(999)));
        assert_eq!(session.last_used(), first);
        assert!(!session.is_over(UnixMillis(89_999)) && session.is_over(UnixMillis(90_000)));
        session.mark_ended();
        session.touch(UnixMillis(80_000));
        assert!(session.is_ended() && session.last_used() == first);
    }
}
