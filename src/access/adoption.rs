//! Callers whom an engine made known (contract section 2, `[sessions.adopt]`): a session or domain token that is unknown
//! here is asked for, and one that the engine told of is asked about again when its last answer is old.

use std::net::IpAddr;
use std::sync::Arc;

use super::Reason;
use super::authenticate::{Ask, Authenticator, Unauthenticated, by_record, is_token_of, live};
use super::credentials::Presented;
use super::permit::Principal;
use super::shared::not_trusted;
use crate::clock::UnixMillis;
use crate::engine::Whoami;
use crate::identity::{RoleName, UserName};
use crate::secret::{KeyHash, TokenHash};
use crate::session::adopter::{Adopter, Asked, Said};
use crate::session::domain_tokens::KnownToken;
use crate::session::ends::Cause;
use crate::session::token::{DomainClaims, DomainToken};
use crate::session::{Session, SessionRecord};

/// The longest key that an engine is asked about. Its own are UUIDs.
const MAX_KEY: usize = 256;

impl Authenticator {
    /// Who it is. Awaits nothing for a caller who is known and of whom nothing is to be asked.
    pub(super) async fn caller(
        &self,
        presented: &Presented<'_>,
        client: IpAddr,
        now: UnixMillis,
    ) -> Result<Principal, Unauthenticated> {
        let known = match self.principal(presented, now) {
            Ok(principal) if self.is_trusted(&principal) => Ok(principal),
            Ok(principal) => Err(not_trusted(principal)),
            Err(unknown) if unknown.ask.is_some() && self.sessions.shared().is_some() => {
                Box::pin(self.look_up(unknown, presented, now)).await
            }
            unknown => unknown,
        };
        let Some(adopter) = &self.adopter else { return known };
        match known {
            Ok(principal) => match principal.adopted() {
                Some(adopted) if adopter.is_stale(adopted, now) => {
                    Box::pin(self.ask_again(adopter, principal, presented, now)).await
                }
                _ => Ok(principal),
            },
            Err(Unauthenticated { ask: Some(ask), reason, .. }) => {
                let Some(token) = presented.token.as_ref().and_then(|token| token.text()) else {
                    return Err(reason.into());
                };
                match ask {
                    Ask::Domain(claims) => Box::pin(self.adopt_token(adopter, token, &claims, now)).await,
                    Ask::OldSession => Err(reason.into()),
                    Ask::Session(expires) => {
                        Box::pin(self.adopt(adopter, presented, (client, expires), now)).await
                    }
                }
            }
            Err(unknown) => Err(unknown),
        }
    }

    async fn adopt(
        &self,
        adopter: &Adopter,
        presented: &Presented<'_>,
        (client, expires): (IpAddr, UnixMillis),
        now: UnixMillis,
    ) -> Result<Principal, Unauthenticated> {
        let unknown = || Unauthenticated::from(Reason::UnknownKey);
        let token = presented.token.as_ref().ok_or_else(unknown)?;
        let key = presented.key.as_ref().and_then(|key| key.text()).filter(|key| key.len() <= MAX_KEY);
        let key = key.ok_or_else(unknown)?;
        let (text, id) = (token.text().ok_or_else(unknown)?, KeyHash::of(key));
        if self.sessions.is_barred(&id) {
            return Err(unknown());
        }
        let made = adopter.ask(
            (Asked::Unknown, text, Some(key)),
            || self.sessions.get(&id).map(Some),
            async |caller: Whoami| {
                let record = SessionRecord {
                    id,
                    token: TokenHash::of(text),
                    user: UserName::new(&caller.id),
                    role: RoleName::new(&caller.role_name),
                    created: now,
                    // The engine looks at both.
                    expires: caller.expires.unwrap_or(expires).min(expires),
                    client,
                    last_used: now,
                    adopted: Some(adopter.rights(&caller)),
                };
                self.sessions.adopt(record, now).await
            },
        );
        let made = told(made.await, Reason::UnknownKey)?;
        let session = made.filter(|session| is_token_of(token, session)).ok_or_else(unknown)?;
        live(&session, now).map(Principal::Session)
    }

    async fn adopt_token(
        &self,
        adopter: &Adopter,
        token: &str,
        claims: &DomainClaims,
        now: UnixMillis,
    ) -> Result<Principal, Unauthenticated> {
        let tokens = self.sessions.domain_tokens();
        let made = adopter.ask(
            (Asked::Unknown, token, None),
            || tokens.get(&claims.id).map(Some),
            async |caller: Whoami| {
                let record = record_of(&caller, claims)?;
                Some(tokens.adopt(record, adopter.rights(&caller), now))
            },
        );
        let known = told(made.await, Reason::DomainTokenUnknown)?.ok_or(Reason::DomainTokenUnknown)?;
        // Another question may have made it, about a token that claims another domain or expiry.
        by_record(Some(known), claims, now)
    }

