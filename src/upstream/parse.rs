//! The head of an answer, read strictly: what two readers could understand differently is broken (RFC 9112).
//! Pure: bytes in, a head out; knows no connection.

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use httparse::ParserConfig;
use std::mem::MaybeUninit;
use std::time::Duration;

use super::headers;

/// The longest head of an answer, in bytes.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// The most fields of an answer.
const MAX_FIELDS: usize = 128;

/// How the end of an answer's body is told (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

/// The head of one answer, informational or final.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    /// What goes back to the client: hop-by-hop fields are gone.
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
    /// Whether the server keeps the connection open behind this answer.
    pub(super) keep_alive: bool,
    /// `Keep-Alive: timeout=N`
    pub(super) idle: Option<Duration>,
    /// The `Upgrade` field, for a 101.
    pub(super) upgrade: Option<HeaderValue>,
}

/// An answer that is no HTTP, or could be read in two ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken(pub(super) &'static str);

/// Takes one head off the front of `buf`. None: it is not complete yet.
pub(super) fn head(buf: &mut BytesMut, method: &Method) -> Result<Option<Head>, Broken> {
    if buf.first().is_some_and(|b| *b != b'H') {
        return Err(Broken("no HTTP"));
    }
    // Not written before they are parsed: there are five of them, not all that there may be.
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = ParserConfig::default();
    let len = match config.parse_response_with_uninit_headers(&mut parsed, buf, &mut fields) {
        Ok(httparse::Status::Complete(len)) => len,
        Ok(httparse::Status::Partial) if buf.len() > MAX_HEAD => return Err(Broken("head too long")),
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Broken("too many fields")),
        Err(_) => return Err(Broken("malformed head")),
    };
    if len > MAX_HEAD {
        return Err(Broken("head too long"));
    }
    let code = parsed.code.unwrap_or(0);
    let status = StatusCode::from_u16(code).map_err(|_| Broken("status"))?;
    let old = parsed.version != Some(1);
    // Copied: a head that shared the buffer would hold all of it, and the next answer would need another.
    let bytes = Bytes::copy_from_slice(buf.get(..len).unwrap_or_default());
    if has_bare_line_end(&bytes) {
        return Err(Broken("bare LF in head"));
    }
    let base = buf.as_ptr() as usize;
    let spans = parsed.headers.iter().map(|field| Span::of(field, base));
    let fields = Fields::default().read(&bytes, spans)?;
    buf.advance(len);
    fields.into_head(status, old, method).map(Some)
}

/// Where a field stands in the head.
struct Span {
    name: (usize, usize),
    value: (usize, usize),
}

impl Span {
    fn of(field: &httparse::Header<'_>, base: usize) -> Self {
        let at = |s: &[u8]| {
            let start = (s.as_ptr() as usize).wrapping_sub(base);
            (start, start + s.len())
        };
        // An empty value may point anywhere.
        let value = if field.value.is_empty() { (0, 0) } else { at(field.value) };
        Self { name: at(field.name.as_bytes()), value }
    }
}

fn has_bare_line_end(head: &[u8]) -> bool {
    // All of them, whatever the first says: a loop without a way out is one of many bytes at a time.
    let pairs = head.iter().zip(head.get(1..).unwrap_or_default());
    pairs.fold(head.first() == Some(&b'\n'), |bare, (before, b)| bare | ((*b == b'\n') & (*before != b'\r')))
}

/// The fields as they are read, and what they say of the connection.
#[derive(Default)]
struct Fields {
    headers: HeaderMap,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    keep_alive: bool,
    named: Vec<String>,
    idle: Option<Duration>,
    upgrade: Option<HeaderValue>,
}

impl Fields {
    fn read(mut self, bytes: &Bytes, spans: impl ExactSizeIterator<Item = Span>) -> Result<Self, Broken> {
        self.headers.reserve(spans.len());
        for span in spans {
            let name = bytes.get(span.name.0..span.name.1).unwrap_or_default();
            let name = HeaderName::from_bytes(name).map_err(|_| Broken("field name"))?;
            let value = HeaderValue::from_maybe_shared(bytes.slice(span.value.0..span.value.1));
            self.take(name, value.map_err(|_| Broken("field value"))?)?;
        }
        Ok(self)
    }

    fn take(&mut self, name: HeaderName, value: HeaderValue) -> Result<(), Broken> {
        if name == header::CONTENT_LENGTH {
            let length = digits(value.as_bytes()).ok_or(Broken("content-length"))?;
            if self.length.replace(length).is_some() {
                return Err(Broken("several content-length"));
            }
        } else if name == header::TRANSFER_ENCODING {
            let again = std::mem::replace(&mut self.chunked, true);
            if again || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                return Err(Broken("transfer-encoding"));
            }
        } else if name == header::CONNECTION {
            self.connection(value.to_str().map_err(|_| Broken("connection"))?);
        } else if name == header::UPGRADE {
            self.upgrade = Some(value.clone());
        } else if name == "keep-alive" {
            self.idle = keep_alive_timeout(&value);
        }
        if headers::answer_passes(name.as_str()) {
            self.headers.append(name, value);
        }
        Ok(())
    }

    fn connection(&mut self, line: &str) {
        for token in line.split(',').map(|t| t.trim_matches([' ', '\t'])) {
            if token.eq_ignore_ascii_case("close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case("keep-alive") {
                self.keep_alive = true;
            } else if !token.is_empty() {
                self.named.push(token.to_owned());
            }
        }
    }

    fn into_head(mut self, status: StatusCode, old: bool, method: &Method) -> Result<Head, Broken> {
        if self.chunked && (self.length.is_some() || old) {
            return Err(Broken("ambiguous length"));
        }
        for name in &self.named {
            headers::drop_named(&mut self.headers, name);
        }
        let framing = self.framing(status, method);
        // A 304 may leave it out (RFC 9110 section 8.6), and hyper's server cannot send it there.
        if status.is_informational() || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            self.headers.remove(header::CONTENT_LENGTH);
        }
        // A content that is declared where none may be is sent by some servers all the same. What of it comes after
        // the next request went out would be read as that one's answer.
        let declared = self.chunked || self.length.is_some_and(|length| length > 0);
        let sure = framing != Framing::UntilClose && !(framing == Framing::None && declared);
        let keep_alive = !self.close && (!old || self.keep_alive) && sure;
        let Self { headers, idle, upgrade, .. } = self;
        Ok(Head { status, headers, framing, keep_alive, idle, upgrade })
    }

    /// RFC 9112 section 6.3.
    fn framing(&self, status: StatusCode, method: &Method) -> Framing {
        let bodyless = status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED
            || method == Method::HEAD;
        match self.length {
            _ if bodyless => Framing::None,
            _ if self.chunked => Framing::Chunked,
            Some(0) => Framing::None,
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        }
    }
}

