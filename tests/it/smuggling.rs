//! Requests that two servers could delimit differently: refused, the connection closed, nothing forwarded (contract
//! section 4, the table of faults; RFC 9112 sections 6 and 11.2).

use crate::support::{Ask, Session, TestGateway, TestUpstream, usual};

async fn admin() -> (TestUpstream, TestGateway, Session) {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("admin").await;
    (upstream, gateway, session)
}

/// A request for `/up/echo` as the session, with these lines and body behind it.
fn request(session: &Session, lines: &str, body: &str) -> Vec<u8> {
    let credentials = format!("X-Access-Token: {}\r\nX-Key: {}\r\n", session.token, session.key);
    format!("POST /up/echo HTTP/1.1\r\nHost: localhost\r\n{credentials}{lines}\r\n{body}").into_bytes()
}

/// Another request, which must never be read as one.
const HIDDEN: &str = "GET /public/hidden HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Refused with 400 or closed without an answer, and nothing reached the upstream.
async fn assert_refused(scene: (&TestUpstream, &TestGateway), bytes: Vec<u8>) {
    let (upstream, gateway) = scene;
    let shown = String::from_utf8_lossy(&bytes).into_owned();
    let mut client = gateway.client().await;
    client.send(bytes).await;
    if let Some(answer) = client.try_answer().await {
        assert!(matches!(answer.status, 400 | 501), "{shown:?}: {}", answer.brief());
    }
    assert!(client.closed().await.is_empty(), "a second answer to {shown:?}");
    assert!(upstream.requests().is_empty(), "{shown:?} reached the upstream");
}

#[tokio::test]
async fn both_a_length_and_a_coding() {
    let (upstream, gateway, session) = admin().await;
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
        "content-length: 5\r\ntransfer-encoding: Chunked\r\n",
    ] {
        assert_refused((&upstream, &gateway), request(&session, lines, &format!("0\r\n\r\n{HIDDEN}"))).await;
    }
}

#[tokio::test]
async fn a_length_that_is_given_twice_or_is_none() {
    let (upstream, gateway, session) = admin().await;
    for lines in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: 5;\r\n",
        "Content-Length: five\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Content-Length: 18446744073709551616\r\n",
    ] {
        assert_refused((&upstream, &gateway), request(&session, lines, &format!("hello{HIDDEN}"))).await;
    }
}

#[tokio::test]
async fn the_same_length_twice_is_refused_or_sent_on_once() {
    let (upstream, gateway, session) = admin().await;
    for lines in ["Content-Length: 5\r\nContent-Length: 5\r\n", "Content-Length: 5, 5\r\n"] {
        match gateway.try_raw(request(&session, lines, "hello")).await {
            Some(answer) if answer.status == 200 => assert_eq!(upstream.last().body.bytes, b"hello"),
            Some(answer) => assert_eq!(answer.status, 400, "{}", answer.brief()),
            None => {}
        }
    }
    for seen in upstream.requests() {
        assert_eq!(seen.head.all("content-length"), ["5"]);
    }
}

#[tokio::test]
async fn a_coding_other_than_chunked_alone() {
    let (upstream, gateway, session) = admin().await;
    for lines in [
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked;q=1\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding: \"chunked\"\r\n",
        "Transfer-Encoding\x0b: chunked\r\n",
    ] {
        assert_refused((&upstream, &gateway), request(&session, lines, &format!("0\r\n\r\n{HIDDEN}"))).await;
    }
}

