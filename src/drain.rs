//! Ending without loss: the program first says that it wants no new traffic, then stops accepting, then waits
//! for what is in flight. Upgraded streams hold a guard too: hyper's connection future ends at the 101.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// The state of the end, shared by all threads. Clones are the same drain.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    announced: CancellationToken,
    started: CancellationToken,
    cut: CancellationToken,
    in_flight: TaskTracker,
}

/// Held by whatever must end before the program does.
#[derive(Debug)]
pub struct DrainGuard(#[expect(dead_code, reason = "counts while it lives")] TaskTrackerToken);

impl Drain {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// No new traffic is wanted: `/readyz` answers 503 from here on. Connections are still taken.
    pub fn announce(&self) {
        self.announced.cancel();
    }

    #[must_use]
    pub fn is_announced(&self) -> bool {
        self.announced.is_cancelled()
    }

    /// Waits for [`Drain::announce`].
    pub async fn announced(&self) {
        self.announced.cancelled().await;
    }

    /// Listeners stop accepting, connections finish what is in flight and close.
    pub fn start(&self) {
        self.announce();
        self.in_flight.close();
        self.started.cancel();
    }

    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started.is_cancelled()
    }

    /// Waits for [`Drain::start`].
    pub async fn started(&self) {
        self.started.cancelled().await;
    }

    /// What is in flight is not waited for any longer.
    pub fn cut(&self) {
        self.start();
        self.cut.cancel();
    }

    /// Waits for [`Drain::cut`], or until the drain has started and every guard is gone.
    pub async fn finished_or_cut(&self) {
        tokio::select! {
            () = self.finished() => {}
            () = self.cut.cancelled() => {}
        }
    }

    /// One more thing in flight.
    #[must_use]
    pub fn guard(&self) -> DrainGuard {
        DrainGuard(self.in_flight.token())
    }

    /// Waits until the drain has started and every guard is gone.
    pub async fn finished(&self) {
        self.in_flight.wait().await;
    }

    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finished_waits_for_the_last_guard() {
        let drain = Drain::new();
        let guard = drain.guard();
        drain.start();
        let waiter = tokio::spawn({
            let drain = drain.clone();
            async move { drain.finished().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiter.is_finished());
        drop(guard);
        waiter.await.unwrap();
        assert!(drain.is_announced() && drain.is_started());
    }
}
