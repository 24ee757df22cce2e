//! One request's way to a server and its answer's way back, polled inside the request's future and its body: no task of
//! its own. The request's body goes on being sent while the answer's is read.

use bytes::Bytes;
use http::{HeaderMap, Method};
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::chunked::{Decoder, Piece};
use super::conn::Conn;
use super::parse::{self, Framing, Head};
use super::{ForwardError, headers, pool};
use crate::access::credentials::CredentialNames;
use crate::clock::Clock;
use crate::deadline::Deadline;
use crate::session::Session;
use crate::telemetry::exchange::Exchange;

/// Informational answers that are skipped at most.
const MAX_INFORMATIONAL: u32 = 32;
/// How long a client that waits for `100 Continue` is let wait for a server that says nothing.
const CONTINUE_AFTER: Duration = Duration::from_secs(1);
/// How often a silent answer looks whether its session is over.
const SESSION_CHECK: Duration = Duration::from_millis(500);
/// Body bytes that may wait to be sent before the client is read on.
const WRITE_AHEAD: usize = 64 * 1024;

/// Why an answer's body ends early. The client sees a broken body, never a complete one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamBodyError {
    #[error("the server broke off its answer")]
    Broken,
    #[error("the session is over")]
    SessionOver,
}

/// How the request's body is delimited to the server.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    Length,
    Chunked,
    Done,
}

pub(super) struct Timeouts {
    pub(super) response: Duration,
    pub(super) body: Duration,
}

/// See the module.
pub(super) struct Transfer<B> {
    pub(super) conn: Conn,
    pub(super) body: Pin<Box<B>>,
    pub(super) sending: Sending,
    /// Waiting for `100 Continue` (RFC 9110 section 10.1.1).
    pub(super) holds_back: bool,
    pub(super) upgrade: bool,
    pub(super) method: Method,
    pub(super) names: Arc<CredentialNames>,
    pub(super) exchange: Rc<Exchange>,
    pub(super) timeouts: Timeouts,
    pub(super) deadline: Deadline,
    pub(super) timed: Timed,
    pub(super) informational: u32,
    /// The server takes no more: its answer may have come all the same.
    pub(super) write_failed: bool,
}

/// What the deadline stands for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Timed {
    Nothing,
    Continue,
    Body,
    Response,
}

