//! A client's connection as hyper reads and writes it, with an eye on what passes.
//!
//! Lives inside hyper and, after an upgrade, wherever the upgraded stream is taken, so it is `Send` and holds
//! what must last as long as the socket: the place among `limits.max_connections` and the drain guard.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::SockRef;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use zeroize::Zeroize;

use super::admission::Admission;
use super::framing::{Position, RequestFraming};
use super::own;

/// What is read and thrown away after the last answer, so that closing does not reset the connection before the
/// client has read that answer (RFC 9112 section 9.6).
const LINGER_BYTES: usize = 256 * 1024;

#[cfg(target_os = "linux")]
const LEFT: PollFlags = PollFlags::RDHUP.union(PollFlags::HUP).union(PollFlags::ERR);
#[cfg(not(target_os = "linux"))]
const LEFT: PollFlags = PollFlags::HUP.union(PollFlags::ERR);

/// What the connection's task sees of its IO. Relaxed everywhere: one thread writes and reads it.
#[derive(Debug, Default)]
pub(super) struct Seen {
    position: AtomicU8,
    /// 0: no fault.
    fault_at: AtomicU32,
    upgraded: AtomicBool,
    torn: AtomicBool,
    /// Whether the client is there is to be looked at when hyper next flushes.
    look: AtomicBool,
}

/// How far the client's bytes have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// Not one byte yet.
    Silent,
    Between,
    Head,
    Body,
    /// The last answer is out, the rest of what the client sends is thrown away.
    Lingering,
}

impl Seen {
    pub(super) fn reading(&self) -> Reading {
        match self.position.load(Relaxed) {
            0 => Reading::Silent,
            1 => Reading::Between,
            2 => Reading::Head,
            3 => Reading::Body,
            _ => Reading::Lingering,
        }
    }

    /// Whether the request of this number (1 for the first) is ambiguous, or stands behind one that was.
    pub(super) fn is_ambiguous(&self, request: u32) -> bool {
        let fault_at = self.fault_at.load(Relaxed);
        fault_at != 0 && request >= fault_at
    }

    /// The connection speaks another protocol from here on.
    pub(super) fn upgraded(&self) {
        self.upgraded.store(true, Relaxed);
    }

    /// What was sent is not whole, and the end of the connection must not look like the end of it.
    pub(super) fn tear(&self) {
        self.torn.store(true, Relaxed);
    }

    /// See [`super::patience::Verdict::Look`]. While a body is read, its end tells.
    pub(super) fn look(&self) {
        self.look.store(self.reading() != Reading::Body, Relaxed);
    }

    fn set(&self, reading: Reading) {
        self.position.store(reading as u8, Relaxed);
    }
}

/// A stream that can be ended so that its peer sees a fault.
pub(super) trait Tear {
    /// The socket is reset when it is closed.
    fn tear(&self);
    /// Whether the peer has closed its side, whatever of it is not read yet.
    fn has_left(&self) -> bool;
}

impl Tear for TcpStream {
    fn tear(&self) {
        // Without it the peer sees a plain end: all that can be said has been said.
        let _: io::Result<()> = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }

    fn has_left(&self) -> bool {
        let mut of_it = [PollFd::new(self, LEFT)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut of_it, Some(&now)).is_ok() && of_it.iter().any(|fd| fd.revents().intersects(LEFT))
    }
}

impl Tear for TlsStream<TcpStream> {
    fn tear(&self) {
        self.get_ref().0.tear();
    }

    fn has_left(&self) -> bool {
        self.get_ref().0.has_left()
    }
}

/// One client's connection.
pub(super) struct ClientIo<S: Tear> {
    stream: S,
    seen: Arc<Seen>,
    /// None: HTTP/2, whose frames need no following.
    framing: Option<RequestFraming>,
    /// Read before hyper was there.
    early: Vec<u8>,
    /// An error answer of our own that stands for hyper's; what is left of it.
    answer: Vec<u8>,
    own_fields: Option<Arc<str>>,
    /// Something was written and not flushed since.
    unsent: bool,
    lingered: usize,
    _admission: Admission,
}

impl<S: Tear> ClientIo<S> {
    /// `own_fields`: lines that the answers carry which stand for hyper's.
    pub(super) fn http1(stream: S, admission: Admission, own_fields: Option<Arc<str>>) -> Self {
        Self::new(stream, Some(RequestFraming::default()), (admission, own_fields))
    }

