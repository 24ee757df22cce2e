//! The compiled routes: a tree by segments in which a request finds its route. What a look-up costs depends on the
//! path, not on the number of routes, and it copies nothing.

use http::Method;
use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Arc;

use super::conflicts::takes;
use super::path::{BadPath, CanonicalPath};
use super::query::{self, Occurrence};
use super::routes::{self, Route, RouteSettings, Segment};
use super::segment;
use crate::secret::PassThroughBuild;
use crate::telemetry::label::Label;

pub use super::conflicts::{RouteConflict, conflicts};

/// The routes of one configuration.
pub struct RouteTree {
    nodes: Vec<Node>,
    case_sensitive: bool,
}

/// A route with what its look-up needs.
pub(super) struct Entry {
    pub(super) route: Arc<Route>,
    /// Its place in the list that the table was made of.
    pub(super) number: usize,
    /// Whole segments that `strip_prefix` takes off.
    pub(super) stripped_segments: usize,
    /// Which segment is `{user}`.
    user: Option<usize>,
    methods: Option<Vec<Method>>,
    query: Vec<(String, Vec<String>)>,
}

/// Whether a route takes a request; maybe: to a reader that takes another one of several values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Takes {
    No,
    Maybe,
    Yes,
}

const AMBIGUOUS_QUERY: BadPath = BadPath { what: "a query parameter that a route asks for is ambiguous" };

/// One segment of the tree. The root stands for the path `/`.
#[derive(Default)]
struct Node {
    /// By the segment's hash; more than one only where two hashes are equal.
    literals: HashMap<u64, Vec<(String, usize)>, PassThroughBuild>,
    any: Option<usize>,
    /// The routes that end here, best first.
    ends: Vec<Entry>,
}

impl RouteTree {
    /// Compiles routes whose paths `config` has checked. Of two that conflict the first wins.
    #[must_use]
    pub fn new(routes: &[RouteSettings], case_sensitive: bool) -> Self {
        let mut table = Self { nodes: vec![Node::default()], case_sensitive };
        for (number, route) in routes.iter().enumerate() {
            let mut at = 0;
            for segment in routes::shape(&route.path, case_sensitive) {
                at = table.child(at, segment);
            }
            if let Some(node) = table.nodes.get_mut(at) {
                node.ends.push(Entry::new(number, route));
                // Stable: with methods first, then with query (contract section 2).
                node.ends.sort_by_key(|e| (e.methods.is_none(), e.query.is_empty()));
            }
        }
        table
    }

    /// The route of a request, by the contract's precedence: compared segment by segment, at the first difference a
    /// literal beats `*`, then the longer wins, then the one with methods, then the one with query. Only routes
    /// whose methods and query take the request are compared at all.
    #[must_use]
    pub fn find(&self, path: &CanonicalPath, method: &Method, query: Option<&str>) -> Option<&Arc<Route>> {
        self.entry(path, method, query).ok().flatten().map(|e| &e.route)
    }

    /// # Errors
    /// A parameter that a route asks for is given in a way that another reader takes it, and has another route then.
    pub(super) fn entry(
        &self,
        path: &CanonicalPath,
        method: &Method,
        query: Option<&str>,
    ) -> Result<Option<&Entry>, BadPath> {
        let ambiguous = Cell::new(false);
        let found = self.search(0, path.inner(), &|e: &Entry| match e.takes(method, query) {
            Takes::Maybe => {
                ambiguous.set(true);
                false
            }
            takes => takes == Takes::Yes,
        });
        if ambiguous.get() {
            let other = self.search(0, path.inner(), &|e: &Entry| e.takes(method, query) != Takes::No);
            if found.map(|e| e.number) != other.map(|e| e.number) {
                return Err(AMBIGUOUS_QUERY);
            }
        }
        Ok(found)
    }

