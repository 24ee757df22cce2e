//! The operator's own listener (contract section 6): what runs, who is logged in, and what is to change.
//!
//! [`frame`] is what every call passes first (who may ask, in which form) and how errors look; a call is a route in a
//! file of its own, merged in by [`router`]. Served by [`crate::server`] like all else, on one thread of its own and
//! with a drain of its own: health must be told while the gateway drains.

pub mod control;
mod dashboard;
mod explain;
mod exposition;
pub mod frame;
pub mod health;
mod metrics;
mod parameters;
mod program;
mod sessions;
mod tokens;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;
use tower::ServiceExt;

use crate::drain::Drain;
use crate::peer::Peer;
use crate::secret::SecretString;
use crate::server::worker::Listeners;
use crate::server::{Handler, Limits, NO_HOST, framing_fault};

use control::ControlCell;
use frame::{LiveGate, Refusal};

pub use health::Readiness;

/// `listen.admin` and `[admin]`.
pub struct AdminSettings {
    pub addr: SocketAddr,
    pub hosts: Vec<String>,
    /// The Bearer token, asked by every call but `/healthz`, `/readyz` and `/metrics`.
    pub token: Option<SecretString>,
}

/// Every call there is.
pub fn router(readiness: Readiness, control: ControlCell) -> Router {
    health::routes(readiness)
        .merge(metrics::routes(control.clone()))
        .merge(sessions::routes(control.clone()))
        .merge(tokens::routes(control.clone()))
        .merge(explain::routes(control.clone()))
        .merge(program::routes(control))
        .merge(dashboard::routes())
}

/// The running listener. It ends with the program, or by [`Admin::stop`].
pub struct Admin {
    addr: Option<SocketAddr>,
    drain: Drain,
    workers: Vec<JoinHandle<()>>,
}

impl Admin {
    /// Binds, unless sockets were handed over, and serves `calls` behind the frame.
    ///
    /// # Errors
    /// The address that cannot be bound, and why.
    pub fn start(
        addr: SocketAddr,
        handed_over: Vec<TcpListener>,
        gate: LiveGate,
        calls: Router,
    ) -> io::Result<Self> {
        let router = frame::around(calls, gate);
        let drain = Drain::new();
        let listeners = Listeners::single(addr, handed_over, limits(), drain.clone())?;
        let addr = listeners.addresses().first().map(|(_, addr)| *addr);
        let workers = listeners.serve(move || Calls { router: router.clone() })?;
        Ok(Self { addr, drain, workers })
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> Option<SocketAddr> {
        self.addr
    }

    /// Blocks the thread until what is in flight has ended.
    pub fn stop(self) {
        self.drain.start();
        for worker in self.workers {
            // Its panics were logged by the worker itself.
            let _ = worker.join();
        }
    }
}

/// Of its own, so that a gateway at its limits can still be looked at.
fn limits() -> Limits {
    // Probes and scrapers come and go: who stays without a call keeps them out.
    let idle_timeout = Duration::from_secs(5);
    Limits { max_connections: 256, idle_timeout, drain_timeout: Duration::ZERO, ..Limits::default() }
}

/// Whose call it is, for the audit log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller(pub(crate) IpAddr);

struct Calls {
    router: Router,
}

impl Handler for Calls {
    type Body = Body;

    async fn handle(&self, mut request: Request<Incoming>, peer: Rc<Peer>) -> Response<Body> {
        request.extensions_mut().insert(Caller(peer.addr.ip()));
        // A Host that is none is none of ours: 421.
        if let Some(fault) = framing_fault(&request).filter(|fault| *fault != NO_HOST) {
            return frame::dressed(Refusal::new(StatusCode::BAD_REQUEST, fault).into_response());
        }
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never as Infallible {},
        }
    }

    fn panicked(&self) -> Response<Body> {
        frame::dressed(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "Internal error").into_response())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    fn ask(addr: SocketAddr, path: &str) -> String {
        let mut stream = std::net::TcpStream::connect(addr).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn health_is_told_while_the_gateway_starts_runs_and_drains() {
        let settings = AdminSettings { addr: "127.0.0.1:0".parse().unwrap(), hosts: Vec::new(), token: None };
        let drain = Drain::new();
        let readiness = Readiness::new(drain.clone());
        let calls = router(readiness.clone(), ControlCell::default());
        let admin =
            Admin::start(settings.addr, Vec::new(), LiveGate::new(frame::Gate::new(&settings)), calls)
                .unwrap();
        let addr = admin.addr().unwrap();
        assert!(ask(addr, "/healthz").starts_with("HTTP/1.1 200 "));
        let starting = ask(addr, "/readyz");
        assert!(starting.starts_with("HTTP/1.1 503 ") && starting.contains("starting"), "{starting}");
        readiness.start();
        assert!(ask(addr, "/readyz").starts_with("HTTP/1.1 200 "));
        drain.start();
        let draining = ask(addr, "/readyz");
        assert!(draining.starts_with("HTTP/1.1 503 ") && draining.contains("draining"), "{draining}");
        assert!(ask(addr, "/healthz").starts_with("HTTP/1.1 200 "));
        admin.stop();
        std::net::TcpStream::connect(addr).unwrap_err();
    }
}
