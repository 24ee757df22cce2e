//! HTTP/2 without TLS to a server (`h2c://`, gRPC): connections that many requests share, each driven by a task
//! of this thread. Trailers pass both ways.

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::{HeaderName, Request, Response, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::Cell;
use std::error::Error as _;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::ForwardError;
use super::body::UpstreamBodyError;
use super::carriers::Seat;
use super::head::Target;
use super::headers::{self, Onward, Policy};
use super::heard::Heard;
use super::http1::Limits;
use super::pool::Load;
use super::watch::Watch;
use crate::clock::monotonic;
use crate::deadline::Deadline;
use crate::telemetry::exchange::Exchange;

pub(super) type H2cSender = SendRequest<OutBody>;

const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
const MAX_HEADER_LIST: u32 = super::parse::MAX_HEAD as u32;
/// How often it is looked whether the request has been sent, while it has not.
const LOOK: Duration = Duration::from_millis(200);

/// A connection is asked so often whether anybody is there, used or not, and how long for an answer: a server that has
/// vanished without a word is noticed before the next request, or soon behind it.
const PING_EVERY: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs hyper's tasks on this thread.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalExecutor;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// Opens a connection; its task holds the slot until it ends. The other value comes once the server has said something: a
/// server of HTTP/2 begins by itself (RFC 9113 section 3.4).
pub(super) async fn open(
    tcp: TcpStream,
    slot: OwnedSemaphorePermit,
) -> io::Result<(H2cSender, oneshot::Receiver<()>)> {
    let (tcp, heard) = Heard::on(tcp);
    let (sender, connection) = Builder::new(LocalExecutor)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(MAX_HEADER_LIST)
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(tcp))
        .await
        .map_err(io::Error::other)?;
    tokio::task::spawn_local(async move {
        // What fails here fails the requests on it, which say so themselves.
        let _ = connection.await;
        drop(slot);
    });
    Ok((sender, heard))
}

/// The request as it goes out, its body still to be put in. None: the authority is no authority.
pub(super) fn request(
    target: &Target<'_>,
    (policy, onward): (&Policy, &Onward<'_>),
    body: OutBody,
) -> Option<Request<OutBody>> {
    let mut headers = HeaderMap::with_capacity(onward.headers.len() + 12);
    policy.outgoing(onward, &mut headers);
    headers.remove(header::HOST);
    headers.remove(header::EXPECT);
    let authority = std::str::from_utf8(onward.host).ok()?;
    let path = match target.query {
        Some(query) => format!("{}?{query}", target.path),
        None => target.path.to_owned(),
    };
    let uri = Uri::builder().scheme("http").authority(authority).path_and_query(path).build().ok()?;
    let mut request = Request::new(body);
    *request.method_mut() = target.method.clone();
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    *request.headers_mut() = headers;
    Some(request)
}

/// What the request's body and the wait for the answer tell each other.
#[derive(Default)]
pub(super) struct Progress {
    sent: Cell<bool>,
    answered: Cell<bool>,
    broken: Cell<bool>,
    slow: Cell<bool>,
    /// Pieces that were asked for, and whether the client is waited for to give the next.
    pieces: Cell<u32>,
    waits_for_client: Cell<bool>,
}

/// Why the request was not answered.
pub(super) enum H2cFault {
    /// Never sent: it may be sent elsewhere.
    Unsent(Box<Request<OutBody>>),
    /// Sent, and refused before anything of it was processed (RFC 9113 section 8.7).
    Refused,
    /// Sent behind the last one that the server serves on this connection (RFC 9113 section 6.8).
    GoneAway,
    Failed(ForwardError),
    /// Broken off by the server while the client owed it the next piece of the body.
    GivenUp(ForwardError),
}

/// Sends a request and waits for the head of its answer.
pub(super) async fn send(
    sender: &mut H2cSender,
    request: Request<OutBody>,
    limits: Limits,
    watch: &mut Watch,
) -> Result<Response<Incoming>, H2cFault> {
    let progress = request.body().progress.clone();
    progress.sent.set(request.body().is_end_stream());
    let answer = sender.try_send_request(request);
    let mut answer = std::pin::pin!(answer);
    let (mut wait, mut timed) = (Deadline::default(), false);
    let (mut pieces, mut stands_since) = (0, monotonic());
    std::future::poll_fn(|cx| {
        if let Poll::Ready(result) = answer.as_mut().poll(cx) {
            return Poll::Ready(result.map_err(|mut e| match e.take_message() {
                Some(request) => H2cFault::Unsent(Box::new(request)),
                None => match unprocessed(e.error()) {
                    Some(Unprocessed::Refused) => H2cFault::Refused,
                    Some(Unprocessed::GoneAway) => H2cFault::GoneAway,
                    None if progress.waits_for_client.get() => H2cFault::GivenUp(fault(&progress)),
                    None => H2cFault::Failed(fault(&progress)),
                },
            }));
        }
        loop {
            if progress.sent.get() && !timed {
                timed = true;
                wait.arm(limits.response);
            }
            wait.arm_if_idle(LOOK);
            ready!(wait.poll_passed(cx));
            if timed {
                return Poll::Ready(Err(H2cFault::Failed(ForwardError::Timeout)));
            }
            if watch.poll_over(cx).is_ready() {
                return Poll::Ready(Err(H2cFault::Failed(ForwardError::RequestBody)));
            }
            // The server takes nothing: it opens no window, or has no stream free.
            if progress.waits_for_client.get() || pieces != progress.pieces.get() {
                (pieces, stands_since) = (progress.pieces.get(), monotonic());
            } else if monotonic().saturating_duration_since(stands_since) > limits.response {
                return Poll::Ready(Err(H2cFault::Failed(ForwardError::Timeout)));
            }
        }
    })
    .await
    .inspect(|_| progress.answered.set(true))
}

/// Why a server did not look at a request.
enum Unprocessed {
    /// It has as many as it wants.
    Refused,
    /// It ends the connection.
    GoneAway,
}

/// Whether the server said that it did not look at the request.
fn unprocessed(error: &hyper::Error) -> Option<Unprocessed> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return match error.reason().filter(|_| error.is_remote())? {
                h2::Reason::REFUSED_STREAM => Some(Unprocessed::Refused),
                h2::Reason::NO_ERROR if error.is_go_away() => Some(Unprocessed::GoneAway),
                _ => None,
            };
        }
        source = error.source();
    }
    None
}

