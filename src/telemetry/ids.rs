//! Request ids and trace context (W3C Trace Context, `traceparent`).

use http::{HeaderMap, HeaderName, HeaderValue};
use std::cell::Cell;
use std::fmt;
use std::ops::Range;

use super::SampleRatio;

/// A request's name in logs and errors, and its place in a trace. What is made is kept in place: most requests' ids are
/// written into one head, and nowhere else.
#[derive(Clone)]
pub struct Ids {
    request: RequestId,
    traceparent: [u8; LENGTH],
}

#[derive(Clone)]
enum RequestId {
    Made([u8; 32]),
    Kept(HeaderValue),
}

/// The length of a `traceparent` of version 00, and where its parts stand.
const LENGTH: usize = 55;
const TRACE: Range<usize> = 3..35;
const PARENT: Range<usize> = 36..52;
const FLAGS: Range<usize> = 53..55;

/// Where a request that is recorded stands in its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TracePlace {
    pub trace: u128,
    /// The caller's span, which came with the request; none: the trace begins here.
    pub parent: Option<u64>,
    /// The request's own span.
    pub server: u64,
    /// The span of what is asked of an upstream: the parent of what the upstream records.
    pub upstream: u64,
}

/// A `traceparent` that came with a request.
struct Given<'h> {
    trace: &'h str,
    parent: &'h str,
    flags: &'h str,
}

pub static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The longest request id that is kept from a trusted proxy.
const MAX_REQUEST_ID: usize = 128;

impl Ids {
    /// The request id is kept from a trusted proxy, else made. A well-formed `traceparent` keeps its trace id and
    /// flags and gets a new parent id; any other is replaced.
    #[must_use]
    pub fn of(headers: &HeaderMap, trusted: bool) -> Self {
        let kept =
            trusted.then(|| headers.get(&X_REQUEST_ID)).flatten().filter(|id| is_request_id(id.as_bytes()));
        let request = kept.cloned().map_or_else(|| RequestId::Made(made_id()), RequestId::Kept);
        let given = headers.get(&TRACEPARENT).and_then(|v| trace_of(v.as_bytes()));
        let mut traceparent = *b"00-00000000000000000000000000000000-0000000000000000-00";
        match given {
            Some(Given { trace, flags, .. }) => {
                traceparent[TRACE].copy_from_slice(trace.as_bytes());
                traceparent[FLAGS].copy_from_slice(flags.as_bytes());
            }
            None => traceparent[TRACE].copy_from_slice(&made_id()),
        }
        traceparent[PARENT].copy_from_slice(&hex(random()));
        Self { request, traceparent }
    }

    /// As [`Ids::of`], and the request's place in its trace when it is to be recorded. Whoever sent a trace has decided
    /// that already, by its sampled flag (W3C Trace Context section 3.2.2.5); for one that begins here `ratio` does, and
    /// the flag passes it on.
    #[must_use]
    pub fn traced(headers: &HeaderMap, trusted: bool, ratio: SampleRatio) -> (Self, Option<TracePlace>) {
        let mut ids = Self::of(headers, trusted);
        let given = headers.get(&TRACEPARENT).and_then(|v| trace_of(v.as_bytes()));
        let numbers = trace_of(&ids.traceparent).and_then(|made| {
            let trace = u128::from_str_radix(made.trace, 16).ok()?;
            Some((trace, u64::from_str_radix(made.parent, 16).ok()?))
        });
        let Some((trace, upstream)) = numbers else { return (ids, None) };
        let sampled = given.as_ref().map_or_else(|| ratio.admits(trace), Given::is_sampled);
        if !sampled {
            return (ids, None);
        }
        let parent = given.and_then(|given| u64::from_str_radix(given.parent, 16).ok());
        if parent.is_none() {
            ids.traceparent[FLAGS].copy_from_slice(b"01");
        }
        (ids, Some(TracePlace { trace, parent, server: span_id(), upstream }))
    }

    /// Visible ASCII.
    #[must_use]
    pub fn request(&self) -> &str {
        match &self.request {
            RequestId::Made(made) => text(made),
            RequestId::Kept(kept) => kept.to_str().unwrap_or_default(),
        }
    }

    /// As `X-Request-Id` of an answer.
    #[must_use]
    pub fn request_header(&self) -> HeaderValue {
        match &self.request {
            RequestId::Made(made) => HeaderValue::from_str(text(made)),
            RequestId::Kept(kept) => Ok(kept.clone()),
        }
        .unwrap_or(HeaderValue::from_static("-"))
    }

    /// The header for the upstream.
    #[must_use]
    pub fn traceparent(&self) -> &str {
        text(&self.traceparent)
    }

    /// 32 hexadecimal digits.
    #[must_use]
    pub fn trace(&self) -> &str {
        text(&self.traceparent[TRACE])
    }
}

impl fmt::Debug for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Ids").field(&self.request()).field(&self.traceparent()).finish()
    }
}

/// What was put together of ASCII.
fn text(ascii: &[u8]) -> &str {
    std::str::from_utf8(ascii).unwrap_or_default()
}

/// Visible ASCII without the characters that quote or separate in logs.
fn is_request_id(id: &[u8]) -> bool {
    !id.is_empty()
        && id.len() <= MAX_REQUEST_ID
        && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(b))
}

