//! What is left of a request's body when its answer has ended already: a server may answer before it has read all
//! (RFC 9112 section 9.3 leaves the connection usable only once the request was sent whole). It is sent on, so that the
//! server gets the request it was promised and both connections live; the answer does not wait for it.

use bytes::Bytes;
use http_body::Body;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use super::conn::Connection;
use super::pool::{Lane, Load};
use super::upload::{Upload, Waiting};
use super::watch::Watch;
use crate::deadline::Deadline;

pub(super) struct Leftover<B> {
    pub(super) conn: Connection,
    pub(super) upload: Upload<B>,
    pub(super) lane: Rc<Lane>,
    pub(super) load: Load,
    pub(super) watch: Watch,
    /// Without a byte from the client, or without one taken by the server.
    pub(super) quiet: Duration,
    /// How long the connection may then be kept; none: not at all.
    pub(super) reuse: Option<Duration>,
}

/// How sending on ended.
enum End {
    Sent,
    GivenUp,
}

impl<B: Body<Data = Bytes> + Unpin + 'static> Leftover<B> {
    /// Beside the thread's other tasks; ends with the upload, the connection or the session.
    pub(super) fn spawn(self) {
        tokio::task::spawn_local(self.run());
    }

    async fn run(mut self) {
        let (mut deadline, mut waits_for) = (Deadline::default(), None);
        let end = std::future::poll_fn(|cx| self.poll(cx, &mut deadline, &mut waits_for)).await;
        let Self { conn, lane, mut load, reuse, .. } = self;
        if let (End::Sent, Some(idle)) = (end, reuse) {
            lane.put_back(conn, idle);
        }
        load.end();
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        deadline: &mut Deadline,
        waits_for: &mut Option<(Waiting, u64)>,
    ) -> Poll<End> {
        match self.upload.poll(cx, &mut self.conn) {
            Poll::Ready(Ok(())) => return Poll::Ready(End::Sent),
            Poll::Ready(Err(_)) => return Poll::Ready(End::GivenUp),
            Poll::Pending => {}
        }
        // The server has answered: whatever it does now but read is its end of the exchange.
        if self.conn.poll_fill(cx).is_ready() || self.watch.poll_over(cx).is_ready() {
            return Poll::Ready(End::GivenUp);
        }
        let waiting = self.upload.waiting(&self.conn);
        if *waits_for != Some(waiting) {
            *waits_for = Some(waiting);
            deadline.arm(self.quiet);
        }
        deadline.poll_passed(cx).map(|()| End::GivenUp)
    }
}
