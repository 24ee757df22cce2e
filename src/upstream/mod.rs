//! A permitted request goes out and its answer comes back.

use rustls_pki_types::CertificateDer;
use std::sync::Arc;
use std::time::Duration;

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

use http::{Request, Response};
use hyper::body::Incoming;
use std::rc::Rc;

use crate::access::Permit;
use crate::peer::Peer;
use crate::telemetry::exchange::Exchange;

/// The upstreams of one configuration, as one worker thread sees them.
pub struct Upstreams {}

/// An answer's body on its way from the upstream to the client. Also sends what is left of the request's body.
pub struct UpstreamBody {}

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

impl Upstreams {
    /// Sends a permitted request on and answers with the head of the answer and its body to come.
    pub async fn forward(
        &self,
        permit: Permit,
        request: Request<Incoming>,
        peer: &Rc<Peer>,
        exchange: &Rc<Exchange>,
    ) -> Result<Response<UpstreamBody>, ForwardError> {
        let _ = (permit, request, peer, exchange);
        todo!()
    }
}

pub struct UpstreamSet {}
#[derive(Debug, thiserror::Error)]
#[error("x")]
pub struct UpstreamBodyError;
impl Upstreams {
    pub fn new(_: Arc<UpstreamSet>) -> Self {
        todo!()
    }
}
impl http_body::Body for UpstreamBody {
    type Data = bytes::Bytes;
    type Error = UpstreamBodyError;
    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<bytes::Bytes>, UpstreamBodyError>>> {
        todo!()
    }
}
