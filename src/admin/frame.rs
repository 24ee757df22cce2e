//! What every admin call passes before it is carried out (contract section 6), in this order: its Host must be ours
//! (a page that rebinds its name to our address is refused), it must not come from a foreign page, it must show the
//! token, its body must be JSON. And the form of errors.

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::to_bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{IntoResponse, Response};
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HOST, ORIGIN, TRANSFER_ENCODING,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use http_body_util::LengthLimitError;
use std::error::Error as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use super::AdminSettings;
use crate::clock::UnixMillis;
use crate::host;
use crate::secret::{ExposeSecret, TokenHash};
use crate::session::store::StoreError;
use crate::telemetry::ids::Ids;

/// The largest body of a call.
const MAX_BODY: usize = 64 * 1024;
/// How long all of it may take.
const BODY_TIME: Duration = Duration::from_secs(10);
/// What is asked by probes and scrapers, which hold no token.
const OPEN: [&str; 3] = ["/healthz", "/readyz", "/metrics"];

/// An error as the contract writes it: `{"status":"error","info":...}`.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    info: String,
}

impl Refusal {
    #[must_use]
    pub fn new(status: StatusCode, info: impl Into<String>) -> Self {
        Self { status, info: info.into() }
    }
}

impl Refusal {
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }
}

/// The store could not do it: whoever asked may try again.
pub(super) fn stored(error: StoreError) -> Refusal {
    tracing::warn!(%error, "an admin call could not be stored");
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "The store cannot be written; try again")
}

/// RFC 3339 in UTC, with milliseconds.
pub(super) fn rfc3339(at: UnixMillis) -> String {
    let at = i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| "never".to_owned(), |at| format!("{at:.3}"))
}

/// A moment that a call names.
pub(super) fn moment(name: &str, text: &str) -> Result<UnixMillis, Refusal> {
    let read = text.parse::<jiff::Timestamp>().ok().and_then(|at| u64::try_from(at.as_millisecond()).ok());
    read.map(UnixMillis).ok_or_else(|| {
        let info = format!("{name} must be a time as RFC 3339 has it, like 2027-01-01T00:00:00Z");
        Refusal::new(StatusCode::BAD_REQUEST, info)
    })
}

/// For calls that need a body: an empty one too must say that it is JSON.
pub(super) fn has_json(headers: &HeaderMap) -> Result<(), Refusal> {
    let refusal = || Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Send application/json");
    is_json(headers).then_some(()).ok_or_else(refusal)
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = axum::Json(serde_json::json!({ "status": "error", "info": self.info }));
        let mut response = (self.status, body).into_response();
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Who may ask.
#[derive(Debug)]
pub struct Gate {
    /// In lower case.
    hosts: Vec<String>,
    token: Option<TokenHash>,
}

/// The gate as a reload may change it. Clones are the same.
#[derive(Clone, Debug)]
pub struct LiveGate(Arc<ArcSwap<Gate>>);

impl LiveGate {
    #[must_use]
    pub fn new(gate: Gate) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(gate)))
    }

    pub fn swap(&self, gate: Gate) {
        self.0.store(Arc::new(gate));
    }
}

impl Gate {
    #[must_use]
    pub fn new(settings: &AdminSettings) -> Self {
        let hosts = settings.hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        // A token file ends with a line's end as often as not.
        let whole = |token: &str| TokenHash::of(token.trim_end_matches(['\r', '\n']));
        Self { hosts, token: settings.token.as_ref().map(|token| whole(token.expose_secret())) }
    }

    fn judge(&self, request: &Request) -> Result<(), Refusal> {
        let headers = request.headers();
        let host = single(headers, &HOST).and_then(|host| host.to_str().ok());
        let target = request.uri().authority().map(http::uri::Authority::as_str);
        if host.or(target).is_none() || !host.into_iter().chain(target).all(|host| self.is_ours(host)) {
            return Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, "Host is not one of admin.hosts"));
        }
        if is_foreign(headers, host) {
            return Err(Refusal::new(StatusCode::FORBIDDEN, "Not from another page"));
        }
        if !OPEN.contains(&request.uri().path()) && !self.is_authorised(headers) {
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, "Bearer token needed"));
        }
        if has_body(headers) && !is_json(headers) {
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "Send application/json"));
        }
        Ok(())
    }

    /// An IP literal, `localhost`, or a name of `admin.hosts`; with any port.
    fn is_ours(&self, host: &str) -> bool {
        let Some((name, _)) = host::split(host.as_bytes()) else { return false };
        if let Some(literal) = name.strip_prefix('[') {
            return literal.strip_suffix(']').is_some_and(|literal| literal.parse::<Ipv6Addr>().is_ok());
        }
        name.parse::<Ipv4Addr>().is_ok()
            || name.eq_ignore_ascii_case("localhost")
            || self.hosts.contains(&name.to_ascii_lowercase())
    }

    /// RFC 6750 section 2.1. Hashes are compared, so neither the token's length nor its beginning shows in the time.
    fn is_authorised(&self, headers: &HeaderMap) -> bool {
        let Some(expected) = &self.token else { return true };
        let presented = single(headers, &AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.split_once(' '))
            .filter(|(scheme, token)| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty());
        presented.is_some_and(|(_, token)| TokenHash::of(token).matches(expected))
    }
}

