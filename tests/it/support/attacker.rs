//! An HTTP/2 client that sends the frames that it is told to, good or bad, over TLS.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;

use super::gateway::TestGateway;
use super::tls::Offer;
use super::wait::{until, within};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// How long a write may wait for the other side to read before that counts as a no.
const BLOCKED: Duration = Duration::from_secs(2);

pub struct Attacker {
    write: WriteHalf<TlsStream<TcpStream>>,
    read: Option<ReadHalf<TlsStream<TcpStream>>>,
    seen: Arc<Mutex<Seen>>,
    reader: Option<JoinHandle<()>>,
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Frames by their type.
    pub frames: [usize; 10],
    /// The error code of the last GOAWAY.
    pub goaway: Option<u32>,
    pub ended: bool,
}

/// How a flood was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    All,
    /// The other side reads no further.
    Blocked,
    /// It has ended the connection.
    Closed,
}

impl Attacker {
    /// Reads what comes back, and throws it away.
    pub async fn connect(gateway: &TestGateway, settings: &[u8]) -> Self {
        let mut attacker = Self::deaf(gateway, settings).await;
        let (read, seen) = (attacker.read.take().unwrap(), Arc::clone(&attacker.seen));
        attacker.reader = Some(tokio::spawn(follow(read, seen)));
        attacker
    }

    /// Reads nothing.
    pub async fn deaf(gateway: &TestGateway, settings: &[u8]) -> Self {
        let offer = Offer { alpn: &["h2"], ..Offer::default() };
        let stream = gateway.authority().connect(gateway.https(), &offer).await.expect("a handshake");
        let (read, mut write) = tokio::io::split(stream);
        let hello = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(SETTINGS, 0, 0, settings)[..]].concat();
        within("the preface to be sent", write.write_all(&hello)).await.unwrap();
        Self { write, read: Some(read), seen: Arc::default(), reader: None }
    }

    /// Sends the bytes `times` times, as far as they are taken.
    pub async fn flood(&mut self, bytes: &[u8], times: usize) -> Taken {
        for _ in 0..times {
            match tokio::time::timeout(BLOCKED, self.write.write_all(bytes)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Taken::Closed,
                Err(_) => return Taken::Blocked,
            }
            if self.seen().ended {
                return Taken::Closed;
            }
        }
        match tokio::time::timeout(BLOCKED, self.write.flush()).await {
            Ok(Ok(())) => Taken::All,
            Ok(Err(_)) => Taken::Closed,
            Err(_) => Taken::Blocked,
        }
    }

    /// Waits for the other side to end the connection, without reading.
    pub async fn cut_off(&mut self) {
        within("the connection to be ended", async {
            while self.flood(&frame(PING, 0, 0, &[0; 8]), 1).await != Taken::Closed {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Waits for the other side to end the connection.
    pub async fn ended(&self) -> Seen {
        until("the connection to be ended", || Some(self.seen()).filter(|seen| seen.ended)).await
    }

    /// Waits until this many frames of a type have come.
    pub async fn got(&self, kind: u8, count: usize) {
        until("frames", || (self.seen().frames[usize::from(kind)] >= count).then_some(())).await;
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

async fn follow(mut read: impl AsyncRead + Unpin, seen: Arc<Mutex<Seen>>) {
    while let Ok((kind, payload)) = next(&mut read).await {
        let mut seen = seen.lock().unwrap();
        if let Some(count) = seen.frames.get_mut(usize::from(kind)) {
            *count += 1;
        }
        if kind == GOAWAY {
            seen.goaway = payload.get(4..8).and_then(|code| code.try_into().ok()).map(u32::from_be_bytes);
        }
    }
    seen.lock().unwrap().ended = true;
}

async fn next(read: &mut (impl AsyncRead + Unpin)) -> std::io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 9];
    read.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut payload = vec![0; length as usize];
    read.read_exact(&mut payload).await?;
    Ok((head[3], payload))
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block: 2 is GET and 3 POST in HPACK's static table; nothing gets into the dynamic one.
pub fn block(method: u8, path: &str) -> Vec<u8> {
    let text =
        |index: u8, value: &str| [&[index, u8::try_from(value.len()).unwrap()], value.as_bytes()].concat();
    [&[0x80 | method, 0x87][..], &text(1, "localhost"), &text(4, path)].concat()
}

/// HEADERS of a GET without a body.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block(2, path))
}

/// HEADERS of a POST whose body is to come.
pub fn post(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block(3, path))
}

/// The ids of a client's streams.
pub fn streams(count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(|number| 2 * number + 1)
}
