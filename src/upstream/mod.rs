//! A permitted request goes out and its answer comes back (contract section 4, Forwarding).
//!
//! What is shared by the threads is [`UpstreamSet`]: addresses, health, the count of connections. What a thread has
//! for itself is [`Upstreams`]: connections and the requests on them, all polled inside the requests' own futures.
//! Takes a [`Permit`] and nothing less; decides nothing about the caller.

mod attempt;
mod background;
mod balance;
mod body;
mod carriers;
mod chunked;
mod conn;
mod dial;
mod frames;
#[doc(hidden)]
pub mod fuzzed;
mod h2c;
mod head;
mod headers;
mod heads;
mod heard;
mod http1;
pub mod ingress;
mod left;
mod leftover;
#[doc(hidden)]
pub mod measured;
mod parse;
mod pool;
mod retry;
mod server;
mod standing;
mod stream;
mod tls;
mod upgrade;
mod upload;
mod watch;
mod websocket;

#[cfg(test)]
mod tests;

pub use body::{UpstreamBody, UpstreamBodyError};
pub use headers::asks_for_websocket;
pub use standing::EjectSettings;
pub use websocket::{Admitted, Judge, OnClose};

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body::Body;
use rustls_pki_types::CertificateDer;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;

use crate::access::Permit;
use crate::access::credentials::CredentialNames;
use crate::access::permit::GuardedPermit;
use crate::access::routes::Target as RouteTarget;
use crate::clock::Clock;
use crate::drain::Drain;
use crate::peer::Peer;
use crate::telemetry::exchange::Exchange;
use crate::trust::{self, TrustFault};

use attempt::{Ask, LocalGroup};
use head::Target;
use headers::{CredentialsOut, Onward, Policy};
use server::Group;
use tls::TlsClient;

/// One `[upstreams.NAME]`.
#[derive(Clone, Debug)]
pub struct UpstreamSettings {
    pub name: Arc<str>,
    pub servers: Vec<ServerUrl>,
    pub balance: Balance,
    pub connect_timeout: Duration,
    /// From the end of the request to the response head.
    pub response_timeout: Duration,
    pub retries: u32,
    pub max_connections: usize,
    /// Requests that wait for one of them.
    pub max_pending: usize,
    pub health: Option<HealthSettings>,
    pub eject: EjectSettings,
    /// For https servers, instead of the system's roots.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    pub forward_credentials: bool,
}

/// `http://host:port`, `https://...`, `h2c://...`; no path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    pub scheme: Scheme,
    /// A name or an address (IPv6 without brackets).
    pub host: String,
    pub port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    Http,
    Https,
    H2c,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Balance {
    LeastRequest,
    RoundRobin,
}

/// `health = { path, interval }`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    pub path: String,
    pub interval: Duration,
}

/// What the upstreams need of the rest of the program.
#[derive(Clone)]
pub struct UpstreamContext {
    pub clock: Clock,
    /// Upgraded streams hold its guards.
    pub drain: Drain,
    pub names: CredentialNames,
    /// `limits.body_timeout`
    pub body_timeout: Duration,
}

/// Why a configuration's upstreams cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamFault {
    #[error("upstream {upstream}: {source}")]
    Trust { upstream: Arc<str>, source: TrustFault },
    #[error("upstream {upstream}: {host} is no host name that a certificate could be for")]
    HostName { upstream: Arc<str>, host: String },
    #[error("upstream {upstream}: h2c servers cannot be mixed with http or https ones")]
    Mixed { upstream: Arc<str> },
}

/// The upstreams of one configuration, as the whole process sees them. Its background tasks end with it.
pub struct UpstreamSet {
    groups: Vec<Arc<Group>>,
    context: UpstreamContext,
    tasks: Vec<AbortHandle>,
}

