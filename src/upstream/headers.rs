//! The only header policy (contract section 4, Forwarding): what of a request's header goes on to the upstream,
//! what is added, and what of an answer's header goes back. Pure; knows no connection.

pub(super) mod identity;
#[cfg(test)]
mod tests;

use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Version};
use std::borrow::Cow;

use crate::access::Scope;
use crate::access::credentials::CredentialNames;
use crate::access::permit::Judged;
use crate::identity::{RoleName, UserName};
use crate::peer::{ListenerKind, Peer};
use crate::telemetry::ids::{Ids, TRACEPARENT, X_REQUEST_ID};

/// Where the fields of a request go: the bytes of an HTTP/1.1 head, or a map for HTTP/2.
pub(super) trait Sink {
    fn put(&mut self, name: &HeaderName, value: &[u8]);
}

impl Sink for HeaderMap {
    fn put(&mut self, name: &HeaderName, value: &[u8]) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            self.append(name, value);
        }
    }
}

/// Which credentials go on.
pub(super) enum CredentialsOut<'a> {
    /// A public route: as they came, unjudged.
    AsCame,
    Judged(&'a Judged),
    None,
}

/// Everything that the header of a forwarded request is made from.
pub(super) struct Onward<'a> {
    pub(super) headers: &'a HeaderMap,
    pub(super) host: &'a [u8],
    pub(super) caller: Option<(&'a UserName, &'a RoleName)>,
    pub(super) scope: Option<Scope>,
    pub(super) credentials: CredentialsOut<'a>,
    pub(super) peer: &'a Peer,
    pub(super) ids: &'a Ids,
    /// Whether `Sec-WebSocket-Extensions` goes on: what is compressed could not be judged.
    pub(super) extensions: bool,
}

/// What the policy must know of the configuration.
#[derive(Clone, Debug)]
pub(super) struct Policy {
    token: HeaderName,
    key: HeaderName,
    credentials: Vec<HeaderName>,
    folded: Vec<String>,
}

/// What a field of a request is to the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Plain,
    Cookie,
    Credential,
    /// Believed from trusted peers only.
    Forwarded,
    /// Hop-by-hop, framing, identity, overrides, and what the gateway makes itself.
    Dropped,
}

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
static X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

impl Policy {
    pub(super) fn new(names: &CredentialNames) -> Self {
        let standard = ["x-access-token", "x-key"].map(HeaderName::from_static);
        let first = |names: &[HeaderName], or: &HeaderName| names.first().unwrap_or(or).clone();
        let token = first(&names.token_headers, &standard[0]);
        let key = first(&names.key_headers, &standard[1]);
        let mut credentials: Vec<_> = standard.into();
        credentials.extend(names.token_headers.iter().chain(&names.key_headers).cloned());
        credentials.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        credentials.dedup();
        let folded = credentials.iter().map(|name| fold(name.as_str()).into_owned()).collect();
        Self { token, key, credentials, folded }
    }

    /// Writes the fields of a forwarded request, less those that tell its framing.
    pub(super) fn outgoing(&self, onward: &Onward<'_>, out: &mut impl Sink) {
        out.put(&header::HOST, onward.host);
        self.pass(onward, out);
        if let CredentialsOut::Judged(judged) = &onward.credentials {
            self.put_judged(judged, out);
        }
        identity::put(onward.caller, onward.scope, out);
        add_forwarded(onward, out);
        out.put(&X_REQUEST_ID, onward.ids.request().as_bytes());
        out.put(&TRACEPARENT, onward.ids.traceparent().as_bytes());
    }

    fn pass(&self, onward: &Onward<'_>, out: &mut impl Sink) {
        let named = Nominated::of(onward.headers);
        let mut cookies = false;
        for (name, value) in onward.headers {
            let passes = match self.class(name) {
                Class::Plain => {
                    !named.names(name) && (onward.extensions || name != header::SEC_WEBSOCKET_EXTENSIONS)
                }
                Class::Cookie => {
                    cookies |= !named.names(name);
                    false
                }
                Class::Credential => matches!(onward.credentials, CredentialsOut::AsCame),
                // The three that the gateway adds itself are written by `add_forwarded`.
                Class::Forwarded => {
                    onward.peer.trusted
                        && name != X_FORWARDED_FOR
                        && name != X_FORWARDED_PROTO
                        && name != X_FORWARDED_HOST
                }
                Class::Dropped => false,
            };
            if passes {
                out.put(name, value.as_bytes());
            }
        }
        if cookies {
            put_joined(out, &header::COOKIE, onward.headers, b"; ");
        }
        if named.trailers {
            out.put(&header::TE, b"trailers");
        }
    }

