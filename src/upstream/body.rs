//! The body of an answer on its way to the client. It also sends on what is left of the request's body, since a
//! server may answer before it has read all.

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::chunked::Step;
use super::conn::Connection;
use super::h2c::H2cBody;
use super::headers;
use super::left::Left;
use super::leftover::Leftover;
use super::parse::{Broken, Framing, Head};
use super::pool::{Lane, Load};
use super::upload::{Upload, UploadFault};
use super::watch::Watch;

/// Answers up to this size are copied, and their connection's buffer is used again. One that shares the buffer costs the
/// next answer a new one.
const COPIED: usize = 4 * 1024;

/// An answer's body on its way from the upstream to the client. Also sends what is left of the request's body.
pub struct UpstreamBody<B = Incoming>(Kind<B>);

/// Why an answer ended before its end. The client must see it cut, not complete.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamBodyError {
    #[error("the server closed before the end of its answer")]
    Cut,
    #[error("the connection to the server failed")]
    Io(#[source] std::io::Error),
    #[error("the server's answer is broken: {0}")]
    Broken(&'static str),
    #[error("the request's body broke off")]
    RequestBody,
    #[error("the session is over")]
    SessionOver,
    #[error("the server's stream failed")]
    Http2(#[source] hyper::Error),
}

impl From<Broken> for UpstreamBodyError {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken.0)
    }
}

enum Kind<B> {
    Whole(Bytes),
    Http1(Box<Streaming<B>>),
    H2c(Box<H2cBody>),
}

struct Streaming<B> {
    left: Left,
    trailers: Option<HeaderMap>,
    exchange: Running<B>,
}

/// An exchange whose head has come: what is needed for the rest of it.
pub(super) struct Running<B> {
    pub(super) conn: Option<Connection>,
    pub(super) upload: Upload<B>,
    pub(super) lane: Rc<Lane>,
    pub(super) load: Load,
    pub(super) watch: Watch,
    pub(super) reuse: Option<Duration>,
    /// `limits.body_timeout`
    pub(super) quiet: Duration,
}

impl<B: Body<Data = Bytes> + Unpin + 'static> UpstreamBody<B> {
    /// The body behind `head`. An answer that is there whole leaves its connection to the next request at once.
    pub(super) fn of(head: &Head, mut exchange: Running<B>) -> Self {
        exchange.reuse = head.keep_alive.then(|| head.idle.unwrap_or(Duration::MAX));
        match head.framing {
            Framing::None => {
                exchange.finish();
                return Self(Kind::Whole(Bytes::new()));
            }
            Framing::Length(n) => {
                if let Some(whole) = exchange.take_whole(n) {
                    return Self(Kind::Whole(whole));
                }
            }
            Framing::Chunked | Framing::UntilClose => {}
        }
        let left = Left::of(head.framing);
        Self(Kind::Http1(Box::new(Streaming { left, trailers: None, exchange })))
    }

    pub(super) fn empty() -> Self {
        Self(Kind::Whole(Bytes::new()))
    }

    pub(super) fn h2c(body: H2cBody) -> Self {
        Self(Kind::H2c(Box::new(body)))
    }
}

impl<B: Body<Data = Bytes> + Unpin + 'static> Running<B> {
    /// The connection goes back to its pool if the next request can be sure of it: this one sent whole, its answer
    /// read whole, nothing behind it, and the server keeps it open.
    ///
    /// A request that is still being sent goes on without us.
    fn finish(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        let clean = conn.read.is_empty();
        match self.reuse {
            reuse if clean && self.upload.is_under_way() => return self.leave(conn, reuse),
            Some(idle) if clean && self.upload.is_complete() => self.lane.put_back(conn, idle),
            Some(_) | None => {}
        }
        self.upload.stop();
        self.load.end();
    }

    fn leave(&mut self, conn: Connection, reuse: Option<Duration>) {
        let (upload, load, watch) = (self.upload.take_rest(), self.load.take(), self.watch.renewed());
        let (lane, quiet) = (Rc::clone(&self.lane), self.quiet);
        Leftover { conn, upload, lane, load, watch, quiet, reuse }.spawn();
    }

    fn take_whole(&mut self, length: u64) -> Option<Bytes> {
        let conn = self.conn.as_mut()?;
        let length = usize::try_from(length).ok()?;
        if conn.read.len() < length || !self.upload.is_complete() {
            return None;
        }
        let whole = if length <= COPIED {
            let whole = conn.read.get(..length).map(Bytes::copy_from_slice);
            conn.read.advance(length);
            whole?
        } else {
            conn.read.split_to(length).freeze()
        };
        self.finish();
        Some(whole)
    }

    /// A server that reads no more may still answer whole.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Result<(), UpstreamBodyError> {
        let Some(conn) = &mut self.conn else { return Ok(()) };
        if self.upload.is_complete() {
            return Ok(());
        }
        match self.upload.poll(cx, conn) {
            Poll::Pending | Poll::Ready(Ok(())) => Ok(()),
            Poll::Ready(Err(UploadFault::Body)) => Err(UpstreamBodyError::RequestBody),
            Poll::Ready(Err(UploadFault::Write(_))) => {
                self.upload.stop();
                Ok(())
            }
        }
    }
}

