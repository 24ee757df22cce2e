//! TLS over real sockets: which certificate is shown to whom, who is let in, what is spoken.

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::Limits;
use super::scene::Server;
use super::tls::{Identity, MinVersion, TlsFault, TlsSettings, server_config};

/// A certificate that is its own authority.
fn identity(name: &str, names: &[&str]) -> Identity {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
    Identity {
        names: names.iter().map(|n| (*n).to_owned()).collect(),
        chain: vec![cert.der().clone()],
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
    }
}

fn settings(default: Identity, sni: Vec<Identity>) -> TlsSettings {
    TlsSettings { default, sni, client_ca: None, min_version: MinVersion::Tls12 }
}

fn start(settings: TlsSettings) -> Server {
    Server::start(Limits::default(), Some(settings))
}

fn client(trust: &[CertificateDer<'static>], alpn: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    trust.iter().for_each(|cert| roots.add(cert.clone()).unwrap());
    let mut config = builder(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
    config
}

fn builder(
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap()
}

async fn connect(
    server: &Server,
    config: &Arc<ClientConfig>,
    name: &str,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(server.addr()).await?;
    TlsConnector::from(config.clone()).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// One request over HTTP/1.1; the body of its answer.
async fn get(stream: TlsStream<TcpStream>) -> Result<Bytes, hyper::Error> {
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
    Ok(send.send_request(request).await?.into_body().collect().await?.to_bytes())
}

#[tokio::test]
async fn alpn_decides_what_is_spoken() {
    let identity = identity("a.example", &[]);
    let trust = identity.chain.clone();
    let server = start(settings(identity, Vec::new()));

    let stream = connect(&server, &Arc::new(client(&trust, &["http/1.1"])), "a.example").await.unwrap();
    assert_eq!(get(stream).await.unwrap(), "HTTP/1.1 true");
    let stream = connect(&server, &Arc::new(client(&trust, &[])), "a.example").await.unwrap();
    assert_eq!(get(stream).await.unwrap(), "HTTP/1.1 true");

    let stream = connect(&server, &Arc::new(client(&trust, &["h2", "http/1.1"])), "a.example").await.unwrap();
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let ask = |path: &str| {
        Request::post(format!("https://a.example{path}")).body(Full::new(Bytes::from_static(b"abc"))).unwrap()
    };
    let answers = futures(&mut send, &[ask("/echo"), ask("/"), ask("/panic"), ask("/echo")]).await;
    assert_eq!(answers[0], (200, Bytes::from_static(b"abc")));
    assert_eq!(answers[1], (200, Bytes::from_static(b"HTTP/2.0 true")));
    assert_eq!(answers[2].0, 500);
    assert_eq!(answers[3].0, 200, "a panic hurts no other stream");
    let broken = send.send_request(ask("/panic-later")).await;
    let broken = match broken {
        Ok(answer) => answer.into_body().collect().await.map(drop),
        Err(error) => Err(error),
    };
    assert!(broken.is_err(), "a body that panicked ended well");
    assert_eq!(futures(&mut send, &[ask("/echo")]).await[0].0, 200, "nor does one in a body");
    let mut other_host = ask("/");
    other_host.headers_mut().insert("host", "b.example".parse().unwrap());
    assert_eq!(futures(&mut send, &[other_host]).await[0].0, 400);
    drop(send);
    tokio::task::spawn_blocking(move || drop(server)).await.unwrap();
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn http2_ends_when_idle_and_bounds_heads() {
    let identity = identity("a.example", &[]);
    let config = Arc::new(client(&identity.chain, &["h2"]));
    let limits = Limits { idle_timeout: Duration::from_millis(300), ..Limits::default() };
    let server = Server::start(limits, Some(settings(identity, Vec::new())));
    let stream = connect(&server, &config, "a.example").await.unwrap();
    let (mut send, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = |size: usize| {
        Request::get("https://a.example/").header("x", "x".repeat(size)).body(Full::default()).unwrap()
    };
    let sent = send.send_request(request(40_000)).await;
    assert!(sent.map_or(true, |answer| answer.status() == 431));
    assert_eq!(futures(&mut send, &[request(20_000)]).await[0].0, 200);
    connection.await.unwrap().unwrap();
}

async fn futures(
    send: &mut hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    requests: &[Request<Full<Bytes>>],
) -> Vec<(u16, Bytes)> {
    let mut sent = tokio::task::JoinSet::new();
    for (n, request) in requests.iter().enumerate() {
        assert_ne!(request.version(), Version::HTTP_10);
        let answer = send.send_request(request.clone());
        sent.spawn(async move {
            let answer = answer.await.unwrap();
            let status = answer.status().as_u16();
            (n, status, answer.into_body().collect().await.unwrap().to_bytes())
        });
    }
    let mut all = sent.join_all().await;
    all.sort_by_key(|(n, ..)| *n);
    all.into_iter().map(|(_, status, body)| (status, body)).collect()
}

#[tokio::test]
async fn the_certificate_is_chosen_by_name() {
    let names = ["default.example", "api.example.com", "any.example.org"];
    let identities = [
        identity(names[0], &[]),
        identity(names[1], &["API.example.com"]),
        identity("*.example.org", &["*.Example.org"]),
    ];
    let certs: Vec<_> = identities.iter().map(|i| i.chain[0].clone()).collect();
    let [default, exact, wildcard] = identities;
    let server = start(settings(default, vec![exact, wildcard]));
    for (name, expected) in [
        ("api.example.com", 1),
        ("Api.Example.Com", 1),
        ("any.example.org", 2),
        ("ANY.example.org", 2),
        ("a.b.example.org", 0),
        ("example.org", 0),
        ("other.example", 0),
        ("127.0.0.1", 0),
    ] {
        let mut config = client(&certs, &[]);
        config.dangerous().set_certificate_verifier(Arc::new(AnyCertificate));
        let stream = connect(&server, &Arc::new(config), name).await.unwrap();
        assert_eq!(shown(&stream), certs[expected], "{name}");
    }
}

#[derive(Debug)]
struct AnyCertificate;

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn sessions_are_resumed_across_a_certificate_swap() {
    let first = identity("a.example", &[]);
    let second = identity("a.example", &[]);
    let config = Arc::new(client(&[first.chain[0].clone(), second.chain[0].clone()], &[]));
    let server = start(settings(first, Vec::new()));
    let stream = connect(&server, &config, "a.example").await.unwrap();
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
    get(stream).await.unwrap();
    server.swap(settings(second, Vec::new()));
    let stream = connect(&server, &config, "a.example").await.unwrap();
    assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Resumed));
}

#[tokio::test]
async fn a_required_client_certificate_is_asked_for_every_time() {
    let identity = identity("a.example", &[]);
    let trust = identity.chain[0].clone();
    let ca_key = KeyPair::generate().unwrap();
    let mut ca_params = CertificateParams::new([]).unwrap();
    ca_params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_cert = ca_params.self_signed(&ca_key).unwrap();
    let issuer = Issuer::from_params(&ca_params, &ca_key);
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(["client".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
    let server =
        start(TlsSettings { client_ca: Some(vec![ca_cert.der().clone()]), ..settings(identity, Vec::new()) });

    let mut roots = RootCertStore::empty();
    roots.add(trust.clone()).unwrap();
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = builder(&[version]).with_root_certificates(roots.clone());
        let config = Arc::new(config.with_client_auth_cert(vec![cert.der().clone()], key).unwrap());
        for _ in 0..2 {
            let stream = connect(&server, &config, "a.example").await.unwrap();
            assert_eq!(stream.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(get(stream).await.unwrap(), "HTTP/1.1 true");
        }
    }
    // In TLS 1.3 the refusal comes after the client's side of the handshake is done.
    if let Ok(stream) = connect(&server, &Arc::new(client(&[trust], &[])), "a.example").await {
        get(stream).await.unwrap_err();
    }
}

#[tokio::test]
async fn the_smallest_version_is_kept() {
    let identity = identity("a.example", &[]);
    let mut roots = RootCertStore::empty();
    roots.add(identity.chain[0].clone()).unwrap();
    let server = start(TlsSettings { min_version: MinVersion::Tls13, ..settings(identity, Vec::new()) });
    let config = |v| Arc::new(builder(&[v]).with_root_certificates(roots.clone()).with_no_client_auth());
    connect(&server, &config(&rustls::version::TLS12), "a.example").await.unwrap_err();
    connect(&server, &config(&rustls::version::TLS13), "a.example").await.unwrap();
}

#[test]
fn a_handshake_that_does_not_come_is_given_up() {
    let limits = Limits { handshake_timeout: Duration::from_millis(200), ..Limits::default() };
    let server = Server::start(limits, Some(settings(identity("a.example", &[]), Vec::new())));
    let mut silent = std::net::TcpStream::connect(server.addr()).unwrap();
    silent.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap(), 0);
}

#[test]
fn faults_name_the_identity() {
    let good = || identity("a.example", &["a.example"]);
    let mismatch = || Identity { key: good().key, ..good() };
    let fault = |default, sni| server_config(settings(default, sni)).unwrap_err();
    assert!(matches!(fault(mismatch(), Vec::new()), TlsFault::KeyMismatch { identity: 0 }));
    assert!(matches!(fault(good(), vec![good(), mismatch()]), TlsFault::KeyMismatch { identity: 2 }));
    let empty = Identity { chain: Vec::new(), ..good() };
    assert!(matches!(fault(good(), vec![empty]), TlsFault::Unusable { identity: 1, .. }));
    let garbage = Identity { chain: vec![CertificateDer::from(vec![1, 2, 3])], ..good() };
    assert!(matches!(fault(garbage, Vec::new()), TlsFault::Unusable { identity: 0, .. }));
    let no_ca = TlsSettings { client_ca: Some(Vec::new()), ..settings(good(), Vec::new()) };
    assert!(matches!(server_config(no_ca), Err(TlsFault::ClientCa { .. })));
    let mut params = CertificateParams::new(["a".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2000, 1, 1);
    let key = KeyPair::generate().unwrap();
    let expired = Identity {
        names: Vec::new(),
        chain: vec![params.self_signed(&key).unwrap().der().clone()],
        key: PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der())),
    };
    server_config(settings(expired, Vec::new())).unwrap();
}
