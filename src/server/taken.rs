//! HTTP/2 answers that their client does not take: a client that opens no window holds a stream, its place among
//! `limits.max_requests` and a server's connection, and the socket notices nothing, since nothing is to be sent
//! (CVE-2019-9511, CVE-2019-9517). Of HTTP/1 the socket itself is the clock (`TCP_USER_TIMEOUT`, see
//! [`super::listener`]).
//!
//! hyper asks a body for its next piece, then waits until the client takes that. A stream's task is polled by
//! [`Taken`], its body says what it did last by [`note`], so the task knows whom it waits for.

use pin_project_lite::pin_project;
use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use crate::deadline::Deadline;

/// What a stream's task waits for, as its answer's body saw it last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Awaited {
    /// The client: a piece is ready for it.
    Client,
    /// Not the client: the next piece is not there yet.
    Answer,
}

thread_local! {
    static NOTED: Cell<Option<Awaited>> = const { Cell::new(None) };
}

/// The body's note to the task that polls it.
pub(super) fn note(awaited: Awaited) {
    NOTED.set(Some(awaited));
}

pin_project! {
    /// A stream's task; ended when the client has not taken what is ready for `patience`. The stream is reset then.
    pub(super) struct Taken<F> {
        #[pin]
        task: F,
        patience: Duration,
        deadline: Deadline,
    }
}

impl<F> Taken<F> {
    pub(super) fn new(task: F, patience: Duration) -> Self {
        Self { task, patience, deadline: Deadline::default() }
    }
}

impl<F: Future> Future for Taken<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        NOTED.set(None);
        if this.task.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match NOTED.take() {
            Some(Awaited::Client) => this.deadline.arm(*this.patience),
            Some(Awaited::Answer) => this.deadline.disarm(),
            // Still the same.
            None => {}
        }
        ready!(this.deadline.poll_passed(cx));
        tracing::debug!("an HTTP/2 stream was reset: its client does not take the answer");
        Poll::Ready(())
    }
}
