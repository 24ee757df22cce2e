//! The upstream side against small servers written by hand, which answer as no library would.

mod answers;
mod changes;
mod h2c;
mod patience;
mod requests;
mod servers;

use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::{HeaderMap, Method, Response};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, LocalSet};

use super::attempt::{Ask, LocalGroup};
use super::head::Target;
use super::headers::{CredentialsOut, Onward, Policy};
use super::*;
use crate::access::Principal;
use crate::deadline;
use crate::peer::ListenerKind;
use crate::telemetry::ids::Ids;

fn on_a_worker(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::task::spawn_local(deadline::drive());
        tokio::time::timeout(Duration::from_secs(20), test).await.expect("the test hangs");
    });
}

/// A server: `serve` gets each connection with its number, from 0. The requests' heads are kept.
async fn server<F>(serve: impl Fn(Conn, usize) -> F + 'static) -> (SocketAddr, Rc<RefCell<Vec<String>>>)
where
    F: Future<Output = ()> + 'static,
{
    let (addr, seen, _) = listening(serve).await;
    (addr, seen)
}

/// As [`server`], with what takes new connections: once that is aborted there are none.
async fn listening<F>(
    serve: impl Fn(Conn, usize) -> F + 'static,
) -> (SocketAddr, Rc<RefCell<Vec<String>>>, JoinHandle<()>)
where
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, seen) = (listener.local_addr().unwrap(), Rc::new(RefCell::new(Vec::new())));
    let heads = seen.clone();
    let accepting = tokio::task::spawn_local(async move {
        for n in 0.. {
            let (stream, _) = listener.accept().await.unwrap();
            let conn = Conn { stream, buf: Vec::new(), seen: heads.clone() };
            tokio::task::spawn_local(serve(conn, n));
        }
    });
    (addr, seen, accepting)
}

/// A server that answers every request of every connection with the same bytes.
async fn answering(answer: impl Into<Vec<u8>>) -> (SocketAddr, Rc<RefCell<Vec<String>>>) {
    let answer = Rc::new(answer.into());
    server(move |mut conn, _| {
        let answer = answer.clone();
        async move {
            while conn.head().await.is_some() {
                conn.send(&answer).await;
            }
        }
    })
    .await
}

struct Conn {
    stream: TcpStream,
    buf: Vec<u8>,
    seen: Rc<RefCell<Vec<String>>>,
}

impl Conn {
    /// Reads through `end`.
    async fn until(&mut self, end: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = self.buf.windows(end.len()).position(|w| w == end) {
                let rest = self.buf.split_off(at + end.len());
                let text = String::from_utf8(std::mem::replace(&mut self.buf, rest)).unwrap();
                return Some(text);
            }
            if self.stream.read_buf(&mut self.buf).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    async fn head(&mut self) -> Option<String> {
        let head = self.until(b"\r\n\r\n").await?;
        self.seen.borrow_mut().push(head.clone());
        Some(head)
    }

    async fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }
}

/// A request's body whose pieces the test sends.
struct Pieces(mpsc::UnboundedReceiver<Result<Frame<Bytes>, ()>>, bool);

type PieceSender = mpsc::UnboundedSender<Result<Frame<Bytes>, ()>>;

fn pieces() -> (PieceSender, Pieces) {
    let (sender, receiver) = mpsc::unbounded_channel();
    (sender, Pieces(receiver, false))
}

fn piece(text: &'static str) -> Result<Frame<Bytes>, ()> {
    Ok(Frame::data(Bytes::from_static(text.as_bytes())))
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = ();

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ()>>> {
        self.1 = true;
        self.0.poll_recv(cx)
    }
}

fn settings(servers: &[SocketAddr]) -> UpstreamSettings {
    let url = |a: &SocketAddr| ServerUrl { scheme: Scheme::Http, host: a.ip().to_string(), port: a.port() };
    UpstreamSettings {
        name: "up".into(),
        servers: servers.iter().map(url).collect(),
        balance: Balance::RoundRobin,
        connect_timeout: Duration::from_millis(500),
        response_timeout: Duration::from_millis(500),
        retries: 0,
        max_connections: 1024,
        max_pending: 1024,
        health: None,
        eject: EjectSettings::default(),
        ca: None,
        forward_credentials: true,
    }
}

fn context() -> UpstreamContext {
    let names = CredentialNames {
        token_headers: vec![HeaderName::from_static("x-access-token")],
        key_headers: vec![HeaderName::from_static("x-key")],
        token_query: vec![],
        key_query: vec![],
    };
    let (clock, drain) = (Clock::system(), Drain::new());
    UpstreamContext { clock, drain, names, body_timeout: Duration::from_millis(300) }
}

/// One upstream and the way to ask it.
struct Client {
    group: LocalGroup,
    context: UpstreamContext,
    policy: Rc<Policy>,
    principal: Option<Principal>,
    _set: Arc<UpstreamSet>,
}

type Answer<B> = Result<Response<UpstreamBody<B>>, ForwardError>;

impl Client {
    fn with(settings: UpstreamSettings) -> Self {
        let context = context();
        let handle = tokio::runtime::Handle::current();
        let set = UpstreamSet::start(vec![settings], context.clone(), None, &handle).unwrap();
        let group = LocalGroup::new(set.groups[0].clone());
        let policy = Rc::new(Policy::new(&context.names));
        Self { group, context, policy, principal: None, _set: set }
    }

    fn of(addr: SocketAddr) -> Self {
        Self::with(settings(&[addr]))
    }

    async fn ask<B>(&self, method: Method, fields: &[(&'static str, &'static str)], body: B) -> Answer<B>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        self.ask_with(&method, &headers, body, None).await
    }

    async fn ask_with<B>(
        &self,
        method: &Method,
        headers: &HeaderMap,
        body: B,
        client: Option<hyper::upgrade::OnUpgrade>,
    ) -> Answer<B>
    where
        B: Body<Data = Bytes> + Unpin + 'static,
    {
        let listener = ListenerKind::Http;
        let peer = Peer::new("192.0.2.9:1".parse().unwrap(), listener, false);
        let onward = Onward {
            headers,
            host: b"api.test",
            caller: None,
            scope: None,
            credentials: CredentialsOut::None,
            peer: &peer,
            ids: &Ids::of(headers, false),
            extensions: true,
        };
        let target = Target { method, path: "/p", query: Some("q=1") };
        let (policy, context, principal) = (&self.policy, &self.context, self.principal.as_ref());
        let ask = Ask {
            version: http::Version::HTTP_11,
            target,
            onward,
            policy,
            principal,
            context,
            exchange: None,
            judge: None,
        };
        self.group.send(&ask, body, client).await
    }

    async fn get(&self) -> Answer<crate::body::Full> {
        self.ask(Method::GET, &[], crate::body::Full::default()).await
    }

    /// The whole text of the answer to a GET.
    async fn text(&self) -> Result<String, String> {
        let answer = self.get().await.map_err(|e| e.to_string())?;
        text_of(answer.into_body()).await.map_err(|e| e.to_string())
    }
}

async fn text_of<B: Body<Data = Bytes> + Unpin + 'static>(
    body: UpstreamBody<B>,
) -> Result<String, UpstreamBodyError> {
    let whole = body.collect().await?.to_bytes();
    Ok(String::from_utf8(whole.to_vec()).unwrap())
}