impl UpstreamSet {
    /// Starts to resolve names and to check health on `handle`; waits for neither. The order of `settings` is that of
    /// `UpstreamId`. A server that `before` has too begins with the addresses and the health that it has there.
    pub fn start(
        settings: Vec<UpstreamSettings>,
        context: UpstreamContext,
        before: Option<&Self>,
        handle: &tokio::runtime::Handle,
    ) -> Result<Arc<Self>, UpstreamFault> {
        let (mut groups, mut tasks) = (Vec::with_capacity(settings.len()), Vec::new());
        for upstream in settings {
            let tls = tls_of(&upstream)?;
            let group = Group::new(upstream, tls);
            let same = |known: &&Arc<Group>| known.settings.name == group.settings.name;
            if let Some(before) = before.and_then(|set| set.groups.iter().find(same)) {
                group.inherit(before);
            }
            groups.push(Arc::new(group));
        }
        for group in &groups {
            for index in background::literal_addresses(group) {
                tasks.push(handle.spawn(background::resolve(group.clone(), index)).abort_handle());
            }
            if let Some(health) = group.settings.health.clone() {
                tasks.push(handle.spawn(background::check_health(group.clone(), health)).abort_handle());
            }
        }
        Ok(Arc::new(Self { groups, context, tasks }))
    }
}

impl UpstreamSet {
    /// Another set has taken its place: names and health are that one's now, although threads that had no request
    /// since still hold this one.
    pub fn retire(&self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }

    /// How many upstreams there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.groups.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.groups.iter().map(|group| &*group.settings.name)
    }

    /// Every server as it is known now: upstream, address, whether it is asked.
    #[must_use]
    pub fn servers(&self) -> Vec<(Arc<str>, SocketAddr, bool)> {
        let of_group = |group: &Arc<Group>| -> Vec<_> {
            let name = &group.settings.name;
            group.servers().iter().map(|s| (Arc::clone(name), s.addr, s.is_asked())).collect()
        };
        self.groups.iter().flat_map(of_group).collect()
    }
}

impl Drop for UpstreamSet {
    fn drop(&mut self) {
        self.retire();
    }
}

fn tls_of(upstream: &UpstreamSettings) -> Result<Option<TlsClient>, UpstreamFault> {
    let h2c = upstream.servers.iter().filter(|url| url.scheme == Scheme::H2c).count();
    if h2c != 0 && h2c != upstream.servers.len() {
        return Err(UpstreamFault::Mixed { upstream: upstream.name.clone() });
    }
    let mut https = upstream.servers.iter().filter(|url| url.scheme == Scheme::Https).peekable();
    if https.peek().is_none() {
        return Ok(None);
    }
    if let Some(bad) = https.find(|url| trust::server_name(&url.host).is_none()) {
        return Err(UpstreamFault::HostName { upstream: upstream.name.clone(), host: bad.host.clone() });
    }
    TlsClient::new(&upstream.name, upstream.ca.as_deref()).map(Some)
}

/// The upstreams of one configuration, as one worker thread sees them. Idle connections belong to the thread, not to
/// this: they go on being used by the next configuration where their server is unchanged.
pub struct Upstreams {
    groups: Vec<LocalGroup>,
    context: UpstreamContext,
    policy: Rc<Policy>,
    /// Keeps the background tasks.
    _set: Arc<UpstreamSet>,
}

impl Upstreams {
    /// For the current thread.
    #[must_use]
    pub fn new(set: Arc<UpstreamSet>) -> Self {
        let policy = Rc::new(Policy::new(&set.context.names));
        let groups = set.groups.iter().map(|group| LocalGroup::new(group.clone())).collect();
        Self { groups, context: set.context.clone(), policy, _set: set }
    }

