//! What an ingress asks about, read from the headers in which it says so (contract section 5). Pure; decides nothing
//! about the caller. What is not told whole by one convention, or otherwise by another, is never guessed.

use http::uri::{PathAndQuery, Uri};
use http::{HeaderMap, Method};

/// `[authz] convention`: by which headers an ingress tells what it asks about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Convention {
    /// Whichever is there; where several are, they must agree.
    #[default]
    Any,
    /// nginx and ingress-nginx: `X-Original-URL` or `X-Original-URI`, `X-Original-Method`.
    Nginx,
    /// Traefik and Caddy: `X-Forwarded-Uri`, `X-Forwarded-Method`.
    Forwarded,
    /// Envoy over HTTP: the path behind `/auth`, the request's own method.
    Envoy,
}

impl Convention {
    pub const ALL: [Self; 4] = [Self::Any, Self::Nginx, Self::Forwarded, Self::Envoy];

    /// The word of the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Nginx => "nginx",
            Self::Forwarded => "forwarded",
            Self::Envoy => "envoy",
        }
    }
}

/// A request as the client sent it to the ingress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Original {
    pub method: Method,
    /// Path and query.
    pub target: Uri,
    /// Whether a path behind `/auth` told it.
    pub by_envoy: bool,
}

/// Why it cannot be told what is asked about. Each is 403.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskFault {
    #[error("Not trusted to ask: its address is none of listen.trusted_proxies")]
    NotTrusted,
    #[error("Ask at /auth")]
    NotHere,
    #[error("{0} is given twice")]
    Repeated(&'static str),
    #[error(
        "The original path is missing: X-Original-URL, X-Original-URI, X-Forwarded-Uri, or a path behind /auth"
    )]
    NoPath,
    #[error(
        "The original method is missing: X-Original-Method or X-Forwarded-Method, beside the path's header"
    )]
    NoMethod,
    #[error("{0} is neither a path nor a URL with one")]
    BadTarget(&'static str),
    #[error("{0} is no method")]
    BadMethod(&'static str),
    #[error("The original path or method is told twice, and not the same")]
    Conflict,
    #[error("The check has no attributes.request.http with a method and a path")]
    NoRequest,
    #[error("A header field of the check is none")]
    BadField,
    /// The target is told, and no path.
    #[error("Bad path")]
    BadPath,
}

const AUTH: &str = "/auth";
const ORIGINAL_URL: &str = "x-original-url";
const ORIGINAL_URI: &str = "x-original-uri";
const ORIGINAL_METHOD: &str = "x-original-method";
const FORWARDED_URI: &str = "x-forwarded-uri";
const FORWARDED_METHOD: &str = "x-forwarded-method";
const FORWARDED_HOST: &str = "x-forwarded-host";

/// What one convention says. Either may be missing.
#[derive(Default)]
struct Told<'r> {
    target: Option<&'r [u8]>,
    method: Option<Method>,
}

/// What is asked about by a request on the authorizer.
///
/// # Errors
/// What is missing, or told twice and not the same.
pub fn read(
    convention: Convention,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Original, AskFault> {
    let behind = behind_auth(uri)?;
    let wanted = |one| convention == Convention::Any || convention == one;
    if behind.is_some() && !wanted(Convention::Envoy) {
        return Err(AskFault::NotHere);
    }
    let nothing = || Ok(Told::default());
    let nginx = if wanted(Convention::Nginx) { by_nginx(headers) } else { nothing() }?;
    let forwarded = if wanted(Convention::Forwarded) { by_forwarded(headers) } else { nothing() }?;
    let envoy = Told { target: behind, method: behind.map(|_| method.clone()) };
    agreed([nginx, forwarded, envoy], behind.is_some())
}

/// All who tell a path tell the same, and so do all who tell a method; one of them tells both.
fn agreed(told: [Told<'_>; 3], by_envoy: bool) -> Result<Original, AskFault> {
    let targets = || told.iter().filter_map(|told| told.target);
    let methods = || told.iter().filter_map(|told| told.method.as_ref());
    let Some(target) = targets().next() else { return Err(AskFault::NoPath) };
    if targets().any(|other| other != target) || methods().any(|other| methods().next() != Some(other)) {
        return Err(AskFault::Conflict);
    }
    let whole = told.iter().find(|told| told.target.is_some() && told.method.is_some());
    let method = whole.and_then(|told| told.method.clone()).ok_or(AskFault::NoMethod)?;
    if is_more_behind_a_fragment(target) {
        return Err(AskFault::BadPath);
    }
    let target = PathAndQuery::try_from(target).map_err(|_| AskFault::BadPath)?;
    Ok(Original { method, target: Uri::from(target), by_envoy })
}

/// A fragment is cut off here, and goes on where the ingress sends the target as it came: a server that does not cut it
/// may find another path in it (`/public#/../private`), or more of the query.
pub(super) fn is_more_behind_a_fragment(target: &[u8]) -> bool {
    let Some(at) = target.iter().position(|b| *b == b'#') else { return false };
    let (before, behind) = target.split_at(at);
    before.contains(&b'?')
        || behind.iter().any(|b| matches!(b, b'/' | b'\\' | b'%' | b';' | b'?' | b'&' | b'='))
}

/// None: `/auth` itself. The query of that is the ingress' own.
fn behind_auth(uri: &Uri) -> Result<Option<&[u8]>, AskFault> {
    let target = uri.path_and_query().map_or("", PathAndQuery::as_str);
    match target.strip_prefix(AUTH).map(str::as_bytes) {
        Some([] | [b'?', ..]) => Ok(None),
        Some(behind @ [b'/', ..]) => Ok(Some(behind)),
        _ => Err(AskFault::NotHere),
    }
}

fn by_nginx(headers: &HeaderMap) -> Result<Told<'_>, AskFault> {
    let (url, uri) = (target(headers, ORIGINAL_URL)?, target(headers, ORIGINAL_URI)?);
    if url.is_some() && uri.is_some() && url != uri {
        return Err(AskFault::Conflict);
    }
    Ok(Told { target: url.or(uri), method: method_in(headers, ORIGINAL_METHOD)? })
}

fn by_forwarded(headers: &HeaderMap) -> Result<Told<'_>, AskFault> {
    once(headers, FORWARDED_HOST)?;
    Ok(Told { target: target(headers, FORWARDED_URI)?, method: method_in(headers, FORWARDED_METHOD)? })
}

