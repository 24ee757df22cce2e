//! The body of every answer: the gateway's own bytes or messages, or the upstream's stream, counted, with the exchange kept alive
//! until the last byte is gone.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use crate::body::Full;
use crate::telemetry::exchange::Exchange;
use crate::upstream::{UpstreamBody, UpstreamBodyError};

use super::in_flight::InFlight;
use super::request_body::RequestBody;

pin_project_lite::pin_project! {
    /// See the module.
    pub struct AnswerBody {
        #[pin]
        source: Source,
        exchange: Option<Rc<Exchange>>,
        in_flight: Option<InFlight>,
    }
}

pin_project_lite::pin_project! {
    /// Where the bytes come from.
    #[project = SourceProjection]
    pub enum Source {
        Own { full: Full },
        Upstream { #[pin] body: UpstreamBody<RequestBody> },
        Grpc { #[pin] body: tonic::body::Body },
    }
}

impl AnswerBody {
    #[must_use]
    pub fn own(full: Full) -> Self {
        Self::from(Source::Own { full })
    }

    #[must_use]
    pub fn upstream(body: UpstreamBody<RequestBody>) -> Self {
        Self::from(Source::Upstream { body })
    }

    #[must_use]
    pub fn grpc(body: tonic::body::Body) -> Self {
        Self::from(Source::Grpc { body })
    }

    /// Ties the exchange, and its place among those in flight, to the end of the body.
    #[must_use]
    pub fn held(mut self, exchange: Rc<Exchange>, in_flight: Option<InFlight>) -> Self {
        (self.exchange, self.in_flight) = (Some(exchange), in_flight);
        self
    }
}

impl From<Source> for AnswerBody {
    fn from(source: Source) -> Self {
        Self { source, exchange: None, in_flight: None }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = UpstreamBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UpstreamBodyError>>> {
        let this = self.project();
        let frame = match this.source.project() {
            SourceProjection::Own { full } => {
                ready!(Pin::new(full).poll_frame(cx)).map(|frame| frame.map_err(|never| match never {}))
            }
            SourceProjection::Upstream { body } => ready!(body.poll_frame(cx)),
            // What goes wrong is told in the trailers: a failure of the stream itself only ends it.
            SourceProjection::Grpc { body } => ready!(body.poll_frame(cx)).map(|frame| {
                frame.map_err(|_| UpstreamBodyError::Broken("the message could not be written"))
            }),
        };
        if let (Some(Ok(frame)), Some(exchange)) = (&frame, this.exchange)
            && let Some(data) = frame.data_ref()
        {
            exchange.add_out(data.len());
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Own { full } => full.is_end_stream(),
            Source::Upstream { body } => body.is_end_stream(),
            Source::Grpc { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Own { full } => full.size_hint(),
            Source::Upstream { body } => body.size_hint(),
            Source::Grpc { body } => body.size_hint(),
        }
    }
}
