//! What the upstream is sent and what comes back: methods, bodies, headers (contract section 4, Forwarding).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::upstream::Received;
use crate::support::{Ask, Session, TestGateway, TestUpstream, configured, usual};

async fn admin() -> (TestUpstream, TestGateway, Session) {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("admin").await;
    (upstream, gateway, session)
}

fn names(seen: &Received) -> BTreeSet<String> {
    seen.head.fields.iter().map(|(name, _)| name.to_lowercase()).collect()
}

#[tokio::test]
async fn method_path_query_body_and_headers_arrive_as_they_were_sent() {
    let (upstream, gateway, session) = admin().await;
    let ask = Ask::new("PATCH", "/up/Echo?a=%2f&b")
        .with(&session)
        .header("Content-Type", "application/merge-patch+json")
        .header("Accept", "text/html;q=0.5")
        .header("Cookie", "a=1; b=2")
        .header("Authorization", "Bearer of-the-upstream")
        .header("X-Custom", "one")
        .header("X-Custom", "two")
        .header("User-Agent", "scene/1.0")
        .body(r#"{"a":1}"#);
    let answer = gateway.ask(ask).await;
    answer.assert_ok();
    let seen = upstream.only();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("PATCH", "/up/Echo?a=%2f&b"));
    assert_eq!(seen.body.bytes, br#"{"a":1}"#);
    assert_eq!(seen.header("content-length"), Some("7"));
    for (name, value) in [
        ("content-type", "application/merge-patch+json"),
        ("accept", "text/html;q=0.5"),
        ("cookie", "a=1; b=2"),
        ("authorization", "Bearer of-the-upstream"),
        ("user-agent", "scene/1.0"),
    ] {
        assert_eq!(seen.header(name), Some(value));
    }
    assert_eq!(seen.head.all("x-custom"), ["one", "two"]);
    assert_eq!(answer.json()["server"], "engine");
}

#[tokio::test]
async fn a_request_without_a_body_is_sent_without_framing() {
    let (upstream, gateway, session) = admin().await;
    for method in ["GET", "DELETE", "HEAD", "OPTIONS"] {
        assert_eq!(gateway.ask(Ask::new(method, "/up/echo").with(&session)).await.status, 200);
        let seen = upstream.last();
        assert!(!seen.head.has("transfer-encoding"), "{}", seen.head.text());
        assert!(matches!(seen.header("content-length"), None | Some("0")), "{}", seen.head.text());
    }
    gateway.ask(Ask::post("/up/echo").with(&session).body("")).await.assert_ok();
    assert_eq!(upstream.last().header("content-length"), Some("0"));
}

#[tokio::test]
async fn statuses_and_headers_come_back_as_the_upstream_gave_them() {
    let (_upstream, gateway, session) = admin().await;
    for status in [200, 201, 206, 301, 400, 401, 403, 404, 418, 451, 500, 502, 503, 599] {
        let answer = gateway.ask(Ask::get(format!("/up/status/{status}")).with(&session)).await;
        assert_eq!((answer.status, answer.text().as_str()), (status, "ok"));
        assert_eq!(answer.header("x-from"), Some("upstream"));
        assert_eq!(answer.header("content-length"), Some("2"));
    }
}

#[tokio::test]
async fn answers_without_a_body_are_framed_right() {
    let (_upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    let no_content = client.ask(&Ask::get("/up/no-content").with(&session)).await;
    assert_eq!(no_content.status, 204);
    assert!(!no_content.head.has("content-length") && !no_content.head.has("transfer-encoding"));
    let not_modified = client.ask(&Ask::get("/up/not-modified").with(&session)).await;
    assert_eq!((not_modified.status, not_modified.header("etag")), (304, Some("\"7\"")));
    let head = client.ask(&Ask::new("HEAD", "/up/length-of-head").with(&session)).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some("12345")));
    client.ask(&Ask::get("/up/echo").with(&session)).await.assert_ok();
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_comes_whole() {
    let (_upstream, gateway, session) = admin().await;
    let answer = gateway.ask(Ask::get("/up/until-close").with(&session)).await;
    assert_eq!(answer.assert_ok().text(), "all of it");
}

#[tokio::test]
async fn hop_by_hop_headers_stop_here_in_both_directions() {
    let (upstream, gateway, session) = admin().await;
    let ask = Ask::get("/up/hop")
        .with(&session)
        .header("Connection", "keep-alive, X-Private, X-Other")
        .header("X-Private", "secret")
        .header("X-Other", "secret")
        .header("Keep-Alive", "timeout=5")
        .header("Proxy-Authorization", "Basic secret")
        .header("Proxy-Connection", "keep-alive")
        .header("TE", "trailers, deflate")
        .header("Upgrade", "h2c");
    let answer = gateway.ask(ask).await;
    answer.assert_ok();
    let seen = upstream.only();
    let sent = names(&seen);
    for name in ["x-private", "x-other", "keep-alive", "proxy-authorization", "proxy-connection", "upgrade"] {
        assert!(!sent.contains(name), "{name}: {}", seen.head.text());
    }
    assert!(matches!(seen.header("te"), None | Some("trailers")), "{}", seen.head.text());
    for name in ["x-private", "keep-alive", "proxy-authenticate"] {
        assert!(!answer.head.has(name), "{name}: {}", answer.head.text());
    }
    assert_eq!(answer.header("x-kept"), Some("yes"));
    assert_eq!(answer.head.all("set-cookie"), ["a=1", "b=2"]);
}

#[tokio::test]
async fn connection_cannot_name_what_the_gateway_adds_or_frames_with() {
    let (upstream, gateway, session) = admin().await;
    let ask = Ask::post("/up/echo")
        .with(&session)
        .header(
            "Connection",
            "Host, Content-Length, X-Webitel-User, X-Request-Id, X-Forwarded-For, X-Access-Token, X-Key",
        )
        .body("12345");
    let answer = gateway.ask(ask).await;
    if answer.status == 400 {
        return upstream.assert_untouched();
    }
    answer.assert_ok();
    let seen = upstream.only();
    assert_eq!(seen.body.bytes, b"12345");
    for name in ["host", "x-webitel-user", "x-request-id", "x-forwarded-for"] {
        assert!(seen.head.has(name), "{name}: {}", seen.head.text());
    }
}

/// `advisories/spoofing.rs` has every disguise.
#[tokio::test]
async fn the_identity_headers_are_the_gateways_alone() {
    let (upstream, gateway, session) = admin().await;
    let mut ask = Ask::get("/up/echo").with(&session);
    for name in [
        "X-Webitel-User",
        "x-webitel-role",
        "X-WEBITEL-DOMAIN",
        "X-Webitel-Anything",
        "X_Webitel_User",
        "X.Webitel.Role",
        "x~webitel~domain",
        "X-Postern-Anything",
        "X_Postern_Scope",
    ] {
        ask = ask.header(name, "forged");
    }
    gateway.ask(ask).await.assert_ok();
    let seen = upstream.only();
    assert!(!seen.head.text().contains("forged"), "{}", seen.head.text());
    assert_eq!(seen.header("x-webitel-user"), Some("admin@example.org"));
    assert_eq!(seen.header("x-webitel-domain"), Some("example.org"));
    assert_eq!(seen.header("x-webitel-role"), Some("admin"));
}

#[tokio::test]
async fn look_alikes_of_host_and_framing_headers_are_removed() {
    let (upstream, gateway, session) = admin().await;
    let ask = Ask::post("/up/echo")
        .with(&session)
        .header("Content_Length", "9000")
        .header("Transfer_Encoding", "chunked")
        .header("transfer.encoding", "chunked")
        .header("X_Forwarded_For", "9.9.9.9")
        .header("x.forwarded.proto", "gopher")
        .body("12345");
    gateway.ask(ask).await.assert_ok();
    let seen = upstream.only();
    for value in ["9000", "chunked", "9.9.9.9", "gopher"] {
        assert!(seen.head.fields.iter().all(|(_, sent)| sent != value), "{value}: {}", seen.head.text());
    }
    assert_eq!(seen.body.bytes, b"12345");
}

#[tokio::test]
async fn forwarded_headers_tell_where_the_request_came_from() {
    let (upstream, gateway, session) = admin().await;
    let ask = Ask::get("/up/echo")
        .with(&session)
        .host("api.example.com:8080")
        .header("X-Forwarded-For", "203.0.113.9")
        .header("X-Forwarded-Proto", "gopher")
        .header("X-Forwarded-Host", "evil.example")
        .header("Forwarded", "for=203.0.113.9;host=evil.example")
        .header("X-Real-IP", "203.0.113.9");
    gateway.ask(ask).await.assert_ok();
    let seen = upstream.only();
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some("api.example.com:8080"));
    let text = seen.head.text();
    assert!(!text.contains("203.0.113.9") && !text.contains("evil.example"), "{text}");

    gateway.tls_client().await.ask(&Ask::get("/up/echo").with(&session)).await.assert_ok();
    assert_eq!(upstream.last().header("x-forwarded-proto"), Some("https"));
}

