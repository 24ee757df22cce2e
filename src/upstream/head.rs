//! The head of a request as HTTP/1.1 bytes. Pure; what stands in it is decided by `headers`.

use http::Method;
use http::header::{HeaderName, HeaderValue};

use super::headers::{Onward, Policy, Sink, asks_for_trailers};

/// How the end of the request's body is told to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// No body, and no field that says so.
    None,
    Length(u64),
    Chunked,
}

/// The request line: what was judged.
pub(super) struct Target<'a> {
    pub(super) method: &'a Method,
    /// Begins with `/`.
    pub(super) path: &'a str,
    pub(super) query: Option<&'a str>,
}

impl Sink for Vec<u8> {
    fn put(&mut self, name: &HeaderName, value: &[u8]) {
        put_field(self, name, value);
    }
}

/// Writes one field line.
pub(super) fn put_field(out: &mut Vec<u8>, name: &HeaderName, value: &[u8]) {
    let name = name.as_str().as_bytes();
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Writes a whole head.
pub(super) fn write(
    out: &mut Vec<u8>,
    target: &Target<'_>,
    sending: Sending,
    upgrade: Option<&HeaderValue>,
    (policy, onward): (&Policy, &Onward<'_>),
) {
    out.reserve(1024);
    out.extend_from_slice(target.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(target.path.as_bytes());
    if let Some(query) = target.query {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    policy.outgoing(onward, out);
    match sending {
        Sending::None => {}
        Sending::Length(n) => {
            let _ = std::io::Write::write_fmt(out, format_args!("content-length: {n}\r\n"));
        }
        Sending::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    connection(out, onward, upgrade);
    out.extend_from_slice(b"\r\n");
}

/// `Connection` is made anew: it names what this hop means by `Upgrade` and `TE`.
fn connection(out: &mut Vec<u8>, onward: &Onward<'_>, upgrade: Option<&HeaderValue>) {
    if let Some(protocol) = upgrade {
        out.extend_from_slice(b"connection: upgrade\r\nupgrade: ");
        out.extend_from_slice(protocol.as_bytes());
        out.extend_from_slice(b"\r\n");
    } else if asks_for_trailers(onward.headers) {
        out.extend_from_slice(b"connection: te\r\n");
    }
}
