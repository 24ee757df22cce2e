//! Connections at rest over real sockets: what is true of a connection is true of one that hyper had let go.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Limits;
use super::resting::{AFTER, RESTED};
use super::scene::{CLOSE, SHORT, Server, limits, rest, until};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// Asks for something and waits until the connection rests.
fn rested(server: &Server) -> TcpStream {
    let mut stream = server.send("");
    rest_again(&mut stream);
    stream
}

fn rest_again(stream: &mut TcpStream) {
    let before = RESTED.load(Relaxed);
    stream.write_all(GET.as_bytes()).unwrap();
    assert!(until(stream, "HTTP/1.1 false").starts_with("HTTP/1.1 200 "));
    while RESTED.load(Relaxed) == before {
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_connection_goes_on_after_a_rest() {
    let server = Server::start(limits(), None);
    let mut stream = rested(&server);
    for piece in ["G", "ET / HTTP/1.1\r\nHo", "st: a\r\n\r\n"] {
        stream.write_all(piece.as_bytes()).unwrap();
        stream.flush().unwrap();
    }
    until(&mut stream, "HTTP/1.1 false");
    rest_again(&mut stream);
    let body = "x".repeat(5000);
    let posted = format!("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n{body}");
    stream.write_all(format!("{posted}{GET}GET / HTTP/1.1\r\n{CLOSE}").as_bytes()).unwrap();
    let answers = rest(stream);
    assert_eq!(answers.matches("HTTP/1.1 200 ").count(), 3, "{answers}");
    assert!(answers.contains(&body));
}

#[test]
fn an_ambiguous_request_after_a_rest_is_refused_and_nothing_behind_it_is_read() {
    let server = Server::start(limits(), None);
    for lengths in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    ] {
        let mut stream = rested(&server);
        stream.write_all(format!("POST /echo HTTP/1.1\r\nHost: a\r\n{lengths}{GET}").as_bytes()).unwrap();
        let answers = rest(stream);
        assert!(answers.starts_with("HTTP/1.1 400 ") && answers.matches("HTTP/1.").count() == 1, "{answers}");
    }
}

#[test]
fn a_head_is_timed_after_a_rest_too() {
    let server = Server::start(Limits { header_read_timeout: SHORT, ..limits() }, None);
    let mut stream = rested(&server);
    stream.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    assert_eq!(rest(stream), "");
}

#[test]
fn a_rest_ends_with_the_idle_timeout_and_with_the_drain() {
    let server = Server::start(Limits { idle_timeout: AFTER * 2, ..limits() }, None);
    assert_eq!(rest(rested(&server)), "");
    let server = Server::start(limits(), None);
    let resting = rested(&server);
    server.drain.start();
    assert_eq!(rest(resting), "");
}

#[test]
fn a_connection_at_rest_keeps_its_place_until_its_client_goes() {
    let server = Server::start(Limits { max_connections: 1, ..limits() }, None);
    let resting = rested(&server);
    let refused = TcpStream::connect(server.addr()).unwrap().read(&mut [0]);
    assert!(matches!(refused, Ok(0) | Err(_)));
    resting.shutdown(Shutdown::Write).unwrap();
    assert_eq!(rest(resting), "");
    assert!((0..1000).any(|_| server.lets_in()));
}

#[test]
fn an_exchange_that_has_not_ended_is_not_taken_to_rest() {
    let server = Server::start(limits(), None);
    let mut upgraded =
        server.send("GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n");
    until(&mut upgraded, "\r\n\r\n");
    let waiting = server.send(&format!("GET /wait HTTP/1.1\r\n{CLOSE}"));
    // As long as another connection needs to come to rest.
    drop(rested(&server));
    upgraded.write_all(b"x").unwrap();
    until(&mut upgraded, "x");
    server.gate.open.add_permits(1);
    assert!(rest(waiting).ends_with("waited"));
}
