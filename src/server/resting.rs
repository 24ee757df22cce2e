//! HTTP/1.1 connections at rest. hyper holds two buffers of 8 KiB and the place of a request's future for a client that says
//! nothing; most clients of a gateway say nothing most of the time. So a stream waits here for its client's first byte, is
//! handed to hyper, and is taken back [`AFTER`] its last answer.
//!
//! hyper does not give a stream back while it may be upgraded. So it holds it by a [`Moored`], out of which the stream is
//! taken when a read has found nothing and nothing of hyper's own is left: no part of a request, no part of an answer.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use zeroize::Zeroize;

use super::io::{ClientIo, Tear};

/// How long after an answer. Shorter would cost busy clients; to come back costs two allocations.
pub(super) const AFTER: Duration = Duration::from_millis(500);

/// What is read of a request before hyper is there: most heads.
const FIRST: usize = 2048;

/// Streams taken out of hyper so far.
#[cfg(test)]
pub(super) static RESTED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);

/// Where a stream is put that is taken out of hyper.
pub(super) struct Berth<S: Tear> {
    wanted: AtomicBool,
    io: Mutex<Option<Box<ClientIo<S>>>>,
}

impl<S: Tear> Berth<S> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { wanted: AtomicBool::new(false), io: Mutex::new(None) })
    }

    /// The next read that finds nothing gives the stream up, if it can.
    pub(super) fn want(&self) {
        self.wanted.store(true, Relaxed);
    }

    /// Whether it is here now; if not it is wanted no more.
    pub(super) fn has_it(&self) -> bool {
        self.wanted.store(false, Relaxed);
        self.lock().is_some()
    }

    pub(super) fn take(&self) -> Option<Box<ClientIo<S>>> {
        self.lock().take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Box<ClientIo<S>>>> {
        self.io.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream as hyper has it. None: it was taken out, and this is dropped next.
pub(super) struct Moored<S: Tear> {
    io: Option<Box<ClientIo<S>>>,
    berth: Arc<Berth<S>>,
}

impl<S: Tear> Moored<S> {
    pub(super) fn new(io: Box<ClientIo<S>>, berth: Arc<Berth<S>>) -> Self {
        Self { io: Some(io), berth }
    }

    fn io(&mut self) -> io::Result<Pin<&mut ClientIo<S>>>
    where
        S: Unpin,
    {
        self.io.as_deref_mut().map(Pin::new).ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

impl<S: AsyncRead + Tear + Unpin> AsyncRead for Moored<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.io()?.poll_read(cx, buf);
        if read.is_pending() && self.berth.wanted.load(Relaxed) && self.io()?.has_nothing_left() {
            *self.berth.lock() = self.io.take();
            #[cfg(test)]
            RESTED.fetch_add(1, Relaxed);
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Tear + Unpin> AsyncWrite for Moored<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.io()?.poll_write(cx, buf)
    }

    /// hyper flushes behind the read that has found nothing, too.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().map_or(Poll::Ready(Ok(())), |io| io.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io()?.poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(|io| io.is_write_vectored())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.io()?.poll_write_vectored(cx, bufs)
    }
}

/// A stream that waits for its client.
pub(super) struct Resting<S: Tear> {
    io: Box<ClientIo<S>>,
    ends: bool,
}

impl<S: AsyncRead + AsyncWrite + Tear + Unpin> Resting<S> {
    pub(super) fn new(io: Box<ClientIo<S>>) -> Self {
        Self { io, ends: false }
    }

    /// The stream, if its client has said something.
    pub(super) fn woken(self) -> Option<Box<ClientIo<S>>> {
        (!self.ends).then_some(self.io)
    }

    pub(super) fn end(&mut self) {
        self.ends = true;
    }

    /// Ready when the client has said something, or is gone.
    pub(super) fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ends {
            let mut scratch = [0; FIRST];
            let mut buf = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut *self.io).poll_read(cx, &mut buf));
            self.ends = read.is_err() || buf.filled().is_empty();
            read?;
            if !self.ends {
                self.io.read_again(buf.filled());
                buf.filled_mut().zeroize();
                return Poll::Ready(Ok(()));
            }
        }
        Pin::new(&mut *self.io).poll_shutdown(cx)
    }
}
