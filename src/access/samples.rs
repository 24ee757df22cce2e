//! Settings that the tests of this module start from.

use std::sync::Arc;

use super::body::BodyRules;
use super::routes::{Place, RouteSettings, Rule, Target, UpstreamId, WebSocketMode};

/// A route for everyone who is logged in, on all methods.
pub(crate) fn route(path: &str) -> RouteSettings {
    RouteSettings {
        path: path.to_owned(),
        methods: None,
        query: Vec::new(),
        rule: Rule::Authenticated,
        strip_prefix: String::new(),
        websocket: WebSocketMode::Credentials,
        encoded_slash: false,
        body: BodyRules::default(),
        target: Target::Upstream(UpstreamId(0)),
        place: Place { file: Arc::from("routes.toml"), line: 1 },
    }
}
