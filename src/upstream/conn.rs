//! One connection to a server: bytes in and out, with a buffer for each way that is used again.

use bytes::BytesMut;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const READ_SIZE: usize = 16 * 1024;

/// TCP, or TLS over it.
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A place among an upstream's `max_connections`; given back when dropped.
pub(super) struct Place(pub(super) Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// See the module.
pub(super) struct Conn {
    pub(super) stream: Stream,
    pub(super) read: BytesMut,
    pub(super) write: Vec<u8>,
    /// How much of `write` is sent.
    sent: usize,
    _place: Place,
}

impl Conn {
    pub(super) fn new(stream: Stream, place: Place) -> Self {
        Self { stream, read: BytesMut::new(), write: Vec::new(), sent: 0, _place: place }
    }

    /// Whether the server has neither closed nor said anything while nobody asked it.
    pub(super) fn is_quiet(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.read.is_empty() && self.poll_fill(&mut cx).is_pending()
    }

    /// Sends what is buffered; ready once all is.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.write.len() {
            let rest = self.write.get(self.sent..).unwrap_or_default();
            let n = match &mut self.stream {
                Stream::Tcp(stream) => ready!(Pin::new(stream).poll_write(cx, rest))?,
                Stream::Tls(stream) => ready!(Pin::new(stream).poll_write(cx, rest))?,
            };
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += n;
        }
        self.write.clear();
        self.sent = 0;
        match &mut self.stream {
            Stream::Tcp(_) => Poll::Ready(Ok(())),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Reads what there is; 0 at the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [0; READ_SIZE];
        let mut buf = ReadBuf::new(&mut space);
        match &mut self.stream {
            Stream::Tcp(stream) => ready!(Pin::new(stream).poll_read(cx, &mut buf))?,
            Stream::Tls(stream) => ready!(Pin::new(stream).poll_read(cx, &mut buf))?,
        }
        self.read.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    }
}
