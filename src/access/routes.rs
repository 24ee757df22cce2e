//! Routes: a path prefix of whole segments to what is asked there and where it goes (contract section 2,
//! `[[routes]]`). Settings and the compiled route; the lookup is `route_tree`'s.

use http::Method;
use std::sync::Arc;

use super::acl::{Permission, ResourceId};
use super::path;

/// Index of an upstream in the configuration's list of upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamId(pub usize);

/// Where in the configuration something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: Arc<str>,
    pub line: usize,
}

/// One `[[routes]]`, checked for itself by `config`.
#[derive(Clone, Debug)]
pub struct RouteSettings {
    /// As written: begins with `/`; `*` or `{name}` stands for one segment.
    pub path: String,
    /// None: all.
    pub methods: Option<Vec<Method>>,
    /// Parameter and its values; all parameters must have one of their values.
    pub query: Vec<(String, Vec<String>)>,
    pub rule: Rule,
    pub strip_prefix: String,
    pub websocket: WebSocketMode,
    pub encoded_slash: bool,
    pub body_credentials: BodyCredentials,
    pub target: Target,
    pub place: Place,
}

/// What a route asks of the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    Public,
    Authenticated,
    Deny,
    Resource {
        name: String,
        /// None: the method's own letter.
        permission: Option<Permission>,
        own: Own,
    },
}

/// When the own variant of a permission is asked (contract section 4, `own`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    Never,
    UserQuery,
    UserCaller,
    Domain,
    Fallback,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebSocketMode {
    Credentials,
    FirstFrame,
    Deny,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyCredentials {
    Ignore,
    Reject,
}

/// Where a permitted request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Upstream(UpstreamId),
    /// `answer = "whoami"`
    Whoami,
    /// A `deny` route needs none.
    Nowhere,
}

/// A compiled route, as permits and denials name it.
#[derive(Debug)]
pub struct Route {
    /// The path as written: the `route` label of logs and metrics.
    pub label: Arc<str>,
    pub rule: Rule,
    pub websocket: WebSocketMode,
    pub body_credentials: BodyCredentials,
    pub target: Target,
    pub place: Place,
    pub encoded_slash: bool,
    pub(super) resource_id: Option<ResourceId>,
    /// Which segment `{user}` stands for.
    user_segment: Option<usize>,
    /// How many segments `strip_prefix` takes off.
    stripped_segments: usize,
}

impl Route {
    pub(super) fn new(settings: &RouteSettings, resource_id: Option<ResourceId>) -> Self {
        Self {
            label: settings.path.as_str().into(),
            rule: settings.rule.clone(),
            websocket: settings.websocket,
            body_credentials: settings.body_credentials,
            target: settings.target,
            place: settings.place.clone(),
            encoded_slash: settings.encoded_slash,
            resource_id,
            user_segment: path::segments(&settings.path).position(|segment| segment == "{user}"),
            stripped_segments: path::segments(&settings.strip_prefix).count(),
        }
    }

    /// The resource it asks for; none on `public`, `authenticated` and `deny` routes.
    #[must_use]
    pub fn resource(&self) -> Option<&str> {
        match &self.rule {
            Rule::Resource { name, .. } => Some(name),
            Rule::Public | Rule::Authenticated | Rule::Deny => None,
        }
    }

    /// What `{user}` stands for in a path that this route matched, decoded, in its letter case.
    pub(super) fn user<'p>(&self, path: &'p str) -> Option<std::borrow::Cow<'p, str>> {
        path::segments(path).nth(self.user_segment?).map(path::decode)
    }

    /// How many bytes `strip_prefix` takes off a canonical path that this route matched.
    pub(super) fn stripped_bytes(&self, path: &str) -> usize {
        let cut = path::segments(path).take(self.stripped_segments).map(|segment| segment.len() + 1);
        cut.sum()
    }
}

