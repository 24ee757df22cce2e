//! How long is waited for whom: servers that read slowly or not at all, clients that send slowly or stop.

use super::servers::front;
use super::*;
use http_body_util::Full;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn upgrade(protocol: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n")
}

/// A server that switches to whatever is asked for, and what it then does.
async fn switching<F>(protocol: &'static str, then: impl Fn(Conn) -> F + Copy + 'static) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
{
    let serve = move |mut conn: Conn, _| async move {
        conn.head().await;
        let head = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ";
        conn.send(format!("{head}{protocol}\r\n\r\n").as_bytes()).await;
        then(conn).await;
    };
    server(serve).await.0
}

async fn switched(protocol: &str, server: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(front(Client::of(server)).await).await.unwrap();
    stream.write_all(upgrade(protocol).as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(stream.read_buf(&mut head).await.unwrap() > 0, "{:?}", String::from_utf8_lossy(&head));
    }
    stream
}

/// A client that has vanished behind its last word would be held for as long as its server says nothing.
#[test]
fn a_half_closed_websocket_whose_server_is_silent_ends() {
    on_a_worker(async {
        let server = switching("websocket", |mut conn| async move {
            while conn.stream.read_buf(&mut conn.buf).await.unwrap() > 0 {}
            conn.send(&[0x89, 0]).await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            conn.send(&[0x89, 0]).await;
            std::future::pending().await
        });
        let mut stream = switched("websocket", server.await).await;
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, [0x89, 0, 0x89, 0], "what it still said came");
    });
}

#[test]
#[cfg(target_os = "linux")]
fn a_tunnel_whose_server_takes_nothing_ends() {
    on_a_worker(async {
        let server = switching("rawecho", |conn| async move {
            let _open = conn;
            std::future::pending().await
        });
        let mut stream = switched("rawecho", server.await).await;
        let piece = vec![0; 1 << 20];
        while stream.write_all(&piece).await.is_ok() {}
    });
}

#[test]
fn a_server_that_reads_steadily_is_waited_for_however_long_it_takes() {
    on_a_worker(async {
        const SIZE: usize = 24 << 20;
        let (addr, _) = server(|mut conn, _| async move {
            conn.head().await;
            let mut taken = conn.buf.len();
            while taken < SIZE {
                let mut piece = [0; 64 * 1024];
                match conn.stream.read(&mut piece).await.unwrap() {
                    0 => panic!("cut off at {taken}"),
                    read => taken += read,
                }
                // Slower than what may be waited for would be, were the whole of it waited for.
                tokio::time::sleep(Duration::from_millis(4)).await;
            }
            conn.send(OK).await;
        })
        .await;
        let body = Full::new(Bytes::from(vec![b'x'; SIZE]));
        let answer = Client::of(addr).ask(Method::PUT, &[], body).await.unwrap();
        assert_eq!(text_of(answer.into_body()).await.unwrap(), "ok");
    });
}

/// Or clients could have servers ejected by sending slowly.
#[test]
fn a_server_that_is_tired_of_a_slow_client_is_not_held_to_fail() {
    on_a_worker(async {
        let (addr, _) = server(|mut conn, _| async move {
            conn.until(b"begun").await;
        })
        .await;
        let eject = EjectSettings { failures: 1, ..EjectSettings::default() };
        let client = Client::with(UpstreamSettings { eject, ..settings(&[addr, answering(OK).await.0]) });
        for _ in 0..4 {
            let (sender, body) = pieces();
            sender.send(piece("begun")).unwrap();
            let asked = client.ask(Method::POST, &[("content-length", "9")], body).await;
            assert!(matches!(asked, Ok(_) | Err(ForwardError::Broken(_) | ForwardError::RequestBodyTimeout)));
        }
        assert!(client.group.shared.servers().iter().all(|server| server.is_asked()));
        let failures: Vec<_> =
            client.group.shared.servers().iter().map(|server| server.standing.failures_in_a_row()).collect();
        assert_eq!(failures, [0, 0]);
    });
}
