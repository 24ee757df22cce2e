//! Several servers of one upstream: balance, retries, health (contract section 2, `[upstreams]`).

use std::collections::BTreeMap;
use std::time::Duration;

use crate::support::ports::Port;
use crate::support::wait::{until, until_async};
use crate::support::{Ask, Prepared, Session, TestGateway, TestUpstream};

async fn in_front_of(urls: &[String], more: &str) -> (TestGateway, Session) {
    let gateway = TestGateway::run(Prepared::new(|settings| {
        settings.set("upstreams.engine.servers", &format!("{urls:?}"));
        settings.table("upstreams.engine", more);
    }))
    .await;
    let session = gateway.login("admin").await;
    (gateway, session)
}

fn nobody() -> (Port, String) {
    let port = Port::claim();
    let url = format!("http://{}", port.addr());
    (port, url)
}

/// How many of so many requests each server answered.
async fn shares(gateway: &TestGateway, session: &Session, count: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..count {
        let answer = gateway.ask(Ask::get("/up/echo").with(session)).await;
        *shares.entry(answer.assert_ok().json()["server"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    shares
}

#[tokio::test]
async fn round_robin_gives_every_server_its_share() {
    let (a, b, c) =
        (TestUpstream::named("a").await, TestUpstream::named("b").await, TestUpstream::named("c").await);
    let (gateway, session) = in_front_of(&[a.url(), b.url(), c.url()], "balance = 'round_robin'").await;
    let shares = shares(&gateway, &session, 60).await;
    // Every worker counts for itself, so the shares are near each other, not equal.
    assert_eq!(shares.len(), 3, "{shares:?}");
    assert!(shares.values().all(|share| (10..=30).contains(share)), "{shares:?}");
}

#[tokio::test]
async fn least_request_avoids_a_server_that_is_held_up() {
    let (slow, quick) = (TestUpstream::named("slow").await, TestUpstream::named("quick").await);
    let (gateway, session) = in_front_of(&[slow.url(), quick.url()], "balance = 'least_request'").await;
    // Ten requests that the servers hold; then one server lets go.
    let mut held = Vec::new();
    for _ in 0..10 {
        let mut client = gateway.client().await;
        client.send(Ask::get("/up/hold").with(&session).bytes()).await;
        held.push(client);
    }
    until("the held requests", || (slow.requests().len() + quick.requests().len() == 10).then_some(())).await;
    assert!(slow.requests().len() >= 2 && quick.requests().len() >= 2, "both take part");
    quick.release();
    let shares = shares(&gateway, &session, 20).await;
    assert!(shares.get("quick").copied().unwrap_or_default() >= 15, "{shares:?}");
    slow.release();
    for mut client in held {
        client.answer().await.assert_ok();
    }
}

#[tokio::test]
async fn a_server_that_takes_no_connection_is_left_for_another() {
    let (_port, dead) = nobody();
    let alive = TestUpstream::named("alive").await;
    let (gateway, session) = in_front_of(&[dead, alive.url()], "retries = 1\nbalance = 'round_robin'").await;
    for _ in 0..20 {
        gateway.ask(Ask::post("/up/echo").with(&session).body("once")).await.assert_ok();
    }
    assert_eq!(alive.requests().len(), 20);
}

#[tokio::test]
async fn what_may_have_been_processed_is_not_sent_again() {
    let (a, b) = (TestUpstream::named("a").await, TestUpstream::named("b").await);
    let (gateway, session) = in_front_of(&[a.url(), b.url()], "retries = 3").await;
    for (count, ask) in
        [Ask::post("/up/drop").body("pay"), Ask::get("/up/drop"), Ask::new("PUT", "/up/drop").body("x")]
            .into_iter()
            .enumerate()
    {
        gateway.ask(ask.with(&session)).await.assert_refusal(502, "Bad gateway");
        assert_eq!(a.requests().len() + b.requests().len(), count + 1);
    }
}

#[tokio::test]
async fn without_retries_a_dead_server_shows() {
    let (_port, dead) = nobody();
    let (gateway, session) = in_front_of(&[dead], "retries = 0").await;
    gateway.ask(Ask::get("/up/echo").with(&session)).await.assert_refusal(502, "Bad gateway");
}

#[tokio::test]
async fn no_healthy_server_is_503_until_one_is_back() {
    let (port, dead) = nobody();
    let (gateway, session) =
        in_front_of(&[dead], "health = { path = '/up/status/200', interval = '100ms' }").await;
    until_async("the server to be found unhealthy", || async {
        gateway.ask(Ask::get("/up/echo").with(&session)).await.status == 503
    })
    .await;
    let answer = gateway.ask(Ask::get("/up/echo").with(&session)).await;
    assert!(answer.assert_error(503).header("retry-after").is_some());

    let listener = tokio::net::TcpListener::bind(port.addr()).await.unwrap();
    let server = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_ok(stream));
        }
    });
    until_async("the server to be found healthy", || async {
        gateway.ask(Ask::get("/up/echo").with(&session)).await.status == 200
    })
    .await;
    server.abort();
}

async fn answer_ok(stream: tokio::net::TcpStream) {
    let mut wire = crate::support::wire::Wire::new(stream);
    while let Ok(Some(_)) = wire.head().await {
        let _ = wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
    }
}

#[tokio::test]
async fn an_unhealthy_server_is_left_out() {
    let (good, bad) = (TestUpstream::named("good").await, TestUpstream::named("bad").await);
    let (gateway, session) = in_front_of(
        &[good.url(), bad.url()],
        "balance = 'round_robin'\nhealth = { path = '/up/echo', interval = '100ms' }",
    )
    .await;
    bad.stop();
    until_async("the stopped server to be left out", || async {
        (0..4).len() == shares(&gateway, &session, 4).await.get("good").copied().unwrap_or_default()
    })
    .await;
    let shares = shares(&gateway, &session, 10).await;
    assert_eq!(shares.get("good"), Some(&10), "{shares:?}");
}

#[tokio::test]
async fn a_name_is_resolved() {
    let upstream = TestUpstream::start().await;
    let url = format!("http://localhost:{}", upstream.addr.port());
    let (gateway, session) = in_front_of(&[url], "connect_timeout = '2s'").await;
    gateway.ask(Ask::get("/up/echo").with(&session)).await.assert_ok();
    tokio::time::timeout(Duration::from_secs(1), upstream.wait_for_requests(1)).await.unwrap();
}