fn once<'r>(headers: &'r HeaderMap, name: &'static str) -> Result<Option<&'r [u8]>, AskFault> {
    let mut lines = headers.get_all(name).iter();
    match (lines.next(), lines.next()) {
        (_, Some(_)) => Err(AskFault::Repeated(name)),
        (line, None) => Ok(line.map(http::HeaderValue::as_bytes)),
    }
}

fn method_in(headers: &HeaderMap, name: &'static str) -> Result<Option<Method>, AskFault> {
    let text = once(headers, name)?;
    text.map(|text| Method::from_bytes(text).map_err(|_| AskFault::BadMethod(name))).transpose()
}

fn target<'r>(headers: &'r HeaderMap, name: &'static str) -> Result<Option<&'r [u8]>, AskFault> {
    let text = once(headers, name)?;
    text.map(|text| path_of(text).ok_or(AskFault::BadTarget(name))).transpose()
}

/// The path and query of `/path?query` or `https://host/path?query`. The host is the client's own text: one with a
/// character that a host has not could move the place where the path seems to begin (`Host: h?` before `/cdr` makes
/// `http://h?/cdr`), so there must be nothing but a host before the slash.
fn path_of(text: &[u8]) -> Option<&[u8]> {
    if text.starts_with(b"/") {
        return Some(text);
    }
    let scheme = text.iter().position(|b| *b == b':')?;
    let (scheme, rest) = text.split_at_checked(scheme)?;
    let rest = rest.strip_prefix(b"://")?;
    let slash = rest.iter().position(|b| *b == b'/')?;
    let (host, path) = rest.split_at_checked(slash)?;
    let is_http = [&b"http"[..], b"https"].iter().any(|known| scheme.eq_ignore_ascii_case(known));
    let of_a_host = |b: &u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(b);
    (is_http && !host.is_empty() && host.iter().all(of_a_host)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ask(
        convention: Convention,
        (method, uri): (&str, &str),
        fields: &[(&'static str, &str)],
    ) -> Result<(String, String), AskFault> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        read(convention, &method, &uri.parse().unwrap(), &headers)
            .map(|original| (original.method.to_string(), original.target.to_string()))
    }

    fn any(fields: &[(&'static str, &str)]) -> Result<(String, String), AskFault> {
        ask(Convention::Any, ("GET", "/auth"), fields)
    }

    fn good(method: &str, target: &str) -> Result<(String, String), AskFault> {
        Ok((method.to_owned(), target.to_owned()))
    }

    #[test]
    fn each_convention_tells_method_and_path() {
        let nginx = [("x-original-uri", "/a/../b?q=%2f"), ("x-original-method", "PUT")];
        assert_eq!(any(&nginx), good("PUT", "/a/../b?q=%2f"));
        let url = [("x-original-url", "https://h:8443/a?q"), ("x-original-method", "POST")];
        assert_eq!(any(&url), good("POST", "/a?q"));
        let forwarded =
            [("x-forwarded-uri", "/a"), ("x-forwarded-method", "DELETE"), ("x-forwarded-host", "h")];
        assert_eq!(any(&forwarded), good("DELETE", "/a"));
        assert_eq!(ask(Convention::Any, ("PATCH", "/auth/a?q"), &[]), good("PATCH", "/a?q"));
        assert_eq!(ask(Convention::Any, ("GET", "/auth/"), &[]), good("GET", "/"));
        assert_eq!(ask(Convention::Any, ("GET", "/auth?x=/y"), &nginx), good("PUT", "/a/../b?q=%2f"));
    }

    #[test]
    fn several_conventions_must_agree() {
        let both = [
            ("x-original-uri", "/a"),
            ("x-original-url", "http://h/a"),
            ("x-original-method", "GET"),
            ("x-forwarded-uri", "/a"),
            ("x-forwarded-method", "GET"),
        ];
        assert_eq!(any(&both), good("GET", "/a"));
        assert_eq!(ask(Convention::Any, ("GET", "/auth/a"), &both), good("GET", "/a"));
        for (index, other) in ["/b", "http://h/b", "POST", "/A", "HEAD"].into_iter().enumerate() {
            let mut fields = both;
            fields[index].1 = other;
            assert_eq!(any(&fields), Err(AskFault::Conflict), "{other}");
        }
        assert_eq!(ask(Convention::Any, ("POST", "/auth/a"), &both), Err(AskFault::Conflict));
        assert_eq!(ask(Convention::Any, ("GET", "/auth/b"), &both), Err(AskFault::Conflict));
    }

    #[test]
    fn nothing_is_guessed_from_a_mixture() {
        let uri = ("x-original-uri", "/a");
        assert_eq!(any(&[]), Err(AskFault::NoPath));
        assert_eq!(any(&[uri]), Err(AskFault::NoMethod));
        assert_eq!(any(&[uri, ("x-forwarded-method", "GET")]), Err(AskFault::NoMethod));
        assert_eq!(any(&[("x-original-method", "GET")]), Err(AskFault::NoPath));
        let mixed = [("x-forwarded-uri", "/a"), ("x-original-method", "GET")];
        assert_eq!(any(&mixed), Err(AskFault::NoMethod));
    }

    #[test]
    fn a_header_of_a_convention_stands_once() {
        let pair = [("x-original-uri", "/a"), ("x-original-method", "GET")];
        for twice in [
            ("x-original-uri", "/a"),
            ("x-original-method", "GET"),
            ("x-original-url", "/a"),
            ("x-forwarded-uri", "/a"),
            ("x-forwarded-method", "GET"),
            ("x-forwarded-host", "h"),
        ] {
            let fields = [pair[0], pair[1], twice, twice];
            assert_eq!(any(&fields), Err(AskFault::Repeated(twice.0)));
        }
    }

    #[test]
    fn a_host_cannot_move_the_path() {
        for url in [
            "http://h?/cdr",
            "http://h#/cdr",
            "http://h\\/cdr",
            "http://a@h/cdr",
            "http://h%2f/cdr",
            "http:///cdr",
            "http://h",
            "http://h?q",
            "ftp://h/cdr",
            "h/cdr",
            "//",
            "cdr",
            "*",
            "",
            "?q",
            "#",
        ] {
            let asked = any(&[("x-original-url", url), ("x-original-method", "GET")]);
            let is_path = url.starts_with('/');
            assert_eq!(asked.is_err(), !is_path, "{url}: {asked:?}");
        }
    }

    #[test]
    fn a_chosen_convention_reads_its_own_headers_alone() {
        let nginx = [
            ("x-original-uri", "/a"),
            ("x-original-method", "GET"),
            ("x-forwarded-uri", "/b"),
            ("x-forwarded-uri", "/c"),
            ("x-forwarded-method", "POST"),
        ];
        assert_eq!(ask(Convention::Nginx, ("GET", "/auth"), &nginx), good("GET", "/a"));
        assert_eq!(ask(Convention::Envoy, ("GET", "/auth/d"), &nginx), good("GET", "/d"));
        assert_eq!(ask(Convention::Envoy, ("GET", "/auth"), &nginx), Err(AskFault::NoPath));
        assert_eq!(ask(Convention::Nginx, ("GET", "/auth/a"), &nginx), Err(AskFault::NotHere));
        assert_eq!(ask(Convention::Forwarded, ("GET", "/auth"), &nginx[..2]), Err(AskFault::NoPath));
    }

    #[test]
    fn another_path_is_not_the_authorizers() {
        for uri in ["/", "/authx", "/AUTH", "/x/auth", "/au", "//auth"] {
            assert_eq!(ask(Convention::Any, ("GET", uri), &[]), Err(AskFault::NotHere), "{uri}");
        }
    }

    proptest! {
        /// Whatever the six headers hold, what is answered is what every header that was read says.
        #[test]
        fn an_answer_is_what_all_say(fields in prop::collection::vec(
            (0_usize..6, prop::sample::select(vec!["/a", "/b", "http://h/a", "GET", "POST", "", "x y", "/a?b"])), 0..5))
        {
            const NAMES: [&str; 6] =
                [ORIGINAL_URL, ORIGINAL_URI, ORIGINAL_METHOD, FORWARDED_URI, FORWARDED_METHOD, FORWARDED_HOST];
            let fields: Vec<_> = fields.into_iter().map(|(name, value)| (NAMES[name], value)).collect();
            if let Ok((method, target)) = any(&fields) {
                for (name, value) in fields {
                    match name {
                        FORWARDED_HOST => {}
                        ORIGINAL_METHOD | FORWARDED_METHOD => prop_assert_eq!(value, &method),
                        _ => prop_assert_eq!(value.trim_start_matches("http://h"), &target),
                    }
                }
            }
        }
    }
}
