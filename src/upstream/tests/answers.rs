//! What comes back, whole, broken or cut.

use super::*;
use crate::body::Full;
use crate::clock::UnixMillis;
use crate::identity::{RoleName, UserName};
use crate::secret::{KeyHash, TokenHash};
use crate::session::{Session, SessionRecord};
use tokio::sync::Notify;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn a_small_answer_is_one_piece_and_leaves_its_connection() {
    on_a_worker(async {
        let (addr, seen) = server(|mut conn, n| async move {
            while conn.head().await.is_some() {
                conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nconn{n}").as_bytes()).await;
            }
        })
        .await;
        let client = Client::of(addr);
        for _ in 0..3 {
            let answer = client.get().await.unwrap();
            assert_eq!(answer.headers()["content-length"], "5");
            assert_eq!(answer.body().size_hint().exact(), Some(5));
            assert_eq!(text_of(answer.into_body()).await.unwrap(), "conn0");
        }
        let head = seen.borrow()[0].clone();
        assert!(head.starts_with("GET /p?q=1 HTTP/1.1\r\nhost: api.test\r\n"), "{head}");
        assert!(!head.contains("content-length") && !head.contains("connection"), "{head}");
    });
}

#[test]
fn a_broken_head_is_no_answer() {
    on_a_worker(async {
        let flood = "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n".repeat(1500) + OK;
        let huge = format!("HTTP/1.1 200 OK\r\nX-Huge: {}\r\n\r\nok", "h".repeat(100_000));
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 30\r\n\r\nokPOISON",
            "HTTP/1.1 200 OK\r\nX-Bad: a\rSet-Cookie: POISON=1\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nX-Bad: a\0b\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nX-Fold: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok",
            "\x16\x03\x01 this is no HTTP\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nTUNNEL",
            &flood,
            &huge,
        ] {
            let (addr, _) = answering(answer).await;
            let result = Client::of(addr).get().await;
            assert!(matches!(result, Err(ForwardError::Broken(_))), "{:.60}", answer);
        }
    });
}

#[test]
fn a_server_that_closes_before_the_head_is_broken() {
    on_a_worker(async {
        for part in ["", "HTTP/1.1 200 OK\r\nContent-Le"] {
            let (addr, seen) = server(move |mut conn, _| async move {
                conn.head().await;
                conn.send(part.as_bytes()).await;
            })
            .await;
            let mut settings = settings(&[addr]);
            settings.retries = 3;
            assert!(matches!(Client::with(settings).get().await, Err(ForwardError::Broken(_))));
            assert_eq!(seen.borrow().len(), 1, "it may have been processed: never sent again");
        }
    });
}

#[test]
fn a_cut_body_is_seen_as_cut() {
    on_a_worker(async {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nxxx",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nPOISON\r\n0\r\n\r\n",
        ] {
            let (addr, _) = server(move |mut conn, _| async move {
                conn.head().await;
                conn.send(answer.as_bytes()).await;
            })
            .await;
            let answer = Client::of(addr).get().await.unwrap();
            assert!(text_of(answer.into_body()).await.is_err());
        }
    });
}

#[test]
fn what_follows_an_answer_is_never_another_answer() {
    on_a_worker(async {
        let poison = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON";
        for (first, method) in [
            (OK, Method::GET),
            ("HTTP/1.1 204 No Content\r\n\r\n", Method::GET),
            ("HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n", Method::GET),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Method::GET),
            ("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n", Method::HEAD),
        ] {
            for late in [false, true] {
                let told = Rc::new(Notify::new());
                let tell = told.clone();
                let (addr, _) = server(move |mut conn, n| {
                    let tell = tell.clone();
                    async move {
                        while conn.head().await.is_some() {
                            if n > 0 {
                                conn.send(OK.as_bytes()).await;
                                continue;
                            }
                            conn.send(first.as_bytes()).await;
                            if late {
                                // Time for the answer to be read by itself.
                                tokio::time::sleep(Duration::from_millis(20)).await;
                            }
                            conn.send(poison.as_bytes()).await;
                            tell.notify_one();
                        }
                    }
                })
                .await;
                let client = Client::of(addr);
                let answer = client.ask(method.clone(), &[], Full::default()).await.unwrap();
                let text = text_of(answer.into_body()).await.unwrap();
                assert!(!text.contains("POISON"), "{first}");
                // A connection that was closed at once takes no late bytes: then there is nothing to wait for.
                let _ = tokio::time::timeout(Duration::from_secs(1), told.notified()).await;
                assert_eq!(client.text().await.unwrap(), "ok", "{first}");
            }
        }
    });
}

#[test]
fn bodies_end_where_their_framing_says() {
    on_a_worker(async {
        let (addr, _) = server(|mut conn, _| async move {
            conn.head().await;
            conn.send(b"HTTP/1.1 200 OK\r\n\r\nall of it").await;
        })
        .await;
        assert_eq!(Client::of(addr).text().await.unwrap(), "all of it");
        let chunked = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
            5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nX-Up: yes\r\nContent-Length: 3\r\nX-Postern-Scope: own\r\n\r\n";
        let (addr, _) = answering(chunked).await;
        let client = Client::of(addr);
        for _ in 0..2 {
            let whole = client.get().await.unwrap().into_body().collect().await.unwrap();
            let trailers = whole.trailers().unwrap().clone();
            assert_eq!((trailers.len(), trailers["x-up"].as_bytes()), (1, &b"yes"[..]));
            assert_eq!(whole.to_bytes(), "hello world");
        }
    });
}

#[test]
fn a_long_answer_comes_whole() {
    on_a_worker(async {
        let body = "0123456789abcdef".repeat(1 << 16);
        let (addr, _) =
            answering(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        let client = Client::of(addr);
        for _ in 0..2 {
            assert!(client.text().await.unwrap() == body);
        }
    });
}

#[test]
fn a_server_that_does_not_keep_the_connection_is_believed() {
    on_a_worker(async {
        for field in ["Connection: close", "Keep-Alive: timeout=1"] {
            let (addr, _) = server(move |mut conn, n| async move {
                while conn.head().await.is_some() {
                    let answer = format!("HTTP/1.1 200 OK\r\n{field}\r\nContent-Length: 1\r\n\r\n{n}");
                    conn.send(answer.as_bytes()).await;
                }
            })
            .await;
            let client = Client::of(addr);
            assert_eq!((client.text().await, client.text().await), (Ok("0".into()), Ok("1".into())));
        }
    });
}

#[test]
fn a_stream_ends_with_its_session() {
    on_a_worker(async {
        let (addr, _) = server(|mut conn, _| async move {
            conn.head().await;
            conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
            conn.head().await;
        })
        .await;
        let session = Arc::new(Session::new(SessionRecord {
            id: KeyHash::of("k"),
            token: TokenHash::of("t"),
            user: UserName::new("u"),
            role: RoleName::new("r"),
            created: UnixMillis(0),
            expires: UnixMillis(u64::MAX),
            client: [127, 0, 0, 1].into(),
            last_used: UnixMillis(0),
            adopted: None,
        }));
        let mut client = Client::of(addr);
        client.principal = Some(Principal::Session(session.clone()));
        let mut body = client.get().await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
        session.mark_ended();
        let ended = tokio::time::timeout(Duration::from_secs(1), body.frame()).await.expect("in time");
        assert!(matches!(ended, Some(Err(UpstreamBodyError::SessionOver))));
    });
}
