//! A request's body on its way to a server, with back-pressure: a piece is asked of the client only when the one
//! before has been taken.

use bytes::Bytes;
use http::header::{self, HeaderMap};
use http::{HeaderValue, Method, Version};
use http_body::Body;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::chunked;
use super::conn::Connection;
use super::head::Sending;
use super::headers::Policy;
use crate::telemetry::exchange::Exchange;

/// How the body is to be sent: by the length that the client gave, else chunked.
pub(super) fn sending<B: Body>(method: &Method, headers: &HeaderMap, body: &B) -> Sending {
    let known = body.size_hint().exact();
    match known {
        Some(0) | None if body.is_end_stream() => {
            let says = headers.contains_key(header::CONTENT_LENGTH);
            let usual = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
            if says || usual { Sending::Length(0) } else { Sending::None }
        }
        Some(n) => Sending::Length(n),
        None => Sending::Chunked,
    }
}

/// Whether the request waits for a 100 before its body is sent.
pub(super) fn expects_continue(headers: &HeaderMap, sending: Sending) -> bool {
    let body = !matches!(sending, Sending::None | Sending::Length(0));
    let asked = |v: &HeaderValue| v.as_bytes().eq_ignore_ascii_case(b"100-continue");
    body && headers.get(header::EXPECT).is_some_and(asked)
}

/// What the upload waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiting {
    /// For the server's 100.
    Continue,
    /// For the client's next piece.
    Client,
    /// For the server to read.
    Server,
    /// For nothing: all is sent, or no more will be.
    Nothing,
}

/// Why the upload ended early.
#[derive(Debug)]
pub(super) enum UploadFault {
    /// The client's side.
    Body,
    /// The server's side: it may have answered all the same.
    Write(io::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Held,
    Open,
    /// All is staged.
    Flushing,
    Done,
    Failed,
}

pub(super) struct Upload<B> {
    body: Option<B>,
    sending: Sending,
    left: u64,
    /// HTTP/2 says itself that a body has ended; hyper hands out a stream that was reset with NO_ERROR as an end.
    told_end: bool,
    state: State,
    waiting: Waiting,
    /// Counts pieces, so that a wait can be told from progress.
    progress: u64,
    policy: Rc<Policy>,
    exchange: Option<Rc<Exchange>>,
}

impl<B: Body<Data = Bytes> + Unpin> Upload<B> {
    /// The head is staged already. `version` is the one that the client speaks.
    pub(super) fn new(
        (body, version): (B, Version),
        sending: Sending,
        held: bool,
        policy: Rc<Policy>,
        exchange: Option<Rc<Exchange>>,
    ) -> Self {
        let left = if let Sending::Length(n) = sending { n } else { 0 };
        let none = matches!(sending, Sending::None | Sending::Length(0));
        let state = match (none, held) {
            (true, _) => State::Flushing,
            (false, true) => State::Held,
            (false, false) => State::Open,
        };
        let body = (!none).then_some(body);
        let told_end = version == Version::HTTP_2;
        Self { body, sending, left, told_end, state, waiting: Waiting::Server, progress: 0, policy, exchange }
    }

    /// What is left of the upload; here it has ended.
    pub(super) fn take_rest(&mut self) -> Self {
        let Self { sending, left, told_end, state, waiting, progress, .. } = *self;
        let (body, policy, exchange) = (self.body.take(), self.policy.clone(), self.exchange.take());
        self.stop();
        Self { body, sending, left, told_end, state, waiting, progress, policy, exchange }
    }

    /// Whether something is left to be sent that a server could still want.
    pub(super) fn is_under_way(&self) -> bool {
        matches!(self.state, State::Open | State::Flushing)
    }

    /// Whether the whole request was sent.
    pub(super) fn is_complete(&self) -> bool {
        self.state == State::Done
    }

    /// Who is waited for, and a number that changes with each piece from the client and each byte that the server took.
    pub(super) fn waiting(&self, conn: &Connection) -> (Waiting, u64) {
        (self.waiting, self.progress.wrapping_add(conn.accepted()))
    }

