//! What a connection is doing, so that the right timeout applies: waiting for a request, reading its head, or serving.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Exchanges in service, and in the lowest bit whether bytes of a head have come. Touched by one thread only; atomic
/// because hyper asks of an upgradable stream that it could be sent to another.
#[derive(Clone, Default)]
pub(super) struct Phase(Arc<AtomicUsize>);

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doing {
    Waiting,
    ReadingHead,
    Serving,
}

const HEAD: usize = 1;
const EXCHANGE: usize = 2;

/// One exchange in service; ends when dropped.
pub(super) struct Serving(Phase);

impl Phase {
    pub(super) fn doing(&self) -> Doing {
        match self.0.load(Ordering::Relaxed) {
            0 => Doing::Waiting,
            HEAD => Doing::ReadingHead,
            _ => Doing::Serving,
        }
    }

    pub(super) fn bytes_came(&self) {
        self.0.fetch_or(HEAD, Ordering::Relaxed);
    }

    /// The head has been read, the exchange begins.
    pub(super) fn serve(&self) -> Serving {
        let now = self.0.load(Ordering::Relaxed);
        self.0.store((now & !HEAD) + EXCHANGE, Ordering::Relaxed);
        Serving(self.clone())
    }
}

impl Drop for Serving {
    /// Bytes that came meanwhile were the body's.
    fn drop(&mut self) {
        let now = self.0.0.load(Ordering::Relaxed);
        self.0.0.store((now & !HEAD).saturating_sub(EXCHANGE), Ordering::Relaxed);
    }
}

/// A stream that tells its phase when bytes come.
pub(super) struct Watched<S> {
    pub(super) stream: S,
    pub(super) phase: Phase,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.phase.bytes_came();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_serves_as_long_as_one_exchange_lasts() {
        let phase = Phase::default();
        assert_eq!(phase.doing(), Doing::Waiting);
        phase.bytes_came();
        assert_eq!(phase.doing(), Doing::ReadingHead);
        let (a, b) = (phase.serve(), phase.serve());
        phase.bytes_came();
        drop(a);
        assert_eq!(phase.doing(), Doing::Serving);
        drop(b);
        assert_eq!(phase.doing(), Doing::Waiting);
    }
}
