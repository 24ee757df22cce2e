//! Checks as no Envoy sends them, and calls that are none.

use std::net::SocketAddr;

use bytes::{BufMut, BytesMut};
use http::Request as HttpCall;

use super::*;
use crate::authorizer::own_address;
use crate::support::TestUpstream;
use crate::support::h2::{FrameSender, Frames, H2Client};

fn http_of(check: &mut CheckRequest) -> &mut HttpRequest {
    let attributes = check.attributes.as_mut().unwrap();
    attributes.request.as_mut().unwrap().http.as_mut().unwrap()
}

#[tokio::test]
async fn a_header_that_is_told_twice_is_refused() {
    let (_upstream, gateway) = usual().await;
    let admin = gateway.login("admin").await;
    let both = |headers: &[(&str, &str)]| {
        let mut check = check("GET", "/me", &of(&admin));
        http_of(&mut check).headers =
            headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        check
    };
    allowed(&ask(&gateway, both(&[])).await);
    let twice = "The original path or method is told twice, and not the same";
    assert_denied(&ask(&gateway, both(&[("accept", "*/*")])).await, 403, twice);
    let mut empty = joined("GET", "/me", &of(&admin));
    http_of(&mut empty).header_map = Some(HeaderMap::default());
    allowed(&ask(&gateway, empty).await);
}

#[tokio::test]
async fn pseudo_header_fields_say_what_the_attributes_say() {
    let (_upstream, gateway) = usual().await;
    let admin = gateway.login("admin").await;
    let [token, key] = of(&admin);
    let agreeing = [token, key, (":method", "GET"), (":path", "/me?a=1"), (":authority", "h")];
    allowed(&ask(&gateway, check("GET", "/me?a=1", &agreeing)).await);
    allowed(&ask(&gateway, joined("GET", "/me?a=1", &agreeing)).await);
    let twice = "The original path or method is told twice, and not the same";
    for other in [(":path", "/me?a=2"), (":path", "/api/v2/vault"), (":method", "DELETE")] {
        let fields = [token, key, other];
        assert_denied(&ask(&gateway, check("GET", "/me?a=1", &fields)).await, 403, twice);
        assert_denied(&ask(&gateway, joined("GET", "/me?a=1", &fields)).await, 403, twice);
    }
    // Bytes that are no UTF-8, which Envoy writes as `!` into the path.
    let mut raw = check("GET", "/me/!", &[token, key]);
    let field =
        HeaderValue { key: ":path".to_owned(), raw_value: b"/me/\xff".to_vec(), ..HeaderValue::default() };
    http_of(&mut raw).header_map.as_mut().unwrap().headers.push(field);
    assert_denied(&ask(&gateway, raw).await, 403, twice);
}

#[tokio::test]
async fn header_bytes_that_are_no_text_are_judged_as_they_are() {
    let (_upstream, gateway) = usual().await;
    let admin = gateway.login("admin").await;
    let mut asked = check("GET", "/me", &of(&admin));
    let field =
        HeaderValue { key: "x-note".to_owned(), raw_value: b"\xff\xfe".to_vec(), ..HeaderValue::default() };
    http_of(&mut asked).header_map.as_mut().unwrap().headers.push(field);
    allowed(&ask(&gateway, asked.clone()).await);
    let field =
        HeaderValue { key: "x-key".to_owned(), raw_value: b"\xff".to_vec(), ..HeaderValue::default() };
    http_of(&mut asked).header_map.as_mut().unwrap().headers.push(field);
    assert_denied(&ask(&gateway, asked).await, 403, "Ambiguous credentials");
}

#[tokio::test]
async fn an_own_path_is_told_as_it_is_read() {
    let (_upstream, gateway) = usual().await;
    for (sent, read) in [
        ("/login", None),
        ("/Login/?code=1", None),
        ("/%6cogin?code=%31", Some("/login?code=%31")),
        ("/x/..//logout", Some("/logout")),
    ] {
        let answer = ask(&gateway, check("POST", sent, &[])).await;
        assert_eq!(set(allowed(&answer), ":path"), read, "{sent}");
    }
}

#[tokio::test]
async fn only_loopback_and_trusted_proxies_may_ask() {
    let Some(address) = own_address() else {
        println!("this machine has no address but loopback: left out");
        return;
    };
    let upstream = TestUpstream::start().await;
    let ask_there = async |trusted: &str| {
        let gateway = TestGateway::configured(&upstream, |s| {
            let port = s.port_of("listen.ext_authz");
            s.set("listen.ext_authz", &format!("'0.0.0.0:{port}'"));
            s.set("listen.trusted_proxies", trusted);
        })
        .await;
        let admin = gateway.login("admin").await;
        let endpoint = format!("http://{address}:{}", gateway.ext_authz().port());
        let endpoint = Channel::from_shared(endpoint).unwrap().local_address(Some(address));
        let channel = within("a connection", endpoint.connect()).await.unwrap();
        let check = AuthorizationClient::new(channel).check(check("GET", "/me", &of(&admin))).await;
        check.unwrap().into_inner()
    };
    let stranger = ask_there("[]").await;
    assert_denied(&stranger, 403, "Not trusted to ask: its address is none of listen.trusted_proxies");
    allowed(&ask_there(&format!("['{address}']")).await);
}

