//! The external authorizer over gRPC (contract section 5), asked by a client of the same protocol.

mod odd;

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::address::Address as Kind;
use envoy_types::pb::envoy::config::core::v3::{Address, HeaderMap, HeaderValue, SocketAddress};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, OkHttpResponse,
};
use envoy_types::pb::google::protobuf::value::Kind as Text;
use tonic::Code;
use tonic::transport::Channel;
use tonic_health::ServingStatus;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use crate::support::wait::within;
use crate::support::{Ask, Session, TestGateway, configured, usual};

async fn channel(gateway: &TestGateway) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{}", gateway.ext_authz())).unwrap();
    within("a connection", endpoint.connect()).await.expect("the authorizer listens")
}

async fn client(gateway: &TestGateway) -> AuthorizationClient<Channel> {
    AuthorizationClient::new(channel(gateway).await)
}

/// A check as Envoy sends it with `encode_raw_headers`.
fn check(method: &str, path: &str, fields: &[(&str, &str)]) -> CheckRequest {
    let headers = fields.iter().map(|(name, value)| HeaderValue {
        key: (*name).to_owned(),
        raw_value: value.as_bytes().to_vec(),
        ..HeaderValue::default()
    });
    about(HttpRequest {
        method: method.to_owned(),
        path: path.to_owned(),
        header_map: Some(HeaderMap { headers: headers.collect() }),
        ..HttpRequest::default()
    })
}

/// A check as Envoy sends it otherwise: lines of a field are joined.
fn joined(method: &str, path: &str, fields: &[(&str, &str)]) -> CheckRequest {
    let headers: HashMap<_, _> =
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    about(HttpRequest { method: method.to_owned(), path: path.to_owned(), headers, ..HttpRequest::default() })
}

fn about(http: HttpRequest) -> CheckRequest {
    let address = SocketAddress { address: "203.0.113.9".to_owned(), ..SocketAddress::default() };
    let address = Address { address: Some(Kind::SocketAddress(address)) };
    let attributes = AttributeContext {
        source: Some(Peer { address: Some(address), ..Peer::default() }),
        request: Some(Request { http: Some(http), ..Request::default() }),
        ..AttributeContext::default()
    };
    CheckRequest { attributes: Some(attributes) }
}

fn of(session: &Session) -> [(&str, &str); 2] {
    [("x-access-token", &session.token), ("x-key", &session.key)]
}

async fn ask(gateway: &TestGateway, check: CheckRequest) -> CheckResponse {
    within("a verdict", client(gateway).await.check(check)).await.expect("an answer").into_inner()
}

#[track_caller]
fn allowed(answer: &CheckResponse) -> &OkHttpResponse {
    match &answer.http_response {
        Some(HttpResponse::OkResponse(ok)) if answer.status.as_ref().is_some_and(|s| s.code == 0) => ok,
        other => panic!("not allowed: {other:?}"),
    }
}

#[track_caller]
fn assert_denied(answer: &CheckResponse, status: i32, info: &str) {
    let Some(HttpResponse::DeniedResponse(denied)) = &answer.http_response else { panic!("{answer:?}") };
    let code = if status == 401 { Code::Unauthenticated } else { Code::PermissionDenied };
    assert_eq!(answer.status.as_ref().unwrap().code, i32::from(code));
    assert_eq!(denied.status.as_ref().unwrap().code, status, "{}", denied.body);
    assert_eq!(denied.body, format!(r#"{{"status":"error","info":"{info}"}}"#));
    let names: Vec<_> = denied.headers.iter().map(|o| o.header.as_ref().unwrap().key.as_str()).collect();
    assert!(names.contains(&"content-type") && names.contains(&"x-request-id"), "{names:?}");
}

fn set<'a>(ok: &'a OkHttpResponse, name: &str) -> Option<&'a str> {
    let mut fields = ok.headers.iter().filter_map(|option| option.header.as_ref());
    fields.find(|field| field.key == name).map(|field| field.value.as_str())
}

