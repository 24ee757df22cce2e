//! Finding the route of a request: a tree by segments, so that the cost depends on the path and not on how many
//! routes there are. No allocation, and no path can make it look at a node twice.
//!
//! Precedence (contract section 2): segment by segment, at the first difference a literal beats a wildcard; then the
//! longer route wins, then the one with methods, then the one with a query.

use http::Method;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use super::path::{CanonicalPath, segments};
use super::query;
use super::routes::{Place, Route, RouteSettings};
use crate::secret::PassThroughBuild;

/// All routes of a configuration, compiled.
pub struct RouteTree {
    nodes: Vec<Node>,
    entries: Vec<Entry>,
    case_sensitive: bool,
}

/// Two routes that no request could tell apart.
#[derive(Clone, Debug)]
pub struct RouteConflict {
    pub path: String,
    pub first: Place,
    pub second: Place,
}

#[derive(Default)]
struct Node {
    /// By the hash of the folded segment; segments with one hash stand in one list.
    literals: HashMap<u64, Vec<(Box<str>, usize)>, PassThroughBuild>,
    wildcard: Option<usize>,
    /// Entries that end here, by precedence.
    here: Vec<usize>,
}

struct Entry {
    route: Arc<Route>,
    methods: Option<Vec<Method>>,
    query: Vec<(String, Vec<String>)>,
}

impl RouteTree {
    /// Compiles routes; each setting's place in the list is that of its [`Route`] in `routes`.
    #[must_use]
    pub fn new(settings: &[RouteSettings], routes: Vec<Arc<Route>>, case_sensitive: bool) -> Self {
        let mut tree = Self { nodes: vec![Node::default()], entries: Vec::new(), case_sensitive };
        for (setting, route) in settings.iter().zip(routes) {
            let node = tree.node_of(&setting.path);
            let entry = tree.entries.len();
            tree.entries.push(Entry {
                route,
                methods: setting.methods.clone(),
                query: setting.query.clone(),
            });
            tree.nodes[node].here.push(entry);
        }
        for node in &mut tree.nodes {
            let entries = &tree.entries;
            node.here
                .sort_by_key(|at| Reverse((entries[*at].methods.is_some(), !entries[*at].query.is_empty())));
        }
        tree
    }

    /// The route that a request takes.
    #[must_use]
    pub fn find(&self, path: &CanonicalPath, method: &Method, query: Option<&str>) -> Option<&Arc<Route>> {
        let asked = Asked { method, query };
        self.descend(0, path.as_str(), &asked).map(|entry| &entry.route)
    }

    fn descend(&self, node: usize, rest: &str, asked: &Asked<'_>) -> Option<&Entry> {
        let node = self.nodes.get(node)?;
        let rest = rest.trim_start_matches('/');
        if !rest.is_empty() {
            let (segment, rest) = rest.split_once('/').unwrap_or((rest, ""));
            let deeper = [self.literal(node, segment), node.wildcard];
            let found = deeper.into_iter().flatten().find_map(|child| self.descend(child, rest, asked));
            if found.is_some() {
                return found;
            }
        }
        node.here.iter().filter_map(|at| self.entries.get(*at)).find(|entry| entry.matches(asked))
    }

    fn literal(&self, node: &Node, segment: &str) -> Option<usize> {
        let alike = node.literals.get(&hash(segment, self.case_sensitive))?;
        alike.iter().find(|(literal, _)| same(literal, segment, self.case_sensitive)).map(|(_, child)| *child)
    }

    fn node_of(&mut self, path: &str) -> usize {
        segments(path).fold(0, |node, segment| self.child_of(node, segment))
    }

    fn child_of(&mut self, node: usize, segment: &str) -> usize {
        let next = self.nodes.len();
        let is_wildcard = is_wildcard(segment);
        let known =
            if is_wildcard { self.nodes[node].wildcard } else { self.literal(&self.nodes[node], segment) };
        if let Some(child) = known {
            return child;
        }
        self.nodes.push(Node::default());
        if is_wildcard {
            self.nodes[node].wildcard = Some(next);
        } else {
            let alike = self.nodes[node].literals.entry(hash(segment, self.case_sensitive)).or_default();
            alike.push((segment.into(), next));
        }
        next
    }
}

struct Asked<'r> {
    method: &'r Method,
    query: Option<&'r str>,
}

impl Entry {
    fn matches(&self, asked: &Asked<'_>) -> bool {
        let method = self.methods.as_ref().is_none_or(|methods| covers(methods, asked.method));
        method && self.query.iter().all(|(name, values)| has_one_of(asked.query, name, values))
    }
}

/// GET covers HEAD.
fn covers(methods: &[Method], method: &Method) -> bool {
    methods.contains(method) || (*method == Method::HEAD && methods.contains(&Method::GET))
}

/// Whether the parameter is given once, with one of the values. Given twice it opens nothing, whichever one the
/// upstream reads.
fn has_one_of(query: Option<&str>, name: &str, values: &[String]) -> bool {
    let value = query::value(query, name);
    value.is_some_and(|value| values.iter().any(|v| *v == value))
}

