//! HTTP/2: a client on one connection, and a small upstream that speaks it without TLS.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::gateway::TestGateway;
use super::session::Session;
use super::tls::Offer;
use super::wait::within;

/// A body that comes frame by frame from the test.
pub struct Frames(mpsc::Receiver<Frame<Bytes>>);

pub type FrameSender = mpsc::Sender<Frame<Bytes>>;

/// One HTTP/2 connection over TLS.
pub struct H2Client {
    send: SendRequest<Frames>,
    connection: JoinHandle<Result<(), hyper::Error>>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct H2Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: Option<HeaderMap>,
}

impl H2Client {
    pub async fn connect(gateway: &TestGateway) -> Self {
        let offer = Offer { alpn: &["h2"], ..Offer::default() };
        let stream = gateway.authority().connect(gateway.https(), &offer).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
        let (send, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        Self { send, connection: tokio::spawn(connection) }
    }

    /// Without TLS, by prior knowledge.
    pub async fn plain(addr: SocketAddr) -> Self {
        let stream = within("a connection", tokio::net::TcpStream::connect(addr)).await.expect("it listens");
        let (send, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        Self { send, connection: tokio::spawn(connection) }
    }

    /// The head of the answer; its body may still be on its way.
    pub async fn start(&mut self, request: Request<Frames>) -> Result<Response<Incoming>, hyper::Error> {
        within("the connection to be ready", self.send.ready()).await?;
        within("an answer's head", self.send.send_request(request)).await
    }

    pub async fn ask(&mut self, request: Request<Frames>) -> H2Answer {
        let response = self.start(request).await.expect("an answer");
        H2Answer::read(response).await.expect("a whole answer")
    }

    /// GET as the session.
    pub async fn get(&mut self, path: &str, session: &Session) -> H2Answer {
        self.ask(request("GET", path, Some(session), Frames::empty())).await
    }

    /// Waits for the peer to end the connection.
    pub async fn closed(self) {
        drop(self.send);
        let _ = within("the connection to end", self.connection).await;
    }
}

impl H2Answer {
    /// Err when the body breaks off.
    pub async fn read(response: Response<Incoming>) -> Result<Self, hyper::Error> {
        let (parts, body) = response.into_parts();
        let collected = within("an answer's body", body.collect()).await?;
        let trailers = collected.trailers().cloned();
        Ok(Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body: collected.to_bytes().to_vec(),
            trailers,
        })
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }
}

/// A request to the gateway, as the session.
pub fn request(method: &str, path: &str, session: Option<&Session>, body: Frames) -> Request<Frames> {
    let mut builder = Request::builder().method(method).uri(format!("https://localhost{path}"));
    if let Some(session) = session {
        builder = builder.header("x-access-token", &session.token).header("x-key", &session.key);
    }
    builder.body(body).unwrap()
}

impl Frames {
    pub fn empty() -> Self {
        Self(mpsc::channel(1).1)
    }

    pub fn full(bytes: impl Into<Bytes>) -> Self {
        let (sender, body) = Self::channel();
        sender.try_send(Frame::data(bytes.into())).unwrap();
        body
    }

    pub fn channel() -> (FrameSender, Self) {
        let (sender, receiver) = mpsc::channel(16);
        (sender, Self(receiver))
    }
}

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_closed() && self.0.is_empty()
    }
}

/// An h2c server (prior knowledge) that echoes requests as JSON and keeps their headers.
pub struct H2cUpstream {
    pub addr: SocketAddr,
    requests: Arc<Mutex<Vec<http::request::Parts>>>,
    task: JoinHandle<()>,
}

impl H2cUpstream {
    pub async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let requests = Arc::default();
        let task = tokio::spawn(serve_h2c(listener, Arc::clone(&requests)));
        Self { addr, requests, task }
    }

    pub fn url(&self) -> String {
        format!("h2c://{}", self.addr)
    }

    pub fn requests(&self) -> Vec<http::request::Parts> {
        self.requests.lock().unwrap().clone()
    }
}

impl Drop for H2cUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_h2c(listener: TcpListener, requests: Arc<Mutex<Vec<http::request::Parts>>>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let requests = Arc::clone(&requests);
        let service = service_fn(move |request| echo(request, Arc::clone(&requests)));
        connections.spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

/// Echoes the body's size in JSON, and ends with a trailer.
async fn echo(
    request: Request<Incoming>,
    requests: Arc<Mutex<Vec<http::request::Parts>>>,
) -> Result<Response<Frames>, hyper::Error> {
    let (parts, body) = request.into_parts();
    let collected = body.collect().await?;
    let sent = collected.trailers().and_then(|t| t.get("x-sent")).map(|v| v.as_bytes().to_vec());
    let text = json!({
        "method": parts.method.as_str(),
        "target": parts.uri.path_and_query().map(ToString::to_string),
        "length": collected.to_bytes().len(),
        "trailer": sent.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
    });
    requests.lock().unwrap().push(parts);
    let (sender, frames) = Frames::channel();
    let _ = sender.try_send(Frame::data(Bytes::from(text.to_string())));
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    let _ = sender.try_send(Frame::trailers(trailers));
    Ok(Response::new(frames))
}
