//! Who a caller is comes from the gateway alone, by whatever name a client sends it.

use crate::support::h2::{Frames, H2Client, request};
use crate::support::{Ask, Session, TestGateway, TestUpstream, configured, usual};

/// What the gateway tells an upstream, or an upstream could be led by.
const NAMES: &[&str] = &[
    "X-Webitel-User",
    "X-Webitel-Domain",
    "X-Webitel-Role",
    "X-Webitel-Anything",
    "X-Postern-Scope",
    "X-Postern-Anything",
    "X-Access-Token",
    "X-Key",
    "X-Forwarded-For",
    "X-Forwarded-Proto",
    "X-Forwarded-Host",
    "X-Forwarded-Port",
    "X-Forwarded-Prefix",
    "X-Forwarded-Uri",
    "X-Forwarded-User",
    "X-Forwarded-Method",
    "X-Forwarded-Tls-Client-Cert",
    "X-Real-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "True-Client-IP",
    "CF-Connecting-IP",
    "X-Original-Forwarded-For",
    "X-Original-Host",
    "X-HTTP-Method-Override",
    "X-HTTP-Method",
    "X-Method-Override",
    "X-Original-URL",
    "X-Original-URI",
    "X-Original-Method",
    "X-Rewrite-URL",
    "X-Request-Id",
    "Content-Length",
    "Transfer-Encoding",
];

/// Characters of a name that CGI, WSGI and their like turn into the same letter as `-`.
const LIKE_A_HYPHEN: &str = "_.!#$%&'*+^`|~";

const FORGED: &str = "f0rged";

/// The name in every disguise: letter case, and each other character in one or all places of `-`.
fn disguises(name: &str) -> Vec<String> {
    let mut all = vec![name.to_owned(), name.to_lowercase(), name.to_uppercase()];
    let alternating = name
        .char_indices()
        .map(|(n, c)| if n % 2 == 0 { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() });
    all.push(alternating.collect());
    for other in LIKE_A_HYPHEN.chars() {
        all.push(name.replace('-', &other.to_string()));
        all.push(name.replacen('-', &other.to_string(), 1));
    }
    all
}

/// Not those that have a meaning for this request under their own name.
fn is_its_own(name: &str) -> bool {
    ["content-length", "transfer-encoding", "x-access-token", "x-key"]
        .iter()
        .any(|own| name.eq_ignore_ascii_case(own))
}

async fn admin() -> (TestUpstream, TestGateway, Session) {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("admin").await;
    (upstream, gateway, session)
}

#[track_caller]
fn assert_genuine(upstream: &TestUpstream, session: &Session) {
    let seen = upstream.last();
    let text = seen.head.text();
    assert!(!text.contains(FORGED), "{text}");
    for (name, value) in [
        ("x-webitel-user", "admin@example.org"),
        ("x-webitel-domain", "example.org"),
        ("x-webitel-role", "admin"),
        ("x-postern-scope", "all"),
        ("x-access-token", &session.token),
        ("x-key", &session.key),
        ("x-forwarded-for", "127.0.0.1"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}: {text}");
    }
}

/// CVE-2025-64484 (oauth2-proxy), CVE-2026-52845 (Caddy): underscores. CVE-2026-30851 (Caddy): a header that the gateway does not
/// set for this caller. GHSA-6384-m2mw-rf54 (Traefik): `X-Forwarded-Prefix`. CVE-2025-48865 (Fabio).
#[tokio::test]
async fn no_disguise_of_a_name_brings_a_forged_value_to_the_upstream() {
    let (upstream, gateway, session) = admin().await;
    let all: Vec<String> =
        NAMES.iter().flat_map(|name| disguises(name)).filter(|name| !is_its_own(name)).collect();
    assert!(all.len() > 1000, "{}", all.len());
    for some in all.chunks(60) {
        // In front of the genuine ones and behind them.
        let forged = |ask: Ask| some.iter().fold(ask, |ask, name| ask.header(name, FORGED));
        gateway.ask(forged(Ask::get("/up/echo").with(&session))).await.assert_ok();
        assert_genuine(&upstream, &session);
        gateway.ask(forged(Ask::get("/up/echo")).with(&session)).await.assert_ok();
        assert_genuine(&upstream, &session);
        // Twice, and with the credentials in the query.
        let ask = forged(forged(Ask::get(format!("/up/echo?{}", session.query()))));
        if some.len() * 2 < 90 {
            gateway.ask(ask).await.assert_ok();
            assert_genuine(&upstream, &session);
        }
    }
}

#[tokio::test]
async fn nor_over_http2() {
    let (upstream, gateway, session) = admin().await;
    let mut client = H2Client::connect(&gateway).await;
    let all: Vec<String> = NAMES
        .iter()
        .flat_map(|name| disguises(&name.to_lowercase()))
        .filter(|name| !is_its_own(name))
        .collect();
    for some in all.chunks(60) {
        let mut asked = request("GET", "/up/echo", Some(&session), Frames::empty());
        for name in some {
            asked.headers_mut().append(
                http::HeaderName::from_bytes(name.to_lowercase().as_bytes()).unwrap(),
                FORGED.parse().unwrap(),
            );
        }
        assert_eq!(client.ask(asked).await.status, 200);
        assert_genuine(&upstream, &session);
    }
}

