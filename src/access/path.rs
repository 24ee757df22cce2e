//! The canonical path: the only form of a path that the ACL accepts, and the form that is forwarded (contract
//! section 4, Path). Knows no routes: an encoded slash is only reported here.

use http::Uri;
use http::uri::PathAndQuery;

use super::segment::{self, Inspected};

pub use super::authority::authority_is_host;

/// A path whose meaning two servers could read differently: refused with 400 `Bad path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct BadPath {
    /// For the access log and `explain`.
    pub what: &'static str,
}

const NO_PATH: BadPath = BadPath { what: "no absolute path" };
const CLIMBS: BadPath = BadPath { what: "a dot segment climbs above the root" };
pub(super) const ENCODED_SLASH: BadPath = BadPath { what: "an encoded slash" };

/// See the module. Keeps the client's letter case and a trailing slash.
#[derive(Clone, Debug)]
pub struct CanonicalPath {
    /// As it was sent, its query included: a clone of the request's, which shares its bytes.
    sent: PathAndQuery,
    /// None: the path was canonical as it was sent.
    rewritten: Option<String>,
    encoded_slash: bool,
}

impl CanonicalPath {
    /// Of a request target. Costs no allocation when nothing is to be changed.
    pub fn of(uri: &Uri) -> Result<Self, BadPath> {
        uri.path_and_query().ok_or(NO_PATH).cloned().and_then(Self::of_target)
    }

    /// Of a target's text as `explain` and `replay` have it; a query in it counts as one.
    pub fn parse(target: &str) -> Result<Self, BadPath> {
        PathAndQuery::try_from(target)
            .map_err(|_| BadPath { what: "no request target" })
            .and_then(Self::of_target)
    }

    fn of_target(sent: PathAndQuery) -> Result<Self, BadPath> {
        if is_plain(sent.path()) {
            return Ok(Self { sent, rewritten: None, encoded_slash: false });
        }
        let found = inspect(sent.path())?;
        let rewritten = if found.changes { Some(rewrite(sent.path())?) } else { None };
        Ok(Self { sent, rewritten, encoded_slash: found.encoded_slash })
    }

    /// As it is forwarded. Begins with `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.rewritten.as_deref().unwrap_or_else(|| self.sent.path())
    }

    /// The target as it was sent, query included.
    #[must_use]
    pub fn sent(&self) -> &PathAndQuery {
        &self.sent
    }

    /// Whether a segment holds `%2F`: such a path is good on a route with `encoded_slash` only.
    #[must_use]
    pub fn has_encoded_slash(&self) -> bool {
        self.encoded_slash
    }

    /// As a server reads the path for which dot segments are names like others. None: there are none in it.
    pub(super) fn with_dots_kept(&self) -> Option<Self> {
        let sent = self.sent.path();
        let is_dots = |segment: &str| matches!(segment, "." | "..");
        if self.rewritten.is_none() || !sent.split('/').any(is_dots) {
            return None;
        }
        let mut kept = String::with_capacity(sent.len());
        for segment in sent.split('/').filter(|segment| !segment.is_empty()) {
            kept.push('/');
            if is_dots(segment) {
                kept.push_str(segment);
            } else {
                segment::write_canonical(segment, &mut kept);
            }
        }
        Some(Self { rewritten: Some(kept), ..self.clone() })
    }

    /// The segments joined by `/`, without the slashes at either end: what routes are looked up by.
    pub(super) fn inner(&self) -> &str {
        inner(self.as_str())
    }

    /// The bytes that the first `count` segments take, each with the slash before it.
    pub(super) fn bytes_of_segments(&self, count: usize) -> usize {
        self.inner().split('/').take(count).map(|s| s.len() + 1).sum()
    }
}

pub(super) fn inner(path: &str) -> &str {
    let path = path.strip_prefix('/').unwrap_or(path);
    path.strip_suffix('/').unwrap_or(path)
}

/// Whether a path is canonical at first sight: no escape, no odd byte, no empty segment and none with a dot in front.
fn is_plain(path: &str) -> bool {
    let mut after_slash = false;
    for &b in path.as_bytes() {
        let odd = !PLAIN[usize::from(b)] || (after_slash && matches!(b, b'/' | b'.'));
        if odd {
            return false;
        }
        after_slash = b == b'/';
    }
    path.starts_with('/')
}

