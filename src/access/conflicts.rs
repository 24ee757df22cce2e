//! Routes that no request could tell apart: an error of the configuration (contract section 2).

use http::Method;
use std::collections::HashMap;

use super::routes::{Place, RouteSettings, Segment, shape};

/// Two routes that no request could tell apart.
#[derive(Clone, Debug)]
pub struct RouteConflict {
    /// The first route's path, as written.
    pub path: String,
    pub first: Place,
    pub second: Place,
}

/// Every pair of routes with the same path (`*` and `{name}` are the same, letter case counts only if
/// `case_sensitive`) that some request would find equally good: neither is told by `methods` or `query`.
#[must_use]
pub fn conflicts(routes: &[RouteSettings], case_sensitive: bool) -> Vec<RouteConflict> {
    let mut of_shape: HashMap<Vec<Segment>, Vec<&RouteSettings>> = HashMap::new();
    let mut found = Vec::new();
    for second in routes {
        let same = of_shape.entry(shape(&second.path, case_sensitive)).or_default();
        found.extend(same.iter().filter(|first| undecided(first, second)).map(|first| RouteConflict {
            path: first.path.clone(),
            first: first.place.clone(),
            second: second.place.clone(),
        }));
        same.push(second);
    }
    found
}

/// Whether a request exists that both take and that no rule of precedence gives to one: first the one with methods
/// wins, then the one with a query.
fn undecided(a: &RouteSettings, b: &RouteSettings) -> bool {
    let methods = match (&a.methods, &b.methods) {
        (None, None) => true,
        (Some(a), Some(b)) => a.iter().any(|m| takes(b, m)) || b.iter().any(|m| takes(a, m)),
        (Some(_), None) | (None, Some(_)) => false,
    };
    methods && a.query.is_empty() == b.query.is_empty() && both_queries(&a.query, &b.query)
}

/// Whether a list of methods takes one; GET covers HEAD.
pub(super) fn takes(methods: &[Method], method: &Method) -> bool {
    methods.contains(method) || (*method == Method::HEAD && methods.contains(&Method::GET))
}

/// Whether one query can satisfy both: each parameter that both name needs a value that both take.
fn both_queries(a: &[(String, Vec<String>)], b: &[(String, Vec<String>)]) -> bool {
    a.iter().all(|(name, values)| {
        b.iter()
            .filter(|(other, _)| other == name)
            .all(|(_, others)| values.iter().any(|v| others.contains(v)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::samples::route;

    fn with(path: &str, methods: &[&str], query: &[(&str, &[&str])]) -> RouteSettings {
        let mut route = route(path);
        route.methods = (!methods.is_empty()).then(|| methods.iter().map(|m| m.parse().unwrap()).collect());
        let values = |v: &[&str]| v.iter().map(|s| (*s).to_owned()).collect();
        route.query = query.iter().map(|(n, v)| ((*n).to_owned(), values(v))).collect();
        route
    }

    #[test]
    fn what_some_request_cannot_tell_apart_is_a_conflict() {
        let view: &[(&str, &[&str])] = &[("view", &["a", "b"])];
        for (a, b) in [
            (with("/a", &[], &[]), with("/a", &[], &[])),
            (with("/a", &[], &[]), with("/A/", &[], &[])),
            (with("/a/{x}", &[], &[]), with("/a/*", &[], &[])),
            (with("/a%20b", &[], &[]), with("/a b", &[], &[])),
            (with("/a", &["GET", "PUT"], &[]), with("/a", &["PUT"], &[])),
            (with("/a", &["GET"], &[]), with("/a", &["HEAD"], &[])),
            (with("/a", &[], view), with("/a", &[], &[("view", &["b", "c"])])),
            (with("/a", &[], view), with("/a", &[], &[("page", &["1"])])),
        ] {
            let routes = [a, b];
            assert_eq!(conflicts(&routes, false).len(), 1, "{routes:?}");
        }
    }

    #[test]
    fn what_every_request_can_tell_apart_is_none() {
        let view: &[(&str, &[&str])] = &[("view", &["a", "b"])];
        for (a, b) in [
            (with("/a", &[], &[]), with("/b", &[], &[])),
            (with("/a", &[], &[]), with("/a/*", &[], &[])),
            (with("/a/b", &[], &[]), with("/a/*", &[], &[])),
            (with("/a", &["PUT"], &[]), with("/a", &[], &[])),
            (with("/a", &["PUT"], &[]), with("/a", &["GET"], &[])),
            (with("/a", &[], view), with("/a", &[], &[])),
            (with("/a", &[], view), with("/a", &["GET"], &[])),
            (with("/a", &[], view), with("/a", &[], &[("view", &["c"])])),
        ] {
            let routes = [a, b];
            assert!(conflicts(&routes, false).is_empty(), "{routes:?}");
        }
        assert!(conflicts(&[with("/a", &[], &[]), with("/A", &[], &[])], true).is_empty());
    }
}
