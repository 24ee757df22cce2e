//! HTTP/2 from clients, and to h2c and https servers (contract section 4, Forwarding).

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::Frame;
use serde_json::json;

use crate::support::attacker::{self, Attacker};
use crate::support::h2::{Frames, H2Client, H2cUpstream, request};
use crate::support::wait::{until, within};
use crate::support::{Ask, Prepared, Session, TestGateway, TestUpstream, configured, usual};

async fn admin() -> (TestUpstream, TestGateway, Session) {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("admin").await;
    (upstream, gateway, session)
}

#[tokio::test]
async fn the_same_checks_and_answers_as_over_http1() {
    let (upstream, gateway, session) = admin().await;
    let idle = gateway.login("idle").await;
    let mut client = H2Client::connect(&gateway).await;
    for (path, session, status, info) in [
        ("/up/echo", None, 401, "Invalid token"),
        ("/up/echo", Some(&idle), 403, "Permission denied!"),
        ("/nothing", Some(&session), 403, "Permission denied!"),
        ("/up/a%2fb", Some(&session), 400, "Bad path"),
    ] {
        let answer = client.ask(request("GET", path, session, Frames::empty())).await;
        assert_eq!(
            (answer.status, answer.json()),
            (status, json!({"status": "error", "info": info})),
            "{path}"
        );
        assert!(answer.headers.contains_key("x-request-id"));
    }
    upstream.assert_untouched();
    assert_eq!(client.get("/up/echo", &session).await.status, 200);
}

#[tokio::test]
async fn the_upstream_sees_a_plain_http1_request() {
    let (upstream, gateway, session) = admin().await;
    let mut client = H2Client::connect(&gateway).await;
    let mut asked = request("POST", "/up/echo?a=1", Some(&session), Frames::full("hello"));
    asked.headers_mut().append("cookie", "a=1".parse().unwrap());
    asked.headers_mut().append("cookie", "b=2".parse().unwrap());
    asked.headers_mut().insert("te", "trailers".parse().unwrap());
    let answer = client.ask(asked).await;
    assert_eq!(answer.status, 200);
    let seen = upstream.only();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/up/echo?a=1"));
    assert_eq!(seen.body.bytes, b"hello");
    assert_eq!(seen.header("cookie"), Some("a=1; b=2"), "RFC 9113 section 8.2.3");
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("localhost"));
    assert_eq!(seen.header("x-webitel-user"), Some("admin@example.org"));
    assert!(!seen.head.text().contains("\r\n:"), "{}", seen.head.text());
}

#[tokio::test]
async fn an_answer_has_no_header_of_http1_connections() {
    let (_upstream, gateway, session) = admin().await;
    let answer = H2Client::connect(&gateway).await.get("/up/hop", &session).await;
    assert_eq!(answer.body, b"ok");
    for name in ["connection", "keep-alive", "transfer-encoding", "x-private", "proxy-authenticate"] {
        assert!(!answer.headers.contains_key(name), "{name}");
    }
    assert_eq!(answer.headers.get_all("set-cookie").iter().count(), 2);
}

#[tokio::test]
async fn many_streams_share_a_connection() {
    let (_upstream, gateway, session) = admin().await;
    let mut client = H2Client::connect(&gateway).await;
    let mut streams = Vec::new();
    for number in 0..50 {
        let body = Frames::full(format!("{number}"));
        let response =
            client.start(request("POST", &format!("/up/echo/{number}"), Some(&session), body)).await.unwrap();
        streams.push((number, response));
    }
    for (number, response) in streams {
        let answer = crate::support::h2::H2Answer::read(response).await.unwrap();
        assert_eq!(answer.json()["target"], format!("/up/echo/{number}").as_str());
        assert_eq!(answer.json()["body"], number.to_string().as_str());
    }
}