#[tokio::test]
async fn a_trusted_proxy_is_believed() {
    let (upstream, gateway) =
        configured(|settings| settings.set("listen.trusted_proxies", "['127.0.0.2/32']")).await;
    let session = gateway.login("admin").await;
    let ask = || {
        Ask::get("/up/echo")
            .with(&session)
            .header("X-Forwarded-For", "203.0.113.9")
            .header("X-Forwarded-Proto", "https")
            .header("X-Forwarded-Host", "api.example.com")
            .header("X-Request-Id", "id-of-the-proxy-1")
    };
    let answer = gateway.ask_from([127, 0, 0, 2], ask()).await;
    answer.assert_ok();
    let seen = upstream.last();
    let path = seen.header("x-forwarded-for").unwrap();
    assert!(path.starts_with("203.0.113.9"), "{path}");
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("api.example.com"));
    assert_eq!(seen.header("x-request-id"), Some("id-of-the-proxy-1"));
    let line = gateway.access_line("/up/echo").await;
    assert_eq!((&line["client"], &line["request_id"]), (&json!("203.0.113.9"), &json!("id-of-the-proxy-1")));

    gateway.ask_from([127, 0, 0, 3], ask()).await.assert_ok();
    let seen = upstream.last();
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.3"));
    assert_ne!(seen.header("x-request-id"), Some("id-of-the-proxy-1"));
}

