//! The head of an upstream's answer, read strictly: what could be delimited in two ways is broken (RFC 9112 section 6.3).

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

/// The largest head that is taken.
pub const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;

/// How the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// See the module.
#[derive(Debug)]
pub struct Head {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub framing: Framing,
    /// Whether the connection can carry another request after this answer.
    pub keeps: bool,
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub &'static str);

/// Takes a head off the front of `bytes`; none: more bytes are needed.
pub fn take_head(bytes: &mut BytesMut, method: &Method) -> Result<Option<Head>, Malformed> {
    let mut parsed = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut parsed);
    let end = match response.parse(bytes) {
        Ok(httparse::Status::Complete(end)) if end <= MAX_HEAD => end,
        Ok(httparse::Status::Partial) if bytes.len() <= MAX_HEAD => return Ok(None),
        Ok(_) => return Err(Malformed("a head that is too large")),
        Err(_) => return Err(Malformed("no HTTP/1.1 head")),
    };
    let status =
        response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed("no status"))?;
    let old = response.version == Some(0);
    let spans: Vec<(HeaderName, usize, usize)> =
        response.headers.iter().map(|h| span(bytes, h)).collect::<Result<_, _>>()?;
    let head = bytes.split_to(end).freeze();
    let mut headers = HeaderMap::with_capacity(spans.len());
    for (name, from, to) in spans {
        let value =
            HeaderValue::from_maybe_shared(head.slice(from..to)).map_err(|_| Malformed("a header value"))?;
        headers.append(name, value);
    }
    let framing = framing(&headers, status, method)?;
    let keeps = !old && !closes(&headers) && framing != Framing::UntilClose;
    Ok(Some(Head { status, headers, framing, keeps }))
}

/// A header's name and where its value stands in the buffer.
fn span(bytes: &[u8], header: &httparse::Header<'_>) -> Result<(HeaderName, usize, usize), Malformed> {
    let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| Malformed("a header name"))?;
    let from = (header.value.as_ptr() as usize).saturating_sub(bytes.as_ptr() as usize);
    Ok((name, from, from + header.value.len()))
}

fn framing(headers: &HeaderMap, status: StatusCode, method: &Method) -> Result<Framing, Malformed> {
    let coding = single(headers, &TRANSFER_ENCODING)?;
    let length = single(headers, &CONTENT_LENGTH)?.map(length).transpose()?;
    if coding.is_some() && length.is_some() {
        return Err(Malformed("both Content-Length and Transfer-Encoding"));
    }
    let chunked = coding.map(|c| c.as_bytes().eq_ignore_ascii_case(b"chunked"));
    if chunked == Some(false) {
        return Err(Malformed("a Transfer-Encoding other than chunked"));
    }
    let no_body = *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    Ok(match (no_body, chunked, length) {
        (true, _, _) => Framing::None,
        (false, Some(_), _) => Framing::Chunked,
        (false, None, Some(n)) => Framing::Length(n),
        (false, None, None) => Framing::UntilClose,
    })
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, Malformed> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Malformed("its length is given more than once"));
    }
    Ok(first)
}

fn length(value: &HeaderValue) -> Result<u64, Malformed> {
    let digits = value.as_bytes();
    let text = std::str::from_utf8(digits)
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    text.and_then(|text| text.parse().ok()).ok_or(Malformed("a Content-Length that is no number"))
}

fn closes(headers: &HeaderMap) -> bool {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|option| option.trim().eq_ignore_ascii_case("close"))
}

/// For fuzzing and tests: reads a head from a whole buffer.
pub fn read(bytes: &Bytes, method: &Method) -> Result<Option<Head>, Malformed> {
    take_head(&mut BytesMut::from(&bytes[..]), method)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn head(lines: &str) -> Result<Option<Head>, Malformed> {
        read(&Bytes::from(format!("HTTP/1.1 {lines}\r\n\r\n")), &Method::GET)
    }

    fn framed(lines: &str) -> Framing {
        head(lines).unwrap().unwrap().framing
    }

    #[test]
    fn a_body_has_one_framing() {
        assert_eq!(framed("200 OK\r\nContent-Length: 5"), Framing::Length(5));
        assert_eq!(framed("200 OK\r\nTransfer-Encoding: Chunked"), Framing::Chunked);
        assert_eq!(framed("200 OK"), Framing::UntilClose);
        for none in [
            "204 No Content\r\nContent-Length: 6",
            "304 Not Modified\r\nTransfer-Encoding: chunked",
            "100 Continue",
        ] {
            assert_eq!(framed(none), Framing::None, "{none}");
        }
        let head = read(&Bytes::from_static(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"), &Method::HEAD);
        assert_eq!(head.unwrap().unwrap().framing, Framing::None);
    }

    #[test]
    fn what_could_be_delimited_in_two_ways_is_broken() {
        for lines in [
            "200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
            "200 OK\r\nContent-Length: 2\r\nContent-Length: 30",
            "200 OK\r\nContent-Length: 2\r\nContent-Length: 2",
            "200 OK\r\nContent-Length: -2",
            "200 OK\r\nContent-Length: +2",
            "200 OK\r\nContent-Length: 2, 2",
            "200 OK\r\nContent-Length: 99999999999999999999",
            "200 OK\r\nTransfer-Encoding: gzip, chunked",
            "200 OK\r\nX-Bad: a\rSet-Cookie: b",
            "200 OK\r\nX-Bad: a\0b",
            "200 OK\r\nX-Fold: a\r\n Transfer-Encoding: chunked",
            "200 OK\r\nX-Bad : a",
            "x",
        ] {
            assert!(head(lines).is_err(), "{lines:?}");
        }
    }

    #[test]
    fn a_head_is_bounded_and_a_part_of_one_is_no_head() {
        assert!(read(&Bytes::from_static(b"HTTP/1.1 200 OK\r\nContent-Le"), &Method::GET).unwrap().is_none());
        let huge = format!("HTTP/1.1 200 OK\r\nX: {}", "h".repeat(MAX_HEAD));
        assert!(read(&Bytes::from(huge), &Method::GET).is_err());
    }

    #[test]
    fn a_connection_is_kept_unless_refused() {
        assert!(head("200 OK\r\nContent-Length: 0").unwrap().unwrap().keeps);
        for lines in ["200 OK\r\nContent-Length: 0\r\nConnection: x, Close", "200 OK"] {
            assert!(!head(lines).unwrap().unwrap().keeps, "{lines}");
        }
        let old = Bytes::from_static(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n");
        assert!(!read(&old, &Method::GET).unwrap().unwrap().keeps);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = read(&Bytes::from(bytes), &Method::GET);
        }
    }
}
