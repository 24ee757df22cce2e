//! SIGTERM and SIGINT: what is in flight ends, then the process (contract sections 1 and 2).

use rustix::process::Signal;

use crate::support::wait::{until, until_async, within};
use crate::support::{Ask, TestClient, TestGateway, configured, h2, usual};

async fn ready_status(gateway: &TestGateway) -> Option<u16> {
    let stream = tokio::net::TcpStream::connect(gateway.admin()).await.ok()?;
    let mut client = TestClient::over(stream);
    client.send(Ask::get("/readyz").bytes()).await;
    client.try_answer().await.map(|answer| answer.status)
}

#[tokio::test]
async fn the_operators_listener_tells_health_and_readiness() {
    let (_upstream, gateway) = usual().await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(gateway.admin_ask(Ask::get(path)).await.status, 200, "{path}");
    }
    assert_eq!(gateway.admin_ask(Ask::get("/nothing")).await.status, 404);
}

#[tokio::test]
async fn without_anything_in_flight_it_exits_0_at_once() {
    for signal in [Signal::TERM, Signal::INT] {
        let (_upstream, mut gateway) = usual().await;
        gateway.ask(Ask::get("/public/x")).await.assert_ok();
        gateway.signal(signal);
        assert_eq!(gateway.exit_code().await, 0);
    }
}

#[tokio::test]
async fn a_request_in_flight_is_answered_and_its_connection_then_closes() {
    let (upstream, mut gateway) = usual().await;
    let session = gateway.login("admin").await;
    let mut client = gateway.client().await;
    client.send(Ask::get("/up/hold").with(&session).bytes()).await;
    upstream.wait_for_requests(1).await;
    gateway.signal(Signal::TERM);
    until_async("readyz to turn", || async { ready_status(&gateway).await != Some(200) }).await;
    assert!(!gateway.has_exited());
    upstream.release();
    let answer = client.answer().await;
    answer.assert_ok();
    assert!(client.closed().await.is_empty());
    assert_eq!(gateway.exit_code().await, 0);
}

#[tokio::test]
async fn new_connections_are_no_longer_taken() {
    let (upstream, mut gateway) = usual().await;
    let session = gateway.login("admin").await;
    let mut client = gateway.client().await;
    client.send(Ask::get("/up/hold").with(&session).bytes()).await;
    upstream.wait_for_requests(1).await;
    gateway.signal(Signal::TERM);
    until_async("the listener to close", || async {
        tokio::net::TcpStream::connect(gateway.http()).await.is_err()
    })
    .await;
    upstream.release();
    client.answer().await.assert_ok();
    assert_eq!(gateway.exit_code().await, 0);
}

#[tokio::test]
async fn for_drain_delay_new_connections_are_still_served_while_readyz_is_503() {
    let (_upstream, mut gateway) =
        configured(|settings| settings.set("limits.drain_delay", "'1500ms'")).await;
    gateway.signal(Signal::TERM);
    until_async("readyz to turn", || async { ready_status(&gateway).await == Some(503) }).await;
    gateway.ask(Ask::get("/public/x")).await.assert_ok();
    assert_eq!(gateway.admin_ask(Ask::get("/healthz")).await.status, 200);
    assert_eq!(gateway.exit_code().await, 0);
}

#[tokio::test]
async fn idle_connections_do_not_hold_it_up() {
    let (_upstream, mut gateway) = usual().await;
    let mut idle = gateway.client().await;
    idle.ask(&Ask::get("/public/x")).await.assert_ok();
    let mut untouched = gateway.client().await;
    let session = gateway.login("100").await;
    let mut h2 = h2::H2Client::connect(&gateway).await;
    assert_eq!(h2.get("/me/x", &session).await.status, 200);
    gateway.signal(Signal::TERM);
    assert!(idle.closed().await.is_empty());
    untouched.closed().await;
    h2.closed().await;
    assert_eq!(gateway.exit_code().await, 0);
}

#[tokio::test]
async fn an_upload_in_flight_comes_whole() {
    let (upstream, mut gateway) = usual().await;
    let session = gateway.login("admin").await;
    let mut client = gateway.client().await;
    client
        .send(Ask::post("/up/sink").with(&session).header("Content-Length", "10").raw_body("01234").bytes())
        .await;
    until("the first half", || (upstream.swallowed() == 5).then_some(())).await;
    gateway.signal(Signal::TERM);
    until_async("readyz to turn", || async { ready_status(&gateway).await != Some(200) }).await;
    client.send("56789").await;
    client.answer().await.assert_ok();
    assert_eq!(upstream.swallowed(), 10);
    assert_eq!(gateway.exit_code().await, 0);
}

#[tokio::test]
async fn an_http2_stream_in_flight_is_finished() {
    let (upstream, mut gateway) = usual().await;
    let session = gateway.login("admin").await;
    let mut client = h2::H2Client::connect(&gateway).await;
    let request = h2::request("GET", "/up/hold", Some(&session), h2::Frames::empty());
    let answer = tokio::spawn(async move { client.ask(request).await });
    upstream.wait_for_requests(1).await;
    gateway.signal(Signal::TERM);
    until_async("readyz to turn", || async { ready_status(&gateway).await != Some(200) }).await;
    upstream.release();
    assert_eq!(answer.await.unwrap().status, 200);
    assert_eq!(gateway.exit_code().await, 0);
}

