//! Callers whom another replica knows (contract section 2, `[sessions.redis]`): the store is asked about one who is not known
//! here, and one who is goes on while the store is away, no longer than it may.

use std::net::IpAddr;

use super::Reason;
use super::authenticate::{Ask, Authenticator, Unauthenticated, by_record, is_token_of, live};
use super::credentials::Presented;
use super::permit::Principal;
use crate::clock::UnixMillis;
use crate::secret::{KeyHash, TokenHash};
use crate::session::domain_tokens::Origin;
use crate::session::replica::Found;

impl Authenticator {
    /// Whether what is known here of a caller is known well enough. The configuration's tokens are of no store.
    pub(super) fn is_trusted(&self, principal: &Principal) -> bool {
        match principal {
            Principal::Session(session) => self.sessions.trusts(session),
            Principal::Domain(known) => known.origin != Origin::Minted || self.sessions.trusts_what_is_held(),
        }
    }

    /// Asks the store that replicas share. What it does not know an engine may.
    pub(super) async fn look_up(
        &self,
        unknown: Unauthenticated,
        presented: &Presented<'_>,
        now: UnixMillis,
    ) -> Result<Principal, Unauthenticated> {
        match &unknown.ask {
            Some(Ask::Domain(claims)) => match self.sessions.find_token(&claims.id).await {
                Ok(Some(known)) => by_record(Some(known), claims, now),
                Ok(None) => Err(unknown),
                Err(error) => Err(not_asked(&error)),
            },
            Some(Ask::Session(_) | Ask::OldSession) => {
                let key = presented.key.as_ref().and_then(|key| key.text());
                let (Some(key), Some(token)) = (key, &presented.token) else { return Err(unknown) };
                match self.sessions.find(&KeyHash::of(key)).await {
                    Ok(Found::Session(session)) if is_token_of(token, &session) => {
                        live(&session, now).map(Principal::Session)
                    }
                    Ok(Found::Session(_)) => Err(Reason::TokenMismatch.into()),
                    Ok(Found::Ended) => Err(Reason::UnknownKey.into()),
                    Ok(Found::Unknown) => Err(unknown),
                    Err(error) => Err(not_asked(&error)),
                }
            }
            None => Err(unknown),
        }
    }

    /// Who logs out. One who is known here may at any time; of one who is not the store is told when it is back.
    pub(super) async fn leaving(
        &self,
        presented: &Presented<'_>,
        client: IpAddr,
        now: UnixMillis,
    ) -> Result<Principal, Unauthenticated> {
        if let Ok(principal) = self.principal(presented, now)
            && !self.is_trusted(&principal)
        {
            return Ok(principal);
        }
        let caller = self.caller(presented, client, now).await;
        if let Err(Unauthenticated { reason: Reason::StoreUnavailable, .. }) = &caller {
            let key = presented.key.as_ref().and_then(|key| key.text());
            let token = presented.token.as_ref().and_then(|token| token.text());
            if let (Some(key), Some(token)) = (key, token) {
                self.sessions.end_later(KeyHash::of(key), TokenHash::of(token));
            }
        }
        caller
    }
}

/// He is known here, but what is known is too old.
pub(super) fn not_trusted(principal: Principal) -> Unauthenticated {
    Unauthenticated { principal: Some(principal), ..Reason::StoreUnavailable.into() }
}

fn not_asked(error: &crate::session::store::StoreError) -> Unauthenticated {
    tracing::debug!(%error, "a caller could not be looked up");
    Reason::StoreUnavailable.into()
}
