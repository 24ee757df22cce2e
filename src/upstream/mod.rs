//! A permitted request goes out and its answer comes back.

mod chunked;
mod conn;
mod connect;
mod headers;
pub mod parse;
mod pool;
mod transfer;
mod upgrade;

use http::{Request, Response, StatusCode, header};
use http_body::Body;
use hyper::body::Incoming;
use rustls_pki_types::CertificateDer;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::access::credentials::CredentialNames;
use crate::access::routes::Target;
use crate::access::{Permit, Principal};
use crate::clock::{Clock, monotonic};
use crate::deadline::Deadline;
use crate::drain::Drain;
use crate::peer::{ListenerKind, Peer};
use crate::session::Session;
use crate::telemetry::exchange::Exchange;

use connect::{Server, Upstream};
use headers::Facts;
use transfer::{Answer, Sending, Timed, Timeouts, Transfer};

pub use transfer::UpstreamBodyError;

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
    pub health: Option<HealthSettings>,
    /// For https servers, instead of the system's roots.
    pub ca: Option<Vec<CertificateDer<'static>>>,
    pub forward_credentials: bool,
}

/// `http://host:port`, `https://...`; no path.
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

/// The upstreams of one configuration, shared by all threads.
pub struct UpstreamSet {
    upstreams: Vec<Upstream>,
    context: UpstreamContext,
}

/// What forwarding needs beside the upstreams.
#[derive(Clone)]
pub struct UpstreamContext {
    pub names: Arc<CredentialNames>,
    /// `limits.body_timeout`
    pub body_timeout: Duration,
    pub clock: Clock,
    pub drain: Drain,
}

/// What keeps an upstream from being used.
#[derive(Debug, thiserror::Error)]
#[error("upstream {name}: {what}")]
pub struct UpstreamFault {
    pub name: Arc<str>,
    pub what: String,
}

impl UpstreamSet {
    pub fn new(settings: Vec<UpstreamSettings>, context: UpstreamContext) -> Result<Self, UpstreamFault> {
        let upstreams = settings.into_iter().map(Upstream::new).collect::<Result<_, _>>()?;
        Ok(Self { upstreams, context })
    }
}

/// The upstreams of one configuration, as one worker thread sees them.
pub struct Upstreams {
    set: Arc<UpstreamSet>,
    /// Requests under way of this thread, by upstream and server.
    busy: Vec<Vec<Rc<Cell<usize>>>>,
    /// Where the next choice begins, so that equals take turns.
    turn: Cell<usize>,
}

/// An answer's body on its way from the upstream to the client.
pub type UpstreamBody = Answer<Incoming>;

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

