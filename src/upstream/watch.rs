//! Ends what streams when its session ends (contract section 4: within 1 s).

use std::task::{Context, Poll};
use std::time::Duration;

use crate::access::Principal;
use crate::clock::Clock;
use crate::deadline::Deadline;

/// How often the session is looked at; with the deadline's two ticks it stays below one second.
const EVERY: Duration = Duration::from_millis(500);

pub(super) struct Watch {
    /// None on a public route: nothing to end.
    principal: Option<Principal>,
    clock: Clock,
    next: Deadline,
}

impl Watch {
    pub(super) fn new(principal: Option<Principal>, clock: Clock) -> Self {
        Self { principal, clock, next: Deadline::default() }
    }

    /// For one who turned out to be the caller.
    pub(super) fn for_principal(self, principal: Principal) -> Self {
        Self::new(Some(principal), self.clock)
    }

    /// For another task that serves the same caller.
    pub(super) fn renewed(&self) -> Self {
        Self::new(self.principal.clone(), self.clock.clone())
    }

    /// Ready once the session is over; wakes the task for as long as it is polled.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(principal) = &self.principal else { return Poll::Pending };
        loop {
            self.next.arm_if_idle(EVERY);
            if self.next.poll_passed(cx).is_pending() {
                return Poll::Pending;
            }
            let now = self.clock.now();
            let over = match principal {
                Principal::Session(session) => session.is_over(now),
                Principal::Domain(known) => known.is_over(now),
            };
            if over {
                return Poll::Ready(());
            }
        }
    }
}