#[tokio::test]
async fn chunked_given_twice_or_behind_another_coding_is_not_forwarded_so() {
    let (upstream, gateway, session) = admin().await;
    for lines in ["Transfer-Encoding: chunked, chunked\r\n", "Transfer-Encoding: gzip, chunked\r\n"] {
        let answer = gateway.try_raw(request(&session, lines, "0\r\n\r\n")).await;
        if let Some(answer) = answer {
            assert!(matches!(answer.status, 400 | 501), "{lines:?}: {}", answer.brief());
        }
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_head_whose_lines_end_or_are_named_oddly() {
    let (upstream, gateway, session) = admin().await;
    for lines in [
        "X-A: b\rX-C: d\r\n",
        "Content-Length : 5\r\n",
        "X-A\r\n",
        ": b\r\n",
        "X A: b\r\n",
        "X-A: b\0c\r\n",
        "X-A: b\r\n Transfer-Encoding: chunked\r\n",
        "X-A: b\r\n\tContent-Length: 5\r\n",
        "X-\u{e9}: b\r\n",
    ] {
        assert_refused((&upstream, &gateway), request(&session, lines, "")).await;
    }
}

/// A bare LF is a line's end to some servers and part of a value to others (RFC 9112 section 2.2 lets a server choose).
#[tokio::test]
async fn a_bare_line_feed_is_refused() {
    let (upstream, gateway, session) = admin().await;
    for lines in [
        "X-A: b\nTransfer-Encoding: chunked\r\n",
        "X-A: b\nX-Webitel-User: forged\r\n",
        "X-A: b\n\r\n",
        "X-A: b\n",
    ] {
        let lines = format!("Content-Length: 5\r\n{lines}");
        assert_refused((&upstream, &gateway), request(&session, &lines, "hello")).await;
    }
}

#[tokio::test]
async fn a_request_line_that_is_odd() {
    let (upstream, gateway, session) = admin().await;
    let rest =
        format!("Host: localhost\r\nX-Access-Token: {}\r\nX-Key: {}\r\n\r\n", session.token, session.key);
    for line in [
        "GET /up/echo HTTP/1.1 x\r\n",
        "GET /up/echo HTTP/1.1\x0b\r\n",
        "GET /up/echo HTTP/2.0\r\n",
        "GET /up/echo HTTP/11\r\n",
        "GET /up/echo\r\n",
        "GET  /up/echo HTTP/1.1\r\n",
        "GET /up/echo /x HTTP/1.1\r\n",
        "G(T /up/echo HTTP/1.1\r\n",
        "\x16\x03\x01\x02",
    ] {
        assert_refused((&upstream, &gateway), format!("{line}{rest}").into_bytes()).await;
    }
}

#[tokio::test]
async fn no_host_two_hosts_or_a_host_that_is_none() {
    let (upstream, gateway, session) = admin().await;
    for ask in [
        Ask::get("/up/echo").without_host().with(&session),
        Ask::get("/up/echo").with(&session).header("Host", "other.example"),
        Ask::get("/up/echo").with(&session).host("a b"),
        Ask::get("/up/echo").with(&session).host("a/b"),
        Ask::get("/up/echo").with(&session).host("user@localhost"),
    ] {
        if let Some(answer) = gateway.try_raw(ask.bytes()).await {
            assert_eq!(answer.status, 400, "{}", answer.brief());
        }
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_chunk_that_is_odd_never_ends_well() {
    let (upstream, gateway, session) = admin().await;
    for body in [
        "zz\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "ffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
    ] {
        let lines = "Transfer-Encoding: chunked\r\n";
        let mut client = gateway.client().await;
        client.send(request(&session, lines, &format!("{body}{HIDDEN}"))).await;
        if let Some(answer) = client.try_answer().await {
            assert!((400..600).contains(&answer.status), "{body:?}: {}", answer.brief());
        }
        assert!(client.closed().await.is_empty(), "the connection went on behind {body:?}");
    }
    for seen in upstream.requests() {
        assert!(!seen.complete, "forwarded as whole: {:?}", seen.body);
        assert!(!seen.target.contains("hidden"), "a smuggled request");
    }
}

#[tokio::test]
async fn chunk_extensions_do_not_reach_the_upstream() {
    let (upstream, gateway, session) = admin().await;
    let body = "5;name=\"v\"\r\nhello\r\n0;x\r\n\r\n";
    let answer = gateway.try_raw(request(&session, "Transfer-Encoding: chunked\r\n", body)).await;
    if answer.is_some_and(|answer| answer.status == 200) {
        assert_eq!(upstream.only().body.bytes, b"hello");
    }
}

#[tokio::test]
async fn what_follows_a_refused_request_with_a_body_is_not_a_request() {
    let (upstream, gateway, session) = admin().await;
    let idle = gateway.login("idle").await;
    // The body looks like a request; the refusal comes before the body was read.
    for session in [&idle, &session] {
        let mut client = gateway.client().await;
        let ask = Ask::post("/api/v2/nothing").with(session).body(HIDDEN);
        client.send(ask.bytes()).await;
        client.answer().await.assert_refusal(403, "Permission denied!");
        client.send(Ask::get("/closed").bytes()).await;
        if let Some(answer) = client.try_answer().await {
            answer.assert_refusal(403, "Permission denied!");
        }
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn what_follows_a_get_with_a_body_is_not_a_request() {
    let (upstream, gateway, session) = admin().await;
    let mut client = gateway.client().await;
    client.ask(&Ask::get("/up/echo").with(&session).body(HIDDEN)).await.assert_ok();
    client.ask(&Ask::get("/up/echo/second").with(&session)).await.assert_ok();
    let targets: Vec<String> = upstream.requests().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/up/echo", "/up/echo/second"]);
    assert_eq!(upstream.requests()[0].body.bytes, HIDDEN.as_bytes());
}

#[tokio::test]
async fn a_client_that_breaks_off_does_not_end_its_body_well() {
    let (upstream, gateway, session) = admin().await;
    for (lines, body) in
        [("Content-Length: 100\r\n", "only this"), ("Transfer-Encoding: chunked\r\n", "5\r\nhello\r\n")]
    {
        let count = upstream.requests().len() + 1;
        let mut client = gateway.client().await;
        client.send(request(&session, lines, body)).await;
        upstream.wait_for_requests(count).await;
        drop(client);
    }
    crate::support::wait::until("the upstream's connections to close", || {
        (upstream.open_connections() == 0).then_some(())
    })
    .await;
    assert!(upstream.requests().iter().all(|seen| !seen.complete));
    gateway.ask(Ask::get("/up/echo").with(&session)).await.assert_ok();
}

#[tokio::test]
async fn an_http2_preface_on_the_plain_port_is_no_request() {
    let (upstream, gateway, _) = admin().await;
    let mut client = gateway.client().await;
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    let answer = client.closed().await;
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&answer));
    upstream.assert_untouched();
}