    /// One who is known goes on when the engine cannot be asked, and ends when it does not know him any more.
    async fn ask_again(
        &self,
        adopter: &Adopter,
        principal: Principal,
        presented: &Presented<'_>,
        now: UnixMillis,
    ) -> Result<Principal, Unauthenticated> {
        let token = presented.token.as_ref().and_then(|token| token.text()).unwrap_or_default();
        match &principal {
            Principal::Session(session) => {
                let key = presented.key.as_ref().and_then(|key| key.text());
                let fresh = |session: &Arc<Session>| {
                    session.adopted().is_some_and(|adopted| !adopter.is_stale(adopted, now))
                };
                let made = adopter.ask(
                    (Asked::Known, token, key),
                    || self.sessions.get(&session.id).filter(fresh).map(Some),
                    async |caller: Whoami| {
                        // By its id it is not compared: a login may have named the same user in other words.
                        if caller.expires.is_some_and(|expires| expires <= now) {
                            let _: Unauthenticated = self.ended(session).await;
                            return None;
                        }
                        let (role, rights) = (RoleName::new(&caller.role_name), adopter.rights(&caller));
                        self.sessions.refresh(session, role, rights, now).await
                    },
                );
                match made.await {
                    Said::Knows(Some(session)) => live(&session, now).map(Principal::Session),
                    Said::Knows(None) => Err(Reason::UnknownKey.into()),
                    Said::DoesNotKnow => Err(self.ended(session).await),
                    Said::Nothing => Ok(go_on(adopter, principal, now)),
                }
            }
            Principal::Domain(known) => {
                let tokens = self.sessions.domain_tokens();
                let fresh = |known: &Arc<KnownToken>| {
                    known.adopted().is_some_and(|adopted| !adopter.is_stale(adopted, now))
                };
                let made = adopter.ask(
                    (Asked::Known, token, None),
                    || tokens.get(&known.record.id).filter(fresh),
                    async |caller: Whoami| {
                        let role = RoleName::new(&caller.role_name);
                        let record = DomainToken { role, ..known.record.clone() };
                        tokens.adopt(record, adopter.rights(&caller), now)
                    },
                );
                match made.await {
                    Said::Knows(known) => Ok(Principal::Domain(known)),
                    Said::DoesNotKnow => Err(self.forgotten(known)),
                    Said::Nothing => Ok(go_on(adopter, principal, now)),
                }
            }
        }
    }

    async fn ended(&self, session: &Arc<Session>) -> Unauthenticated {
        if let Err(error) = self.sessions.end(&session.id, Cause::EngineEnded).await {
            tracing::warn!(%error, "the end of a session is not stored yet");
        }
        let principal = Some(Principal::Session(Arc::clone(session)));
        Unauthenticated { principal, ..Reason::UnknownKey.into() }
    }

    fn forgotten(&self, known: &Arc<KnownToken>) -> Unauthenticated {
        self.sessions.domain_tokens().forget_adopted(&known.record.id);
        let principal = Some(Principal::Domain(Arc::clone(known)));
        Unauthenticated { principal, ..Reason::DomainTokenUnknown.into() }
    }
}

/// The engine could not be asked: he is asked about again before long.
fn go_on(adopter: &Adopter, principal: Principal, now: UnixMillis) -> Principal {
    if let Some(adopted) = principal.adopted() {
        adopter.ask_again_soon(adopted, now);
    }
    principal
}

fn told<T>(said: Said<T>, unknown: Reason) -> Result<T, Reason> {
    match said {
        Said::Knows(made) => Ok(made),
        Said::DoesNotKnow => Err(unknown),
        Said::Nothing => Err(Reason::EngineUnavailable),
    }
}

/// None where the engine names another caller than the token does.
fn record_of(caller: &Whoami, claims: &DomainClaims) -> Option<DomainToken> {
    let domain = claims.domain.clone()?;
    let is_the_same =
        caller.id.strip_prefix(&*claims.id).and_then(|rest| rest.strip_prefix('@')) == Some(&domain);
    is_the_same.then(|| DomainToken {
        id: claims.id.clone(),
        domain,
        role: RoleName::new(&caller.role_name),
        expires: claims.expires,
        enabled: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_adopted_under_its_own_name_alone() {
        let caller = |id: &str| Whoami {
            id: id.into(),
            role_name: "user".into(),
            expires: None,
            acl: crate::permission::Acl::default(),
        };
        let claims = |domain: Option<&str>| DomainClaims {
            id: "i".into(),
            domain: domain.map(Into::into),
            expires: UnixMillis(9),
        };
        let record = record_of(&caller("i@d"), &claims(Some("d"))).unwrap();
        assert_eq!((record.id.as_str(), record.domain.as_str(), record.expires), ("i", "d", UnixMillis(9)));
        for (id, domain) in
            [("i@e", Some("d")), ("j@d", Some("d")), ("i@d", None), ("i", Some("d")), ("root", Some("d"))]
        {
            assert!(record_of(&caller(id), &claims(domain)).is_none(), "{id} {domain:?}");
        }
    }
}
