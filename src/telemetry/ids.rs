//! Request ids and trace context (W3C Trace Context, `traceparent`).

use http::{HeaderMap, HeaderValue};
use std::cell::Cell;

/// A request's name in logs and errors, and its place in a trace.
#[derive(Clone, Debug)]
pub struct Ids {
    request: HeaderValue,
    traceparent: HeaderValue,
}

/// The longest request id that is kept from a trusted proxy.
const MAX_REQUEST_ID: usize = 128;

impl Ids {
    /// The request id is kept from a trusted proxy, else made. A well-formed `traceparent` keeps its trace id and
    /// flags and gets a new parent id; any other is replaced.
    #[must_use]
    pub fn of(headers: &HeaderMap, trusted: bool) -> Self {
        let kept = headers.get("x-request-id").filter(|id| trusted && is_request_id(id.as_bytes()));
        let request = kept.cloned().unwrap_or_else(|| hex_value(&[random(), random()], |hex| hex));
        let given = headers.get("traceparent").and_then(|v| trace_of(v.as_bytes()));
        let traceparent = match given {
            Some((trace, flags)) => hex_value(&[random()], |parent| format!("00-{trace}-{parent}-{flags}")),
            None => hex_value(&[random(), random(), random()], |hex| {
                let (trace, parent) = hex.split_at(32);
                format!("00-{trace}-{parent}-00")
            }),
        };
        Self { request, traceparent }
    }

    #[must_use]
    pub fn request(&self) -> &HeaderValue {
        &self.request
    }

    /// The header for the upstream.
    #[must_use]
    pub fn traceparent(&self) -> &HeaderValue {
        &self.traceparent
    }

    /// 32 hexadecimal digits.
    #[must_use]
    pub fn trace(&self) -> &str {
        self.traceparent.to_str().ok().and_then(|v| v.get(3..35)).unwrap_or_default()
    }
}

/// Visible ASCII without the characters that quote or separate in logs.
fn is_request_id(id: &[u8]) -> bool {
    !id.is_empty()
        && id.len() <= MAX_REQUEST_ID
        && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=@".contains(b))
}

/// The trace id and flags of a `traceparent` of version 00 (W3C Trace Context section 3.2).
fn trace_of(value: &[u8]) -> Option<(&str, &str)> {
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
    good.then_some((trace, flags))
}

fn hex_value(words: &[u64], write: impl FnOnce(String) -> String) -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hex = String::with_capacity(64);
    for word in words {
        for byte in word.to_be_bytes() {
            hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
            hex.push(char::from(DIGITS[usize::from(byte & 15)]));
        }
    }
    HeaderValue::try_from(write(hex)).unwrap_or_else(|_| HeaderValue::from_static("-"))
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
        let out = id.traceparent().to_str().unwrap();
        assert!(out.ends_with("-01") && !out.contains("00f067aa0ba902b7"), "{out}");
        for bad in ["00-0-0-0", "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "x"] {
            assert_ne!(ids("traceparent", bad, false).trace(), trace);
        }
    }

    #[test]
    fn made_ids_differ() {
        let headers = HeaderMap::new();
        let made: std::collections::HashSet<_> =
            (0..1000).map(|_| Ids::of(&headers, false).request().clone()).collect();
        assert_eq!(made.len(), 1000);
    }
}