/// What goes on behind what was judged may be another path to who does not cut it off.
#[tokio::test]
async fn a_fragment_that_holds_a_path_is_refused() {
    let (_upstream, gateway) = usual().await;
    for path in ["/public/x#/../../me", "/public/x#%2f..", "/login#/../me", "/public?x#/me", "/public/x#;a"] {
        assert_denied(&ask(&gateway, check("GET", path, &[])).await, 403, "Bad path");
    }
    for path in ["/public/x", "/public/x#", "/public/x#top"] {
        allowed(&ask(&gateway, check("GET", path, &[])).await);
    }
}

/// The head of a call and the beginning of a message of 4 MiB, which does not go on.
async fn half_a_message(addr: SocketAddr, path: &str) -> (FrameSender, H2Client, HttpCall<Frames>) {
    let (sender, frames) = Frames::channel();
    let call = HttpCall::post(format!("http://localhost{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(frames)
        .unwrap();
    sender.send(hyper::body::Frame::data(bytes::Bytes::from_static(b"\0\0\x3f\xff\xff\x0a"))).await.unwrap();
    (sender, H2Client::plain(addr).await, call)
}

#[tokio::test]
async fn a_message_that_does_not_come_is_not_waited_for() {
    let (_upstream, mut gateway) = configured(|s| s.set("limits.body_timeout", "'400ms'")).await;
    for path in [CHECK, "/grpc.health.v1.Health/Check"] {
        let (_sender, mut client, call) = half_a_message(gateway.ext_authz(), path).await;
        let answer = within("an answer", client.ask(call)).await;
        let late = i32::from(Code::DeadlineExceeded).to_string();
        let expected = if path == CHECK { late } else { i32::from(Code::OutOfRange).to_string() };
        assert_eq!(answer.headers["grpc-status"].to_str().unwrap(), expected, "{path}");
    }
    assert_eq!(gateway.terminate().await, 0);
}

/// Memory for messages is of those who may ask.
#[tokio::test]
async fn who_may_not_ask_is_not_read_and_does_not_watch() {
    let Some(address) = own_address() else { return };
    let upstream = TestUpstream::start().await;
    let gateway = TestGateway::configured(&upstream, |s| {
        let port = s.port_of("listen.ext_authz");
        s.set("listen.ext_authz", &format!("'0.0.0.0:{port}'"));
    })
    .await;
    let addr = SocketAddr::new(address, gateway.ext_authz().port());
    let (_sender, mut client, call) = half_a_message(addr, CHECK).await;
    let answer = within("an answer at once", client.ask(call)).await;
    assert_eq!(answer.status, 200);
    assert!(String::from_utf8_lossy(&answer.body).contains("Not trusted to ask"));
    let (_sender, mut client, call) = half_a_message(addr, "/grpc.health.v1.Health/Watch").await;
    let answer = within("an answer at once", client.ask(call)).await;
    assert_eq!(
        answer.headers["grpc-status"].to_str().unwrap(),
        i32::from(Code::PermissionDenied).to_string()
    );
}

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// Status and `grpc-status` of a call with these bytes, of this type, as one message.
async fn called(addr: SocketAddr, path: &str, content_type: &str, message: &[u8]) -> (u16, Option<String>) {
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap());
    framed.put_slice(message);
    let call = HttpCall::post(format!("http://localhost{path}"))
        .header("content-type", content_type)
        .header("te", "trailers")
        .body(Frames::full(framed.freeze()))
        .unwrap();
    let answer = H2Client::plain(addr).await.ask(call).await;
    let told = |map: &http::HeaderMap| Some(map.get("grpc-status")?.to_str().unwrap().to_owned());
    (answer.status, told(&answer.headers).or_else(|| answer.trailers.as_ref().and_then(told)))
}

#[tokio::test]
async fn a_call_that_is_no_check_is_an_error_and_no_verdict() {
    let (upstream, gateway) = usual().await;
    let addr = gateway.ext_authz();
    let failed = |code: Code| (200, Some(i32::from(code).to_string()));
    // An empty message is a check that names no request: denied, which is a good answer.
    assert_eq!(called(addr, CHECK, "application/grpc", b"").await, failed(Code::Ok));
    assert_eq!(called(addr, CHECK, "application/grpc", b"\xff\xff").await, failed(Code::Internal));
    let large = vec![0; 5 << 20];
    assert_eq!(called(addr, CHECK, "application/grpc", &large).await, failed(Code::OutOfRange));
    let other = "/envoy.service.auth.v3.Authorization/Other";
    assert_eq!(called(addr, other, "application/grpc", b"").await, failed(Code::Unimplemented));
    assert_eq!(called(addr, CHECK, "application/json", b"").await, (415, None));
    assert_eq!(called(addr, CHECK, "application/grpc-web", b"").await, (415, None));
    assert_eq!(called(addr, CHECK, "application/grpc+proto", b"").await, failed(Code::Ok));
    upstream.assert_untouched();
}