/// A number of 1 to 18 decimal digits: no sign, no list, no space.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 18 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(text.iter().fold(0, |n, d| n * 10 + u64::from(d - b'0')))
}

fn keep_alive_timeout(value: &HeaderValue) -> Option<Duration> {
    let seconds = value.to_str().ok()?.split(',').find_map(|p| p.trim().strip_prefix("timeout="))?;
    Some(Duration::from_secs(digits(seconds.as_bytes())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &[u8], method: &Method) -> Result<Option<Head>, Broken> {
        head(&mut BytesMut::from(text), method)
    }

    fn get(text: &str) -> Head {
        read(text.as_bytes(), &Method::GET).unwrap().unwrap()
    }

    #[test]
    fn a_plain_answer() {
        let mut buf = BytesMut::from("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok");
        let head = head(&mut buf, &Method::GET).unwrap().unwrap();
        assert_eq!((head.status, head.framing, head.keep_alive), (StatusCode::OK, Framing::Length(2), true));
        assert_eq!(head.headers["x-a"], "b");
        assert_eq!(&buf[..], b"ok");
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_broken() {
        for fields in [
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Content-Length: 2\r\nContent-Length: 30",
            "Content-Length: 2\r\nContent-Length: 2",
            "Content-Length: 2, 2",
            "Content-Length: -2",
            "Content-Length: +2",
            "Content-Length:",
            "Content-Length: 9999999999999999999",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding : chunked",
            "X-Bad: a\rSet-Cookie: x",
            "X-Bad: a\0b",
            "X-Fold: a\r\n Transfer-Encoding: chunked",
            "X-Bare: a\nContent-Length: 2",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n");
            assert!(read(text.as_bytes(), &Method::GET).is_err(), "{fields:?}");
        }
        for start in
            ["\r\nHTTP/1.1 200 OK", "HTTP/2.0 200 OK", "HTTP/1.1 20 OK", "garbage", "HTTP/1.1 200 OK\n"]
        {
            let text = format!("{start}\r\n\r\n");
            assert!(read(text.as_bytes(), &Method::GET).is_err(), "{start:?}");
        }
        assert!(read(b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &Method::GET).is_err());
    }

    #[test]
    fn a_head_is_bounded() {
        let text = format!("HTTP/1.1 200 OK\r\nX: {}", "h".repeat(MAX_HEAD));
        assert!(read(text.as_bytes(), &Method::GET).is_err());
        let whole = format!("{text}\r\n\r\n");
        assert!(read(whole.as_bytes(), &Method::GET).is_err());
    }

    #[test]
    fn the_framing_depends_on_method_and_status() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n";
        let head = read(text.as_bytes(), &Method::HEAD).unwrap().unwrap();
        assert_eq!((head.framing, head.headers["content-length"].as_bytes()), (Framing::None, &b"6"[..]));
        let head = get("HTTP/1.1 204 No Content\r\nContent-Length: 6\r\n\r\n");
        assert_eq!((head.framing, head.headers.len()), (Framing::None, 0));
        assert_eq!(get("HTTP/1.1 304 X\r\nTransfer-Encoding: chunked\r\n\r\n").framing, Framing::None);
        assert_eq!(get("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n").framing, Framing::Chunked);
        let head = get("HTTP/1.1 200 OK\r\n\r\n");
        assert_eq!((head.framing, head.keep_alive), (Framing::UntilClose, false));
    }

    #[test]
    fn hop_by_hop_fields_end_here() {
        let head = get("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Private, keep-alive\r\n\
            X-Private: y\r\nKeep-Alive: timeout=9\r\nX-Postern-Scope: own\r\nProxy-Authenticate: Basic\r\n\
            Set-Cookie: a\r\nSet-Cookie: b\r\n\r\n");
        assert_eq!(head.headers.len(), 3, "{:?}", head.headers);
        assert_eq!(head.headers.get_all("set-cookie").iter().count(), 2);
        assert_eq!(head.idle, Some(Duration::from_secs(9)));
        assert!(!get("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").keep_alive);
        assert!(!get("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").keep_alive);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut text = b"HTTP/1.1 200 OK\r\n".to_vec();
            text.extend(bytes);
            let _ = read(&text, &Method::GET);
        }

        #[test]
        fn a_cut_head_is_not_complete(cut in 0..60usize) {
            let text = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: bbbbbbbbbbbbbbbbb\r\n\r\n";
            prop_assert!(read(&text[..cut.min(text.len() - 1)], &Method::GET).unwrap().is_none());
        }
    }
}