/// Visible ASCII but for `%` and what is refused. Characters that should be percent-encoded and are not (`"{}|^`)
/// stay as they came: backends take them so.
const PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut b = 0x21;
    while b < 0x7f {
        table[b] = !matches!(b as u8, b'%' | b'\\' | b';' | b'?' | b'#');
        b += 1;
    }
    table
};

/// Judges all segments before anything is resolved, so that what a `..` takes away is judged too.
fn inspect(path: &str) -> Result<Inspected, BadPath> {
    let mut segments = path.strip_prefix('/').ok_or(NO_PATH)?.split('/').peekable();
    let mut all = Inspected::default();
    while let Some(segment) = segments.next() {
        match segment {
            "." | ".." => all.changes = true,
            "" => all.changes |= segments.peek().is_some(),
            _ => {
                let found = segment::inspect(segment)?;
                all.changes |= found.changes;
                all.encoded_slash |= found.encoded_slash;
            }
        }
    }
    Ok(all)
}

/// Decodes unreserved characters, merges slashes and resolves dot segments as RFC 3986 section 5.2.4 does (a path that
/// ends in one is a directory and keeps its slash: `/a/b/..` is `/a/`). Slashes are merged first, as nginx does:
/// `/public//../admin` is `/admin`. Other than in the RFC, climbing above the root is an error.
fn rewrite(path: &str) -> Result<String, BadPath> {
    let mut out = String::with_capacity(path.len());
    for segment in path.strip_prefix('/').ok_or(NO_PATH)?.split('/') {
        match segment {
            "" | "." => {}
            ".." => take_back(&mut out)?,
            _ => {
                out.push('/');
                segment::write_canonical(segment, &mut out);
            }
        }
    }
    if ["/", "/.", "/.."].iter().any(|end| path.ends_with(end)) {
        out.push('/');
    }
    Ok(out)
}

