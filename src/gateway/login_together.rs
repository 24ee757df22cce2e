//! What replicas that share a session store know together of logins: failures, and codes of second factors that were used.
//! Where the store is away, each replica counts for itself.

use std::time::Duration;

use super::login::LoginError;
use super::throttle::{Allowance, names, refused_by_all};
use crate::identity::UserName;
use crate::secret::KeyHash;
use crate::session::map::Sessions;
use crate::session::shared::{Failures, Shared};
use crate::session::store::StoreError;

/// Longer than a code is good: a step of 30 s, one off either way.
const CODE_TAKEN_FOR: Duration = Duration::from_secs(120);

/// One try, as all replicas call it.
pub(super) struct Together<'s> {
    shared: &'s dyn Shared,
    names: [String; 2],
}

/// Where replicas share a store. An error: it is away, so that nobody can log in; nothing is judged then, or a password
/// could be guessed on each replica by itself.
pub(super) fn together<'s>(
    sessions: &'s Sessions,
    user: &str,
    client: std::net::IpAddr,
) -> Result<Option<Together<'s>>, LoginError> {
    let Some(shared) = sessions.shared() else { return Ok(None) };
    match (shared.freshness().is_current(), shared.takes_local_logins()) {
        (true, _) => Ok(Some(Together { shared, names: names(user, client) })),
        (false, true) => Ok(None),
        (false, false) => Err(unavailable("the shared store is away")),
    }
}

impl Together<'_> {
    /// Fails when all replicas have seen too many failures.
    pub(super) async fn check(&self, allowance: Allowance) -> Result<(), LoginError> {
        let failures = self.shared.failures(self.names.clone()).await.map_err(not_asked)?;
        refuse(refused_by_all(failures, allowance))
    }

    /// Counts a failure. Fails when there were too many before it: of many tries at once no more learn that theirs was
    /// wrong than of tries one after another.
    pub(super) async fn failed(&self, allowance: Allowance) -> Result<(), LoginError> {
        let counted =
            self.shared.count_failure(self.names.clone(), allowance.window).await.map_err(not_asked)?;
        let before = counted.map(|failures| Failures { count: failures.count.saturating_sub(1), ..failures });
        refuse(refused_by_all(before, allowance))
    }

    /// A code of a second factor works once, on whichever replica.
    pub(super) async fn take_code(&self, user: &UserName, code: &str) -> Result<(), LoginError> {
        let name = format!("code:{}", KeyHash::of(&format!("{code} {}", user.as_str())));
        let is_ours = self.shared.claim(name, CODE_TAKEN_FOR).await.map_err(not_asked)?;
        if is_ours { Ok(()) } else { Err(LoginError::WrongCode) }
    }
}

fn refuse(left: Option<Duration>) -> Result<(), LoginError> {
    match left {
        Some(left) => Err(LoginError::TooManyFailures { retry_after: super::login::ceil_seconds(left) }),
        None => Ok(()),
    }
}

fn not_asked(source: StoreError) -> LoginError {
    LoginError::Unavailable { source: Some(source) }
}

fn unavailable(what: &str) -> LoginError {
    not_asked(StoreError { store: "redis", what: what.to_owned() })
}
