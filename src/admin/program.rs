//! `GET /config`, `POST /reload`, `POST /drain`: the program itself.

use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Caller;
use super::control::ControlCell;
use super::frame::{Refusal, rfc3339};
use crate::telemetry::audit;

pub(super) fn routes(control: ControlCell) -> Router {
    Router::new()
        .route("/config", get(config))
        .route("/reload", post(reload))
        .route("/drain", post(drain))
        .with_state(control)
}

async fn config(State(control): State<ControlCell>) -> Result<Json<Value>, Refusal> {
    let control = control.get()?;
    // Read first: a reload in between then shows a newer configuration under an older number, not the other way round.
    let generation = control.live.generation();
    let live = control.live.load();
    Ok(Json(json!({
        "generation": generation,
        "loaded": rfc3339(live.about.loaded),
        "files": live.about.files,
        "warnings": live.about.warnings,
        "users": live.directory.len(),
        "config": live.about.shown,
    })))
}

async fn reload(
    State(control): State<ControlCell>,
    Extension(Caller(client)): Extension<Caller>,
) -> Result<Response, Refusal> {
    let control = control.get()?;
    let (ask, answered) = oneshot::channel();
    let gone = |()| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "The gateway is ending");
    control.reloads.send(ask).await.map_err(|_| gone(()))?;
    let outcome = answered.await.map_err(|_| gone(()))?;
    audit::admin(client, "reload", "", if outcome.is_ok() { 200 } else { 409 });
    Ok(match outcome {
        Ok(reloaded) => Json(reloaded).into_response(),
        Err(faults) => {
            let info = "The configuration was refused; the running one stays";
            let body = Json(json!({ "status": "error", "info": info, "faults": faults }));
            (StatusCode::CONFLICT, body).into_response()
        }
    })
}

/// Answered before it begins: 202.
async fn drain(
    State(control): State<ControlCell>,
    Extension(Caller(client)): Extension<Caller>,
) -> Result<Response, Refusal> {
    control.get()?.drain.notify_one();
    audit::admin(client, "drain", "", 202);
    Ok((StatusCode::ACCEPTED, Json(json!({ "status": "ok", "info": "draining" }))).into_response())
}