impl Given<'_> {
    fn is_sampled(&self) -> bool {
        u8::from_str_radix(self.flags, 16).is_ok_and(|flags| flags & 1 == 1)
    }
}

/// A `traceparent` of version 00 (W3C Trace Context section 3.2).
fn trace_of(value: &[u8]) -> Option<Given<'_>> {
    let value = std::str::from_utf8(value).ok()?;
    let mut parts = value.split('-');
    let (version, trace, parent, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let hex = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let zero = |s: &str| s.bytes().all(|b| b == b'0');
    let good = parts.next().is_none()
        && version == "00"
        && hex(trace, 32)
        && hex(parent, 16)
        && hex(flags, 2)
        && !zero(trace)
        && !zero(parent);
    good.then_some(Given { trace, parent, flags })
}

/// For a span that nobody was told of yet.
pub(super) fn span_id() -> u64 {
    // Zero is no id (W3C Trace Context section 3.2.2.4).
    random().max(1)
}

fn made_id() -> [u8; 32] {
    let mut id = [0; 32];
    let (high, low) = id.split_at_mut(16);
    high.copy_from_slice(&hex(random()));
    low.copy_from_slice(&hex(random()));
    id
}

fn hex(word: u64) -> [u8; 16] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = [0; 16];
    for (pair, byte) in hex.chunks_exact_mut(2).zip(word.to_be_bytes()) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
    hex
}

thread_local! {
    static STATE: Cell<u64> = Cell::new(seed());
}

/// The next number of a per-thread SplitMix64 sequence. Ids must differ, not be secret.
fn random() -> u64 {
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        state.set(next);
        let z = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

/// From the operating system's randomness, by a version 4 UUID.
fn seed() -> u64 {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    high ^ low.rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(name: &'static str, value: &str, trusted: bool) -> Ids {
        let mut headers = HeaderMap::new();
        headers.insert(name, HeaderValue::from_str(value).unwrap());
        Ids::of(&headers, trusted)
    }

    #[test]
    fn a_request_id_is_kept_from_a_trusted_proxy_only_and_only_if_plain() {
        assert_eq!(ids("x-request-id", "abc-1", true).request(), "abc-1");
        for (value, trusted) in [("abc-1", false), ("a\"b", true), ("a b", true), ("", true)] {
            let id = ids("x-request-id", value, trusted);
            assert_eq!(id.request().len(), 32, "{value:?}");
        }
    }

    #[test]
    fn a_well_formed_traceparent_keeps_its_trace() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let id = ids("traceparent", &format!("00-{trace}-00f067aa0ba902b7-01"), false);
        assert_eq!(id.trace(), trace);
        let out = id.traceparent();
        assert!(out.ends_with("-01") && !out.contains("00f067aa0ba902b7"), "{out}");
        for bad in ["00-0-0-0", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "x"] {
            assert_ne!(ids("traceparent", bad, false).trace(), trace);
        }
    }

    #[test]
    fn who_began_a_trace_has_decided_whether_it_is_recorded() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        for (flags, sampled) in [("01", true), ("03", true), ("00", false), ("02", false)] {
            let mut headers = HeaderMap::new();
            let given = format!("00-{trace}-00f067aa0ba902b7-{flags}");
            headers.insert("traceparent", HeaderValue::from_str(&given).unwrap());
            for ratio in [SampleRatio::ALL, SampleRatio::of(0.0).unwrap()] {
                let (ids, place) = Ids::traced(&headers, false, ratio);
                assert_eq!(place.is_some(), sampled, "{flags}");
                let out = ids.traceparent();
                assert!(out.starts_with(&format!("00-{trace}-")) && out.ends_with(flags), "{out}");
                let Some(place) = place else { continue };
                assert_eq!(
                    (place.trace, place.parent),
                    (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, Some(0x00f0_67aa_0ba9_02b7))
                );
                assert_eq!(out.get(36..52).unwrap(), format!("{:016x}", place.upstream));
                assert_ne!(place.server, place.upstream);
            }
        }
    }

    #[test]
    fn a_trace_that_begins_here_is_recorded_as_often_as_is_wished_and_says_so() {
        let headers = HeaderMap::new();
        for (ratio, least, most) in [(0.0, 0, 0), (1.0, 2000, 2000), (0.25, 350, 650)] {
            let ratio = SampleRatio::of(ratio).unwrap();
            let mut recorded = 0;
            for _ in 0..2000 {
                let (ids, place) = Ids::traced(&headers, false, ratio);
                let out = ids.traceparent();
                assert_eq!(out.ends_with("-01"), place.is_some(), "{out}");
                if let Some(place) = place {
                    assert_eq!(out, format!("00-{:032x}-{:016x}-01", place.trace, place.upstream));
                    assert_eq!((place.parent, ids.trace()), (None, &*format!("{:032x}", place.trace)));
                    recorded += 1;
                }
            }
            assert!((least..=most).contains(&recorded), "{recorded} of 2000");
        }
    }

    #[test]
    fn made_ids_differ() {
        let headers = HeaderMap::new();
        let made: std::collections::HashSet<_> =
            (0..1000).map(|_| Ids::of(&headers, false).request().to_owned()).collect();
        assert_eq!(made.len(), 1000);
    }
}
