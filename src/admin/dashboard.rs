//! `GET /`: a page for people, over the same calls as everybody's. It holds nothing by itself and takes its script and
//! style from here alone.

use axum::Router;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_FRAME_OPTIONS};

/// Whatever the page shows, names of users too, is text to it: no script but its own runs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

pub(super) fn routes() -> Router {
    Router::new()
        .route("/", get(async || file("text/html; charset=utf-8", include_str!("dashboard/index.html"))))
        .route(
            "/dashboard.js",
            get(async || file("text/javascript; charset=utf-8", include_str!("dashboard/dashboard.js"))),
        )
        .route(
            "/dashboard.css",
            get(async || file("text/css; charset=utf-8", include_str!("dashboard/dashboard.css"))),
        )
}

fn file(content_type: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, content_type),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    (headers, text).into_response()
}