impl<B: Body<Data = Bytes> + 'static> Transfer<B> {
    /// Sends, and waits for the head of the answer.
    pub(super) async fn head(&mut self) -> Result<Head, ForwardError> {
        std::future::poll_fn(|cx| self.poll_head(cx)).await
    }

    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Head, ForwardError>> {
        loop {
            let sent = self.poll_send(cx)?;
            while let Some(head) =
                parse::take_head(&mut self.conn.read, &self.method).map_err(|e| ForwardError::Broken(e.0))?
            {
                if let Some(head) = self.accept(head)? {
                    return Poll::Ready(Ok(head));
                }
            }
            match self.conn.poll_fill(cx) {
                Poll::Ready(Ok(n)) if n > 0 => continue,
                Poll::Ready(_) => {
                    return Poll::Ready(Err(ForwardError::Broken("it closed without an answer")));
                }
                Poll::Pending => {}
            }
            self.time(sent.is_ready());
            ready!(self.deadline.poll_passed(cx));
            match self.timed {
                Timed::Continue => (self.holds_back, self.timed) = (false, Timed::Nothing),
                Timed::Body => return Poll::Ready(Err(ForwardError::RequestBodyTimeout)),
                Timed::Response | Timed::Nothing => return Poll::Ready(Err(ForwardError::Timeout)),
            }
        }
    }

    /// A final head, or one that is skipped.
    fn accept(&mut self, head: Head) -> Result<Option<Head>, ForwardError> {
        if !head.status.is_informational() {
            return Ok(Some(head));
        }
        if head.status == http::StatusCode::SWITCHING_PROTOCOLS {
            return if self.upgrade {
                Ok(Some(head))
            } else {
                Err(ForwardError::Broken("an upgrade nobody asked for"))
            };
        }
        if head.status == http::StatusCode::CONTINUE {
            self.holds_back = false;
        }
        self.informational += 1;
        if self.informational > MAX_INFORMATIONAL {
            return Err(ForwardError::Broken("too many informational answers"));
        }
        Ok(None)
    }

    fn time(&mut self, sent: bool) {
        let (timed, after) = match (sent, self.holds_back) {
            (true, _) => (Timed::Response, self.timeouts.response),
            (false, true) => (Timed::Continue, CONTINUE_AFTER),
            (false, false) => (Timed::Body, self.timeouts.body),
        };
        if timed != self.timed {
            self.timed = timed;
            self.deadline.arm(after);
        }
    }

    /// Sends what there is of the request; ready once all of it is sent, or the server takes no more.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ForwardError>> {
        loop {
            if self.write_failed {
                return Poll::Ready(Ok(()));
            }
            match self.conn.poll_flush(cx) {
                Poll::Ready(Err(_)) => self.write_failed = true,
                Poll::Ready(Ok(())) if self.sending == Sending::Done => return Poll::Ready(Ok(())),
                Poll::Ready(Ok(())) => {}
                Poll::Pending if self.sending == Sending::Done || self.conn.write.len() > WRITE_AHEAD => {
                    return Poll::Pending;
                }
                Poll::Pending => {}
            }
            if self.holds_back {
                return Poll::Pending;
            }
            match ready!(self.body.as_mut().poll_frame(cx)) {
                Some(Ok(frame)) => self.buffer(frame),
                Some(Err(_)) => return Poll::Ready(Err(ForwardError::RequestBody)),
                None => self.end_body(None),
            }
        }
    }

    fn buffer(&mut self, frame: Frame<Bytes>) {
        if self.timed == Timed::Body {
            self.deadline.arm(self.timeouts.body);
        }
        match frame.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => {
                self.exchange.add_in(data.len());
                let chunked = self.sending == Sending::Chunked;
                if chunked {
                    self.conn.write.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                }
                self.conn.write.extend_from_slice(&data);
                if chunked {
                    self.conn.write.extend_from_slice(b"\r\n");
                }
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                self.end_body(Some(&trailers));
            }
        }
    }

    fn end_body(&mut self, trailers: Option<&HeaderMap>) {
        if self.sending == Sending::Chunked {
            self.conn.write.extend_from_slice(b"0\r\n");
            for (name, value) in
                trailers.into_iter().flatten().filter(|(name, _)| headers::trailer_passes(name, &self.names))
            {
                self.conn.write.extend_from_slice(name.as_str().as_bytes());
                self.conn.write.extend_from_slice(b": ");
                self.conn.write.extend_from_slice(value.as_bytes());
                self.conn.write.extend_from_slice(b"\r\n");
            }
            self.conn.write.extend_from_slice(b"\r\n");
        }
        self.sending = Sending::Done;
    }
}

/// An answer's body on its way from the server to the client. Also sends what is left of the request's body.
pub struct Answer<B> {
    transfer: Option<Transfer<B>>,
    reading: Reading,
    keeps: bool,
    server: u64,
    session: Option<Arc<Session>>,
    clock: Clock,
}

enum Reading {
    Length(u64),
    Chunked(Decoder),
    UntilClose,
    Ended,
}

