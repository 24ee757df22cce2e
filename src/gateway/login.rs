//! `POST /login` (contract section 3).

use bytes::Bytes;
use http::{Request, Response};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::login_answer::{Answer, good, with_cdr};
use super::login_request::read_login;
use super::login_together::together;
use super::throttle::{Allowance, Throttle};
use crate::access::{Access, query};
use crate::body::Full;
use crate::clock::{Clock, UnixMillis};
use crate::directory::hashing::Hashing;
use crate::directory::totp::UsedCodes;
use crate::directory::{Directory, Proof, Refusal, Verified, Verifier};
use crate::engine::{LoginAnswer, Passed};
use crate::identity::{RoleName, UserName};
use crate::secret::{ExposeSecret, KeyHash, SecretString, TokenHash};
use crate::session::adopted::Rights;
use crate::session::map::Sessions;
use crate::session::store::StoreError;
use crate::session::token::{AclClaim, Tokens};
use crate::session::{Session, SessionRecord};

/// `[login]`
#[derive(Clone, Debug)]
pub struct LoginSettings {
    /// Returned as it is in the login answer; none: an empty object, or what the engine answers.
    pub cdr: Option<serde_json::Value>,
    /// `unknown_user = "invalid_credentials"`
    pub hide_unknown_user: bool,
    pub answers: Answers,
    pub max_failures: u32,
    pub window: Duration,
    /// 0: no limit.
    pub max_sessions_per_user: usize,
    /// The rights of a session that the engine made: its role's, not those that the engine answered.
    pub rights_by_role: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    Documented,
    Engine,
}

/// Why nobody is logged in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("no user name")]
    NoUserName,
    #[error("{0}")]
    BadRequest(String),
    #[error("wrong password")]
    InvalidCredentials,
    #[error("wrong code of the second factor")]
    WrongCode,
    /// Passed on as it is.
    #[error("the engine refused: {}", .0.status)]
    Engine(Passed),
    #[error("no such user")]
    UnknownUser,
    #[error("a second factor is needed and no code was sent")]
    CodeRequired,
    #[error("too many failures")]
    TooManyFailures { retry_after: Duration },
    #[error("the body is too large")]
    TooLarge,
    #[error("the content type is not application/json")]
    BadType,
    #[error("not a POST")]
    MethodNotAllowed,
    #[error("the body came too slowly")]
    BodyTimeout,
    #[error("the body is broken")]
    BodyBroken,
    /// The directory or the store is not reachable, or too many log in at once. Nothing was created.
    #[error("logins are not possible at the moment")]
    Unavailable {
        #[source]
        source: Option<StoreError>,
    },
}

impl LoginError {
    /// The word for logs and metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::NoUserName => "no_user_name",
            Self::BadRequest(_) => "bad_request",
            Self::InvalidCredentials => "invalid_credentials",
            Self::WrongCode => "wrong_code",
            Self::Engine(_) => "engine_refused",
            Self::UnknownUser => "unknown_user",
            Self::CodeRequired => "code_required",
            Self::TooManyFailures { .. } => "throttled",
            Self::TooLarge => "too_large",
            Self::BadType => "bad_type",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::BodyTimeout => "body_timeout",
            Self::BodyBroken => "body_broken",
            Self::Unavailable { .. } => "unavailable",
        }
    }
}

/// The answer, and who logs in as far as the directory knows him.
pub struct LoginOutcome {
    pub user: Option<UserName>,
    pub answer: Result<Response<Full>, LoginError>,
}

/// What a login needs of the running configuration.
pub struct LoginContext<'a> {
    pub directory: &'a Directory,
    pub settings: &'a LoginSettings,
    pub access: &'a Access,
    pub tokens: &'a Tokens,
    pub body_timeout: Duration,
    /// Whether the session is to outlive the process.
    pub is_stored: bool,
}

/// What logins need and no reload replaces.
pub struct LoginService {
    sessions: Arc<Sessions>,
    verifier: Verifier,
    throttle: Throttle,
    clock: Clock,
}

impl LoginService {
    /// Starts the hashing threads.
    pub fn start(sessions: Arc<Sessions>, clock: Clock) -> std::io::Result<Self> {
        let hashing = Hashing::start()?;
        let verifier = Verifier { hashing, used_codes: UsedCodes::default(), clock: clock.clone() };
        Ok(Self { sessions, verifier, throttle: Throttle::default(), clock })
    }

