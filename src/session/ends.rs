//! The ends of sessions before their time: why, and how many.

use std::sync::atomic::{AtomicU64, Ordering};

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
}

impl Cause {
    const ALL: [Self; 4] = [Self::Logout, Self::Operator, Self::UserLeft, Self::Surplus];

    /// The word for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logout => "logout",
            Self::Operator => "operator",
            Self::UserLeft => "user_left",
            Self::Surplus => "surplus",
        }
    }
}

/// How many there were.
#[derive(Debug, Default)]
pub struct Ends([AtomicU64; Cause::ALL.len()]);

impl Ends {
    pub(super) fn count(&self, cause: Cause) {
        self.0[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// By cause, all of them.
    pub fn counts(&self) -> impl Iterator<Item = (Cause, u64)> {
        Cause::ALL.into_iter().zip(self.0.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}
