//! The server over real sockets: limits, ends, drains, and what is no good HTTP.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Semaphore;

use super::Limits;
use super::scene::{CLOSE, Gate, PRODUCED, SHORT, Scene, Server, limits, rest, until};
use super::worker::Listeners;
use crate::drain::Drain;

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(limits(), None);
    let answers = server.ask(&format!(
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcPOST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\ndef\r\n0\r\n\r\nGET / HTTP/1.1\r\n{CLOSE}"
    ));
    let (abc, def) = (answers.find("\r\n\r\nabcHTTP").unwrap(), answers.find("\r\n\r\ndefHTTP").unwrap());
    assert!(abc < def && answers.ends_with("HTTP/1.1 false"), "{answers}");
}

/// One answer to `head`, with 400, and nothing to what stands behind it.
fn refused(server: &Server, head: &str) -> String {
    let answers = server.ask(&format!("{head}GET /behind HTTP/1.1\r\nHost: a\r\n\r\n"));
    let bad = answers.starts_with("HTTP/1.1 400 ") || answers.starts_with("HTTP/1.0 400 ");
    assert!(bad && answers.matches("HTTP/1.").count() == 1, "{head:?}: {answers}");
    answers
}

#[test]
fn requests_of_an_ambiguous_length_are_refused_and_the_connection_closes() {
    let server = Server::start(limits(), None);
    for headers in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nX: y\nContent-Length: 5\n\n0\r\n\r\n",
        "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    ] {
        let answer = refused(&server, &format!("POST /echo HTTP/1.1\r\nHost: a\r\n{headers}"));
        assert!(answer.contains("connection: close"), "{headers:?}: {answer}");
        // The same behind a good request, in one packet.
        let behind = server.ask(&format!(
            "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcPOST /echo HTTP/1.1\r\nHost: a\r\n{headers}"
        ));
        assert!(behind.starts_with("HTTP/1.1 200 ") && behind.contains("abcHTTP/1.1 400 "), "{behind}");
    }
}

