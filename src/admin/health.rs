//! `GET /healthz`, `GET /readyz`: is the process at work, and does it want traffic?

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::frame::Refusal;
use crate::drain::Drain;
use crate::session::freshness::Freshness;

/// Whether new traffic is wanted. Clones are the same.
#[derive(Clone, Default)]
pub struct Readiness {
    started: Arc<AtomicBool>,
    drain: Drain,
    /// Of a session store that replicas share.
    store: Arc<OnceLock<Arc<Freshness>>>,
}

impl Readiness {
    /// Not ready until [`Readiness::start`], nor once the drain is announced.
    #[must_use]
    pub fn new(drain: Drain) -> Self {
        Self { started: Arc::default(), drain, store: Arc::default() }
    }

    /// From here on the store must be heard, or have been a moment ago.
    pub fn watch(&self, store: &Arc<Freshness>) {
        let _: Result<(), _> = self.store.set(Arc::clone(store));
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
            (true, false) => self.store.get().and_then(|store| store.get().missing()),
        }
    }
}

pub(super) fn routes(readiness: Readiness) -> Router {
    Router::new()
        .route("/healthz", get(async || ok("alive")))
        .route("/readyz", get(ready))
        .with_state(readiness)
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    match readiness.missing() {
        None => ok("ready"),
        Some(why) => Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

fn ok(info: &str) -> Response {
    Json(serde_json::json!({ "status": "ok", "info": info })).into_response()
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
