//! A server with a trivial handler, and a client that sends every byte as it is told: what the scenes are played with.

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
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::Semaphore;

use super::framing_fault;
use super::inherited::Inherited;
use super::tls::{Resumption, TlsSettings, server_config_resuming};
use super::worker::{Listeners, Live};
use super::{Handler, Limits, ListenSettings};
use crate::drain::Drain;
use crate::peer::{ListenerKind, Peer};

/// A server that ends with the test.
pub(super) struct Server {
    pub(super) drain: Drain,
    live: Live,
    addr: SocketAddr,
    resumption: Resumption,
    workers: Vec<JoinHandle<()>>,
    pub(super) gate: Gate,
}

/// Where requests to `/wait` stand, and what lets them go.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) arrived: Arc<Semaphore>,
    pub(super) open: Arc<Semaphore>,
}

impl Server {
    pub(super) fn start(limits: Limits, tls: Option<TlsSettings>) -> Self {
        let local = Some("127.0.0.1:0".parse().unwrap());
        let settings = ListenSettings {
            https: local.filter(|_| tls.is_some()),
            http: local.filter(|_| tls.is_none()),
            ..ListenSettings::default()
        };
        let resumption = Resumption::new().unwrap();
        let tls = tls.map(|settings| server_config_resuming(settings, &resumption).unwrap());
        let gate = Gate { arrived: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) };
        let drain = Drain::new();
        let listeners = Listeners::bind(&settings, limits, drain.clone(), Inherited::default()).unwrap();
        listeners.live().tls.store(tls.map(Arc::new));
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
        self.live.tls.store(Some(Arc::new(config)));
    }

    /// A connection on which `bytes` were sent.
    pub(super) fn send(&self, bytes: &str) -> TcpStream {
        let mut stream = TcpStream::connect(self.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(bytes.as_bytes()).unwrap();
        stream
    }

    /// Whether a new connection is let in, and answered.
    pub(super) fn lets_in(&self) -> bool {
        let mut stream = TcpStream::connect(self.addr()).unwrap();
        let sent = stream.write_all(format!("GET / HTTP/1.1\r\n{CLOSE}").as_bytes());
        let mut all = String::new();
        sent.is_ok() && stream.read_to_string(&mut all).is_ok() && all.starts_with("HTTP/1.1 200 ")
    }

    /// Everything that comes back for `bytes` until the server closes.
    pub(super) fn ask(&self, bytes: &str) -> String {
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

pub(super) fn rest(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    String::from_utf8(all).unwrap()
}

/// Reads until `end` has come.
pub(super) fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut all = Vec::new();
    let mut byte = [0];
    while !all.ends_with(end.as_bytes()) {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed after {:?}", String::from_utf8_lossy(&all));
        all.push(byte[0]);
    }
    String::from_utf8(all).unwrap()
}

#[derive(Clone)]
pub(super) struct Scene {
    pub(super) gate: Gate,
}

impl Handler for Scene {
    type Body = Answer;

    async fn handle(&self, mut request: Request<Incoming>, peer: Rc<Peer>) -> Response<Answer> {
        if let Some(fault) = framing_fault(&request) {
            let mut response = status(StatusCode::BAD_REQUEST);
            *response.body_mut() = fault.into();
            return response;
        }
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
            "/panic-later" => Response::new(Answer::Panics),
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

/// A whole answer, one without end, or one whose body cannot be made.
pub(super) enum Answer {
    Whole(Full<Bytes>),
    Endless,
    Panics,
}

/// Bytes of endless answers so far.
pub(super) static PRODUCED: AtomicUsize = AtomicUsize::new(0);

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
            Self::Panics => panic!("as asked"),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(body) if body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Endless | Self::Panics => SizeHint::default(),
        }
    }
}

fn status(status: StatusCode) -> Response<Answer> {
    let mut response = Response::new(Bytes::new().into());
    *response.status_mut() = status;
    response
}

pub(super) fn limits() -> Limits {
    Limits { drain_timeout: Duration::from_secs(5), ..Limits::default() }
}

pub(super) const SHORT: Duration = Duration::from_millis(300);
pub(super) const CLOSE: &str = "Host: a\r\nConnection: close\r\n\r\n";