impl<B: Body<Data = Bytes> + 'static> Answer<B> {
    pub(super) fn new(
        mut transfer: Transfer<B>,
        head: &Head,
        server: u64,
        session: Option<Arc<Session>>,
        clock: Clock,
    ) -> Self {
        transfer.deadline.disarm();
        let reading = match head.framing {
            Framing::None | Framing::Length(0) => Reading::Ended,
            Framing::Length(n) => Reading::Length(n),
            Framing::Chunked => Reading::Chunked(Decoder::default()),
            Framing::UntilClose => Reading::UntilClose,
        };
        let mut answer =
            Self { transfer: Some(transfer), reading, keeps: head.keeps, server, session, clock };
        if matches!(answer.reading, Reading::Ended) {
            answer.finish();
        }
        answer
    }

    /// No body at all: an upgrade's answer.
    pub(super) fn nothing(clock: Clock) -> Self {
        Self { transfer: None, reading: Reading::Ended, keeps: false, server: 0, session: None, clock }
    }

    /// The connection serves again if both messages ended where they should and nothing is left over.
    fn finish(&mut self) {
        self.reading = Reading::Ended;
        let Some(transfer) = self.transfer.take() else { return };
        let clean = self.keeps
            && !transfer.write_failed
            && transfer.sending == Sending::Done
            && transfer.conn.write.is_empty()
            && transfer.conn.read.is_empty();
        if clean {
            pool::put(self.server, transfer.conn);
        }
    }

    fn fail(&mut self, error: UpstreamBodyError) -> Option<Result<Frame<Bytes>, UpstreamBodyError>> {
        self.reading = Reading::Ended;
        self.transfer = None;
        Some(Err(error))
    }

    fn is_over(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.is_over(self.clock.now()))
    }

    /// The next frame of what has been read; none: more must be read.
    fn decode(&mut self) -> Option<Option<Result<Frame<Bytes>, UpstreamBodyError>>> {
        let transfer = self.transfer.as_mut()?;
        match &mut self.reading {
            Reading::Ended => Some(None),
            Reading::Length(_) | Reading::UntilClose if transfer.conn.read.is_empty() => None,
            Reading::Length(left) => {
                let n = transfer.conn.read.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= n as u64;
                let (ended, data) = (*left == 0, transfer.conn.read.split_to(n).freeze());
                if ended {
                    self.finish();
                }
                Some(Some(Ok(Frame::data(data))))
            }
            Reading::UntilClose => Some(Some(Ok(Frame::data(transfer.conn.read.split().freeze())))),
            Reading::Chunked(decoder) => match decoder.next(&mut transfer.conn.read) {
                Ok(Piece::Data(data)) => Some(Some(Ok(Frame::data(data)))),
                Ok(Piece::More) => None,
                Ok(Piece::End(trailers)) => {
                    self.finish();
                    Some((!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers))))
                }
                Err(_) => Some(self.fail(UpstreamBodyError::Broken)),
            },
        }
    }
}

impl<B: Body<Data = Bytes> + 'static> Body for Answer<B> {
    type Data = Bytes;
    type Error = UpstreamBodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamBodyError>>> {
        loop {
            if self.transfer.is_none() {
                return Poll::Ready(None);
            }
            // A client whose body breaks off may still read its answer.
            if let Some(transfer) = self.transfer.as_mut() {
                let _: Poll<Result<(), ForwardError>> = transfer.poll_send(cx);
            }
            if let Some(frame) = self.decode() {
                return Poll::Ready(frame);
            }
            let Some(transfer) = self.transfer.as_mut() else { return Poll::Ready(None) };
            match transfer.conn.poll_fill(cx) {
                Poll::Ready(Ok(n)) if n > 0 => continue,
                Poll::Ready(Ok(_)) if matches!(self.reading, Reading::UntilClose) => {
                    self.finish();
                    return Poll::Ready(None);
                }
                Poll::Ready(_) => return Poll::Ready(self.fail(UpstreamBodyError::Broken)),
                Poll::Pending => {}
            }
            if self.session.is_none() {
                return Poll::Pending;
            }
            let Some(transfer) = self.transfer.as_mut() else { return Poll::Ready(None) };
            transfer.deadline.arm_if_idle(SESSION_CHECK);
            ready!(transfer.deadline.poll_passed(cx));
            if self.is_over() {
                return Poll::Ready(self.fail(UpstreamBodyError::SessionOver));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.reading, Reading::Ended)
    }

    fn size_hint(&self) -> SizeHint {
        match self.reading {
            Reading::Length(left) => SizeHint::with_exact(left),
            Reading::Ended => SizeHint::with_exact(0),
            Reading::Chunked(_) | Reading::UntilClose => SizeHint::default(),
        }
    }
}
