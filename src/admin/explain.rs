//! `GET /explain`: why a request of some role would be allowed or refused under the running configuration.

use axum::extract::{RawQuery, State};
use axum::routing::get;
use axum::{Json, Router};
use http::{Method, StatusCode};

use super::control::ControlCell;
use super::frame::Refusal;
use super::parameters::Parameters;
use crate::access::explain::{Asked, Explanation, explain};
use crate::identity::{RoleName, UserName};

pub(super) fn routes(control: ControlCell) -> Router {
    Router::new().route("/explain", get(answer)).with_state(control)
}

async fn answer(
    State(control): State<ControlCell>,
    RawQuery(query): RawQuery,
) -> Result<Json<Explanation>, Refusal> {
    let live = control.get()?.live.load();
    let asked = Parameters::read(query.as_deref(), &["role", "method", "path", "user"])?;
    let bad = |info: &str| Refusal::new(StatusCode::BAD_REQUEST, info);
    let role = RoleName::new(asked.required("role")?);
    if !live.access.roles.iter().any(|known| known.name == role) {
        return Err(bad("role must be one of the configuration's roles"));
    }
    let method =
        Method::from_bytes(asked.required("method")?.as_bytes()).map_err(|_| bad("method is no method"))?;
    let target = asked.required("path")?;
    if !target.starts_with('/') {
        return Err(bad("path must begin with /"));
    }
    let user = asked.get("user").filter(|name| !name.is_empty()).map(UserName::new);
    let asked = Asked { method: &method, target, role: &role, user: user.as_ref() };
    Ok(Json(explain(&live.access, live.policy(), asked)))
}