/// Removes the last segment. One with an encoded slash is none to a server that decodes first: it would take back
/// only a part of it.
fn take_back(out: &mut String) -> Result<(), BadPath> {
    let at = out.rfind('/').ok_or(CLIMBS)?;
    let taken = out.get(at..).unwrap_or_default();
    if taken.contains("%2F") || taken.contains("%2f") {
        return Err(ENCODED_SLASH);
    }
    out.truncate(at);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::segment::{
        BACKSLASH, BAD_ESCAPE, CONTROL, DELIMITER, DOUBLE, ENCODED_DOTS, NOT_UTF8, PARAMETERS, RAW_BYTE,
    };
    use proptest::prelude::*;

    fn of(path: &str) -> Result<String, BadPath> {
        CanonicalPath::of(&path.parse().unwrap()).map(|p| p.as_str().to_owned())
    }

    #[test]
    fn a_canonical_path_stays_as_it_is_and_is_not_copied() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/A/b.c/~d-e_f",
            "/a..b",
            "/a./b",
            "/a/...",
            "/.well-known/x",
            "/a%20b",
            "/a%2fb",
            "/a%2Fb",
            "/%C3%BC",
            "/%c3%bc",
            "/%e2%82%AC/%F0%9F%8D%95",
            "/a@b:c,d=e+f!$&'()*",
            "/\"{x}|^[]",
            "/%25",
            "/a%25z",
            "/a%254",
            "/100%25/a",
            "/%40",
            "/..a",
            "/a/.b",
        ] {
            let canonical = CanonicalPath::of(&path.parse().unwrap()).unwrap();
            assert_eq!(canonical.as_str(), path);
            assert!(canonical.rewritten.is_none(), "{path} was copied");
        }
    }

    #[test]
    fn a_path_is_normalised() {
        for (sent, canonical) in [
            ("/%61%5A%30%2d%2E%5f%7e", "/aZ0-._~"),
            ("/%6cogin", "/login"),
            ("//a///b//", "/a/b/"),
            ("//", "/"),
            ("/./a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/a/b/../", "/a/"),
            ("/.", "/"),
            ("/a/b/c/../../d", "/a/d"),
            ("/a//../b", "/b"),
            ("/public//../admin", "/admin"),
            ("/api/v2/x/../accounts//own", "/api/v2/accounts/own"),
            ("/a%2e", "/a."),
            ("/%2e%2e%2e", "/..."),
            ("http://h/%61/../b?x", "/b"),
            ("http://h", "/"),
            ("http://h?x=/y", "/"),
        ] {
            assert_eq!(of(sent).as_deref(), Ok(canonical), "{sent}");
        }
    }

    #[test]
    fn what_two_servers_could_read_differently_is_refused() {
        for (sent, why) in [
            ("/a\\b", BACKSLASH),
            ("/a%5Cb", BACKSLASH),
            ("/..%5c..%5cb", BACKSLASH),
            ("/a;b", PARAMETERS),
            ("/a;/b", PARAMETERS),
            ("/..;/b", PARAMETERS),
            ("/a%3bb", PARAMETERS),
            ("/a%3Fb", DELIMITER),
            ("/a%23b", DELIMITER),
            ("/a%00", CONTROL),
            ("/a%0d%0a", CONTROL),
            ("/a%7F", CONTROL),
            ("/a%C2%85", CONTROL),
            ("/%2e", ENCODED_DOTS),
            ("/a/%2e%2E/b", ENCODED_DOTS),
            ("/a/.%2e/b", ENCODED_DOTS),
            ("/a/%2E./b", ENCODED_DOTS),
            ("/a%2F..%2Fb", ENCODED_DOTS),
            ("/a%252e", DOUBLE),
            ("/a%252F", DOUBLE),
            ("/a%2525", DOUBLE),
            ("/a%25%32%66", DOUBLE),
            ("/a%25%32f", DOUBLE),
            ("/a%2", BAD_ESCAPE),
            ("/a%", BAD_ESCAPE),
            ("/a%zz", BAD_ESCAPE),
            ("/a%%32%65", BAD_ESCAPE),
            ("/a%u002f", BAD_ESCAPE),
            ("/%ff", NOT_UTF8),
            ("/%c0%af", NOT_UTF8),
            ("/%c0%2f", NOT_UTF8),
            ("/%e0%80%af", NOT_UTF8),
            ("/%ed%a0%80", NOT_UTF8),
            ("/%c3", NOT_UTF8),
            ("/%c3a", NOT_UTF8),
            ("/%f4%90%80%80", NOT_UTF8),
            ("/\u{fc}", RAW_BYTE),
            ("/a/%5c/..", BACKSLASH),
            ("/..", CLIMBS),
            ("/../a", CLIMBS),
            ("/a/../../b", CLIMBS),
            ("/a/../..", CLIMBS),
            ("//..", CLIMBS),
            ("/a%2Fb/../c", ENCODED_SLASH),
            ("/a%2fb//./..", ENCODED_SLASH),
            ("*", NO_PATH),
            ("example.org:443", NO_PATH),
        ] {
            assert_eq!(of(sent), Err(why), "{sent}");
        }
    }

    #[test]
    fn a_fragment_is_cut_off_and_an_encoded_slash_reported() {
        assert_eq!(of("/a#/../b").as_deref(), Ok("/a"));
        assert!(CanonicalPath::parse("/a%2Fb").unwrap().has_encoded_slash());
        assert!(!CanonicalPath::parse("/a/b").unwrap().has_encoded_slash());
    }

    #[test]
    fn segments_are_counted_in_bytes_of_the_canonical_path() {
        let path = CanonicalPath::parse("//engine/%61pi/x/").unwrap();
        let cut = |n| path.as_str().get(path.bytes_of_segments(n)..).unwrap();
        assert_eq!((cut(0), cut(1), cut(2), cut(3)), ("/engine/api/x/", "/api/x/", "/x/", "/"));
    }

    /// Paths made of the pieces that matter.
    fn hostile() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "/", "/", "a", "B", ".", "..", "%2e", "%2E", "%2f", "%25", "%32", "%61", "%5c", ";", "\\", "%",
            "%C3", "%BC", "%00", "~", "{", "é", "2e", "%ff", "*",
        ]);
        prop::collection::vec(piece, 0..12).prop_map(|p| format!("/{}", p.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn canonical_is_canonical(path in hostile()) {
            if let Ok(once) = of(&path) {
                prop_assert_eq!(of(&once), Ok(once.clone()));
                let lower = once.to_ascii_lowercase();
                prop_assert!(once.starts_with('/') && once.is_ascii());
                for bad in ["//", "/./", "/../", "%2e", "%5c", "\\", ";"] {
                    prop_assert!(!lower.contains(bad), "{} in {}", bad, once);
                }
                prop_assert!(!once.ends_with("/.") && !once.ends_with("/.."));
            }
        }

        #[test]
        fn whatever_a_uri_takes_is_judged_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(uri) = Uri::try_from(&bytes[..]) {
                let _ = CanonicalPath::of(&uri);
            }
        }
    }
}
