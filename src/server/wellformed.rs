//! Requests that hyper takes and contract section 4 does not: ambiguous in their length, their host or what they expect. The handler
//! asks [`framing_fault`] first of all, answers 400 and closes the connection.
//!
//! hyper itself refuses: a length that is no number or given twice with two values, `Transfer-Encoding` in HTTP/1.0
//! or without `chunked` at its end, a space before the colon, folded lines, NUL and bare CR. What it hides or takes
//! though it is ambiguous is found by `server::framing`, and marked on the request.

use http::header::{CONTENT_LENGTH, EXPECT, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request, Version};

use crate::host;

/// An extension of a request whose bytes said more about its length than its headers do now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Misframed;

/// The fault of a request whose `Host` names nothing.
pub const NO_HOST: &str = "Host is no host";

/// What is wrong with the request's framing, host or expectation; none for a good one.
#[must_use]
pub fn framing_fault<B>(request: &Request<B>) -> Option<&'static str> {
    if request.extensions().get::<Misframed>().is_some() {
        return Some("A line ends without CR, or the length is told twice or in two ways");
    }
    let told = Told::of(request.headers());
    if told.is_padded {
        return Some("A field's value begins or ends with a blank");
    }
    length_fault(request.version(), &told)
        .or_else(|| host_fault(request, told.host))
        .or_else(|| expectation_fault(told.expectation?))
}

/// What is judged here, found in one pass: to hash four names would cost more than the few fields of most requests.
#[derive(Default)]
struct Told<'h> {
    host: Option<Single<'h>>,
    length: Option<Single<'h>>,
    coding: Option<Single<'h>>,
    expectation: Option<Single<'h>>,
    /// RFC 9113 section 8.2.1; in HTTP/1.1 blanks around a value are none of it.
    is_padded: bool,
}

impl<'h> Told<'h> {
    fn of(headers: &'h HeaderMap) -> Self {
        let mut told = Self::default();
        for (name, value) in headers {
            if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value.as_bytes() {
                told.is_padded = true;
            }
            let place = match name {
                _ if name == HOST => &mut told.host,
                _ if name == CONTENT_LENGTH => &mut told.length,
                _ if name == TRANSFER_ENCODING => &mut told.coding,
                _ if name == EXPECT => &mut told.expectation,
                _ => continue,
            };
            *place = Some(if place.is_some() { Single::Several } else { Single::One(value) });
        }
        told
    }
}

