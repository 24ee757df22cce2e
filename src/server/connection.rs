//! One connection: HTTP/1.1 or HTTP/2 by hyper, its limits, its patience, its end.
//!
//! A client that shuts its writing side while it waits for an answer is taken for gone (`half_close(false)`):
//! the request is dropped and the upstream's work with it. To tell a client that has gone from one that still listens
//! is impossible before something is written, and an abandoned long poll must not hold a server.

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};

use super::admission::Admission;
use super::draining::{DrainListener, Draining};
use super::exchanges::{Count, Exchanges};
use super::gathered::{Outlet, gather};
use super::io::{ClientIo, Reading, Seen, Tear};
use super::patience::{Patience, Verdict};
use super::resting::{Berth, Moored, Resting};
use super::taken::Taken;
use super::{Handler, Limits};
use crate::peer::Peer;

/// Streams a client may have open on one HTTP/2 connection: more than browsers and gRPC clients use, few enough
/// that one connection cannot take all of `limits.max_requests`.
const MAX_STREAMS: u32 = 128;
/// Bytes of a request's body that may be on their way unasked, of a stream and of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// Bytes of answers held for a slow client: of an HTTP/2 stream, and of an HTTP/1 connection (whose reads are
/// at most as large).
const SEND_BUFFER: usize = 64 * 1024;
/// Streams reset by the client before they were accepted, and streams that we had to reset, before the
/// connection is ended (CVE-2023-44487 and RUSTSEC-2024-0003; CVE-2025-8671).
const MAX_PENDING_RESETS: usize = 20;
const MAX_ERROR_RESETS: usize = 256;
/// Bytes of a frame's payload, and of the table that requests' headers are compressed with: the least there is
/// (RFC 9113 section 6.5.2), so one frame of a client is never large.
const MAX_FRAME: u32 = 16 * 1024;
const HEADER_TABLE: u32 = 4096;
/// HTTP/2 clients that have vanished are found by pings.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What a connection needs besides its stream.
pub(super) struct Setting<H> {
    pub(super) handler: Rc<H>,
    pub(super) peer: Rc<Peer>,
    pub(super) limits: Arc<Limits>,
    pub(super) draining: Rc<Draining>,
    pub(super) admission: Admission,
}

/// Serves HTTP/1.1 until the connection ends or is upgraded.
pub(super) async fn serve_http1<S, H>(stream: S, setting: Setting<H>)
where
    S: AsyncRead + AsyncWrite + Tear + Unpin + Send + 'static,
    H: Handler,
{
    let Setting { handler, peer, limits, draining, admission } = setting;
    let mut io = Box::new(ClientIo::http1(stream, admission, handler.own_fields()));
    let seen = io.seen();
    let exchanges = Exchanges::new(handler, peer, seen.clone()).closing(draining.clone());
    let mut watch = Watch::new(Patience::new(&limits, true), &draining, exchanges.count(), seen);
    let (exchanges, berth) = (Rc::new(exchanges), Berth::new());
    loop {
        let mut resting = Resting::new(io);
        let Some(()) = watch.over(&mut resting).await else { return };
        let Some(woken) = resting.woken() else { return };
        let answering = Rc::clone(&exchanges);
        let service = service_fn(move |request| answering.answer(request));
        let moored = TokioIo::new(Moored::new(woken, Arc::clone(&berth)));
        let connection = http1_builder(&limits).serve_connection(moored, service).with_upgrades();
        // Boxed: with its request's future it is what is large of a connection.
        let mut active = Box::new(Http1 { connection, berth: Arc::clone(&berth), asked: false });
        watch.over(&mut *active).await;
        drop(active);
        let Some(back) = berth.take() else { return };
        io = back;
    }
}

/// Serves HTTP/2 until the connection ends.
pub(super) async fn serve_http2<S, H>(stream: S, setting: Setting<H>)
where
    S: AsyncRead + AsyncWrite + Tear + Unpin + Send + 'static,
    H: Handler,
{
    let Setting { handler, peer, limits, draining, admission } = setting;
    let io = ClientIo::http2(stream, admission);
    let seen = io.seen();
    let exchanges = Exchanges::new(handler, peer, seen.clone());
    let mut watch = Watch::new(Patience::new(&limits, false), &draining, exchanges.count(), seen);
    // Boxed: hyper moves a stream's future several times on its way to a task, and this one is large.
    let service = service_fn(move |request| Box::pin(exchanges.answer(request)));
    let (io, outlet) = gather(io);
    let connection = http2_builder(&limits).serve_connection(TokioIo::new(io), service);
    watch.over(&mut Http2(pin!(connection), outlet)).await;
}

/// Answers are written from one flat buffer: with headers and small bodies that is cheaper than `writev`, and
/// TLS would copy them anyway. A request may have 100 headers: hyper's own limit, which is not set here because any
/// limit that is set costs an allocation a request. `pipeline_flush` is off: with it hyper buffers an answer without bound while its
/// body has data, and holds an answer back while half a next request stands in the buffer.
fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .half_close(false)
        .keep_alive(true)
        .title_case_headers(false)
        .writev(false)
        .max_header_size(limits.max_header_bytes)
        .max_buf_size(limits.max_header_bytes.max(SEND_BUFFER))
        .header_read_timeout(None);
    builder
}

