//! Upstreams that fail, and what the client is told (contract section 4, the table of faults).

use crate::support::ports::Port;
use crate::support::wait::until;
use crate::support::{Ask, Session, TestGateway, TestUpstream, configured, usual};

async fn admin() -> (TestUpstream, TestGateway, Session) {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("admin").await;
    (upstream, gateway, session)
}

#[tokio::test]
async fn no_server_that_can_be_reached_is_502() {
    let nobody = Port::claim();
    let (_upstream, gateway) = configured(|settings| {
        settings.set("upstreams.engine.servers", &format!("['http://{}']", nobody.addr()))
    })
    .await;
    let session = gateway.login("admin").await;
    for ask in [Ask::get("/up/echo"), Ask::post("/up/echo").body("x")] {
        gateway.ask(ask.with(&session)).await.assert_refusal(502, "Bad gateway");
    }
}

#[tokio::test]
async fn a_server_that_breaks_off_before_its_head_is_502() {
    let (_upstream, gateway, session) = admin().await;
    for path in ["/up/drop", "/up/cut-head", "/up/garbage"] {
        let answer = gateway.ask(Ask::post(path).with(&session).body("x")).await;
        answer.assert_refusal(502, "Bad gateway");
    }
    gateway.ask(Ask::get("/up/echo").with(&session)).await.assert_ok();
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_passed_off_as_whole() {
    let (_upstream, gateway, session) = admin().await;
    for path in ["/up/cut", "/up/cut-chunk"] {
        match gateway.try_raw(Ask::get(path).with(&session).bytes()).await {
            Some(answer) if answer.status == 200 => assert!(!answer.complete, "{path}: {}", answer.brief()),
            Some(answer) => {
                answer.assert_error(502);
            }
            // Closed before the head was written: not whole either.
            None => {}
        }
    }
    let mut client = crate::support::h2::H2Client::connect(&gateway).await;
    let request =
        crate::support::h2::request("GET", "/up/cut", Some(&session), crate::support::h2::Frames::empty());
    if let Ok(response) = client.start(request).await {
        let status = response.status();
        let read = crate::support::h2::H2Answer::read(response).await;
        assert!(read.is_err() || status == 502, "a cut answer ended well over HTTP/2");
    }
}

#[tokio::test]
async fn an_ambiguous_answer_is_502_and_poisons_nothing() {
    let (_upstream, gateway, session) = admin().await;
    for path in ["/up/two-lengths", "/up/length-and-chunked", "/up/negative-length", "/up/bare-cr", "/up/nul"]
    {
        let mut client = gateway.client().await;
        let answer = client.ask(&Ask::get(path).with(&session)).await;
        if path == "/up/length-and-chunked" && answer.status == 200 {
            // Chunked counts then (RFC 9112 section 6.1), and the length is not passed on.
            assert!(!answer.head.has("content-length"), "{}", answer.head.text());
        } else {
            answer.assert_refusal(502, "Bad gateway");
        }
        assert!(!answer.head.text().contains("POISON") && !answer.text().contains("POISON"), "{path}");
        for _ in 0..3 {
            let echo = gateway.ask(Ask::get("/up/echo/after").with(&session)).await;
            assert_eq!(echo.assert_ok().json()["target"], "/up/echo/after", "{path}");
        }
    }
}

#[tokio::test]
async fn bytes_behind_an_answer_never_become_the_next_one() {
    let (_upstream, gateway, session) = admin().await;
    for path in ["/up/extra", "/up/body-on-204"] {
        let mut client = gateway.client().await;
        let first = client.ask(&Ask::get(path).with(&session)).await;
        assert!(!first.text().contains("POISON"), "{path}: {}", first.brief());
        for _ in 0..5 {
            let echo = client.ask(&Ask::get("/up/echo/after").with(&session)).await;
            assert_eq!(echo.assert_ok().json()["target"], "/up/echo/after", "{path}");
        }
    }
}

#[tokio::test]
async fn a_broken_chunk_breaks_the_answer_off() {
    let (_upstream, gateway, session) = admin().await;
    if let Some(answer) = gateway.try_raw(Ask::get("/up/bad-chunk").with(&session).bytes()).await {
        assert!(!answer.text().contains("POISON"), "{}", answer.brief());
        assert!(answer.status == 502 || !answer.complete, "{}", answer.brief());
    }
    gateway.ask(Ask::get("/up/echo").with(&session)).await.assert_ok();
}

#[tokio::test]
async fn no_head_in_time_is_504_and_the_servers_connection_is_given_up() {
    let (upstream, gateway) =
        configured(|settings| settings.set("upstreams.engine.response_timeout", "'300ms'")).await;
    let session = gateway.login("admin").await;
    let mut client = gateway.client().await;
    client.ask(&Ask::get("/up/never").with(&session)).await.assert_error(504);
    client.ask(&Ask::post("/up/never").with(&session).body("x")).await.assert_error(504);
    until("the connections to be given up", || (upstream.open_connections() == 0).then_some(())).await;
    client.ask(&Ask::get("/up/echo").with(&session)).await.assert_ok();
    assert_eq!(upstream.requests().len(), 3, "what may have been processed is not sent again");
}

#[tokio::test]
async fn the_time_counts_from_the_end_of_the_request_and_ends_with_the_head() {
    let (upstream, gateway) =
        configured(|settings| settings.set("upstreams.engine.response_timeout", "'700ms'")).await;
    let session = gateway.login("admin").await;
    // A request that takes longer than the timeout to come.
    let mut client = gateway.client().await;
    let mut head = Ask::post("/up/echo").with(&session).header("Content-Length", "5").raw_body("").bytes();
    head.extend(b"he");
    client.send(head).await;
    upstream.wait_for_requests(1).await;
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    client.send("llo").await;
    client.answer().await.assert_ok();
    // An answer that takes longer than the timeout to end.
    client.send(Ask::get("/up/ticks").with(&session).bytes()).await;
    client.answer_head().await;
    for _ in 0..60 {
        client.chunk().await.expect("the answer goes on");
    }
}

#[tokio::test]
async fn a_server_that_takes_no_connection_is_given_up_in_time() {
    // A listener whose queue is full: connects hang.
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(0).unwrap();
    let addr = listener.local_addr().unwrap().as_socket().unwrap();
    let _fillers: Vec<_> = (0..4)
        .map(|_| {
            let filler = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            filler.set_nonblocking(true).unwrap();
            let _ = filler.connect(&addr.into());
            filler
        })
        .collect();
    let (_upstream, gateway) = configured(|settings| {
        settings.set("upstreams.engine.servers", &format!("['http://{addr}']"));
        settings.set("upstreams.engine.connect_timeout", "'300ms'");
        settings.set("upstreams.engine.retries", "0");
    })
    .await;
    let session = gateway.login("admin").await;
    let answer = gateway.ask(Ask::get("/up/echo").with(&session)).await;
    assert!(matches!(answer.status, 502 | 504), "{}", answer.brief());
    answer.assert_error(answer.status);
}

#[tokio::test]
async fn past_its_connections_an_upstream_is_busy_503() {
    let (upstream, gateway) =
        configured(|settings| settings.set("upstreams.engine.max_connections", "1")).await;
    let session = gateway.login("admin").await;
    // Per-core runtimes may each hold their share: fill until one is told.
    let mut held = Vec::new();
    let refused = loop {
        assert!(held.len() < 64, "no limit in 64 requests");
        let mut client = gateway.client().await;
        client.send(Ask::get("/up/hold").with(&session).bytes()).await;
        let before = held.len();
        let head = tokio::select! {
            head = client.answer_head() => Some(head),
            () = upstream.wait_for_requests(before + 1) => None,
        };
        held.push(client);
        if let Some(head) = head {
            break head;
        }
    };
    assert!(refused.start.starts_with("HTTP/1.1 503"), "{}", refused.text());
    assert!(refused.has("retry-after"), "{}", refused.text());
    upstream.release();
    held.pop();
    for mut client in held {
        client.answer().await.assert_ok();
    }
}

#[tokio::test]
async fn an_answers_head_has_a_limit() {
    let (_upstream, gateway, session) = admin().await;
    gateway.ask(Ask::get("/up/long-head/4000").with(&session)).await.assert_ok();
    gateway.ask(Ask::get("/up/long-head/2000000").with(&session)).await.assert_refusal(502, "Bad gateway");
    gateway.ask(Ask::get("/up/echo").with(&session)).await.assert_ok();
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_is_no_fault() {
    let (upstream, gateway, session) = admin().await;
    for _ in 0..10 {
        // The server closes after this answer, without saying so.
        let ask = Ask::get("/up/until-close").with(&session);
        gateway.ask(ask).await.assert_ok();
        gateway.ask(Ask::get("/up/echo").with(&session)).await.assert_ok();
    }
    assert_eq!(upstream.requests().len(), 20);
}
