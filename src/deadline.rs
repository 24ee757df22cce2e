//! Coarse deadlines: one list a thread, looked through ten times a second, instead of one timer a request.
//!
//! A [`Deadline`] fires up to two ticks ([`TICK`]) late, never early. Each worker thread runs [`drive`] once; on
//! a thread without it deadlines do not fire.

use std::cell::RefCell;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use crate::clock::monotonic;

/// How often the list is looked through.
pub const TICK: Duration = Duration::from_millis(100);

thread_local! {
    static LIST: RefCell<List> = RefCell::default();
}

/// A moment in the future at which the task that polls it is woken. Unarmed until [`Deadline::arm`].
#[derive(Debug, Default)]
pub struct Deadline {
    slot: Option<usize>,
}

impl Deadline {
    /// Sets or moves the moment to `after` from now.
    pub fn arm(&mut self, after: Duration) {
        LIST.with_borrow_mut(|list| {
            let due = list.due(after);
            match self.slot {
                Some(slot) => list.slots[slot] = Slot::Armed { due, waker: None },
                None => self.slot = Some(list.take_slot(due)),
            }
        });
    }

    /// Arms only a deadline that is not armed.
    pub fn arm_if_idle(&mut self, after: Duration) {
        if self.slot.is_none() {
            self.arm(after);
        }
    }

    pub fn disarm(&mut self) {
        if let Some(slot) = self.slot.take() {
            LIST.with_borrow_mut(|list| list.free_slot(slot));
        }
    }

    #[must_use]
    pub fn is_armed(&self) -> bool {
        self.slot.is_some()
    }

    /// Ready once the moment has passed; the deadline is unarmed then. Pending while unarmed.
    pub fn poll_passed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(slot) = self.slot else { return Poll::Pending };
        let passed = LIST.with_borrow_mut(|list| list.poll_slot(slot, cx.waker()));
        if passed {
            self.disarm();
            return Poll::Ready(());
        }
        Poll::Pending
    }

    /// Waits until the moment has passed; for ever while unarmed.
    pub async fn passed(&mut self) {
        std::future::poll_fn(|cx| self.poll_passed(cx)).await;
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// Runs this thread's deadlines; never returns. Sleeps without a timer while none is armed.
pub async fn drive() {
    loop {
        std::future::poll_fn(|cx| LIST.with_borrow_mut(|list| list.poll_any_armed(cx))).await;
        tokio::time::sleep(TICK).await;
        let woken = LIST.with_borrow_mut(List::tick);
        woken.into_iter().for_each(Waker::wake);
    }
}

enum Slot {
    Free { next: Option<usize> },
    Armed { due: Instant, waker: Option<Waker> },
}

#[derive(Default)]
struct List {
    slots: Vec<Slot>,
    free: Option<usize>,
    armed: usize,
    /// The time of the last tick: what a deadline is counted from, so that arming asks no clock under load.
    now: Option<Instant>,
    driver: Option<Waker>,
}

impl List {
    /// One tick is added because `now` may be one tick old, and a deadline is never early.
    fn due(&mut self, after: Duration) -> Instant {
        if self.armed == 0 {
            self.now = Some(monotonic());
            if let Some(driver) = self.driver.take() {
                driver.wake();
            }
        }
        self.now.unwrap_or_else(monotonic) + after + TICK
    }

    fn take_slot(&mut self, due: Instant) -> usize {
        self.armed += 1;
        let armed = Slot::Armed { due, waker: None };
        match self.free {
            Some(slot) => {
                if let Slot::Free { next } = self.slots[slot] {
                    self.free = next;
                }
                self.slots[slot] = armed;
                slot
            }
            None => {
                self.slots.push(armed);
                self.slots.len() - 1
            }
        }
    }

    fn free_slot(&mut self, slot: usize) {
        self.armed -= 1;
        self.slots[slot] = Slot::Free { next: self.free };
        self.free = Some(slot);
    }

    fn poll_slot(&mut self, slot: usize, by: &Waker) -> bool {
        let now = self.now;
        let Slot::Armed { due, waker } = &mut self.slots[slot] else { return false };
        if now.is_some_and(|now| now >= *due) {
            return true;
        }
        if !waker.as_ref().is_some_and(|w| w.will_wake(by)) {
            *waker = Some(by.clone());
        }
        false
    }

    fn poll_any_armed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.armed > 0 {
            return Poll::Ready(());
        }
        self.driver = Some(cx.waker().clone());
        Poll::Pending
    }

    fn tick(&mut self) -> Vec<Waker> {
        let now = monotonic();
        self.now = Some(now);
        let mut woken = Vec::new();
        for slot in &mut self.slots {
            if let Slot::Armed { due, waker } = slot
                && now >= *due
                && let Some(waker) = waker.take()
            {
                woken.push(waker);
            }
        }
        woken
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::task::LocalSet;

    fn on_a_worker(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            tokio::task::spawn_local(drive());
            test.await;
        });
    }

    #[test]
    fn a_deadline_is_never_early_and_at_most_three_ticks_late() {
        on_a_worker(async {
            let start = monotonic();
            let mut deadline = Deadline::default();
            deadline.arm(Duration::from_millis(150));
            deadline.passed().await;
            let took = start.elapsed();
            assert!(took >= Duration::from_millis(150), "{took:?}");
            assert!(!deadline.is_armed());
        });
    }

    #[test]
    fn a_disarmed_deadline_does_not_hold_back_another() {
        on_a_worker(async {
            let (mut never, mut soon) = (Deadline::default(), Deadline::default());
            never.arm(Duration::from_secs(60));
            soon.arm(Duration::from_millis(10));
            never.disarm();
            soon.passed().await;
        });
        LIST.with_borrow(|list| assert_eq!(list.armed, 0));
    }

    #[test]
    fn slots_are_used_again() {
        let mut deadlines: Vec<_> = (0..8).map(|_| Deadline::default()).collect();
        for _ in 0..3 {
            deadlines.iter_mut().for_each(|d| d.arm(Duration::from_secs(1)));
            deadlines.iter_mut().for_each(Deadline::disarm);
        }
        LIST.with_borrow(|list| assert_eq!(list.slots.len(), 8));
    }
}