#[tokio::test]
async fn a_cancelled_stream_ends_the_upstreams_work_and_no_other_stream() {
    let (upstream, gateway, session) = admin().await;
    let mut client = H2Client::connect(&gateway).await;
    let response = client.start(request("GET", "/up/ticks", Some(&session), Frames::empty())).await.unwrap();
    drop(response);
    crate::support::wait::until("the upstream to be cut off", || (upstream.cut_off() == 1).then_some(()))
        .await;
    assert_eq!(client.get("/up/echo", &session).await.status, 200);
}

#[tokio::test]
async fn a_body_shorter_or_longer_than_it_says_does_not_reach_the_upstream_as_whole() {
    let (upstream, gateway, session) = admin().await;
    for length in ["3", "50"] {
        let mut client = H2Client::connect(&gateway).await;
        let mut asked = request("POST", "/up/echo", Some(&session), Frames::full("hello"));
        asked.headers_mut().insert("content-length", length.parse().unwrap());
        if let Ok(response) = client.start(asked).await {
            assert_ne!(response.status(), 200, "content-length: {length}");
        }
    }
    for seen in upstream.requests() {
        assert!(!seen.complete, "{}", seen.head.text());
    }
}

async fn h2c() -> (H2cUpstream, TestGateway, Session) {
    let upstream = H2cUpstream::start().await;
    let url = upstream.url();
    let gateway = TestGateway::run(Prepared::new(|settings| {
        settings.set("upstreams.engine.servers", &format!("['{url}']"));
    }))
    .await;
    let session = gateway.login("admin").await;
    (upstream, gateway, session)
}

#[tokio::test]
async fn an_h2c_server_serves_clients_of_both_versions() {
    let (upstream, gateway, session) = h2c().await;
    let ask = Ask::post("/up/x?a=1")
        .with(&session)
        .header("Connection", "keep-alive, X-Private")
        .header("X-Private", "1")
        .body("hello");
    let answer = gateway.ask(ask).await;
    assert_eq!(
        answer.assert_ok().json(),
        json!({"method": "POST", "target": "/up/x?a=1", "length": 5, "trailer": null})
    );
    let mut client = H2Client::connect(&gateway).await;
    assert_eq!(client.get("/up/y", &session).await.json()["target"], "/up/y");

    for seen in upstream.requests() {
        assert_eq!(seen.version, http::Version::HTTP_2);
        assert_eq!(seen.headers["x-webitel-user"], "admin@example.org");
        for name in ["connection", "x-private", "host", "transfer-encoding"] {
            assert!(!seen.headers.contains_key(name), "{name}");
        }
        assert_eq!(seen.headers.get_all("x-access-token").iter().count(), 1);
    }
}

