//! `limits.max_connections`: one count over all threads, touched when a connection begins and ends, never
//! between.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::counts::OpenConnection;
use crate::drain::{Drain, DrainGuard};

/// The count. Clones are the same count.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections(Arc<AtomicUsize>);

/// A connection's place in the count, given back when dropped, and its hold on the drain.
#[derive(Debug)]
pub(super) struct Admission {
    connections: Connections,
    _open: OpenConnection,
    _drain: DrainGuard,
}

impl Connections {
    /// A place, unless `max` are taken.
    pub(super) fn admit(&self, max: usize, drain: &Drain, open: OpenConnection) -> Option<Admission> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let admission = Admission { connections: self.clone(), _open: open, _drain: drain.guard() };
        (before < max).then_some(admission)
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.connections.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::ListenerKind;
    use crate::server::counts::ServerCounts;

    #[test]
    fn a_place_is_given_back() {
        let (connections, drain) = (Connections::default(), Drain::new());
        let counts = ServerCounts::default();
        let admit = || connections.admit(1, &drain, counts.connection(ListenerKind::Http));
        let first = admit();
        assert!(first.is_some() && admit().is_none());
        drop(first);
        assert!(admit().is_some());
        assert_eq!(counts.open(ListenerKind::Http), 0);
        assert_eq!(drain.in_flight(), 0);
    }
}
