//! Every answer that the gateway gives instead of a forwarded one: the only place that knows statuses and texts of
//! refusals (contract sections 3 and 4), each by one exhaustive match.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use std::borrow::Cow;
use std::time::Duration;

use super::authorizer::AskFault;
use super::login::LoginError;
use super::logout::LogoutError;
use super::request_body::BodyRefusal;
use crate::access::Reason;
use crate::access::body::BodyFault;
use crate::body::Full;
use crate::engine::Passed;
use crate::telemetry::ids::Ids;
use crate::upstream::ForwardError;

/// Why a request is not forwarded, or got no answer.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// The request's framing or Host is ambiguous.
    #[error("{0}")]
    BadRequest(&'static str),
    /// A request's handler panicked.
    #[error("internal error")]
    Internal,
    #[error("too many requests are in flight")]
    Overloaded,
    #[error("denied: {0:?}")]
    Denied(Reason),
    /// An upgrade on a route with `websocket = "deny"`.
    #[error("no upgrade on this route")]
    UpgradeDenied,
    #[error(transparent)]
    Login(#[from] LoginError),
    /// As [`Rejection::Login`], told as the engine would (`[login] answers = "engine"`).
    #[error(transparent)]
    LoginAsEngine(LoginError),
    #[error(transparent)]
    Logout(#[from] LogoutError),
    #[error(transparent)]
    Body(#[from] BodyRefusal),
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// Of the external authorizer: it is not told what is asked about.
    #[error(transparent)]
    Asked(#[from] AskFault),
    /// Of the external authorizer: the route has rules for a body, and the body does not come by here.
    #[error("the route's body rules cannot be kept")]
    BodyNotSeen,
}

/// A refusal as HTTP has it.
struct Refusal {
    status: StatusCode,
    says: Says,
    retry_after: Option<Duration>,
    /// Whether an HTTP/1 connection closes: what follows on it cannot be told from the body.
    closes: bool,
}

/// The body of a refusal.
enum Says {
    /// `{"status":"error","info":"..."}`
    Info(Cow<'static, str>),
    /// `{"status":401,"message":"..."}`: how the engine has it where no user is named (`webitel.md`).
    Message(&'static str),
    /// What the engine said.
    Passed { content_type: Option<HeaderValue>, body: Bytes },
}

/// The shape of every error, in the order of the documentation.
#[derive(serde::Serialize)]
struct ErrorBody<'a> {
    status: &'static str,
    info: &'a str,
}

const PERMISSION_DENIED: &str = "Permission denied!";
const BUSY: Duration = Duration::from_secs(1);

impl Rejection {
    /// The answer: JSON `{"status":"error","info":"..."}` with the request's id.
    #[must_use]
    pub fn into_response(self, ids: &Ids) -> Response<Full> {
        self.refusal().into_response(ids)
    }

    /// As an ingress is told it (contract section 5): 401, or 403 with the reason, since it makes an error of its own of
    /// anything else. Of a question that cannot be told apart from what follows on the connection: as usual.
    #[must_use]
    pub fn into_verdict(self, ids: &Ids) -> Response<Full> {
        let mut refusal = self.refusal();
        if !refusal.closes && refusal.status != StatusCode::UNAUTHORIZED {
            refusal.status = StatusCode::FORBIDDEN;
        }
        refusal.into_response(ids)
    }

    /// The word for the access log's `reason`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::BadRequest(_) => "bad_request",
            Self::Internal => "internal",
            Self::Overloaded => "overloaded",
            Self::Denied(reason) => reason.as_str(),
            Self::UpgradeDenied => "upgrade_denied",
            Self::Login(error) | Self::LoginAsEngine(error) => error.as_str(),
            Self::Logout(error) => error.as_str(),
            Self::Body(refusal) => body_word(refusal),
            Self::Forward(error) => forward_word(error),
            Self::Asked(AskFault::BadPath) => Reason::BadPath.as_str(),
            Self::Asked(AskFault::NotTrusted) => "peer_not_trusted",
            Self::Asked(_) => "question_unclear",
            Self::BodyNotSeen => "body_not_seen",
        }
    }

    fn refusal(&self) -> Refusal {
        match self {
            Self::BadRequest(what) => Refusal { closes: true, ..plain(StatusCode::BAD_REQUEST, *what) },
            Self::Internal => {
                Refusal { closes: true, ..plain(StatusCode::INTERNAL_SERVER_ERROR, "Internal error") }
            }
            Self::Overloaded => busy("Too many requests"),
            Self::Denied(reason) => denied(*reason),
            Self::UpgradeDenied => plain(StatusCode::FORBIDDEN, PERMISSION_DENIED),
            Self::Login(error) => login(error),
            Self::LoginAsEngine(error) => login_as_engine(error),
            Self::Logout(error) => logout(error),
            Self::Body(refusal) => body(refusal),
            Self::Forward(error) => forward(error),
            Self::Asked(fault) => plain(StatusCode::FORBIDDEN, fault.to_string()),
            Self::BodyNotSeen => {
                plain(StatusCode::FORBIDDEN, "This route's rules for bodies cannot be kept by an authorizer")
            }
        }
    }
}

impl Refusal {
    fn into_response(self, ids: &Ids) -> Response<Full> {
        let Self { status, says, retry_after, closes } = self;
        let (content_type, body) = says.written(status);
        let mut answer = Response::new(Full::new(body));
        *answer.status_mut() = status;
        let headers = answer.headers_mut();
        headers.extend(content_type.map(|content_type| (CONTENT_TYPE, content_type)));
        headers.insert("x-request-id", ids.request_header());
        if let Some(after) = retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        if status == StatusCode::MOVED_PERMANENTLY {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        answer
    }
}

impl Says {
    fn written(self, status: StatusCode) -> (Option<HeaderValue>, Bytes) {
        let json = Some(HeaderValue::from_static("application/json"));
        // Texts and a number: there is nothing that could not be written.
        match self {
            Self::Info(info) => {
                let body = serde_json::to_vec(&ErrorBody { status: "error", info: &info });
                (json, body.unwrap_or_default().into())
            }
            Self::Message(message) => {
                let body = serde_json::json!({ "status": status.as_u16(), "message": message });
                (json, body.to_string().into())
            }
            Self::Passed { content_type, body } => (content_type, body),
        }
    }
}

fn plain(status: StatusCode, info: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal { status, says: Says::Info(info.into()), retry_after: None, closes: false }
}

fn busy(info: &'static str) -> Refusal {
    Refusal { retry_after: Some(BUSY), ..plain(StatusCode::SERVICE_UNAVAILABLE, info) }
}

/// Contract section 4, the table of refusals.
fn denied(reason: Reason) -> Refusal {
    let (status, info) = match reason {
        Reason::BadPath => (StatusCode::BAD_REQUEST, "Bad path"),
        Reason::AmbiguousCredentials => (StatusCode::BAD_REQUEST, "Ambiguous credentials"),
        Reason::NoToken | Reason::DomainTokenInvalid => (StatusCode::UNAUTHORIZED, "Invalid token"),
        Reason::NoKey => (StatusCode::UNAUTHORIZED, "Invalid Token or Key"),
        Reason::UnknownKey | Reason::TokenMismatch => (StatusCode::UNAUTHORIZED, "Invalid User"),
        Reason::Expired => (StatusCode::UNAUTHORIZED, "Token Expired"),
        Reason::DomainTokenUnknown | Reason::DomainTokenDisabled => {
            (StatusCode::UNAUTHORIZED, "Not found token")
        }
        Reason::EngineUnavailable | Reason::StoreUnavailable => {
            return busy("The session cannot be checked at the moment");
        }
        Reason::NoRoute | Reason::DenyRoute | Reason::NoPermission => {
            (StatusCode::FORBIDDEN, PERMISSION_DENIED)
        }
    };
    plain(status, info)
}

/// Contract section 3, `POST /login`.
fn login(error: &LoginError) -> Refusal {
    match error {
        LoginError::NoUserName => plain(StatusCode::BAD_REQUEST, "User name is required"),
        LoginError::BadRequest(what) => plain(StatusCode::BAD_REQUEST, what.clone()),
        LoginError::InvalidCredentials | LoginError::WrongCode => {
            plain(StatusCode::UNAUTHORIZED, "Invalid credentials")
        }
        LoginError::Engine(Passed { status, content_type, body }) => {
            let says = Says::Passed { content_type: content_type.clone(), body: body.clone() };
            Refusal { says, ..plain(*status, "") }
        }
        LoginError::UnknownUser => plain(StatusCode::NOT_FOUND, "User not found"),
        LoginError::CodeRequired => plain(StatusCode::MOVED_PERMANENTLY, "Set security code"),
        LoginError::TooManyFailures { retry_after } => Refusal {
            retry_after: Some(*retry_after),
            ..plain(StatusCode::TOO_MANY_REQUESTS, "Too many failed logins")
        },
        LoginError::TooLarge => {
            Refusal { closes: true, ..plain(StatusCode::PAYLOAD_TOO_LARGE, "The body is larger than 16 KiB") }
        }
        LoginError::BadType => {
            plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Send the login as application/json")
        }
        LoginError::MethodNotAllowed => plain(StatusCode::METHOD_NOT_ALLOWED, "Use POST"),
        LoginError::BodyTimeout => too_slow(),
        LoginError::BodyBroken => broken_body(),
        LoginError::Unavailable { .. } => busy("Logins are not possible at the moment"),
    }
}

/// As the engine refuses a login (`webitel.md`): what it has no word for is told as usual.
fn login_as_engine(error: &LoginError) -> Refusal {
    match error {
        LoginError::NoUserName | LoginError::BadType => {
            Refusal { says: Says::Message("Invalid credentials"), ..plain(StatusCode::UNAUTHORIZED, "") }
        }
        LoginError::InvalidCredentials | LoginError::UnknownUser => {
            plain(StatusCode::UNAUTHORIZED, "secret incorrect")
        }
        LoginError::WrongCode => plain(StatusCode::UNAUTHORIZED, "code incorrect"),
        LoginError::MethodNotAllowed => plain(StatusCode::NOT_FOUND, "/login not found."),
        LoginError::BadRequest(_)
        | LoginError::Engine(_)
        | LoginError::CodeRequired
        | LoginError::TooManyFailures { .. }
        | LoginError::TooLarge
        | LoginError::BodyTimeout
        | LoginError::BodyBroken
        | LoginError::Unavailable { .. } => login(error),
    }
}

/// Contract section 3, `POST /logout`.
fn logout(error: &LogoutError) -> Refusal {
    match error {
        LogoutError::BadCaller => plain(StatusCode::UNAUTHORIZED, "Bad caller"),
        LogoutError::AmbiguousCredentials => denied(Reason::AmbiguousCredentials),
        LogoutError::MethodNotAllowed => plain(StatusCode::METHOD_NOT_ALLOWED, "Use POST"),
        LogoutError::NotAsked => denied(Reason::EngineUnavailable),
        LogoutError::Unavailable { .. } => busy("The session has ended here, but its end is not stored yet"),
    }
}

/// Contract section 2, `body_credentials`.
fn body(refusal: &BodyRefusal) -> Refusal {
    let unsupported = |info| Refusal { closes: true, ..plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, info) };
    match refusal {
        BodyRefusal::Fault(BodyFault::Credential) => denied(Reason::AmbiguousCredentials),
        BodyRefusal::Fault(BodyFault::NotJson) => plain(StatusCode::BAD_REQUEST, "The body is no JSON"),
        BodyRefusal::Fault(BodyFault::Field) => plain(StatusCode::FORBIDDEN, PERMISSION_DENIED),
        BodyRefusal::Fault(BodyFault::NotUtf8) | BodyRefusal::Charset => unsupported("Send JSON as UTF-8"),
        BodyRefusal::Coded => unsupported("Send JSON without a content coding"),
        BodyRefusal::NotJsonType => unsupported("Send the body as application/json"),
        BodyRefusal::TooLarge => {
            Refusal { closes: true, ..plain(StatusCode::PAYLOAD_TOO_LARGE, "The body is larger than 5 MiB") }
        }
        BodyRefusal::Busy => Refusal { closes: true, ..busy("Too many bodies are being read") },
        BodyRefusal::Timeout => too_slow(),
        BodyRefusal::Broken => broken_body(),
    }
}

/// Contract section 4, the table of faults.
fn forward(error: &ForwardError) -> Refusal {
    match error {
        ForwardError::Unreachable(_) | ForwardError::Broken(_) => {
            plain(StatusCode::BAD_GATEWAY, "Bad gateway")
        }
        ForwardError::Busy => busy("No server is free"),
        ForwardError::Timeout => plain(StatusCode::GATEWAY_TIMEOUT, "The server did not answer in time"),
        ForwardError::RequestBody => broken_body(),
        ForwardError::RequestBodyTimeout => too_slow(),
    }
}

fn broken_body() -> Refusal {
    Refusal { closes: true, ..plain(StatusCode::BAD_REQUEST, "The request's body is broken") }
}

fn too_slow() -> Refusal {
    Refusal { closes: true, ..plain(StatusCode::REQUEST_TIMEOUT, "The request's body came too slowly") }
}

fn body_word(refusal: &BodyRefusal) -> &'static str {
    match refusal {
        BodyRefusal::Fault(BodyFault::Credential) => "body_credential",
        BodyRefusal::Fault(BodyFault::Field) => "body_field",
        BodyRefusal::Fault(BodyFault::NotJson | BodyFault::NotUtf8) => "body_no_json",
        BodyRefusal::Coded | BodyRefusal::Charset | BodyRefusal::NotJsonType => "body_type",
        BodyRefusal::TooLarge => "body_too_large",
        BodyRefusal::Busy => "body_memory",
        BodyRefusal::Timeout => "request_body_timeout",
        BodyRefusal::Broken => "request_body_broken",
    }
}

fn forward_word(error: &ForwardError) -> &'static str {
    match error {
        ForwardError::Unreachable(_) => "unreachable",
        ForwardError::Broken(_) => "broken_answer",
        ForwardError::Busy => "busy",
        ForwardError::Timeout => "timeout",
        ForwardError::RequestBody => "request_body_broken",
        ForwardError::RequestBodyTimeout => "request_body_timeout",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;

    fn answer(rejection: Rejection) -> Response<Full> {
        rejection.into_response(&Ids::of(&HeaderMap::new(), false))
    }

    #[test]
    fn an_error_is_json_and_names_its_request() {
        let answer = answer(Rejection::Denied(Reason::NoToken));
        assert_eq!(answer.status(), 401);
        assert_eq!(answer.headers()["content-type"], "application/json");
        assert_eq!(answer.headers()["x-request-id"].len(), 32);
    }

    #[test]
    fn what_can_be_tried_again_says_when() {
        for busy in [Rejection::Overloaded, ForwardError::Busy.into()] {
            let answer = answer(busy);
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["retry-after"]),
                (503, &"1".parse().unwrap())
            );
        }
        let retry_after = Duration::from_secs(42);
        let throttled = answer(LoginError::TooManyFailures { retry_after }.into());
        assert_eq!(
            (throttled.status().as_u16(), &throttled.headers()["retry-after"]),
            (429, &"42".parse().unwrap())
        );
    }

    #[test]
    fn a_request_that_cannot_be_delimited_closes_the_connection() {
        let answer = answer(Rejection::BadRequest("both Content-Length and Transfer-Encoding"));
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["connection"]),
            (400, &"close".parse().unwrap())
        );
    }

    #[test]
    fn a_needed_code_is_a_301_without_location_that_nobody_caches() {
        let answer = answer(LoginError::CodeRequired.into());
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["cache-control"]),
            (301, &"no-store".parse().unwrap())
        );
        assert!(!answer.headers().contains_key("location"));
    }
}
