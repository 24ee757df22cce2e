//! The server over real sockets, with a trivial handler.

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::Semaphore;

use super::framing_fault;
use super::tls::{Resumption, TlsSettings, server_config_resuming};
use super::worker::{Listeners, Live};
use super::{Handler, Limits, ListenSettings};
use crate::drain::Drain;
use crate::peer::{ListenerKind, Peer, TrustedProxies};

/// A server that ends with the test.
pub(super) struct Server {
    drain: Drain,
    live: Live,
    addr: SocketAddr,
    resumption: Resumption,
    workers: Vec<JoinHandle<()>>,
    gate: Gate,
}

/// Where requests to `/wait` stand, and what lets them go.
#[derive(Clone)]
struct Gate {
    arrived: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Server {
    pub(super) fn start(limits: Limits, tls: Option<TlsSettings>) -> Self {
        let local = Some("127.0.0.1:0".parse().unwrap());
        let settings = ListenSettings {
            https: local.filter(|_| tls.is_some()),
            http: local.filter(|_| tls.is_none()),
            trusted_proxies: TrustedProxies::default(),
        };
        let resumption = Resumption::new().unwrap();
        let tls = tls.map(|settings| server_config_resuming(settings, &resumption).unwrap());
        let gate = Gate { arrived: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) };
        let drain = Drain::new();
        let listeners = Listeners::bind(&settings, tls, limits, drain.clone()).unwrap();
        let (live, addr) = (listeners.live(), listeners.addresses()[0].1);
        let scene = Scene { gate: gate.clone() };
        let workers = listeners.serve(move || scene.clone()).unwrap();
        Self { drain, live, addr, resumption, workers, gate }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn swap(&self, settings: TlsSettings) {
        let config = server_config_resuming(settings, &self.resumption).unwrap();
        self.live.tls.as_ref().unwrap().store(Arc::new(config));
    }

    /// A connection on which `bytes` were sent.
    fn send(&self, bytes: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        stream
    }

    /// Everything that comes back for `bytes` until the server closes.
    fn ask(&self, bytes: &str) -> String {
        rest(self.send(bytes))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.gate.open.add_permits(100);
        self.drain.start();
        self.workers.drain(..).for_each(|worker| worker.join().unwrap());
    }
}

fn rest(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    String::from_utf8(all).unwrap()
}

/// Reads until `end` has come.
fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut all = Vec::new();
    let mut byte = [0];
    while !all.ends_with(end.as_bytes()) {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed after {:?}", String::from_utf8_lossy(&all));
        all.push(byte[0]);
    }
    String::from_utf8(all).unwrap()
}

#[derive(Clone)]
struct Scene {
    gate: Gate,
}

impl Handler for Scene {
    type Body = Answer;

    async fn handle(&self, request: Request<Incoming>, peer: Rc<Peer>) -> Response<Answer> {
        let (parts, body) = request.into_parts();
        if let Some(fault) = framing_fault(&parts) {
            let mut response = status(StatusCode::BAD_REQUEST);
            *response.body_mut() = fault.into();
            return response;
        }
        let mut request = Request::from_parts(parts, body);
        match request.uri().path() {
            "/panic" => panic!("as asked"),
            "/wait" => {
                self.gate.arrived.add_permits(1);
                self.gate.open.acquire().await.unwrap().forget();
                Response::new("waited".into())
            }
            "/echo" => match request.into_body().collect().await {
                Ok(body) => Response::new(body.to_bytes().into()),
                Err(_) => status(StatusCode::BAD_REQUEST),
            },
            "/endless" => Response::new(Answer::Endless),
            "/upgrade" => {
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::task::spawn_local(async move {
                    let mut io = TokioIo::new(upgrade.await.unwrap());
                    let (mut from, mut to) = tokio::io::split(&mut io);
                    tokio::io::copy(&mut from, &mut to).await.unwrap();
                });
                let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
                response.headers_mut().insert("connection", "upgrade".parse().unwrap());
                response
            }
            _ => {
                let https = peer.listener == ListenerKind::Https;
                Response::new(format!("{:?} {https}", request.version()).into())
            }
        }
    }

    fn panicked(&self) -> Response<Answer> {
        status(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// A whole answer, or one without end.
enum Answer {
    Whole(Full<Bytes>),
    Endless,
}

/// Bytes of endless answers so far.
static PRODUCED: AtomicUsize = AtomicUsize::new(0);

impl<B: Into<Bytes>> From<B> for Answer {
    fn from(bytes: B) -> Self {
        Self::Whole(Full::new(bytes.into()))
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body).poll_frame(cx),
            Self::Endless => {
                let piece = Bytes::from_static(&[b'x'; 16 * 1024]);
                PRODUCED.fetch_add(piece.len(), Relaxed);
                Poll::Ready((PRODUCED.load(Relaxed) < 256 * 1024 * 1024).then(|| Ok(Frame::data(piece))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(body) if body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Endless => SizeHint::default(),
        }
    }
}

fn status(status: StatusCode) -> Response<Answer> {
    let mut response = Response::new(Bytes::new().into());
    *response.status_mut() = status;
    response
}

fn limits() -> Limits {
    Limits { drain_timeout: Duration::from_secs(5), ..Limits::default() }
}

const SHORT: Duration = Duration::from_millis(300);
const CLOSE: &str = "Host: a\r\nConnection: close\r\n\r\n";

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
    let answered = || {
        let mut stream = TcpStream::connect(server.addr()).unwrap();
        let sent = stream.write_all(format!("GET / HTTP/1.1\r\n{CLOSE}").as_bytes());
        let mut all = String::new();
        sent.is_ok() && stream.read_to_string(&mut all).is_ok() && all.starts_with("HTTP/1.1 200 ")
    };
    assert!((0..1000).any(|_| answered()));
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
    let listeners = Listeners::single("127.0.0.1:0".parse().unwrap(), limits(), drain.clone()).unwrap();
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
