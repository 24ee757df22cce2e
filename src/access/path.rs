//! The canonical path: the only form of a path that the ACL accepts, and the form that is forwarded, so that the
//! upstream decides on what the gateway decided on (contract section 4, Path).
//!
//! The one place that reads paths. What two servers could read differently is refused, never repaired.

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

/// A path whose meaning two servers could read differently: refused with 400 `Bad path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct BadPath {
    /// For the log and `explain`.
    pub what: &'static str,
}

/// See the module. Keeps the client's letter case and a trailing slash.
#[derive(Clone, Debug)]
pub struct CanonicalPath {
    sent: PathAndQuery,
    /// None: as it was sent.
    rewritten: Option<Box<str>>,
    encoded_slash: bool,
}

impl CanonicalPath {
    /// Of a request target. Costs no allocation when nothing is to be changed.
    ///
    /// # Errors
    /// Everything that contract section 4 lists, and targets without a path (`*`, authority-form).
    pub fn of(uri: &Uri) -> Result<Self, BadPath> {
        let sent = uri.path_and_query().ok_or(BadPath { what: "no path" })?.clone();
        let Reading { rewritten, encoded_slash } = read(sent.path())?;
        Ok(Self { sent, rewritten: rewritten.map(String::into_boxed_str), encoded_slash })
    }

    /// As it is forwarded.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.rewritten.as_deref().unwrap_or_else(|| self.sent.path())
    }

    /// The target as it was sent, query included.
    #[must_use]
    pub fn sent(&self) -> &PathAndQuery {
        &self.sent
    }

    /// Whether a segment holds a `%2F`: only a route with `encoded_slash = true` lets it through.
    #[must_use]
    pub fn has_encoded_slash(&self) -> bool {
        self.encoded_slash
    }

    /// Whether this path is `literal` (no trailing slash), as routes are compared.
    #[must_use]
    pub fn is(&self, literal: &str, case_sensitive: bool) -> bool {
        let path = self.as_str();
        let path = path.strip_suffix('/').unwrap_or(path);
        if case_sensitive { path == literal } else { path.eq_ignore_ascii_case(literal) }
    }
}

/// The segments of a canonical path or of a route's path; a trailing slash makes none.
pub(super) fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

/// Whether an absolute-form target names the Host it is sent to (RFC 9112 section 3.2.2). True without an authority,
/// and for HTTP/2, where `:authority` stands in for an absent Host.
#[must_use]
pub fn authority_is_host(uri: &Uri, host: Option<&[u8]>) -> bool {
    let (Some(authority), Some(host)) = (uri.authority(), host) else { return true };
    let Ok(host) = Authority::try_from(host) else { return false };
    let default = match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => Some(80),
        Some(scheme) if *scheme == Scheme::HTTPS => Some(443),
        _ => None,
    };
    let port = |a: &Authority| a.port_u16().or(default);
    let plain = |a: &Authority| !a.as_str().contains('@');
    plain(authority)
        && plain(&host)
        && authority.host().eq_ignore_ascii_case(host.host())
        && port(authority) == port(&host)
}

struct Reading {
    rewritten: Option<String>,
    encoded_slash: bool,
}

const AS_SENT: Reading = Reading { rewritten: None, encoded_slash: false };

fn read(path: &str) -> Result<Reading, BadPath> {
    if !path.starts_with('/') {
        return Err(BadPath { what: "the target does not begin with a slash" });
    }
    if is_plain(path.as_bytes()) {
        return Ok(AS_SENT);
    }
    rewrite(path)
}

/// Whether the path is canonical already and needs no closer look: only characters that stand for themselves, no
/// empty segment and none that begins with a dot. Most paths end here.
fn is_plain(path: &[u8]) -> bool {
    let mut after_slash = false;
    for &byte in path {
        match byte {
            b'/' if after_slash => return false,
            b'/' => after_slash = true,
            b'.' if after_slash => return false,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'@' | b':' => {
                after_slash = false
            }
            _ => return false,
        }
    }
    true
}

fn rewrite(path: &str) -> Result<Reading, BadPath> {
    let mut kept: Vec<Segment> = Vec::new();
    let mut ends_in_folder = false;
    for raw in path.split('/').skip(1) {
        let segment = Segment::read(raw)?;
        ends_in_folder = matches!(segment.text.as_str(), "" | "." | "..");
        match segment.text.as_str() {
            "" | "." => {}
            ".." => match kept.pop() {
                Some(Segment { encoded_slash: false, .. }) => {}
                // Whoever decodes the slash first takes back another segment.
                Some(_) => return Err(BadPath { what: "a dot segment behind an encoded slash" }),
                None => return Err(BadPath { what: "a dot segment climbs above the root" }),
            },
            _ => kept.push(segment),
        }
    }
    let mut canonical = String::with_capacity(path.len());
    for segment in &kept {
        canonical.push('/');
        canonical.push_str(&segment.text);
    }
    // RFC 3986 section 5.2.4: what ends in a dot segment names a folder, so `/a/b/..` is `/a/`.
    if ends_in_folder || kept.is_empty() {
        canonical.push('/');
    }
    let encoded_slash = kept.iter().any(|segment| segment.encoded_slash);
    Ok(Reading { rewritten: (canonical != path).then_some(canonical), encoded_slash })
}

