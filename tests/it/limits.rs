//! `[limits]`: what one client can take of the gateway (contract section 2).

use crate::support::tls::Offer;
use crate::support::wait::{until, until_async, within};
use crate::support::{Ask, PASSWORD, Prepared, TestClient, TestGateway, TestUpstream, configured, usual};

#[tokio::test]
async fn a_head_that_does_not_end_in_time_closes_the_connection() {
    let (upstream, gateway) =
        configured(|settings| settings.set("limits.header_read_timeout", "'400ms'")).await;
    for start in ["GET /public/x HTTP/1.1\r\nHost: localhost\r\nX-Slow: ", "G", "GET /public/x HTTP/1.1\r\n"]
    {
        let mut client = gateway.client().await;
        client.send(start).await;
        let answer = client.closed().await;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    // Byte after byte does not help: the whole head has the time.
    let mut client = gateway.client().await;
    client.send("GET /public/x HTTP/1.1\r\nX: ").await;
    let dripping = async {
        while client.wire.send("a").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    crate::support::wait::within("a dripping client to be cut off", dripping).await;
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_client_that_connects_and_says_nothing_is_not_waited_for() {
    let (_upstream, gateway) = configured(|settings| {
        settings.set("limits.header_read_timeout", "'400ms'");
        settings.set("limits.handshake_timeout", "'400ms'");
    })
    .await;
    let mut silent =
        vec![gateway.client().await, TestClient::connect(gateway.https()).await, gateway.tls_client().await];
    let offer = Offer { alpn: &["h2"], ..Offer::default() };
    silent.push(TestClient::over(gateway.authority().connect(gateway.https(), &offer).await.unwrap()));
    for mut client in silent {
        client.closed().await;
    }
}

#[tokio::test]
async fn a_client_that_does_not_take_its_answer_is_cut_off() {
    let (upstream, gateway) = configured(|settings| settings.set("limits.send_timeout", "'1s'")).await;
    let session = gateway.login("admin").await;
    for (number, mut client) in [gateway.client().await, gateway.tls_client().await].into_iter().enumerate() {
        client.send(Ask::get("/up/big/100000000").with(&session).bytes()).await;
        upstream.wait_for_requests(number + 1).await;
        // Nothing is read here, so all that can end it is the gateway.
        until_async("the client to be cut off", || async {
            gateway.metric("postern_connections", &["listener=\"http"]).await < 2.0
                && gateway.access_lines().len() > number + 1
        })
        .await;
        drop(client);
    }
}

#[tokio::test]
async fn a_head_has_a_hundred_fields_at_most() {
    let (upstream, gateway) = usual().await;
    let fields = |count| (1..count).fold(Ask::get("/public/x"), |ask, n| ask.header(format!("X-{n}"), "y"));
    gateway.ask(fields(100)).await.assert_ok();
    let refused = gateway.ask(fields(101)).await;
    assert_eq!(refused.status, 431, "{}", refused.brief());
    assert_eq!(upstream.requests().len(), 1);
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let (_upstream, gateway) = configured(|settings| settings.set("limits.idle_timeout", "'500ms'")).await;
    let session = gateway.login("admin").await;
    let mut busy = gateway.client().await;
    busy.send(Ask::get("/up/slow/1500").with(&session).bytes()).await;
    let mut idle = gateway.client().await;
    idle.ask(&Ask::get("/public/x")).await.assert_ok();
    assert!(idle.closed().await.is_empty());
    busy.answer().await.assert_ok();
}

#[tokio::test]
async fn a_body_of_which_no_byte_comes_is_given_up() {
    let (upstream, gateway) = configured(|settings| settings.set("limits.body_timeout", "'400ms'")).await;
    let session = gateway.login("admin").await;
    for framing in [("Content-Length", "100"), ("Transfer-Encoding", "chunked")] {
        let mut client = gateway.client().await;
        client
            .send(Ask::post("/up/echo").with(&session).header(framing.0, framing.1).raw_body("").bytes())
            .await;
        let answer = client.answer().await;
        answer.assert_error(408);
        client.closed().await;
    }
    let mut client = gateway.client().await;
    let ask = Ask::post("/login")
        .header("Content-Type", "application/json")
        .header("Content-Length", "100")
        .raw_body("{");
    client.send(ask.bytes()).await;
    let answer = client.answer().await;
    assert!(matches!(answer.status, 400 | 408), "{}", answer.brief());
    assert!(upstream.requests().iter().all(|seen| !seen.complete));
}

/// A byte now and then would hold a place for days.
#[tokio::test]
async fn a_login_that_comes_byte_by_byte_is_given_up() {
    let (_upstream, gateway) = configured(|settings| settings.set("limits.body_timeout", "'400ms'")).await;
    let mut client = gateway.client().await;
    let ask = Ask::post("/login").header("Content-Type", "application/json");
    client.send(ask.header("Content-Length", "10000").raw_body("{").bytes()).await;
    let dripping = async {
        while client.wire.send(" ").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("a dripping login to be cut off", dripping).await;
    let line = gateway.access_line("/login").await;
    assert_eq!((&line["status"], &line["reason"]), (&408.into(), &"body_timeout".into()));
}

/// The time is that of a pause.
#[tokio::test]
async fn a_login_that_comes_slowly_is_taken() {
    let (_upstream, gateway) = configured(|settings| settings.set("limits.body_timeout", "'700ms'")).await;
    let body = format!(r#"{{"username":"100@example.org","password":"{PASSWORD}"}}"#);
    let mut client = gateway.client().await;
    let ask = Ask::post("/login").header("Content-Type", "application/json");
    client.send(ask.header("Content-Length", body.len().to_string()).raw_body("").bytes()).await;
    for piece in body.as_bytes().chunks(body.len().div_ceil(12)) {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        client.send(piece).await;
    }
    client.answer().await.assert_ok();
}

#[tokio::test]
async fn logins_take_half_of_the_places_at_most() {
    let (_upstream, gateway) = configured(|settings| settings.set("limits.max_requests", "4")).await;
    let session = gateway.login("100").await;
    let slow = Ask::post("/login").header("Content-Type", "application/json").header("Content-Length", "100");
    let mut slow_ones = Vec::new();
    for _ in 0..2 {
        let mut client = gateway.client().await;
        client.send(slow.clone().header("Expect", "100-continue").raw_body("").bytes()).await;
        let head = client.answer_head().await;
        assert!(head.start.contains("100"), "its body is waited for: {}", head.start);
        client.send("{").await;
        slow_ones.push(client);
    }
    let refused = gateway.ask(Ask::login("100@example.org", PASSWORD)).await;
    refused.assert_error(503);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(gateway.metric("postern_logins_total", &[r#"result="overloaded""#]).await, 1.0);
    for _ in 0..20 {
        assert!(gateway.knows(&session).await, "who is logged in goes on");
    }
    drop(slow_ones);
    until_async("a place", || async {
        gateway.ask(Ask::login("100@example.org", PASSWORD)).await.status == 200
    })
    .await;
}

/// What the gateway lacks is not held against its servers.
#[tokio::test]
async fn without_a_descriptor_for_the_server_a_request_is_503() {
    let upstream = TestUpstream::start().await;
    let mut prepared = Prepared::new(|settings| {
        settings.set("upstreams.engine.servers", &format!("['{}']", upstream.url()));
    });
    prepared.before = Some("ulimit -n 128");
    let gateway = TestGateway::run(prepared).await;
    let mut client = gateway.client().await;
    assert_eq!(client.ask(&Ask::get("/login")).await.status, 405, "it is accepted");
    let mut others = Vec::new();
    until_async("the descriptors to be used up", || {
        let more = (0..10).map(|_| std::net::TcpStream::connect(gateway.http()).unwrap());
        others.extend(more);
        let told = gateway.output().contains("cannot accept connections");
        async move { told }
    })
    .await;
    let refused = client.ask(&Ask::get("/public/x")).await;
    refused.assert_error(503);
    assert!(refused.header("retry-after").is_some());
    until("the operator to be told", || {
        gateway.output().contains("no connection to a server can be opened").then_some(())
    })
    .await;
    drop(others);
    until_async("descriptors", || async { gateway.ask(Ask::get("/public/x")).await.status == 200 }).await;
    assert_eq!(gateway.metric("postern_upstream_ejections_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_silent_answer_is_not_the_clients_fault() {
    let (_upstream, gateway) = configured(|settings| settings.set("limits.body_timeout", "'300ms'")).await;
    let session = gateway.login("admin").await;
    let ask = Ask::post("/up/slow/1200").with(&session).body("hello");
    gateway.ask(ask).await.assert_ok();
}

#[tokio::test]
async fn a_head_that_is_too_large_is_refused() {
    let (upstream, gateway) = configured(|settings| settings.set("limits.max_header_bytes", "'16KiB'")).await;
    let session = gateway.login("admin").await;
    gateway.ask(Ask::get("/up/echo").with(&session).header("X-Pad", "x".repeat(8_000))).await.assert_ok();
    let before = upstream.requests().len();
    for ask in [
        Ask::get("/up/echo").with(&session).header("X-Pad", "x".repeat(40_000)),
        Ask::get(format!("/up/{}", "x".repeat(40_000))).with(&session),
        (0..3_000)
            .fold(Ask::get("/up/echo").with(&session), |ask, number| ask.header(format!("X-{number}"), "y")),
    ] {
        if let Some(answer) = gateway.try_raw(ask.bytes()).await {
            assert!(matches!(answer.status, 400 | 414 | 431), "{}", answer.brief());
        }
    }
    assert_eq!(upstream.requests().len(), before);
}

#[tokio::test]
async fn past_max_requests_it_is_503_with_retry_after() {
    let (upstream, gateway) = configured(|settings| settings.set("limits.max_requests", "2")).await;
    let session = gateway.login("admin").await;
    let mut held = Vec::new();
    for number in 1..=2 {
        let mut client = gateway.client().await;
        client.send(Ask::get("/up/hold").with(&session).bytes()).await;
        upstream.wait_for_requests(number).await;
        held.push(client);
    }
    for ask in
        [Ask::get("/up/echo").with(&session), Ask::get("/public/x"), Ask::login("100@example.org", "x")]
    {
        let answer = gateway.ask(ask).await;
        assert!(answer.assert_error(503).header("retry-after").is_some(), "{}", answer.head.text());
    }
    upstream.release();
    for client in &mut held {
        client.answer().await.assert_ok();
    }
    gateway.ask(Ask::get("/up/echo").with(&session)).await.assert_ok();
}

#[tokio::test]
async fn a_request_counts_until_its_answer_has_ended() {
    let (upstream, gateway) = configured(|settings| settings.set("limits.max_requests", "1")).await;
    let session = gateway.login("admin").await;
    let streaming = async {
        loop {
            let mut client = gateway.client().await;
            client.send(Ask::get("/up/ticks").with(&session).bytes()).await;
            // One that comes before the login has left its place is refused.
            if client.answer_head().await.start.contains(" 200 ") {
                return client;
            }
        }
    };
    let client = within("a place", streaming).await;
    gateway.ask(Ask::get("/public/x")).await.assert_error(503);
    drop(client);
    until("the upstream to be cut off", || (upstream.cut_off() == 1).then_some(())).await;
    until_async("the place to be free again", || async {
        gateway.ask(Ask::get("/public/x")).await.status == 200
    })
    .await;
}

#[tokio::test]
async fn past_max_connections_a_client_waits_or_is_closed_and_no_one_else_suffers() {
    let (_upstream, gateway) = configured(|settings| settings.set("limits.max_connections", "4")).await;
    let mut served = Vec::new();
    let mut refused = None;
    // The limit may be shared out among the workers, but twelve are beyond it however it is counted.
    for _ in 0..12 {
        let mut client = gateway.client().await;
        client.send(Ask::get("/public/x").bytes()).await;
        let wait = std::time::Duration::from_millis(700);
        match tokio::time::timeout(wait, client.try_answer()).await {
            Ok(Some(answer)) if answer.status == 200 => served.push(client),
            _ => {
                refused = Some(client);
                break;
            }
        }
    }
    assert!(refused.is_some(), "twelve connections under a limit of four");
    assert!(!served.is_empty(), "none was served");
    for client in &mut served {
        client.ask(&Ask::get("/public/x")).await.assert_ok();
    }
    drop((served, refused));
    until_async("a place to be free again", || async {
        let mut client = TestClient::connect(gateway.http()).await;
        client.send(Ask::get("/public/x").bytes()).await;
        let answer = tokio::time::timeout(std::time::Duration::from_millis(700), client.try_answer()).await;
        matches!(answer, Ok(Some(answer)) if answer.status == 200)
    })
    .await;
}

#[tokio::test]
async fn many_pipelined_requests_do_not_grow_without_bound() {
    let (_upstream, gateway) = usual().await;
    let mut client = gateway.client().await;
    let bytes = Ask::get("/closed").bytes().repeat(2_000);
    client.send(bytes).await;
    for _ in 0..2_000 {
        client.answer().await.assert_refusal(403, "Permission denied!");
    }
}

/// hyper does not look whether a client is there while a byte of its next request waits.
#[tokio::test]
async fn a_client_that_has_left_behind_its_next_request_holds_nothing() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("admin").await;
    let others = gateway.metric("postern_connections", &["listener=\"http\""]).await;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = gateway.client().await;
        let mut bytes = Ask::get("/me/hold").with(&session).bytes();
        bytes.push(b'G');
        client.send(bytes).await;
        clients.push(client);
    }
    upstream.wait_for_requests(5).await;
    drop(clients);
    until_async("the clients to be missed", || async {
        gateway.metric("postern_connections", &["listener=\"http\""]).await <= others
    })
    .await;
}
