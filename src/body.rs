//! Bodies that the gateway reads whole (logins) and writes itself (its own answers).

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

use crate::clock::monotonic;
use crate::deadline::Deadline;

/// A body of the gateway's own: at most one piece.
#[derive(Debug, Default)]
pub struct Full(Option<Bytes>);

impl Full {
    #[must_use]
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self((!bytes.is_empty()).then_some(bytes))
    }

    /// Bytes that are still to be sent.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.as_ref().map_or(0, |b| b.len() as u64)
    }

    /// What is still to be sent.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.0.unwrap_or_default()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Body for Full {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|b| Ok(Frame::data(b))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len())
    }
}

/// Why a body could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum ReadError<E> {
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the body did not come in time")]
    Timeout,
    #[error("the body could not be read")]
    Broken(#[source] E),
}

/// How many bytes a second a body has to come with at least, beside what [`Pace`] allows anybody.
const LEAST_RATE: u32 = 64 * 1024;
/// How many times the longest pause a body may take as a whole.
const PAUSES: u32 = 10;

/// The time for a body that is read whole: `quiet` without a byte (contract section 2, `body_timeout`), and in all ten times as long
/// and a second for each 64 KiB, or a byte now and then would hold a place and memory for days.
#[derive(Debug)]
pub struct Pace {
    quiet: Duration,
    began: Instant,
    deadline: Deadline,
}

impl Pace {
    #[must_use]
    pub fn of(quiet: Duration) -> Self {
        let mut pace = Self { quiet, began: monotonic(), deadline: Deadline::default() };
        pace.came(0);
        pace
    }

    /// Something came; `whole` bytes are there by now.
    pub fn came(&mut self, whole: usize) {
        self.deadline.arm(self.quiet.min(left(self.began, whole, self.quiet)));
    }

    /// Ready when nothing more is to be waited for.
    pub fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.deadline.poll_passed(cx)
    }
}

/// How much time there is until more than this must have come.
fn left(began: Instant, whole: usize, quiet: Duration) -> Duration {
    let bytes = Duration::from_secs(1) * u32::try_from(whole).unwrap_or(u32::MAX) / LEAST_RATE;
    let allowed = quiet.saturating_mul(PAUSES).saturating_add(bytes);
    allowed.saturating_sub(monotonic().saturating_duration_since(began))
}

/// Reads a body of at most `max` bytes, as slowly as [`Pace`] allows. A declared length above `max` is refused before a byte is
/// read. The bytes are wiped when dropped: they may hold a password.
pub async fn read_whole<B>(
    mut body: Pin<&mut B>,
    max: usize,
    quiet: Duration,
) -> Result<Zeroizing<Vec<u8>>, ReadError<B::Error>>
where
    B: Body<Data = Bytes>,
{
    if body.size_hint().lower() > max as u64 {
        return Err(ReadError::TooLarge(max));
    }
    // Reserved whole, so that growing leaves no unwiped copy behind.
    let mut whole = Zeroizing::new(Vec::with_capacity(max));
    let mut pace = Pace::of(quiet);
    loop {
        let frame = std::future::poll_fn(|cx| match body.as_mut().poll_frame(cx) {
            Poll::Ready(frame) => Poll::Ready(frame.transpose().map_err(ReadError::Broken)),
            Poll::Pending => {
                ready!(pace.poll_late(cx));
                Poll::Ready(Err(ReadError::Timeout))
            }
        });
        let Some(frame) = frame.await? else { return Ok(whole) };
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + data.len() > max {
            discard(body, quiet).await;
            return Err(ReadError::TooLarge(max));
        }
        whole.extend_from_slice(&data);
        pace.came(whole.len());
    }
}

/// What is read of a body that is too large, so that a client that sends all of it before it reads finds its answer
/// instead of a reset connection.
const DISCARDED: usize = 256 * 1024;

async fn discard<B: Body<Data = Bytes>>(mut body: Pin<&mut B>, time: Duration) {
    let (mut left, mut deadline) = (DISCARDED, Deadline::default());
    deadline.arm(time);
    std::future::poll_fn(|cx| {
        while let Poll::Ready(frame) = body.as_mut().poll_frame(cx) {
            let data = frame.and_then(Result::ok).and_then(|frame| frame.into_data().ok());
            match left.checked_sub(data.map_or(DISCARDED, |data| data.len())) {
                Some(rest) if rest > 0 => left = rest,
                _ => return Poll::Ready(()),
            }
        }
        deadline.poll_passed(cx)
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;

    async fn read(text: &'static str, max: usize) -> Result<Vec<u8>, ReadError<Infallible>> {
        read_whole(pin!(Full::new(text)), max, Duration::from_secs(1)).await.map(|b| b.to_vec())
    }

    #[tokio::test]
    async fn a_body_of_the_largest_size_is_read_and_one_byte_more_is_not() {
        assert_eq!(read("abcd", 4).await.unwrap(), b"abcd");
        assert!(matches!(read("abcde", 4).await, Err(ReadError::TooLarge(4))));
        assert_eq!(read("", 4).await.unwrap(), b"");
    }

    #[test]
    fn what_comes_slowly_has_time_for_as_much_as_has_come() {
        let quiet = Duration::from_secs(4);
        let ago = |seconds| monotonic().checked_sub(Duration::from_secs(seconds)).unwrap();
        assert!(left(ago(0), 0, quiet) > Duration::from_secs(39));
        assert!(left(ago(30), 100, quiet) > Duration::from_secs(9));
        assert_eq!(left(ago(41), 100, quiet), Duration::ZERO);
        assert!(left(ago(41), 10 * LEAST_RATE as usize, quiet) > Duration::from_secs(8));
        assert_eq!(left(ago(1000), 5 * 1024 * 1024, quiet), Duration::ZERO);
        assert!(left(ago(0), 0, Duration::MAX) > quiet);
    }
}
