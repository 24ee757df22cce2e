//! Requests whose meaning is not certain: refused with 400, and the connection closes (RFC 9112 sections 3.2, 6.3).

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderValue, Version};

/// What is wrong with the framing or the Host of a request that hyper has taken; none: nothing.
#[must_use]
pub fn framing_fault(parts: &Parts) -> Option<&'static str> {
    let many = |name| parts.headers.get_all(name).iter().count();
    if many(HOST) > 1 {
        return Some("More than one Host");
    }
    match parts.version {
        Version::HTTP_2 => None,
        Version::HTTP_11 if many(HOST) == 0 => Some("No Host"),
        _ => length_fault(parts),
    }
}

fn length_fault(parts: &Parts) -> Option<&'static str> {
    let mut codings = parts.headers.get_all(TRANSFER_ENCODING).iter();
    let lengths = parts.headers.get_all(CONTENT_LENGTH).iter().count();
    match (codings.next(), codings.next()) {
        (None, _) if lengths > 1 => Some("More than one Content-Length"),
        (None, _) => None,
        (Some(_), _) if lengths > 0 => Some("Both Content-Length and Transfer-Encoding"),
        (Some(coding), None) if is_chunked(coding) => None,
        (Some(_), _) => Some("A Transfer-Encoding other than chunked"),
    }
}

fn is_chunked(coding: &HeaderValue) -> bool {
    coding.as_bytes().eq_ignore_ascii_case(b"chunked")
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn fault(version: Version, headers: &[(&str, &str)]) -> Option<&'static str> {
        let mut request = Request::builder().version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        framing_fault(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn one_host_and_one_length_are_right_and_anything_more_is_not() {
        let h1 = |headers: &[(&str, &str)]| fault(Version::HTTP_11, headers);
        assert_eq!(h1(&[("host", "a")]), None);
        assert_eq!(h1(&[("host", "a"), ("content-length", "1")]), None);
        assert_eq!(h1(&[("host", "a"), ("transfer-encoding", "Chunked")]), None);
        assert_eq!(fault(Version::HTTP_2, &[]), None);
        for headers in [
            &[][..],
            &[("host", "a"), ("host", "a")],
            &[("host", "a"), ("transfer-encoding", "gzip, chunked")],
            &[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("host", "a"), ("transfer-encoding", "chunked"), ("content-length", "1")],
            &[("host", "a"), ("content-length", "1"), ("content-length", "1")],
        ] {
            assert!(h1(headers).is_some(), "{headers:?}");
        }
    }
}
