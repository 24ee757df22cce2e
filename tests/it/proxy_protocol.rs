//! `listen.proxy_protocol`: trusted proxies say whose connections they pass on (contract section 2). The test's own
//! address is the trusted proxy's here, another address of the loopback network is not.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::support::h2::{Frames, request};
use crate::support::settings::Settings;
use crate::support::tls::Offer;
use crate::support::wait::{until, within};
use crate::support::{Ask, PASSWORD, Peer, TestClient, TestGateway, TestUpstream, configured};

const STRANGER: [u8; 4] = [127, 0, 0, 2];
const V1: &[u8] = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n";

async fn proxied(change: impl FnOnce(&mut Settings)) -> (TestUpstream, TestGateway) {
    configured(|settings| {
        settings.set("listen.proxy_protocol", "true");
        settings.set("listen.trusted_proxies", "['127.0.0.1', '10.9.0.0/16']");
        change(settings);
    })
    .await
}

fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &length, rest].concat()
}

/// Of 203.0.113.7, with these bytes behind the addresses.
fn v2_tcp4(tlvs: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[&[203, 0, 113, 7, 192, 0, 2, 1, 0x12, 0x67, 1, 0xbb], tlvs].concat())
}

/// Headers that are taken, and whom the gateway sees for them.
fn good() -> Vec<(Vec<u8>, &'static str)> {
    let mut tcp6 = [0; 36];
    (tcp6[0], tcp6[1], tcp6[2], tcp6[3], tcp6[15]) = (0x20, 0x01, 0x0d, 0xb8, 7);
    let tlvs = [&[1, 0, 2, b'h', b'2', 2, 0, 1, b'x'][..], &[0xe0, 0x0e, 0x74], &[9; 3700]].concat();
    vec![
        (V1.to_vec(), "203.0.113.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY UNKNOWN 203.0.113.7 192.0.2.1 4711 443\r\n".to_vec(), "127.0.0.1"),
        (v2_tcp4(&[]), "203.0.113.7"),
        (v2_tcp4(&tlvs), "203.0.113.7"),
        (v2(0x21, 0x21, &tcp6), "2001:db8::7"),
        (v2(0x20, 0, &[]), "127.0.0.1"),
        (v2(0x21, 0, &[]), "127.0.0.1"),
        (v2(0x21, 0x31, &[1; 216]), "127.0.0.1"),
    ]
}

/// Asks on this connection, and asserts whom the upstream and the access log are told of.
async fn assert_client(
    (upstream, gateway): (&TestUpstream, &TestGateway),
    mut client: TestClient,
    path: &str,
    expected: &str,
) {
    client.ask(&Ask::get(path)).await.assert_ok();
    let seen = upstream.requests();
    let seen = seen.iter().find(|seen| seen.target == path).expect("a request");
    assert_eq!(seen.header("x-forwarded-for"), Some(expected), "{path}");
    assert_eq!(gateway.access_line(path).await["client"], expected, "{path}");
}

#[tokio::test]
async fn the_client_is_the_one_that_the_header_names() {
    let (upstream, gateway) = proxied(|_| {}).await;
    for (number, (header, client)) in good().into_iter().enumerate() {
        let mut plain = gateway.client().await;
        plain.send(&header).await;
        assert_client((&upstream, &gateway), plain, &format!("/public/plain/{number}"), client).await;
        let tls = TestClient::over(behind(&gateway, &header, &["http/1.1"]).await);
        assert_client((&upstream, &gateway), tls, &format!("/public/tls/{number}"), client).await;
    }
    let taken = gateway.metric("postern_proxy_headers_total", &["result=\"ok\""]).await;
    assert_eq!(taken, 2.0 * good().len() as f64);
}

#[tokio::test]
async fn what_stands_behind_the_header_in_one_segment_is_not_lost() {
    let (upstream, gateway) = proxied(|_| {}).await;
    for (number, (header, client)) in good().into_iter().enumerate() {
        let path = format!("/public/one/{number}");
        let answer = gateway.try_raw([header, Ask::get(&path).bytes()].concat()).await.expect("an answer");
        answer.assert_ok();
        assert_eq!(gateway.access_line(&path).await["client"], client);
    }
    assert_eq!(upstream.requests().len(), good().len());
}

#[tokio::test]
async fn a_header_that_comes_byte_by_byte_is_taken() {
    let (upstream, gateway) = proxied(|_| {}).await;
    for (number, (header, expected)) in
        [(V1.to_vec(), "203.0.113.7"), (v2_tcp4(&[4, 0, 1, 0]), "203.0.113.7")].into_iter().enumerate()
    {
        let path = format!("/public/bytes/{number}");
        let mut client = gateway.client().await;
        for byte in header {
            client.send([byte]).await;
            tokio::task::yield_now().await;
        }
        assert_client((&upstream, &gateway), client, &path, expected).await;
    }
}

