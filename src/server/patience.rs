//! How long a connection may keep the server waiting: one coarse deadline a connection, none a request.
//!
//! While a request is answered the server waits for ever here: its body is timed where it is read, a client that
//! does not take its answer is ended by the socket (`TCP_USER_TIMEOUT`, see [`super::listener`]), its HTTP/2 stream by
//! [`super::taken`].

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::Limits;
use super::exchanges::Count;
use super::io::{Reading, Seen};
use super::resting;
use crate::deadline::Deadline;

/// How long a client that says nothing is still listened to when the drain starts: its request may be on its way.
pub(super) const GRACE: Duration = Duration::from_millis(200);
/// How often the client of a request that takes long is looked for, on HTTP/1: while a byte of a next request waits there,
/// hyper does not see that it is gone.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// How long a connection that was told to end may take for it.
const FAREWELL: Duration = Duration::from_secs(2);

/// What the client is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// A request is being answered: for nothing.
    Busy,
    /// The (rest of the) head of this many-th request: `header_read_timeout`.
    Head(u32),
    /// A request after this many: `idle_timeout`.
    Idle(u32),
    /// The end.
    Farewell,
}

/// What to do with a client that was waited for long enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Let go of what is held for a request: the next may be long in coming.
    Rest,
    /// Look whether it is there at all.
    Look,
    /// End in good order: nothing is on its way.
    CloseGracefully,
    /// Just end.
    Drop,
}

#[derive(Debug)]
pub(super) struct Patience {
    header_read: Duration,
    idle: Duration,
    phase: Phase,
    deadline: Deadline,
    told_to_end: bool,
    /// Whether it is of HTTP/1, which can rest and is looked after, and how much of `idle` is left then.
    rests: bool,
    left: Duration,
}

impl Patience {
    pub(super) fn new(limits: &Limits, rests: bool) -> Self {
        Self {
            rests,
            left: Duration::ZERO,
            header_read: limits.header_read_timeout,
            idle: limits.idle_timeout,
            phase: Phase::Busy,
            deadline: Deadline::default(),
            told_to_end: false,
        }
    }

    /// Ready when the client was waited for long enough. To be polled after everything else of the connection.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, count: &Count, seen: &Arc<Seen>) -> Poll<Verdict> {
        let phase = self.phase_now(count, seen);
        if phase != self.phase {
            self.phase = phase;
            match phase {
                // Left armed: to let it pass once in vain is cheaper than to disarm it at each request.
                Phase::Busy => {}
                Phase::Head(_) => self.deadline.arm(self.header_read),
                Phase::Idle(_) => {
                    let first = if self.rests { self.idle.min(resting::AFTER) } else { self.idle };
                    self.left = self.idle.saturating_sub(first);
                    self.deadline.arm(first);
                }
                Phase::Farewell => self.deadline.arm(FAREWELL),
            }
        }
        let looks = self.phase == Phase::Busy && self.rests;
        if looks {
            self.deadline.arm_if_idle(LOOK_EVERY);
        }
        ready!(self.deadline.poll_passed(cx));
        match self.phase {
            Phase::Busy if looks => Poll::Ready(Verdict::Look),
            Phase::Busy => Poll::Pending,
            Phase::Idle(_) if !self.left.is_zero() => {
                self.deadline.arm(std::mem::take(&mut self.left));
                Poll::Ready(Verdict::Rest)
            }
            Phase::Idle(_) => {
                self.told_to_end = true;
                Poll::Ready(Verdict::CloseGracefully)
            }
            Phase::Head(_) | Phase::Farewell => Poll::Ready(Verdict::Drop),
        }
    }

    /// The drain has started: from here on a head must come quickly.
    pub(super) fn hurry(&mut self) {
        if self.header_read > GRACE || self.idle > GRACE {
            self.header_read = self.header_read.min(GRACE);
            self.idle = self.idle.min(GRACE);
            self.phase = Phase::Busy;
        }
    }

    /// It was told to end: once nothing is open on it, it has a moment for that.
    pub(super) fn farewell(&mut self) {
        self.told_to_end = true;
    }

    fn phase_now(&self, count: &Count, seen: &Seen) -> Phase {
        match seen.reading() {
            Reading::Lingering => Phase::Farewell,
            _ if count.open() > 0 => Phase::Busy,
            _ if self.told_to_end => Phase::Farewell,
            Reading::Silent | Reading::Head => Phase::Head(count.begun()),
            Reading::Between | Reading::Body => Phase::Idle(count.begun()),
        }
    }
}