type Piece = Option<Result<Frame<Bytes>, UpstreamBodyError>>;

impl<B: Body<Data = Bytes> + Unpin + 'static> Streaming<B> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Piece> {
        if let Some(trailers) = self.trailers.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        if self.left.is_over() {
            return Poll::Ready(None);
        }
        let polled = self.poll_next(cx);
        if let Poll::Ready(Err(_)) = &polled {
            self.left = Left::Over;
            self.exchange.conn = None;
        }
        polled.map(Result::transpose)
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, UpstreamBodyError>> {
        if self.exchange.watch.poll_over(cx).is_ready() {
            return Poll::Ready(Err(UpstreamBodyError::SessionOver));
        }
        self.exchange.poll_upload(cx)?;
        loop {
            if let Some(data) = self.take()? {
                return Poll::Ready(Ok(Some(Frame::data(data))));
            }
            if self.left.is_over() {
                return Poll::Ready(Ok(self.trailers.take().map(Frame::trailers)));
            }
            let Some(conn) = &mut self.exchange.conn else { return Poll::Ready(Ok(None)) };
            match ready!(conn.poll_fill(cx)) {
                Ok(0) if self.left.ends_with_stream() => self.end(HeaderMap::new()),
                Ok(0) => return Poll::Ready(Err(UpstreamBodyError::Cut)),
                Ok(_) => {}
                Err(e) => return Poll::Ready(Err(UpstreamBodyError::Io(e))),
            }
        }
    }

    /// The next piece of what was read already.
    fn take(&mut self) -> Result<Option<Bytes>, Broken> {
        let Some(conn) = &mut self.exchange.conn else { return Ok(None) };
        match self.left.step(&mut conn.read)? {
            Step::Data(data) => {
                if self.left.is_over() {
                    self.end(HeaderMap::new());
                }
                Ok(Some(data))
            }
            Step::More => Ok(None),
            Step::End(trailers) => {
                self.end(trailers);
                Ok(None)
            }
        }
    }

    fn end(&mut self, mut trailers: HeaderMap) {
        self.left = Left::Over;
        self.exchange.finish();
        let names: Vec<_> = trailers.keys().filter(|n| !headers::answer_trailer_passes(n)).cloned().collect();
        for name in names {
            trailers.remove(name);
        }
        self.trailers = (!trailers.is_empty()).then_some(trailers);
    }
}

impl<B: Body<Data = Bytes> + Unpin + 'static> Body for UpstreamBody<B> {
    type Data = Bytes;
    type Error = UpstreamBodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Piece> {
        match &mut self.0 {
            Kind::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Kind::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Kind::Http1(streaming) => streaming.poll(cx),
            Kind::H2c(body) => body.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Whole(bytes) => bytes.is_empty(),
            Kind::Http1(s) => s.left.is_over() && s.trailers.is_none(),
            Kind::H2c(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Http1(s) => match s.left {
                Left::Length(n) => SizeHint::with_exact(n),
                Left::Over => SizeHint::with_exact(0),
                Left::Chunked(_) | Left::UntilClose => SizeHint::default(),
            },
            Kind::H2c(body) => body.size_hint(),
        }
    }
}
