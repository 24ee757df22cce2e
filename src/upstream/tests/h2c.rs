//! Servers of HTTP/2 without TLS: how requests share connections.

use super::*;
use crate::body::Full;
use crate::clock::monotonic;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::cell::Cell;
use std::convert::Infallible;
use tokio::sync::watch;

/// A server that takes 100 requests at once on a connection and answers none before `open` says so.
struct Holding {
    addr: SocketAddr,
    connections: Rc<Cell<usize>>,
    came: Rc<Cell<usize>>,
    open: Rc<watch::Sender<bool>>,
    listening: tokio::task::JoinHandle<()>,
}

async fn holding() -> Holding {
    let (connections, came) = (Rc::<Cell<usize>>::default(), Rc::<Cell<usize>>::default());
    let open = Rc::new(watch::Sender::new(false));
    let (counted, seen, gate) = (connections.clone(), came.clone(), open.clone());
    let (addr, _, listening) = listening(move |conn, n| {
        counted.set(n + 1);
        let (seen, gate) = (seen.clone(), gate.clone());
        async move {
            let service = service_fn(move |_: Request<Incoming>| {
                seen.set(seen.get() + 1);
                let mut open = gate.subscribe();
                async move {
                    let _ = open.wait_for(|open| *open).await;
                    Ok::<_, Infallible>(Response::new(Full::new("ok")))
                }
            });
            let _ = hyper::server::conn::http2::Builder::new(super::super::h2c::LocalExecutor)
                .max_concurrent_streams(100)
                .serve_connection(TokioIo::new(conn.stream), service)
                .await;
        }
    })
    .await;
    Holding { addr, connections, came, open, listening }
}

fn client(addr: SocketAddr, max_connections: usize) -> Rc<Client> {
    let url = ServerUrl { scheme: Scheme::H2c, host: addr.ip().to_string(), port: addr.port() };
    let mut settings = UpstreamSettings { servers: vec![url], max_connections, ..settings(&[addr]) };
    settings.response_timeout = Duration::from_secs(10);
    Rc::new(Client::with(settings))
}

async fn come(holding: &Holding, count: usize) {
    while holding.came.get() < count {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn what_one_connection_does_not_take_goes_over_another() {
    on_a_worker(async {
        let server = holding().await;
        let client = client(server.addr, 1024);
        let ask = |client: Rc<Client>| tokio::task::spawn_local(async move { client.text().await });
        // The first opens a connection; the others find it.
        let mut asked = vec![ask(client.clone())];
        come(&server, 1).await;
        asked.extend((0..249).map(|_| ask(client.clone())));
        come(&server, 250).await;
        let opened = server.connections.get();
        assert!(opened >= 3, "{opened}");
        server.open.send_replace(true);
        for answer in asked {
            assert_eq!(answer.await.unwrap().unwrap(), "ok");
        }
        assert_eq!(client.text().await.unwrap(), "ok");
        assert_eq!(server.connections.get(), opened, "they are used again");
        let lanes = client.group.lanes();
        let (now, minute) = (monotonic(), Duration::from_secs(60));
        assert_eq!(lanes[0].h2c.sweep(now, minute), opened);
        assert_eq!(lanes[0].h2c.sweep(now + minute, minute), 0, "idle ones end");
    });
}

#[test]
fn where_no_connection_may_be_added_requests_wait_their_turn() {
    on_a_worker(async {
        let server = holding().await;
        let client = client(server.addr, 1);
        let ask = || {
            let client = client.clone();
            tokio::task::spawn_local(async move { client.text().await })
        };
        let mut asked = vec![ask()];
        come(&server, 1).await;
        asked.extend((0..149).map(|_| ask()));
        come(&server, 100).await;
        server.open.send_replace(true);
        for answer in asked {
            assert_eq!(answer.await.unwrap().unwrap(), "ok");
        }
        assert_eq!(server.connections.get(), 1);
    });
}

/// A further connection is a convenience: the server serves over the one that is open.
#[test]
fn a_further_connection_that_cannot_be_had_costs_nothing() {
    on_a_worker(async {
        let server = holding().await;
        let client = client(server.addr, 1024);
        let ask = || {
            let client = client.clone();
            tokio::task::spawn_local(async move { client.text().await })
        };
        let mut asked = vec![ask()];
        come(&server, 1).await;
        server.listening.abort();
        asked.extend((0..149).map(|_| ask()));
        come(&server, 100).await;
        server.open.send_replace(true);
        for answer in asked {
            assert_eq!(answer.await.unwrap().unwrap(), "ok");
        }
        assert!(!client.group.lanes()[0].is_shunned(monotonic()));
    });
}

#[test]
fn no_more_wait_for_a_connection_than_may() {
    on_a_worker(async {
        // Accepts nothing once its queue is full: what is to be connected waits.
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let addr = socket.local_addr().unwrap().as_socket().unwrap();
        let _first = TcpStream::connect(addr).await.unwrap();
        let mut one = settings(&[addr]);
        one.servers[0].scheme = Scheme::H2c;
        (one.name, one.max_connections, one.max_pending) = ("waiting".into(), 1, 2);
        (one.connect_timeout, one.retries) = (Duration::from_millis(300), 0);
        let client = Rc::new(Client::with(one));
        let asked: Vec<_> = (0..10)
            .map(|_| {
                let client = client.clone();
                tokio::task::spawn_local(async move { client.get().await.map(drop) })
            })
            .collect();
        let mut answers = Vec::new();
        for answer in asked {
            answers.push(answer.await.unwrap());
        }
        let busy = answers.iter().filter(|answer| matches!(answer, Err(ForwardError::Busy))).count();
        assert_eq!(busy, 7, "one opens, two wait: {answers:?}");
    });
}
