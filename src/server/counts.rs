//! What the listeners have seen, for the metrics (contract section 7): open connections, TLS handshakes, and
//! PROXY protocol headers.

use rustls::ProtocolVersion;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::peer::ListenerKind;

/// Touched when a connection begins and ends, never between. Clones are the same.
#[derive(Clone, Debug, Default)]
pub struct ServerCounts(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    open: [AtomicUsize; ListenerKind::ALL.len()],
    handshakes: [AtomicU64; Handshake::ALL.len()],
    proxy_headers: [AtomicU64; ProxyHeader::ALL.len()],
}

/// How a TLS handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handshake {
    Tls13,
    Tls12,
    /// What the client sent is not acceptable, or it does not like what it got.
    Failed,
    /// `limits.handshake_timeout`
    TimedOut,
}

impl Handshake {
    const ALL: [Self; 4] = [Self::Tls13, Self::Tls12, Self::Failed, Self::TimedOut];

    pub(super) fn of(version: Option<ProtocolVersion>) -> Self {
        if version == Some(ProtocolVersion::TLSv1_3) { Self::Tls13 } else { Self::Tls12 }
    }

    /// The words for metrics: version and result. A handshake that failed has no version.
    #[must_use]
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::Tls13 => ("1.3", "ok"),
            Self::Tls12 => ("1.2", "ok"),
            Self::Failed => ("none", "failed"),
            Self::TimedOut => ("none", "timeout"),
        }
    }
}

/// What became of the header that a trusted proxy must send (`listen.proxy_protocol`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    Taken,
    /// Absent or malformed.
    Failed,
    /// `limits.handshake_timeout`
    TimedOut,
}

impl ProxyHeader {
    const ALL: [Self; 3] = [Self::Taken, Self::Failed, Self::TimedOut];

    /// The word for metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Taken => "ok",
            Self::Failed => "failed",
            Self::TimedOut => "timeout",
        }
    }
}

impl ServerCounts {
    fn of(&self, kind: ListenerKind) -> &AtomicUsize {
        &self.0.open[kind as usize]
    }

    /// Counts a connection for as long as the guard lives.
    pub(super) fn connection(&self, kind: ListenerKind) -> OpenConnection {
        self.of(kind).fetch_add(1, Ordering::Relaxed);
        OpenConnection { counts: self.clone(), kind }
    }

    pub(super) fn handshake(&self, how: Handshake) {
        self.0.handshakes[how as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn proxy_header(&self, what: ProxyHeader) {
        self.0.proxy_headers[what as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many are open on a listener.
    #[must_use]
    pub fn open(&self, kind: ListenerKind) -> usize {
        self.of(kind).load(Ordering::Relaxed)
    }

    /// By how they ended, all of them.
    pub fn handshakes(&self) -> impl Iterator<Item = (Handshake, u64)> {
        Handshake::ALL.into_iter().zip(self.0.handshakes.iter().map(|count| count.load(Ordering::Relaxed)))
    }

    /// By what became of them, all of them.
    pub fn proxy_headers(&self) -> impl Iterator<Item = (ProxyHeader, u64)> {
        ProxyHeader::ALL
            .into_iter()
            .zip(self.0.proxy_headers.iter().map(|count| count.load(Ordering::Relaxed)))
    }
}

#[derive(Debug)]
pub(super) struct OpenConnection {
    counts: ServerCounts,
    kind: ListenerKind,
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.counts.of(self.kind).fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_counted_while_they_are_open() {
        let counts = ServerCounts::default();
        let (a, _b) = (counts.connection(ListenerKind::Https), counts.connection(ListenerKind::Http));
        assert_eq!((counts.open(ListenerKind::Https), counts.open(ListenerKind::Http)), (1, 1));
        drop(a);
        assert_eq!((counts.open(ListenerKind::Https), counts.open(ListenerKind::Http)), (0, 1));
    }

    #[test]
    fn handshakes_are_told_apart() {
        let counts = ServerCounts::default();
        counts.handshake(Handshake::of(Some(ProtocolVersion::TLSv1_3)));
        counts.handshake(Handshake::of(Some(ProtocolVersion::TLSv1_2)));
        counts.handshake(Handshake::Failed);
        assert_eq!(counts.handshakes().map(|(_, n)| n).collect::<Vec<_>>(), [1, 1, 1, 0]);
    }
}
