//! Calls of a running gateway's admin listener: one request, one answer, over plain HTTP/1.1.

use serde_json::Value;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::clock::monotonic;
use crate::secret::{ExposeSecret, SecretString};

/// How long to wait for the connection, and for the answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// No answer is larger.
const LARGEST: u64 = 1 << 20;

pub(super) struct AdminClient<'a> {
    pub(super) addr: SocketAddr,
    pub(super) token: Option<&'a SecretString>,
}

/// Status and body; an answer that is no JSON has none.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
}

impl Answer {
    /// What an error says.
    pub(super) fn info(&self) -> String {
        let info = self.body.get("info").and_then(Value::as_str);
        info.map_or_else(|| format!("status {}", self.status), str::to_owned)
    }
}

impl AdminClient<'_> {
    pub(super) fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Answer> {
        let addr = reachable(self.addr);
        let mut stream = TcpStream::connect_timeout(&addr, PATIENCE)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let body = body.map(ToString::to_string).unwrap_or_default();
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
        if let Some(token) = self.token {
            head.push_str(&format!("Authorization: Bearer {}\r\n", token.expose_secret()));
        }
        if !body.is_empty() {
            head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
        let bytes = read_all(stream)?;
        read(&bytes).ok_or_else(|| io::Error::other("that is no answer of postern's admin listener"))
    }
}

/// All of it within [`PATIENCE`]: a byte now and then is no answer.
fn read_all(mut stream: TcpStream) -> io::Result<Vec<u8>> {
    let (until, mut bytes, mut piece) = (monotonic() + PATIENCE, Vec::new(), [0; 4096]);
    loop {
        let left = until.saturating_duration_since(monotonic());
        if left.is_zero() || bytes.len() as u64 >= LARGEST {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => return Ok(bytes),
            n => bytes.extend_from_slice(piece.get(..n).unwrap_or_default()),
        }
    }
}

/// A gateway that listens everywhere is asked here.
fn reachable(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, addr.port())
}

/// Bodies of the admin listener have a length or none; the connection's end is the body's.
fn read(bytes: &[u8]) -> Option<Answer> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut fields);
    let httparse::Status::Complete(length) = head.parse(bytes).ok()? else { return None };
    let body = serde_json::from_slice(bytes.get(length..)?).unwrap_or(Value::Null);
    Some(Answer { status: head.code?, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_its_status_and_its_json() {
        let answer = read(b"HTTP/1.1 503 X\r\nContent-Length: 15\r\n\r\n{\"info\":\"wait\"}").unwrap();
        assert_eq!((answer.status, answer.info()), (503, "wait".to_owned()));
        let empty = read(b"HTTP/1.1 204 X\r\n\r\n").unwrap();
        assert_eq!((empty.status, empty.info()), (204, "status 204".to_owned()));
        assert!(read(b"SSH-2.0-x\r\n").is_none() && read(b"").is_none());
    }

    #[test]
    fn everywhere_is_here() {
        for (addr, here) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")]
        {
            assert_eq!(reachable(addr.parse().unwrap()), here.parse().unwrap());
        }
    }
}