    /// Literal before `any` before the routes that end here is exactly the order of precedence, so the first found is
    /// the best. A node is visited at most once, being one place in a tree.
    fn search(&self, at: usize, rest: &str, takes: &impl Fn(&Entry) -> bool) -> Option<&Entry> {
        let node = self.nodes.get(at)?;
        if !rest.is_empty() {
            let (segment, rest) = segment::first(rest);
            let children = [self.literal(node, segment), node.any];
            if let Some(found) = children.into_iter().flatten().find_map(|c| self.search(c, rest, takes)) {
                return Some(found);
            }
        }
        node.ends.iter().find(|e| takes(e))
    }

    fn literal(&self, node: &Node, segment: &str) -> Option<usize> {
        if node.literals.is_empty() {
            return None;
        }
        let same = node.literals.get(&segment::hash(segment, self.case_sensitive))?;
        same.iter().find(|(l, _)| segment::matches(segment, l, self.case_sensitive)).map(|(_, child)| *child)
    }

    /// The child for a segment, made if there is none.
    fn child(&mut self, at: usize, segment: Segment) -> usize {
        let new = self.nodes.len();
        let Some(node) = self.nodes.get_mut(at) else { return at };
        let child = match segment {
            Segment::Any => *node.any.get_or_insert(new),
            Segment::Literal(literal) => {
                let hash = segment::hash_of_folded(&literal);
                let same = node.literals.entry(hash).or_default();
                match same.iter().find(|(l, _)| *l == literal) {
                    Some((_, child)) => *child,
                    None => {
                        same.push((literal, new));
                        new
                    }
                }
            }
        };
        if child == new {
            self.nodes.push(Node::default());
        }
        child
    }
}

impl Entry {
    fn new(number: usize, settings: &RouteSettings) -> Self {
        let route = Route {
            label: Label::of(&settings.path),
            rule: settings.rule.clone(),
            websocket: settings.websocket,
            body: settings.body.clone(),
            target: settings.target,
            place: settings.place.clone(),
            encoded_slash: settings.encoded_slash,
        };
        Self {
            route: Arc::new(route),
            number,
            stripped_segments: routes::shape(&settings.strip_prefix, false).len(),
            user: routes::position(&settings.path, "user"),
            methods: settings.methods.clone(),
            query: settings.query.clone(),
        }
    }