/// One segment: percent-encoded unreserved characters decoded, everything else as sent.
struct Segment {
    text: String,
    encoded_slash: bool,
}

impl Segment {
    fn read(raw: &str) -> Result<Self, BadPath> {
        let mut text = String::with_capacity(raw.len());
        let mut decoded = Vec::with_capacity(raw.len());
        let (mut encoded_slash, mut encoded_dot) = (false, false);
        let mut rest = raw;
        while let Some(c) = rest.chars().next() {
            let Some(byte) = percent(rest)? else {
                check_raw(c)?;
                text.push(c);
                decoded.push(u8::try_from(c).unwrap_or(b'?'));
                rest = &rest[c.len_utf8()..];
                continue;
            };
            check_encoded(byte)?;
            encoded_slash |= byte == b'/';
            encoded_dot |= byte == b'.';
            decoded.push(byte);
            if is_unreserved(byte) {
                text.push(char::from(byte))
            } else {
                text.push_str(&rest[..3])
            }
            rest = &rest[3..];
        }
        let segment = Self { text, encoded_slash };
        segment.check(&decoded, encoded_dot)?;
        Ok(segment)
    }

    fn check(&self, decoded: &[u8], encoded_dot: bool) -> Result<(), BadPath> {
        if std::str::from_utf8(decoded).is_err() {
            return Err(BadPath { what: "percent-encoded bytes that are no UTF-8" });
        }
        if encodes_twice(&self.text) {
            return Err(BadPath { what: "a doubly encoded character" });
        }
        let is_dots = |piece: &[u8]| matches!(piece, b"." | b"..");
        if encoded_dot && is_dots(decoded) {
            return Err(BadPath { what: "an encoded dot segment" });
        }
        if self.encoded_slash && decoded.split(|b| *b == b'/').any(is_dots) {
            return Err(BadPath { what: "a dot segment behind an encoded slash" });
        }
        Ok(())
    }
}

/// The byte of a percent-encoding at the beginning of `text`; none when it begins otherwise.
fn percent(text: &str) -> Result<Option<u8>, BadPath> {
    match text.as_bytes() {
        [b'%', high, low, ..] => {
            let byte = hex(*high).zip(hex(*low)).map(|(high, low)| high << 4 | low);
            byte.map(Some).ok_or(BadPath { what: "an invalid percent-encoding" })
        }
        [b'%', ..] => Err(BadPath { what: "a percent-encoding that is cut off" }),
        _ => Ok(None),
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|d| u8::try_from(d).ok())
}

fn check_raw(c: char) -> Result<(), BadPath> {
    let what = match c {
        '\\' => "a backslash",
        ';' => "parameters in a segment",
        c if !c.is_ascii() => "a character outside ASCII",
        c if c.is_ascii_control() || c == ' ' => "a control character or blank",
        _ => return Ok(()),
    };
    Err(BadPath { what })
}

fn check_encoded(byte: u8) -> Result<(), BadPath> {
    let what = match byte {
        b'\\' => "an encoded backslash",
        b';' => "an encoded semicolon",
        b'?' => "an encoded question mark",
        b'#' => "an encoded number sign",
        byte if byte.is_ascii_control() => "an encoded control character",
        _ => return Ok(()),
    };
    Err(BadPath { what })
}

/// RFC 3986 section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `%25` before two hexadecimal digits, looked for once unreserved characters are decoded (`%25%32%65` too).
fn encodes_twice(text: &str) -> bool {
    text.as_bytes().windows(5).any(|w| w.starts_with(b"%25") && w.iter().skip(3).all(u8::is_ascii_hexdigit))
}

