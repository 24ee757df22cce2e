//! Servers that fail requests are left out, tried again, and never all left out at once; retries and waiting have bounds
//! (contract section 2, `[upstreams]`; README, "Upstreams that fail").

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::ports::Port;
use crate::support::wait::{until, until_async};
use crate::support::wire::Wire;
use crate::support::{Ask, Prepared, Session, TestGateway, TestUpstream};

/// A server that breaks off before its head while it is `broken`; a check of its health is good at all times.
struct Moody {
    addr: std::net::SocketAddr,
    broken: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Moody {
    async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (broken, asked) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (mood, count) = (Arc::clone(&broken), Arc::clone(&asked));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (mood, count) = (Arc::clone(&mood), Arc::clone(&count));
                tokio::spawn(async move {
                    let mut wire = Wire::new(stream);
                    while let Ok(Some(head)) = wire.head().await {
                        let is_check = head.start.contains("/health");
                        if !is_check {
                            count.fetch_add(1, Ordering::SeqCst);
                            if mood.load(Ordering::SeqCst) {
                                return;
                            }
                        }
                        let _ = wire.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                    }
                });
            }
        });
        Self { addr, broken, asked, task }
    }

    fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    fn mend(&self) {
        self.broken.store(false, Ordering::SeqCst);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn label(&self) -> String {
        format!("server=\"{}\"", self.addr)
    }
}