/// Whether a browser says that a page of another origin asks.
fn is_foreign(headers: &HeaderMap, host: Option<&str>) -> bool {
    let cross_site = headers.get_all("sec-fetch-site").iter().any(|site| site == "cross-site");
    let is_own = |origin: &HeaderValue| {
        let authority = origin.to_str().ok().and_then(|origin| Some(origin.split_once("://")?.1));
        authority.zip(host).is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host))
    };
    cross_site || !headers.get_all(ORIGIN).iter().all(is_own)
}

fn has_body(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) || headers.get(CONTENT_LENGTH).is_some_and(|length| length != "0")
}

fn is_json(headers: &HeaderMap) -> bool {
    single(headers, &CONTENT_TYPE)
        .and_then(|value| value.to_str().ok()?.split(';').next())
        .is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

/// The calls behind the gate; what matches none of them is 404, another method 405 with `Allow`.
pub(super) fn around(calls: Router, gate: LiveGate) -> Router {
    calls
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "Not found"))
        .method_not_allowed_fallback(async || {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(gate, admit))
        .layer(map_response(async |response: Response| dressed(in_our_words(response))))
}

/// What the library refuses by itself (a body that is too large) is told as every other refusal is.
fn in_our_words(response: Response) -> Response {
    let status = response.status();
    let is_told = single(response.headers(), &CONTENT_TYPE).is_none_or(|kind| *kind == "application/json");
    if is_told || !status.is_client_error() {
        return response;
    }
    Refusal::new(status, status.canonical_reason().unwrap_or("The call is refused")).into_response()
}

