//! Credentials become a principal (contract section 4, Credentials). The hot path is a known session: two hashes, remembered
//! or computed, and one look-up; every other token is read on the cold path below it. What an engine must be asked is [`super::adoption`]'s.

use std::sync::Arc;

use super::Reason;
use super::credentials::{Credential, Presented};
use super::permit::Principal;
use crate::clock::UnixMillis;
use crate::secret::{Hashes, KeyHash, Tag, TokenHash};
use crate::session::Session;
use crate::session::adopter::Adopter;
use crate::session::domain_tokens::KnownToken;
use crate::session::map::Sessions;
use crate::session::token::{DomainClaims, Reading, Tokens};

/// Tells who presents credentials.
pub(super) struct Authenticator {
    pub(super) sessions: Arc<Sessions>,
    tokens: Arc<Tokens>,
    pub(super) adopter: Option<Arc<Adopter>>,
}

/// A refusal, with the caller where his token was his but has expired: for the log.
#[derive(Debug)]
pub(super) struct Unauthenticated {
    pub(super) reason: Reason,
    pub(super) principal: Option<Principal>,
    /// What an engine may know of it.
    pub(super) ask: Option<Ask>,
}

/// Credentials that are unknown here, the token's signature good.
#[derive(Debug)]
pub(super) enum Ask {
    /// Of a session that expires then, as its token says.
    Session(UnixMillis),
    /// As before, by a key that signs no more: of no engine, but of a store that replicas share.
    OldSession,
    Domain(DomainClaims),
}

impl From<Reason> for Unauthenticated {
    fn from(reason: Reason) -> Self {
        Self { reason, principal: None, ask: None }
    }
}

impl Authenticator {
    pub(super) fn new(sessions: Arc<Sessions>, tokens: Arc<Tokens>, adopter: Option<Arc<Adopter>>) -> Self {
        Self { sessions, tokens, adopter }
    }

    /// Who it is, as far as it is known here. A session's use is noted.
    pub(super) fn principal(
        &self,
        presented: &Presented<'_>,
        now: UnixMillis,
    ) -> Result<Principal, Unauthenticated> {
        let token = presented.token.as_ref().ok_or(Reason::NoToken)?;
        match self.session(presented.key.as_ref(), token) {
            Some((session, true)) => live(&session, now).map(Principal::Session),
            other => self.without_session(token, presented.key.is_some(), other.is_some(), now),
        }
    }

    /// The session that a key names, and whether the token is its own.
    fn session(&self, key: Option<&Credential<'_>>, token: &Credential<'_>) -> Option<(Arc<Session>, bool)> {
        let key = key?.text()?;
        let tag = token.text().and_then(|token| Tag::of(key, token));
        if let Some(hashes) = tag.and_then(Tag::recall) {
            let session = self.sessions.get(&hashes.key)?;
            let is_its = hashes.token.matches(&session.token);
            return Some((session, is_its));
        }
        let id = KeyHash::of(key);
        let session = self.sessions.get(&id)?;
        let is_its = is_token_of(token, &session);
        if let Some(tag) = tag.filter(|_| is_its) {
            tag.remember(Hashes { key: id, token: session.token });
        }
        Some((session, is_its))
    }

    /// The cold path: the token is not that of the key's session.
    #[cold]
    fn without_session(
        &self,
        token: &Credential<'_>,
        has_key: bool,
        key_known: bool,
        now: UnixMillis,
    ) -> Result<Principal, Unauthenticated> {
        let reading = token.text().map_or(Reading::Other, |text| self.tokens.read(text, now));
        let ask = match reading {
            Reading::Domain(claims) => {
                let known = self.sessions.domain_tokens().get(&claims.id);
                let is_new = known.is_none();
                return by_record(known, &claims, now).map_err(|unknown| {
                    let ask =
                        is_new && unknown.reason == Reason::DomainTokenUnknown && claims.domain.is_some();
                    Unauthenticated { ask: ask.then_some(Ask::Domain(claims)), ..unknown }
                });
            }
            Reading::Session(expires) => Some(Ask::Session(expires)),
            Reading::OldSession => Some(Ask::OldSession),
            Reading::ExpiredSession | Reading::BadDomain | Reading::Other => None,
        };
        let reason = no_session(&reading, has_key, key_known);
        let ask = ask.filter(|_| reason == Reason::UnknownKey);
        Err(Unauthenticated { ask, ..reason.into() })
    }
}

pub(super) fn is_token_of(token: &Credential<'_>, session: &Session) -> bool {
    token.text().is_some_and(|text| TokenHash::of(text).matches(&session.token))
}

/// A session whose token was presented. One that was ended is unknown to its caller.
pub(super) fn live(session: &Arc<Session>, now: UnixMillis) -> Result<Arc<Session>, Unauthenticated> {
    if !session.is_over(now) {
        session.touch(now);
        return Ok(Arc::clone(session));
    }
    let reason = if session.is_ended() { Reason::UnknownKey } else { Reason::Expired };
    Err(Unauthenticated { reason, principal: Some(Principal::Session(Arc::clone(session))), ask: None })
}

