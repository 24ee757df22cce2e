//! One connection: HTTP/1.1 or HTTP/2 by hyper, every limit set by hand, the right timeout for each phase.

use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use tokio::io::{AsyncRead, AsyncWrite};

use super::phase::{Doing, Phase, Watched};
use super::service::Serve;
use super::{Handler, Limits};
use crate::deadline::Deadline;
use crate::drain::Drain;
use crate::peer::Peer;

/// hyper's smallest buffer.
const MIN_BUFFER: usize = 8192;
const MAX_HEADERS: usize = 100;
const MAX_STREAMS: u32 = 256;
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
const SEND_BUFFER: usize = 256 * 1024;
/// Streams that were reset and not yet forgotten: more is a flood, and the connection ends.
const MAX_RESETS: usize = 64;

/// What a connection is served with.
pub(super) struct Serving<'a, H> {
    pub(super) handler: &'a Rc<H>,
    pub(super) limits: &'a Limits,
    pub(super) drain: &'a Drain,
}

/// Runs tasks on this thread.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(async move {
            future.await;
        });
    }
}

/// Serves HTTP/1.1 until the connection ends.
pub(super) async fn serve_h1<S, H>(stream: S, peer: Rc<Peer>, serving: &Serving<'_, H>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let phase = Phase::default();
    // A client that says nothing gets as long as one that does not finish its head.
    phase.bytes_came();
    let service = Serve { handler: Rc::clone(serving.handler), peer, phase: phase.clone() };
    let connection = http1::Builder::new()
        .max_headers(MAX_HEADERS)
        .max_header_size(serving.limits.max_header_bytes)
        .max_buf_size(serving.limits.max_header_bytes.max(MIN_BUFFER))
        .pipeline_flush(true)
        .half_close(true)
        .serve_connection(TokioIo::new(Watched { stream, phase: phase.clone() }), service)
        .with_upgrades();
    run(pin!(connection), &phase, serving, |connection| connection.graceful_shutdown()).await;
}

/// Serves HTTP/2 until the connection ends.
pub(super) async fn serve_h2<S, H>(stream: S, peer: Rc<Peer>, serving: &Serving<'_, H>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Handler,
{
    let phase = Phase::default();
    let service = Serve { handler: Rc::clone(serving.handler), peer, phase: phase.clone() };
    let headers = u32::try_from(serving.limits.max_header_bytes).unwrap_or(u32::MAX);
    let connection = http2::Builder::new(Local)
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(headers)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(MAX_RESETS)
        .serve_connection(TokioIo::new(stream), service);
    run(pin!(connection), &phase, serving, |connection| connection.graceful_shutdown()).await;
}

/// Polls the connection; asks it to end when it has been idle too long or the program drains, and drops it when a head
/// takes too long.
async fn run<C, E, H>(
    mut connection: Pin<&mut C>,
    phase: &Phase,
    serving: &Serving<'_, H>,
    shutdown: impl Fn(Pin<&mut C>),
) where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let mut draining = pin!(serving.drain.started());
    let mut deadline = Deadline::default();
    let (mut timed, mut ending) = (Doing::Serving, false);
    std::future::poll_fn(|cx| {
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                if let Err(error) = ended {
                    tracing::debug!(%error, "a connection ended");
                }
                return Poll::Ready(());
            }
            if !ending && draining.as_mut().poll(cx).is_ready() {
                ending = true;
                shutdown(connection.as_mut());
                continue;
            }
            let doing = phase.doing();
            if doing != timed {
                timed = doing;
                match doing {
                    Doing::Serving => deadline.disarm(),
                    Doing::Waiting => deadline.arm(serving.limits.idle_timeout),
                    Doing::ReadingHead => deadline.arm(serving.limits.header_read_timeout),
                }
            }
            if deadline.poll_passed(cx).is_pending() {
                return Poll::Pending;
            }
            if ending || doing != Doing::Waiting {
                return Poll::Ready(());
            }
            ending = true;
            deadline.arm(serving.limits.header_read_timeout);
            shutdown(connection.as_mut());
        }
    })
    .await;
}
