//! The operator's own listener (contract section 6): for now whether the program lives and wants traffic.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::drain::Drain;
use crate::secret::SecretString;

/// `listen.admin` and `[admin]`.
pub struct AdminSettings {
    pub addr: SocketAddr,
    pub hosts: Vec<String>,
    /// The Bearer token, asked by every call but `/healthz`, `/readyz` and `/metrics`.
    pub token: Option<SecretString>,
}

/// Whether new traffic is wanted.
#[derive(Clone, Default)]
pub struct Readiness {
    started: Arc<AtomicBool>,
    drain: Drain,
}

impl Readiness {
    /// Not ready until [`Readiness::start`], nor once the drain is announced.
    #[must_use]
    pub fn new(drain: Drain) -> Self {
        Self { started: Arc::default(), drain }
    }

    pub fn start(&self) {
        self.started.store(true, Ordering::Release);
    }

    /// Why not; none: ready.
    #[must_use]
    pub fn missing(&self) -> Option<&'static str> {
        match (self.started.load(Ordering::Acquire), self.drain.is_announced()) {
            (_, true) => Some("draining"),
            (false, false) => Some("starting"),
            (true, false) => None,
        }
    }
}

/// The calls of the listener.
pub fn router(readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(|| async { answer(StatusCode::OK, "ok", "alive") }).fallback(not_allowed))
        .route("/readyz", get(ready).fallback(not_allowed))
        .fallback(|| async { answer(StatusCode::NOT_FOUND, "error", "Not found") })
        .with_state(readiness)
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    match readiness.missing() {
        None => answer(StatusCode::OK, "ok", "ready"),
        Some(why) => answer(StatusCode::SERVICE_UNAVAILABLE, "error", why),
    }
}

async fn not_allowed() -> Response {
    let mut refused = answer(StatusCode::METHOD_NOT_ALLOWED, "error", "Use GET");
    refused.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
    refused
}

fn answer(status: StatusCode, word: &str, info: &str) -> Response {
    let body = serde_json::json!({ "status": word, "info": info }).to_string();
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_between_the_start_and_the_drain() {
        let drain = Drain::new();
        let readiness = Readiness::new(drain.clone());
        assert_eq!(readiness.missing(), Some("starting"));
        readiness.start();
        assert_eq!(readiness.missing(), None);
        drain.announce();
        assert_eq!(readiness.missing(), Some("draining"));
    }
}
