//! HTTP/2 frames on their way to the socket, gathered: h2 flushes behind each DATA frame that it does not copy, so each
//! answer would be a TLS record and a system call of its own. Here its flushes only note that something is to be sent;
//! it goes out when the connection's task has done all it can ([`Outlet::poll_flush`]), or when much has come together.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What is gathered at most: a TLS record.
const FULL: usize = 16 * 1024;
/// Pieces from this size on are not copied.
const LARGE: usize = 4 * 1024;

/// The stream as h2 has it.
pub(super) struct Gathered<S>(Rc<RefCell<Gathering<S>>>);

/// The same stream as the connection's task has it.
pub(super) struct Outlet<S>(Rc<RefCell<Gathering<S>>>);

struct Gathering<S> {
    stream: S,
    out: Vec<u8>,
    written: usize,
    /// Something was written to the stream, or is to be, and it was not flushed since.
    dirty: bool,
}

pub(super) fn gather<S>(stream: S) -> (Gathered<S>, Outlet<S>) {
    let shared = Rc::new(RefCell::new(Gathering { stream, out: Vec::new(), written: 0, dirty: false }));
    (Gathered(Rc::clone(&shared)), Outlet(shared))
}

impl<S: AsyncWrite + Unpin> Outlet<S> {
    /// Sends what was gathered. To be asked after each poll of the connection; costs nothing when there is nothing.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathering = self.0.borrow_mut();
        if !gathering.dirty {
            return Poll::Ready(Ok(()));
        }
        gathering.poll_flush(cx)
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    fn left(&self) -> &[u8] {
        self.out.get(self.written..).unwrap_or_default()
    }

    fn advance(&mut self, n: usize) {
        self.written += n;
        if self.written >= self.out.len() {
            self.out.clear();
            self.written = 0;
        }
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let left = self.out.get(self.written..).unwrap_or_default();
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, left))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_out(cx))?;
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.dirty = false;
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, piece: &[u8]) -> Poll<io::Result<usize>> {
        self.dirty = true;
        if piece.len() < LARGE {
            if self.out.len() + piece.len() > FULL {
                ready!(self.poll_out(cx))?;
            }
            self.out.extend_from_slice(piece);
            return Poll::Ready(Ok(piece.len()));
        }
        self.poll_large(cx, piece)
    }

    /// The piece goes out behind what was gathered before it, in one record where both fit.
    fn poll_large(&mut self, cx: &mut Context<'_>, piece: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let before = self.left().len();
            let slices =
                [IoSlice::new(self.out.get(self.written..).unwrap_or_default()), IoSlice::new(piece)];
            let n = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &slices))?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(n.min(before));
            if n > before {
                return Poll::Ready(Ok(n - before));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().poll_write(cx, buf)
    }

    /// See the module. What the socket does not take is bounded by `poll_write`.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut gathering = self.0.borrow_mut();
        ready!(gathering.poll_out(cx))?;
        Pin::new(&mut gathering.stream).poll_shutdown(cx)
    }

    /// False, so that h2 copies bodies of up to 1 KiB behind their heads.
    fn is_write_vectored(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::task::Waker;

    /// Takes what `room` says at each write, and counts them; 0 is pending.
    #[derive(Default)]
    struct Socket {
        room: Vec<usize>,
        taken: Vec<u8>,
        writes: usize,
    }

    impl AsyncWrite for Socket {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.as_mut().poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let room = self.room.pop().unwrap_or(usize::MAX);
            if room == 0 {
                return Poll::Pending;
            }
            let all: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).take(room).collect();
            self.writes += 1;
            self.taken.extend(&all);
            Poll::Ready(Ok(all.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn write_all(to: &mut Gathered<Socket>, mut bytes: &[u8]) {
        let mut cx = Context::from_waker(Waker::noop());
        while !bytes.is_empty() {
            if let Poll::Ready(n) = Pin::new(&mut *to).poll_write(&mut cx, bytes) {
                bytes = &bytes[n.unwrap()..];
            }
        }
        assert!(Pin::new(to).poll_flush(&mut cx).is_ready());
    }

    #[test]
    fn small_answers_go_out_together_and_only_when_asked() {
        let (mut gathered, outlet) = gather(Socket::default());
        (0..5).for_each(|_| write_all(&mut gathered, &[7; 1100]));
        assert_eq!(outlet.0.borrow().stream.writes, 0);
        let mut cx = Context::from_waker(Waker::noop());
        assert!(outlet.poll_flush(&mut cx).is_ready() && outlet.poll_flush(&mut cx).is_ready());
        let socket = &outlet.0.borrow().stream;
        assert_eq!((socket.writes, socket.taken.len()), (1, 5500));
    }

    #[test]
    fn what_is_gathered_is_bounded() {
        let (mut gathered, outlet) = gather(Socket::default());
        (0..100).for_each(|_| write_all(&mut gathered, &[7; 1100]));
        let gathering = outlet.0.borrow();
        assert!(gathering.out.capacity() <= 2 * FULL, "{}", gathering.out.capacity());
        assert_eq!(gathering.stream.taken.len() + gathering.out.len(), 110_000);
    }

    proptest! {
        #[test]
        fn every_byte_goes_out_once_and_in_order(
            sizes in proptest::collection::vec(1..9000usize, 1..20),
            room in proptest::collection::vec(0..6000usize, 0..60),
        ) {
            let (mut gathered, outlet) = gather(Socket { room, ..Socket::default() });
            let bytes: Vec<u8> = (0..sizes.iter().sum()).map(|n: usize| (n % 251) as u8).collect();
            let mut at = 0;
            let mut cx = Context::from_waker(Waker::noop());
            for (n, size) in sizes.iter().enumerate() {
                write_all(&mut gathered, &bytes[at..at + size]);
                at += size;
                if n % 3 == 0 {
                    let _ = outlet.poll_flush(&mut cx);
                }
            }
            while outlet.poll_flush(&mut cx).is_pending() {}
            prop_assert_eq!(&outlet.0.borrow().stream.taken, &bytes);
        }
    }
}
