//! A request's body on its way to the upstream: streamed as it comes, or, where the route asks what is in it, read whole
//! first (contract section 2, `body_credentials`). What is held in memory so is bounded over all requests.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Version, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::access::body::BodyFault;
use crate::body::Pace;

/// The largest body that is read whole.
const MAX_HELD: usize = 5 * 1024 * 1024;

/// What all bodies that are held may take together, and of that those of nobody in particular.
const MAX_ALL: usize = 64 * 1024 * 1024;
const MAX_ANONYMOUS: usize = MAX_ALL / 2;

/// Why a body is not passed on.
#[derive(Debug, thiserror::Error)]
pub enum BodyRefusal {
    #[error(transparent)]
    Fault(#[from] BodyFault),
    #[error("the body is content-coded")]
    Coded,
    #[error("the body's charset is not UTF-8")]
    Charset,
    /// A field of it is asked for, so it must be one that can be read.
    #[error("the body is no JSON by its type")]
    NotJsonType,
    #[error("the body is larger than what is read")]
    TooLarge,
    #[error("too much is held at the moment")]
    Busy,
    #[error("the body came too slowly")]
    Timeout,
    #[error("the body is broken")]
    Broken,
}

/// A request's body.
pub enum RequestBody {
    Streamed(Incoming),
    Held(HeldBody),
}

/// One that was read whole; its share of the memory is free again once it is sent.
pub struct HeldBody {
    bytes: Option<Bytes>,
    _share: Share,
}

/// Memory for bodies that are held, shared by all threads.
#[derive(Clone, Debug, Default)]
pub struct HeldMemory {
    all: Arc<AtomicUsize>,
    anonymous: Arc<AtomicUsize>,
}

/// What one body takes of it.
struct Share {
    of: HeldMemory,
    is_anonymous: bool,
    bytes: usize,
}

impl HeldMemory {
    fn share(&self, is_anonymous: bool) -> Share {
        Share { of: self.clone(), is_anonymous, bytes: 0 }
    }
}

impl Share {
    fn grow(&mut self, to: usize) -> Result<(), BodyRefusal> {
        let more = to.saturating_sub(self.bytes);
        if self.is_anonymous {
            take(&self.of.anonymous, more, MAX_ANONYMOUS)?;
        }
        take(&self.of.all, more, MAX_ALL).inspect_err(|_| {
            if self.is_anonymous {
                self.of.anonymous.fetch_sub(more, Ordering::Relaxed);
            }
        })?;
        self.bytes += more;
        Ok(())
    }
}

fn take(from: &AtomicUsize, more: usize, max: usize) -> Result<(), BodyRefusal> {
    if from.fetch_add(more, Ordering::Relaxed) + more > max {
        from.fetch_sub(more, Ordering::Relaxed);
        return Err(BodyRefusal::Busy);
    }
    Ok(())
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.all.fetch_sub(self.bytes, Ordering::Relaxed);
        if self.is_anonymous {
            self.of.anonymous.fetch_sub(self.bytes, Ordering::Relaxed);
        }
    }
}

/// What a body is by its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    Other,
}

/// Reads a JSON body whole; any other is passed on unread, unless `must_be_json`. None: there is no body to judge.
pub(super) async fn read_json(
    head: &http::request::Parts,
    body: Incoming,
    must_be_json: bool,
    (memory, is_anonymous, quiet): (&HeldMemory, bool, Duration),
) -> Result<RequestBody, BodyRefusal> {
    if body.is_end_stream() {
        return Ok(RequestBody::Streamed(body));
    }
    match kind(&head.headers)? {
        Kind::Other if must_be_json => return Err(BodyRefusal::NotJsonType),
        Kind::Other => return Ok(RequestBody::Streamed(body)),
        Kind::Json => {}
    }
    let mut share = memory.share(is_anonymous);
    let bytes = Some(whole(body, head.version, &mut share, quiet).await?);
    Ok(RequestBody::Held(HeldBody { bytes, _share: share }))
}

/// JSON is told by any `Content-Type` that could be read as it: a backend may take the first, the last, or sniff.
fn kind(headers: &HeaderMap) -> Result<Kind, BodyRefusal> {
    let types = headers.get_all(header::CONTENT_TYPE);
    let types = || types.iter().map(|value| value.as_bytes().to_ascii_lowercase());
    let has = |value: &[u8], word: &[u8]| value.windows(word.len()).any(|window| window == word);
    if !types().any(|value| has(&value, b"json")) {
        return Ok(Kind::Other);
    }
    let coded = |value: &HeaderValue| !value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if headers.get_all(header::CONTENT_ENCODING).iter().any(coded) {
        return Err(BodyRefusal::Coded);
    }
    let other_charset = |value: &[u8]| {
        let text = String::from_utf8_lossy(value);
        let charsets = text.split(';').skip(1).filter_map(|parameter| {
            parameter.trim().strip_prefix("charset")?.trim_start().strip_prefix('=').map(str::trim)
        });
        let is_other = |charset: &str| !matches!(charset.trim_matches('"'), "utf-8" | "utf8");
        let mut charsets = charsets.peekable();
        if charsets.peek().is_none() { has(value, b"charset") } else { charsets.any(is_other) }
    };
    if types().any(|value| other_charset(&value)) { Err(BodyRefusal::Charset) } else { Ok(Kind::Json) }
}

