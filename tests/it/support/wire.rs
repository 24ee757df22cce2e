//! HTTP/1.1 on the wire, strictly read: shared by the test client and the test upstream, and independent of every
//! HTTP library, so that what the gateway writes is judged by other code than its own.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// A byte stream: plain TCP or TLS.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// A stream and the bytes read from it that nobody has taken yet.
pub struct Wire {
    pub io: Box<dyn Io>,
    pub buffer: Vec<u8>,
}

/// The bytes before an empty line, and what they say.
#[derive(Clone, Debug)]
pub struct Head {
    pub raw: Vec<u8>,
    /// The request or status line.
    pub start: String,
    /// In the order of the wire, names as they were written.
    pub fields: Vec<(String, String)>,
    /// What a strict reader objects to.
    pub oddities: Vec<String>,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// Neither is there.
    None,
}

/// A body that was read to its end.
#[derive(Clone, Debug, Default)]
pub struct Body {
    pub bytes: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Wire {
    pub fn new(io: impl Io + 'static) -> Self {
        Self { io: Box::new(io), buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.io.write_all(bytes.as_ref()).await?;
        self.io.flush().await
    }

    /// Reads once more; false at the end of the stream.
    pub async fn fill(&mut self) -> io::Result<bool> {
        self.buffer.reserve(64 * 1024);
        Ok(self.io.read_buf(&mut self.buffer).await? > 0)
    }

    /// The next head; None when the stream ends before its first byte.
    pub async fn head(&mut self) -> io::Result<Option<Head>> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                let raw = self.take(at + 4);
                return Ok(Some(Head::parse(raw)));
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() {
                    Ok(None)
                } else {
                    Err(io::ErrorKind::UnexpectedEof.into())
                };
            }
        }
    }

    /// A line without its CRLF.
    pub async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                let line = self.take(at + 2);
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            self.fill_or_fail().await?;
        }
    }

    pub async fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < count {
            self.fill_or_fail().await?;
        }
        Ok(self.take(count))
    }

    /// The next chunk of a chunked body, or its trailers.
    pub async fn chunk(&mut self) -> io::Result<Result<Vec<u8>, Vec<(String, String)>>> {
        let line = self.line().await?;
        let size = line.split(';').next().unwrap_or_default();
        if size.is_empty() || !size.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(io::Error::other(format!("chunk size {line:?}")));
        }
        let size = usize::from_str_radix(size, 16).map_err(io::Error::other)?;
        if size == 0 {
            return Ok(Err(self.trailers().await?));
        }
        let bytes = self.exactly(size).await?;
        if self.exactly(2).await? != b"\r\n" {
            return Err(io::Error::other("no CRLF after a chunk"));
        }
        Ok(Ok(bytes))
    }

    /// Reads a body; what was read so far stays in `body` when it breaks off.
    pub async fn body(&mut self, framing: Framing, body: &mut Body) -> io::Result<()> {
        match framing {
            Framing::None => {}
            Framing::Length(length) => {
                while (body.bytes.len() as u64) < length {
                    if self.buffer.is_empty() {
                        self.fill_or_fail().await?;
                    }
                    let missing = length - body.bytes.len() as u64;
                    let next = self.take(usize::try_from(missing).unwrap().min(self.buffer.len()));
                    body.bytes.extend(next);
                }
            }
            Framing::Chunked => loop {
                match self.chunk().await? {
                    Ok(bytes) => body.bytes.extend(bytes),
                    Err(trailers) => {
                        body.trailers = trailers;
                        break;
                    }
                }
            },
        }
        Ok(())
    }

    /// Everything up to the end of the stream.
    pub async fn rest(&mut self) -> Vec<u8> {
        while let Ok(true) = self.fill().await {}
        std::mem::take(&mut self.buffer)
    }

    async fn trailers(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut trailers = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(trailers);
            }
            let (name, value) = line.split_once(':').unwrap_or((&line, ""));
            trailers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    async fn fill_or_fail(&mut self) -> io::Result<()> {
        if self.fill().await? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        self.buffer.drain(..count).collect()
    }
}

impl Head {
    fn parse(raw: Vec<u8>) -> Self {
        let text = String::from_utf8_lossy(&raw[..raw.len() - 4]).into_owned();
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let (mut fields, mut oddities) = (Vec::new(), Vec::new());
        for line in lines {
            let Some((name, value)) = line.split_once(':') else {
                oddities.push(format!("a line without a colon: {line:?}"));
                continue;
            };
            if name.is_empty() || !name.bytes().all(is_token) {
                oddities.push(format!("a field name that is none: {name:?}"));
            }
            if line.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
                oddities.push(format!("a control byte: {line:?}"));
            }
            fields.push((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()));
        }
        Self { raw, start, fields, oddities }
    }

    /// Every value of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()).collect()
    }

    /// The value of a field; fails the test when it is there more than once.
    pub fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "{name} is there more than once: {all:?}");
        all.first().copied()
    }

    pub fn has(&self, name: &str) -> bool {
        !self.all(name).is_empty()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.raw).into_owned()
    }

    /// How the body ends, and what is odd about how it says so.
    pub fn framing(&self) -> (Framing, Vec<String>) {
        let (codings, lengths) = (self.all("transfer-encoding"), self.all("content-length"));
        let mut oddities = Vec::new();
        if !codings.is_empty() && !lengths.is_empty() {
            oddities.push("both Content-Length and Transfer-Encoding".to_owned());
        }
        if codings.len() > 1 || codings.iter().any(|c| !c.eq_ignore_ascii_case("chunked")) {
            oddities.push(format!("Transfer-Encoding {codings:?}"));
        }
        if lengths.len() > 1 || lengths.iter().any(|l| l.is_empty() || !l.bytes().all(|b| b.is_ascii_digit()))
        {
            oddities.push(format!("Content-Length {lengths:?}"));
        }
        let framing = match (codings.is_empty(), lengths.first().and_then(|l| l.parse().ok())) {
            (false, _) => Framing::Chunked,
            (true, Some(length)) => Framing::Length(length),
            (true, None) => Framing::None,
        };
        (framing, oddities)
    }
}

/// The place of the first occurrence.
pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
