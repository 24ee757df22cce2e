//! Credentials become a principal (contract section 4, Credentials).
//!
//! A known session is found by its key and proved by its token's hash: one lookup, no parsing. Only what is not that
//! is read as a token.

use std::collections::HashMap;
use std::sync::Arc;

use super::Reason;
use super::credentials::Presented;
use super::permit::Principal;
use crate::clock::UnixMillis;
use crate::identity::UserName;
use crate::secret::{KeyHash, TokenHash};
use crate::session::Session;
use crate::session::map::Sessions;
use crate::session::token::{DomainClaims, DomainToken, Reading, Tokens};

/// Knows the sessions and the domain tokens.
pub(super) struct Authenticator {
    sessions: Arc<Sessions>,
    tokens: Arc<Tokens>,
    domain_tokens: HashMap<String, Arc<DomainToken>>,
}

impl Authenticator {
    pub(super) fn new(sessions: Arc<Sessions>, tokens: Arc<Tokens>, records: Vec<DomainToken>) -> Self {
        let domain_tokens = records.into_iter().map(|record| (record.id.clone(), Arc::new(record))).collect();
        Self { sessions, tokens, domain_tokens }
    }

    pub(super) fn authenticate(
        &self,
        presented: &Presented<'_>,
        now: UnixMillis,
    ) -> Result<Principal, Reason> {
        let Some(token) = &presented.token else { return Err(Reason::NoToken) };
        let token = token.text();
        let session = match &presented.key {
            Some(key) => self.session(key.text(), token, now),
            None => Err(Reason::NoKey),
        };
        match session {
            Ok(session) => Ok(Principal::Session(session)),
            Err(Reason::Expired) => Err(Reason::Expired),
            // A domain token needs no key, and one that is given is ignored.
            Err(reason) => self.without_session(token, reason, now),
        }
    }

    /// The session of a key, if the token is its own and it is not over.
    pub(super) fn session(&self, key: &str, token: &str, now: UnixMillis) -> Result<Arc<Session>, Reason> {
        let session = self.sessions.get(&KeyHash::of(key)).ok_or(Reason::UnknownKey)?;
        if !session.token.matches(&TokenHash::of(token)) {
            return Err(Reason::TokenMismatch);
        }
        if session.is_ended() {
            return Err(Reason::UnknownKey);
        }
        if session.is_over(now) {
            return Err(Reason::Expired);
        }
        session.touch(now);
        Ok(session)
    }

    fn without_session(&self, token: &str, reason: Reason, now: UnixMillis) -> Result<Principal, Reason> {
        match self.tokens.read(token, now) {
            Reading::Domain(claims) => self.domain_token(&claims, now),
            Reading::BadDomain => Err(Reason::DomainTokenInvalid),
            // Its session has been swept away: the client is told why, not that it is unknown.
            Reading::ExpiredSession if reason == Reason::UnknownKey => Err(Reason::Expired),
            Reading::ExpiredSession | Reading::Session | Reading::Other => Err(reason),
        }
    }

    fn domain_token(&self, claims: &DomainClaims, now: UnixMillis) -> Result<Principal, Reason> {
        let record = self.domain_tokens.get(&claims.id).ok_or(Reason::DomainTokenUnknown)?;
        if claims.domain.as_deref() != Some(&*record.domain) {
            return Err(Reason::DomainTokenUnknown);
        }
        if !record.enabled {
            return Err(Reason::DomainTokenDisabled);
        }
        if claims.expires <= now || record.expires <= now {
            return Err(Reason::Expired);
        }
        let user = UserName::new(&format!("{}@{}", record.id, record.domain));
        Ok(Principal::Domain { record: Arc::clone(record), user })
    }
}