#[tokio::test]
async fn http2_behind_a_header() {
    let (_upstream, gateway) = proxied(|_| {}).await;
    let stream = behind(&gateway, &v2_tcp4(&[]), &["h2"]).await;
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(hyper_util::rt::TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let asked = request("GET", "/public/two", None, Frames::empty());
    let answer = within("an answer", send.send_request(asked)).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(gateway.access_line("/public/two").await["client"], "203.0.113.7");
}

#[tokio::test]
async fn without_a_good_header_a_trusted_proxys_connection_is_closed_unanswered() {
    let (upstream, gateway) = proxied(|_| {}).await;
    let behind = Ask::get("/public/x").bytes();
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(200));
    let bad: Vec<Vec<u8>> = vec![
        Vec::new(),
        b"\x16\x03\x01\x02\x00\x01".to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 +9 443\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 009 443\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\n".to_vec(),
        b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 443\r\n".to_vec(),
        b"PROXYxTCP4 203.0.113.7 192.0.2.1 4711 443\r\n".to_vec(),
        long.into_bytes(),
        v2(0x31, 0x11, &[0; 12]),
        v2(0x21, 0x55, &[0; 12]),
        v2(0x21, 0x11, &[0; 3]),
        v2_tcp4(&[4; 5000]),
    ];
    for header in &bad {
        for addr in [gateway.http(), gateway.https()] {
            let mut client = TestClient::connect(addr).await;
            client.send([&header[..], &behind].concat()).await;
            let answer = client.closed().await;
            assert_eq!(answer.escape_ascii().to_string(), "", "{}", header.escape_ascii());
        }
    }
    upstream.assert_untouched();
    let failed = gateway.metric("postern_proxy_headers_total", &["result=\"failed\""]).await;
    assert_eq!(failed, 2.0 * bad.len() as f64);
    for said in ["does not begin with a PROXY protocol header", "is malformed", "is too long"] {
        until(said, || gateway.output().contains(said).then_some(())).await;
    }
}

#[tokio::test]
async fn of_others_no_header_is_read_and_none_is_asked() {
    let (_upstream, gateway) = proxied(|_| {}).await;
    gateway.ask_from(STRANGER, Ask::get("/public/direct")).await.assert_ok();
    assert_eq!(gateway.access_line("/public/direct").await["client"], "127.0.0.2");
    for header in [V1.to_vec(), v2_tcp4(&[])] {
        let mut client = TestClient::connect_from(STRANGER.into(), gateway.http()).await;
        client.send([&header[..], &Ask::get("/public/forged").bytes()].concat()).await;
        let answer = client.closed().await;
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{}", answer.escape_ascii());
        let mut client = TestClient::connect_from(STRANGER.into(), gateway.https()).await;
        client.send(&header).await;
        client.closed().await;
    }
    assert!(gateway.access_lines().iter().all(|line| line["path"] != "/public/forged"));
}

#[tokio::test]
async fn without_the_setting_no_header_is_read() {
    let (_upstream, gateway) =
        configured(|settings| settings.set("listen.trusted_proxies", "['127.0.0.1']")).await;
    gateway.ask(Ask::get("/public/x")).await.assert_ok();
    let mut client = gateway.client().await;
    client.send([V1, &Ask::get("/public/x").bytes()].concat()).await;
    assert!(client.closed().await.starts_with(b"HTTP/1.1 400"));
}

#[tokio::test]
async fn what_the_named_client_says_of_others_is_believed_only_of_a_trusted_proxy() {
    let (_upstream, gateway) = proxied(|_| {}).await;
    for (number, (header, expected)) in [
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1 2\r\n", "203.0.113.7"),
        ("PROXY TCP4 10.9.1.1 192.0.2.1 1 2\r\n", "198.51.100.9"),
        ("PROXY TCP6 ::ffff:10.9.1.1 ::1 1 2\r\n", "198.51.100.9"),
        ("PROXY UNKNOWN\r\n", "198.51.100.9"),
    ]
    .into_iter()
    .enumerate()
    {
        let path = format!("/public/trust/{number}");
        let mut client = gateway.client().await;
        client.send(header).await;
        client.ask(&Ask::get(&path).header("X-Forwarded-For", "198.51.100.9")).await.assert_ok();
        assert_eq!(gateway.access_line(&path).await["client"], expected, "{header}");
    }
}

#[tokio::test]
async fn logins_are_braked_by_the_address_in_the_header() {
    let (_upstream, gateway) = proxied(|settings| settings.set("login.max_failures", "2")).await;
    let login = async |client: &str, password: &str| {
        let header = format!("PROXY TCP4 {client} 192.0.2.1 1 2\r\n").into_bytes();
        let ask = Ask::login("100@example.org", password);
        gateway.try_raw([header, ask.bytes()].concat()).await.expect("an answer").status
    };
    for status in [401, 401, 429] {
        assert_eq!(login("203.0.113.7", "wrong").await, status);
    }
    assert_eq!(login("203.0.113.8", PASSWORD).await, 200);
}