#[tokio::test]
async fn of_a_chain_of_proxies_the_client_is_the_last_one_not_trusted() {
    let (_upstream, gateway) =
        configured(|settings| settings.set("listen.trusted_proxies", "['127.0.0.2/32', '10.0.0.0/8']")).await;
    let session = gateway.login("admin").await;
    for (number, (chain, client)) in [
        ("198.51.100.1, 203.0.113.9, 10.1.2.3", "203.0.113.9"),
        ("203.0.113.9", "203.0.113.9"),
        ("nonsense, 203.0.113.9", "203.0.113.9"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/up/echo/{number}");
        let ask = Ask::get(&path).with(&session).header("X-Forwarded-For", chain);
        gateway.ask_from([127, 0, 0, 2], ask).await.assert_ok();
        assert_eq!(gateway.access_line(&path).await["client"], client, "{chain}");
    }
}

#[tokio::test]
async fn every_request_has_an_id_that_the_upstream_the_log_and_an_error_tell() {
    let (upstream, gateway, session) = admin().await;
    gateway
        .ask(Ask::get("/up/echo").with(&session).header("X-Request-Id", "chosen-by-the-client"))
        .await
        .assert_ok();
    let id = upstream.only().header("x-request-id").expect("an id").to_owned();
    assert_ne!(id, "chosen-by-the-client");
    assert_eq!(gateway.access_line("/up/echo").await["request_id"], id.as_str());

    let refused = gateway.ask(Ask::get("/up/refused")).await;
    let other = refused.assert_error(401).header("x-request-id").unwrap();
    assert_ne!(other, id);
    assert_eq!(gateway.access_line("/up/refused").await["request_id"], other);
}

#[tokio::test]
async fn a_trace_goes_on_or_begins() {
    let (upstream, gateway, session) = admin().await;
    gateway.ask(Ask::get("/up/echo").with(&session)).await.assert_ok();
    let begun = upstream.last().header("traceparent").expect("a traceparent").to_owned();
    let parts: Vec<&str> = begun.split('-').collect();
    assert_eq!(parts.iter().map(|part| part.len()).collect::<Vec<_>>(), [2, 32, 16, 2], "{begun}");
    assert!(parts.iter().all(|part| part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))), "{begun}");

    for broken in ["garbage", "00-00000000000000000000000000000000-b7ad6b7169203331-01"] {
        gateway.ask(Ask::get("/up/echo").with(&session).header("traceparent", broken)).await.assert_ok();
        let seen = upstream.last();
        let sent = seen.header("traceparent").expect("one traceparent");
        assert_ne!(sent, broken);
    }
}

