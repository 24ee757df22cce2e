//! `POST /logout` (contract section 3).

use http::{HeaderValue, Method, Request, Response, header};
use std::net::IpAddr;
use std::sync::Arc;

use crate::access::{Access, Reason};
use crate::body::Full;
use crate::clock::UnixMillis;
use crate::engine::Engine;
use crate::identity::UserName;
use crate::secret::SecretString;
use crate::session::ends::Cause;
use crate::session::engine_logout::{EngineLogouts, Leaving};
use crate::session::map::Sessions;
use crate::session::store::StoreError;

/// Why nobody is logged out.
#[derive(Debug, thiserror::Error)]
pub enum LogoutError {
    #[error("the credentials are of no session")]
    BadCaller,
    #[error("a credential is given more than once")]
    AmbiguousCredentials,
    #[error("not a POST")]
    MethodNotAllowed,
    /// The engine or the shared store, which alone may know the session, could not be asked.
    #[error("whoever may know the session could not be asked")]
    NotAsked,
    /// The session has ended here; the store is told later.
    #[error("the end of the session is not stored")]
    Unavailable { source: StoreError },
}

impl LogoutError {
    /// The word for logs.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::BadCaller => "bad_caller",
            Self::AmbiguousCredentials => "ambiguous_credentials",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::NotAsked => "not_asked",
            Self::Unavailable { .. } => "unavailable",
        }
    }
}

/// The answer, and who logged out as far as it is known.
pub struct LogoutOutcome {
    pub user: Option<UserName>,
    pub answer: Result<Response<Full>, LogoutError>,
}

/// What a logout needs.
pub struct LogoutContext<'a> {
    pub access: &'a Access,
    pub sessions: &'a Arc<Sessions>,
    /// That made the sessions which were not made here.
    pub engine: Option<&'a Arc<Engine>>,
    pub engine_logouts: &'a Arc<EngineLogouts>,
}

/// Ends the session whose credentials the request presents. The body is of no concern.
pub async fn logout<B>(
    context: &LogoutContext<'_>,
    request: &Request<B>,
    client: IpAddr,
    now: UnixMillis,
) -> LogoutOutcome {
    if request.method() != Method::POST {
        return LogoutOutcome { user: None, answer: Err(LogoutError::MethodNotAllowed) };
    }
    let (headers, query) = (request.headers(), request.uri().query());
    let (session, credentials) = match context.access.session_of(headers, query, client, now).await {
        Ok(found) => found,
        Err(Reason::AmbiguousCredentials) => {
            return LogoutOutcome { user: None, answer: Err(LogoutError::AmbiguousCredentials) };
        }
        Err(Reason::EngineUnavailable | Reason::StoreUnavailable) => {
            return LogoutOutcome { user: None, answer: Err(LogoutError::NotAsked) };
        }
        Err(_) => return LogoutOutcome { user: None, answer: Err(LogoutError::BadCaller) },
    };
    let ended = match (context.engine, session.adopted()) {
        (Some(engine), Some(_)) => {
            let text = |value: &HeaderValue| SecretString::from(value.to_str().unwrap_or_default());
            let key = credentials.key.as_ref().map(text).unwrap_or_default();
            let (engine, token, expires) = (Arc::clone(engine), text(&credentials.token), session.expires);
            let leaving = Leaving { engine, token, key, expires };
            context.engine_logouts.end(session.id, Cause::Logout, leaving).await
        }
        _ => context.sessions.end(&session.id, Cause::Logout).await,
    };
    let answer = match ended {
        Ok(true) => Ok(good()),
        Ok(false) => Err(LogoutError::BadCaller),
        Err(source) => Err(LogoutError::Unavailable { source }),
    };
    LogoutOutcome { user: Some(session.user.clone()), answer }
}

fn good() -> Response<Full> {
    let mut answer = Response::new(Full::new(r#"{"status":"OK","info":"Successful logout."}"#));
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