#[tokio::test]
async fn a_header_that_does_not_come_in_time_closes_the_connection_and_holds_nobody_up() {
    let (_upstream, gateway) = proxied(|settings| settings.set("limits.handshake_timeout", "'500ms'")).await;
    let mut slow = Vec::new();
    for start in [&b""[..], b"PROXY TCP4 203.0.113.7 ", &v2_tcp4(&[])[..20]] {
        for addr in [gateway.http(), gateway.https()] {
            let mut client = TestClient::connect(addr).await;
            client.send(start).await;
            slow.push(client);
        }
    }
    let prompt = gateway.try_raw([V1, &Ask::get("/public/prompt").bytes()].concat()).await;
    prompt.expect("an answer").assert_ok();
    let count = slow.len();
    for mut client in slow {
        assert_eq!(client.closed().await, b"");
    }
    let timed_out = gateway.metric("postern_proxy_headers_total", &["result=\"timeout\""]).await;
    assert_eq!(timed_out, count as f64);
}

#[tokio::test]
async fn a_balancer_that_only_looks_whether_somebody_listens_is_no_fault() {
    let (_upstream, gateway) = proxied(|settings| settings.set("log.level", "'debug'")).await;
    drop(gateway.client().await);
    let told = until("the end of the connection", || {
        gateway.output().lines().find(|line| line.contains("it ended without a byte")).map(str::to_owned)
    })
    .await;
    assert!(told.contains("DEBUG"), "{told}");
    assert_eq!(gateway.metric("postern_proxy_headers_total", &[]).await, 0.0);
}

#[tokio::test]
async fn the_setting_needs_trusted_proxies_and_acts_at_the_next_start() {
    let (_upstream, mut gateway) = configured(|_| {}).await;
    let alone = gateway.reload_with(|settings| settings.set("listen.proxy_protocol", "true")).await;
    assert_eq!(alone.status, 409, "{}", alone.brief());
    assert!(alone.text().contains("listen.proxy_protocol: is of no use without trusted_proxies"));
    let both = gateway.reload_with(|settings| settings.set("listen.trusted_proxies", "['127.0.0.1']")).await;
    assert_eq!(both.status, 200, "{}", both.brief());
    assert!(both.text().contains("listen.proxy_protocol has changed"), "{}", both.text());
    gateway.ask(Ask::get("/public/x")).await.assert_ok();
}

#[tokio::test]
async fn haproxy_names_the_client_in_both_versions() {
    let (upstream, gateway) = proxied(|_| {}).await;
    for (number, (to, sending)) in [
        (gateway.http(), "send-proxy"),
        (gateway.http(), "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority"),
        (gateway.https(), "send-proxy"),
        (gateway.https(), "send-proxy-v2 proxy-v2-options crc32c"),
    ]
    .into_iter()
    .enumerate()
    {
        let Some(haproxy) = haproxy(to, sending).await else { return };
        let path = format!("/public/haproxy/{number}");
        let client = if to == gateway.http() {
            TestClient::connect_from(STRANGER.into(), haproxy.addr()).await
        } else {
            let stream = from(STRANGER.into(), haproxy.addr()).await;
            let offer = Offer { alpn: &["http/1.1"], ..Offer::default() };
            TestClient::over(gateway.authority().handshake(stream, &offer).await.expect("a handshake"))
        };
        assert_client((&upstream, &gateway), client, &path, "127.0.0.2").await;
        assert!(!haproxy.output().contains("DOWN"), "{}", haproxy.output());
    }
    assert_eq!(gateway.metric("postern_proxy_headers_total", &["result=\"failed\""]).await, 0.0);
}

/// It looks after its server's health with LOCAL connections.
async fn haproxy(to: SocketAddr, sending: &str) -> Option<Peer> {
    Peer::start("haproxy", |folder, addr| {
        let text = format!(
            "defaults\n mode tcp\n timeout connect 5s\n timeout client 30s\n timeout server 30s\n\
             frontend in\n bind {addr}\n unique-id-format %{{+X}}o%ci\n default_backend out\n\
             backend out\n server one {to} {sending} check check-send-proxy inter 50ms fall 1\n"
        );
        std::fs::write(folder.join("haproxy.cfg"), text).unwrap();
        ["-db", "-f", "haproxy.cfg"].map(str::to_owned).to_vec()
    })
    .await
}

async fn from(source: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(source, 0)).unwrap();
    within("a connection", socket.connect(to)).await.expect("a connection")
}

/// A TLS connection whose ClientHello comes in one segment with this header.
async fn behind(
    gateway: &TestGateway,
    header: &[u8],
    alpn: &[&str],
) -> tokio_rustls::client::TlsStream<Prefixed> {
    let stream = within("a connection", TcpStream::connect(gateway.https())).await.unwrap();
    let stream = Prefixed { stream, prefix: header.to_vec() };
    gateway.authority().handshake(stream, &Offer { alpn, ..Offer::default() }).await.expect("a handshake")
}

/// Its first write has these bytes before it.
struct Prefixed {
    stream: TcpStream,
    prefix: Vec<u8>,
}

impl AsyncRead for Prefixed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        let before = this.prefix.len();
        let both = [&this.prefix[..], buf].concat();
        let sent = ready!(Pin::new(&mut this.stream).poll_write(cx, &both))?;
        this.prefix.clear();
        Poll::Ready(Ok(sent.checked_sub(before).expect("a first write that takes the header")))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