fn fault(progress: &Progress) -> ForwardError {
    match (progress.slow.get(), progress.broken.get()) {
        (true, _) => ForwardError::RequestBodyTimeout,
        (_, true) => ForwardError::RequestBody,
        _ => ForwardError::Broken("the HTTP/2 stream failed"),
    }
}

/// The client's body broke off or came too slowly: the stream is reset.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the request's body broke off")]
pub(super) struct OutFault;

type Inner = Pin<Box<dyn Body<Data = Bytes, Error = OutFault>>>;

/// A request's body on its way to an HTTP/2 server.
pub(super) struct OutBody {
    inner: Inner,
    /// As `Upload`'s.
    told_end: bool,
    policy: Rc<Policy>,
    exchange: Option<Rc<Exchange>>,
    progress: Rc<Progress>,
    quiet: Duration,
    deadline: Deadline,
}

impl OutBody {
    /// `version` is the one that the client speaks.
    pub(super) fn new<B>(
        (body, version): (B, Version),
        policy: Rc<Policy>,
        exchange: Option<Rc<Exchange>>,
        quiet: Duration,
    ) -> Self
    where
        B: Body<Data = Bytes> + 'static,
    {
        let inner = Box::pin(http_body_util::BodyExt::map_err(body, |_| OutFault));
        let told_end = version == Version::HTTP_2;
        Self {
            inner,
            told_end,
            policy,
            exchange,
            progress: Rc::default(),
            quiet,
            deadline: Deadline::default(),
        }
    }

    fn pass(&self, frame: Frame<Bytes>) -> Frame<Bytes> {
        if let (Some(data), Some(exchange)) = (frame.data_ref(), &self.exchange) {
            exchange.add_in(data.len());
        }
        match frame.into_trailers() {
            Ok(trailers) => Frame::trailers(filtered(trailers, |name| self.policy.trailer_passes(name))),
            Err(data) => data,
        }
    }
}

impl Body for OutBody {
    type Data = Bytes;
    type Error = OutFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, OutFault>>> {
        match self.inner.as_mut().poll_frame(cx) {
            Poll::Ready(None) if self.told_end && !self.inner.is_end_stream() => {
                self.progress.broken.set(true);
                Poll::Ready(Some(Err(OutFault)))
            }
            Poll::Ready(frame) => {
                self.deadline.disarm();
                self.progress.waits_for_client.set(false);
                self.progress.pieces.set(self.progress.pieces.get().wrapping_add(1));
                match &frame {
                    Some(Err(_)) => self.progress.broken.set(true),
                    None => self.progress.sent.set(true),
                    Some(Ok(_)) if self.inner.is_end_stream() => self.progress.sent.set(true),
                    Some(Ok(_)) => {}
                }
                Poll::Ready(frame.map(|f| f.map(|f| self.pass(f))))
            }
            Poll::Pending if self.progress.answered.get() => Poll::Pending,
            Poll::Pending => {
                self.progress.waits_for_client.set(true);
                let quiet = self.quiet;
                self.deadline.arm_if_idle(quiet);
                ready!(self.deadline.poll_passed(cx));
                self.progress.slow.set(true);
                Poll::Ready(Some(Err(OutFault)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn filtered(mut map: HeaderMap, passes: impl Fn(&HeaderName) -> bool) -> HeaderMap {
    let out: Vec<_> = map.keys().filter(|name| !passes(name)).cloned().collect();
    for name in out {
        map.remove(name);
    }
    map
}

/// The header of an answer as it goes back.
pub(super) fn answer_headers(map: HeaderMap) -> HeaderMap {
    filtered(map, |name| headers::answer_passes(name.as_str()))
}

/// The body of an answer.
pub(super) struct H2cBody {
    incoming: Incoming,
    watch: Watch,
    load: Load,
    /// Given up with the end of the answer.
    seat: Option<Seat>,
}

impl H2cBody {
    pub(super) fn new(incoming: Incoming, watch: Watch, (load, seat): (Load, Seat)) -> Self {
        Self { incoming, watch, load, seat: Some(seat) }
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamBodyError>>> {
        if self.watch.poll_over(cx).is_ready() {
            return Poll::Ready(Some(Err(UpstreamBodyError::SessionOver)));
        }
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        if frame.is_none() {
            self.load.end();
            self.seat = None;
            // hyper ends the body of a stream that was reset with NO_ERROR or CANCEL as if it had come whole.
            if !self.incoming.is_end_stream() {
                return Poll::Ready(Some(Err(UpstreamBodyError::Cut)));
            }
        }
        Poll::Ready(frame.map(|frame| match frame.map(Frame::into_trailers) {
            Ok(Ok(trailers)) => Ok(Frame::trailers(filtered(trailers, headers::answer_trailer_passes))),
            Ok(Err(data)) => Ok(data),
            Err(e) => Err(UpstreamBodyError::Http2(e)),
        }))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