    /// The client owes the next piece.
    pub(super) fn waits_for_client(&self) -> bool {
        self.waiting == Waiting::Client
    }

    pub(super) fn is_held(&self) -> bool {
        self.state == State::Held
    }

    /// The server wants the body, or has not said that it does not.
    pub(super) fn release(&mut self) {
        if self.state == State::Held {
            self.state = State::Open;
        }
    }

    /// No more of the body will be sent: the final answer came first, or the server reads no more.
    pub(super) fn stop(&mut self) {
        if self.state != State::Done {
            self.state = State::Failed;
        }
        self.body = None;
        self.waiting = Waiting::Nothing;
    }

    /// A final answer in place of the 100: the body is never asked for.
    pub(super) fn stop_if_held(&mut self) {
        if self.state == State::Held {
            self.stop();
        }
    }

    /// Sends on. Ready when nothing more is to be done.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        conn: &mut Connection,
    ) -> Poll<Result<(), UploadFault>> {
        loop {
            let pulled = self.poll_pull(cx, conn)?;
            if self.waiting == Waiting::Nothing {
                return Poll::Ready(Ok(()));
            }
            match conn.poll_flush(cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(UploadFault::Write(e))),
                Poll::Pending => {
                    self.waiting = Waiting::Server;
                    return Poll::Pending;
                }
            }
            match (self.state, pulled) {
                (State::Flushing, _) => {
                    self.state = State::Done;
                    self.waiting = Waiting::Nothing;
                    self.body = None;
                    return Poll::Ready(Ok(()));
                }
                (State::Held, _) => {
                    self.waiting = Waiting::Continue;
                    return Poll::Pending;
                }
                (_, Poll::Pending) => {
                    self.waiting = Waiting::Client;
                    return Poll::Pending;
                }
                (_, Poll::Ready(())) => {}
            }
        }
    }

    /// Stages pieces of the body while there is room. Pending: the client has none at the moment.
    fn poll_pull(&mut self, cx: &mut Context<'_>, conn: &mut Connection) -> Result<Poll<()>, UploadFault> {
        while self.state == State::Open && conn.staged.has_room() {
            let Some(body) = &mut self.body else { break };
            match Pin::new(&mut *body).poll_frame(cx) {
                Poll::Pending => return Ok(Poll::Pending),
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.stage(data, conn)?,
                    Err(other) => {
                        if let Ok(trailers) = other.into_trailers() {
                            self.finish(&trailers, conn)?;
                        }
                    }
                },
                Poll::Ready(Some(Err(_))) => return Err(UploadFault::Body),
                Poll::Ready(None) if self.told_end && !body.is_end_stream() => return Err(UploadFault::Body),
                Poll::Ready(None) => self.finish(&HeaderMap::new(), conn)?,
            }
        }
        Ok(Poll::Ready(()))
    }

    fn stage(&mut self, data: Bytes, conn: &mut Connection) -> Result<(), UploadFault> {
        if data.is_empty() {
            return Ok(());
        }
        self.progress += 1;
        if let Some(exchange) = &self.exchange {
            exchange.add_in(data.len());
        }
        if self.sending == Sending::Chunked {
            chunked::put_size(&mut conn.staged.buf, data.len());
            conn.staged.put(data, b"\r\n");
            return Ok(());
        }
        self.left = self.left.checked_sub(data.len() as u64).ok_or(UploadFault::Body)?;
        conn.staged.put(data, b"");
        if self.left == 0 {
            self.state = State::Flushing;
        }
        Ok(())
    }

    fn finish(&mut self, trailers: &HeaderMap, conn: &mut Connection) -> Result<(), UploadFault> {
        if self.left > 0 {
            return Err(UploadFault::Body);
        }
        if self.sending == Sending::Chunked {
            let pass = trailers.iter().filter(|(name, _)| self.policy.trailer_passes(name));
            chunked::put_end(&mut conn.staged.buf, pass);
        }
        self.state = State::Flushing;
        Ok(())
    }
}