/// Why a token that is neither a session's nor a good domain token is refused.
fn no_session(reading: &Reading, has_key: bool, key_known: bool) -> Reason {
    match reading {
        Reading::BadDomain => Reason::DomainTokenInvalid,
        _ if !has_key => Reason::NoKey,
        _ if key_known => Reason::TokenMismatch,
        Reading::ExpiredSession => Reason::Expired,
        Reading::Session(_) | Reading::OldSession | Reading::Other | Reading::Domain(_) => Reason::UnknownKey,
    }
}

/// Judges a token of good signature by its record, which must be of the domain that the token claims.
pub(super) fn by_record(
    known: Option<Arc<KnownToken>>,
    claims: &DomainClaims,
    now: UnixMillis,
) -> Result<Principal, Unauthenticated> {
    let known = known.filter(|known| claims.domain.as_ref() == Some(&known.record.domain));
    let reason = match &known {
        _ if claims.expires <= now => Reason::Expired,
        None => Reason::DomainTokenUnknown,
        Some(known) if !known.record.enabled => Reason::DomainTokenDisabled,
        Some(known) if known.record.expires <= now => Reason::Expired,
        Some(known) => return Ok(Principal::Domain(Arc::clone(known))),
    };
    Err(Unauthenticated { reason, principal: known.map(Principal::Domain), ask: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::identity::{RoleName, UserName};
    use crate::session::token::DomainToken;
    use crate::session::{SessionRecord, SessionSettings, store};

    const NOW: UnixMillis = UnixMillis(1_000_000);

    async fn domain_tokens() -> Sessions {
        let record = |id: &str, expires, enabled| DomainToken {
            id: id.into(),
            domain: "d.test".into(),
            role: RoleName::new("user"),
            expires: UnixMillis(expires),
            enabled,
        };
        let memory = store::open(&SessionSettings::default()).unwrap();
        let sessions = Sessions::open(memory, &Clock::manual(NOW)).await.unwrap();
        sessions.domain_tokens().configure(&[
            record("good", 2_000_000, true),
            record("off", 2_000_000, false),
            record("old", 1_000_000, true),
        ]);
        sessions
    }

    fn domain(known: &Sessions, id: &str, domain: Option<&str>, expires: u64) -> Result<String, Reason> {
        let claims =
            DomainClaims { id: id.into(), domain: domain.map(Into::into), expires: UnixMillis(expires) };
        let judged = by_record(known.domain_tokens().get(id), &claims, NOW);
        judged.map(|p| p.user().as_str().to_owned()).map_err(|u| u.reason)
    }

    #[tokio::test]
    async fn a_domain_token_is_judged_by_its_record() {
        let (d, known) = (Some("d.test"), domain_tokens().await);
        let domain = |id: &str, claimed, expires| domain(&known, id, claimed, expires);
        assert_eq!(domain("good", d, 1_000_001).as_deref(), Ok("good@d.test"));
        assert_eq!(domain("good", d, 1_000_000), Err(Reason::Expired));
        assert_eq!(domain("old", d, 1_500_000), Err(Reason::Expired));
        assert_eq!(domain("off", d, 1_500_000), Err(Reason::DomainTokenDisabled));
        for (id, claimed) in [
            ("ghost", d),
            ("GOOD", d),
            ("good", None),
            ("good", Some("other")),
            ("good", Some("D.TEST")),
            ("", None),
        ] {
            assert_eq!(domain(id, claimed, 1_500_000), Err(Reason::DomainTokenUnknown), "{id} {claimed:?}");
        }
    }

    fn session(expires: u64) -> Arc<Session> {
        Arc::new(Session::new(SessionRecord {
            id: KeyHash::of("k"),
            token: TokenHash::of("t"),
            user: UserName::new("100@d.test"),
            role: RoleName::new("user"),
            created: UnixMillis(1),
            expires: UnixMillis(expires),
            client: std::net::IpAddr::from([127, 0, 0, 1]),
            last_used: UnixMillis(1),
            adopted: None,
        }))
    }

    #[test]
    fn a_session_is_good_until_it_expires_or_is_ended() {
        let good = session(1_000_001);
        assert!(live(&good, NOW).is_ok());
        assert_eq!(good.last_used(), NOW);
        assert_eq!(live(&session(1_000_000), NOW).unwrap_err().reason, Reason::Expired);
        good.mark_ended();
        assert_eq!(live(&good, NOW).unwrap_err().reason, Reason::UnknownKey);
    }

    #[test]
    fn refusals_follow_the_contracts_table() {
        for (reading, has_key, key_known, reason) in [
            (Reading::Other, false, false, Reason::NoKey),
            (Reading::Session(UnixMillis(9)), false, false, Reason::NoKey),
            (Reading::ExpiredSession, false, false, Reason::NoKey),
            (Reading::BadDomain, false, false, Reason::DomainTokenInvalid),
            (Reading::BadDomain, true, true, Reason::DomainTokenInvalid),
            (Reading::Other, true, true, Reason::TokenMismatch),
            (Reading::ExpiredSession, true, true, Reason::TokenMismatch),
            (Reading::Session(UnixMillis(9)), true, false, Reason::UnknownKey),
            (Reading::Other, true, false, Reason::UnknownKey),
            (Reading::OldSession, true, false, Reason::UnknownKey),
            (Reading::ExpiredSession, true, false, Reason::Expired),
        ] {
            assert_eq!(no_session(&reading, has_key, key_known), reason, "{reading:?} {has_key} {key_known}");
        }
    }
}
