//! How the test upstream answers, by the words of the path behind `/up/`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::upstream::{Received, Seen};
use super::wire::{Head, Wire};

/// What is sent before the body of the request is read; false when that was all.
pub async fn before_body(word: &str, wire: &mut Wire, head: &Head, seen: &Seen) -> io::Result<bool> {
    match word {
        // The whole answer, and the connection closes without the body being read.
        "early" => {
            wire.send(
                "HTTP/1.1 413 Payload Too Large\r\nContent-Length: 5\r\nConnection: close\r\n\r\nearly",
            )
            .await?;
            wire.io.shutdown().await?;
            return Ok(false);
        }
        // The whole answer, and the connection goes on.
        "early-open" => wire.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly").await?,
        // The head and a first piece; the rest follows the body.
        "duplex" => wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n").await?,
        "stall" => seen.released().await,
        "refuse-100" => {
            wire.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno.")
                .await?;
            return Ok(false);
        }
        _ => {}
    }
    if head.one("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue")) {
        wire.send("HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    Ok(true)
}

/// Answers; false when the connection is to be closed.
pub async fn reply(
    words: &[&str],
    wire: &mut Wire,
    request: &Received,
    seen: &Arc<Seen>,
) -> io::Result<bool> {
    let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
    if let Some((bytes, keep)) = canned(words[0]) {
        wire.send(bytes).await?;
        return Ok(keep);
    }
    match words[0] {
        "slow" => tokio::time::sleep(Duration::from_millis(number(1).unwrap_or(300))).await,
        "hold" => tokio::select! {
            () = seen.released() => {}
            // The other side hung up.
            _ = wire.fill() => return Ok(false),
        },
        "never" => {
            while wire.fill().await? {}
            return Ok(false);
        }
        "drop" => return Ok(false),
        "early-open" => return Ok(true),
        "duplex" => {
            let rest = format!("then {}", request.body.bytes.len());
            wire.send(format!("{:x}\r\n{rest}\r\n0\r\n\r\n", rest.len())).await?;
            return Ok(true);
        }
        "status" => {
            let status = number(1).unwrap_or(200);
            wire.send(format!(
                "HTTP/1.1 {status} As Asked\r\nContent-Length: 2\r\nX-From: upstream\r\n\r\nok"
            ))
            .await?;
            return Ok(true);
        }
        "long-head" => {
            let value = "h".repeat(usize::try_from(number(1).unwrap_or(1)).unwrap());
            wire.send(format!("HTTP/1.1 200 OK\r\nX-Long: {value}\r\nContent-Length: 2\r\n\r\nok")).await?;
            return Ok(true);
        }
        "big" => return big(wire, number(1).unwrap_or(1 << 20), seen).await,
        "ticks" => return ticks(wire, seen).await,
        "events" => return events(wire, number(1).unwrap_or(3), seen).await,
        "ws" => return web_socket(wire, request, seen).await,
        "raw-echo" => return raw_echo(wire, seen).await,
        _ => {}
    }
    echo(wire, request, seen).await?;
    Ok(true)
}

/// Answers that are the same bytes every time, and whether the connection goes on.
fn canned(word: &str) -> Option<(&'static [u8], bool)> {
    Some(match word {
        "cut" => (b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this", false),
        "cut-chunk" => (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", false),
        "cut-head" => (b"HTTP/1.1 200 OK\r\nContent-Le", false),
        "garbage" => (b"\x16\x03\x01 this is no HTTP\r\n\r\n", false),
        "chunked" => (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6;x=y\r\n world\r\n0\r\n\r\n",
            true,
        ),
        "trailers" => (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: Grpc-Status, X-Sum\r\n\r\n5\r\nhello\r\n0\r\nGrpc-Status: 0\r\nX-Sum: 7\r\n\r\n",
            true,
        ),
        "until-close" => (b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nall of it", false),
        "two-lengths" => (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\nokPOISON!", true),
        "length-and-chunked" => (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON",
            true,
        ),
        "negative-length" => (b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nPOISON", false),
        "bad-chunk" => (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nPOISON\r\n0\r\n\r\n", false),
        "extra" => (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON",
            true,
        ),
        "body-on-204" => (b"HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON", true),
        "bare-cr" => (b"HTTP/1.1 200 OK\r\nX-Bad: a\rSet-Cookie: POISON=1\r\nContent-Length: 2\r\n\r\nok", true),
        "nul" => (b"HTTP/1.1 200 OK\r\nX-Bad: a\0b\r\nContent-Length: 2\r\n\r\nok", true),
        "early-hints" => (
            b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            true,
        ),
        "unasked-101" => (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\nPOISON", false),
        "no-content" => (b"HTTP/1.1 204 No Content\r\nX-From: upstream\r\n\r\n", true),
        "not-modified" => (b"HTTP/1.1 304 Not Modified\r\nETag: \"7\"\r\nContent-Length: 1234\r\n\r\n", true),
        "length-of-head" => (b"HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n", true),
        "hop" => (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Private, keep-alive\r\nX-Private: yes\r\nKeep-Alive: timeout=9\r\nProxy-Authenticate: Basic\r\nX-Kept: yes\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\nok",
            true,
        ),
        "own-cors" => (
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nVary: Accept\r\nAccess-Control-Allow-Origin: https://upstream.example\r\nAccess-Control-Allow-Credentials: true\r\nAccess-Control-Max-Age: 1\r\n\r\nok",
            true,
        ),
        "refuse-upgrade" => (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 7\r\nX-From: upstream\r\n\r\nrefused", true),
        _ => return None,
    })
}

async fn echo(wire: &mut Wire, request: &Received, seen: &Seen) -> io::Result<()> {
    let body = json!({
        "server": seen.name,
        "method": request.method,
        "target": request.target,
        "fields": request.head.fields,
        "body": String::from_utf8_lossy(&request.body.bytes),
        "length": request.body.bytes.len(),
        "swallowed": seen.swallowed.load(Ordering::SeqCst),
        "trailers": request.body.trailers,
        "connection": request.connection,
        "index": request.index,
    })
    .to_string();
    let length = body.len();
    let sent = if request.method == "HEAD" { "" } else { &body };
    wire.send(format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{sent}"
    ))
    .await
}

async fn big(wire: &mut Wire, mut left: u64, seen: &Seen) -> io::Result<bool> {
    wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {left}\r\n\r\n")).await?;
    let block = vec![b'b'; 64 * 1024];
    while left > 0 {
        let next = usize::try_from(left).unwrap().min(block.len());
        wire.send(&block[..next]).await?;
        seen.given.fetch_add(next as u64, Ordering::SeqCst);
        left -= next as u64;
    }
    Ok(true)
}

/// Without end, until the other side hangs up.
async fn ticks(wire: &mut Wire, seen: &Seen) -> io::Result<bool> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut sent = wire.send(head).await;
    while sent.is_ok() {
        sent = wire.send("6\r\ntick\n\n\r\n").await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    seen.cut_off.fetch_add(1, Ordering::SeqCst);
    Ok(false)
}

/// One event at once, the others when the test says so.
async fn events(wire: &mut Wire, count: u64, seen: &Seen) -> io::Result<bool> {
    wire.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .await?;
    for event in 0..count {
        if event == 1 {
            seen.released().await;
        }
        let data = format!("data: {event}\n\n");
        wire.send(format!("{:x}\r\n{data}\r\n", data.len())).await?;
    }
    wire.send("0\r\n\r\n").await?;
    Ok(true)
}

/// A WebSocket that sends every message back.
async fn web_socket(wire: &mut Wire, request: &Received, seen: &Seen) -> io::Result<bool> {
    let Some(key) = request.header("sec-websocket-key") else {
        wire.send("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n").await?;
        return Ok(true);
    };
    let accept = derive_accept_key(key.as_bytes());
    wire.send(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    ))
    .await?;
    let early = std::mem::take(&mut wire.buffer);
    let mut socket = WebSocketStream::from_partially_read(&mut wire.io, early, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        seen.tunnel.lock().unwrap().extend_from_slice(&message.clone().into_data());
        if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
            break;
        }
    }
    seen.cut_off.fetch_add(1, Ordering::SeqCst);
    Ok(false)
}

/// A protocol of its own: `<` and what came, and `bye` at the end of the stream.
async fn raw_echo(wire: &mut Wire, seen: &Seen) -> io::Result<bool> {
    wire.send("HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw-echo\r\nConnection: Upgrade\r\n\r\n").await?;
    loop {
        let got = std::mem::take(&mut wire.buffer);
        if !got.is_empty() {
            seen.tunnel.lock().unwrap().extend_from_slice(&got);
            wire.send([b"<", got.as_slice()].concat()).await?;
        }
        if !wire.fill().await? {
            seen.cut_off.fetch_add(1, Ordering::SeqCst);
            wire.send("bye").await?;
            return Ok(false);
        }
    }
}
