//! Routes as the configuration has them: a path prefix of whole segments to what is asked there and where it goes, and
//! the checks that `config` makes of their paths. How a request finds its route is [`super::route_tree`]'s.

use http::Method;

use super::body::BodyRules;
use super::segment;
use crate::permission::Permission;
use crate::telemetry::label::Label;

/// Index of an upstream in the configuration's list of upstreams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UpstreamId(pub usize);

/// Where in the configuration something stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub file: std::sync::Arc<str>,
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
    pub body: BodyRules,
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
    pub label: Label,
    pub rule: Rule,
    pub websocket: WebSocketMode,
    pub body: BodyRules,
    pub target: Target,
    pub place: Place,
    pub encoded_slash: bool,
}

impl Route {
    /// The resource it asks for; none on `public`, `authenticated` and `deny` routes.
    #[must_use]
    pub fn resource(&self) -> Option<&str> {
        match &self.rule {
            Rule::Resource { name, .. } => Some(name),
            Rule::Public | Rule::Authenticated | Rule::Deny => None,
        }
    }
}

/// What is wrong with a route's `path`, and what would be right.
pub fn check_path(path: &str) -> Result<(), String> {
    let inner = path.strip_prefix('/').ok_or("a path begins with `/`")?;
    if path.contains(['?', '#']) {
        return Err(
            "a path has no query and no fragment; `query = { name = [\"value\"] }` asks for parameters"
                .into(),
        );
    }
    let mut names = Vec::new();
    for part in inner.strip_suffix('/').unwrap_or(inner).split('/').filter(|_| !matches!(path, "/")) {
        check_segment(part)?;
        if let Some(name) = placeholder(part) {
            if names.contains(&name) {
                return Err(format!(
                    "`{{{name}}}` is there twice; a placeholder's name stands for one segment"
                ));
            }
            names.push(name);
        }
    }
    Ok(())
}

/// What is wrong with a route's `strip_prefix`: it must be whole segments that `path` begins with.
pub fn check_strip_prefix(path: &str, strip: &str) -> Result<(), String> {
    if strip.is_empty() {
        return Ok(());
    }
    if !strip.starts_with('/') {
        return Err("a prefix begins with `/`".into());
    }
    let (path_shape, strip_shape) = (shape(path, false), shape(strip, false));
    if path_shape.starts_with(&strip_shape) {
        Ok(())
    } else {
        Err(format!("`{strip}` is not whole segments at the beginning of the route's path `{path}`"))
    }
}

/// Whether a route's path has the placeholder `{name}`.
#[must_use]
pub fn has_placeholder(path: &str, name: &str) -> bool {
    position(path, name).is_some()
}

/// Which segment of a route's path is the placeholder `{name}`.
pub(super) fn position(path: &str, name: &str) -> Option<usize> {
    segments(path).position(|s| placeholder(s) == Some(name))
}

/// One segment of a route's path as requests are compared with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Segment {
    /// Decoded and, unless case counts, in lower case.
    Literal(String),
    /// `*` or `{name}`: the same to every request.
    Any,
}

/// A route's path as requests are compared with it.
pub(super) fn shape(path: &str, case_sensitive: bool) -> Vec<Segment> {
    segments(path)
        .map(|s| match s {
            "*" => Segment::Any,
            s if placeholder(s).is_some() => Segment::Any,
            s => Segment::Literal(segment::folded(s, case_sensitive)),
        })
        .collect()
}

/// The segments of a path as it is written; empty ones (a trailing slash, the root) are none.
fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|s| !s.is_empty())
}

fn placeholder(segment: &str) -> Option<&str> {
    let name = segment.strip_prefix('{')?.strip_suffix('}')?;
    let good =
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    good.then_some(name)
}

fn check_segment(part: &str) -> Result<(), String> {
    if part == "*" || placeholder(part).is_some() {
        return Ok(());
    }
    match part {
        "" => return Err("repeated slashes: requests' are merged, so no path could match".into()),
        "." | ".." => return Err("a dot segment: requests' are resolved, so no path could match".into()),
        _ if part.contains('*') => {
            return Err(format!("`*` stands for a whole segment, not for a part of `{part}`"));
        }
        _ if part.contains(['{', '}']) => {
            return Err(format!("`{{name}}` stands for a whole segment and is closed, unlike `{part}`"));
        }
        _ => {}
    }
    match segment::inspect(&segment::encoded(part)) {
        Ok(found) if found.encoded_slash => {
            Err(format!("an encoded slash in `{part}`: no request's path is compared decoded there"))
        }
        Ok(_) => Ok(()),
        Err(bad) => Err(format!("{bad} in `{part}`: requests with it are refused")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_paths_are_good() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/API/v2/accounts/{user}",
            "/*/b",
            "/a/{x}/{y}",
            "/größe/a b",
            "/gr%C3%B6%C3%9Fe",
            "/.well-known",
            "/a:b@c",
            "/{my-id}/{my_id}",
            "/%61",
        ] {
            assert_eq!(check_path(path), Ok(()), "{path}");
        }
    }

    #[test]
    fn bad_paths_are_named() {
        for (path, why) in [
            ("", "begins"),
            ("api/x", "begins"),
            ("/api/../x", "dot segment"),
            ("/./x", "dot segment"),
            ("/%2e%2e/x", "dot segment"),
            ("/api%2fx", "slash"),
            ("/api?x", "query"),
            ("/api#x", "query"),
            ("//x", "slashes"),
            ("/x//", "slashes"),
            ("//", "slashes"),
            ("/api/x*", "whole segment"),
            ("/api/**", "whole segment"),
            ("/half/{user", "closed"),
            ("/half/x{user}", "closed"),
            ("/half/{}", "closed"),
            ("/half/{a b}", "closed"),
            ("/two/{user}/{user}", "twice"),
            ("/a;b", "parameters"),
            ("/a\\b", "backslash"),
            ("/a%zz", "percent-encoding"),
            ("/a%252e", "double"),
            ("/a%ff", "UTF-8"),
        ] {
            let fault = check_path(path).expect_err(path);
            assert!(fault.contains(why), "{path}: {fault}");
        }
    }

    #[test]
    fn a_stripped_prefix_is_whole_segments_of_the_path() {
        for (path, strip) in [
            ("/engine/api", ""),
            ("/engine/api", "/engine"),
            ("/engine/api", "/engine/"),
            ("/engine/api", "/engine/api"),
            ("/Engine/api", "/engine"),
            ("/{a}/api", "/*"),
            ("/a", "/"),
        ] {
            assert_eq!(check_strip_prefix(path, strip), Ok(()), "{path} {strip}");
        }
        for (path, strip) in [
            ("/engine/api", "/other"),
            ("/engine/api", "/eng"),
            ("/engine/api", "engine"),
            ("/a", "/a/b"),
            ("/*/b", "/a"),
        ] {
            assert!(check_strip_prefix(path, strip).is_err(), "{path} {strip}");
        }
    }

    #[test]
    fn a_placeholder_is_found_by_its_name() {
        assert!(has_placeholder("/accounts/{user}/x", "user"));
        for path in ["/accounts/{name}", "/accounts/*", "/accounts/user", "/accounts/{User}", "/x{user}"] {
            assert!(!has_placeholder(path, "user"), "{path}");
        }
    }
}
