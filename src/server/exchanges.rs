//! One request on its way through the handler: the count of what is open on a connection, the panic boundary, and the
//! answer's body.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH};
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use std::cell::Cell;
use std::convert::Infallible;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::Handler;
use super::draining::Draining;
use super::io::Seen;
use super::taken::{Awaited, note};
use super::wellformed::Misframed;
use crate::peer::Peer;

/// What a connection's requests share.
pub(super) struct Exchanges<H> {
    handler: Rc<H>,
    peer: Rc<Peer>,
    seen: Arc<Seen>,
    count: Rc<Count>,
    /// Of HTTP/1, which has no other way to say it than with an answer.
    draining: Option<Rc<Draining>>,
}

/// How many exchanges of a connection have begun and how many have not ended.
#[derive(Debug, Default)]
pub(super) struct Count {
    begun: Cell<u32>,
    open: Cell<u32>,
}

impl Count {
    pub(super) fn begun(&self) -> u32 {
        self.begun.get()
    }

    pub(super) fn open(&self) -> u32 {
        self.open.get()
    }

    fn begin(self: &Rc<Self>) -> Open {
        self.begun.set(self.begun.get().wrapping_add(1));
        self.open.set(self.open.get() + 1);
        Open(self.clone())
    }
}

/// From the request's head to the end of the answer's body.
#[derive(Debug)]
struct Open(Rc<Count>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}

impl<H: Handler> Exchanges<H> {
    pub(super) fn new(handler: Rc<H>, peer: Rc<Peer>, seen: Arc<Seen>) -> Self {
        Self { handler, peer, seen, count: Rc::default(), draining: None }
    }

    /// Each answer while no new traffic is wanted is the last one of its connection.
    pub(super) fn closing(self, draining: Rc<Draining>) -> Self {
        Self { draining: Some(draining), ..self }
    }

    pub(super) fn count(&self) -> Rc<Count> {
        self.count.clone()
    }

    /// The answer to one request; never an error. A request whose length is ambiguous is marked so, and whatever
    /// is answered to it, the connection closes: nothing on it can be told apart any more. A handler's panic hurts
    /// no other request.
    pub(super) fn answer(
        &self,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<AnswerBody<H::Body>>, Infallible>> + use<H> {
        let open = self.count.begin();
        let misframed = self.seen.is_ambiguous(self.count.begun());
        if misframed {
            request.extensions_mut().insert(Misframed);
        }
        let (handler, peer, seen) = (self.handler.clone(), self.peer.clone(), self.seen.clone());
        let draining = self.draining.clone();
        // hyper's HTTP/1 leaves a body away where none may be; its HTTP/2 sends it, which ends the stream for the client.
        let is_bodiless = request.version() == Version::HTTP_2 && request.method() == Method::HEAD;
        let ends_by_close = request.version() == Version::HTTP_10;
        async move {
            // Awaited where it is made: in a variable of its own it would have its place twice.
            let handled = PanicBoundary { inner: handler.handle(request, peer) }.await;
            let mut response = handled.unwrap_or_else(|Panicked| {
                tracing::error!("a request's handler panicked; it is answered 500");
                handler.panicked()
            });
            let switches = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            if switches {
                seen.upgraded();
            }
            if misframed || !switches && draining.is_some_and(|draining| draining.is_announced()) {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            if is_bodiless {
                tell_length(&mut response);
            }
            let torn = ends_by_close.then_some(seen);
            Ok(response.map(|body| AnswerBody { body, open, is_bodiless, torn }))
        }
    }
}

/// The length that the same answer to a GET would have (RFC 9110 section 8.6), where it is known.
fn tell_length<B: Body>(response: &mut Response<B>) {
    if let Some(length) = response.body().size_hint().exact().filter(|length| *length > 0) {
        response.headers_mut().entry(CONTENT_LENGTH).or_insert(HeaderValue::from(length));
    }
}

struct Panicked;

pin_project! {
    struct PanicBoundary<F> {
        #[pin]
        inner: F,
    }
}

impl<F: Future> Future for PanicBoundary<F> {
    type Output = Result<F::Output, Panicked>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let inner = self.project().inner;
        // Nothing of the future is looked at after a panic: it is only dropped.
        match catch_unwind(AssertUnwindSafe(|| inner.poll(cx))) {
            Ok(polled) => polled.map(Ok),
            Err(_) => Poll::Ready(Err(Panicked)),
        }
    }
}

pin_project! {
    /// The answer's body; while it lives the exchange is open.
    pub(super) struct AnswerBody<B> {
        #[pin]
        body: B,
        open: Open,
        // None of it is sent: the answer to a HEAD.
        is_bodiless: bool,
        // Where the end of the connection may be the end of the body (HTTP/1.0): told when the body breaks off.
        torn: Option<Arc<Seen>>,
    }
}

impl<B: Body<Data = Bytes>> Body for AnswerBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let polled = this.body.poll_frame(cx);
        if let (Poll::Ready(Some(Err(_))), Some(seen)) = (&polled, this.torn) {
            seen.tear();
        }
        note(if polled.is_ready() { Awaited::Client } else { Awaited::Answer });
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.is_bodiless || self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
