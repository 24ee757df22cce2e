//! WebSocket and other upgrades (contract section 4).

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::support::tls::Offer;
use crate::support::wait::{until, within};
use crate::support::{Ask, Session, TestGateway, TestUpstream, configured, usual};

async fn admin() -> (TestUpstream, TestGateway, Session) {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("admin").await;
    (upstream, gateway, session)
}

/// A WebSocket through the gateway, or the refusal.
async fn web_socket(
    gateway: &TestGateway,
    path: &str,
    session: Option<&Session>,
) -> Result<WebSocketStream<TcpStream>, Error> {
    let mut request = format!("ws://localhost{path}").into_client_request().unwrap();
    if let Some(session) = session {
        request.headers_mut().insert("x-access-token", session.token.parse().unwrap());
        request.headers_mut().insert("x-key", session.key.parse().unwrap());
    }
    let stream = TcpStream::connect(gateway.http()).await.unwrap();
    within("the WebSocket handshake", client_async(request, stream)).await.map(|(socket, _)| socket)
}

fn upgrade(path: &str, protocol: &str) -> Ask {
    Ask::get(path).header("Connection", "Upgrade").header("Upgrade", protocol)
}

#[track_caller]
fn assert_refused(result: Result<WebSocketStream<TcpStream>, Error>, status: u16) {
    match result {
        Err(Error::Http(response)) => assert_eq!(response.status().as_u16(), status),
        Err(other) => panic!("no answer: {other}"),
        Ok(_) => panic!("the upgrade was let through"),
    }
}

#[tokio::test]
async fn a_web_socket_carries_messages_both_ways() {
    let (upstream, gateway, session) = admin().await;
    let mut socket = web_socket(&gateway, "/up/ws", Some(&session)).await.unwrap();
    for message in
        [Message::text("hello"), Message::binary(vec![0u8, 255, 7]), Message::text("x".repeat(300_000))]
    {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(within("the echo", socket.next()).await.unwrap().unwrap(), message);
    }
    socket.send(Message::Ping(vec![7].into())).await.unwrap();
    assert_eq!(within("a pong", socket.next()).await.unwrap().unwrap(), Message::Pong(vec![7].into()));
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = within("the close", socket.next()).await {}

    let seen = upstream.only();
    assert_eq!(seen.header("upgrade").map(str::to_lowercase).as_deref(), Some("websocket"));
    assert!(seen.header("connection").unwrap().to_lowercase().contains("upgrade"));
    assert_eq!(seen.header("sec-websocket-version"), Some("13"));
    assert_eq!(seen.header("x-webitel-user"), Some("admin@example.org"));
}

#[tokio::test]
async fn a_web_socket_works_over_tls_with_credentials_in_the_query() {
    let (upstream, gateway, session) = admin().await;
    let offer = Offer { alpn: &["http/1.1"], ..Offer::default() };
    let stream = gateway.authority().connect(gateway.https(), &offer).await.unwrap();
    let request = format!("wss://localhost/up/ws?a=1&{}", session.query()).into_client_request().unwrap();
    let (mut socket, _) = within("the handshake", client_async(request, stream)).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(within("the echo", socket.next()).await.unwrap().unwrap(), Message::text("hello"));
    assert_eq!(upstream.only().target, "/up/ws?a=1");
}

