//! Bytes become requests. Knows connections, TLS and HTTP, but no policy.
//!
//! `listener` binds, or takes what [`inherited`] was handed over, [`worker`] runs a thread a core and accepts, `reception` deals with
//! what stands before HTTP ([`proxy_protocol`], [`tls`]), `connection` speaks HTTP and keeps the limits,
//! `exchanges` hands each request to the [`Handler`]. Which requests are no good HTTP although hyper takes them is
//! said by [`framing_fault`], with what `framing` has seen of the bytes.

mod admission;
mod connection;
pub mod counts;
mod draining;
mod exchanges;
mod framing;
mod gathered;
pub mod inherited;
mod io;
mod listener;
mod own;
mod patience;
pub mod proxy_protocol;
mod reception;
mod resting;
mod taken;
pub mod tls;
mod wellformed;
pub mod worker;

#[cfg(test)]
mod scene;
#[cfg(test)]
mod scenes;
#[cfg(test)]
mod scenes_rest;
#[cfg(test)]
mod scenes_tls;

pub use wellformed::{NO_HOST, framing_fault};

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Incoming;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::peer::{ListenerKind, Peer, TrustedProxies};

/// What answers requests. One a worker thread; nothing of it need be `Send`.
pub trait Handler: 'static {
    type Body: http_body::Body<Data = Bytes, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static;

    /// Cannot fail: every fault is an answer. An HTTP/1 answer with `Connection: close` closes the connection.
    fn handle(
        &self,
        request: Request<Incoming>,
        peer: Rc<Peer>,
    ) -> impl Future<Output = Response<Self::Body>>;

    /// The answer in place of one whose making panicked.
    fn panicked(&self) -> Response<Self::Body>;

    /// Lines of the head, each with its end, for answers to what is no request and is not handed out.
    fn own_fields(&self) -> Option<Arc<str>> {
        None
    }
}

/// `[listen]`: the listeners that carry traffic. The admin listener is `admin`'s.
#[derive(Clone, Debug, Default)]
pub struct ListenSettings {
    pub https: Option<SocketAddr>,
    pub http: Option<SocketAddr>,
    /// The external authorizers (contract section 5).
    pub authz: Option<SocketAddr>,
    pub ext_authz: Option<SocketAddr>,
    /// Trusted proxies begin each connection to `https` and `http` with a PROXY protocol header.
    pub proxy_protocol: bool,
    pub trusted_proxies: TrustedProxies,
}

impl ListenSettings {
    /// Where a listener is to be.
    #[must_use]
    pub fn address(&self, kind: ListenerKind) -> Option<SocketAddr> {
        match kind {
            ListenerKind::Https => self.https,
            ListenerKind::Http => self.http,
            ListenerKind::Authz => self.authz,
            ListenerKind::ExtAuthz => self.ext_authz,
        }
    }
}

/// `[limits]`
#[derive(Clone, Debug)]
pub struct Limits {
    pub max_connections: usize,
    pub max_requests: usize,
    pub header_read_timeout: Duration,
    pub idle_timeout: Duration,
    pub body_timeout: Duration,
    /// Of an answer, without the client taking any of it.
    pub send_timeout: Duration,
    pub handshake_timeout: Duration,
    pub max_header_bytes: usize,
    pub drain_delay: Duration,
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 10_000,
            max_requests: 4096,
            header_read_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            body_timeout: Duration::from_secs(60),
            send_timeout: Duration::from_secs(120),
            handshake_timeout: Duration::from_secs(10),
            max_header_bytes: 32 * 1024,
            drain_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(30),
        }
    }
}