    fn class(&self, name: &HeaderName) -> Class {
        let text = name.as_str();
        if self.credentials.contains(name) {
            return Class::Credential;
        }
        let folded = fold(text);
        match folded {
            Cow::Borrowed(text) => match class_of(text) {
                Class::Plain if self.folded.iter().any(|f| f == text) => Class::Dropped,
                class => class,
            },
            // A look-alike of what has a meaning here is never the thing itself.
            Cow::Owned(folded) => match class_of(&folded) {
                Class::Plain if !self.folded.contains(&folded) => Class::Plain,
                Class::Cookie => Class::Plain,
                Class::Plain | Class::Credential | Class::Forwarded | Class::Dropped => Class::Dropped,
            },
        }
    }

    /// Whether a field is one that no client may send an upstream: identity, overrides, and look-alikes of what has a
    /// meaning here. Not those of the connection, nor what the gateway makes itself from what it was sent.
    pub(super) fn is_forged(&self, name: &HeaderName) -> bool {
        self.class(name) == Class::Dropped && !is_of_one_hop(name.as_str()) && !is_made_anew(name.as_str())
    }

    /// Whether a field carries a credential, by its own name.
    pub(super) fn is_credential(&self, name: &HeaderName) -> bool {
        self.class(name) == Class::Credential
    }

    /// The credentials that go on, under the names that upstreams know.
    pub(super) fn put_judged(&self, judged: &Judged, out: &mut impl Sink) {
        out.put(&self.token, judged.token.as_bytes());
        if let Some(key) = &judged.key {
            out.put(&self.key, key.as_bytes());
        }
    }

    /// Whether a trailer field of a request may go on: none that would have been judged, made or dropped in the
    /// header (RFC 9110 section 6.5.1).
    pub(super) fn trailer_passes(&self, name: &HeaderName) -> bool {
        self.class(name) == Class::Plain && !is_head_only(name)
    }
}

/// Fields that mean something only before the body.
fn is_head_only(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "authorization"
            | "set-cookie"
            | "content-type"
            | "content-encoding"
            | "content-range"
            | "cache-control"
            | "max-forwards"
            | "range"
    )
}

/// Every character outside letters and digits read as `-`; borrowed when nothing changes. Names are lower case.
fn fold(name: &str) -> Cow<'_, str> {
    if name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect())
}

/// RFC 9110 section 7.6.1.
fn is_of_one_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authorization"
            | "proxy-authenticate"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

fn is_made_anew(name: &str) -> bool {
    matches!(name, "host" | "content-length" | "x-request-id" | "traceparent")
}

/// The class of a folded name.
fn class_of(name: &str) -> Class {
    match name {
        "cookie" => Class::Cookie,
        _ if is_of_one_hop(name) || is_made_anew(name) => Class::Dropped,
        "x-http-method-override"
        | "x-http-method"
        | "x-method-override"
        | "x-original-url"
        | "x-original-uri"
        | "x-original-method"
        | "x-rewrite-url" => Class::Dropped,
        "forwarded"
        | "x-forwarded"
        | "x-real-ip"
        | "x-client-ip"
        | "x-cluster-client-ip"
        | "true-client-ip"
        | "cf-connecting-ip"
        | "x-original-forwarded-for"
        | "x-original-host" => Class::Forwarded,
        _ if name.starts_with("x-webitel-") || name.starts_with("x-postern-") => Class::Dropped,
        _ if name.starts_with("x-forwarded-") => Class::Forwarded,
        _ => Class::Plain,
    }
}

/// The fields that `Connection` names, and whether `TE` asks for trailers.
struct Nominated<'a> {
    lines: Option<&'a HeaderMap>,
    trailers: bool,
}

impl<'a> Nominated<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        let named = has(headers, &header::CONNECTION);
        Self { lines: named.then_some(headers), trailers: asks_for_trailers(headers) }
    }

    fn names(&self, name: &HeaderName) -> bool {
        let Some(headers) = self.lines else { return false };
        tokens(headers, &header::CONNECTION).any(|t| t.eq_ignore_ascii_case(name.as_str()))
    }
}

/// `TE: trailers`: the only thing of `TE` that goes on.
pub(super) fn asks_for_trailers(headers: &HeaderMap) -> bool {
    has(headers, &header::TE) && tokens(headers, &header::TE).any(|t| t.eq_ignore_ascii_case("trailers"))
}

/// Whether a field is there. Most requests have few: to look through them is faster than to hash a name.
fn has(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.keys().any(|there| there == name)
}

/// The comma-separated tokens of all lines of a field. A line that is no visible ASCII has none.
pub(super) fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|token| token.trim_matches([' ', '\t']))
}