    /// Sends a permitted request on and answers with the head of the answer and its body to come.
    pub fn forward<B>(
        &self,
        permit: &Permit,
        request: (&mut Parts, B),
        peer: &Rc<Peer>,
        exchange: &Rc<Exchange>,
    ) -> impl Future<Output = Result<Response<UpstreamBody<B>>, ForwardError>>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        self.send(permit, request, (peer, exchange), None)
    }

    /// Sends a WebSocket's upgrade on before anybody is known. `judge` is asked about the client's first message, and
    /// nothing of the client reaches the server before it has said who that is. An answer that is no 101 is not passed
    /// on: nobody was judged for it.
    pub async fn forward_guarded<B>(
        &self,
        permit: GuardedPermit,
        request: (&mut Parts, B),
        (peer, exchange): (&Rc<Peer>, &Rc<Exchange>),
        judge: Judge,
    ) -> Result<Response<UpstreamBody<B>>, ForwardError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        let group = self.group(permit.upgrade()).ok_or(ForwardError::Unreachable(None))?;
        let place = group.shared.limit.anonymous().ok_or(ForwardError::Busy)?;
        let judge = RefCell::new(Some(websocket::holding(place, judge)));
        let answer = self.send(permit.upgrade(), request, (peer, exchange), Some(&judge)).await?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS && judge.borrow().is_none() {
            Ok(answer)
        } else {
            Err(ForwardError::Broken("no WebSocket where one was asked for"))
        }
    }

    fn group(&self, permit: &Permit) -> Option<&LocalGroup> {
        match permit.route().target {
            RouteTarget::Upstream(id) => self.groups.get(id.0),
            RouteTarget::Whoami | RouteTarget::Nowhere => None,
        }
    }

    async fn send<B>(
        &self,
        permit: &Permit,
        (parts, body): (&mut Parts, B),
        (peer, exchange): (&Rc<Peer>, &Rc<Exchange>),
        judge: Option<&RefCell<Option<Judge>>>,
    ) -> Result<Response<UpstreamBody<B>>, ForwardError>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        let group = self.group(permit).ok_or(ForwardError::Unreachable(None))?;
        if parts.method == http::Method::CONNECT {
            // A 2xx to it would be a tunnel (RFC 9110 section 9.3.6).
            return Err(ForwardError::RequestBody);
        }
        let client = headers::upgrade_asked(&parts.method, &parts.headers)
            .is_some()
            .then(|| parts.extensions.remove::<hyper::upgrade::OnUpgrade>())
            .flatten();
        let is_h2c = group.shared.settings.servers.iter().any(|url| url.scheme == Scheme::H2c);
        if judge.is_some() && (client.is_none() || is_h2c) {
            // It would go out as a plain request, with nobody judged for it.
            return Err(ForwardError::Broken("no WebSocket can be had here"));
        }
        let credentials = match (permit.credentials(), permit.principal()) {
            _ if judge.is_some() || !group.shared.settings.forward_credentials => CredentialsOut::None,
            (Some(judged), _) => CredentialsOut::Judged(judged),
            (None, None) => CredentialsOut::AsCame,
            (None, Some(_)) => CredentialsOut::None,
        };
        let authority = parts.uri.authority().map(http::uri::Authority::as_str);
        let host = parts.headers.get(http::header::HOST).map(http::HeaderValue::as_bytes);
        let onward = Onward {
            headers: &parts.headers,
            host: host.or(authority.map(str::as_bytes)).unwrap_or_default(),
            caller: permit.principal().map(|p| (p.user(), p.role())),
            scope: permit.scope(),
            credentials,
            peer,
            ids: &exchange.ids,
            extensions: judge.is_none(),
        };
        let target = Target { method: &parts.method, path: permit.path(), query: permit.query() };
        let ask = Ask {
            version: parts.version,
            target,
            onward,
            policy: &self.policy,
            principal: permit.principal(),
            context: &self.context,
            exchange: Some(exchange),
            judge,
        };
        exchange.dispatched();
        group.send(&ask, body, client).await
    }
}

/// Why a permitted request got no answer (contract section 4, Forwarding).
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// No server could be reached: 502.
    #[error("no server could be reached")]
    Unreachable(#[source] Option<std::io::Error>),
    /// The server broke off, or what it sent is no HTTP: 502.
    #[error("the server's answer is broken: {0}")]
    Broken(&'static str),
    /// No server is healthy, or the limits are reached: 503.
    #[error("no server is free")]
    Busy,
    /// No response head in time: 504.
    #[error("no answer in time")]
    Timeout,
    /// The client's body broke off or is not well-formed: 400, the connection closes.
    #[error("the request's body is broken")]
    RequestBody,
    /// No byte of the client's body in `body_timeout`: 408, the connection closes.
    #[error("the request's body came too slowly")]
    RequestBodyTimeout,
}

impl ForwardError {
    /// The word for metrics.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Broken(_) => "broken",
            Self::Busy => "busy",
            Self::Timeout => "timeout",
            Self::RequestBody => "request_body",
            Self::RequestBodyTimeout => "request_body_timeout",
        }
    }
}
