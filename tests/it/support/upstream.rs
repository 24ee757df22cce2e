//! An upstream that keeps every byte it is sent and answers by path: `/up/<behaviour>/...` as `replies` says,
//! everything else with an echo of the request.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::replies;
use super::wait::until;
use super::wire::{Body, Framing, Head, Wire};

pub struct TestUpstream {
    pub addr: SocketAddr,
    scheme: &'static str,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

/// What the upstream has seen, and the gate that holds its answers back.
pub struct Seen {
    pub name: String,
    requests: Mutex<Vec<Received>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    /// Bytes of bodies read by `/up/sink` and `/up/stall`.
    pub swallowed: AtomicU64,
    /// Bytes of `/up/big` that the gateway took.
    pub given: AtomicU64,
    /// What came after the head of an upgraded exchange.
    pub tunnel: Mutex<Vec<u8>>,
    /// Endless answers that were given up because the gateway hung up.
    pub cut_off: AtomicUsize,
    gate: watch::Sender<bool>,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Received {
    /// Which connection, from 0, and which request on it.
    pub connection: usize,
    pub index: usize,
    pub method: String,
    pub target: String,
    pub head: Head,
    pub body: Body,
    /// Whether the body came to its end.
    pub complete: bool,
}

impl TestUpstream {
    pub async fn start() -> Self {
        Self::named("engine").await
    }

    /// One of several: the name is in its echoes.
    pub async fn named(name: &str) -> Self {
        Self::bind(name, None).await
    }

    pub async fn tls(name: &str, acceptor: TlsAcceptor) -> Self {
        Self::bind(name, Some(acceptor)).await
    }

    async fn bind(name: &str, acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Seen {
            name: name.to_owned(),
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            swallowed: AtomicU64::new(0),
            given: AtomicU64::new(0),
            tunnel: Mutex::default(),
            cut_off: AtomicUsize::new(0),
            gate: watch::Sender::new(false),
        });
        let scheme = if acceptor.is_some() { "https" } else { "http" };
        let task = tokio::spawn(accept(listener, acceptor, Arc::clone(&seen)));
        Self { addr, scheme, seen, task }
    }

    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.addr)
    }

    pub fn requests(&self) -> Vec<Received> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// The one request that came; fails the test unless there is exactly one, well-formed.
    #[track_caller]
    pub fn only(&self) -> Received {
        let mut requests = self.requests();
        assert_eq!(requests.len(), 1, "requests at the upstream: {:?}", starts(&requests));
        requests.remove(0).assert_clean()
    }

    /// The latest request.
    #[track_caller]
    pub fn last(&self) -> Received {
        self.requests().pop().expect("a request at the upstream").assert_clean()
    }

    /// As if nothing had come so far; nothing may be under way.
    pub fn forget(&self) {
        self.seen.requests.lock().unwrap().clear();
    }

    /// Nothing reached it: no request, and no connection with bytes on it.
    #[track_caller]
    pub fn assert_untouched(&self) {
        let requests = self.requests();
        assert!(requests.is_empty(), "reached the upstream: {:?}", starts(&requests));
    }

    pub async fn wait_for_requests(&self, count: usize) {
        until("requests at the upstream", || (self.requests().len() >= count).then_some(())).await;
    }

    /// Connections taken so far.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    pub fn open_connections(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }

    pub fn swallowed(&self) -> u64 {
        self.seen.swallowed.load(Ordering::SeqCst)
    }

    pub fn given(&self) -> u64 {
        self.seen.given.load(Ordering::SeqCst)
    }

    pub fn tunnel(&self) -> Vec<u8> {
        self.seen.tunnel.lock().unwrap().clone()
    }

    pub fn cut_off(&self) -> usize {
        self.seen.cut_off.load(Ordering::SeqCst)
    }

    /// Lets `/up/hold` and `/up/stall` go on.
    pub fn release(&self) {
        self.seen.gate.send_replace(true);
    }

    /// Stops listening and drops every connection.
    pub fn stop(&self) {
        self.task.abort();
    }
}

impl Drop for TestUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Seen {
    /// Waits until the test lets answers go.
    pub async fn released(&self) {
        let _ = self.gate.subscribe().wait_for(|open| *open).await;
    }

