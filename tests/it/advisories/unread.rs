//! Bodies that nobody has read when the answer is out, and what a client says of its connection: no request comes of the
//! one, nothing is lost by the other.

use super::{HIDDEN, Scene};
use crate::support::{Ask, TestClient, TestUpstream, configured, usual};

/// After the first answer either the connection has ended or the body was no request: what comes next is `marker`, which
/// is refused with 401.
async fn body_is_no_request(mut client: TestClient, what: &str, bytes: &[u8], upstream: &TestUpstream) {
    client.send(bytes).await;
    client.send(Ask::get("/me/marker").bytes()).await;
    if let Some(first) = client.try_answer().await {
        let after = client.try_answer().await;
        if let Some(second) = after {
            assert_eq!(
                (second.status, second.info().as_str()),
                (401, "Invalid token"),
                "{what}: {} and then {}",
                first.brief(),
                second.brief()
            );
            client.send(Ask::get("/closed").header("Connection", "close").bytes()).await;
            let third = client.try_answer().await.map(|answer| answer.status);
            assert!(matches!(third, None | Some(401 | 403)), "{what}: {third:?}");
        }
    }
    let hidden = upstream.requests().into_iter().find(|seen| seen.target.contains("hidden"));
    assert!(hidden.is_none(), "{what}: the body was forwarded as a request");
}

/// TE.0, CL.0 and 0.CL: whoever answers before it has read a body must not take the body for the next request.
/// CVE-2025-4366 (Pingora), CVE-2019-20372 (nginx: an error page), CVE-2026-2833 (Pingora: an upgrade that
/// is none).
#[tokio::test]
async fn an_answer_that_does_not_wait_for_the_body_does_not_make_it_a_request() {
    let (upstream, gateway) = configured(|settings| {
        settings.set("cors.allow_origins", "['*']");
        settings.route("path = '/who'\naccess = 'authenticated'\nanswer = 'whoami'");
    })
    .await;
    let session = gateway.login("100").await;
    for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "FOO"] {
        for target in [
            "/",
            "/closed",
            "/api/v2/vault",
            "/api/v2/cdr",
            "/who",
            "/a%2fb",
            "/login",
            "/logout",
            "/up/early",
            "/public/x",
        ] {
            for extra in ["", "Expect", "Upgrade"] {
                for chunked in [false, true] {
                    let ask = match extra {
                        "Expect" => Ask::new(method, target).header("Expect", "100-continue"),
                        "Upgrade" => {
                            Ask::new(method, target).header("Upgrade", "foo").header("Connection", "Upgrade")
                        }
                        _ => Ask::new(method, target),
                    };
                    let ask = if target == "/login" { ask } else { ask.with(&session) };
                    let ask = if chunked { ask.chunked(HIDDEN) } else { ask.body(HIDDEN) };
                    let what = format!("{method} {target} {extra} {chunked}");
                    if method == "HEAD" {
                        // The client of the tests must know it to read the answer.
                        let mut client = gateway.client().await;
                        client.send(ask.bytes()).await;
                        let _ = client.wire.head().await;
                        continue;
                    }
                    body_is_no_request(gateway.client().await, &what, &ask.bytes(), &upstream).await;
                }
            }
        }
    }
    assert!(upstream.requests().iter().all(|seen| !seen.target.contains("hidden")));
}

#[tokio::test]
async fn nor_on_the_listeners_of_an_ingress_and_of_the_operator() {
    let (upstream, gateway) = usual().await;
    for (addr, target) in [
        (gateway.authz(), "/auth"),
        (gateway.authz(), "/nothing"),
        (gateway.admin(), "/healthz"),
        (gateway.admin(), "/sessions"),
        (gateway.admin(), "/nothing"),
    ] {
        for ask in [Ask::get(target).body(HIDDEN), Ask::post(target).chunked(HIDDEN)] {
            let mut client = TestClient::connect(addr).await;
            client.send(ask.bytes()).await;
            client.send(Ask::get("/marker").header("Connection", "close").bytes()).await;
            let answers = String::from_utf8_lossy(&client.closed().await).into_owned();
            assert!(answers.matches("HTTP/1.1 ").count() <= 2, "{target}: {answers}");
        }
    }
    upstream.assert_untouched();
}

/// Only `100-continue`, once, may be expected: the desync by other spellings of 2025 (CVE-2025-32094, Akamai).
#[tokio::test]
async fn an_odd_expectation_never_reaches_the_upstream() {
    let scene = Scene::new().await;
    for expect in [
        "y 100-continue",
        "100-continue, x",
        "x=\"100-continue\"",
        "100-Continue\r\nExpect: x",
        "",
        " ",
        "200-ok",
        "100-continue\t",
    ] {
        for body in ["hello", HIDDEN] {
            let bytes = format!(
                "{}{body}",
                scene.head(&format!("Expect: {expect}\r\nContent-Length: {}\r\n", body.len()))
            );
            body_is_no_request(scene.gateway.client().await, expect, bytes.as_bytes(), &scene.upstream).await;
        }
    }
    for seen in scene.upstream.requests() {
        let told = seen.head.all("expect");
        assert!(told.is_empty() || told == ["100-continue"], "{told:?}");
    }
}

/// CVE-2024-45410 (Traefik), CVE-2025-48865 (Fabio), CVE-2026-26365 (Akamai): `Connection` names what it may not.
#[tokio::test]
async fn connection_cannot_name_away_framing_identity_or_credentials() {
    let scene = Scene::new().await;
    for name in [
        "Transfer-Encoding",
        "Content-Length",
        "Host",
        "X-Webitel-User",
        "X-Webitel-Domain",
        "X-Webitel-Role",
        "X-Postern-Scope",
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Request-Id",
        "traceparent",
        "X-Access-Token",
        "X-Key",
        "close, Transfer-Encoding",
        "keep-alive, x-webitel-user",
        "X-WEBITEL-USER ,\tX-KEY",
        "Connection",
        "*",
    ] {
        for framing in
            ["Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "Content-Length: 5\r\n\r\nhello"]
        {
            let head = scene.head(&format!("Connection: {name}\r\n"));
            let bytes = format!("{}{framing}", head.strip_suffix("\r\n").unwrap());
            scene.gateway.try_raw(bytes).await.expect("an answer").assert_ok();
            let seen = scene.upstream.last();
            assert_eq!(seen.body.bytes, b"hello", "{name}");
            for kept in [
                "host",
                "x-webitel-user",
                "x-webitel-role",
                "x-webitel-domain",
                "x-forwarded-for",
                "x-request-id",
                "x-access-token",
                "x-key",
                "x-postern-scope",
            ] {
                assert!(seen.head.has(kept), "{name} took {kept} away: {}", seen.head.text());
            }
        }
    }
}
