//! The only header policy: what of a request reaches the upstream and what of an answer reaches the client (contract
//! section 4, Forwarding). Pure.

use http::header::{CONNECTION, COOKIE, TE, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use std::net::IpAddr;

use crate::access::credentials::CredentialNames;
use crate::access::{Permit, Principal, Scope};
use crate::telemetry::ids::Ids;

/// What is kept of a user's name in a header: visible ASCII without the escape itself.
const ESCAPED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'"').add(b',').add(b';');

/// RFC 9110 section 7.6.1, and what old clients send.
const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "upgrade",
    "proxy-authorization",
    "proxy-authenticate",
    "http2-settings",
];
const FRAMING: [&str; 3] = ["content-length", "transfer-encoding", "host"];
const OVERRIDES: [&str; 7] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-original-uri",
    "x-original-method",
    "x-rewrite-url",
];
const FORWARDED: [&str; 2] = ["forwarded", "x-real-ip"];
const MADE_HERE: [&str; 2] = ["x-request-id", "traceparent"];

/// What a header is to the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Plain,
    /// Goes no further, or is made anew.
    Dropped,
    /// Believed from trusted peers alone.
    Forwarded,
    Credential,
}

/// What the policy needs to know beside the request.
pub(super) struct Facts<'a> {
    pub(super) names: &'a CredentialNames,
    pub(super) trusted: bool,
    pub(super) peer: IpAddr,
    pub(super) tls: bool,
    pub(super) forward_credentials: bool,
    /// Whether the client asked for an upgrade.
    pub(super) upgrade: bool,
    pub(super) ids: &'a Ids,
}

/// Writes the header lines of a request to the upstream, all but those of the body's framing.
pub(super) fn write_request(
    out: &mut Vec<u8>,
    headers: &HeaderMap,
    host: &[u8],
    permit: &Permit,
    facts: &Facts<'_>,
) {
    line(out, "host", host);
    let connection = connection_names(headers);
    let public = permit.principal().is_none();
    for (name, value) in headers {
        let passes = match class(name.as_str(), facts.names) {
            Class::Plain => !connection.iter().any(|named| named == name) && *name != COOKIE,
            Class::Dropped => false,
            Class::Forwarded => facts.trusted && name != "x-forwarded-for",
            Class::Credential => public && facts.forward_credentials && is_exact(name, facts.names),
        };
        if passes {
            line(out, name.as_str(), value.as_bytes());
        }
    }
    write_cookies(out, headers);
    write_identity(out, permit, facts);
    write_forwarded(out, headers, host, facts);
    line(out, "x-request-id", facts.ids.request().as_bytes());
    line(out, "traceparent", facts.ids.traceparent().as_bytes());
    if headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers")) {
        line(out, "te", b"trailers");
    }
    if let Some(protocol) = headers.get(UPGRADE).filter(|_| facts.upgrade) {
        line(out, "connection", b"Upgrade");
        line(out, "upgrade", protocol.as_bytes());
    }
}

/// Whether the client asks for another protocol on this connection (RFC 9110 section 7.8).
pub(super) fn asks_upgrade(headers: &HeaderMap) -> bool {
    headers.contains_key(UPGRADE) && connection_names(headers).contains(&UPGRADE)
}

/// Takes off an answer what is between the upstream and the gateway.
pub(super) fn clean_answer(headers: &mut HeaderMap) {
    for named in connection_names(headers) {
        headers.remove(named);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    headers.remove("transfer-encoding");
    let own: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-postern-")).cloned().collect();
    for name in own {
        headers.remove(name);
    }
}

/// Whether a trailer of a request may go on: none may pose as a header that is judged.
pub(super) fn trailer_passes(name: &HeaderName, names: &CredentialNames) -> bool {
    class(name.as_str(), names) == Class::Plain
}

fn class(name: &str, names: &CredentialNames) -> Class {
    // Most names are plain to the letter and differ from all of these in their first letter.
    if name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        return class_of(name, names, name);
    }
    let folded: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    match class_of(&folded, names, name) {
        Class::Plain => Class::Plain,
        // A look-alike is never what it looks like.
        Class::Dropped | Class::Forwarded | Class::Credential if folded != name => {
            match names_exactly(name, names) {
                true => Class::Credential,
                false => Class::Dropped,
            }
        }
        class => class,
    }
}

fn class_of(folded: &str, names: &CredentialNames, name: &str) -> Class {
    let like = |known: &HeaderName| known.as_str() == name || fold_equals(known.as_str(), folded);
    if names.token_headers.iter().chain(&names.key_headers).any(like) {
        return Class::Credential;
    }
    let dropped = HOP_BY_HOP.contains(&folded)
        || FRAMING.contains(&folded)
        || OVERRIDES.contains(&folded)
        || MADE_HERE.contains(&folded)
        || folded.starts_with("x-postern-")
        || folded.starts_with("x-webitel-");
    if dropped {
        return Class::Dropped;
    }
    if FORWARDED.contains(&folded) || folded.starts_with("x-forwarded-") {
        return Class::Forwarded;
    }
    Class::Plain
}

