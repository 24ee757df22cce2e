//! TLS: versions, ALPN, SNI, client certificates, timeouts (contract section 2, `[tls]` and `[limits]`).

use rustls::version::{TLS12, TLS13};

use crate::support::tls::{Authority, Leaf, Offer};
use crate::support::{Ask, Prepared, TestClient, TestGateway, TestUpstream, configured, usual};

#[tokio::test]
async fn both_versions_are_spoken_and_the_newer_is_preferred() {
    let (_upstream, gateway) = usual().await;
    for (versions, spoken) in [
        (&[&TLS12][..], rustls::ProtocolVersion::TLSv1_2),
        (&[&TLS13], rustls::ProtocolVersion::TLSv1_3),
        (&[&TLS12, &TLS13], rustls::ProtocolVersion::TLSv1_3),
    ] {
        let offer = Offer { versions, ..Offer::default() };
        let stream = gateway.authority().connect(gateway.https(), &offer).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.protocol_version(), Some(spoken));
        TestClient::over(stream).ask(&Ask::get("/public/x")).await.assert_ok();
    }
}

#[tokio::test]
async fn a_smallest_version_can_be_asked_for() {
    let (_upstream, gateway) = configured(|settings| settings.set("tls.min_version", "'1.3'")).await;
    let old = Offer { versions: &[&TLS12], ..Offer::default() };
    assert!(gateway.authority().connect(gateway.https(), &old).await.is_err());
    let new = Offer { versions: &[&TLS13], ..Offer::default() };
    assert!(gateway.authority().connect(gateway.https(), &new).await.is_ok());
}

#[tokio::test]
async fn alpn_picks_the_protocol_and_without_it_http1_is_spoken() {
    let (_upstream, gateway) = usual().await;
    for (alpn, picked) in [
        (&["h2", "http/1.1"][..], Some(&b"h2"[..])),
        (&["http/1.1", "h2"], Some(b"h2")),
        (&["http/1.1"], Some(b"http/1.1")),
        (&[], None),
    ] {
        let offer = Offer { alpn, ..Offer::default() };
        let stream = gateway.authority().connect(gateway.https(), &offer).await.expect("a handshake");
        let protocol = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        assert!(protocol.as_deref() == picked || alpn == ["http/1.1", "h2"], "{alpn:?}: {protocol:?}");
        if protocol.as_deref() != Some(b"h2") {
            TestClient::over(stream).ask(&Ask::get("/public/x")).await.assert_ok();
        }
    }
}

#[tokio::test]
async fn a_protocol_that_is_not_spoken_is_refused_in_the_handshake() {
    let (_upstream, gateway) = usual().await;
    let offer = Offer { alpn: &["gopher"], ..Offer::default() };
    assert!(gateway.authority().connect(gateway.https(), &offer).await.is_err());
}

#[tokio::test]
async fn the_name_asked_for_picks_the_certificate() {
    let upstream = TestUpstream::start().await;
    let other = Authority::new();
    let leaf = other.server(&["api.example.com"]);
    let gateway = TestGateway::configured(&upstream, |settings| {
        settings.file("sni.crt", leaf.certificate.as_bytes());
        settings.file("sni.key", leaf.key.as_bytes());
        settings
            .set("tls.sni", "[{ names = ['api.example.com'], cert_file = 'sni.crt', key_file = 'sni.key' }]");
    })
    .await;
    // Each authority signed one of the two: who verifies tells which certificate came.
    for (authority, name, good) in [
        (&other, "api.example.com", true),
        (gateway.authority(), "localhost", true),
        (gateway.authority(), "api.example.com", false),
        (&other, "localhost", false),
    ] {
        let offer = Offer { name, ..Offer::default() };
        assert_eq!(authority.connect(gateway.https(), &offer).await.is_ok(), good, "{name}");
    }
}

async fn asked_with(gateway: &TestGateway, certificate: Option<Leaf>) -> bool {
    let offer = Offer { certificate, alpn: &["http/1.1"], ..Offer::default() };
    match gateway.authority().connect(gateway.https(), &offer).await {
        Err(_) => false,
        // TLS 1.3: the server's refusal comes after the client's handshake has ended.
        Ok(stream) => {
            let mut client = TestClient::over(stream);
            client.send(Ask::get("/public/x").bytes()).await;
            match tokio::time::timeout(crate::support::wait::PATIENCE, client.wire.head()).await.unwrap() {
                Ok(Some(head)) => head.start.contains("200"),
                _ => false,
            }
        }
    }
}

#[tokio::test]
async fn where_client_certificates_are_asked_for_none_or_a_strangers_is_refused() {
    let clients = Authority::new();
    let (upstream, gateway) = configured(|settings| {
        settings.file("clients.crt", clients.pem.as_bytes());
        settings.set("tls.client_ca_file", "'clients.crt'");
    })
    .await;
    assert!(!asked_with(&gateway, None).await, "without one");
    assert!(!asked_with(&gateway, Some(Authority::new().client("stranger"))).await, "signed by a stranger");
    upstream.assert_untouched();
    assert!(asked_with(&gateway, Some(clients.client("friend"))).await, "signed by the right authority");
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_given_up() {
    let (_upstream, gateway) =
        configured(|settings| settings.set("limits.handshake_timeout", "'300ms'")).await;
    let mut silent = TestClient::connect(gateway.https()).await;
    assert!(silent.closed().await.is_empty());
    let mut half = TestClient::connect(gateway.https()).await;
    half.send([22, 3, 1, 0, 200, 1]).await;
    half.closed().await;
    gateway.tls_client().await.ask(&Ask::get("/public/x")).await.assert_ok();
}

#[tokio::test]
async fn plain_http_on_the_tls_port_gets_no_service() {
    let (upstream, gateway) = usual().await;
    let mut client = TestClient::connect(gateway.https()).await;
    client.send(Ask::get("/public/x").bytes()).await;
    let answer = client.closed().await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&answer));
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_host_that_was_not_named_in_the_handshake_gains_nothing() {
    let (_upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    let answer =
        gateway.tls_client().await.ask(&Ask::get("/api/v2/vault").with(&session).host("other.example")).await;
    assert!(matches!(answer.status, 403 | 421), "{}", answer.brief());
}

#[tokio::test]
async fn a_gateway_may_listen_with_tls_alone() {
    let upstream = TestUpstream::start().await;
    let url = upstream.url();
    let gateway = TestGateway::run(Prepared::new(|settings| {
        settings.set("upstreams.engine.servers", &format!("['{url}']"));
        settings.unset("listen.http");
    }))
    .await;
    gateway.tls_client().await.ask(&Ask::get("/public/x")).await.assert_ok();
    assert!(tokio::net::TcpStream::connect(gateway.http()).await.is_err());
}