#[test]
fn what_hyper_cannot_parse_is_refused_in_the_form_of_the_contract() {
    let server = Server::start(limits(), None);
    for head in [
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 1\r\n\r\nx",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length : 1\r\n\r\nx",
        "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
        "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
        "not http\r\n\r\n",
    ] {
        let answer = refused(&server, head);
        assert!(answer.ends_with(r#"{"status":"error","info":"Bad request"}"#), "{head:?}: {answer}");
        assert!(
            answer.contains("x-request-id: ") && answer.contains("connection: close"),
            "{head:?}: {answer}"
        );
    }
}

#[test]
fn a_head_over_the_limit_gets_431_however_much_follows() {
    let server = Server::start(Limits { max_header_bytes: 10_000, ..limits() }, None);
    for size in [12_000, 90_000, 200_000] {
        let answer = server.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(size)));
        assert!(answer.starts_with("HTTP/1.1 431 ") && answer.contains(r#""status":"error""#), "{answer}");
    }
    let answer = server.ask(&format!("GET / HTTP/1.1\r\nX: {}\r\n{CLOSE}", "x".repeat(9_000)));
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[test]
fn a_panic_is_a_500_and_hurts_nobody_else() {
    let server = Server::start(limits(), None);
    let mut other = server.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut stream = server.send("GET /panic HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = until(&mut stream, "\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
    stream.write_all(format!("GET / HTTP/1.1\r\n{CLOSE}").as_bytes()).unwrap();
    assert!(rest(stream).starts_with("HTTP/1.1 200 "));
    server.gate.open.add_permits(1);
    until(&mut other, "waited");
}

/// The head is out, so there is no 500: the answer breaks off, and its connection with it.
#[test]
fn a_panic_in_an_answers_body_ends_that_connection_alone() {
    let server = Server::start(limits(), None);
    let mut other = server.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    for _ in 0..3 {
        let answer = server.ask("GET /panic-later HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
    }
    assert!(server.ask(&format!("GET / HTTP/1.1\r\n{CLOSE}")).starts_with("HTTP/1.1 200 "));
    server.gate.open.add_permits(1);
    until(&mut other, "waited");
}

#[test]
fn silent_and_slow_clients_are_closed() {
    let server = Server::start(Limits { header_read_timeout: SHORT, ..limits() }, None);
    assert_eq!(server.ask(""), "");
    assert_eq!(server.ask("GET / HTTP/1.1\r\nHost:"), "");
    let mut stream = server.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until(&mut stream, "false");
    stream.write_all(b"GET /").unwrap();
    assert_eq!(rest(stream), "", "a second head is timed too");
}

#[test]
fn an_idle_connection_is_closed_and_a_busy_one_is_not() {
    let server = Server::start(Limits { idle_timeout: SHORT, header_read_timeout: SHORT, ..limits() }, None);
    let busy = server.send(&format!("GET /wait HTTP/1.1\r\n{CLOSE}"));
    let mut idle = server.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until(&mut idle, "false");
    assert_eq!(rest(idle), "");
    server.gate.open.add_permits(1);
    assert!(rest(busy).ends_with("waited"));
}

#[test]
fn past_max_connections_a_connection_is_closed_at_once_until_one_ends() {
    let server = Server::start(Limits { max_connections: 1, ..limits() }, None);
    let mut first = server.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until(&mut first, "false");
    let mut refused = TcpStream::connect(server.addr()).unwrap();
    assert!(matches!(refused.read(&mut [0]), Ok(0) | Err(_)));
    drop(first);
    // The server learns of the end a moment later.
    assert!((0..1000).any(|_| server.lets_in()));
}

#[tokio::test]
async fn a_drain_finishes_what_is_in_flight_and_closes_the_rest() {
    let server = Server::start(limits(), None);
    let mut idle = server.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    until(&mut idle, "false");
    let silent = server.send("");
    let busy = server.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    server.gate.arrived.acquire().await.unwrap().forget();
    server.drain.start();
    assert_eq!((rest(idle), rest(silent)), (String::new(), String::new()));
    while TcpStream::connect(server.addr()).is_ok() {}
    server.gate.open.add_permits(1);
    let answer = rest(busy);
    assert!(answer.contains("connection: close") && answer.ends_with("waited"), "{answer}");
    server.drain.finished().await;
}

#[test]
fn a_request_sent_just_before_the_drain_is_answered() {
    for _ in 0..20 {
        let server = Server::start(limits(), None);
        let early = server.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        server.drain.start();
        let answer = rest(early);
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

#[test]
fn an_upgraded_stream_holds_the_drain_and_its_place() {
    let server = Server::start(Limits { max_connections: 1, ..limits() }, None);
    let mut stream =
        server.send("GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    until(&mut stream, "\r\n\r\n");
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(until(&mut stream, "\r\n\r\n"), "GET / HTTP/1.1\r\n\r\n");
    assert!(matches!(TcpStream::connect(server.addr()).unwrap().read(&mut [0]), Ok(0) | Err(_)));
    server.drain.start();
    while TcpStream::connect(server.addr()).is_ok() {}
    assert!(server.drain.in_flight() >= 1);
    stream.write_all(b"x").unwrap();
    until(&mut stream, "x");
}

#[test]
fn an_answer_given_before_the_body_was_sent_is_read_whole() {
    let server = Server::start(limits(), None);
    let mut stream = server.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    // The server may close in the middle of this; what counts is that the answer is not lost by it.
    let _ = stream.write_all(&[b'x'; 150_000]);
    let answer = rest(stream);
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("false"), "{answer}");
}

#[test]
fn an_answer_is_not_held_back_by_half_a_next_request() {
    let server = Server::start(limits(), None);
    let mut stream = server.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /");
    until(&mut stream, "HTTP/1.1 false");
}

#[test]
fn a_slow_reader_holds_the_answer_back() {
    let server = Server::start(limits(), None);
    let mut stream = server.send("GET /endless HTTP/1.1\r\nHost: a\r\n\r\n");
    until(&mut stream, "\r\n\r\n");
    // Nothing more is read: the body is asked for until every buffer is full, and no further.
    let mut before = usize::MAX;
    while before != PRODUCED.load(Relaxed) {
        before = PRODUCED.load(Relaxed);
        assert!(before < 64 * 1024 * 1024, "{before} bytes were buffered");
        server.send(&format!("GET / HTTP/1.1\r\n{CLOSE}")).read_to_end(&mut Vec::new()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_worker_that_panics_is_replaced() {
    let drain = Drain::new();
    let listeners =
        Listeners::single("127.0.0.1:0".parse().unwrap(), Vec::new(), limits(), drain.clone()).unwrap();
    let addr = listeners.addresses()[0].1;
    let gate = Gate { arrived: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) };
    let first = Arc::new(AtomicBool::new(true));
    let workers = listeners
        .serve(move || {
            assert!(!first.swap(false, Relaxed), "as asked");
            Scene { gate: gate.clone() }
        })
        .unwrap();
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.write_all(format!("GET / HTTP/1.1\r\n{CLOSE}").as_bytes()).unwrap();
    assert!(rest(stream).starts_with("HTTP/1.1 200 "));
    drain.start();
    workers.into_iter().for_each(|worker| worker.join().unwrap());
}

#[test]
fn expect_continue_is_answered_when_the_body_is_wanted() {
    let server = Server::start(limits(), None);
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    let mut stream = server.send(head);
    assert_eq!(until(&mut stream, "\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").unwrap();
    assert!(until(&mut stream, "abc").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_connection_in_use_is_not_idle() {
    let server = Server::start(Limits { idle_timeout: Duration::from_millis(600), ..limits() }, None);
    let mut stream = server.send("");
    for _ in 0..8 {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        until(&mut stream, "HTTP/1.1 false");
        std::thread::sleep(Duration::from_millis(150));
    }
}

#[test]
fn a_client_that_goes_away_ends_its_request() {
    let server = Server::start(limits(), None);
    let stream = server.send("GET /wait HTTP/1.1\r\nHost: a\r\n\r\n");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async { server.gate.arrived.acquire().await.unwrap().forget() });
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rest(stream), "");
    server.drain.start();
    runtime.block_on(server.drain.finished());
}