    pub(super) fn http2(stream: S, admission: Admission) -> Self {
        Self::new(stream, None, (admission, None))
    }

    fn new(
        stream: S,
        framing: Option<RequestFraming>,
        (_admission, own_fields): (Admission, Option<Arc<str>>),
    ) -> Self {
        Self {
            stream,
            seen: Arc::default(),
            framing,
            early: Vec::new(),
            answer: Vec::new(),
            own_fields,
            unsent: false,
            lingered: 0,
            _admission,
        }
    }

    /// Has these bytes be read once more.
    pub(super) fn read_again(&mut self, bytes: &[u8]) {
        self.early = bytes.to_vec();
    }

    /// Whether the client has had every answer and no request of it has begun: what speaks HTTP on it holds nothing then
    /// that is not here too.
    pub(super) fn has_nothing_left(&self) -> bool {
        let is_between = self.framing.as_ref().is_some_and(|framing| framing.position() == Position::Between);
        let is_over = self.early.is_empty() && self.answer.is_empty() && !self.unsent;
        is_between && is_over && !self.seen.upgraded.load(Relaxed)
    }

    pub(super) fn seen(&self) -> Arc<Seen> {
        self.seen.clone()
    }

    /// Gives back how many of the bytes may be read.
    fn follow(&mut self, bytes: &[u8]) -> usize {
        let Some(framing) = &mut self.framing else {
            self.seen.set(Reading::Between);
            return bytes.len();
        };
        if self.seen.upgraded.load(Relaxed) {
            return bytes.len();
        }
        let good = framing.feed(bytes);
        self.seen.set(match framing.position() {
            Position::Between => Reading::Between,
            Position::Head => Reading::Head,
            Position::Body => Reading::Body,
        });
        if let Some(request) = framing.fault_at() {
            self.seen.fault_at.store(request, Relaxed);
        }
        good
    }

    fn is_broken(&self) -> bool {
        self.framing.as_ref().is_some_and(RequestFraming::is_broken)
    }
}

impl<S: Tear> Drop for ClientIo<S> {
    fn drop(&mut self) {
        if self.seen.torn.load(Relaxed) {
            self.stream.tear();
        }
    }
}

impl<S: AsyncRead + Tear + Unpin> AsyncRead for ClientIo<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.early.is_empty() {
            let now = this.early.len().min(buf.remaining());
            buf.put_slice(this.early.drain(..now).as_slice());
            if this.early.is_empty() {
                // A password may have been in it, and a connection may stay open for long.
                std::mem::take(&mut this.early).zeroize();
            }
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        if !this.is_broken() {
            ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
            let good = this.follow(buf.filled().get(before..).unwrap_or_default());
            buf.set_filled(before + good);
        }
        // What came before the fault is read first.
        if this.is_broken() && buf.filled().len() == before {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "a broken chunked body")));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Tear + Unpin> AsyncWrite for ClientIo<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unsent = true;
        if this.answer.is_empty() && this.framing.is_some() {
            this.answer = own::in_place_of(buf, this.own_fields.as_deref()).unwrap_or_default();
        }
        if this.answer.is_empty() {
            return Pin::new(&mut this.stream).poll_write(cx, buf);
        }
        while !this.answer.is_empty() {
            let sent = ready!(Pin::new(&mut this.stream).poll_write(cx, &this.answer))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            this.answer.drain(..sent);
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.seen.look.load(Relaxed) {
            this.seen.look.store(false, Relaxed);
            if this.stream.has_left() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        this.unsent = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.seen.reading() != Reading::Lingering {
            ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
            if matches!(this.seen.reading(), Reading::Silent | Reading::Between) {
                return Poll::Ready(Ok(()));
            }
            this.seen.set(Reading::Lingering);
        }
        this.poll_linger(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unsent = true;
        Pin::new(&mut this.stream).poll_write_vectored(cx, bufs)
    }
}

impl<S: AsyncRead + Tear + Unpin> ClientIo<S> {
    /// Reads to the end, or until enough was read. The connection's task bounds the time.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut scratch = [0; 4096];
        while self.lingered < LINGER_BYTES {
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() => self.lingered += buf.filled().len(),
                // The answer is out; how the client ends is its own affair.
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
