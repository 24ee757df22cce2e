//! `POST /login` (contract section 3).

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use serde::Serialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::login_body::LoginBody;
use super::throttle::{Allowance, Throttle};
use crate::access::{Access, query};
use crate::body::{Full, ReadError, read_whole};
use crate::clock::{Clock, UnixMillis};
use crate::directory::hashing::Hashing;
use crate::directory::totp::UsedCodes;
use crate::directory::{Directory, Proof, Refusal, Verified, Verifier};
use crate::identity::UserName;
use crate::secret::{KeyHash, TokenHash};
use crate::session::SessionRecord;
use crate::session::map::Sessions;
use crate::session::store::StoreError;
use crate::session::token::{AclClaim, Tokens};

/// `[login]`
#[derive(Clone, Debug)]
pub struct LoginSettings {
    /// Returned as it is in the login answer.
    pub cdr: serde_json::Value,
    /// `unknown_user = "invalid_credentials"`
    pub hide_unknown_user: bool,
    pub answers: Answers,
    pub max_failures: u32,
    pub window: Duration,
    /// 0: no limit.
    pub max_sessions_per_user: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answers {
    Documented,
    Engine,
}

/// The largest body of a login.
const MAX_BODY: usize = 16 * 1024;

/// Why nobody is logged in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("no user name")]
    NoUserName,
    #[error("{0}")]
    BadRequest(String),
    #[error("wrong password or code")]
    InvalidCredentials,
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
        let proof = Proof { password: body.password, code };
        let user = context.directory.known(&username).cloned();
        let answer = match self.verify(context, &username, proof, client).await {
            Ok(verified) => self.create(context, &verified, client).await,
            Err(error) => Err(error),
        };
        LoginOutcome { user, answer }
    }

    /// Counts failures. Whoever has failed too often by the time his proof is judged learns nothing of it, so tries at
    /// once give no more answers than tries one after another.
    async fn verify(
        &self,
        context: &LoginContext<'_>,
        username: &str,
        proof: Proof,
        client: IpAddr,
    ) -> Result<Verified, LoginError> {
        let LoginSettings { max_failures, window, hide_unknown_user, .. } = *context.settings;
        let (who, allowance) = (self.throttle.of(username, client), Allowance { max_failures, window });
        let check = || match self.throttle.refused(who, self.clock.now(), allowance) {
            Some(retry_after) => Err(LoginError::TooManyFailures { retry_after: ceil_seconds(retry_after) }),
            None => Ok(()),
        };
        check()?;
        let verified = context.directory.verify(&self.verifier, username, proof).await;
        check()?;
        if let Err(Refusal::InvalidCredentials | Refusal::UnknownUser) = verified {
            self.throttle.failed(who, self.clock.now(), window);
        }
        verified.map_err(|refusal| match refusal {
            Refusal::UnknownUser if !hide_unknown_user => LoginError::UnknownUser,
            Refusal::UnknownUser | Refusal::InvalidCredentials => LoginError::InvalidCredentials,
            Refusal::CodeRequired => LoginError::CodeRequired,
            Refusal::Overloaded | Refusal::Unavailable => LoginError::Unavailable { source: None },
        })
    }

    /// The 200, sent only after the session is stored.
    async fn create(
        &self,
        context: &LoginContext<'_>,
        verified: &Verified,
        client: IpAddr,
    ) -> Result<Response<Full>, LoginError> {
        let role = context.access.role(&verified.role);
        let acl: AclClaim<'_> = role.map(|role| role.resources().collect()).unwrap_or_default();
        let claimed = acl.iter().filter(|(name, _)| context.tokens.claims().iter().any(|c| c == *name));
        let claimed: AclClaim<'_> = claimed.map(|(name, permissions)| (*name, *permissions)).collect();

        let now = self.clock.now();
        let expires = self.sessions.reserve_expiry(context.tokens.expiry(now));
        let token = context.tokens.sign_session(expires, &claimed).map_err(|error| {
            LoginError::Unavailable { source: Some(StoreError { store: "token", what: error.to_string() }) }
        })?;
        let key = uuid::Uuid::new_v4().to_string();
        let record = session_record(verified, &key, &token, client, (now, expires));
        self.sessions
            .create(record, context.settings.max_sessions_per_user)
            .await
            .map_err(|source| LoginError::Unavailable { source: Some(source) })?;
        Ok(good(&Answer {
            key: &key,
            username: verified.user.as_str(),
            domain: verified.user.domain(),
            expires: expires.0,
            token: &token,
            role: role.map_or(-1, crate::access::acl::Role::number),
            role_name: verified.role.as_str(),
            acl: &acl,
            cdr: &context.settings.cdr,
        }))
    }
}

fn session_record(
    verified: &Verified,
    key: &str,
    token: &str,
    client: IpAddr,
    (created, expires): (UnixMillis, UnixMillis),
) -> SessionRecord {
    SessionRecord {
        id: KeyHash::of(key),
        token: TokenHash::of(token),
        user: verified.user.clone(),
        role: verified.role.clone(),
        created,
        expires,
        client,
        last_used: created,
    }
}

/// The login answer, in the order of the documentation.
#[derive(Serialize)]
struct Answer<'a> {
    key: &'a str,
    username: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<&'a str>,
    expires: u64,
    token: &'a str,
    role: i64,
    #[serde(rename = "roleName")]
    role_name: &'a str,
    acl: &'a BTreeMap<&'a str, &'a [&'static str]>,
    cdr: &'a serde_json::Value,
}

fn good(answer: &Answer<'_>) -> Response<Full> {
    // Strings, numbers and maps of them: there is nothing that could not be written.
    let body = serde_json::to_vec(answer).unwrap_or_default();
    let mut response = Response::new(Full::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn read_login<B>(request: Request<B>, quiet: Duration) -> Result<LoginBody, LoginError>
where
    B: http_body::Body<Data = Bytes>,
{
    if request.method() != Method::POST {
        return Err(LoginError::MethodNotAllowed);
    }
    if !is_json(request.headers()) {
        return Err(LoginError::BadType);
    }
    let body = pin!(request.into_body());
    let bytes = read_whole(body, MAX_BODY, quiet).await.map_err(|error| match error {
        ReadError::TooLarge(_) => LoginError::TooLarge,
        ReadError::Timeout => LoginError::BodyTimeout,
        ReadError::Broken(_) => LoginError::BodyBroken,
    })?;
    LoginBody::read(&bytes).map_err(LoginError::BadRequest)
}

/// Exactly one `Content-Type`, `application/json`, with or without parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    let (Some(only), None) = (types.next(), types.next()) else { return false };
    let essence = only.to_str().ok().and_then(|text| text.split(';').next());
    essence.is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

fn ceil_seconds(d: Duration) -> Duration {
    Duration::from_secs(d.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_told_by_its_essence_given_once() {
        let typed = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::CONTENT_TYPE, HeaderValue::from_static(value));
            }
            is_json(&headers)
        };
        assert!(typed(&["application/json"]) && typed(&["Application/JSON; charset=utf-8"]));
        for values in [
            &[][..],
            &["text/plain"],
            &["application/jsonx"],
            &["text/plain, application/json"],
            &["text/plain; application/json"],
            &["application/json", "text/plain"],
            &["application/json", "application/json"],
        ] {
            assert!(!typed(values), "{values:?}");
        }
    }

    #[test]
    fn waiting_times_are_whole_seconds_rounded_up() {
        assert_eq!(ceil_seconds(Duration::from_millis(1)), Duration::from_secs(1));
        assert_eq!(ceil_seconds(Duration::from_millis(2000)), Duration::from_secs(2));
    }
}