/// Whether a route's path can be one; else what is wrong and what would be right.
pub fn check_path(path: &str) -> Result<(), String> {
    if !path.starts_with('/') {
        return Err(format!("\"{path}\" must begin with \"/\""));
    }
    if path.contains(['?', '#']) {
        return Err(format!("\"{path}\" must be a path alone; parameters go into `query`"));
    }
    let mut names = Vec::new();
    for segment in path::segments(path) {
        let name = segment.strip_prefix('{').and_then(|s| s.strip_suffix('}'));
        let fault = match name {
            Some(name) if name.is_empty() || name.contains(['{', '}']) => Some("an unnamed placeholder"),
            Some(name) if names.contains(&name) => Some("two placeholders of one name"),
            Some(name) => {
                names.push(name);
                None
            }
            None if segment == "*" => None,
            None if segment.contains(['*', '{', '}']) => Some("a wildcard that is not a whole segment"),
            None => None,
        };
        if let Some(fault) = fault {
            return Err(format!(
                "\"{path}\" has {fault} at \"{segment}\"; `*` or `{{name}}` stands for one whole segment"
            ));
        }
    }
    check_canonical(path)
}

/// A route that is not canonical would never match, or match something else than its author meant.
fn check_canonical(path: &str) -> Result<(), String> {
    let literal = path.replace(['{', '}'], "");
    let canonical = literal
        .parse::<http::Uri>()
        .map_err(|error| error.to_string())
        .and_then(|uri| path::CanonicalPath::of(&uri).map_err(|bad| bad.to_string()));
    match canonical {
        Ok(canonical) if canonical.has_encoded_slash() => {
            Err(format!("\"{path}\" has an encoded slash; a prefix is made of whole segments"))
        }
        Ok(canonical) if canonical.as_str() == literal => Ok(()),
        Ok(canonical) => {
            Err(format!("\"{path}\" is not in canonical form, which would be \"{}\"", canonical.as_str()))
        }
        Err(what) => Err(format!("\"{path}\" can be no path: {what}")),
    }
}

/// Whether `strip` is a prefix of `path` of whole segments; the empty one is.
pub fn check_strip_prefix(path: &str, strip: &str) -> Result<(), String> {
    if strip.is_empty() {
        return Ok(());
    }
    if !strip.starts_with('/') {
        return Err(format!("\"{strip}\" must begin with \"/\""));
    }
    let mut of_path = path::segments(path);
    if path::segments(strip).all(|segment| of_path.next().is_some_and(|s| s.eq_ignore_ascii_case(segment))) {
        return Ok(());
    }
    Err(format!("\"{strip}\" is not the beginning of \"{path}\" in whole segments"))
}

/// Whether `{name}` is one of the path's segments.
#[must_use]
pub fn has_placeholder(path: &str, name: &str) -> bool {
    path::segments(path)
        .any(|segment| segment.strip_prefix('{').and_then(|s| s.strip_suffix('}')) == Some(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_paths_are_good() {
        for path in ["/", "/api/v2/cdr", "/api/*/x", "/a/{user}/b", "/a/", "/caf%C3%A9", "/a.b"] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn each_fault_of_a_path_is_told_with_the_path() {
        for path in [
            "api/x",
            "/api/../x",
            "/api%2fx",
            "/api?x",
            "/api/x*",
            "/half/{user",
            "/half/x{user}",
            "/two/{user}/{user}",
            "/a//b",
            "/%61",
            "/a;b",
            "/{}",
            "/a\\b",
            "/caf\u{e9}",
            "",
            "/a b",
        ] {
            let fault = check_path(path).unwrap_err();
            assert!(fault.contains(path), "{path}: {fault}");
        }
    }

    #[test]
    fn a_prefix_to_strip_is_whole_segments_of_the_path() {
        assert_eq!(check_strip_prefix("/engine/api", ""), Ok(()));
        assert_eq!(check_strip_prefix("/engine/api", "/engine"), Ok(()));
        assert_eq!(check_strip_prefix("/engine/api", "/engine/api"), Ok(()));
        for strip in ["/eng", "/other", "engine", "/engine/api/x"] {
            assert!(check_strip_prefix("/engine/api", strip).is_err(), "{strip}");
        }
    }

    #[test]
    fn placeholders_are_found_by_name() {
        assert!(has_placeholder("/a/{user}", "user") && !has_placeholder("/a/{name}/user", "user"));
    }
}