/// Every limit there is. What h2 bounds besides, by itself: CONTINUATION frames by what `max_header_list_size` needs
/// (CVE-2024-27316), empty and tiny DATA frames (CVE-2019-9518), and one answer to PING and one to SETTINGS at a time,
/// before which it reads no further (CVE-2019-9512, CVE-2019-9515).
fn http2_builder(limits: &Limits) -> http2::Builder<LocalExecutor> {
    let mut builder = http2::Builder::new(LocalExecutor { send_timeout: limits.send_timeout });
    builder
        .adaptive_window(false)
        .max_frame_size(MAX_FRAME)
        .header_table_size(HEADER_TABLE)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_ERROR_RESETS)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .timer(TokioTimer::new());
    builder
}

/// Streams run on the connection's own thread, for as long as their client takes what they have for it.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor {
    send_timeout: Duration,
}

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(Taken::new(future, self.send_timeout));
    }
}

/// hyper's two kinds of connection, as far as they are alike.
trait Connection {
    /// The client learns which of its requests were taken when the connection ends (HTTP/2's GOAWAY). Otherwise one
    /// that crosses the end is lost.
    const TELLS_WHAT_WAS_TAKEN: bool;
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>>;
    fn graceful_shutdown(&mut self);
    /// To end when it is at rest, if it can.
    fn ask_to_rest(&mut self) {}
}

type Error = Box<dyn std::error::Error + Send + Sync>;

struct Http1<C, T: Tear> {
    connection: C,
    berth: Arc<Berth<T>>,
    asked: bool,
}

impl<S, B, I, T> Connection for Http1<http1::UpgradeableConnection<I, S>, T>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    T: Tear,
{
    const TELLS_WHAT_WAS_TAKEN: bool = false;

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let ended = Pin::new(&mut self.connection).poll(cx).map_err(Error::from);
        if std::mem::take(&mut self.asked) && self.berth.has_it() { Poll::Ready(Ok(())) } else { ended }
    }

    fn graceful_shutdown(&mut self) {
        Pin::new(&mut self.connection).graceful_shutdown();
    }

    fn ask_to_rest(&mut self) {
        self.berth.want();
        self.asked = true;
    }
}

impl<S: AsyncRead + AsyncWrite + Tear + Unpin> Connection for Resting<S> {
    const TELLS_WHAT_WAS_TAKEN: bool = false;

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.poll_first(cx).map_err(Error::from)
    }

    fn graceful_shutdown(&mut self) {
        self.end();
    }
}

struct Http2<'c, C, O>(Pin<&'c mut C>, Outlet<O>);

impl<S, B, I, E, O> Connection for Http2<'_, http2::Connection<I, S, E>, O>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = B>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: http_body::Body<Error: Into<Box<dyn std::error::Error + Send + Sync>>> + 'static,
    I: hyper::rt::Read + hyper::rt::Write + Unpin,
    E: hyper::rt::bounds::Http2ServerConnExec<S::Future, B>,
    O: AsyncWrite + Unpin,
{
    const TELLS_WHAT_WAS_TAKEN: bool = true;

    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let ended = self.0.as_mut().poll(cx);
        match self.1.poll_flush(cx) {
            Poll::Ready(Err(error)) if ended.is_pending() => Poll::Ready(Err(error.into())),
            // At its end: what the socket takes at once of a last GOAWAY.
            Poll::Ready(_) | Poll::Pending => ended.map_err(Error::from),
        }
    }

    fn graceful_shutdown(&mut self) {
        self.0.as_mut().graceful_shutdown();
    }
}

/// Ends a connection that drains or tries the server's patience.
struct Watch {
    patience: Patience,
    drain: DrainListener,
    draining: bool,
    count: Rc<Count>,
    seen: Arc<Seen>,
}

impl Watch {
    fn new(patience: Patience, draining: &Rc<Draining>, count: Rc<Count>, seen: Arc<Seen>) -> Self {
        Self { patience, drain: draining.listener(), draining: false, count, seen }
    }

    /// Until the connection has come to its end. None: it is to be dropped before that.
    async fn over<C: Connection>(&mut self, connection: &mut C) -> Option<()> {
        std::future::poll_fn(|cx| self.poll(cx, connection)).await
    }

    fn poll<C: Connection>(&mut self, cx: &mut Context<'_>, connection: &mut C) -> Poll<Option<()>> {
        loop {
            // First, so that a request that is there already is served although the drain has started.
            if let Poll::Ready(ended) = connection.poll_end(cx) {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return Poll::Ready(Some(()));
            }
            if self.must_end(cx, C::TELLS_WHAT_WAS_TAKEN) {
                connection.graceful_shutdown();
                continue;
            }
            match ready!(self.patience.poll(cx, &self.count, &self.seen)) {
                Verdict::Rest => connection.ask_to_rest(),
                Verdict::Look => self.seen.look(),
                Verdict::CloseGracefully => connection.graceful_shutdown(),
                Verdict::Drop => return Poll::Ready(None),
            }
        }
    }

    /// True once, when the drain has started and no request can be on its way unseen: who is silent, or has had an
    /// answer and may be sending the next request, is listened to for a moment more. That answer is then the last.
    fn must_end(&mut self, cx: &mut Context<'_>, tells: bool) -> bool {
        if self.draining || self.drain.poll_started(cx).is_pending() {
            return false;
        }
        let may_come = match self.seen.reading() {
            Reading::Silent => true,
            Reading::Between => !tells && self.count.open() == 0,
            Reading::Head | Reading::Body | Reading::Lingering => false,
        };
        if may_come {
            self.patience.hurry();
            return false;
        }
        self.draining = true;
        if tells {
            // It has been told what was taken; one that does not even answer that is not waited for.
            self.patience.farewell();
        }
        true
    }
}
