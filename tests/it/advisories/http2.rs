//! HTTP/2 requests that would be something else as HTTP/1.1 (RFC 9113 sections 8.2 and 10.3): Envoy's CVE-2023-27491, the
//! header injections of CVE-2021-33193 (Apache), and their kind.

use crate::support::h2_raw::{Outcome, RawRequest};
use crate::support::{Session, TestGateway, TestUpstream, usual};

const PLAIN: &[(&str, &str)] =
    &[(":method", "POST"), (":scheme", "https"), (":path", "/up/echo"), (":authority", "localhost")];

async fn admin() -> (TestUpstream, TestGateway, Session) {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("admin").await;
    (upstream, gateway, session)
}

/// The plain request with fields replaced (or taken out, by no value) and others added behind it, as the session.
fn request(session: &Session, replaced: &[(&str, Option<&str>)], added: &[(&str, &str)]) -> RawRequest {
    let mut fields = Vec::new();
    for (name, value) in PLAIN {
        match replaced.iter().find(|(other, _)| other == name) {
            Some((_, Some(other))) => fields.push((*name, *other)),
            Some((_, None)) => {}
            None => fields.push((*name, *value)),
        }
    }
    fields.extend([("x-access-token", session.token.as_str()), ("x-key", session.key.as_str())]);
    fields.extend(added);
    RawRequest { body: Some(b"hello".to_vec()), ..RawRequest::new(&fields) }
}

#[tokio::test]
async fn a_request_written_by_hand_is_forwarded() {
    let (upstream, gateway, session) = admin().await;
    let outcome = request(&session, &[], &[("x-a", "b"), ("content-length", "5")]).send(&gateway).await;
    assert_eq!(outcome, Outcome::Answered { ok: true });
    let seen = upstream.only();
    assert_eq!(
        (seen.target.as_str(), seen.body.bytes.as_slice(), seen.header("x-a")),
        ("/up/echo", &b"hello"[..], Some("b"))
    );
}

const INJECTED: &str = " HTTP/1.1\r\nHost: localhost\r\n\r\nGET /public/hidden HTTP/1.1\r\nX: ";