#[tokio::test]
async fn the_host_of_the_client_reaches_the_upstream() {
    let (upstream, gateway, session) = admin().await;
    gateway.ask(Ask::get("/up/echo").with(&session).host("api.example.com")).await.assert_ok();
    let seen = upstream.only();
    let host = seen.header("host").unwrap();
    assert!(host == "api.example.com" || host == upstream.addr.to_string(), "{host}");
    assert_eq!(seen.header("x-forwarded-host"), Some("api.example.com"));
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let (upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    for _ in 0..20 {
        client.ask(&Ask::get("/up/echo").with(&session)).await.assert_ok();
    }
    assert_eq!((upstream.requests().len(), upstream.connections()), (20, 1));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (_upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    let mut bytes = Ask::get("/up/slow/100").with(&session).bytes();
    for number in 0..5 {
        bytes.extend(
            Ask::post(format!("/up/echo/{number}")).with(&session).body(format!("body {number}")).bytes(),
        );
    }
    bytes.extend(Ask::get("/closed").bytes());
    client.send(bytes).await;
    assert_eq!(client.answer().await.json()["target"], "/up/slow/100");
    for number in 0..5 {
        let echo = client.answer().await.json();
        assert_eq!(
            (&echo["target"], &echo["body"]),
            (&json!(format!("/up/echo/{number}")), &json!(format!("body {number}")))
        );
    }
    client.answer().await.assert_refusal(403, "Permission denied!");
}

#[tokio::test]
async fn requests_of_many_clients_at_once_get_their_own_answers() {
    let (_upstream, gateway, session) = admin().await;
    let asks = (0..100).map(|number| {
        let ask = Ask::post(format!("/up/echo/{number}")).with(&session).body(format!("{number}"));
        gateway.ask(ask)
    });
    for (number, answer) in futures_util::future::join_all(asks).await.into_iter().enumerate() {
        let echo: Value = answer.assert_ok().json();
        assert_eq!(echo["target"], format!("/up/echo/{number}").as_str());
        assert_eq!(echo["body"], number.to_string().as_str());
    }
}

#[tokio::test]
async fn an_http_1_0_client_is_served_and_its_connection_closes() {
    let (_upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    let request = format!(
        "GET /up/chunked HTTP/1.0\r\nHost: localhost\r\nX-Access-Token: {}\r\nX-Key: {}\r\n\r\n",
        session.token, session.key
    );
    client.send(request).await;
    let answer = client.answer().await;
    assert_eq!(answer.assert_ok().text(), "hello world");
    assert!(!answer.head.has("transfer-encoding"), "{}", answer.head.text());
    assert!(client.closed().await.is_empty());
}
