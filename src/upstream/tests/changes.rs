//! Servers that fail, come back, or are others than before.

use super::*;
use crate::body::Full;
use crate::clock::monotonic;
use std::cell::Cell;

use super::super::balance::{Balancer, NoServer};
use super::super::pool::Lane;
use super::super::retry::Tried;
use super::super::standing::SLOW_START;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A server that breaks off before its head while the cell says so, and the number of requests it got.
async fn moody() -> (SocketAddr, Rc<Cell<bool>>, Rc<RefCell<Vec<String>>>) {
    let broken = Rc::new(Cell::new(true));
    let mood = broken.clone();
    let (addr, seen) = server(move |mut conn, _| {
        let mood = mood.clone();
        async move {
            while conn.head().await.is_some() && !mood.get() {
                conn.send(OK).await;
            }
        }
    })
    .await;
    (addr, broken, seen)
}

fn ejecting(servers: &[SocketAddr], failures: u32, millis: u64) -> UpstreamSettings {
    let time = Duration::from_millis(millis);
    let eject = EjectSettings { failures, base: time, max: time };
    UpstreamSettings { eject, ..settings(servers) }
}

async fn failures(client: &Client, requests: usize) -> usize {
    let mut failed = 0;
    for _ in 0..requests {
        failed += usize::from(client.text().await.is_err());
    }
    failed
}

#[test]
fn a_server_that_fails_is_left_out_and_tried_by_one_request() {
    on_a_worker(async {
        let ((bad, broken, seen), (good, _)) = (moody().await, answering(OK).await);
        let client = Client::with(ejecting(&[bad, good], 3, 300));
        assert_eq!((failures(&client, 6).await, seen.borrow().len()), (3, 3));
        assert_eq!(failures(&client, 20).await, 0, "while it is out");
        tokio::time::sleep(Duration::from_millis(310)).await;
        assert_eq!(failures(&client, 20).await, 1, "one tries it and fails");
        broken.set(false);
        tokio::time::sleep(Duration::from_millis(310)).await;
        assert_eq!((failures(&client, 1).await, seen.borrow().len()), (0, 5), "one tries it");
        assert!(client.group.shared.servers().iter().all(|server| server.is_asked()));
    });
}

#[test]
fn what_the_client_does_and_a_5xx_eject_nobody_nor_is_the_only_one_ejected() {
    on_a_worker(async {
        let (angry, _) = answering("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n").await;
        let client = Client::with(ejecting(&[angry, answering(OK).await.0], 1, 10_000));
        for _ in 0..4 {
            assert!(client.get().await.is_ok());
            let (sender, body) = pieces();
            sender.send(piece("cut")).unwrap();
            sender.send(Err(())).unwrap();
            let fields = [("content-length", "9")];
            assert!(matches!(client.ask(Method::POST, &fields, body).await, Err(ForwardError::RequestBody)));
        }
        assert!(client.group.shared.servers().iter().all(|server| server.is_asked()));
        let (only, broken, _) = moody().await;
        let client = Client::with(ejecting(&[only], 1, 10_000));
        assert_eq!(failures(&client, 5).await, 5);
        broken.set(false);
        assert_eq!(failures(&client, 5).await, 0);
    });
}

/// Half are left out at most; an ejected one is asked all the same once the others are unhealthy, while checks that find
/// all of them unhealthy leave none.
#[test]
fn requests_never_leave_nobody_but_checks_do() {
    on_a_worker(async {
        let ((a, mood_a, _), (b, ..), (c, ..)) = (moody().await, moody().await, moody().await);
        let client = Client::with(ejecting(&[a, b, c], 1, 60_000));
        assert_eq!(failures(&client, 10).await, 10);
        let servers = client.group.shared.servers();
        let out: Vec<_> = servers.iter().filter(|server| !server.is_asked()).collect();
        assert_eq!(out.len(), 1, "of three");
        assert_eq!(out[0].addr, a);
        mood_a.set(false);
        servers.iter().filter(|server| server.addr != a).for_each(|server| {
            server.checked(false);
            server.checked(false);
        });
        assert_eq!(failures(&client, 5).await, 0, "the least bad is asked");
        out[0].checked(false);
        out[0].checked(false);
        assert!(matches!(client.get().await, Err(ForwardError::Busy)));
    });
}

#[test]
fn a_server_that_is_back_takes_its_share_gradually() {
    on_a_worker(async {
        for how in [Balance::RoundRobin, Balance::LeastRequest] {
            let ((a, _), (b, _)) = (answering(OK).await, answering(OK).await);
            let mut two = settings(&[a, b]);
            two.balance = how;
            let client = Client::with(two);
            let servers = client.group.shared.servers();
            let lanes: Vec<_> = servers.iter().map(|server| Lane::of(&client.group.shared, server)).collect();
            let balancer = Balancer::new(&client.group.shared.settings);
            let share = |now| {
                let picks = (0..1000).map(|_| balancer.pick(&lanes, &Tried::default(), now).unwrap());
                picks.filter(|lane| lane.addr == a).count()
            };
            assert!((450..=550).contains(&share(monotonic())), "{how:?}");
            (0..2).for_each(|_| servers[0].checked(false));
            servers[0].checked(true);
            let now = monotonic();
            let shares = [share(now), share(now + SLOW_START / 2), share(now + SLOW_START)];
            assert!((30..=80).contains(&shares[0]) && (220..=330).contains(&shares[1]), "{how:?} {shares:?}");
            assert!((450..=550).contains(&shares[2]), "{how:?} {shares:?}");
            (0..2).for_each(|_| servers[1].checked(false));
            assert_eq!(share(now), 1000, "there is no other");
            (0..2).for_each(|_| servers[0].checked(false));
            assert_eq!(
                balancer.pick(&lanes, &Tried::default(), now).err(),
                Some(NoServer::Unhealthy),
                "{how:?}"
            );
        }
    });
}

