//! The end of a session at the engine that made it. Here it has ended already and is barred; the engine is told at once,
//! and again until it has heard it or the session would have expired.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

use super::ends::Cause;
use super::map::Sessions;
use super::store::StoreError;
use crate::clock::{Clock, UnixMillis, monotonic};
use crate::engine::{Engine, EngineError};
use crate::secret::{ExposeSecret, KeyHash, SecretString};

/// The time before the second try; doubled with each that fails.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Ends that wait at once. Past it the oldest is given up: its session stays barred here.
const MOST_WAITING: usize = 100_000;

/// Credentials that are to end at the engine. In memory alone: a store keeps hashes, with which nobody can log out.
pub struct Leaving {
    pub engine: Arc<Engine>,
    pub token: SecretString,
    pub key: SecretString,
    pub expires: UnixMillis,
}

struct Waiting {
    leaving: Leaving,
    due: Instant,
    pause: Duration,
}

/// Tells engines of ended sessions. Shared by all threads and outside of the configuration.
pub struct EngineLogouts {
    sessions: Arc<Sessions>,
    clock: Clock,
    waiting: Mutex<VecDeque<Waiting>>,
    more: Notify,
}

impl EngineLogouts {
    #[must_use]
    pub fn new(sessions: Arc<Sessions>, clock: Clock) -> Arc<Self> {
        Arc::new(Self { sessions, clock, waiting: Mutex::default(), more: Notify::new() })
    }

    /// Ends a session here, then at the engine; should that fail, it is tried again behind the answer. A task of its
    /// own: whoever asked may go away before either is done. The answer is that of the end here.
    pub async fn end(
        self: &Arc<Self>,
        id: KeyHash,
        cause: Cause,
        leaving: Leaving,
    ) -> Result<bool, StoreError> {
        let this = Arc::clone(self);
        let ended = tokio::spawn(async move {
            let ended = this.sessions.end(&id, cause).await;
            if !matches!(ended, Ok(false))
                && let Err((leaving, error)) = this.try_once(leaving).await
            {
                tracing::warn!(%error, "the session has ended here; its end at the engine is tried again");
                this.wait(leaving, FIRST_PAUSE);
            }
            ended
        });
        // Not joined only when it panicked or the program ends.
        let stopped = |what: tokio::task::JoinError| StoreError { store: "session", what: what.to_string() };
        ended.await.map_err(stopped)?
    }

    /// Ends that the engine has not heard of yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.waiting().len()
    }

    /// Tries again what waits; never returns.
    pub async fn drive(self: Arc<Self>) {
        loop {
            let Some(due) = self.waiting().front().map(|first| first.due) else {
                self.more.notified().await;
                continue;
            };
            let pause = due.saturating_duration_since(monotonic());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.more.notified() => continue,
            }
            let Some(Waiting { leaving, pause, .. }) = self.waiting().pop_front() else { continue };
            if let Err((leaving, error)) = self.try_once(leaving).await {
                tracing::debug!(%error, "an end at the engine is tried again");
                self.wait(leaving, (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE));
            }
        }
    }

    async fn try_once(&self, leaving: Leaving) -> Result<(), (Leaving, EngineError)> {
        if leaving.expires <= self.clock.now() {
            return Ok(());
        }
        let (token, key) = (leaving.token.expose_secret(), leaving.key.expose_secret());
        match leaving.engine.logout(token, key).await {
            // False: it had ended there before.
            Ok(_) => {
                if let Err(error) = self.sessions.unbar(KeyHash::of(key)).await {
                    tracing::warn!(%error, "an ended session is still barred in the store");
                }
                Ok(())
            }
            Err(error) => Err((leaving, error)),
        }
    }

    /// In the order in which they are due.
    fn wait(&self, leaving: Leaving, pause: Duration) {
        let mut waiting = self.waiting();
        if waiting.len() >= MOST_WAITING {
            waiting.pop_front();
            tracing::warn!(
                "an end that the engine was not told of is given up; its session stays barred here"
            );
        }
        let due = monotonic() + pause;
        let at = waiting.partition_point(|other| other.due <= due);
        waiting.insert(at, Waiting { leaving, due, pause });
        self.more.notify_one();
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