impl Drop for Moody {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn in_front_of(urls: &[String], more: &str) -> (TestGateway, Session) {
    let gateway = TestGateway::run(Prepared::new(|settings| {
        settings.set("upstreams.engine.servers", &format!("{urls:?}"));
        settings.table("upstreams.engine", more);
    }))
    .await;
    let session = gateway.login("admin").await;
    (gateway, session)
}

async fn status(gateway: &TestGateway, session: &Session) -> u16 {
    gateway.ask(Ask::get("/up/echo").with(session)).await.status
}

async fn until_ejected(gateway: &TestGateway, session: &Session, server: &Moody) {
    until_async("the server to be ejected", || async {
        status(gateway, session).await;
        gateway.metric("postern_upstream_ejections_total", &[&server.label()]).await >= 1.0
    })
    .await;
    assert_eq!(gateway.metric("postern_upstream_healthy", &[&server.label()]).await, 0.0);
}

#[tokio::test]
async fn a_server_that_breaks_requests_off_is_left_out() {
    let (bad, good) = (Moody::start().await, TestUpstream::named("good").await);
    let eject = "balance = 'round_robin'\neject = { failures = 3, base = '60s', max = '60s' }";
    let (gateway, session) = in_front_of(&[bad.url(), good.url()], eject).await;
    until_ejected(&gateway, &session, &bad).await;
    assert!((3..=4).contains(&bad.asked()), "three in a row: {}", bad.asked());
    let before = bad.asked();
    for _ in 0..30 {
        assert_eq!(status(&gateway, &session).await, 200);
    }
    assert_eq!(bad.asked(), before);
    assert_eq!(gateway.metric("postern_upstream_healthy", &["upstream=\"engine\""]).await, 1.0);
}

#[tokio::test]
async fn it_comes_back_once_a_request_that_tries_it_is_answered() {
    let (bad, good) = (Moody::start().await, TestUpstream::named("good").await);
    let eject = "balance = 'round_robin'\neject = { failures = 3, base = '200ms', max = '400ms' }";
    let (gateway, session) = in_front_of(&[bad.url(), good.url()], eject).await;
    until_ejected(&gateway, &session, &bad).await;
    until_async("another try to fail", || async {
        status(&gateway, &session).await;
        gateway.metric("postern_upstream_ejections_total", &[&bad.label()]).await >= 2.0
    })
    .await;
    bad.mend();
    until_async("the server to be back", || async {
        assert!(matches!(status(&gateway, &session).await, 200 | 502));
        gateway.metric("postern_upstream_healthy", &[&bad.label()]).await == 1.0
    })
    .await;
    for _ in 0..30 {
        assert_eq!(status(&gateway, &session).await, 200);
    }
}

/// A 5xx is an answer: the fault may be the request's, and health checks are there for the rest.
#[tokio::test]
async fn a_5xx_ejects_nobody() {
    let (a, b) = (TestUpstream::named("a").await, TestUpstream::named("b").await);
    let (gateway, session) = in_front_of(&[a.url(), b.url()], "eject = { failures = 1 }").await;
    for code in [500, 502, 503, 504] {
        for _ in 0..4 {
            let answer = gateway.ask(Ask::get(format!("/up/status/{code}")).with(&session)).await;
            assert_eq!(answer.status, code);
        }
    }
    assert_eq!(gateway.metric("postern_upstream_healthy", &[]).await, 2.0);
    assert_eq!(gateway.metric("postern_upstream_ejections_total", &[]).await, 0.0);
}

#[tokio::test]
async fn the_only_server_is_never_left_out() {
    let only = Moody::start().await;
    let (gateway, session) = in_front_of(&[only.url()], "eject = { failures = 1, base = '60s' }").await;
    for _ in 0..10 {
        assert_eq!(status(&gateway, &session).await, 502);
    }
    only.mend();
    assert_eq!(status(&gateway, &session).await, 200);
    assert_eq!(gateway.metric("postern_upstream_healthy", &[]).await, 1.0);
}

/// Of what is left the least bad is asked; that there is none only health checks can say (503, `balancing`).
#[tokio::test]
async fn with_the_others_unhealthy_an_ejected_server_is_asked() {
    let (ejected, other) = (Moody::start().await, TestUpstream::named("other").await);
    let more = "balance = 'round_robin'\neject = { failures = 2, base = '60s', max = '60s' }\n\
                health = { path = '/health', interval = '100ms' }";
    let (gateway, session) = in_front_of(&[ejected.url(), other.url()], more).await;
    until_ejected(&gateway, &session, &ejected).await;
    ejected.mend();
    other.stop();
    until_async("the other to be found unhealthy", || async {
        gateway.metric("postern_upstream_healthy", &[]).await == 0.0
    })
    .await;
    for _ in 0..10 {
        assert_eq!(status(&gateway, &session).await, 200);
    }
}

#[tokio::test]
async fn retries_do_not_double_the_load_of_an_upstream_that_is_down() {
    let (one, two) = (Port::claim(), Port::claim());
    let urls = [one, two].map(|port| (format!("http://{}", port.addr()), port));
    let (gateway, session) =
        in_front_of(&[urls[0].0.clone(), urls[1].0.clone()], "retries = 1\neject = { failures = 0 }").await;
    // One connection, so one thread and one budget.
    let (mut client, start) = (gateway.client().await, Instant::now());
    for _ in 0..200 {
        client.ask(&Ask::get("/up/echo").with(&session)).await.assert_refusal(502, "Bad gateway");
    }
    let most = 200.0 / 5.0 + 10.0 + 3.0 * (start.elapsed().as_secs_f64() + 1.0);
    let retries = async |result| gateway.metric("postern_upstream_retries_total", &["engine", result]).await;
    // The last request is counted behind its answer.
    until_async("all to be counted", || async {
        retries("\"sent\"").await + retries("\"over_budget\"").await >= 200.0
    })
    .await;
    let (sent, refused) = (retries("\"sent\"").await, retries("\"over_budget\"").await);
    assert!((10.0..=most).contains(&sent), "{sent} of {most}");
    assert_eq!(sent + refused, 200.0);
    let tries = gateway.metric("postern_upstream_requests_total", &["\"unreachable\""]).await;
    assert_eq!(tries, 200.0 + sent);
}

#[tokio::test]
async fn a_dead_server_among_two_costs_nobody_an_answer() {
    let (port, alive) = (Port::claim(), TestUpstream::named("alive").await);
    let dead = format!("http://{}", port.addr());
    let (gateway, session) = in_front_of(&[dead, alive.url()], "retries = 1").await;
    let load = (0..4).map(|_| async {
        let mut client = gateway.client().await;
        for _ in 0..100 {
            client.ask(&Ask::get("/up/echo").with(&session)).await.assert_ok();
        }
    });
    futures_util::future::join_all(load).await;
    let retries = gateway.metric("postern_upstream_retries_total", &["engine"]).await;
    let failed = gateway.metric("postern_upstream_requests_total", &["\"unreachable\""]).await;
    assert_eq!(retries, failed);
    assert!(retries <= 80.0, "a fifth: {retries}");
    assert_eq!(alive.requests().len(), 400);
}

#[tokio::test]
async fn where_nothing_may_wait_a_full_upstream_is_503_at_once() {
    let upstream = TestUpstream::start().await;
    let more = "max_connections = 1\nmax_pending = 0\nconnect_timeout = '15s'";
    let (gateway, session) = in_front_of(&[upstream.url()], more).await;
    let mut held = gateway.client().await;
    held.send(Ask::get("/up/hold").with(&session).bytes()).await;
    upstream.wait_for_requests(1).await;
    let start = Instant::now();
    let answer = gateway.ask(Ask::get("/up/echo").with(&session)).await;
    assert!(answer.assert_error(503).header("retry-after").is_some());
    assert!(start.elapsed() < Duration::from_secs(10), "it waited");
    upstream.release();
    held.answer().await.assert_ok();
}

#[tokio::test]
async fn who_waits_gets_the_connection_that_is_freed() {
    let upstream = TestUpstream::start().await;
    let more = "max_connections = 1\nmax_pending = 1\nconnect_timeout = '15s'";
    let (gateway, session) = in_front_of(&[upstream.url()], more).await;
    let (mut held, mut waits) = (gateway.client().await, gateway.client().await);
    held.send(Ask::get("/up/hold").with(&session).bytes()).await;
    upstream.wait_for_requests(1).await;
    waits.send(Ask::get("/up/echo").with(&session).bytes()).await;
    // Once one waits the next is told so; until then it may be the one that waits.
    let mut others = Vec::new();
    let refused = loop {
        let mut other = gateway.client().await;
        other.send(Ask::get("/up/echo").with(&session).bytes()).await;
        match tokio::time::timeout(Duration::from_millis(500), other.answer_head()).await {
            Ok(head) => break head,
            Err(_) => others.push(other),
        }
        assert!(others.len() < 3, "no bound");
    };
    assert!(refused.start.starts_with("HTTP/1.1 503"), "{}", refused.text());
    upstream.release();
    held.answer().await.assert_ok();
    for mut client in others.into_iter().chain([waits]) {
        assert!(matches!(client.answer().await.status, 200 | 503));
    }
    until("one that waited to be served", || (upstream.requests().len() == 2).then_some(())).await;
}