#[test]
fn no_more_wait_for_a_connection_than_may() {
    on_a_worker(async {
        let (addr, _) = server(|mut conn, _| async move {
            conn.head().await;
            conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok").await;
            conn.head().await;
        })
        .await;
        let mut one = settings(&[addr]);
        (one.name, one.max_connections, one.max_pending) = ("pending".into(), 1, 1);
        one.connect_timeout = Duration::from_secs(10);
        let client = Rc::new(Client::with(one));
        let held = client.get().await.unwrap();
        let waiting = tokio::task::spawn_local({
            let client = client.clone();
            async move { client.get().await.map(|answer| answer.status()) }
        });
        tokio::task::yield_now().await;
        let start = monotonic();
        assert!(matches!(client.get().await, Err(ForwardError::Busy)));
        assert!(start.elapsed() < Duration::from_secs(5), "it was told at once");
        drop(held);
        assert_eq!(waiting.await.unwrap().unwrap(), StatusCode::OK);
    });
}

/// One name, asked of nobody: what it resolves to is the test's to say.
fn named() -> UpstreamSettings {
    let mut named = settings(&["127.0.0.1:1".parse().unwrap()]);
    named.servers[0].host = "name.invalid".into();
    named
}

#[test]
fn another_answer_for_a_name_is_followed_and_none_keeps_the_last() {
    on_a_worker(async {
        let closed = Rc::new(Cell::new(0));
        let count = closed.clone();
        let (old, _) = server(move |mut conn, _| {
            let count = count.clone();
            async move {
                while conn.head().await.is_some() {
                    conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold").await;
                }
                count.set(count.get() + 1);
            }
        })
        .await;
        let (slow, slow_seen) = server(|mut conn, _| async move {
            conn.head().await;
            conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nbegun").await;
            tokio::time::sleep(Duration::from_millis(200)).await;
            conn.send(b"end").await;
            conn.until(b"never").await;
        })
        .await;
        let (new, _) = answering("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew").await;
        let client = Client::with(named());
        let group = &client.group.shared;
        group.resolved(0, vec![old]);
        assert_eq!(client.text().await.unwrap(), "old");
        group.resolved(0, vec![slow]);
        let under_way = client.get().await.unwrap();
        assert_eq!(slow_seen.borrow().len(), 1);
        group.resolved(0, vec![new, new]);
        assert_eq!(client.text().await.unwrap(), "new");
        assert_eq!(text_of(under_way.into_body()).await.unwrap(), "begunend", "it ends undisturbed");
        let start = monotonic();
        while closed.get() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(start.elapsed() < Duration::from_secs(3), "before it would have been idle for too long");
        assert!(slow_seen.borrow().len() == 1);
        group.resolved(0, Vec::new());
        assert_eq!(client.text().await.unwrap(), "new", "no answer, the last one stays");
    });
}

#[test]
fn an_answer_of_hundreds_of_addresses_is_bounded_and_health_stays_with_its_server() {
    on_a_worker(async {
        let client = Client::with(named());
        let group = &client.group.shared;
        let addr = |n: u16| SocketAddr::from(([10, 0, (n / 250) as u8, (n % 250) as u8], 80));
        group.resolved(0, (0..500).rev().map(addr).collect());
        assert_eq!(group.servers().len(), 64);
        (0..2).for_each(|_| group.servers()[3].checked(false));
        group.resolved(0, (0..10).map(addr).collect());
        let servers = group.servers();
        let unhealthy: Vec<_> = servers.iter().filter(|s| !s.is_healthy()).map(|s| s.addr).collect();
        assert_eq!((servers.len(), unhealthy), (10, vec![addr(3)]));
    });
}

#[test]
fn retries_keep_to_their_budget() {
    on_a_worker(async {
        let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let mut two = ejecting(&[nobody, other], 0, 1000);
        two.retries = 1;
        let client = Client::with(two);
        for _ in 0..200 {
            let answer = client.ask(Method::GET, &[], Full::default()).await;
            assert!(matches!(answer, Err(ForwardError::Unreachable(Some(_)))));
        }
        let tries: u32 = client.group.shared.servers().iter().map(|s| s.standing.failures_in_a_row()).sum();
        // A fifth, ten at first, and three a second of a test that takes at most twenty.
        assert!((201..=200 + 40 + 10 + 60).contains(&tries), "{tries}");
    });
}
