//! An answer that the upstream cuts short is seen as broken by every client, never as complete; one that has no body, or
//! ends where it says, stays as it was (contract section 4, Forwarding).

use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::tls::Offer;
use crate::support::wait::within;
use crate::support::wire::Wire;
use crate::support::{Ask, Session, TestGateway, configured, h2};

/// An upstream that answers everything with the same bytes and closes.
async fn saying(bytes: &'static str) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut wire = Wire::new(stream);
                if let Ok(Some(_)) = wire.head().await {
                    let _ = wire.send(bytes).await;
                }
            });
        }
    });
    (url, task)
}

async fn in_front_of(url: &str) -> (TestGateway, Session) {
    let (_, gateway) = configured(|settings| {
        settings.set("upstreams.engine.servers", &format!("['{url}']"));
    })
    .await;
    let session = gateway.login("admin").await;
    (gateway, session)
}

/// Whether a client of HTTP/1.1 and one of HTTP/2 take the answer for whole.
async fn is_whole(gateway: &TestGateway, session: &Session) -> (bool, bool) {
    let one = gateway.try_raw(Ask::get("/up/x").with(session).bytes()).await;
    let mut client = h2::H2Client::connect(gateway).await;
    let request = h2::request("GET", "/up/x", Some(session), h2::Frames::empty());
    let two = match client.start(request).await {
        Ok(response) => h2::H2Answer::read(response).await.ok(),
        Err(_) => None,
    };
    (
        one.is_some_and(|answer| answer.status == 200 && answer.complete),
        two.is_some_and(|answer| answer.status == 200),
    )
}

#[tokio::test]
async fn a_body_that_is_cut_short_is_never_complete() {
    for cut in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhell",
        "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n",
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n\x1f\x08\x08\r\n",
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 40\r\n\r\n\x1f\x08\x08",
    ] {
        let (url, server) = saying(cut).await;
        let (gateway, session) = in_front_of(&url).await;
        assert_eq!(is_whole(&gateway, &session).await, (false, false), "{cut:?}");
        server.abort();
    }
}

#[tokio::test]
async fn a_body_that_ends_where_it_says_is_complete() {
    for whole in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nhello",
    ] {
        let (url, server) = saying(whole).await;
        let (gateway, session) = in_front_of(&url).await;
        assert_eq!(is_whole(&gateway, &session).await, (true, true), "{whole:?}");
        server.abort();
    }
}

fn old_get(session: &Session) -> String {
    format!(
        "GET /up/x HTTP/1.0\r\nHost: localhost\r\nX-Access-Token: {}\r\nX-Key: {}\r\n\r\n",
        session.token, session.key
    )
}

/// HTTP/1.0 knows no chunks: the end of the connection is the end of the body, and a length that is known shows a cut.
#[tokio::test]
async fn a_client_of_http_1_0_gets_no_chunks() {
    for (answer, complete) in [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello", false),
    ] {
        let (url, server) = saying(answer).await;
        let (gateway, session) = in_front_of(&url).await;
        let got = gateway.try_raw(old_get(&session)).await;
        if let Some(got) = got.filter(|got| complete || got.status == 200) {
            assert!(!got.head.has("transfer-encoding"), "{}", got.head.text());
            assert_eq!(
                (got.status, got.text().as_str(), got.complete),
                (200, "hello", complete),
                "{answer:?}"
            );
        } else {
            assert!(!complete, "{answer:?}");
        }
        server.abort();
    }
}

/// What has no length and no chunks ends with the connection: of a cut one that is reset, or TLS is not ended.
#[tokio::test]
async fn a_client_of_http_1_0_sees_that_an_answer_of_no_length_was_cut() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for (answer, complete) in [
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", true),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", false),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", false),
    ] {
        let (url, server) = saying(answer).await;
        let (gateway, session) = in_front_of(&url).await;
        let mut plain = tokio::net::TcpStream::connect(gateway.http()).await.unwrap();
        plain.write_all(old_get(&session).as_bytes()).await.unwrap();
        let read = within("the end", plain.read_to_end(&mut Vec::new())).await;
        assert_eq!(read.is_ok(), complete, "{answer:?}: {read:?}");

        let offer = Offer { alpn: &["http/1.1"], ..Offer::default() };
        let mut tls = gateway.authority().connect(gateway.https(), &offer).await.unwrap();
        tls.write_all(old_get(&session).as_bytes()).await.unwrap();
        let read = within("the end", tls.read_to_end(&mut Vec::new())).await;
        assert_eq!(read.is_ok(), complete, "{answer:?} over TLS: {read:?}");
        server.abort();
    }
}

#[tokio::test]
async fn an_answer_without_a_body_needs_none_whatever_it_declares() {
    for (answer, method) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", "HEAD"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "HEAD"),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", "GET"),
        ("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", "GET"),
        ("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", "GET"),
    ] {
        let (url, server) = saying(answer).await;
        let (gateway, session) = in_front_of(&url).await;
        let mut client = gateway.client().await;
        for _ in 0..2 {
            let got = client.ask(&Ask::new(method, "/up/x").with(&session)).await;
            assert!(answer.contains(&format!(" {} ", got.status)) && got.body.is_empty(), "{}", got.brief());
        }
        let mut client = h2::H2Client::connect(&gateway).await;
        let got = client.ask(h2::request(method, "/up/x", Some(&session), h2::Frames::empty())).await;
        assert!(answer.contains(&format!(" {} ", got.status)) && got.body.is_empty(), "{answer:?}");
        server.abort();
    }
}

/// How an HTTP/2 upstream ends its stream behind five bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Whole,
    Reset(::h2::Reason),
    /// The connection goes.
    Gone,
}

async fn ending(end: End) -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("h2c://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = ::h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                    body.send_data(Bytes::from_static(b"hello"), end == End::Whole).unwrap();
                    match end {
                        End::Whole => {}
                        End::Reset(reason) => {
                            // The data is to be on its way before.
                            let sent = std::future::poll_fn(|cx| connection.poll_closed(cx));
                            let _ = tokio::time::timeout(std::time::Duration::from_millis(50), sent).await;
                            body.send_reset(reason);
                        }
                        End::Gone => {
                            let sent = std::future::poll_fn(|cx| connection.poll_closed(cx));
                            let _ = tokio::time::timeout(std::time::Duration::from_millis(50), sent).await;
                            return;
                        }
                    }
                }
            });
        }
    });
    (url, task)
}

/// hyper hands out a stream that was reset with NO_ERROR or CANCEL as if its body had ended.
#[tokio::test]
async fn an_http2_answer_that_is_reset_is_never_complete() {
    use ::h2::Reason;
    for (end, whole) in [
        (End::Whole, true),
        (End::Reset(Reason::NO_ERROR), false),
        (End::Reset(Reason::CANCEL), false),
        (End::Reset(Reason::INTERNAL_ERROR), false),
        (End::Gone, false),
    ] {
        let (url, server) = ending(end).await;
        let (gateway, session) = in_front_of(&url).await;
        assert_eq!(is_whole(&gateway, &session).await, (whole, whole), "{end:?}");
        server.abort();
    }
}
