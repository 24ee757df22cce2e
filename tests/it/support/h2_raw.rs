//! HTTP/2 by hand: one request whose fields are written as the test says, which no library would send.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::gateway::TestGateway;
use super::tls::Offer;
use super::wait::within;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// What became of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered, and whether with 200.
    Answered {
        ok: bool,
    },
    Reset,
    /// The connection ended.
    Ended,
}

/// One request on a connection of its own: its fields in order, pieces of its body, and its trailers.
pub struct RawRequest {
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub body: Option<Vec<u8>>,
    pub trailers: Vec<(Vec<u8>, Vec<u8>)>,
}

impl RawRequest {
    pub fn new(fields: &[(&str, &str)]) -> Self {
        let fields = fields.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()));
        Self { fields: fields.collect(), body: None, trailers: Vec::new() }
    }

    pub async fn send(&self, gateway: &TestGateway) -> Outcome {
        let offer = Offer { alpn: &["h2"], ..Offer::default() };
        let mut stream = gateway.authority().connect(gateway.https(), &offer).await.expect("a handshake");
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        out.extend(frame(SETTINGS, 0, 0, &[]));
        let last = if self.body.is_none() && self.trailers.is_empty() { END_STREAM } else { 0 };
        out.extend(frame(HEADERS, END_HEADERS | last, 1, &block(&self.fields)));
        if let Some(body) = &self.body {
            let last = if self.trailers.is_empty() { END_STREAM } else { 0 };
            out.extend(frame(DATA, last, 1, body));
        }
        if !self.trailers.is_empty() {
            out.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&self.trailers)));
        }
        if stream.write_all(&out).await.is_err() {
            return Outcome::Ended;
        }
        within("an HTTP/2 answer", outcome(&mut stream)).await
    }
}

async fn outcome(stream: &mut (impl AsyncReadExt + Unpin)) -> Outcome {
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return Outcome::Ended;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).await.is_err() {
            return Outcome::Ended;
        }
        match head[3] {
            // 200 is one byte, the eighth entry of the static table (RFC 7541 appendix A); it stands first.
            HEADERS => return Outcome::Answered { ok: payload.first() == Some(&0x88) },
            RST_STREAM => return Outcome::Reset,
            GOAWAY => return Outcome::Ended,
            _ => {}
        }
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

/// Literal fields, never indexed, not Huffman-coded (RFC 7541 section 6.2.3).
fn block(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in fields {
        out.push(0x10);
        text(&mut out, name);
        text(&mut out, value);
    }
    out
}

fn text(out: &mut Vec<u8>, bytes: &[u8]) {
    let mut length = bytes.len();
    if length < 127 {
        out.push(u8::try_from(length).unwrap());
    } else {
        out.push(127);
        length -= 127;
        while length >= 128 {
            out.push(u8::try_from(length % 128).unwrap() | 128);
            length /= 128;
        }
        out.push(u8::try_from(length).unwrap());
    }
    out.extend_from_slice(bytes);
}
