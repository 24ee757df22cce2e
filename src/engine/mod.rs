//! An existing Webitel engine, asked over its own API (`webitel.md`): who logs in, who calls, and that a session has
//! ended. Decides nothing: what an answer means for a session is `session`'s and `directory`'s to say.

mod answers;
mod connections;

pub use answers::{LoginAnswer, LoginReply, Passed, Whoami};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rustls_pki_types::CertificateDer;
use serde::Serialize;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tower::load_shed::error::Overloaded;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, ServiceBuilder, ServiceExt, service_fn};

use crate::body::Full;
use crate::secret::{ExposeSecret, SecretString};
use crate::trust::{self, TrustFault};

use connections::Connections;

/// Where the engine is: `http://host:port` or `https://host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EngineSettings {
    pub is_https: bool,
    /// A name or an address (IPv6 without brackets).
    pub host: String,
    pub port: u16,
    /// For https, instead of the system's roots.
    pub ca: Option<Vec<CertificateDer<'static>>>,
}

/// How long one call may take, the answer's body included.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// Calls under way at once, over all threads; past it one fails at once: a login storm must not become the engine's.
const MAX_CALLS: usize = 64;

/// What the engine is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Login,
    Logout,
    Whoami,
}

impl Call {
    const ALL: [Self; 3] = [Self::Login, Self::Logout, Self::Whoami];

    /// The word for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Login => "login",
            Self::Logout => "logout",
            Self::Whoami => "whoami",
        }
    }
}

/// How often each call was made and how it ended: `ok`, `refused` by the engine, `failed`. Outlives every
/// configuration.
#[derive(Debug, Default)]
pub struct EngineCounts([[AtomicU64; 3]; Call::ALL.len()]);

impl EngineCounts {
    fn count(&self, call: Call, result: usize) {
        self.0[call as usize][result].fetch_add(1, Ordering::Relaxed);
    }

    /// Call, result, and how often.
    pub fn counts(&self) -> impl Iterator<Item = (Call, &'static str, u64)> {
        Call::ALL.into_iter().zip(&self.0).flat_map(|(call, results)| {
            let words = ["ok", "refused", "failed"];
            words.into_iter().zip(results).map(move |(word, n)| (call, word, n.load(Ordering::Relaxed)))
        })
    }
}

/// The engine gave no answer that could be used: to the client a 503.
#[derive(Debug, thiserror::Error)]
#[error("the engine's {} failed: {what}", call.as_str())]
pub struct EngineError {
    pub call: Call,
    pub what: String,
    /// Not asked: too many calls are under way. Says nothing about the engine.
    pub is_busy: bool,
    /// It answered that it does not take this very question (4xx). Says nothing about others.
    pub is_refusal: bool,
}

/// A status, the media type and the whole body.
#[derive(Clone)]
struct Reply {
    status: StatusCode,
    content_type: Option<HeaderValue>,
    body: Bytes,
}

type CallService = BoxCloneSyncService<Request<Full>, Reply, BoxError>;

/// One engine. Shared by all threads.
pub struct Engine {
    service: CallService,
    host: HeaderValue,
    counts: Arc<EngineCounts>,
}

/// What a login proves itself by; sent as the engine's own clients send it.
#[derive(Serialize)]
struct LoginBody<'a> {
    username: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    password: Option<&'a str>,
}

impl Engine {
    /// Connects to nothing yet.
    pub fn new(settings: &EngineSettings, counts: Arc<EngineCounts>) -> Result<Self, TrustFault> {
        let tls = match settings.is_https {
            true => Some(trust::client(settings.ca.as_deref())?),
            false => None,
        };
        let host = if settings.host.contains(':') {
            format!("[{}]:{}", settings.host, settings.port)
        } else {
            format!("{}:{}", settings.host, settings.port)
        };
        let connections = Arc::new(Connections::new(&settings.host, settings.port, tls));
        let call = service_fn(move |request| {
            let connections = Arc::clone(&connections);
            async move { connections.call(request).await }
        });
        let service = ServiceBuilder::new()
            .load_shed()
            .concurrency_limit(MAX_CALLS)
            .timeout(CALL_TIMEOUT)
            .service(call);
        // Made of a URL that was checked: a name or an address and a port.
        let host = HeaderValue::try_from(host).unwrap_or(HeaderValue::from_static("engine"));
        Ok(Self { service: BoxCloneSyncService::new(service), host, counts })
    }