#[tokio::test]
async fn grpc_passes_end_to_end() {
    let (_upstream, gateway, session) = h2c().await;
    let mut client = H2Client::connect(&gateway).await;
    let (sender, body) = Frames::channel();
    for piece in ["one", "two"] {
        sender.send(Frame::data(Bytes::from(piece))).await.unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sent", "yes".parse().unwrap());
    sender.send(Frame::trailers(trailers)).await.unwrap();
    drop(sender);
    let mut asked = request("POST", "/up/grpc.Service/Call", Some(&session), body);
    asked.headers_mut().insert("content-type", "application/grpc".parse().unwrap());
    asked.headers_mut().insert("te", "trailers".parse().unwrap());
    let answer = client.ask(asked).await;
    assert_eq!(
        (answer.status, &answer.json()["length"], &answer.json()["trailer"]),
        (200, &json!(6), &json!("yes"))
    );
    assert_eq!(answer.trailers.expect("trailers")["grpc-status"], "0");
}

#[tokio::test]
async fn an_https_server_is_verified_against_the_ca_file() {
    let authority = crate::support::tls::Authority::new();
    let upstream = TestUpstream::tls("secure", authority.acceptor(&["localhost"], &["http/1.1"])).await;
    let url = format!("https://localhost:{}", upstream.addr.port());
    let trusting = Prepared::new(|settings| {
        settings.set("upstreams.engine.servers", &format!("['{url}']"));
        settings.set("upstreams.engine.ca_file", "'upstream-ca.crt'");
        settings.file("upstream-ca.crt", authority.pem.as_bytes());
    });
    let gateway = TestGateway::run(trusting).await;
    let session = gateway.login("admin").await;
    let answer = gateway.ask(Ask::post("/up/echo").with(&session).body("hello")).await;
    assert_eq!(answer.assert_ok().json()["server"], "secure");

    let stranger = crate::support::tls::Authority::new();
    let doubting = Prepared::new(|settings| {
        settings.set("upstreams.engine.servers", &format!("['{url}']"));
        settings.set("upstreams.engine.ca_file", "'upstream-ca.crt'");
        settings.file("upstream-ca.crt", stranger.pem.as_bytes());
    });
    let gateway = TestGateway::run(doubting).await;
    let session = gateway.login("admin").await;
    gateway.ask(Ask::get("/up/echo").with(&session)).await.assert_refusal(502, "Bad gateway");
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn an_https_server_of_another_name_is_not_trusted() {
    let authority = crate::support::tls::Authority::new();
    let upstream = TestUpstream::tls("secure", authority.acceptor(&["other.example"], &["http/1.1"])).await;
    let url = format!("https://localhost:{}", upstream.addr.port());
    let gateway = TestGateway::run(Prepared::new(|settings| {
        settings.set("upstreams.engine.servers", &format!("['{url}']"));
        settings.set("upstreams.engine.ca_file", "'upstream-ca.crt'");
        settings.file("upstream-ca.crt", authority.pem.as_bytes());
    }))
    .await;
    let session = gateway.login("admin").await;
    gateway.ask(Ask::get("/up/echo").with(&session)).await.assert_refusal(502, "Bad gateway");
    upstream.assert_untouched();
}

/// hyper's HTTP/2 would send what is refused to a HEAD with its body, and every client takes that for a broken stream.
#[tokio::test]
async fn a_refused_head_has_no_body_but_its_length() {
    let (upstream, gateway, session) = admin().await;
    let mut client = H2Client::connect(&gateway).await;
    for (path, session, status) in [
        ("/up/echo", None, 401),
        ("/nothing", Some(&session), 403),
        ("/up/a%2fb", Some(&session), 400),
        ("/login", None, 405),
    ] {
        let head = client.ask(request("HEAD", path, session, Frames::empty())).await;
        let get = client.ask(request("GET", path, session, Frames::empty())).await;
        assert_eq!((head.status, head.body.len()), (status, 0), "{path}");
        assert_eq!(head.headers["content-length"], get.body.len().to_string(), "{path}");
        assert!(head.headers.contains_key("x-request-id"), "{path}");
    }
    upstream.assert_untouched();
}

/// An h2c server that resets streams with REFUSED_STREAM: all, or none.
async fn refusing(refuses: bool) -> (String, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("h2c://{}", listener.local_addr().unwrap());
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = ::h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    if refuses {
                        respond.send_reset(::h2::Reason::REFUSED_STREAM);
                    } else {
                        let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                        body.send_data(Bytes::from_static(b"taken"), true).unwrap();
                    }
                }
            });
        }
    });
    (url, task)
}

