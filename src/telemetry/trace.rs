//! What a recorded request notes for its trace: moments on its way, kept beside the exchange, and the whole story when
//! all of it has ended. A request that is not recorded has none of this.

use http::{HeaderMap, Version};
use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Instant;

use super::exchange::Decision;
use super::ids::{Ids, TracePlace};
use super::label::Label;
use super::traces::SpanBuffer;
use crate::clock::monotonic;
use crate::identity::RoleName;
use crate::peer::{Handshake, ListenerKind, Peer};

/// The longest part of a path that is kept.
const MAX_PATH: usize = 1024;

/// The trace of one request. Shared by whatever goes on after the answer, an upgraded stream; the story is handed over
/// when the last of them lets go.
pub struct Trace {
    place: TracePlace,
    scheme: &'static str,
    version: Version,
    handshake: Option<Handshake>,
    decided: Cell<Option<Instant>>,
    asked: Cell<Option<Instant>>,
    /// The head of the answer, or that there is none.
    heard: Cell<Option<Instant>>,
    /// What the server that was asked last failed with.
    failure: Cell<Option<&'static str>>,
    failures: Cell<u32>,
    told: RefCell<Option<Told>>,
    spans: Rc<SpanBuffer>,
}

/// What the exchange tells when it has ended.
pub(super) struct Told {
    pub(super) started: Instant,
    pub(super) client: IpAddr,
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) route: Option<Label>,
    /// 0: there was no answer.
    pub(super) status: u16,
    pub(super) decision: Option<Decision>,
    pub(super) reason: Option<&'static str>,
    pub(super) role: Option<RoleName>,
    /// The server that was asked last, as `upstream/host:port`.
    pub(super) server: Option<Label>,
}

/// A recorded request that has ended.
pub(super) struct Story {
    pub(super) place: TracePlace,
    pub(super) scheme: &'static str,
    pub(super) version: Version,
    pub(super) handshake: Option<Handshake>,
    /// When it was decided whether it may.
    pub(super) decided: Option<Instant>,
    pub(super) upstream: Option<Asked>,
    pub(super) ended: Instant,
    pub(super) told: Told,
}

/// What became of a request to an upstream.
pub(super) struct Asked {
    pub(super) from: Instant,
    pub(super) to: Instant,
    /// How often it was sent again.
    pub(super) resent: u32,
    /// None: an answer came.
    pub(super) failure: Option<&'static str>,
}

impl Trace {
    /// The request's ids, and its trace if it is to be recorded. A handshake belongs to the first request of its
    /// connection, recorded or not.
    pub(super) fn begin(
        headers: &HeaderMap,
        version: Version,
        peer: &Peer,
        spans: &Rc<SpanBuffer>,
    ) -> (Ids, Option<Rc<Self>>) {
        let (ids, place) = Ids::traced(headers, peer.trusted, spans.ratio());
        let handshake = peer.handshake.take();
        let scheme = match peer.listener {
            ListenerKind::Https => "https",
            ListenerKind::Http | ListenerKind::Authz | ListenerKind::ExtAuthz => "http",
        };
        let trace = place.map(|place| {
            Rc::new(Self {
                place,
                scheme,
                version,
                handshake,
                decided: Cell::new(None),
                asked: Cell::new(None),
                heard: Cell::new(None),
                failure: Cell::new(None),
                failures: Cell::new(0),
                told: RefCell::new(None),
                spans: Rc::clone(spans),
            })
        });
        (ids, trace)
    }

    pub(super) fn decided(&self) {
        self.decided.set(Some(monotonic()));
    }

    pub(super) fn asked(&self) {
        self.asked.set(Some(monotonic()));
    }

    pub(super) fn answered(&self) {
        self.heard.set(Some(monotonic()));
        self.failure.set(None);
    }

    pub(super) fn failed(&self, failure: &'static str) {
        self.heard.set(Some(monotonic()));
        self.failure.set(Some(failure));
        self.failures.set(self.failures.get() + 1);
    }

    pub(super) fn tell(&self, told: Told) {
        self.told.replace(Some(told));
    }

    fn upstream(&self, told: &Told, ended: Instant) -> Option<Asked> {
        let from = self.asked.get()?;
        let heard = self.heard.get();
        let failures = self.failures.get();
        let answered = heard.is_some() && self.failure.get().is_none();
        Some(Asked {
            from,
            to: heard.unwrap_or(ended),
            resent: if answered { failures } else { failures.saturating_sub(1) },
            // Nothing was heard: no server could be asked, or the client did not wait.
            failure: (!answered).then(|| self.failure.get().or(told.reason).unwrap_or("cancelled")),
        })
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let Some(told) = self.told.take() else { return };
        let ended = monotonic();
        self.spans.add(Story {
            place: self.place,
            scheme: self.scheme,
            version: self.version,
            handshake: self.handshake,
            decided: self.decided.get().filter(|_| told.decision.is_some()),
            upstream: self.upstream(&told, ended),
            ended,
            told,
        });
    }
}

impl Story {
    /// How many spans it makes.
    pub(super) fn spans(&self) -> u64 {
        1 + u64::from(self.handshake.is_some())
            + u64::from(self.decided.is_some())
            + u64::from(self.upstream.is_some())
    }
}

/// A path as it may be recorded: up to where a server could read parameters, credentials among them. None that has such
/// is ever forwarded.
pub(super) fn recorded(path: &str) -> String {
    let path = path.get(..MAX_PATH).unwrap_or_else(|| {
        // Cut between two characters; a path that is shorter was taken whole.
        let end = (0..=MAX_PATH.min(path.len())).rev().find(|end| path.is_char_boundary(*end));
        path.get(..end.unwrap_or(0)).unwrap_or_default()
    });
    let bytes = path.as_bytes();
    let begins_parameters = |at: usize| {
        matches!(
            bytes.get(at..),
            Some(
                [b';' | b'?' | b'\\', ..]
                    | [b'%', b'3', b'f' | b'F' | b'b' | b'B', ..]
                    | [b'%', b'2', b'5', ..]
            )
        )
    };
    let end = (0..bytes.len()).find(|at| begins_parameters(*at)).unwrap_or(bytes.len());
    path.get(..end).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_recorded_up_to_what_could_be_parameters() {
        for (path, kept) in [
            ("/api/v2/cdr/1", "/api/v2/cdr/1"),
            ("/a%20b", "/a%20b"),
            ("/me/x;access_token=t", "/me/x"),
            ("/me/x%3Faccess_token=t", "/me/x"),
            ("/me/x%3bx_key=t", "/me/x"),
            ("/me/x%253Fx_key=t", "/me/x"),
            ("", ""),
            ("*", "*"),
        ] {
            assert_eq!(recorded(path), kept);
        }
    }

    #[test]
    fn a_long_path_is_cut_between_two_characters() {
        assert_eq!(recorded(&format!("/{}", "x".repeat(5000))).len(), MAX_PATH);
        assert_eq!(recorded(&format!("/{}", "é".repeat(2000))).len(), MAX_PATH - 1);
        assert_eq!(recorded(&"é".repeat(10)).len(), 20);
    }
}