    /// What stands for `{user}` in a path that found this route, as it is in the path.
    pub(super) fn user<'p>(&self, path: &'p CanonicalPath) -> Option<&'p str> {
        path.inner().split('/').nth(self.user?)
    }

    /// Whether the path's `{user}` decides anything here.
    pub(super) fn names_a_user(&self) -> bool {
        self.user.is_some()
    }

    /// Whether methods and query take a request.
    fn takes(&self, method: &Method, query: Option<&str>) -> Takes {
        if !self.methods.as_ref().is_none_or(|methods| takes(methods, method)) {
            return Takes::No;
        }
        let of_each = self.query.iter().map(|(name, values)| {
            let is_one = |given: &str| values.iter().any(|v| query::decoded(given).eq(v.bytes()));
            match query.map_or(Occurrence::Absent, |query| query::occurrence(query, name)) {
                Occurrence::Once(given) if is_one(given) => Takes::Yes,
                // To who takes `;` for a separator.
                Occurrence::Once(given) if given.split_once(';').is_some_and(|(given, _)| is_one(given)) => {
                    Takes::Maybe
                }
                Occurrence::Ambiguous if query.is_some_and(|query| query::may_give(query, name, is_one)) => {
                    Takes::Maybe
                }
                Occurrence::Once(_) | Occurrence::Absent | Occurrence::Ambiguous => Takes::No,
            }
        });
        of_each.min().unwrap_or(Takes::Yes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::samples::route;
    use proptest::prelude::*;

    /// `GET,PUT /path?view=a|b`; the methods may be left out.
    fn parse(text: &str) -> RouteSettings {
        let (methods, path) = text.split_at(text.find('/').unwrap());
        let methods = methods.trim_end();
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut route = route(path);
        route.methods =
            (!methods.is_empty()).then(|| methods.split(',').map(|m| m.parse().unwrap()).collect());
        let pairs = query.split('&').filter(|p| !p.is_empty()).filter_map(|p| p.split_once('='));
        route.query = pairs.map(|(n, v)| (n.to_owned(), v.split('|').map(str::to_owned).collect())).collect();
        route
    }

    fn found(routes: &[&str], ask: &str, case_sensitive: bool) -> Option<usize> {
        let mut settings: Vec<_> = routes.iter().map(|r| parse(r)).collect();
        settings.iter_mut().enumerate().for_each(|(n, r)| r.place.line = n);
        let (method, target) = ask.split_once(' ').unwrap_or(("GET", ask));
        let path = CanonicalPath::parse(target).unwrap();
        let table = RouteTree::new(&settings, case_sensitive);
        table.find(&path, &method.parse().unwrap(), path.sent().query()).map(|r| r.place.line)
    }

    #[test]
    fn a_prefix_is_whole_segments() {
        for (ask, expected) in [
            ("/cdr", Some(0)),
            ("/cdr/", Some(0)),
            ("/CDR/a/b", Some(0)),
            ("/cdrx", None),
            ("/cd", None),
            ("/cdr.json", None),
            ("/", None),
            ("/cdr%41", None),
            ("/x/cdr", None),
            ("//%63dr//x", Some(0)),
        ] {
            assert_eq!(found(&["/cdr"], ask, false), expected, "{ask}");
        }
        assert_eq!(found(&["/"], "/anything/at/all", false), Some(0));
        assert_eq!(found(&["/"], "/", false), Some(0));
        assert_eq!(found(&["/a/"], "/a", false), Some(0));
    }

    #[test]
    fn precedence_is_decided_at_the_first_difference() {
        let routes = ["/cdr", "/cdr/secret", "/cdr/*/media", "/cdr/special/media", "/cdr/*", "/"];
        for (ask, expected) in [
            ("/cdr/secret/media", 1),
            ("/cdr/%73ECRET/media/x", 1),
            ("/cdr/secretx/media", 2),
            ("/cdr/special/media", 3),
            ("/cdr/special", 4),
            ("/cdr/special/x", 4),
            ("/cdr", 0),
            ("/x", 5),
        ] {
            assert_eq!(found(&routes, ask, false), Some(expected), "{ask}");
        }
    }

    #[test]
    fn only_routes_that_take_the_request_are_compared() {
        let routes = ["/put", "PUT,PURGE /put", "/put?view=a|b", "PUT /put/x", "GET /get", "PUT /put?view=a"];
        for (ask, expected) in [
            ("PUT /put", Some(1)),
            ("PURGE /put", Some(1)),
            ("PATCH /put", Some(0)),
            ("put /put", Some(0)),
            ("GET /put/x", Some(0)),
            ("PUT /put/x", Some(3)),
            ("GET /put?view=a", Some(2)),
            ("PUT /put?view=b", Some(1)),
            ("PUT /put?view=a", Some(5)),
            ("GET /put?v%69ew=%61", Some(2)),
            ("GET /put?x&view=b&y", Some(2)),
            ("GET /put?view=a&view=b", None),
            ("GET /put?view=a&view[]=b", None),
            ("GET /put?view=A", Some(0)),
            ("GET /put?view", Some(0)),
            ("GET /put?view=ab", Some(0)),
            ("HEAD /get", Some(4)),
            ("POST /get", None),
        ] {
            assert_eq!(found(&routes, ask, false), expected, "{ask}");
        }
    }

    #[test]
    fn literals_match_their_percent_encoded_form_and_case_can_count() {
        for ask in ["/gr%C3%B6%C3%9Fe/a%20B/x", "/GR%c3%96%c3%9fE/A%20b"] {
            assert_eq!(found(&["/größe/a b"], ask, false), Some(0), "{ask}");
        }
        assert_eq!(found(&["/a@b"], "/a%40b", false), Some(0));
        assert_eq!(found(&["/a/Bc"], "/a/Bc", true), Some(0));
        assert_eq!(found(&["/a/Bc"], "/A/bc", true), None);
        assert_eq!(found(&["/a/b"], "/a%2Fb", false), None);
    }

    #[test]
    fn a_wildcard_is_exactly_one_segment() {
        for (ask, expected) in [
            ("/d/5/m", Some(0)),
            ("/d/a%2Fb/m/x", Some(0)),
            ("/d/m", None),
            ("/d//m", None),
            ("/d/1/2/m", None),
            ("/d/1/mx", None),
        ] {
            assert_eq!(found(&["/d/{id}/m"], ask, false), expected, "{ask}");
        }
    }

    #[test]
    fn a_parameter_that_another_reader_takes_otherwise_is_refused_where_it_matters() {
        let mut settings: Vec<_> = ["/q", "/q?view=x", "/other"].iter().map(|r| parse(r)).collect();
        settings.iter_mut().enumerate().for_each(|(n, r)| r.place.line = n);
        let table = RouteTree::new(&settings, false);
        let entry = |target: &str| {
            let path = CanonicalPath::parse(target).unwrap();
            table.entry(&path, &Method::GET, path.sent().query()).map(|e| e.unwrap().number)
        };
        for (target, expected) in [
            ("/q", Ok(0)),
            ("/q?view=x", Ok(1)),
            ("/q?view=%78&a", Ok(1)),
            ("/q?view=y", Ok(0)),
            ("/q?view=y&view=z", Ok(0)),
            ("/q?view[]=y", Ok(0)),
            ("/q?views=x&view=y", Ok(0)),
            ("/other?view=x&view=y", Ok(2)),
            ("/q?view=x&view=y", Err(AMBIGUOUS_QUERY)),
            ("/q?view=y&view=x", Err(AMBIGUOUS_QUERY)),
            ("/q?view=x&view=x", Err(AMBIGUOUS_QUERY)),
            ("/q?view[]=x", Err(AMBIGUOUS_QUERY)),
            ("/q?view=y&view[]=x", Err(AMBIGUOUS_QUERY)),
            ("/q?view=x;a", Err(AMBIGUOUS_QUERY)),
            ("/q?a;view=x", Err(AMBIGUOUS_QUERY)),
        ] {
            assert_eq!(entry(target), expected, "{target}");
        }
    }

    #[test]
    fn the_user_is_read_from_the_canonical_path() {
        let table = RouteTree::new(&[route("/a/*/{user}")], false);
        let path = CanonicalPath::parse("//a/x/%4FWN%40d/y").unwrap();
        let entry = table.entry(&path, &Method::GET, None).unwrap().unwrap();
        assert_eq!(entry.user(&path), Some("OWN%40d"));
    }

    /// Shapes over a small alphabet: `a`, `b` and `*`.
    fn shapes() -> impl Strategy<Value = Vec<Vec<&'static str>>> {
        let segment = prop::sample::select(vec!["a", "b", "*"]);
        prop::collection::vec(prop::collection::vec(segment, 0..5), 1..20)
    }

    proptest! {
        /// Against the contract's sentence, read as a comparison of all candidates.
        #[test]
        fn the_tree_agrees_with_the_rule(routes in shapes(), ask in prop::collection::vec(prop::sample::select(vec!["a", "b", "c"]), 0..6)) {
            let literal_first = |r: &[&str]| r.iter().map(|s| u8::from(*s == "*")).collect::<Vec<_>>();
            let candidate = |r: &&Vec<&str>| {
                r.len() <= ask.len() && r.iter().zip(&ask).all(|(r, a)| *r == "*" || r == a)
            };
            let best = routes.iter().filter(candidate).min_by(|x, y| {
                let (x, y) = (literal_first(x), literal_first(y));
                let shared = x.len().min(y.len());
                x[..shared].cmp(&y[..shared]).then(y.len().cmp(&x.len()))
            });
            let texts: Vec<String> = routes.iter().map(|r| format!("/{}", r.join("/"))).collect();
            let refs: Vec<&str> = texts.iter().map(String::as_str).collect();
            let got = found(&refs, &format!("/{}", ask.join("/")), false);
            prop_assert_eq!(got.map(|n| &routes[n]), best);
        }
    }
}