/// RFC 9112 sections 6.1 and 6.3. Only `chunked`, alone: any other coding would have to be undone by us.
fn length_fault(version: Version, told: &Told<'_>) -> Option<&'static str> {
    if let Some(Single::Several) = told.length {
        return Some("Content-Length is given twice");
    }
    match told.coding? {
        _ if version != Version::HTTP_11 => Some("Transfer-Encoding is for HTTP/1.1 only"),
        _ if told.length.is_some() => Some("both Content-Length and Transfer-Encoding"),
        Single::One(coding) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => None,
        Single::One(_) | Single::Several => Some("Transfer-Encoding is not chunked"),
    }
}

/// RFC 9112 section 3.2: exactly one Host in HTTP/1.1. RFC 9113 section 8.3.1: in HTTP/2 a Host must not differ from
/// `:authority`, and one of them must be there.
fn host_fault<B>(request: &Request<B>, host: Option<Single<'_>>) -> Option<&'static str> {
    match (request.version(), host) {
        (_, Some(Single::Several)) => Some("Host is given twice"),
        (_, Some(Single::One(host))) if host::split(host.as_bytes()).is_none() => Some(NO_HOST),
        (Version::HTTP_11, None) => Some("Host is missing"),
        (Version::HTTP_2, host) => authority_fault(request.uri().authority(), host),
        (_, Some(Single::One(_)) | None) => None,
    }
}

/// Of expectations only one is known (RFC 9110 section 10.1.1). Of servers that read another spelling of it one waits
/// for the body, and the next takes what follows for a request.
fn expectation_fault(expectation: Single<'_>) -> Option<&'static str> {
    match expectation {
        Single::One(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => None,
        Single::One(_) | Single::Several => Some("Expect is not 100-continue"),
    }
}

fn authority_fault(
    authority: Option<&http::uri::Authority>,
    host: Option<Single<'_>>,
) -> Option<&'static str> {
    match (authority, host) {
        (Some(authority), Some(Single::One(host)))
            if !host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            Some("Host differs from :authority")
        }
        (None, None) => Some(":authority is missing"),
        (Some(_) | None, _) => None,
    }
}

#[derive(Clone, Copy)]
enum Single<'h> {
    One(&'h HeaderValue),
    Several,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(version: Version, uri: &str, headers: &[(&str, &str)]) -> Option<&'static str> {
        let request =
            headers.iter().fold(http::Request::builder().version(version).uri(uri), |r, (name, value)| {
                r.header(*name, *value)
            });
        framing_fault(&request.body(()).unwrap())
    }

    #[test]
    fn good_requests_pass() {
        let h1 = |headers: &[(&str, &str)]| fault(Version::HTTP_11, "/", headers);
        assert_eq!(h1(&[("host", "a")]), None);
        assert_eq!(h1(&[("host", "a"), ("content-length", "1")]), None);
        assert_eq!(h1(&[("host", "a"), ("transfer-encoding", "Chunked")]), None);
        assert_eq!(fault(Version::HTTP_10, "/", &[]), None);
        assert_eq!(fault(Version::HTTP_2, "https://A.example/", &[("host", "a.EXAMPLE")]), None);
        assert_eq!(fault(Version::HTTP_2, "/", &[("host", "a")]), None);
    }

    #[test]
    fn ambiguous_lengths_are_refused() {
        for headers in [
            &[("content-length", "1"), ("content-length", "1")][..],
            &[("content-length", "1"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "chunked, chunked")],
            &[("transfer-encoding", "identity")],
        ] {
            let mut all = vec![("host", "a")];
            all.extend(headers);
            assert!(fault(Version::HTTP_11, "/", &all).is_some(), "{headers:?}");
        }
        assert!(fault(Version::HTTP_10, "/", &[("transfer-encoding", "chunked")]).is_some());
        assert!(fault(Version::HTTP_2, "https://a/", &[("transfer-encoding", "chunked")]).is_some());
    }

    #[test]
    fn another_expectation_is_refused() {
        let expecting = |values: &[&str]| {
            let headers: Vec<_> = values.iter().map(|value| ("expect", *value)).collect();
            fault(Version::HTTP_11, "/", &[&[("host", "a")], headers.as_slice()].concat())
        };
        assert_eq!(expecting(&["100-Continue"]), None);
        for values in
            [&["x 100-continue"][..], &["100-continue, x"], &["100-continue", "100-continue"], &[""]]
        {
            assert!(expecting(values).is_some(), "{values:?}");
        }
    }

    #[test]
    fn a_padded_value_is_refused() {
        for value in [" x", "x ", "\tx", "x\t", " "] {
            assert!(fault(Version::HTTP_2, "https://a/", &[("x-a", value)]).is_some(), "{value:?}");
        }
        assert_eq!(fault(Version::HTTP_2, "https://a/", &[("x-a", ""), ("x-b", "x y")]), None);
    }

    #[test]
    fn an_ambiguous_host_is_refused() {
        assert!(fault(Version::HTTP_11, "/", &[]).is_some());
        assert!(fault(Version::HTTP_11, "/", &[("host", "a"), ("host", "a")]).is_some());
        assert!(fault(Version::HTTP_2, "https://a/", &[("host", "b")]).is_some());
        assert!(fault(Version::HTTP_2, "https://a/", &[("host", "a"), ("host", "a")]).is_some());
        assert!(fault(Version::HTTP_2, "/", &[]).is_some());
    }
}