    #[must_use]
    pub fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    /// Logs in. Credentials that are sent along are ignored: the key is always new.
    pub async fn login<B>(
        &self,
        context: &LoginContext<'_>,
        request: Request<B>,
        client: IpAddr,
    ) -> LoginOutcome
    where
        B: http_body::Body<Data = Bytes>,
    {
        let code = query::value(request.uri().query(), "code").map(std::borrow::Cow::into_owned);
        let body = match read_login(request, context.body_timeout).await {
            Ok(body) => body,
            Err(error) => return LoginOutcome { user: None, answer: Err(error) },
        };
        let Some(username) = body.username else {
            return LoginOutcome { user: None, answer: Err(LoginError::NoUserName) };
        };
        let proof = Proof { password: body.password, code, client };
        match self.judged(context, &username, proof).await {
            Ok(LoggedIn { session, answer, .. }) => {
                LoginOutcome { user: Some(session.user.clone()), answer: Ok(good(answer)) }
            }
            Err(error) => {
                LoginOutcome { user: context.directory.known(&username).cloned(), answer: Err(error) }
            }
        }
    }

    /// Logs in whoever proves who he is, whichever way he came.
    pub async fn judged(
        &self,
        context: &LoginContext<'_>,
        username: &str,
        proof: Proof,
    ) -> Result<LoggedIn, LoginError> {
        let client = proof.client;
        let (verified, expires) = self.verify(context, username, proof).await?;
        match verified {
            Verified::Here { user, role } => self.create(context, (user, role), expires, client).await,
            Verified::Engine(answer) => self.take_over(context, username, *answer, client).await,
        }
    }

    /// Counts failures. Whoever has failed too often by the time his proof is judged learns nothing of it, so tries at
    /// once give no more answers than tries one after another. With an expiry, where one is reserved already.
    async fn verify(
        &self,
        context: &LoginContext<'_>,
        username: &str,
        proof: Proof,
    ) -> Result<(Verified, Option<UnixMillis>), LoginError> {
        let LoginSettings { max_failures, window, hide_unknown_user, .. } = *context.settings;
        let (who, allowance) = (self.throttle.of(username, proof.client), Allowance { max_failures, window });
        let check = || match self.throttle.refused(who, self.clock.now(), allowance) {
            Some(retry_after) => Err(LoginError::TooManyFailures { retry_after: ceil_seconds(retry_after) }),
            None => Ok(()),
        };
        check()?;
        let together = together(&self.sessions, username, proof.client)?;
        if let Some(together) = &together {
            together.check(allowance).await?;
        }
        let code = proof.code.clone();
        let verified = context.directory.verify(&self.verifier, username, proof).await;
        check()?;
        if verified.as_ref().is_err_and(Refusal::is_failure) {
            self.throttle.failed(who, self.clock.now(), window);
        }
        let mut expires = None;
        if let Some(together) = &together {
            let is_ours = matches!(verified, Ok(Verified::Here { .. }));
            // Behind the judgement too: of many tries at once no more learn it than of tries one after another.
            // An expiry is asked for in the same trip; who is refused learns nothing of how that went.
            let expiry = async { if is_ours { self.expiry(context).await.map(Some) } else { Ok(None) } };
            let (checked, reserved) = tokio::join!(together.check(allowance), expiry);
            checked?;
            expires = reserved?;
            match &verified {
                Err(refusal) if refusal.is_failure() => together.failed(allowance).await?,
                Ok(Verified::Here { user, .. }) if context.directory.asks_for_code(user) => {
                    together.take_code(user, code.as_deref().unwrap_or_default()).await?;
                }
                Ok(_) | Err(_) => {}
            }
        }
        let verified = verified.map_err(|refusal| match refusal {
            Refusal::UnknownUser if !hide_unknown_user => LoginError::UnknownUser,
            Refusal::UnknownUser | Refusal::InvalidCredentials => LoginError::InvalidCredentials,
            Refusal::WrongCode => LoginError::WrongCode,
            Refusal::Engine(passed) => LoginError::Engine(passed),
            Refusal::CodeRequired => LoginError::CodeRequired,
            Refusal::Overloaded | Refusal::Unavailable => LoginError::Unavailable { source: None },
        })?;
        Ok((verified, expires))
    }

