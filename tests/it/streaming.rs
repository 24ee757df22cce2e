//! Bodies pass as they come, in both directions, no faster than the other side takes them (contract section 4, Forwarding).

use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Frame;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::wait::{until, within};
use crate::support::{Ask, Session, TestGateway, TestUpstream, h2, usual};

async fn admin() -> (TestUpstream, TestGateway, Session) {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("admin").await;
    (upstream, gateway, session)
}

fn chunked_post(path: &str, session: &Session, more: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Access-Token: {}\r\nX-Key: {}\r\nTransfer-Encoding: chunked\r\n{more}\r\n",
        session.token, session.key
    )
}

#[tokio::test]
async fn the_first_bytes_of_a_request_arrive_before_the_last_are_sent() {
    let (upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    client.send(chunked_post("/up/sink", &session, "")).await;
    client.send("5\r\nfirst\r\n").await;
    until("the first bytes at the upstream", || (upstream.swallowed() == 5).then_some(())).await;
    client.send("4\r\nlast\r\n0\r\n\r\n").await;
    assert_eq!(client.answer().await.assert_ok().json()["swallowed"], 9);
}

#[tokio::test]
async fn the_first_bytes_of_an_answer_arrive_before_the_last_are_made() {
    let (upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    client.send(Ask::get("/up/events/3").with(&session).bytes()).await;
    assert!(client.answer_head().await.start.starts_with("HTTP/1.1 200"));
    assert_eq!(client.chunk().await.unwrap(), b"data: 0\n\n");
    upstream.release();
    let mut rest = Vec::new();
    while let Ok(bytes) = client.chunk().await {
        rest.extend(bytes);
    }
    assert_eq!(rest, b"data: 1\n\ndata: 2\n\n");
}

#[tokio::test]
async fn an_answer_may_begin_before_the_request_has_ended() {
    let (_upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    client.send(chunked_post("/up/duplex", &session, "")).await;
    client.send("5\r\nhello\r\n").await;
    client.answer_head().await;
    assert_eq!(client.chunk().await.unwrap(), b"first");
    client.send("5\r\nagain\r\n0\r\n\r\n").await;
    assert_eq!(client.chunk().await.unwrap(), b"then 10");
    assert!(client.chunk().await.is_err());
    client.ask(&Ask::get("/up/echo").with(&session)).await.assert_ok();
}

#[tokio::test]
async fn an_early_whole_answer_reaches_the_client() {
    let (_upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    client.send(chunked_post("/up/early", &session, "")).await;
    client.send("5\r\nhello\r\n").await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.text().as_str()), (413, "early"));
}

/// The upstream answers whole before it reads the body: the body still comes to it, and both connections go on.
#[tokio::test]
async fn an_early_answer_neither_ends_the_upload_nor_the_connection() {
    let (upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    let length = format!(
        "POST /up/early-open HTTP/1.1\r\nHost: localhost\r\nX-Access-Token: {}\r\nX-Key: {}\r\nContent-Length: 9\r\n\r\nfirst",
        session.token, session.key
    );
    let chunked = chunked_post("/up/early-open", &session, "") + "5\r\nfirst\r\n";
    for (begun, rest) in [(length, "last"), (chunked, "4\r\nlast\r\n0\r\n\r\n")] {
        client.send(begun).await;
        assert_eq!(client.answer().await.assert_ok().text(), "early");
        client.send(rest).await;
        let whole = || upstream.requests().pop().filter(|request| request.complete);
        assert_eq!(until("the whole body at the upstream", whole).await.body.bytes, b"firstlast");
        client.ask(&Ask::get("/up/echo").with(&session)).await.assert_ok();
    }
    assert_eq!(upstream.connections(), 1, "its connection went on as well");
}

/// hyper hands out a stream that was reset with NO_ERROR as if its body had ended.
#[tokio::test]
async fn an_http2_upload_that_is_reset_never_looks_complete() {
    let (upstream, gateway, session) = admin().await;
    for (seen, reason) in [::h2::Reason::NO_ERROR, ::h2::Reason::CANCEL].into_iter().enumerate() {
        let offer = crate::support::tls::Offer { alpn: &["h2"], ..Default::default() };
        let stream = gateway.authority().connect(gateway.https(), &offer).await.expect("a handshake");
        let (send, connection) = ::h2::client::handshake(stream).await.unwrap();
        let driver = tokio::spawn(connection);
        let request = http::Request::post("https://localhost/up/sink")
            .header("x-access-token", &session.token)
            .header("x-key", &session.key);
        let (_answer, mut body) =
            send.ready().await.unwrap().send_request(request.body(()).unwrap(), false).unwrap();
        body.send_data(Bytes::from_static(b"half of it"), false).unwrap();
        upstream.wait_for_requests(seen + 1).await;
        until("the first half", || (upstream.swallowed() == 10 * (seen as u64 + 1)).then_some(())).await;
        body.send_reset(reason);
        until("the end of the upload", || (upstream.open_connections() == 0).then_some(())).await;
        assert!(upstream.requests().iter().all(|request| !request.complete), "{reason:?}");
        driver.abort();
    }
}

#[tokio::test]
async fn a_large_request_comes_whole_however_it_is_framed() {
    let (upstream, gateway, session) = admin().await;
    let body = vec![b'x'; 8 << 20];
    gateway.ask(Ask::post("/up/sink").with(&session).body(&body)).await.assert_ok();
    assert_eq!(upstream.swallowed(), 8 << 20);
    gateway.ask(Ask::post("/up/sink").with(&session).chunked(&body)).await.assert_ok();
    assert_eq!(upstream.swallowed(), 16 << 20);
    gateway.tls_client().await.ask(&Ask::post("/up/sink").with(&session).body(&body)).await.assert_ok();
    assert_eq!(upstream.swallowed(), 24 << 20);
}

#[tokio::test]
async fn a_large_answer_comes_whole_over_tcp_tls_and_http2() {
    let (_upstream, gateway, session) = admin().await;
    let ask = Ask::get("/up/big/8388608").with(&session);
    assert_eq!(gateway.ask(ask.clone()).await.assert_ok().body.len(), 8 << 20);
    assert_eq!(gateway.tls_client().await.ask(&ask).await.assert_ok().body.len(), 8 << 20);
    let answer = h2::H2Client::connect(&gateway).await.get("/up/big/8388608", &session).await;
    assert_eq!((answer.status, answer.body.len()), (200, 8 << 20));
}

/// A body without end into an upstream that does not read: the gateway must stop taking bytes.
#[tokio::test]
async fn a_slow_upstream_slows_the_client() {
    let (upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    client.send(chunked_post("/up/stall", &session, "")).await;
    let block = [b"10000\r\n".as_slice(), &[b'x'; 0x10000], b"\r\n"].concat();
    let mut sent = 0usize;
    // A write that does not finish: the buffers on the way are full. 64 MiB would be far beyond any of them.
    while sent < 64 << 20 {
        let write = client.wire.io.write_all(&block);
        if tokio::time::timeout(Duration::from_millis(1_500), write).await.is_err() {
            break;
        }
        sent += 0x10000;
    }
    assert!(sent < 64 << 20, "the gateway took {sent} bytes that nobody read");
    assert_eq!(upstream.swallowed(), 0);
}

/// A huge answer to a client that does not read: the gateway must stop reading the upstream.
#[tokio::test]
async fn a_slow_client_slows_the_upstream() {
    let (upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    client.send(Ask::get("/up/big/1073741824").with(&session).bytes()).await;
    client.answer_head().await;
    // Until nothing more is taken, or far more than every buffer on the way holds.
    let (mut taken, mut since) = (0, Instant::now());
    while taken < 64 << 20 && since.elapsed() < Duration::from_secs(1) {
        if upstream.given() > taken {
            (taken, since) = (upstream.given(), Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(taken < 64 << 20, "the gateway took {taken} bytes that nobody read");
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let (upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    client.send(chunked_post("/up/echo", &session, "Trailer: X-Sum\r\n")).await;
    client.send("5\r\nhello\r\n0\r\nX-Sum: 7\r\nX-Webitel-User: forged\r\n\r\n").await;
    client.answer().await.assert_ok();
    let seen = upstream.only();
    assert_eq!(seen.body.bytes, b"hello");
    assert!(
        seen.body.trailers.iter().any(|(name, value)| name.eq_ignore_ascii_case("x-sum") && value == "7")
    );
    assert!(!seen.body.trailers.iter().any(|(_, value)| value == "forged"), "{:?}", seen.body.trailers);

    let ask = Ask::get("/up/trailers").with(&session).header("TE", "trailers");
    let answer = gateway.ask(ask).await;
    assert_eq!(answer.assert_ok().text(), "hello");
    let trailers: Vec<String> =
        answer.trailers.iter().map(|(n, v)| format!("{}={v}", n.to_lowercase())).collect();
    assert_eq!(trailers, ["grpc-status=0", "x-sum=7"]);
}

#[tokio::test]
async fn trailers_pass_to_and_from_http2() {
    let (upstream, gateway, session) = admin().await;
    let mut client = h2::H2Client::connect(&gateway).await;
    let answer = client.get("/up/trailers", &session).await;
    assert_eq!(answer.body, b"hello");
    assert_eq!(answer.trailers.expect("trailers")["grpc-status"], "0");

    let (sender, body) = h2::Frames::channel();
    sender.send(Frame::data(Bytes::from("hello"))).await.unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    sender.send(Frame::trailers(trailers)).await.unwrap();
    drop(sender);
    let answer = client.ask(h2::request("POST", "/up/echo", Some(&session), body)).await;
    assert_eq!((answer.status, &answer.json()["body"]), (200, &json!("hello")));
    assert!(upstream.last().body.trailers.iter().any(|(name, value)| name == "x-sum" && value == "7"));
}

#[tokio::test]
async fn http2_streams_both_ways_at_once() {
    let (_upstream, gateway, session) = admin().await;
    let mut client = h2::H2Client::connect(&gateway).await;
    let (sender, body) = h2::Frames::channel();
    sender.send(Frame::data(Bytes::from("hello"))).await.unwrap();
    let response = client.start(h2::request("POST", "/up/duplex", Some(&session), body)).await.unwrap();
    let mut answer = response.into_body();
    let first = within("a first frame", answer.frame()).await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "first");
    sender.send(Frame::data(Bytes::from("again"))).await.unwrap();
    drop(sender);
    let rest = within("the rest", answer.collect()).await.unwrap().to_bytes();
    assert_eq!(rest, "then 10");
}

#[tokio::test]
async fn expect_continue_is_asked_of_the_upstream_or_answered_here() {
    let (upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nX-Access-Token: {}\r\nX-Key: {}\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n",
            session.token, session.key
        )
    };
    client.send(head("/up/echo")).await;
    assert_eq!(client.answer_head().await.start, "HTTP/1.1 100 Continue");
    client.send("hello").await;
    client.answer().await.assert_ok();
    assert_eq!(upstream.only().body.bytes, b"hello");
}

#[tokio::test]
async fn a_refused_request_is_never_told_to_continue() {
    let (upstream, gateway, _) = admin().await;
    let idle = gateway.login("idle").await;
    for (path, status) in [("/up/echo", 403), ("/up/a%2fb", 400), ("/closed", 403)] {
        let ask = Ask::post(path)
            .with(&idle)
            .header("Expect", "100-continue")
            .header("Content-Length", "5")
            .raw_body("");
        let answer = gateway.ask(ask).await;
        assert_eq!((answer.status, answer.interim.as_slice()), (status, [].as_slice()), "{}", answer.brief());
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn other_informational_answers_are_swallowed() {
    let (_upstream, gateway, session) = admin().await;
    let answer = gateway.ask(Ask::get("/up/early-hints").with(&session)).await;
    assert_eq!((answer.assert_ok().text().as_str(), answer.interim.as_slice()), ("ok", [].as_slice()));
}

#[tokio::test]
async fn a_client_that_goes_away_ends_the_upstreams_work() {
    let (upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    client.send(Ask::get("/up/ticks").with(&session).bytes()).await;
    client.answer_head().await;
    drop(client);
    until("the upstream to be cut off", || (upstream.cut_off() == 1).then_some(())).await;
}

#[tokio::test]
async fn a_stream_ends_with_its_session() {
    let (upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    client.send(Ask::get("/up/ticks").with(&session).bytes()).await;
    client.answer_head().await;
    client.chunk().await.unwrap();
    gateway.ask(Ask::post("/logout").with(&session)).await.assert_ok();
    let ended = tokio::time::timeout(Duration::from_secs(2), client.closed()).await;
    assert!(ended.is_ok(), "the stream goes on after the logout");
    until("the upstream to be cut off", || (upstream.cut_off() == 1).then_some(())).await;
}

#[tokio::test]
async fn a_stream_ends_when_its_session_expires() {
    let (upstream, gateway) = crate::support::configured(|settings| settings.set("token.ttl", "'2s'")).await;
    let session = gateway.login("admin").await;
    let mut client = gateway.client().await;
    client.send(Ask::get("/up/ticks").with(&session).bytes()).await;
    client.answer_head().await;
    client.closed().await;
    until("the upstream to be cut off", || (upstream.cut_off() == 1).then_some(())).await;
}

/// The stack of `TestUpstream` is one connection a request here: the other stream must not be harmed.
#[tokio::test]
async fn a_logout_leaves_the_streams_of_other_sessions_alone() {
    let (_upstream, gateway, session) = admin().await;
    let other = gateway.login("admin").await;
    let mut client = gateway.client().await;
    client.send(Ask::get("/up/ticks").with(&other).bytes()).await;
    client.answer_head().await;
    gateway.ask(Ask::post("/logout").with(&session)).await.assert_ok();
    for _ in 0..60 {
        client.chunk().await.expect("the stream goes on");
    }
}