/// `*` and `{name}` stand for one segment.
fn is_wildcard(segment: &str) -> bool {
    segment == "*" || (segment.starts_with('{') && segment.ends_with('}'))
}

/// Case is folded unless it matters; the hexadecimal digits of a percent-encoding are always.
fn folded(segment: &str, case_sensitive: bool) -> impl Iterator<Item = u8> {
    let mut hex_left = 0u8;
    segment.bytes().map(move |byte| {
        let in_hex = hex_left > 0;
        hex_left = if byte == b'%' { 2 } else { hex_left.saturating_sub(1) };
        if in_hex || !case_sensitive { byte.to_ascii_lowercase() } else { byte }
    })
}

fn same(a: &str, b: &str, case_sensitive: bool) -> bool {
    a.len() == b.len() && folded(a, case_sensitive).eq(folded(b, case_sensitive))
}

/// FNV-1a with a final mix. What is looked up comes from clients, but only the configuration puts entries in, so
/// nobody can fill a list with one hash.
fn hash(segment: &str, case_sensitive: bool) -> u64 {
    let mixed = folded(segment, case_sensitive)
        .fold(0xcbf2_9ce4_8422_2325u64, |h, byte| (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (mixed ^ (mixed >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// Pairs of routes that nothing tells apart.
#[must_use]
pub fn conflicts(routes: &[RouteSettings], case_sensitive: bool) -> Vec<RouteConflict> {
    let mut by_shape: HashMap<Vec<String>, Vec<&RouteSettings>> = HashMap::new();
    let mut found = Vec::new();
    for route in routes {
        let alike = by_shape.entry(shape(&route.path, case_sensitive)).or_default();
        for first in alike.iter().filter(|first| nothing_tells_apart(first, route)) {
            let (path, first, second) = (route.path.clone(), first.place.clone(), route.place.clone());
            found.push(RouteConflict { path, first, second });
        }
        alike.push(route);
    }
    found
}

fn shape(path: &str, case_sensitive: bool) -> Vec<String> {
    let fold = |segment: &str| folded(segment, case_sensitive).map(char::from).collect();
    segments(path).map(|segment| if is_wildcard(segment) { "*".to_owned() } else { fold(segment) }).collect()
}

fn nothing_tells_apart(a: &RouteSettings, b: &RouteSettings) -> bool {
    let methods = match (&a.methods, &b.methods) {
        (None, None) => true,
        (Some(a), Some(b)) => a.iter().any(|m| covers(b, m)) || b.iter().any(|m| covers(a, m)),
        (None, Some(_)) | (Some(_), None) => false,
    };
    let queries = match (a.query.is_empty(), b.query.is_empty()) {
        (true, true) => true,
        (false, false) => !queries_exclude(a, b),
        (true, false) | (false, true) => false,
    };
    methods && queries
}

/// Whether some parameter, of which both name values, has none in common.
fn queries_exclude(a: &RouteSettings, b: &RouteSettings) -> bool {
    a.query.iter().any(|(name, values)| {
        b.query.iter().any(|(other, others)| name == other && values.iter().all(|v| !others.contains(v)))
    })
}

#[cfg(test)]
mod tests {
    use super::super::routes::{BodyCredentials, Rule, Target, WebSocketMode};
    use super::*;
    use proptest::prelude::*;

    fn route(path: &str) -> RouteSettings {
        RouteSettings {
            path: path.into(),
            methods: None,
            query: Vec::new(),
            rule: Rule::Authenticated,
            strip_prefix: String::new(),
            websocket: WebSocketMode::Credentials,
            encoded_slash: false,
            body_credentials: BodyCredentials::Ignore,
            target: Target::Nowhere,
            place: Place { file: path.into(), line: 1 },
        }
    }

    fn with_methods(path: &str, methods: &[Method]) -> RouteSettings {
        RouteSettings {
            methods: Some(methods.to_vec()),
            place: Place { file: "methods".into(), line: 1 },
            ..route(path)
        }
    }

    fn with_query(path: &str, name: &str, value: &str) -> RouteSettings {
        let query = vec![(name.to_owned(), vec![value.to_owned()])];
        RouteSettings { query, place: Place { file: "query".into(), line: 1 }, ..route(path) }
    }

    fn tree(settings: &[RouteSettings], case_sensitive: bool) -> RouteTree {
        let routes = settings.iter().map(|s| Arc::new(Route::new(s, None))).collect();
        RouteTree::new(settings, routes, case_sensitive)
    }

    /// The `place.file` of the route that is found.
    fn found(tree: &RouteTree, method: &Method, target: &str) -> Option<String> {
        let uri: http::Uri = target.parse().unwrap();
        let path = CanonicalPath::of(&uri).unwrap();
        tree.find(&path, method, uri.query()).map(|route| route.place.file.to_string())
    }

    fn get(paths: &[&str], target: &str) -> Option<String> {
        let settings: Vec<_> = paths.iter().map(|p| route(p)).collect();
        found(&tree(&settings, false), &Method::GET, target)
    }

    #[test]
    fn a_prefix_ends_on_a_segment() {
        for (target, matches) in [
            ("/a/b", true),
            ("/A/b/", true),
            ("/a/B/c/d", true),
            ("/a/bc", false),
            ("/a", false),
            ("/x/a/b", false),
        ] {
            assert_eq!(get(&["/a/b"], target).is_some(), matches, "{target}");
        }
        assert_eq!(get(&["/"], "/anything/at/all").as_deref(), Some("/"));
    }

    #[test]
    fn a_literal_beats_a_wildcard_at_the_first_difference_even_a_longer_one() {
        let paths = ["/cdr", "/cdr/secret", "/cdr/*/media", "/cdr/special/media"];
        for (target, expected) in [
            ("/cdr/5/media/x", "/cdr/*/media"),
            ("/cdr/special/media", "/cdr/special/media"),
            ("/cdr/secret/media", "/cdr/secret"),
            ("/cdr/special/other", "/cdr"),
            ("/cdr/5", "/cdr"),
        ] {
            assert_eq!(get(&paths, target).as_deref(), Some(expected), "{target}");
        }
    }

    #[test]
    fn what_does_not_match_deeper_falls_back() {
        let settings = [route("/a"), with_methods("/a/b", &[Method::POST]), route("/*/b/c")];
        let tree = tree(&settings, false);
        assert_eq!(found(&tree, &Method::GET, "/a/b").as_deref(), Some("/a"));
        assert_eq!(found(&tree, &Method::GET, "/a/b/c").as_deref(), Some("/a"));
        assert_eq!(found(&tree, &Method::POST, "/a/b/c").as_deref(), Some("methods"));
    }

    #[test]
    fn methods_win_over_a_query_and_a_query_over_neither() {
        let settings = [route("/a"), with_query("/a", "view", "x"), with_methods("/a", &[Method::GET])];
        let tree = tree(&settings, false);
        for (method, target, expected) in [
            (Method::GET, "/a?view=x", "methods"),
            (Method::HEAD, "/a", "methods"),
            (Method::PUT, "/a?view=x", "query"),
            (Method::PUT, "/a?v%69ew=%78", "query"),
            (Method::PUT, "/a?view=x&view=y", "/a"),
            (Method::PUT, "/a?view=y", "/a"),
            (Method::PUT, "/a?view", "/a"),
            (Method::PUT, "/a", "/a"),
        ] {
            assert_eq!(found(&tree, &method, target).as_deref(), Some(expected), "{method} {target}");
        }
    }

    #[test]
    fn letter_case_counts_when_it_is_said_to_but_not_in_percent_encodings() {
        let tree = tree(&[route("/Caf%C3%A9")], true);
        assert!(found(&tree, &Method::GET, "/Caf%c3%a9").is_some());
        assert!(found(&tree, &Method::GET, "/caf%C3%A9").is_none());
    }

    #[test]
    fn conflicts_are_pairs_that_nothing_tells_apart() {
        let many = |settings: &[RouteSettings]| conflicts(settings, false).len();
        assert_eq!(many(&[route("/a/*"), route("/A/{x}/")]), 1);
        assert_eq!(many(&[route("/a"), with_methods("/a", &[Method::GET]), with_query("/a", "v", "x")]), 0);
        assert_eq!(many(&[with_methods("/a", &[Method::GET]), with_methods("/a", &[Method::HEAD])]), 1);
        assert_eq!(many(&[with_methods("/a", &[Method::GET]), with_methods("/a", &[Method::PUT])]), 0);
        assert_eq!(many(&[with_query("/a", "v", "x"), with_query("/a", "v", "y")]), 0);
        assert_eq!(many(&[with_query("/a", "v", "x"), with_query("/a", "w", "y")]), 1);
        assert_eq!(conflicts(&[route("/a"), route("/A")], true).len(), 0);
    }

    proptest! {
        /// Against the plain reading of the precedence: every matching route compared with every other.
        #[test]
        fn the_tree_finds_what_a_comparison_of_all_routes_finds(
            paths in proptest::collection::hash_set("(/(a|b|c|\\*)){0,4}", 1..12),
            target in "(/(a|b|c|d)){0,5}",
        ) {
            let paths: Vec<String> = paths.into_iter().map(|p| if p.is_empty() { "/".into() } else { p }).collect();
            let refs: Vec<&str> = paths.iter().map(String::as_str).collect();
            let target = if target.is_empty() { "/".to_owned() } else { target };
            let wanted: Vec<&str> = segments(&target).collect();
            let matching = refs.iter().filter(|p| {
                let own: Vec<&str> = segments(p).collect();
                own.len() <= wanted.len() && own.iter().zip(&wanted).all(|(o, w)| *o == "*" || o == w)
            });
            // Literal before wildcard at the first difference, then longer: the order of these keys.
            let best = matching.max_by_key(|p| segments(p).map(|s| u8::from(s != "*")).collect::<Vec<_>>());
            prop_assert_eq!(get(&refs, &target), best.map(|p| (*p).to_owned()));
        }
    }
}