/// CVE-2021-32777, CVE-2020-25017 and CVE-2026-31838 (Envoy, Istio: of several values one was judged and another counted).
#[tokio::test]
async fn several_values_of_a_credential_are_nobodys() {
    let (upstream, gateway, session) = admin().await;
    let other = gateway.login("100").await;
    let (mine, theirs) = (&other.token, &session.token);
    for name in ["X-Access-Token", "x-access-token", "X-ACCESS-TOKEN"] {
        for (one, two) in [(mine, theirs), (theirs, mine), (mine, mine)] {
            let ask =
                Ask::get("/me/x").header(name, one).header("X-Key", &other.key).header("X-Access-Token", two);
            gateway.ask(ask).await.assert_refusal(400, "Ambiguous credentials");
            let ask =
                Ask::get(format!("/me/x?access_token={two}")).header(name, one).header("X-Key", &other.key);
            gateway.ask(ask).await.assert_refusal(400, "Ambiguous credentials");
        }
        for joined in [
            format!("{mine},{theirs}"),
            format!("{mine}, {theirs}"),
            format!("{mine};{theirs}"),
            format!("{mine} {theirs}"),
            format!("Bearer {mine}"),
        ] {
            gateway
                .ask(Ask::get("/me/x").header(name, joined).header("X-Key", &other.key))
                .await
                .assert_error(401);
        }
    }
    upstream.assert_untouched();
}

/// Fields in the trailer section that some servers merge into the header (RFC 9110 section 6.5.1; CVE-2025-12642, lighttpd).
#[tokio::test]
async fn no_trailer_brings_identity_credentials_or_framing() {
    let (upstream, gateway, session) = admin().await;
    let all: Vec<String> = NAMES
        .iter()
        .flat_map(|name| disguises(name))
        .chain([
            "Host".into(),
            "Authorization".into(),
            "Connection".into(),
            "Trailer".into(),
            "Set-Cookie".into(),
        ])
        .collect();
    for some in all.chunks(40) {
        let trailers: String = some.iter().map(|name| format!("{name}: {FORGED}\r\n")).collect();
        let declared = some.join(", ");
        let body = format!("5\r\nhello\r\n0\r\nX-Sum: 7\r\n{trailers}\r\n");
        let ask = Ask::post("/up/echo")
            .with(&session)
            .header("Trailer", declared)
            .header("Transfer-Encoding", "chunked")
            .raw_body(body);
        gateway.ask(ask).await.assert_ok();
        let seen = upstream.last();
        assert_eq!(seen.body.bytes, b"hello");
        let passed: Vec<&str> = seen.body.trailers.iter().map(|(name, _)| name.as_str()).collect();
        assert!(passed.iter().all(|name| name.eq_ignore_ascii_case("x-sum")), "{passed:?}");
        assert_genuine(&upstream, &session);
    }
}

/// CVE-2026-40575 (oauth2-proxy: `X-Forwarded-Uri` of anybody), CVE-2023-27487 (Envoy: `x-envoy-original-path`): what is judged is
/// what was asked.
#[tokio::test]
async fn no_header_changes_what_is_judged() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    for name in [
        "X-Forwarded-Uri",
        "X-Original-URL",
        "X-Original-URI",
        "X-Rewrite-URL",
        "X-Envoy-Original-Path",
        "X-Forwarded-Prefix",
        "X-Forwarded-Path",
        "X-Auth-Request-Redirect",
        "X-Accel-Redirect",
    ] {
        for value in ["/public/x", "/api/v2/cdr", "http://localhost/public/x"] {
            let refused = gateway.ask(Ask::get("/api/v2/vault/x").with(&session).header(name, value)).await;
            refused.assert_refusal(403, "Permission denied!");
            gateway
                .ask(Ask::get("/api/v2/vault/x").header(name, value))
                .await
                .assert_refusal(401, "Invalid token");
        }
    }
    for name in [
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-Original-Method",
        "X-Forwarded-Method",
        "X_HTTP_METHOD_OVERRIDE",
    ] {
        let refused =
            gateway.ask(Ask::new("DELETE", "/api/v2/cdr/x").with(&session).header(name, "GET")).await;
        refused.assert_refusal(403, "Permission denied!");
        gateway.ask(Ask::get("/api/v2/cdr/x").with(&session).header(name, "DELETE")).await.assert_ok();
        assert!(!upstream.last().head.text().contains("DELETE"));
    }
}

/// Only a trusted proxy may say whom it asks for; others are refused before anything is read.
#[tokio::test]
async fn an_authorizer_answers_no_stranger() {
    let (_upstream, gateway) =
        configured(|settings| settings.set("listen.trusted_proxies", "['127.0.0.2/32']")).await;
    let session = gateway.login("100").await;
    let asked = || {
        Ask::get("/auth")
            .with(&session)
            .header("X-Original-URL", "http://localhost/api/v2/cdr/x")
            .header("X-Original-Method", "GET")
    };
    let mut client = crate::support::TestClient::connect(gateway.authz()).await;
    client.ask(&asked()).await.assert_ok();
    for (uri, url) in
        [("/public/x", "http://localhost/api/v2/vault/x"), ("/api/v2/vault/x", "http://localhost/public/x")]
    {
        let mixed = Ask::get("/auth")
            .with(&session)
            .header("X-Original-URL", url)
            .header("X-Forwarded-Uri", uri)
            .header("X-Original-Method", "GET")
            .header("X-Forwarded-Method", "GET");
        assert_eq!(client.ask(&mixed).await.status, 403, "{uri} and {url}");
    }
}