async fn whole(
    mut body: Incoming,
    version: Version,
    share: &mut Share,
    quiet: Duration,
) -> Result<Bytes, BodyRefusal> {
    if body.size_hint().lower() > MAX_HELD as u64 {
        return Err(BodyRefusal::TooLarge);
    }
    // Nothing is set aside for what is only announced: heads without bodies would take it from all others.
    let (mut whole, mut pace) = (Vec::new(), Pace::of(quiet));
    loop {
        let frame = std::future::poll_fn(|cx| match Pin::new(&mut body).poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame.transpose().map_err(|_| BodyRefusal::Broken)),
            Poll::Pending => {
                ready!(pace.poll_late(cx));
                Poll::Ready(Err(BodyRefusal::Timeout))
            }
        });
        let Some(frame) = frame.await? else {
            // HTTP/2: a reset that says "no error" looks like the end.
            let is_whole = version != Version::HTTP_2 || body.is_end_stream();
            return if is_whole { Ok(whole.into()) } else { Err(BodyRefusal::Broken) };
        };
        let Ok(data) = frame.into_data() else { continue };
        let size = whole.len() + data.len();
        if size > MAX_HELD {
            return Err(BodyRefusal::TooLarge);
        }
        share.grow(size)?;
        whole.extend_from_slice(&data);
        pace.came(whole.len());
    }
}

impl RequestBody {
    /// What was read; none of a body that is streamed.
    pub(super) fn held(&self) -> Option<&[u8]> {
        match self {
            Self::Streamed(_) => None,
            Self::Held(held) => Some(held.bytes.as_deref().unwrap_or_default()),
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Streamed(body) => Pin::new(body).poll_frame(cx),
            Self::Held(held) => Poll::Ready(held.bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streamed(body) => body.is_end_stream(),
            Self::Held(held) => held.bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streamed(body) => body.size_hint(),
            Self::Held(held) => SizeHint::with_exact(held.bytes.as_ref().map_or(0, |b| b.len() as u64)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(fields: &[(header::HeaderName, &'static str)]) -> Result<Kind, &'static str> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, HeaderValue::from_static(value));
        }
        kind(&headers).map_err(|refusal| match refusal {
            BodyRefusal::Coded => "coded",
            BodyRefusal::Charset => "charset",
            _ => "other",
        })
    }

    #[test]
    fn json_is_whatever_could_be_read_as_json() {
        let of = |value| typed(&[(header::CONTENT_TYPE, value)]);
        for json in [
            "application/json",
            "APPLICATION/JSON;x=y",
            "application/vnd.api+json",
            "text/json; charset=UTF-8",
            "application/json; charset=\"utf-8\"",
        ] {
            assert_eq!(of(json), Ok(Kind::Json), "{json}");
        }
        for other in [
            "text/plain",
            "multipart/form-data; boundary=x",
            "application/x-www-form-urlencoded",
            "",
            "text/plain; charset=utf-16",
        ] {
            assert_eq!(of(other), Ok(Kind::Other), "{other}");
        }
        for odd in [
            "application/json; charset=utf-16",
            "application/json;charset=latin1",
            "application/json; charset",
            "application/json; charset=utf-8; charset=utf-7",
        ] {
            assert_eq!(of(odd), Err("charset"), "{odd}");
        }
        assert_eq!(typed(&[]), Ok(Kind::Other));
        let both = [(header::CONTENT_TYPE, "text/plain"), (header::CONTENT_TYPE, "application/json")];
        assert_eq!(typed(&both), Ok(Kind::Json));
        let coded =
            |coding| typed(&[(header::CONTENT_TYPE, "application/json"), (header::CONTENT_ENCODING, coding)]);
        assert_eq!(
            (coded("gzip"), coded("Identity"), coded("identity, gzip")),
            (Err("coded"), Ok(Kind::Json), Err("coded"))
        );
    }

    #[test]
    fn what_is_held_together_is_bounded_and_given_back() {
        let memory = HeldMemory::default();
        let mut all: Vec<_> = (0..12).map(|_| memory.share(false)).collect();
        assert!(all.iter_mut().all(|share| share.grow(MAX_HELD).is_ok()));
        let mut one_more = memory.share(false);
        assert!(matches!(one_more.grow(MAX_HELD), Err(BodyRefusal::Busy)));
        all.pop();
        assert!(one_more.grow(MAX_HELD).is_ok() && one_more.grow(10).is_ok());
        drop((all, one_more));
        let mut anonymous: Vec<_> = (0..6).map(|_| memory.share(true)).collect();
        assert!(anonymous.iter_mut().all(|share| share.grow(MAX_HELD).is_ok()));
        assert!(matches!(memory.share(true).grow(MAX_HELD), Err(BodyRefusal::Busy)));
        assert!(memory.share(false).grow(MAX_HELD).is_ok(), "who is known has the other half");
        drop(anonymous);
        let taken = [&memory.all, &memory.anonymous].map(|taken| taken.load(Ordering::Relaxed));
        assert_eq!(taken, [0, 0]);
    }
}
