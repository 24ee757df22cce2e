//! One connection to a server with its buffers. Knows bytes, no HTTP.

use bytes::{Buf, Bytes, BytesMut};
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;

use super::stream::Stream;

/// What is read at once at first, and the most once a long body flows.
const READ_MIN: usize = 8 * 1024;
const READ_MAX: usize = 64 * 1024;
/// Pieces up to this size are copied behind what is to be written anyway; larger ones are written from where they are.
const COPY_MAX: usize = 8 * 1024;

/// What is on its way out: a buffer, and behind it at most one piece that is not copied.
#[derive(Default)]
pub(super) struct Staged {
    pub(super) buf: Vec<u8>,
    written: usize,
    piece: Bytes,
    tail: &'static [u8],
}

impl Staged {
    pub(super) fn is_empty(&self) -> bool {
        self.written == self.buf.len() && self.piece.is_empty() && self.tail.is_empty()
    }

    /// Whether more may be put behind what is staged.
    pub(super) fn has_room(&self) -> bool {
        self.piece.is_empty() && self.tail.is_empty() && self.buf.len() < COPY_MAX * 2
    }

    /// Stages data and what ends it.
    pub(super) fn put(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= COPY_MAX {
            self.buf.extend_from_slice(&data);
            self.buf.extend_from_slice(tail);
        } else {
            (self.piece, self.tail) = (data, tail);
        }
    }

    fn advance(&mut self, mut n: usize) {
        let of_buf = n.min(self.buf.len() - self.written);
        self.written += of_buf;
        n -= of_buf;
        let of_piece = n.min(self.piece.len());
        self.piece.advance(of_piece);
        n -= of_piece;
        self.tail = self.tail.get(n..).unwrap_or_default();
        if self.written == self.buf.len() {
            self.buf.clear();
            self.written = 0;
        }
    }
}

pub(super) struct Connection {
    stream: Stream,
    /// What was read and not yet taken.
    pub(super) read: BytesMut,
    pub(super) staged: Staged,
    /// Bytes of the current request that the system took.
    accepted: u64,
    next_read: usize,
    /// Counts against `max_connections` while it lives.
    slot: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) fn new(stream: Stream, slot: OwnedSemaphorePermit) -> Self {
        let read = BytesMut::with_capacity(READ_MIN);
        Self { stream, read, staged: Staged::default(), accepted: 0, next_read: READ_MIN, slot }
    }

    /// Ready for one more request, if nothing came since the last. `just_used`: a server that closes so soon says so
    /// in its answer; between asking the system and writing it could close just as well.
    pub(super) fn is_fresh(&self, just_used: bool) -> bool {
        let quiet = || (just_used && self.stream.seems_quiet()) || self.stream.is_quiet();
        self.read.is_empty() && self.staged.is_empty() && quiet()
    }

    /// Gives back what a long body made large; called before it waits for the next request.
    pub(super) fn rest(&mut self) {
        self.accepted = 0;
        self.next_read = READ_MIN;
        self.staged.buf.clear();
        self.staged.buf.shrink_to(COPY_MAX);
        if self.read.capacity() > 2 * READ_MIN {
            self.read = BytesMut::new();
        }
    }

    /// Bytes of the current request that the system took.
    pub(super) fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Whether the system took any byte of the current request.
    pub(super) fn has_accepted(&self) -> bool {
        self.accepted > 0
    }

    /// Writes all that is staged.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS takes bytes into records of its own: a write that fails may have sent some of them.
        if matches!(self.stream, Stream::Tls { .. }) && !self.staged.is_empty() {
            self.accepted = self.accepted.max(1);
        }
        while !self.staged.is_empty() {
            let staged = &self.staged;
            let head = staged.buf.get(staged.written..).unwrap_or_default();
            let written = if staged.piece.is_empty() && staged.tail.is_empty() {
                ready!(Pin::new(&mut self.stream).poll_write(cx, head))?
            } else {
                let all = [IoSlice::new(head), IoSlice::new(&staged.piece), IoSlice::new(staged.tail)];
                ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &all))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.accepted += written as u64;
            self.staged.advance(written);
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Reads what there is behind what was read before; 0 at the end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.capacity() - self.read.len() < self.next_read / 2 {
            self.read.reserve(self.next_read);
        }
        let room = self.read.capacity() - self.read.len();
        let n = ready!(pin!(self.stream.read_buf(&mut self.read)).poll(cx))?;
        if n == room {
            self.next_read = (self.next_read * 2).min(READ_MAX);
        }
        Poll::Ready(Ok(n))
    }

    /// For an upgrade: the stream, what was read behind the head, and the slot.
    pub(super) fn into_parts(self) -> (Stream, BytesMut, OwnedSemaphorePermit) {
        (self.stream, self.read, self.slot)
    }
}