/// Decodes a canonical segment. Canonical segments decode to UTF-8, so nothing is lost.
pub(super) fn decode(segment: &str) -> std::borrow::Cow<'_, str> {
    percent_encoding::percent_decode_str(segment).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(target: &str) -> Result<String, BadPath> {
        let uri: Uri = target.parse().unwrap();
        CanonicalPath::of(&uri).map(|path| path.as_str().to_owned())
    }

    #[test]
    fn what_needs_no_change_is_kept_as_it_is() {
        for path in [
            "/",
            "/a",
            "/a/",
            "/api/v2/CDR/100@d.com",
            "/a.b/-_~:",
            "/.well-known/x",
            "/...",
            "/a%20b",
            "/%C3%a9",
            "/{x}|^",
        ] {
            assert_eq!(canonical(path).as_deref(), Ok(path));
        }
    }

    #[test]
    fn unreserved_characters_are_decoded_slashes_merged_dots_resolved() {
        for (path, expected) in [
            ("/%61pi/%7Ex", "/api/~x"),
            ("//a///b//", "/a/b/"),
            ("/a/./b/../c", "/a/c"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/..a/b..", "/..a/b.."),
            ("/a%2eb", "/a.b"),
            ("/a/../", "/"),
            ("/a?x=/../", "/a"),
            ("/a#/b", "/a"),
        ] {
            assert_eq!(canonical(path).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn what_could_be_read_differently_is_refused() {
        for path in [
            "/a%5cb",
            "/a%3Bb",
            "/a%3fb",
            "/a%23b",
            "/a%00b",
            "/a%0ab",
            "/a%7fb",
            "/%2e/a",
            "/a/%2E%2e/b",
            "/a/.%2e",
            "/%252e",
            "/%25%32%65",
            "/a%252fb",
            "/a\\b",
            "/a;x",
            "/a%",
            "/a%2",
            "/a%zz",
            "/%ff",
            "/%c0%af",
            "/%ed%a0%80",
            "/..",
            "/a/../..",
            "*",
        ] {
            assert!(canonical(path).is_err(), "{path}");
        }
        let raw = Uri::try_from("/caf\u{e9}".as_bytes());
        assert!(raw.map_or(true, |uri| CanonicalPath::of(&uri).is_err()));
    }

    #[test]
    fn a_percent_sign_before_anything_but_hex_is_no_double_encoding() {
        for path in ["/100%25", "/100%25-x", "/%25zz"] {
            assert_eq!(canonical(path).as_deref(), Ok(path));
        }
    }

    #[test]
    fn an_encoded_slash_is_kept_and_told_unless_it_hides_a_dot_segment() {
        let uri: Uri = "/enc/a%2Fb%2fc".parse().unwrap();
        let path = CanonicalPath::of(&uri).unwrap();
        assert!(path.has_encoded_slash());
        assert_eq!(path.as_str(), "/enc/a%2Fb%2fc");
        for bad in
            ["/a%2f..%2fb", "/a%2Fb/../c", "/%2f//..//", "/a%2F.", "/..%2fa", "/%2e%2e%2fa", "/a%2f%2e"]
        {
            assert!(canonical(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_are_compared_without_regard_to_case_and_a_trailing_slash() {
        let path = |text: &str| CanonicalPath::of(&text.parse().unwrap()).unwrap();
        assert!(path("/LogIn/").is("/login", false) && path("//x/..//login").is("/login", false));
        assert!(!path("/login/x").is("/login", false) && !path("/Login").is("/login", true));
    }

    #[test]
    fn an_absolute_form_target_names_its_host() {
        let check = |target: &str, host: Option<&str>| {
            authority_is_host(&target.parse().unwrap(), host.map(str::as_bytes))
        };
        assert!(
            check("/a", Some("x"))
                && check("http://a.example/x", Some("A.example:80"))
                && check("https://a/x", None)
        );
        for (target, host) in [
            ("http://a/x", "b"),
            ("http://a:81/x", "a"),
            ("http://u@a/x", "a"),
            ("http://a/x", "a@a"),
            ("https://a/", "a:80"),
        ] {
            assert!(!check(target, Some(host)), "{target} {host}");
        }
    }

    proptest! {
        #[test]
        fn canonical_paths_are_fixed_points_without_anything_to_resolve(
            path in "(/|[a-zA-Z0-9._~@%;\\\\-]|%[0-9a-fA-F]{2}|\\.\\.|//){0,24}"
        ) {
            let Ok(uri) = format!("/{path}").parse::<Uri>() else { return Ok(()) };
            let Ok(first) = CanonicalPath::of(&uri) else { return Ok(()) };
            let text = first.as_str();
            prop_assert!(text.starts_with('/') && !text.contains("//") && !text.contains('\\') && !text.contains(';'));
            prop_assert!(segments(text).all(|s| s != "." && s != ".."));
            let again = CanonicalPath::of(&text.parse().unwrap()).unwrap();
            prop_assert_eq!(again.as_str(), text);
            prop_assert_eq!(again.has_encoded_slash(), first.has_encoded_slash());
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..48)) {
            let mut target = b"/".to_vec();
            target.extend(bytes);
            if let Ok(uri) = Uri::try_from(target) {
                let _ = CanonicalPath::of(&uri);
            }
        }
    }
}
