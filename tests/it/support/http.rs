//! HTTP/1.1 by hand: what is sent is what the test wrote, what comes back is read strictly.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("no JSON: {:?}", String::from_utf8_lossy(&self.body)))
    }

    /// The `info` of an error.
    pub(crate) fn info(&self) -> String {
        self.json()["info"].as_str().unwrap_or_default().to_owned()
    }
}

/// Sends the bytes on a connection of their own and reads until the peer closes; the first answer in it.
pub(crate) fn send(addr: SocketAddr, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request).unwrap();
    let mut bytes = Vec::new();
    let mut piece = [0; 16 * 1024];
    loop {
        if let Some(answer) = whole(&bytes) {
            return answer;
        }
        match stream.read(&mut piece).unwrap() {
            0 => return closed(&bytes),
            n => bytes.extend_from_slice(&piece[..n]),
        }
    }
}

/// As [`send`], but whatever came until the peer closed, answer or not.
pub(crate) fn send_until_closed(addr: SocketAddr, request: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(request).unwrap();
    let mut bytes = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut bytes);
    bytes
}

fn split(bytes: &[u8]) -> Option<(Answer, Vec<u8>)> {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")?;
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Some((Answer { status, head, body: Vec::new() }, bytes[end + 4..].to_vec()))
}

fn whole(bytes: &[u8]) -> Option<Answer> {
    let (mut answer, rest) = split(bytes)?;
    let length: usize = answer.header("content-length")?.parse().unwrap();
    (rest.len() >= length).then(|| {
        answer.body = rest[..length].to_vec();
        answer
    })
}

fn closed(bytes: &[u8]) -> Answer {
    let (mut answer, rest) =
        split(bytes).unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(bytes)));
    answer.body = rest;
    answer
}

/// A request with these header lines; the connection closes behind it.
pub(crate) fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        text += &format!("Content-Length: {}\r\n", body.len());
    }
    (text + "\r\n" + body).into_bytes()
}
