//! What goes out: bodies, their framing, waits, and what is never sent twice.

use super::*;
use crate::body::Full;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn a_known_length_is_kept_and_small_bodies_come_with_the_head() {
    on_a_worker(async {
        let (addr, _) = server(|mut conn, _| async move {
            let mut first = vec![0; 4096];
            let n = conn.stream.read(&mut first).await.unwrap();
            let text = String::from_utf8(first[..n].to_vec()).unwrap();
            assert!(text.contains("content-length: 5\r\n") && text.ends_with("\r\n\r\nhello"), "{text}");
            conn.send(OK).await;
        })
        .await;
        let answer = Client::of(addr).ask(Method::POST, &[], Full::new("hello")).await.unwrap();
        assert_eq!(text_of(answer.into_body()).await.unwrap(), "ok");
    });
}

#[test]
fn an_unknown_length_is_chunked_and_trailers_pass_less_those_that_mislead() {
    on_a_worker(async {
        let (addr, _) = server(|mut conn, _| async move {
            let head = conn.head().await.unwrap();
            assert!(head.contains("transfer-encoding: chunked\r\n") && !head.contains("content-length"));
            let body = conn.until(b"0\r\n").await.unwrap() + &conn.until(b"\r\n\r\n").await.unwrap();
            assert_eq!(body, "5\r\nhello\r\n1\r\n!\r\n0\r\nx-fine: yes\r\n\r\n");
            conn.send(OK).await;
        })
        .await;
        let (sender, body) = pieces();
        sender.send(piece("hello")).unwrap();
        sender.send(piece("!")).unwrap();
        let mut trailers = HeaderMap::new();
        for name in ["x-fine", "x-webitel-user", "x_key", "content-length", "transfer-encoding", "host"] {
            trailers.insert(name, HeaderValue::from_static("yes"));
        }
        sender.send(Ok(Frame::trailers(trailers))).unwrap();
        drop(sender);
        let answer = Client::of(addr).ask(Method::POST, &[], body).await.unwrap();
        assert_eq!(text_of(answer.into_body()).await.unwrap(), "ok");
    });
}

#[test]
fn an_answer_may_come_while_the_body_is_still_sent() {
    on_a_worker(async {
        let (addr, _) = server(|mut conn, _| async move {
            conn.head().await;
            conn.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await;
            conn.until(b"0\r\n\r\n").await.unwrap();
            conn.send(b"4\r\nthen\r\n0\r\n\r\n").await;
        })
        .await;
        let (sender, body) = pieces();
        let mut answer = Client::of(addr).ask(Method::POST, &[], body).await.unwrap().into_body();
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), "first");
        sender.send(piece("late")).unwrap();
        drop(sender);
        assert_eq!(text_of(answer).await.unwrap(), "then");
    });
}

#[test]
fn an_early_answer_does_not_wait_and_what_is_left_of_the_body_follows_it() {
    on_a_worker(async {
        let (got, body_at_server) = tokio::sync::oneshot::channel();
        let got = Rc::new(RefCell::new(Some(got)));
        let (addr, _) = server(move |mut conn, _| {
            let got = got.clone();
            async move {
                conn.head().await;
                conn.send(OK).await;
                let body = conn.until(b"0\r\n\r\n").await.unwrap();
                got.borrow_mut().take().unwrap().send(body).unwrap();
            }
        })
        .await;
        let (sender, body) = pieces();
        let answer = Client::of(addr).ask(Method::POST, &[], body).await.unwrap();
        assert_eq!(text_of(answer.into_body()).await.unwrap(), "ok");
        sender.send(piece("late")).unwrap();
        drop(sender);
        assert_eq!(body_at_server.await.unwrap(), "4\r\nlate\r\n0\r\n\r\n");
    });
}

#[test]
fn a_server_that_closes_behind_an_early_answer_ends_the_upload() {
    on_a_worker(async {
        let (addr, _) = server(|mut conn, _| async move {
            conn.head().await;
            conn.send(OK).await;
        })
        .await;
        let (sender, body) = pieces();
        let answer = Client::of(addr).ask(Method::POST, &[], body).await.unwrap();
        assert_eq!(text_of(answer.into_body()).await.unwrap(), "ok");
        sender.closed().await;
    });
}

