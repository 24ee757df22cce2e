//! `/sessions`: who is logged in, and the end of it.

use axum::extract::{Extension, Path, RawQuery, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use http::StatusCode;
use serde_json::{Value, json};

use super::Caller;
use super::control::{Control, ControlCell};
use super::frame::{Refusal, moment, rfc3339, stored};
use super::parameters::Parameters;
use crate::identity::UserName;
use crate::secret::KeyHash;
use crate::session::Session;
use crate::session::ends::Cause;
use crate::session::filter::{Filter, PageFault};
use crate::telemetry::audit;

/// Sessions on a page when nothing else is asked for, and at most.
const USUAL: usize = 100;
const MOST: usize = 1000;

pub(super) fn routes(control: ControlCell) -> Router {
    Router::new()
        .route("/sessions", get(list).delete(end_fitting))
        .route("/sessions/{id}", delete(end_one))
        .with_state(control)
}

async fn list(State(control): State<ControlCell>, RawQuery(query): RawQuery) -> Result<Json<Value>, Refusal> {
    let control = control.get()?;
    let asked = Parameters::read(query.as_deref(), &["user", "domain", "limit", "after"])?;
    let limit = match asked.get("limit") {
        None => USUAL,
        Some(text) => text.parse::<usize>().ok().filter(|limit| *limit > 0).ok_or_else(|| {
            Refusal::new(StatusCode::BAD_REQUEST, "limit must be a whole number from 1 to 1000")
        })?,
    }
    .min(MOST);
    let page =
        control.sessions.page(&filter(&asked)?, asked.get("after"), limit).await.map_err(
            |fault| match fault {
                PageFault::After => {
                    Refusal::new(StatusCode::BAD_REQUEST, "after must be what next was on the page before")
                }
                PageFault::Store(error) => stored(error),
            },
        )?;
    let sessions: Vec<_> = page.sessions.iter().map(|session| shown(session)).collect();
    Ok(Json(json!({ "sessions": sessions, "next": page.next })))
}

fn shown(session: &Session) -> Value {
    json!({
        "id": session.id.to_string(),
        "user": session.user.as_str(),
        "role": session.role.as_str(),
        "created": rfc3339(session.created),
        "expires": rfc3339(session.expires),
        "last_used": rfc3339(session.last_used()),
        "client": session.client(),
    })
}

/// Empty values are none: `?user=` is more often a script's empty variable than a user without a name.
fn filter(asked: &Parameters) -> Result<Filter, Refusal> {
    let given = |name| asked.get(name).filter(|text| !text.is_empty());
    Ok(Filter {
        user: given("user").map(UserName::new),
        domain: given("domain").map(str::to_owned),
        before: given("before").map(|text| moment("before", text)).transpose()?,
    })
}

async fn end_fitting(
    State(control): State<ControlCell>,
    Extension(Caller(client)): Extension<Caller>,
    RawQuery(query): RawQuery,
) -> Result<Response, Refusal> {
    let control = control.get()?;
    let filter = filter(&Parameters::read(query.as_deref(), &["user", "domain", "before"])?)?;
    if filter.is_empty() {
        let info = "Name the sessions to be ended by user, domain or before";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, info));
    }
    let ended = control.sessions.end_fitting(&filter).await;
    // What no session fits may be a key or a password that was pasted here.
    let told = if matches!(ended, Ok(0)) { "no session".to_owned() } else { format!("{filter:?}") };
    audit::revocation("operator", &told, *ended.as_ref().unwrap_or(&0));
    let status = if ended.is_ok() { StatusCode::NO_CONTENT } else { StatusCode::SERVICE_UNAVAILABLE };
    audit::admin(client, "end_sessions", &told, status.as_u16());
    ended.map_err(stored)?;
    Ok(status.into_response())
}

async fn end_one(
    State(control): State<ControlCell>,
    Extension(Caller(client)): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let outcome = end(control.get()?, &id).await;
    let (ended, status) = match &outcome {
        Ok(()) => (1, StatusCode::NO_CONTENT),
        Err(refusal) => (0, refusal.status()),
    };
    // What is no id of a session may be a key that was pasted here.
    let told = if status == StatusCode::NOT_FOUND { "unknown" } else { &id };
    audit::revocation("operator", told, ended);
    audit::admin(client, "end_session", told, status.as_u16());
    outcome.map(|()| status.into_response())
}

async fn end(control: &Control, id: &str) -> Result<(), Refusal> {
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "No such session");
    let id = KeyHash::from_hex(id).ok_or_else(unknown)?;
    match control.sessions.end(&id, Cause::Operator).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(unknown()),
        Err(error) => Err(stored(error)),
    }
}
