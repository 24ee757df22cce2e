//! `POST /logout` (contract section 3).

use http::{HeaderValue, Method, Request, Response, header};
use std::sync::Arc;

use crate::access::{Access, Reason};
use crate::body::Full;
use crate::clock::UnixMillis;
use crate::identity::UserName;
use crate::session::ends::Cause;
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
            Self::Unavailable { .. } => "unavailable",
        }
    }
}

/// The answer, and who logged out as far as it is known.
pub struct LogoutOutcome {
    pub user: Option<UserName>,
    pub answer: Result<Response<Full>, LogoutError>,
}

/// Ends the session whose credentials the request presents. The body is of no concern.
pub async fn logout<B>(
    access: &Access,
    sessions: &Arc<Sessions>,
    request: &Request<B>,
    now: UnixMillis,
) -> LogoutOutcome {
    if request.method() != Method::POST {
        return LogoutOutcome { user: None, answer: Err(LogoutError::MethodNotAllowed) };
    }
    let session = match access.session_of(request.headers(), request.uri().query(), now) {
        Ok(session) => session,
        Err(Reason::AmbiguousCredentials) => {
            return LogoutOutcome { user: None, answer: Err(LogoutError::AmbiguousCredentials) };
        }
        Err(_) => return LogoutOutcome { user: None, answer: Err(LogoutError::BadCaller) },
    };
    let answer = match sessions.end(&session.id, Cause::Logout).await {
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
