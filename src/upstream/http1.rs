//! One HTTP/1.1 exchange over one connection up to the head of the answer. No task of its own: polled inside the
//! request's future. What comes behind the head is `body`'s.

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::Body;
use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::ForwardError;
use super::conn::Connection;
use super::heads::HeadReader;
use super::parse::Head;
use super::upload::{Upload, UploadFault, Waiting};
use super::watch::Watch;
use crate::clock::monotonic;
use crate::deadline::Deadline;

/// The most informational answers before the final one.
const MAX_INFORMATIONAL: u32 = 32;
/// How long the body is held back without any answer to `Expect: 100-continue` (RFC 9110 section 10.1.1).
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// The waits of one exchange.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// From the end of the request to the head of the answer.
    pub(super) response: Duration,
    /// Without a byte of the client's body.
    pub(super) body: Duration,
}

impl Limits {
    /// Without a byte that the server takes. The response time has not begun; a server may be slow to read.
    pub(super) fn to_take(self) -> Duration {
        self.body.max(self.response)
    }
}

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Fault {
    /// The system took no byte of the request: it may be sent elsewhere.
    Unsent(io::Error),
    Failed(ForwardError),
}

/// What has to be known to get the answer to one request.
pub(super) struct Call<'c> {
    pub(super) method: &'c Method,
    /// Whether a 101 is an answer to what was asked.
    pub(super) upgrade: bool,
    pub(super) limits: Limits,
    /// When the last of the request was sent.
    pub(super) sent: Option<Instant>,
    informational: u32,
    heads: HeadReader,
    deadline: Deadline,
    waits_for: Option<(Waiting, u64)>,
}

impl<'c> Call<'c> {
    pub(super) fn new(method: &'c Method, upgrade: bool, limits: Limits) -> Self {
        let (heads, deadline) = (HeadReader::default(), Deadline::default());
        Self { method, upgrade, limits, sent: None, informational: 0, heads, deadline, waits_for: None }
    }

    /// Sends what is staged and the body, and reads the head of the final answer.
    pub(super) async fn run<B>(
        &mut self,
        conn: &mut Connection,
        upload: &mut Upload<B>,
        watch: &mut Watch,
    ) -> Result<Head, Fault>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        std::future::poll_fn(|cx| self.poll(cx, conn, upload, watch)).await
    }

    fn poll<B>(
        &mut self,
        cx: &mut Context<'_>,
        conn: &mut Connection,
        upload: &mut Upload<B>,
        watch: &mut Watch,
    ) -> Poll<Result<Head, Fault>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        loop {
            poll_upload(cx, conn, upload)?;
            if self.sent.is_none() && upload.is_complete() {
                self.sent = Some(monotonic());
            }
            let before = upload.waiting(conn);
            if let Poll::Ready(head) = self.poll_head(cx, conn, upload)? {
                return Poll::Ready(Ok(head));
            }
            if before.0 == Waiting::Continue && !upload.is_held() {
                continue;
            }
            match self.poll_wait(cx, upload.waiting(conn)) {
                Poll::Pending => break,
                Poll::Ready(Waiting::Continue) => upload.release(),
                Poll::Ready(Waiting::Client) => return failed(ForwardError::RequestBodyTimeout),
                Poll::Ready(Waiting::Server | Waiting::Nothing) => return failed(ForwardError::Timeout),
            }
        }
        if !upload.is_complete() && watch.poll_over(cx).is_ready() {
            return failed(ForwardError::RequestBody);
        }
        Poll::Pending
    }

    fn poll_head<B: Body<Data = Bytes> + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        conn: &mut Connection,
        upload: &mut Upload<B>,
    ) -> Poll<Result<Head, Fault>> {
        loop {
            while let Some(head) = self.next_head(conn)? {
                if self.is_final(&head, upload)? {
                    upload.stop_if_held();
                    return Poll::Ready(Ok(head));
                }
            }
            match conn.poll_fill(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(0)) => return closed(conn, io::ErrorKind::UnexpectedEof.into()),
                Poll::Ready(Err(e)) => return closed(conn, e),
                Poll::Ready(Ok(_)) => {}
            }
        }
    }

    fn next_head(&mut self, conn: &mut Connection) -> Result<Option<Head>, Fault> {
        self.heads.read(&mut conn.read, self.method).map_err(|b| broken(b.0))
    }

    fn is_final<B: Body<Data = Bytes> + Unpin>(
        &mut self,
        head: &Head,
        upload: &mut Upload<B>,
    ) -> Result<bool, Fault> {
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return if self.upgrade { Ok(true) } else { Err(broken("101 that was not asked for")) };
        }
        if !head.status.is_informational() {
            return Ok(true);
        }
        self.informational += 1;
        if self.informational > MAX_INFORMATIONAL {
            return Err(broken("too many informational answers"));
        }
        if head.status == StatusCode::CONTINUE {
            upload.release();
        }
        Ok(false)
    }

    /// Ready when what is waited for has not come in its time. Progress starts the time anew.
    fn poll_wait(&mut self, cx: &mut Context<'_>, waiting: (Waiting, u64)) -> Poll<Waiting> {
        if self.waits_for != Some(waiting) {
            self.waits_for = Some(waiting);
            self.deadline.arm(match waiting.0 {
                Waiting::Continue => CONTINUE_WAIT,
                Waiting::Client => self.limits.body,
                Waiting::Server => self.limits.to_take(),
                Waiting::Nothing => self.limits.response,
            });
        }
        self.deadline.poll_passed(cx).map(|()| waiting.0)
    }
}

/// A failed write is no end yet: the server may have answered before it closed.
fn poll_upload<B: Body<Data = Bytes> + Unpin>(
    cx: &mut Context<'_>,
    conn: &mut Connection,
    upload: &mut Upload<B>,
) -> Result<(), Fault> {
    match upload.poll(cx, conn) {
        Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        Poll::Ready(Err(UploadFault::Body)) => Err(Fault::Failed(ForwardError::RequestBody)),
        Poll::Ready(Err(UploadFault::Write(e))) if !conn.has_accepted() => Err(Fault::Unsent(e)),
        Poll::Ready(Err(UploadFault::Write(_))) => {
            upload.stop();
            Ok(())
        }
    }
}

fn closed(conn: &Connection, e: io::Error) -> Poll<Result<Head, Fault>> {
    if conn.read.is_empty() && !conn.has_accepted() {
        return Poll::Ready(Err(Fault::Unsent(e)));
    }
    Poll::Ready(Err(broken("closed before the head was complete")))
}

fn broken(what: &'static str) -> Fault {
    Fault::Failed(ForwardError::Broken(what))
}

fn failed(e: ForwardError) -> Poll<Result<Head, Fault>> {
    Poll::Ready(Err(Fault::Failed(e)))
}