#[tokio::test]
async fn pseudo_fields_that_would_break_a_request_line_are_refused() {
    let (upstream, gateway, session) = admin().await;
    let injected_path = format!("/up/echo{INJECTED}");
    let injected_method = format!("GET /public/hidden{INJECTED}");
    let replaced: &[(&str, Option<&str>)] = &[
        (":path", Some(&injected_path)),
        (":path", Some("/up/echo /x")),
        (":path", Some("/up/echo\r\nX: y")),
        (":path", Some("/up/echo\n")),
        (":path", Some("/up/echo\0")),
        (":path", Some("/up/echo\t")),
        (":path", Some("")),
        (":path", Some("up/echo")),
        (":path", Some("*")),
        (":path", Some("http://localhost/up/echo ")),
        (":path", Some("//other.example@localhost/up\\echo")),
        (":path", Some("/public/%2e%2e/up/echo")),
        (":path", Some("/public/..%2fup/echo")),
        (":path", Some("/up/echo\u{e9}")),
        (":path", None),
        (":method", Some(&injected_method)),
        (":method", Some("GET /public/hidden")),
        (":method", Some("GET\r\nX:")),
        (":method", Some("")),
        (":method", Some("G(T")),
        (":method", Some("CONNECT")),
        (":method", None),
        (":authority", Some("localhost\r\nX: y")),
        (":authority", Some("localhost /x")),
        (":authority", Some("user@localhost")),
        (":authority", Some("local\0host")),
        (":authority", Some("a, b")),
        (":authority", Some("")),
        (":authority", None),
        (":scheme", Some("http://other.example/?")),
        (":scheme", Some("https\r\nX: y")),
        (":scheme", Some("")),
        (":scheme", None),
    ];
    for case in replaced {
        let outcome = request(&session, &[*case], &[]).send(&gateway).await;
        assert_ne!(outcome, Outcome::Answered { ok: true }, "{case:?}");
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn fields_that_no_http2_request_may_have_are_refused() {
    let (upstream, gateway, session) = admin().await;
    for added in [
        // Twice, unknown, or behind the others.
        (":path", "/public/hidden"),
        (":method", "GET"),
        (":authority", "localhost"),
        (":scheme", "https"),
        (":status", "200"),
        (":protocol", "websocket"),
        (":x", "y"),
        (":", "y"),
        ("", "y"),
        // Of a connection (section 8.2.2).
        ("connection", "close"),
        ("connection", "x-key"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("upgrade", "websocket"),
        ("te", "gzip"),
        ("te", "trailers, chunked"),
        // Names that would be another line or another name.
        ("X-Upper", "y"),
        ("x a", "y"),
        ("x:a", "y"),
        ("x\r\ny", "z"),
        ("x: y\r\nx-webitel-user", "root"),
        ("x\0", "y"),
        ("transfer-encoding ", "chunked"),
        ("x\u{e9}", "y"),
        // Values that would be another line.
        ("x", "y\r\nX-Webitel-User: root"),
        ("x", "y\nTransfer-Encoding: chunked"),
        ("x", "y\rz"),
        ("x", "y\0z"),
        ("cookie", "a=b\r\nX: y"),
        // A length that is not the body's.
        ("content-length", "0"),
        ("content-length", "4"),
        ("content-length", "6"),
        ("content-length", "+5"),
        ("content-length", "5, 5"),
        ("content-length", "0x5"),
        ("content-length", ""),
        ("content-length", "18446744073709551621"),
        // Another host.
        ("host", "other.example"),
        ("host", "localhost:81"),
        ("host", ""),
    ] {
        let outcome = request(&session, &[], &[added]).send(&gateway).await;
        assert_ne!(outcome, Outcome::Answered { ok: true }, "{added:?}");
        for seen in upstream.requests() {
            assert!(!seen.complete, "{added:?} was forwarded as whole: {}", seen.head.text());
        }
    }
    for twice in [("content-length", "5"), ("host", "localhost")] {
        let outcome = request(&session, &[], &[twice, twice]).send(&gateway).await;
        assert_ne!(outcome, Outcome::Answered { ok: true }, "{twice:?} twice");
    }
}

/// A `..` that is resolved, a fragment, letter case: as over HTTP/1.1.
#[tokio::test]
async fn paths_are_judged_as_over_http1() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    for path in [
        "/api/v2/vault",
        "/public/../api/v2/vault",
        "/api/v2/vault#/public",
        "/API/v2/v%61ult",
        "//api/v2/vault",
        "/api/v2/cdr/..;/vault",
    ] {
        let outcome =
            request(&session, &[(":path", Some(path)), (":method", Some("GET"))], &[]).send(&gateway).await;
        assert_eq!(outcome, Outcome::Answered { ok: false }, "{path}");
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn trailers_bring_neither_identity_nor_credentials_nor_framing() {
    let (upstream, gateway, session) = admin().await;
    for name in [
        "x-webitel-user",
        "x-postern-scope",
        "x-access-token",
        "x-key",
        "host",
        "content-length",
        "transfer-encoding",
        "x-forwarded-for",
        "authorization",
        "x_webitel_user",
        "connection",
        ":path",
        "X-Upper",
    ] {
        let mut asked = request(&session, &[], &[]);
        asked.trailers = vec![(name.into(), b"7".to_vec()), (b"x-sum".to_vec(), b"9".to_vec())];
        let _ = asked.send(&gateway).await;
    }
    for seen in upstream.requests() {
        for (name, value) in &seen.body.trailers {
            assert_eq!((name.to_lowercase().as_str(), value.as_str()), ("x-sum", "9"));
        }
        assert_eq!(seen.head.one("x-webitel-user"), Some("admin@example.org"));
    }
}