    /// `POST /login`, with the code of the second factor where one was sent.
    pub async fn login(
        &self,
        username: &str,
        password: Option<&SecretString>,
        code: Option<&str>,
        client: IpAddr,
    ) -> Result<LoginReply, EngineError> {
        let body = LoginBody { username, password: password.map(|p| p.expose_secret()) };
        // Two strings: there is nothing that could not be written.
        let body = serde_json::to_vec(&body).unwrap_or_default();
        let path = match code {
            Some(code) => format!("/login?code={}", utf8_percent_encode(code, NON_ALPHANUMERIC)),
            None => "/login".to_owned(),
        };
        let mut request = self.request(Method::POST, &path, Full::new(body));
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Ok(client) = HeaderValue::try_from(client.to_string()) {
            headers.insert("x-forwarded-for", client);
        }
        let reply = self.call(Call::Login, request).await?;
        let read = LoginReply::read(reply);
        self.counted(Call::Login, read, |reply| matches!(reply, LoginReply::Good(_)))
    }

    /// `GET /api/v2/whoami` with these credentials. None: the engine does not know them.
    pub async fn whoami(&self, token: &str, key: Option<&str>) -> Result<Option<Whoami>, EngineError> {
        let request = self.request(Method::GET, "/api/v2/whoami", Full::default());
        let request = with_credentials(request, token, key);
        let reply = self.call(Call::Whoami, request).await?;
        let is_refusal = reply.status.is_client_error();
        self.counted(Call::Whoami, Whoami::read(&reply), Option::is_some)
            .map_err(|error| EngineError { is_refusal, ..error })
    }

    /// `POST /logout` with these credentials; false: the engine did not know them any more.
    pub async fn logout(&self, token: &str, key: &str) -> Result<bool, EngineError> {
        let request = self.request(Method::POST, "/logout", Full::default());
        let reply = self.call(Call::Logout, with_credentials(request, token, Some(key))).await?;
        let ended = match reply.status.as_u16() {
            200..300 => Ok(true),
            401 => Ok(false),
            // Of any other nobody knows whether it is still good there: it stays barred here, and is told again.
            status => Err(format!("it answered {status}")),
        };
        self.counted(Call::Logout, ended, |ended| *ended)
    }

    fn request(&self, method: Method, path: &str, body: Full) -> Request<Full> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        // A path of visible ASCII: the code in it is percent-encoded.
        *request.uri_mut() = path.parse().unwrap_or_default();
        request.headers_mut().insert(header::HOST, self.host.clone());
        request
    }

    async fn call(&self, call: Call, request: Request<Full>) -> Result<Reply, EngineError> {
        self.service.clone().oneshot(request).await.map_err(|error| {
            self.counts.count(call, 2);
            EngineError {
                call,
                is_busy: error.is::<Overloaded>(),
                is_refusal: false,
                what: error.to_string(),
            }
        })
    }

    fn counted<T>(
        &self,
        call: Call,
        read: Result<T, String>,
        is_good: impl FnOnce(&T) -> bool,
    ) -> Result<T, EngineError> {
        let result = match &read {
            Ok(answer) if is_good(answer) => 0,
            Ok(_) => 1,
            Err(_) => 2,
        };
        self.counts.count(call, result);
        read.map_err(|what| EngineError { call, what, is_busy: false, is_refusal: false })
    }
}

/// As headers, which is what the engine reads last: the request has no body and no query that could come before.
fn with_credentials(mut request: Request<Full>, token: &str, key: Option<&str>) -> Request<Full> {
    for (name, value) in [("x-access-token", Some(token)), ("x-key", key)] {
        if let Some(Ok(mut value)) = value.map(HeaderValue::from_str) {
            value.set_sensitive(true);
            request.headers_mut().insert(name, value);
        }
    }
    request
}
