//! An upstream that keeps what it was sent, byte for byte, and answers by path.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// One request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Received {
    pub(crate) fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap()
    }

    pub(crate) fn headers(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value).collect()
    }
}

#[derive(Clone)]
pub(crate) struct TestUpstream {
    pub(crate) addr: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
}

impl TestUpstream {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = Self { addr: listener.local_addr().unwrap(), received: Arc::default() };
        let kept = Arc::clone(&upstream.received);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || while serve(&stream, &kept).is_some() {});
            }
        });
        upstream
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
}

fn serve(mut stream: &TcpStream, kept: &Mutex<Vec<Received>>) -> Option<()> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            break String::from_utf8(std::mem::replace(&mut bytes, rest)).unwrap();
        }
        fill(stream, &mut bytes)?;
    };
    let mut received = Received { head, body: Vec::new() };
    if let Some(length) = received.headers("content-length").first().map(|n| n.parse::<usize>().unwrap()) {
        while bytes.len() < length {
            fill(stream, &mut bytes)?;
        }
        received.body = bytes;
    } else if !received.headers("transfer-encoding").is_empty() {
        while !bytes.ends_with(b"\r\n\r\n") {
            fill(stream, &mut bytes)?;
        }
        received.body = bytes;
    }
    let target = received.target().to_owned();
    kept.lock().unwrap().push(received);
    stream.write_all(&answer(&target)?).ok()?;
    (!target.contains("/until-close") && !target.contains("/cut")).then_some(())
}

fn fill(mut stream: &TcpStream, bytes: &mut Vec<u8>) -> Option<()> {
    let mut piece = [0; 16 * 1024];
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let n = stream.read(&mut piece).ok().filter(|n| *n > 0)?;
    bytes.extend_from_slice(&piece[..n]);
    Some(())
}

/// None: the connection breaks off without an answer.
fn answer(target: &str) -> Option<Vec<u8>> {
    let name = target.rsplit('/').next().unwrap_or_default();
    Some(match name.split('?').next().unwrap_or_default() {
        "drop" => return None,
        "chunked" => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 1\r\n\r\n".to_vec(),
        "two-lengths" => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 30\r\n\r\nokHTTP/1.1 200 OK\r\n\r\nPOISON".to_vec(),
        "both" => b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nPOISON".to_vec(),
        "extra" => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON".to_vec(),
        "until-close" => b"HTTP/1.1 200 OK\r\n\r\nall of it".to_vec(),
        "cut" => b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this".to_vec(),
        "hop" => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Private\r\nX-Private: yes\r\nX-Postern-Scope: own\r\nX-Kept: yes\r\n\r\nok".to_vec(),
        _ => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
    })
}