/// RFC 9113 section 8.7: nothing of such a stream was processed.
#[tokio::test]
async fn a_stream_that_an_h2c_server_refuses_is_sent_elsewhere_or_503() {
    let ((full, first), (free, second)) = (refusing(true).await, refusing(false).await);
    for (servers, statuses) in
        [(format!("['{full}']"), [503, 503]), (format!("['{full}', '{free}']"), [200, 503])]
    {
        let gateway = TestGateway::run(Prepared::new(|settings| {
            settings.set("upstreams.engine.servers", &servers);
            settings.set("upstreams.engine.balance", "'round_robin'");
        }))
        .await;
        let session = gateway.login("admin").await;
        for _ in 0..4 {
            let got = gateway.ask(Ask::get("/up/x").with(&session)).await;
            assert_eq!(got.status, statuses[0], "{servers}: {}", got.brief());
            assert!(got.status == 200 || got.header("retry-after").is_some(), "{}", got.brief());
            // Its body has gone with the first try.
            let posted = gateway.ask(Ask::post("/up/x").with(&session).body("hello")).await;
            assert!([200, statuses[1]].contains(&posted.status), "{servers}: {}", posted.brief());
        }
        assert!(gateway.metric("postern_upstream_requests_total", &["refused"]).await >= 1.0);
        assert!(gateway.metric("postern_upstream_ejections_total", &[]).await == 0.0, "it does not fail");
    }
    first.abort();
    second.abort();
}

/// An h2c server that ends each connection in good order after ten requests, as servers do that are replaced.
async fn short_lived() -> String {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("h2c://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let served = std::sync::Arc::new(tokio::sync::Notify::new());
                let count = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
                let told = std::sync::Arc::clone(&served);
                let service = hyper::service::service_fn(move |_| {
                    if count.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 9 {
                        told.notify_one();
                    }
                    async { Ok::<_, std::convert::Infallible>(http::Response::new(Frames::full("good"))) }
                });
                let connection =
                    hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                        .serve_connection(hyper_util::rt::TokioIo::new(stream), service);
                let mut connection = std::pin::pin!(connection);
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = served.notified() => connection.as_mut().graceful_shutdown(),
                }
                let _ = connection.await;
            });
        }
    });
    url
}

#[tokio::test]
async fn an_h2c_server_that_ends_its_connections_costs_nobody_an_answer() {
    let url = short_lived().await;
    let gateway = TestGateway::run(Prepared::new(|settings| {
        settings.set("upstreams.engine.servers", &format!("['{url}']"));
    }))
    .await;
    let asks = (0..4).map(|_| async {
        let mut client = gateway.client().await;
        for _ in 0..150 {
            client.ask(&Ask::get("/public/x")).await.assert_ok();
        }
    });
    futures_util::future::join_all(asks).await;
}

/// Its first connection is taken, and nothing is ever said on it: a host that has vanished.
#[tokio::test]
async fn a_connection_to_an_h2c_server_that_is_dead_is_not_used_for_ever() {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("h2c://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut dead = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            if dead.len() < 2 {
                dead.push(stream);
                continue;
            }
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, std::convert::Infallible>(http::Response::new(Frames::full("good")))
            });
            tokio::spawn(
                hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service),
            );
        }
    });
    let gateway = TestGateway::run(Prepared::new(|settings| {
        settings.set("upstreams.engine.servers", &format!("['{url}']"));
        settings.set("upstreams.engine.response_timeout", "'1s'");
    }))
    .await;
    // A connection each of as many threads as there are, at most.
    let statuses = within("an answer", async {
        let mut statuses = Vec::new();
        loop {
            let status = gateway.ask(Ask::get("/public/x")).await.status;
            statuses.push(status);
            if status == 200 {
                return statuses;
            }
        }
    })
    .await;
    assert!(statuses.len() <= 4 && statuses[..statuses.len() - 1].iter().all(|s| *s == 504), "{statuses:?}");
}

/// A phone that sleeps answers neither PING nor GOAWAY.
#[tokio::test]
async fn a_client_that_answers_nothing_does_not_hold_the_drain() {
    let (_upstream, mut gateway) = configured(|settings| settings.set("limits.drain_timeout", "'60s'")).await;
    let mut client = Attacker::connect(&gateway, &[]).await;
    client.flood(&attacker::get(1, "/public/x"), 1).await;
    until("an answer", || (client.seen().frames[usize::from(attacker::HEADERS)] > 0).then_some(())).await;
    assert_eq!(gateway.terminate().await, 0);
}
