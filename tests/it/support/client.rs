//! A client with every byte in the test's hands: one HTTP/1.1 connection over plain TCP or TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::{TcpSocket, TcpStream};

use super::answer::{Answer, status_of};
use super::ask::Ask;
use super::wait::within;
use super::wire::{Body, Framing, Head, Io, Wire};

pub struct TestClient {
    pub wire: Wire,
}

impl TestClient {
    pub async fn connect(addr: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(addr)).await.expect("the gateway listens");
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// From another loopback address, to be another client.
    pub async fn connect_from(source: IpAddr, addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source, 0)).unwrap();
        let stream = within("a connection", socket.connect(addr)).await.expect("the gateway listens");
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    pub fn over(io: impl Io + 'static) -> Self {
        Self { wire: Wire::new(io) }
    }

    /// Sends the bytes; a peer that has closed already is found out by reading, not here.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = within("the peer to take bytes", self.wire.send(bytes)).await;
    }

    /// Sends a request and reads its answer.
    pub async fn ask(&mut self, ask: &Ask) -> Answer {
        self.send(ask.bytes()).await;
        self.answer_to(&ask.method).await
    }

    /// The answer to a request other than HEAD and CONNECT.
    pub async fn answer(&mut self) -> Answer {
        self.answer_to("GET").await
    }

    pub async fn answer_to(&mut self, method: &str) -> Answer {
        within("an answer", self.read_answer(method)).await.expect("an answer, not the end of the connection")
    }

    /// None when the connection ends without an answer.
    pub async fn try_answer(&mut self) -> Option<Answer> {
        within("an answer or the end", self.read_answer("GET")).await
    }

    /// The head of the answer alone; its body stays on the wire.
    pub async fn answer_head(&mut self) -> Head {
        within("an answer's head", self.wire.head()).await.expect("a head").expect("an answer")
    }

    /// The next chunk of a chunked answer.
    pub async fn chunk(&mut self) -> Result<Vec<u8>, Vec<(String, String)>> {
        within("a chunk", self.wire.chunk()).await.expect("a chunk")
    }

    /// Waits for the peer to close, and gives back what came before.
    pub async fn closed(&mut self) -> Vec<u8> {
        within("the peer to close", self.wire.rest()).await
    }

    async fn read_answer(&mut self, method: &str) -> Option<Answer> {
        let mut interim = Vec::new();
        let head = loop {
            let head = match self.wire.head().await {
                Ok(Some(head)) => head,
                Ok(None) => return None,
                Err(e) if is_end(&e) => return None,
                Err(e) => panic!("no answer: {e}; {:?}", String::from_utf8_lossy(&self.wire.buffer)),
            };
            assert!(head.oddities.is_empty(), "{:?} in {}", head.oddities, head.text());
            match status_of(&head) {
                status @ (100 | 102..=199) => interim.push(status),
                _ => break head,
            }
        };
        let mut body = Body::default();
        let complete = self.read_body(&head, method, &mut body).await;
        Some(Answer::new(head, body, interim, complete))
    }

    async fn read_body(&mut self, head: &Head, method: &str, body: &mut Body) -> bool {
        let (framing, oddities) = head.framing();
        assert!(oddities.is_empty(), "{oddities:?} in {}", head.text());
        let status = status_of(head);
        if method == "HEAD" || matches!(status, 101 | 204 | 304) {
            return true;
        }
        if framing == Framing::None {
            body.bytes = self.wire.rest().await;
            return true;
        }
        self.wire.body(framing, body).await.is_ok()
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
    )
}
