//! The body of a call over gRPC, whose message is not waited for without end.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tonic::{Code, Status};

use crate::body::Pace;

/// As slow as [`Pace`] allows; then the call fails.
pub(super) struct Paced {
    body: Incoming,
    pace: Pace,
    came: usize,
}

impl Paced {
    pub(super) fn new(body: Incoming, quiet: Duration) -> Self {
        Self { body, pace: Pace::of(quiet), came: 0 }
    }
}

impl Body for Paced {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                self.came += frame.data_ref().map_or(0, Bytes::len);
                let came = self.came;
                self.pace.came(came);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(ended) => {
                Poll::Ready(ended.map(|ended| ended.map_err(|e| Status::from_error(Box::new(e)))))
            }
            Poll::Pending => {
                ready!(self.pace.poll_late(cx));
                let late = Status::new(Code::DeadlineExceeded, "the message came too slowly");
                Poll::Ready(Some(Err(late)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