    pub fn update(&self, at: usize, change: impl FnOnce(&mut Received)) {
        change(&mut self.requests.lock().unwrap()[at]);
    }

    fn record(&self, head: &Head, connection: usize, index: usize) -> usize {
        let mut words = head.start.split(' ').map(str::to_owned);
        let received = Received {
            connection,
            index,
            method: words.next().unwrap_or_default(),
            target: words.next().unwrap_or_default(),
            head: head.clone(),
            body: Body::default(),
            complete: false,
        };
        let mut requests = self.requests.lock().unwrap();
        requests.push(received);
        requests.len() - 1
    }
}

impl Received {
    pub fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.one(name)
    }

    /// What an upstream of any make would read the same way (RFC 9112).
    #[track_caller]
    fn assert_clean(self) -> Self {
        let (_, mut oddities) = self.head.framing();
        oddities.extend(self.head.oddities.iter().cloned());
        let words: Vec<&str> = self.head.start.split(' ').collect();
        if words.len() != 3 || words[2] != "HTTP/1.1" || !self.target.starts_with('/') {
            oddities.push(format!("the request line {:?}", self.head.start));
        }
        if self.head.all("host").len() != 1 {
            oddities.push("not one Host".to_owned());
        }
        assert!(oddities.is_empty(), "{oddities:?} in {}", self.head.text());
        self
    }
}

async fn accept(listener: TcpListener, acceptor: Option<TlsAcceptor>, seen: Arc<Seen>) {
    // Owned by this task: aborting it drops every connection.
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let _ = stream.set_nodelay(true);
        let connection = seen.connections.fetch_add(1, Ordering::SeqCst);
        seen.open.fetch_add(1, Ordering::SeqCst);
        let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
        connections.spawn(async move {
            let _ = serve(stream, acceptor, connection, &seen).await;
            seen.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn serve(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    connection: usize,
    seen: &Arc<Seen>,
) -> io::Result<()> {
    let mut wire = match acceptor {
        None => Wire::new(stream),
        Some(acceptor) => Wire::new(acceptor.accept(stream).await?),
    };
    let mut index = 0;
    while let Some(head) = wire.head().await? {
        let at = seen.record(&head, connection, index);
        if !exchange(&mut wire, &head, at, seen).await? {
            return Ok(());
        }
        index += 1;
    }
    Ok(())
}

/// One request; false when the connection is to be closed.
async fn exchange(wire: &mut Wire, head: &Head, at: usize, seen: &Arc<Seen>) -> io::Result<bool> {
    let target = head.start.split(' ').nth(1).unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default();
    let words: Vec<&str> = path.strip_prefix("/up/").unwrap_or_default().split('/').collect();
    if !replies::before_body(words[0], wire, head, seen).await? {
        return Ok(false);
    }
    let (framing, _) = head.framing();
    let mut body = Body::default();
    if matches!(words[0], "sink" | "stall") {
        swallow(wire, framing, seen).await?;
    } else {
        let read = wire.body(framing, &mut body).await;
        seen.update(at, |received| received.body = body);
        read?;
    }
    seen.update(at, |received| received.complete = true);
    let received = seen.requests.lock().unwrap()[at].clone();
    replies::reply(&words, wire, &received, seen).await
}

/// Reads a body without keeping it.
async fn swallow(wire: &mut Wire, framing: Framing, seen: &Seen) -> io::Result<()> {
    let mut left = match framing {
        Framing::Length(length) => length,
        Framing::Chunked => {
            while let Ok(bytes) = wire.chunk().await? {
                seen.swallowed.fetch_add(bytes.len() as u64, Ordering::SeqCst);
            }
            return Ok(());
        }
        Framing::None => 0,
    };
    while left > 0 {
        if wire.buffer.is_empty() && !wire.fill().await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = wire.buffer.len().min(usize::try_from(left).unwrap());
        wire.buffer.drain(..taken);
        seen.swallowed.fetch_add(taken as u64, Ordering::SeqCst);
        left -= taken as u64;
    }
    Ok(())
}

fn starts(requests: &[Received]) -> Vec<&str> {
    requests.iter().map(|request| request.head.start.as_str()).collect()
}