/// One more request under way at a server.
struct Busy(Rc<Cell<usize>>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl Upstreams {
    #[must_use]
    pub fn new(set: Arc<UpstreamSet>) -> Self {
        let busy =
            set.upstreams.iter().map(|up| up.servers.iter().map(|_| Rc::default()).collect()).collect();
        Self { set, busy, turn: Cell::new(0) }
    }

    /// Sends a permitted request on and answers with the head of the answer and its body to come.
    pub async fn forward(
        &self,
        permit: Permit,
        mut request: Request<Incoming>,
        peer: &Rc<Peer>,
        exchange: &Rc<Exchange>,
    ) -> Result<Response<UpstreamBody>, ForwardError> {
        let Target::Upstream(id) = permit.route().target else { return Err(ForwardError::Busy) };
        let upstream = self.set.upstreams.get(id.0).ok_or(ForwardError::Busy)?;
        let wants_upgrade =
            request.version() == http::Version::HTTP_11 && headers::asks_upgrade(request.headers());
        let upgraded = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
        let (mut conn, server, busy) = self.connect(id.0, upstream).await?;
        let _: Result<(), _> = exchange.upstream.set(Arc::clone(&server.label));

        let facts = Facts {
            names: &self.set.context.names,
            trusted: peer.trusted,
            peer: peer.addr.ip(),
            tls: peer.listener == ListenerKind::Https,
            forward_credentials: upstream.settings.forward_credentials,
            upgrade: wants_upgrade,
            ids: &exchange.ids,
        };
        let sending = write_head(&mut conn.write, &request, &permit, &facts);
        let session = session_of(&permit);
        let mut transfer = self.transfer(conn, request, sending, (upstream, exchange, wants_upgrade));
        let started = monotonic();
        let head = transfer.head().await?;
        exchange.upstream_time.set(Some(started.elapsed()));
        drop(busy);

        let context = &self.set.context;
        let (status, mut headers) = (head.status, head.headers.clone());
        headers::clean_answer(&mut headers);
        if let (StatusCode::SWITCHING_PROTOCOLS, Some(upgraded)) = (status, upgraded) {
            return Ok(upgrade::switch(upgraded, transfer, &head, (headers, session, context)));
        }
        let body = Answer::new(transfer, &head, server.id, session, context.clock.clone());
        let mut answer = Response::new(body);
        (*answer.status_mut(), *answer.headers_mut()) = (status, headers);
        Ok(answer)
    }

    fn transfer(
        &self,
        conn: conn::Conn,
        request: Request<Incoming>,
        sending: Sending,
        (upstream, exchange, upgrade): (&Upstream, &Rc<Exchange>, bool),
    ) -> Transfer<Incoming> {
        let (parts, body) = request.into_parts();
        let expects = parts.headers.get(header::EXPECT);
        let waits = expects.is_some_and(|e| e.as_bytes().eq_ignore_ascii_case(b"100-continue"));
        Transfer {
            conn,
            body: Box::pin(body),
            sending,
            holds_back: waits && sending != Sending::Done,
            upgrade,
            method: parts.method,
            names: Arc::clone(&self.set.context.names),
            exchange: Rc::clone(exchange),
            timeouts: Timeouts {
                response: upstream.settings.response_timeout,
                body: self.set.context.body_timeout,
            },
            deadline: Deadline::default(),
            timed: Timed::Nothing,
            informational: 0,
            write_failed: false,
        }
    }

    /// An idle connection, or a new one; another server while connecting fails, for then nothing was sent.
    async fn connect<'u>(
        &self,
        id: usize,
        upstream: &'u Upstream,
    ) -> Result<(conn::Conn, &'u Server, Busy), ForwardError> {
        let order = self.order(id, upstream);
        let tries = usize::try_from(upstream.settings.retries).unwrap_or(usize::MAX).saturating_add(1);
        let mut last = ForwardError::Unreachable(None);
        for at in order.into_iter().take(tries) {
            let (Some(server), Some(count)) =
                (upstream.servers.get(at), self.busy.get(id).and_then(|b| b.get(at)))
            else {
                continue;
            };
            count.set(count.get() + 1);
            let busy = Busy(Rc::clone(count));
            if let Some(conn) = pool::take(server.id) {
                return Ok((conn, server, busy));
            }
            match upstream.connect(server).await {
                Ok(conn) => return Ok((conn, server, busy)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The servers in the order in which they are tried.
    fn order(&self, id: usize, upstream: &Upstream) -> Vec<usize> {
        let count = upstream.servers.len();
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let mut order: Vec<usize> = (0..count).map(|n| turn.wrapping_add(n) % count).collect();
        if upstream.settings.balance == Balance::LeastRequest && count > 1 {
            let busy = |at: &usize| self.busy.get(id).and_then(|b| b.get(*at)).map_or(0, |count| count.get());
            order.sort_by_key(busy);
        }
        order
    }
}

fn session_of(permit: &Permit) -> Option<Arc<Session>> {
    match permit.principal() {
        Some(Principal::Session(session)) => Some(Arc::clone(session)),
        Some(Principal::Domain { .. }) | None => None,
    }
}

/// The request line and headers, down to the empty line.
fn write_head<B: Body>(
    out: &mut Vec<u8>,
    request: &Request<B>,
    permit: &Permit,
    facts: &Facts<'_>,
) -> Sending {
    out.extend_from_slice(request.method().as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(permit.path().as_bytes());
    if let Some(query) = permit.query() {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    headers::write_request(out, request.headers(), host(request), permit, facts);
    let sending = framing(request.body());
    match (sending, request.body().size_hint().exact()) {
        (Sending::Chunked, _) => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        (_, Some(n)) if n > 0 || request.headers().contains_key(header::CONTENT_LENGTH) => {
            out.extend_from_slice(format!("content-length: {n}\r\n").as_bytes());
        }
        _ => {}
    }
    out.extend_from_slice(b"\r\n");
    sending
}

/// HTTP/2 has `:authority` where HTTP/1.1 has Host.
fn host<B>(request: &Request<B>) -> &[u8] {
    let named = request.headers().get(header::HOST).map(http::HeaderValue::as_bytes);
    named.or_else(|| request.uri().authority().map(|a| a.as_str().as_bytes())).unwrap_or_default()
}

fn framing<B: Body>(body: &B) -> Sending {
    if body.is_end_stream() {
        Sending::Done
    } else if body.size_hint().exact().is_some() {
        Sending::Length
    } else {
        Sending::Chunked
    }
}