fn told(answer: &CheckResponse, name: &str) -> Option<String> {
    match answer.dynamic_metadata.as_ref()?.fields.get(name)?.kind.as_ref()? {
        Text::StringValue(text) => Some(text.clone()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn who_may_passes_with_an_identity_that_overwrites_what_was_sent() {
    let (upstream, gateway) = usual().await;
    let admin = gateway.login("admin").await;
    let [token, key] = of(&admin);
    let forged = [
        token,
        key,
        ("x-webitel-user", "root"),
        ("x_webitel_user", "root"),
        ("x-postern-anything", "1"),
        ("x-original-url", "/"),
        ("x-http-method-override", "GET"),
        ("accept", "*/*"),
        ("cookie", "a=b"),
    ];
    let answer = ask(&gateway, check("DELETE", "/api/v2/cdr/1?a=%2f", &forged)).await;
    let ok = allowed(&answer);
    assert_eq!(set(ok, "x-webitel-user"), Some("admin@example.org"));
    assert_eq!(set(ok, "x-webitel-domain"), Some("example.org"));
    assert_eq!(set(ok, "x-webitel-role"), Some("admin"));
    assert_eq!(set(ok, "x-postern-scope"), Some("all"));
    assert_eq!((set(ok, "x-access-token"), set(ok, "x-key")), (Some(&*admin.token), Some(&*admin.key)));
    assert_eq!(set(ok, ":path"), None, "the path stays as it was sent");
    let mut removed = ok.headers_to_remove.clone();
    removed.sort();
    assert_eq!(removed, ["x-http-method-override", "x-original-url", "x-postern-anything", "x_webitel_user"]);
    for (name, value) in [
        ("decision", "allow"),
        ("user", "admin@example.org"),
        ("domain", "example.org"),
        ("role", "admin"),
        ("resource", "cdr"),
        ("permission", "d"),
        ("route", "/api/v2/cdr"),
    ] {
        assert_eq!(told(&answer, name).as_deref(), Some(value));
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn refusals_are_those_of_the_authorizer_over_http() {
    let (_upstream, gateway) = usual().await;
    let user = gateway.login("100").await;
    let denied = ask(&gateway, check("DELETE", "/api/v2/cdr/1", &of(&user))).await;
    assert_denied(&denied, 403, "Permission denied!");
    assert_eq!(told(&denied, "reason").as_deref(), Some("no_permission"));
    assert_eq!(told(&denied, "decision").as_deref(), Some("deny"));
    assert_denied(&ask(&gateway, check("GET", "/me", &[])).await, 401, "Invalid token");
    let bad = ask(&gateway, check("GET", "/api/v2/cdr%2f1", &of(&user))).await;
    assert_denied(&bad, 403, "Bad path");
    let [token, key] = of(&user);
    let twice = ask(&gateway, check("GET", "/me", &[token, key, key])).await;
    assert_denied(&twice, 403, "Ambiguous credentials");
}

#[tokio::test]
async fn credentials_that_envoy_joined_are_two_all_the_same() {
    let (_upstream, gateway) = usual().await;
    let (admin, user) = (gateway.login("admin").await, gateway.login("100").await);
    allowed(&ask(&gateway, joined("GET", "/me", &of(&user))).await);
    let keys = format!("{},{}", user.key, admin.key);
    let twice = [("x-access-token", &*user.token), ("x-key", &*keys)];
    assert_denied(&ask(&gateway, joined("GET", "/me", &twice)).await, 403, "Ambiguous credentials");
}

#[tokio::test]
async fn what_is_forwarded_is_the_path_that_was_judged_without_credentials_in_its_query() {
    let (_upstream, gateway) = usual().await;
    let admin = gateway.login("admin").await;
    let path = format!("/me/x/..//%61?a=1&access_token={}&x%5Fkey={}&b=%2F", admin.token, admin.key);
    let answer = ask(&gateway, check("GET", &path, &[])).await;
    let ok = allowed(&answer);
    assert_eq!(set(ok, ":path"), Some("/me/a?a=1&b=%2F"));
    assert_eq!((set(ok, "x-access-token"), set(ok, "x-key")), (Some(&*admin.token), Some(&*admin.key)));
}

#[tokio::test]
async fn an_upstream_that_wants_no_credentials_gets_none() {
    let (_upstream, gateway) = configured(|s| s.set("upstreams.engine.forward_credentials", "false")).await;
    let admin = gateway.login("admin").await;
    let answer = ask(&gateway, check("GET", "/me", &of(&admin))).await;
    let ok = allowed(&answer);
    assert_eq!((set(ok, "x-access-token"), set(ok, "x-key")), (None, None));
    let mut removed = ok.headers_to_remove.clone();
    removed.sort();
    assert_eq!(removed, ["x-access-token", "x-key"]);
}

#[tokio::test]
async fn a_public_route_passes_with_what_came_but_no_forged_identity() {
    let (_upstream, gateway) = usual().await;
    let fields = [("x-key", "k"), ("x-webitel-role", "admin")];
    for path in ["/public", "/login"] {
        let answer = ask(&gateway, check("POST", path, &fields)).await;
        let ok = allowed(&answer);
        assert!(ok.headers.is_empty(), "{:?}", ok.headers);
        assert_eq!(ok.headers_to_remove, ["x-webitel-role"], "{path}");
        assert_eq!(told(&answer, "user"), None);
    }
}

#[tokio::test]
async fn a_check_that_names_no_request_is_refused() {
    let (_upstream, gateway) = usual().await;
    let admin = gateway.login("admin").await;
    let nothing = "The check has no attributes.request.http with a method and a path";
    assert_denied(&ask(&gateway, CheckRequest::default()).await, 403, nothing);
    assert_denied(&ask(&gateway, check("", "/me", &of(&admin))).await, 403, nothing);
    assert_denied(&ask(&gateway, check("GET", "", &of(&admin))).await, 403, nothing);
    for path in ["me", "*", "http://h/me"] {
        let text = "The path is neither a path nor a URL with one";
        assert_denied(&ask(&gateway, check("GET", path, &of(&admin))).await, 403, text);
    }
    let broken = [("x-key", "a\nb")];
    assert_denied(
        &ask(&gateway, check("GET", "/me", &broken)).await,
        403,
        "A header field of the check is none",
    );
}

#[tokio::test]
async fn the_log_has_the_client_that_envoy_saw() {
    let (_upstream, gateway) = usual().await;
    let user = gateway.login("100").await;
    let [token, key] = of(&user);
    let fields = [token, key, ("x-request-id", "envoys-own-id")];
    allowed(&ask(&gateway, check("GET", "/api/v2/cdr/77", &fields)).await);
    let line = gateway.access_line("/api/v2/cdr/77").await;
    assert_eq!((&line["client"], &line["status"]), (&"203.0.113.9".into(), &200.into()));
    assert_eq!((&line["user"], &line["request_id"]), (&"100@example.org".into(), &"envoys-own-id".into()));
}

#[tokio::test]
async fn many_checks_share_a_connection() {
    let (_upstream, gateway) = usual().await;
    let admin = gateway.login("admin").await;
    let client = client(&gateway).await;
    let checks = (0..300).map(|n| {
        let (mut client, admin) = (client.clone(), &admin);
        async move {
            let granted = n % 2 == 0;
            let fields = of(admin);
            let fields = if granted { &fields[..] } else { &[] };
            let answer = client.check(check("GET", "/me", fields)).await.unwrap().into_inner();
            assert_eq!(answer.status.unwrap().code == 0, granted);
        }
    });
    within("all verdicts", futures_util::future::join_all(checks)).await;
    assert_eq!(gateway.metric("postern_connections", &["listener=\"ext_authz\""]).await, 1.0);
}

#[tokio::test]
async fn health_is_told_and_ends_with_the_drain() {
    let (_upstream, mut gateway) = configured(|s| s.set("limits.drain_delay", "'1s'")).await;
    let mut health = HealthClient::new(channel(&gateway).await);
    for service in ["", "envoy.service.auth.v3.Authorization"] {
        let asked = HealthCheckRequest { service: service.to_owned() };
        let answer = within("health", health.check(asked)).await.unwrap().into_inner();
        assert_eq!(answer.status, ServingStatus::Serving as i32, "{service}");
    }
    let unknown = HealthCheckRequest { service: "other".to_owned() };
    assert_eq!(health.check(unknown).await.unwrap_err().code(), Code::NotFound);
    let mut watched = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    let first = within("the first state", watched.message()).await.unwrap().unwrap();
    assert_eq!(first.status, ServingStatus::Serving as i32);
    gateway.signal(rustix::process::Signal::TERM);
    let second = within("the second state", watched.message()).await.unwrap().unwrap();
    assert_eq!(second.status, ServingStatus::NotServing as i32);
    assert!(within("the end", watched.message()).await.unwrap().is_none());
    assert_eq!(gateway.exit_code().await, 0);
    assert!(!gateway.output().contains("the drain took too long"), "{}", gateway.output());
}

#[tokio::test]
async fn a_drain_loses_no_check() {
    let (_upstream, mut gateway) = usual().await;
    let admin = gateway.login("admin").await;
    let client = client(&gateway).await;
    let running = (0..8).map(|_| {
        let (mut client, admin) = (client.clone(), &admin);
        async move {
            let mut answered = 0;
            while let Ok(answer) = client.check(check("GET", "/me", &of(admin))).await {
                allowed(&answer.into_inner());
                answered += 1;
            }
            answered
        }
    });
    let (counts, code) = within("the end", async {
        tokio::join!(futures_util::future::join_all(running), async {
            let line = gateway.access_line("/me").await;
            assert_eq!(line["status"], 200);
            gateway.terminate().await
        })
    })
    .await;
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    assert_eq!(code, 0);
}

#[tokio::test]
async fn another_service_is_unimplemented() {
    let (_upstream, gateway) = usual().await;
    let answer = gateway.ask(Ask::post("/envoy.service.auth.v3.Authorization/Check")).await;
    answer.assert_error(401);
    let mut grpc = tonic::client::Grpc::new(channel(&gateway).await);
    grpc.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<CheckRequest, CheckResponse>::default();
    let path = http::uri::PathAndQuery::from_static("/envoy.service.auth.v2.Authorization/Check");
    let status = grpc.unary(tonic::Request::new(CheckRequest::default()), path, codec).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}
