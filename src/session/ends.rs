//! The ends of sessions before their time: why, and how many.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::telemetry::histogram::Histogram;

/// Why a session ended before it expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Logout,
    /// By an admin call.
    Operator,
    /// The user is no longer in the directory.
    UserLeft,
    /// `login.max_sessions_per_user`
    Surplus,
    /// The engine that made it does not know it any more.
    EngineEnded,
    /// The WebSocket that logged in with its first frame has closed.
    SocketClosed,
    /// On another replica, for one of these causes.
    Elsewhere,
    /// The store that replicas share does not have it any more.
    Lost,
}

impl Cause {
    const ALL: [Self; 8] = [
        Self::Logout,
        Self::Operator,
        Self::UserLeft,
        Self::Surplus,
        Self::EngineEnded,
        Self::SocketClosed,
        Self::Elsewhere,
        Self::Lost,
    ];

    /// Whether the engine that made the session may know it still, so that it must not be adopted again.
    pub(super) fn bars(self) -> bool {
        match self {
            Self::Logout | Self::Operator | Self::Surplus | Self::SocketClosed => true,
            Self::UserLeft | Self::EngineEnded | Self::Elsewhere | Self::Lost => false,
        }
    }

    /// Whether the engine that made the session decides, and may think otherwise later.
    pub(super) fn is_asked_again(self) -> bool {
        matches!(self, Self::EngineEnded | Self::Lost)
    }

    /// The word for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::Operator => "operator",
            Self::UserLeft => "user_left",
            Self::Surplus => "surplus",
            Self::EngineEnded => "engine_ended",
            Self::SocketClosed => "socket_closed",
            Self::Elsewhere => "elsewhere",
            Self::Lost => "lost",
        }
    }
}

/// How many there were, and how long they took to reach the store, where the next start learns of them, or this replica
/// from another.
#[derive(Debug, Default)]
pub struct Ends {
    by_cause: [AtomicU64; Cause::ALL.len()],
    propagation: Mutex<Histogram>,
}

impl Ends {
    pub(super) fn count(&self, cause: Cause) {
        self.by_cause[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn took(&self, took: Duration) {
        self.lock().add(took);
    }

    /// From the end of a session here to its end in the store; where replicas share it, from its end on another to its end
    /// here.
    #[must_use]
    pub fn propagation(&self) -> Histogram {
        self.lock().clone()
    }

    /// Numbers: none is half written by a panic.
    fn lock(&self) -> MutexGuard<'_, Histogram> {
        self.propagation.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// By cause, all of them.
    pub fn counts(&self) -> impl Iterator<Item = (Cause, u64)> {
        Cause::ALL.into_iter().zip(self.by_cause.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}