    async fn expiry(&self, context: &LoginContext<'_>) -> Result<UnixMillis, LoginError> {
        let expires = self.sessions.reserve_expiry(context.tokens.expiry(self.clock.now())).await;
        expires.map_err(|source| LoginError::Unavailable { source: Some(source) })
    }

    /// A session of our own. Answered only after it is stored.
    async fn create(
        &self,
        context: &LoginContext<'_>,
        (user, role_name): (UserName, RoleName),
        expires: Option<UnixMillis>,
        client: IpAddr,
    ) -> Result<LoggedIn, LoginError> {
        let role = context.access.role(&role_name);
        let acl: AclClaim<'_> = role.map(|role| role.resources().collect()).unwrap_or_default();
        let claimed = acl.iter().filter(|(name, _)| context.tokens.claims().iter().any(|c| c == *name));
        let claimed: AclClaim<'_> = claimed.map(|(name, permissions)| (*name, *permissions)).collect();

        let now = self.clock.now();
        let expires = match expires {
            Some(expires) => expires,
            None => self.expiry(context).await?,
        };
        let token = context.tokens.sign_session(expires, &claimed).map_err(|error| {
            LoginError::Unavailable { source: Some(StoreError { store: "token", what: error.to_string() }) }
        })?;
        let key = uuid::Uuid::new_v4().to_string();
        let record = SessionRecord {
            id: KeyHash::of(&key),
            token: TokenHash::of(&token),
            user: user.clone(),
            role: role_name.clone(),
            created: now,
            expires,
            client,
            last_used: now,
            adopted: None,
        };
        let session = self.stored(context, record).await?;
        let empty = serde_json::json!({});
        let answer = Answer {
            key: &key,
            username: user.as_str(),
            domain: user.domain(),
            expires: expires.0,
            token: &token,
            role: role.map_or(-1, crate::access::acl::Role::number),
            role_name: role_name.as_str(),
            acl: &acl,
            cdr: context.settings.cdr.as_ref().unwrap_or(&empty),
        };
        // Strings, numbers and maps of them: there is nothing that could not be written.
        let answer = serde_json::to_vec(&answer).unwrap_or_default().into();
        Ok(LoggedIn { session, answer, token: token.into(), key: key.into() })
    }

    /// The session that the engine made, with its key, token, expiry and rights.
    async fn take_over(
        &self,
        context: &LoginContext<'_>,
        username: &str,
        answer: LoginAnswer,
        client: IpAddr,
    ) -> Result<LoggedIn, LoginError> {
        let now = self.clock.now();
        let LoginAnswer { key, token, username: named, role_name, expires, acl, body } = answer;
        let rights =
            if context.settings.rights_by_role { Rights::OfRole } else { Rights::Listed(Arc::new(acl)) };
        let record = SessionRecord {
            id: KeyHash::of(key.expose_secret()),
            token: TokenHash::of(token.expose_secret()),
            user: UserName::new(named.as_deref().unwrap_or(username)),
            role: RoleName::new(&role_name),
            created: now,
            expires,
            client,
            last_used: now,
            adopted: Some(rights),
        };
        let session = self.stored(context, record).await?;
        if let Some(adopted) = session.adopted() {
            adopted.set_asked(now);
        }
        let answer = match &context.settings.cdr {
            Some(cdr) => with_cdr(&body, cdr).unwrap_or(body),
            None => body,
        };
        Ok(LoggedIn { session, answer, token, key })
    }

    async fn stored(
        &self,
        context: &LoginContext<'_>,
        record: SessionRecord,
    ) -> Result<Arc<Session>, LoginError> {
        if !context.is_stored {
            return Ok(self.sessions.create_unstored(record));
        }
        let most = context.settings.max_sessions_per_user;
        let stored = self.sessions.create(record, most).await;
        stored.map_err(|source| LoginError::Unavailable { source: Some(source) })
    }
}

/// A session that was just made, with its secrets, and the answer that tells of it.
pub struct LoggedIn {
    pub session: Arc<Session>,
    pub answer: Bytes,
    pub token: SecretString,
    pub key: SecretString,
}

pub(super) fn ceil_seconds(d: Duration) -> Duration {
    Duration::from_secs(d.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_times_are_whole_seconds_rounded_up() {
        assert_eq!(ceil_seconds(Duration::from_millis(1)), Duration::from_secs(1));
        assert_eq!(ceil_seconds(Duration::from_millis(2000)), Duration::from_secs(2));
    }
}