#[tokio::test]
async fn an_upgrade_passes_the_same_checks_as_any_request() {
    let (upstream, gateway, session) = admin().await;
    let idle = gateway.login("idle").await;
    assert_refused(web_socket(&gateway, "/up/ws", None).await, 401);
    assert_refused(web_socket(&gateway, "/up/ws", Some(&idle)).await, 403);
    assert_refused(web_socket(&gateway, "/closed", Some(&session)).await, 403);
    assert_refused(web_socket(&gateway, "/up/a%2fb", Some(&session)).await, 400);
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_route_may_refuse_web_sockets() {
    let (upstream, gateway) = configured(|settings| {
        settings.route("path = '/quiet'\naccess = 'authenticated'\nupstream = 'engine'\nwebsocket = 'deny'");
    })
    .await;
    let session = gateway.login("admin").await;
    assert_refused(web_socket(&gateway, "/quiet/ws", Some(&session)).await, 403);
    upstream.assert_untouched();
    gateway.ask(Ask::get("/quiet/x").with(&session)).await.assert_ok();
}

#[tokio::test]
async fn another_protocol_is_a_tunnel_of_bytes() {
    let (upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    client.send(upgrade("/up/raw-echo", "raw-echo").with(&session).bytes()).await;
    let head = client.answer_head().await;
    assert!(head.start.starts_with("HTTP/1.1 101"), "{}", head.text());
    assert_eq!(head.one("upgrade"), Some("raw-echo"));
    assert!(head.one("connection").unwrap().to_lowercase().contains("upgrade"));
    client.send([0u8, 13, 10, 255]).await;
    assert_eq!(within("an echo", client.wire.exactly(5)).await.unwrap(), [b'<', 0, 13, 10, 255]);
    assert_eq!(upstream.tunnel(), [0, 13, 10, 255]);
}

#[tokio::test]
async fn a_half_closed_tunnel_still_brings_what_the_other_side_has_to_say() {
    let (_upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    client.send(upgrade("/up/raw-echo", "raw-echo").with(&session).bytes()).await;
    client.answer_head().await;
    client.send("last words").await;
    tokio::io::AsyncWriteExt::shutdown(&mut client.wire.io).await.unwrap();
    assert_eq!(String::from_utf8(client.closed().await).unwrap(), "<last wordsbye");
}

/// CVE-2026-2833 (Pingora): bytes behind an upgrade that nobody has agreed to.
#[tokio::test]
async fn bytes_sent_before_the_101_reach_the_upstream_only_after_it() {
    let (upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    let mut bytes = upgrade("/up/raw-echo", "raw-echo").with(&session).bytes();
    bytes.extend(b"eager");
    client.send(bytes).await;
    client.answer_head().await;
    assert_eq!(within("an echo", client.wire.exactly(6)).await.unwrap(), b"<eager");
    assert_eq!(upstream.tunnel(), b"eager");
}

/// CVE-2024-23326 (Envoy: a 200 taken for a 101).
#[tokio::test]
async fn a_refused_upgrade_is_an_answer_and_what_follows_it_is_a_request() {
    let (upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    let answer = client.ask(&upgrade("/up/refuse-upgrade", "websocket").with(&session)).await;
    assert_eq!(
        (answer.status, answer.text().as_str(), answer.header("x-from")),
        (403, "refused", Some("upstream"))
    );
    // On the same connection when it is still open: judged like any other request.
    client.send(Ask::get("/api/v2/vault").bytes()).await;
    if let Some(answer) = client.try_answer().await {
        answer.assert_refusal(401, "Invalid token");
    }
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn a_101_that_nobody_asked_for_is_a_bad_gateway() {
    let (_upstream, gateway, session) = admin().await;
    let answer = gateway.ask(Ask::get("/up/unasked-101").with(&session)).await;
    answer.assert_refusal(502, "Bad gateway");
    assert!(!answer.text().contains("POISON"));
}

#[tokio::test]
async fn an_upgrade_to_http2_is_not_passed_on() {
    let (upstream, gateway, session) = admin().await;
    let ask = Ask::get("/up/echo")
        .with(&session)
        .header("Connection", "Upgrade, HTTP2-Settings")
        .header("Upgrade", "h2c")
        .header("HTTP2-Settings", "AAMAAABkAARAAAAAAAIAAAAA");
    gateway.ask(ask).await.assert_ok();
    let seen = upstream.only();
    assert!(!seen.head.has("http2-settings") && !seen.head.text().contains("h2c"), "{}", seen.head.text());
}

#[tokio::test]
async fn a_logout_closes_the_open_sockets_of_its_session_alone() {
    let (upstream, gateway, session) = admin().await;
    let other_session = gateway.login("admin").await;
    let mut ended = web_socket(&gateway, "/up/ws", Some(&session)).await.unwrap();
    let mut other = web_socket(&gateway, "/up/ws", Some(&other_session)).await.unwrap();
    gateway.ask(Ask::post("/logout").with(&session)).await.assert_ok();
    let closed = async { while let Some(Ok(_)) = ended.next().await {} };
    let in_time = tokio::time::timeout(Duration::from_secs(2), closed).await;
    assert!(in_time.is_ok(), "the socket is open after the logout");
    until("the upstream to see the end", || (upstream.cut_off() == 1).then_some(())).await;

    other.send(Message::text("still here")).await.unwrap();
    assert_eq!(within("the echo", other.next()).await.unwrap().unwrap(), Message::text("still here"));
}

#[tokio::test]
async fn an_expiring_session_closes_its_sockets() {
    let (upstream, gateway) = configured(|settings| settings.set("token.ttl", "'2s'")).await;
    let session = gateway.login("admin").await;
    let mut socket = web_socket(&gateway, "/up/ws", Some(&session)).await.unwrap();
    within("the socket to close", async { while let Some(Ok(_)) = socket.next().await {} }).await;
    until("the upstream to see the end", || (upstream.cut_off() == 1).then_some(())).await;
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_upstreams_side() {
    let (upstream, gateway, session) = admin().await;
    let socket = web_socket(&gateway, "/up/ws", Some(&session)).await.unwrap();
    drop(socket);
    until("the upstream to see the end", || (upstream.cut_off() == 1).then_some(())).await;
}

/// RFC 9110 section 7.8: an upgrade in HTTP/1.0 is ignored. So it is a request like any other, credentials and all.
#[tokio::test]
async fn an_upgrade_in_http_1_0_is_ignored() {
    let (upstream, gateway) = configured(|settings| {
        settings
            .route("path = '/ws'\naccess = 'authenticated'\nupstream = 'engine'\nwebsocket = 'first_frame'");
    })
    .await;
    let session = gateway.login("admin").await;
    let asked = |credentials: &str| {
        format!(
            "GET /ws/echo HTTP/1.0\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{credentials}\r\n"
        )
    };
    gateway.try_raw(asked("")).await.unwrap().assert_refusal(401, "Invalid token");
    upstream.assert_untouched();
    let credentials = format!("X-Access-Token: {}\r\nX-Key: {}\r\n", session.token, session.key);
    gateway.try_raw(asked(&credentials)).await.unwrap().assert_ok();
    assert_eq!(upstream.only().header("upgrade"), None);
}
