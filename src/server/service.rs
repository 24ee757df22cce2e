//! Between hyper and the handler: the phase of the connection, and the boundary that a panic does not cross.

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::Service;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::Handler;
use super::phase::{Phase, Serving};
use crate::peer::Peer;

/// One connection's service.
pub(super) struct Serve<H> {
    pub(super) handler: Rc<H>,
    pub(super) peer: Rc<Peer>,
    pub(super) phase: Phase,
}

impl<H: Handler> Service<Request<Incoming>> for Serve<H> {
    type Response = Response<Served<H::Body>>;
    type Error = Infallible;
    type Future = Answering<Pin<Box<dyn Future<Output = Response<H::Body>>>>, H>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let (handler, peer) = (Rc::clone(&self.handler), Rc::clone(&self.peer));
        // The one allocation of a request's future: `async fn` in a trait has no name to write here.
        let answer: Pin<Box<dyn Future<Output = _>>> =
            Box::pin(async move { handler.handle(request, peer).await });
        Answering { answer, handler: Rc::clone(&self.handler), serving: Some(self.phase.serve()) }
    }
}

/// A request on its way through the handler.
pub(super) struct Answering<F, H> {
    answer: F,
    handler: Rc<H>,
    serving: Option<Serving>,
}

impl<F, H> Future for Answering<F, H>
where
    F: Future<Output = Response<H::Body>> + Unpin,
    H: Handler,
{
    type Output = Result<Response<Served<H::Body>>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut this.answer).poll(cx)));
        let answer = match polled {
            Ok(polled) => ready!(polled),
            Err(_) => {
                tracing::error!("a request's handler panicked; it is answered 500");
                this.handler.panicked()
            }
        };
        let serving = this.serving.take();
        Poll::Ready(Ok(answer.map(|body| Served { body, serving })))
    }
}

pin_project_lite::pin_project! {
    /// An answer's body; the exchange is in service until it ends.
    pub(super) struct Served<B> {
        #[pin]
        body: B,
        serving: Option<Serving>,
    }
}

impl<B: Body<Data = Bytes>> Body for Served<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        self.project().body.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