#[test]
fn a_body_that_is_expected_waits_for_the_100() {
    on_a_worker(async {
        let (addr, seen) = server(|mut conn, _| async move {
            conn.head().await;
            assert!(conn.buf.is_empty(), "no byte before the 100");
            conn.send(b"HTTP/1.1 100 Continue\r\n\r\n").await;
            conn.until(b"0\r\n\r\n").await.unwrap();
            conn.send(OK).await;
        })
        .await;
        let (sender, body) = pieces();
        sender.send(piece("hello")).unwrap();
        drop(sender);
        let answer = Client::of(addr).ask(Method::POST, &[("expect", "100-continue")], body).await.unwrap();
        assert_eq!(text_of(answer.into_body()).await.unwrap(), "ok");
        assert!(seen.borrow()[0].contains("expect: 100-continue\r\n"));
    });
}

#[test]
fn a_final_answer_in_place_of_the_100_is_passed_on_without_the_body() {
    on_a_worker(async {
        let (addr, _) = answering("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 3\r\n\r\nno.").await;
        let (sender, body) = pieces();
        sender.send(piece("never")).unwrap();
        let answer = Client::of(addr).ask(Method::POST, &[("expect", "100-continue")], body).await.unwrap();
        assert_eq!(answer.status(), 417);
        assert!(sender.is_closed(), "the body was let go of unread");
    });
}

#[test]
fn without_any_answer_the_body_is_sent_after_a_second() {
    on_a_worker(async {
        let (addr, _) = server(|mut conn, _| async move {
            conn.head().await;
            conn.until(b"0\r\n\r\n").await.unwrap();
            conn.send(OK).await;
        })
        .await;
        let (sender, body) = pieces();
        sender.send(piece("hello")).unwrap();
        drop(sender);
        let answer = Client::of(addr).ask(Method::POST, &[("expect", "100-continue")], body).await.unwrap();
        assert_eq!(answer.status(), 200);
    });
}

#[test]
fn a_client_that_stops_sending_is_told_so_and_the_server_gets_no_end() {
    on_a_worker(async {
        let (ended, mut ends) = mpsc::unbounded_channel();
        let (addr, _) = server(move |mut conn, _| {
            let ended = ended.clone();
            async move {
                conn.head().await;
                ended.send(conn.until(b"0\r\n\r\n").await).unwrap();
            }
        })
        .await;
        let client = Client::of(addr);
        let (_silent, body) = pieces();
        let result = client.ask(Method::POST, &[], body).await;
        assert!(matches!(result, Err(ForwardError::RequestBodyTimeout)));
        let (sender, body) = pieces();
        sender.send(piece("hello")).unwrap();
        sender.send(Err(())).unwrap();
        assert!(matches!(client.ask(Method::POST, &[], body).await, Err(ForwardError::RequestBody)));
        assert_eq!(ends.recv().await, Some(None));
    });
}

#[test]
fn no_head_in_time_is_a_timeout() {
    on_a_worker(async {
        let (addr, _) = server(|mut conn, _| async move { while conn.head().await.is_some() {} }).await;
        assert!(matches!(Client::of(addr).get().await, Err(ForwardError::Timeout)));
    });
}

#[test]
fn a_large_body_reaches_a_slow_reader_whole() {
    on_a_worker(async {
        let whole = Bytes::from("0123456789abcdef".repeat(1 << 17));
        let (length, expected) = (whole.len(), whole.clone());
        let (addr, _) = server(move |mut conn, _| {
            let expected = expected.clone();
            async move {
                conn.head().await;
                tokio::time::sleep(Duration::from_millis(200)).await;
                while conn.buf.len() < length {
                    assert!(conn.stream.read_buf(&mut conn.buf).await.unwrap() > 0);
                }
                assert!(conn.buf == expected);
                conn.buf.clear();
                conn.send(OK).await;
                if conn.head().await.is_some() {
                    conn.send(OK).await;
                }
            }
        })
        .await;
        let client = Client::of(addr);
        let answer = client.ask(Method::PUT, &[], Full::new(whole)).await.unwrap();
        assert_eq!(text_of(answer.into_body()).await.unwrap(), "ok");
        assert_eq!(client.text().await.unwrap(), "ok");
    });
}
