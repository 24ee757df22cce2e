//! Which server is asked, over which connection, and other protocols than plain HTTP/1.1.

use super::*;
use crate::body::Full;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::convert::Infallible;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

#[test]
fn another_server_is_tried_while_nothing_was_sent() {
    on_a_worker(async {
        let (dead, (live, _)) = (nobody().await, answering(OK).await);
        let mut two = settings(&[dead, live]);
        two.retries = 1;
        let client = Client::with(two);
        for _ in 0..4 {
            assert_eq!(client.text().await.unwrap(), "ok");
        }
        let alone = Client::of(dead).get().await;
        assert!(matches!(alone, Err(ForwardError::Unreachable(Some(_)))));
    });
}

#[test]
fn a_connection_that_died_while_idle_is_not_used() {
    on_a_worker(async {
        let (addr, _) = server(|mut conn, _| async move {
            conn.head().await;
            conn.send(OK).await;
        })
        .await;
        let client = Client::of(addr);
        for _ in 0..5 {
            assert_eq!(client.text().await.unwrap(), "ok");
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn past_max_connections_the_upstream_is_busy_and_a_freed_one_serves() {
    on_a_worker(async {
        let (addr, _) = server(|mut conn, _| async move {
            conn.head().await;
            conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok").await;
            conn.head().await;
        })
        .await;
        let mut one = settings(&[addr]);
        (one.name, one.max_connections) = ("one".into(), 1);
        let client = Client::with(one);
        let held = client.get().await.unwrap();
        assert!(matches!(client.get().await, Err(ForwardError::Busy)));
        drop(held);
        assert!(client.get().await.is_ok());
    });
}

#[test]
fn round_robin_takes_turns_and_least_request_avoids_the_busy() {
    on_a_worker(async {
        let slow: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n";
        let ((a, at_a), (b, at_b)) = (answering(OK).await, answering(OK).await);
        let client = Client::with(settings(&[a, b]));
        for _ in 0..6 {
            client.text().await.unwrap();
        }
        assert_eq!((at_a.borrow().len(), at_b.borrow().len()), (3, 3));
        let ((a, at_a), (b, at_b)) = (answering(slow).await, answering(OK).await);
        let mut least = settings(&[a, b]);
        least.balance = Balance::LeastRequest;
        let client = Client::with(least);
        let mut held = Vec::new();
        for _ in 0..10 {
            held.push(client.get().await.unwrap());
        }
        assert_eq!((at_a.borrow().len(), at_b.borrow().len()), (1, 9));
    });
}

#[test]
fn an_unhealthy_server_is_left_out_and_none_healthy_is_busy() {
    on_a_worker(async {
        let (addr, _) = answering("HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n").await;
        let mut checked = settings(&[addr]);
        checked.health = Some(HealthSettings { path: "/".into(), interval: Duration::from_millis(10) });
        let client = Client::with(checked);
        while !matches!(client.get().await, Err(ForwardError::Busy)) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[test]
fn a_name_is_resolved() {
    on_a_worker(async {
        let (addr, _) = answering(OK).await;
        let mut named = settings(&[addr]);
        named.servers[0].host = "localhost".into();
        named.retries = 1;
        assert_eq!(Client::with(named).text().await.unwrap(), "ok");
    });
}

#[test]
fn an_https_server_is_verified_by_its_name() {
    on_a_worker(async {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let (addr, _) = server(move |conn, _| {
            let acceptor = acceptor.clone();
            async move {
                let Ok(mut tls) = acceptor.accept(conn.stream).await else { return };
                let mut buf = [0; 4096];
                while tls.read(&mut buf).await.unwrap_or(0) > 0 {
                    tls.write_all(OK).await.unwrap();
                    tls.flush().await.unwrap();
                }
            }
        })
        .await;
        let mut https = settings(&[addr]);
        https.servers[0].scheme = Scheme::Https;
        https.ca = Some(vec![made.cert.der().clone()]);
        let client = Client::with(https.clone());
        for _ in 0..3 {
            assert_eq!(client.text().await.unwrap(), "ok");
        }
        https.servers[0].host = "localhost".into();
        https.retries = 1;
        assert!(matches!(Client::with(https).get().await, Err(ForwardError::Unreachable(_))));
    });
}

#[test]
fn an_h2c_server_gets_trailers_and_gives_them() {
    on_a_worker(async {
        let (addr, _) = server(|conn, _| async move {
            let service = service_fn(async |request: Request<Incoming>| {
                assert_eq!(request.uri().authority().unwrap(), "api.test");
                let whole = request.into_body().collect().await.unwrap();
                let mut trailers = whole.trailers().unwrap().clone();
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                let data = Frame::data(whole.to_bytes());
                let (sender, body) = pieces();
                sender.send(Ok(data)).unwrap();
                sender.send(Ok(Frame::trailers(trailers))).unwrap();
                Ok::<_, Infallible>(Response::new(BodyExt::map_err(body, |()| std::io::Error::other("x"))))
            });
            let executor = super::super::h2c::LocalExecutor;
            let _ = hyper::server::conn::http2::Builder::new(executor)
                .serve_connection(TokioIo::new(conn.stream), service)
                .await;
        })
        .await;
        let mut h2c = settings(&[addr]);
        h2c.servers[0].scheme = Scheme::H2c;
        let client = Client::with(h2c);
        for _ in 0..2 {
            let (sender, body) = pieces();
            sender.send(piece("hello")).unwrap();
            let mut trailers = HeaderMap::new();
            trailers.insert("x-fine", HeaderValue::from_static("yes"));
            trailers.insert("x-webitel-user", HeaderValue::from_static("evil"));
            sender.send(Ok(Frame::trailers(trailers))).unwrap();
            drop(sender);
            let answer = client.ask(Method::POST, &[], body).await.unwrap();
            let whole = answer.into_body().collect().await.unwrap();
            let trailers = whole.trailers().unwrap();
            assert_eq!((trailers.len(), trailers["grpc-status"].as_bytes()), (2, &b"0"[..]));
            assert_eq!(whole.to_bytes(), "hello");
        }
    });
}

/// A gateway in small: hyper in front, the upstream behind.
pub(super) async fn front(client: Client) -> SocketAddr {
    let client = Rc::new(client);
    let (addr, _) = server(move |conn, _| {
        let client = client.clone();
        async move {
            let service = service_fn(|mut request: Request<Incoming>| {
                let client = client.clone();
                async move {
                    let asked = headers::upgrade_asked(request.method(), request.headers()).is_some();
                    let on = asked.then(|| hyper::upgrade::on(&mut request));
                    let (parts, body) = request.into_parts();
                    client.ask_with(&parts.method, &parts.headers, body, on).await
                }
            });
            let io = TokioIo::new(conn.stream);
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(io, service)
                .with_upgrades()
                .await;
        }
    })
    .await;
    addr
}

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: rawecho\r\n\r\nearly";

#[test]
fn an_upgrade_loses_no_byte_of_either_side() {
    on_a_worker(async {
        let (addr, seen) = server(|mut conn, _| async move {
            conn.head().await;
            assert!(conn.buf.is_empty(), "no byte of the client before the 101");
            conn.send(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: rawecho\r\nConnection: Upgrade\r\n\r\nhi",
            )
            .await;
            let mut text = Vec::new();
            conn.stream.read_to_end(&mut text).await.unwrap();
            conn.send(&text).await;
            conn.send(b"BYE").await;
        })
        .await;
        let mut stream = TcpStream::connect(front(Client::of(addr)).await).await.unwrap();
        stream.write_all(UPGRADE).await.unwrap();
        let mut buf = Vec::new();
        while !buf.ends_with(b"\r\n\r\nhi") {
            assert!(stream.read_buf(&mut buf).await.unwrap() > 0, "{:?}", String::from_utf8_lossy(&buf));
        }
        let head = String::from_utf8(buf).unwrap().to_lowercase();
        assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: rawecho"), "{head}");
        stream.write_all(b" late").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "early lateBYE");
        assert!(seen.borrow()[0].contains("connection: upgrade\r\nupgrade: rawecho\r\n"));
    });
}

#[test]
fn a_refused_upgrade_is_an_ordinary_answer_and_nothing_follows_it() {
    on_a_worker(async {
        let (addr, seen) = answering("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno").await;
        let mut stream = TcpStream::connect(front(Client::of(addr)).await).await.unwrap();
        stream.write_all(UPGRADE).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.starts_with("HTTP/1.1 403") && text.contains("\r\n\r\nno"), "{text}");
        assert_eq!(seen.borrow().len(), 1);
        assert!(!seen.borrow()[0].contains("early"));
    });
}

#[test]
fn a_switch_to_another_protocol_is_no_answer() {
    on_a_worker(async {
        for fields in ["Upgrade: other\r\nConnection: Upgrade\r\n", "Connection: Upgrade\r\n", ""] {
            let answer = format!("HTTP/1.1 101 Switching Protocols\r\n{fields}\r\nTUNNEL");
            let (addr, _) = answering(answer).await;
            let mut stream = TcpStream::connect(front(Client::of(addr)).await).await.unwrap();
            stream.write_all(UPGRADE).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            assert!(!text.contains("101") && !text.contains("TUNNEL"), "{text}");
        }
    });
}

#[test]
fn trailers_reach_an_http_1_client() {
    on_a_worker(async {
        let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Grpc-Status\r\n\r\n\
                      5\r\nhello\r\n0\r\nGrpc-Status: 0\r\nTrailer: x\r\n\r\n";
        let (addr, _) = answering(answer).await;
        let mut stream = TcpStream::connect(front(Client::of(addr)).await).await.unwrap();
        let ask = b"GET / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nConnection: te, close\r\n\r\n";
        stream.write_all(ask).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        assert!(text.ends_with("\r\n0\r\ngrpc-status: 0\r\n\r\n"), "{text}");
    });
}

#[test]
fn a_connection_rests_after_no_content_but_where_some_was_declared() {
    on_a_worker(async {
        for (answer, method, connections) in [
            ("HTTP/1.1 204 No Content\r\n\r\n", Method::GET, 1),
            ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Method::HEAD, 1),
            ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", Method::HEAD, 2),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Method::HEAD, 2),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n", Method::GET, 2),
        ] {
            let opened = Rc::new(std::cell::Cell::new(0));
            let count = opened.clone();
            let (addr, _) = server(move |mut conn, n| {
                count.set(n + 1);
                async move {
                    while conn.head().await.is_some() {
                        conn.send(answer.as_bytes()).await;
                    }
                }
            })
            .await;
            let client = Client::of(addr);
            for _ in 0..2 {
                client.ask(method.clone(), &[], Full::default()).await.unwrap();
            }
            assert_eq!(opened.get(), connections, "{method} {answer:?}");
        }
    });
}

#[test]
fn a_head_and_a_304_pass_with_their_fields() {
    on_a_worker(async {
        let (addr, _) = answering("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n").await;
        let answer = Client::of(addr).ask(Method::HEAD, &[], Full::default()).await.unwrap();
        assert_eq!(answer.headers()["content-length"], "12345");
        assert!(answer.body().is_end_stream());
    });
}
