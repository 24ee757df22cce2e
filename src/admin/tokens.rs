//! `/domains/{domain}/tokens`: domain tokens are minted, listed, turned off and on, removed.

use axum::body::Bytes;
use axum::extract::{Extension, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, patch};
use axum::{Json, Router};
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Caller;
use super::control::ControlCell;
use super::frame::{Refusal, has_json, moment, rfc3339, stored};
use crate::identity::RoleName;
use crate::object::Object;
use crate::session::domain_tokens::{KnownToken, Origin, TokenFault};
use crate::session::token::DomainToken;
use crate::telemetry::audit;

pub(super) fn routes(control: ControlCell) -> Router {
    Router::new()
        .route("/domains/{domain}/tokens", get(list).post(mint))
        .route("/domains/{domain}/tokens/{id}", patch(set).delete(remove))
        .with_state(control)
}

async fn list(
    State(control): State<ControlCell>,
    Path(domain): Path<String>,
) -> Result<Json<Value>, Refusal> {
    let tokens = control.get()?.sessions.domain_tokens().of_domain(&domain);
    Ok(Json(json!({ "tokens": tokens.iter().map(|token| shown(token)).collect::<Vec<_>>() })))
}

fn shown(token: &KnownToken) -> Value {
    let DomainToken { id, role, expires, enabled, .. } = &token.record;
    let origin = match token.origin {
        Origin::Configuration => "configuration",
        Origin::Minted => "minted",
        Origin::Engine => "engine",
    };
    json!({ "id": id, "role": role.as_str(), "expires": rfc3339(*expires), "enabled": enabled, "origin": origin })
}

/// Unknown fields are refused: a misspelt one would silently be nothing.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    role: String,
    expires: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    enabled: bool,
}

async fn mint(
    State(control): State<ControlCell>,
    Extension(Caller(client)): Extension<Caller>,
    Path(domain): Path<String>,
    headers: http::HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let control = control.get()?;
    let wanted: Wanted = read(&headers, &body)?;
    let live = control.live.load();
    let role = RoleName::new(&wanted.role);
    if !live.access.roles.iter().any(|known| known.name == role) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "role must be one of the configuration's roles"));
    }
    let expires = moment("expires", &wanted.expires)?;
    if expires <= control.clock.now() {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "expires has passed already"));
    }
    if domain.is_empty() || domain.chars().any(char::is_control) {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "The domain is no domain's name"));
    }
    let id = uuid::Uuid::new_v4().to_string();
    let token = live.tokens.sign_domain(&id, expires, &domain).map_err(|error| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("The token cannot be signed: {error}"))
    })?;
    let told = format!("{id}@{domain} role {}", role.as_str());
    let record = DomainToken { id: id.clone(), domain, role, expires, enabled: true };
    let kept = control.sessions.domain_tokens().mint(record).await;
    audit::admin(client, "mint_token", &told, if kept.is_ok() { 201 } else { 503 });
    kept.map_err(stored)?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id, "token": token }))).into_response())
}

async fn set(
    State(control): State<ControlCell>,
    Extension(Caller(client)): Extension<Caller>,
    Path((domain, id)): Path<(String, String)>,
    headers: http::HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let control = control.get()?;
    let Change { enabled } = read(&headers, &body)?;
    let outcome = control.sessions.domain_tokens().set_enabled(&domain, &id, enabled).await;
    let call = if enabled { "enable_token" } else { "disable_token" };
    answer((client, call), &format!("{id}@{domain}"), outcome)
}

async fn remove(
    State(control): State<ControlCell>,
    Extension(Caller(client)): Extension<Caller>,
    Path((domain, id)): Path<(String, String)>,
) -> Result<Response, Refusal> {
    let outcome = control.get()?.sessions.domain_tokens().remove(&domain, &id).await;
    answer((client, "remove_token"), &format!("{id}@{domain}"), outcome)
}

fn answer(
    (client, call): (std::net::IpAddr, &'static str),
    what: &str,
    outcome: Result<(), TokenFault>,
) -> Result<Response, Refusal> {
    let refusal = outcome.err().map(|fault| match fault {
        TokenFault::Unknown => Refusal::new(StatusCode::NOT_FOUND, "No such token"),
        TokenFault::Configured => {
            Refusal::new(StatusCode::CONFLICT, "The token stands in the configuration; change it there")
        }
        TokenFault::Store(error) => stored(error),
    });
    let status = refusal.as_ref().map_or(StatusCode::NO_CONTENT, Refusal::status);
    // What is unknown may be anything, a token that was pasted here too.
    audit::admin(
        client,
        call,
        if status == StatusCode::NOT_FOUND { "unknown" } else { what },
        status.as_u16(),
    );
    refusal.map_or(Ok(status.into_response()), Err)
}

fn read<T: serde::de::DeserializeOwned>(headers: &http::HeaderMap, body: &Bytes) -> Result<T, Refusal> {
    has_json(headers)?;
    let read = serde_json::from_slice(body).map_err(|error| {
        Refusal::new(StatusCode::BAD_REQUEST, format!("The body is not as it should be: {error}"))
    });
    read.map(|Object(fields)| fields)
}