async fn admit(State(gate): State<LiveGate>, request: Request, next: Next) -> Response {
    let judged = gate.0.load().judge(&request);
    if let Err(refusal) = judged {
        return refusal.into_response();
    }
    match read_body(request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

/// The body is there before the call is made, and soon.
async fn read_body(request: Request) -> Result<Request, Refusal> {
    if !has_body(request.headers()) {
        return Ok(request);
    }
    let refused = |status| Refusal::new(status, status.canonical_reason().unwrap_or_default());
    let (head, body) = request.into_parts();
    match tokio::time::timeout(BODY_TIME, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => Ok(Request::from_parts(head, bytes.into())),
        Ok(Err(error)) if error.source().is_some_and(|e| e.is::<LengthLimitError>()) => {
            Err(refused(StatusCode::PAYLOAD_TOO_LARGE))
        }
        Ok(Err(_)) => Err(refused(StatusCode::BAD_REQUEST)),
        Err(_) => Err(refused(StatusCode::REQUEST_TIMEOUT)),
    }
}

/// With what every answer carries.
pub(super) fn dressed(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert("x-request-id", Ids::of(&HeaderMap::new(), false).request_header());
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::routing::{get, post};
    use http_body_util::BodyExt;
    use tower::ServiceExt;

    fn gate(hosts: &[&str], token: Option<&str>) -> Gate {
        Gate::new(&AdminSettings {
            addr: "127.0.0.1:0".parse().unwrap(),
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            token: token.map(|token| token.to_owned().into()),
        })
    }

    async fn ask(gate: Gate, method: &str, path: &str, headers: &[(&str, &str)]) -> (u16, Response) {
        let calls = Router::new()
            .route("/healthz", get(async || "ok"))
            .route("/sessions", get(async || "ok").delete(async || "gone"))
            .route("/reload", post(async || "ok"));
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response =
            around(calls, LiveGate::new(gate)).oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        (response.status().as_u16(), response)
    }

    async fn status(gate: Gate, headers: &[(&str, &str)]) -> u16 {
        ask(gate, "GET", "/sessions", headers).await.0
    }

    #[tokio::test]
    async fn only_our_hosts_are_answered() {
        for host in [
            "127.0.0.1",
            "127.0.0.1:9900",
            "10.1.2.3:80",
            "localhost",
            "LocalHost:1",
            "[::1]",
            "[::1]:9900",
            "admin.example",
            "ADMIN.example:9900",
        ] {
            assert_eq!(status(gate(&["Admin.example"], None), &[("host", host)]).await, 200, "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "xlocalhost",
            "localhost.",
            "0x7f000001",
            "2130706433",
            "127.0.0.1@evil.example",
            "[evil]",
            "[::1",
            "::1",
            "127.0.0.1:x",
            "127.0.0.1:80:80",
            "",
        ] {
            assert_eq!(status(gate(&["admin.example"], None), &[("host", host)]).await, 421, "{host}");
        }
        assert_eq!(status(gate(&[], None), &[]).await, 421);
        let (target, _) = ask(gate(&[], None), "GET", "http://evil/sessions", &[("host", "localhost")]).await;
        assert_eq!(target, 421);
    }

    #[tokio::test]
    async fn foreign_pages_are_refused() {
        let with =
            async |name, value| status(gate(&[], None), &[("host", "127.0.0.1:9"), (name, value)]).await;
        for origin in ["https://evil.example", "null", "http://127.0.0.1:1", "http://127.0.0.1"] {
            assert_eq!(with("origin", origin).await, 403, "{origin}");
        }
        assert_eq!(with("origin", "http://127.0.0.1:9").await, 200);
        assert_eq!(with("sec-fetch-site", "cross-site").await, 403);
        assert_eq!(with("sec-fetch-site", "same-origin").await, 200);
        assert_eq!(with("sec-fetch-site", "none").await, 200);
    }

    #[tokio::test]
    async fn the_token_is_asked_for_but_by_probes() {
        let with = async |authorization| {
            let headers = [("host", "localhost"), ("authorization", authorization)];
            status(gate(&[], Some("s3cret\n")), &headers).await
        };
        assert_eq!(with("Bearer s3cret").await, 200);
        assert_eq!(with("bearer s3cret").await, 200);
        for bad in ["Bearer ", "Bearer", "Bearer s3cre", "Bearer s3crett", "Basic s3cret", "s3cret", ""] {
            assert_eq!(with(bad).await, 401, "{bad:?}");
        }
        let one = ("authorization", "Bearer s3cret");
        assert_eq!(status(gate(&[], Some("s3cret")), &[one, one, ("host", "localhost")]).await, 401);
        let host = [("host", "localhost")];
        assert_eq!(status(gate(&[], Some("")), &host).await, 401);
        assert_eq!(ask(gate(&[], Some("t")), "GET", "/healthz", &host).await.0, 200);
        assert_eq!(ask(gate(&[], Some("t")), "GET", "/nothing", &host).await.0, 401);
    }

    #[tokio::test]
    async fn other_methods_and_paths_are_refused_in_json() {
        for (method, path, expected, allow) in [
            ("POST", "/sessions", 405, "GET,HEAD,DELETE"),
            ("TRACE", "/sessions", 405, "GET,HEAD,DELETE"),
            ("GET", "/reload", 405, "POST"),
            ("GET", "/nothing", 404, ""),
        ] {
            let (status, response) = ask(gate(&[], None), method, path, &[("host", "localhost")]).await;
            assert_eq!(status, expected, "{method} {path}");
            let headers = response.headers().clone();
            assert_eq!(headers.get("allow").map_or("", |a| a.to_str().unwrap()), allow, "{method} {path}");
            assert!(headers.contains_key("x-request-id"));
            let body = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(serde_json::from_slice::<serde_json::Value>(&body).unwrap()["status"], "error");
        }
        assert_eq!(ask(gate(&[], None), "HEAD", "/healthz", &[("host", "localhost")]).await.0, 200);
    }

    #[tokio::test]
    async fn a_body_must_be_json() {
        let with = async |content_type| {
            let headers = [("host", "localhost"), ("content-length", "2"), ("content-type", content_type)];
            ask(gate(&[], None), "POST", "/reload", &headers).await.0
        };
        assert_eq!(with("application/json").await, 200);
        assert_eq!(with("Application/JSON; charset=utf-8").await, 200);
        assert_eq!(with("text/plain").await, 415);
        assert_eq!(with("application/x-www-form-urlencoded").await, 415);
    }
}
