//! The drain as one worker's connections see it. [`crate::drain::Drain`] is shared by all threads and behind a
//! mutex; asking it at every poll of every connection would make that mutex hot. So one task a worker waits for
//! it and tells the others.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// One worker's copy of how far the drain is, and who is to be woken when it starts.
#[derive(Debug, Default)]
pub(super) struct Draining {
    announced: Cell<bool>,
    started: Cell<bool>,
    waiting: RefCell<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// One connection's ear. Registers its task once.
#[derive(Debug)]
pub(super) struct DrainListener {
    draining: Rc<Draining>,
    slot: Option<usize>,
}

impl Draining {
    pub(super) fn announce(&self) {
        self.announced.set(true);
    }

    /// No new traffic is wanted: a client that keeps a connection is to learn so before it is closed under a request.
    pub(super) fn is_announced(&self) -> bool {
        self.announced.get() || self.started.get()
    }

    pub(super) fn start(&self) {
        self.started.set(true);
        let wakers = std::mem::take(&mut self.waiting.borrow_mut().wakers);
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    pub(super) fn is_started(&self) -> bool {
        self.started.get()
    }

    pub(super) fn listener(self: &Rc<Self>) -> DrainListener {
        DrainListener { draining: self.clone(), slot: None }
    }
}

impl DrainListener {
    /// Ready once the drain has started. Always polled by the same task.
    pub(super) fn poll_started(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.draining.is_started() {
            return Poll::Ready(());
        }
        if self.slot.is_none() {
            let mut waiting = self.draining.waiting.borrow_mut();
            let waker = Some(cx.waker().clone());
            self.slot = Some(match waiting.free.pop() {
                Some(slot) => {
                    waiting.wakers[slot] = waker;
                    slot
                }
                None => {
                    waiting.wakers.push(waker);
                    waiting.wakers.len() - 1
                }
            });
        }
        Poll::Pending
    }
}

impl Drop for DrainListener {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        let mut waiting = self.draining.waiting.borrow_mut();
        if let Some(waker) = waiting.wakers.get_mut(slot) {
            *waker = None;
            waiting.free.push(slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn starting_wakes_those_who_listen_and_slots_are_used_again() {
        let draining = Rc::new(Draining::default());
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..3 {
            assert!(draining.listener().poll_started(&mut cx).is_pending());
        }
        assert_eq!(draining.waiting.borrow().wakers.len(), 1);
        let mut listener = draining.listener();
        let waits = std::future::poll_fn(|cx| listener.poll_started(cx));
        tokio::join!(waits, async { draining.start() });
        assert!(draining.is_started());
    }
}