/// What the client asks to upgrade to (RFC 9110 section 7.8): `Connection: upgrade` and exactly one `Upgrade`. Not
/// HTTP or TLS: requests inside of them would reach the upstream unjudged.
pub(super) fn upgrade_asked<'a>(method: &Method, headers: &'a HeaderMap) -> Option<&'a HeaderValue> {
    if !has(headers, &header::UPGRADE) {
        return None;
    }
    let mut lines = headers.get_all(header::UPGRADE).iter();
    let (Some(asked), None) = (lines.next(), lines.next()) else { return None };
    let named = tokens(headers, &header::CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"));
    let judged = !tokens(headers, &header::UPGRADE).any(carries_requests);
    (named && judged && method != Method::CONNECT && !asked.is_empty()).then_some(asked)
}

/// Whether a request asks for a WebSocket: the upgrade that `forward_guarded` takes.
#[must_use]
pub fn asks_for_websocket(head: &Parts) -> bool {
    // Of HTTP/1.0 an upgrade is ignored (RFC 9110 section 7.8): a request like any other.
    let could_switch = head.method == Method::GET && head.version == Version::HTTP_11;
    could_switch && upgrade_asked(&head.method, &head.headers).is_some() && is_websocket(&head.headers)
}

/// Whether the client asks to upgrade to a WebSocket and to nothing else (RFC 6455 section 4.1).
pub(super) fn is_websocket(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(header::UPGRADE).iter();
    let (Some(asked), None) = (lines.next(), lines.next()) else { return false };
    asked.as_bytes().eq_ignore_ascii_case(b"websocket")
}

fn carries_requests(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default().trim_ascii();
    ["http", "https", "h2", "h2c", "h3", "tls", "spdy"].iter().any(|p| name.eq_ignore_ascii_case(p))
}

/// Whether a 101 switches to what was asked for.
pub(super) fn is_asked(asked: &HeaderValue, switched: &HeaderValue) -> bool {
    let offers = asked.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii);
    !switched.is_empty() && offers.into_iter().any(|offer| offer.eq_ignore_ascii_case(switched.as_bytes()))
}

fn put_joined(out: &mut impl Sink, name: &HeaderName, headers: &HeaderMap, between: &[u8]) {
    let mut lines = headers.get_all(name).iter();
    let (first, second) = (lines.next(), lines.next());
    match (first, second) {
        (Some(only), None) => out.put(name, only.as_bytes()),
        _ => {
            let all: Vec<_> = headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
            out.put(name, &all.join(between));
        }
    }
}

fn add_forwarded(onward: &Onward<'_>, out: &mut impl Sink) {
    let peer = onward.peer;
    let told = |name: &HeaderName| if peer.trusted { onward.headers.get(name) } else { None };
    if peer.trusted {
        let mut chain = Vec::with_capacity(48);
        for line in onward.headers.get_all(&X_FORWARDED_FOR) {
            chain.extend_from_slice(line.as_bytes());
            chain.extend_from_slice(b", ");
        }
        chain.extend_from_slice(peer.ip().as_bytes());
        out.put(&X_FORWARDED_FOR, &chain);
    } else {
        out.put(&X_FORWARDED_FOR, peer.ip().as_bytes());
    }
    let own: &[u8] = match peer.listener {
        ListenerKind::Https => b"https",
        ListenerKind::Http | ListenerKind::Authz | ListenerKind::ExtAuthz => b"http",
    };
    out.put(&X_FORWARDED_PROTO, told(&X_FORWARDED_PROTO).map_or(own, HeaderValue::as_bytes));
    out.put(&X_FORWARDED_HOST, told(&X_FORWARDED_HOST).map_or(onward.host, HeaderValue::as_bytes));
}

/// Whether a field of an answer goes back to the client, as far as its name tells. Lower case. `Trailer` does: by it
/// hyper's HTTP/1.1 server knows which trailers it may send.
pub(super) fn answer_passes(name: &str) -> bool {
    !matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "te"
            | "transfer-encoding"
            | "upgrade"
    ) && !name.starts_with("x-postern-")
}

/// Whether a trailer field of an answer goes back: none that would change the message's framing or meaning.
pub(super) fn answer_trailer_passes(name: &HeaderName) -> bool {
    answer_passes(name.as_str())
        && !is_head_only(name)
        && !matches!(name.as_str(), "content-length" | "host" | "location" | "trailer")
}

/// Takes out of an answer what its `Connection` names. Framing is never named away.
pub(super) fn drop_named(headers: &mut HeaderMap, connection: &str) {
    for token in connection.split(',').map(|t| t.trim_matches([' ', '\t'])) {
        let plain = ["close", "keep-alive", "upgrade", "content-length", "set-cookie", "date"];
        if !plain.iter().any(|p| token.eq_ignore_ascii_case(p)) {
            headers.remove(token);
        }
    }
}