fn fold_equals(known: &str, folded: &str) -> bool {
    let fold = |b: u8| if b.is_ascii_alphanumeric() { b } else { b'-' };
    known.len() == folded.len() && known.bytes().map(fold).eq(folded.bytes())
}

fn names_exactly(name: &str, names: &CredentialNames) -> bool {
    names.token_headers.iter().chain(&names.key_headers).any(|known| known.as_str() == name)
}

fn is_exact(name: &HeaderName, names: &CredentialNames) -> bool {
    names_exactly(name.as_str(), names)
}

/// The headers that `Connection` names.
fn connection_names(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).filter_map(|name| name.trim().parse().ok()).collect()
}

/// HTTP/2 clients split cookies, which HTTP/1.1 wants in one line (RFC 9113 section 8.2.3).
fn write_cookies(out: &mut Vec<u8>, headers: &HeaderMap) {
    let cookies: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if !cookies.is_empty() {
        line(out, "cookie", &cookies.join(&b"; "[..]));
    }
}

fn write_identity(out: &mut Vec<u8>, permit: &Permit, facts: &Facts<'_>) {
    let escape = |text: &str| utf8_percent_encode(text, ESCAPED).to_string();
    if let Some(principal) = permit.principal() {
        line(out, "x-webitel-user", escape(principal.user().as_str()).as_bytes());
        if let Some(domain) = principal.user().domain() {
            line(out, "x-webitel-domain", escape(domain).as_bytes());
        }
        line(out, "x-webitel-role", escape(Principal::role(principal).as_str()).as_bytes());
    }
    match permit.scope() {
        Some(Scope::All) => line(out, "x-postern-scope", b"all"),
        Some(Scope::Own) => line(out, "x-postern-scope", b"own"),
        None => {}
    }
    if let Some(judged) = permit.credentials().filter(|_| facts.forward_credentials) {
        let name = |names: &[HeaderName]| names.first().cloned();
        if let Some(name) = name(&facts.names.token_headers) {
            line(out, name.as_str(), judged.token.as_bytes());
        }
        if let (Some(name), Some(key)) = (name(&facts.names.key_headers), &judged.key) {
            line(out, name.as_str(), key.as_bytes());
        }
    }
}

fn write_forwarded(out: &mut Vec<u8>, headers: &HeaderMap, host: &[u8], facts: &Facts<'_>) {
    out.extend_from_slice(b"x-forwarded-for: ");
    if facts.trusted {
        for value in headers.get_all("x-forwarded-for") {
            out.extend_from_slice(value.as_bytes());
            out.extend_from_slice(b", ");
        }
    }
    out.extend_from_slice(facts.peer.to_string().as_bytes());
    out.extend_from_slice(b"\r\n");
    let kept = |name: &str| facts.trusted && headers.contains_key(name);
    if !kept("x-forwarded-proto") {
        line(out, "x-forwarded-proto", if facts.tls { b"https" } else { b"http" });
    }
    if !kept("x-forwarded-host") {
        line(out, "x-forwarded-host", host);
    }
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classed(name: &str) -> Class {
        class(name, &CredentialNames::default())
    }

    #[test]
    fn headers_and_their_look_alikes_are_told_apart() {
        for name in [
            "accept",
            "x-custom",
            "content-type",
            "x-key-id",
            "etag",
            "x_custom",
            "authorization",
            "x-forward",
        ] {
            assert_eq!(classed(name), Class::Plain, "{name}");
        }
        for name in [
            "connection",
            "te",
            "x-postern-scope",
            "x_postern.scope",
            "x-webitel-user",
            "x_webitel_user",
            "x-http-method-override",
            "x~method!override",
            "x_original_url",
            "content_length",
            "transfer.encoding",
            "host",
            "x_key",
            "x.access.token",
            "x_access-token",
            "x_forwarded_for",
            "x-request-id",
        ] {
            assert_eq!(classed(name), Class::Dropped, "{name}");
        }
        assert_eq!(classed("x-key"), Class::Credential);
        assert_eq!(classed("x-access-token"), Class::Credential);
        for name in ["x-forwarded-for", "forwarded", "x-real-ip"] {
            assert_eq!(classed(name), Class::Forwarded, "{name}");
        }
    }

    #[test]
    fn an_answer_loses_what_its_connection_names() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "X-Private, keep-alive"),
            ("x-private", "1"),
            ("keep-alive", "1"),
            ("x-postern-scope", "own"),
            ("x-kept", "1"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        clean_answer(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-kept"]);
    }
}