#[tokio::test]
async fn an_upgraded_stream_is_waited_for() {
    let (upstream, mut gateway) = usual().await;
    let session = gateway.login("admin").await;
    let mut client = gateway.client().await;
    let ask =
        Ask::get("/up/raw-echo").with(&session).header("Connection", "Upgrade").header("Upgrade", "raw-echo");
    client.send(ask.bytes()).await;
    client.answer_head().await;
    gateway.signal(Signal::TERM);
    until_async("readyz to turn", || async { ready_status(&gateway).await != Some(200) }).await;
    client.send("still here").await;
    let echo = crate::support::wait::within("an echo", client.wire.exactly(11)).await.unwrap();
    assert_eq!(echo, b"<still here");
    assert!(!gateway.has_exited());
    drop(client);
    until("the upstream to see the end", || (upstream.cut_off() == 1).then_some(())).await;
    assert_eq!(gateway.exit_code().await, 0);
}

#[tokio::test]
async fn drain_timeout_is_the_end_of_patience() {
    let (upstream, mut gateway) =
        configured(|settings| settings.set("limits.drain_timeout", "'500ms'")).await;
    let session = gateway.login("admin").await;
    let mut client = gateway.client().await;
    client.send(Ask::get("/up/ticks").with(&session).bytes()).await;
    client.answer_head().await;
    assert_eq!(gateway.terminate().await, 0);
    client.closed().await;
    until("the upstream to be cut off", || (upstream.cut_off() == 1).then_some(())).await;
    assert_eq!(gateway.access_line("/up/ticks").await["status"], 200, "what is cut off has its line");
}

#[tokio::test]
async fn a_second_sigint_does_not_wait_for_what_is_in_flight() {
    let (upstream, mut gateway) = usual().await;
    let session = gateway.login("admin").await;
    let mut client = gateway.client().await;
    client.send(Ask::get("/up/hold").with(&session).bytes()).await;
    upstream.wait_for_requests(1).await;
    gateway.signal(Signal::INT);
    until_async("readyz to turn", || async { ready_status(&gateway).await != Some(200) }).await;
    assert!(!gateway.has_exited());
    gateway.signal(Signal::INT);
    assert_eq!(gateway.exit_code().await, 0);
    client.closed().await;
    gateway.access_line("/up/hold").await;
}

/// A container may be told by its hook and by its runtime.
#[tokio::test]
async fn a_second_sigterm_cuts_nothing_off() {
    let (upstream, mut gateway) = usual().await;
    let session = gateway.login("admin").await;
    let mut client = gateway.client().await;
    client.send(Ask::get("/up/hold").with(&session).bytes()).await;
    upstream.wait_for_requests(1).await;
    for _ in 0..2 {
        gateway.signal(Signal::TERM);
        until_async("readyz to turn", || async { ready_status(&gateway).await != Some(200) }).await;
    }
    upstream.release();
    client.answer().await.assert_ok();
    assert_eq!(gateway.exit_code().await, 0);
}

#[tokio::test]
async fn sessions_made_before_the_end_are_there_after_it() {
    let (_upstream, mut gateway) = usual().await;
    let session = gateway.login("100").await;
    assert_eq!(gateway.terminate().await, 0);
    gateway.restart().await;
    assert!(gateway.knows(&session).await);
}

/// A balancer that keeps connections would else send its next request on one that is being closed.
#[tokio::test]
async fn while_no_new_traffic_is_wanted_each_answer_is_the_last_of_its_connection() {
    let (_upstream, mut gateway) = configured(|s| s.set("limits.drain_delay", "'2s'")).await;
    let mut kept = gateway.client().await;
    let first = kept.ask(&Ask::get("/public/x")).await;
    assert_eq!(first.assert_ok().header("connection"), None);
    gateway.signal(Signal::TERM);
    until_async("the gateway to want no more", || async { ready_status(&gateway).await == Some(503) }).await;
    for mut client in [kept, gateway.client().await] {
        // Each thread hears of it by itself.
        within("an answer that closes", async {
            while client.ask(&Ask::get("/public/x")).await.assert_ok().header("connection") != Some("close") {
            }
        })
        .await;
        assert_eq!(client.closed().await, b"");
    }
    assert_eq!(gateway.exit_code().await, 0);
}

/// A client that keeps its connection may be sending its next request while it is being closed.
#[tokio::test]
async fn a_request_that_crosses_the_drain_on_a_kept_connection_is_answered() {
    let (_upstream, mut gateway) = usual().await;
    let mut kept = Vec::new();
    for _ in 0..30 {
        let mut client = gateway.client().await;
        client.ask(&Ask::get("/public/x")).await.assert_ok();
        kept.push(client);
    }
    gateway.signal(Signal::TERM);
    // Spread over the moment in which the drain starts, within the 200 ms in which it listens.
    for client in &mut kept {
        client.send(Ask::get("/public/x").bytes()).await;
        tokio::time::sleep(std::time::Duration::from_millis(3)).await;
    }
    for (number, client) in kept.iter_mut().enumerate() {
        let answer = client.try_answer().await;
        assert!(answer.is_some_and(|answer| answer.status == 200), "request {number} was lost");
    }
    assert_eq!(gateway.exit_code().await, 0);
}
