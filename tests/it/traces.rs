//! Traces over OTLP (contract section 2, `[telemetry]`), seen by a collector that speaks gRPC.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_util::{SinkExt, StreamExt};
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::collector::{Exported, named};
use crate::support::ports::Port;
use crate::support::wait::{until, until_async, within};
use crate::support::{Ask, Collector, PASSWORD, Prepared, Session, TestGateway, TestUpstream, configured};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

async fn traced() -> (Collector, TestUpstream, TestGateway) {
    let collector = Collector::start().await;
    let endpoint = collector.endpoint();
    let (upstream, gateway) = configured(|settings| settings.set("telemetry.otlp_endpoint", &endpoint)).await;
    (collector, upstream, gateway)
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{CALLER}-{flags}")
}

/// Trace, parent and flags that the upstream was given.
fn given(upstream: &TestUpstream) -> (String, String, String) {
    let last = upstream.last();
    let words: Vec<_> = last.header("traceparent").unwrap().split('-').map(str::to_owned).collect();
    let [_, trace, parent, flags] = &words[..] else { panic!("{words:?}") };
    (trace.clone(), parent.clone(), flags.clone())
}

fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap()
}

#[track_caller]
fn assert_has(span: &Exported, attributes: &[(&str, &str)]) {
    for (name, value) in attributes {
        assert_eq!(span.text(name).as_deref(), Some(*value), "{name} of {:?}", span.span);
    }
}

#[tokio::test]
async fn a_forwarded_request_is_three_spans_and_the_upstream_goes_on_below_the_last() {
    let (collector, upstream, gateway) = traced().await;
    let session = gateway.login("admin").await;
    let before = now();
    gateway.ask(Ask::post("/up/status/201?a=b").with(&session).body("hello")).await;
    let spans = collector.request("/up/status/201").await;
    assert_eq!(spans.len(), 3, "{spans:?}");
    let (server, decision, client) =
        (named(&spans, "POST /up"), named(&spans, "decision"), named(&spans, "upstream"));
    let kinds = [server, decision, client].map(|span| span.span.kind());
    assert_eq!(kinds, [SpanKind::Server, SpanKind::Internal, SpanKind::Client]);
    assert_eq!(
        (server.parent(), decision.parent(), client.parent()),
        (String::new(), server.id(), server.id())
    );
    assert_eq!(given(&upstream), (server.trace(), client.id(), "01".to_owned()));
    assert!(spans.iter().all(|span| span.trace() == server.trace()));
    assert_has(
        server,
        &[
            ("http.request.method", "POST"),
            ("http.route", "/up"),
            ("http.response.status_code", "201"),
            ("url.scheme", "http"),
            ("client.address", "127.0.0.1"),
            ("network.protocol.version", "1.1"),
            ("postern.decision", "allow"),
            ("postern.role", "admin"),
        ],
    );
    assert_has(
        client,
        &[
            ("server.address", "127.0.0.1"),
            ("server.port", &upstream.addr.port().to_string()),
            ("postern.upstream", "engine"),
            ("http.response.status_code", "201"),
        ],
    );
    assert_eq!(server.resource("service.name").as_deref(), Some("postern"));
    assert_eq!(server.resource("service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
    let times = |span: &Exported| (span.span.start_time_unix_nano, span.span.end_time_unix_nano);
    let ((began, ended), (asked, answered)) = (times(server), times(client));
    assert_eq!(times(decision).0, began);
    assert!(before <= began && times(decision).1 <= asked && asked <= answered && answered <= ended);
    assert!(ended <= now());
    let line = gateway.access_line("/up/status/201").await;
    assert_eq!(line["trace_id"], server.trace());
}

#[tokio::test]
async fn a_callers_trace_goes_on_through_the_gateway() {
    let (collector, upstream, gateway) = traced().await;
    let ask = Ask::get("/public/x").header("traceparent", traceparent("01")).header("tracestate", "a=1,b=2");
    gateway.ask(ask).await.assert_ok();
    let spans = collector.request("/public/x").await;
    let (server, client) = (named(&spans, "GET /public"), named(&spans, "upstream"));
    assert_eq!((server.trace(), server.parent()), (TRACE.to_owned(), CALLER.to_owned()));
    assert_eq!(given(&upstream), (TRACE.to_owned(), client.id(), "01".to_owned()));
    assert_eq!(upstream.last().header("tracestate"), Some("a=1,b=2"));
}

#[tokio::test]
async fn what_the_caller_does_not_record_is_not_recorded() {
    let (collector, upstream, mut gateway) = traced().await;
    gateway.ask(Ask::get("/public/quiet").header("traceparent", traceparent("00"))).await.assert_ok();
    let (trace, parent, flags) = given(&upstream);
    assert_eq!((trace.as_str(), flags.as_str()), (TRACE, "00"));
    assert_ne!(parent, CALLER);
    gateway.ask(Ask::get("/public/loud")).await.assert_ok();
    assert_eq!(gateway.terminate().await, 0);
    assert_eq!(collector.spans_of("/public/loud").len(), 3);
    assert_eq!(collector.spans().len(), 3, "{}", collector.text());
}

#[tokio::test]
async fn of_traces_that_begin_here_only_a_part_may_be_recorded() {
    let collector = Collector::start().await;
    let endpoint = collector.endpoint();
    let (upstream, mut gateway) = configured(|settings| {
        settings.set("telemetry.otlp_endpoint", &endpoint);
        settings.set("telemetry.sample_ratio", "0.0");
    })
    .await;
    gateway.ask(Ask::get("/public/ours")).await.assert_ok();
    assert_eq!(given(&upstream).2, "00");
    gateway.ask(Ask::get("/public/theirs").header("traceparent", traceparent("01"))).await.assert_ok();
    assert_eq!(gateway.terminate().await, 0);
    assert_eq!(collector.spans().len(), collector.spans_of("/public/theirs").len());
    assert_eq!(collector.spans().len(), 3);
}

#[tokio::test]
async fn a_refusal_says_why() {
    let (collector, upstream, mut gateway) = traced().await;
    let session = gateway.login("100").await;
    for (ask, path, name, status) in [
        (Ask::get("/api/v2/vault/1").with(&session), "/api/v2/vault/1", "GET /api/v2/vault", 403),
        (Ask::get("/me/anonymous"), "/me/anonymous", "GET /me", 401),
        (Ask::new("PROPFIND", "/no/route").with(&session), "/no/route", "HTTP", 403),
        (Ask::get("/a%2fb"), "/a%2fb", "GET", 400),
    ] {
        gateway.ask(ask).await.assert_error(status);
        let spans = collector.request(path).await;
        assert_eq!(spans.len(), 2, "{spans:?}");
        let reason = gateway.access_line(path).await["reason"].as_str().unwrap().to_owned();
        for name in [name, "decision"] {
            assert_has(named(&spans, name), &[("postern.decision", "deny"), ("postern.reason", &reason)]);
        }
        assert_has(named(&spans, name), &[("http.response.status_code", &status.to_string())]);
    }
    upstream.assert_untouched();
    assert_eq!(gateway.terminate().await, 0);
}

#[tokio::test]
async fn a_server_that_fails_is_an_error_of_the_upstream_span() {
    let (collector, upstream, gateway) = traced().await;
    let session = gateway.login("admin").await;
    gateway.ask(Ask::get("/up/cut-head").with(&session)).await.assert_error(502);
    let spans = collector.request("/up/cut-head").await;
    let client = named(&spans, "upstream");
    assert_has(client, &[("error.type", "broken"), ("server.port", &upstream.addr.port().to_string())]);
    assert_eq!(client.text("http.response.status_code"), None);
    assert_has(
        named(&spans, "GET /up"),
        &[("http.response.status_code", "502"), ("error.type", "broken_answer")],
    );
}

#[tokio::test]
async fn logins_and_logouts_are_spans_without_a_user() {
    let (collector, _upstream, mut gateway) = traced().await;
    let session = gateway.login("100").await;
    gateway.ask(Ask::login("100@example.org", "wrong")).await.assert_error(401);
    gateway.ask(Ask::post("/logout").with(&session)).await.assert_ok();
    assert_eq!(gateway.terminate().await, 0);
    // Threads hand theirs over in any order.
    let mut spans = collector.spans();
    spans.sort_by_key(|span| span.span.start_time_unix_nano);
    assert_eq!(spans.len(), 3, "{spans:?}");
    let logins: Vec<_> = spans.iter().filter(|span| span.span.name == "POST /login").collect();
    assert_has(logins[0], &[("http.response.status_code", "200")]);
    assert_has(logins[1], &[("http.response.status_code", "401"), ("postern.reason", "invalid_credentials")]);
    assert_has(named(&spans, "POST /logout"), &[("http.response.status_code", "200")]);
    assert!(!collector.text().contains("100@"), "{}", collector.text());
}

/// The first request of a connection tells of its handshake, the second does not.
#[tokio::test]
async fn a_handshake_belongs_to_the_first_request_of_its_connection() {
    let (collector, _upstream, gateway) = traced().await;
    let mut client = gateway.tls_client().await;
    client.ask(&Ask::get("/public/first")).await.assert_ok();
    client.ask(&Ask::get("/public/second")).await.assert_ok();
    let (second, first) =
        (collector.request("/public/second").await, collector.request("/public/first").await);
    assert_eq!((first.len(), second.len()), (4, 3));
    let (server, handshake) = (named(&first, "GET /public"), named(&first, "tls handshake"));
    assert_eq!((handshake.parent(), handshake.trace()), (server.id(), server.trace()));
    assert_has(handshake, &[("tls.protocol.version", "1.3")]);
    assert_has(server, &[("url.scheme", "https")]);
    let span = &handshake.span;
    assert!(span.start_time_unix_nano < span.end_time_unix_nano);
    assert!(span.end_time_unix_nano <= server.span.start_time_unix_nano);
}

#[tokio::test]
async fn an_upgraded_request_ends_with_its_stream() {
    let (collector, upstream, mut gateway) = traced().await;
    let session = gateway.login("admin").await;
    let mut request = "ws://localhost/up/ws".into_client_request().unwrap();
    request.headers_mut().insert("x-access-token", session.token.parse().unwrap());
    request.headers_mut().insert("x-key", session.key.parse().unwrap());
    let stream = TcpStream::connect(gateway.http()).await.unwrap();
    let (mut socket, _) = within("the WebSocket handshake", client_async(request, stream)).await.unwrap();
    let parent = given(&upstream).1;
    socket.send(Message::text("hello")).await.unwrap();
    within("the echo", socket.next()).await.unwrap().unwrap();
    // Later than the 101, and exported before it.
    gateway.ask(Ask::get("/public/meanwhile")).await.assert_ok();
    collector.request("/public/meanwhile").await;
    assert!(collector.spans_of("/up/ws").is_empty());
    let closing = now();
    drop(socket);
    let spans = collector.request("/up/ws").await;
    let server = named(&spans, "GET /up");
    assert_has(server, &[("http.response.status_code", "101")]);
    assert!(server.span.end_time_unix_nano >= closing);
    let client = named(&spans, "upstream");
    assert_eq!(client.id(), parent);
    assert!(client.span.end_time_unix_nano < closing, "it ends with the answer's head");
    assert_eq!(gateway.terminate().await, 0);
}

/// Everything that could leak, then everything that was exported.
#[tokio::test]
async fn nothing_that_is_exported_holds_a_secret() {
    let (collector, _upstream, mut gateway) = traced().await;
    let session = gateway.login("100").await;
    let other = gateway.login("200").await;
    let leaky = |session: &Session| {
        let query = session.query();
        vec![
            Ask::get("/me/x").with(session),
            Ask::get(format!("/me/x?a=1&{query}&b=2")),
            Ask::get(format!("/me/x?%61ccess_token={}&x%5Fkey={}", session.token, session.key)),
            Ask::get(format!("/public/x?{query}")),
            Ask::get(format!("/me/x;{query}")),
            Ask::get(format!("/me/x%3F{query}")),
            Ask::get(format!("/me/x%253f{query}")),
            Ask::get(format!("/me/x?x_key[]={}", session.key)).with(session),
            Ask::get(format!("/a%2fb?{query}")),
            Ask::get(format!("/nothing?{query}")),
            Ask::get(format!("/me/x?{query}")).header("Referer", format!("https://a/?{query}")),
            Ask::get("/me/x").with(session).header("tracestate", format!("a={}", session.key)),
            Ask::get("/up/drop").with(session),
            Ask::post(format!("/login?code=123456&{query}")).body(PASSWORD),
            Ask::post(format!("/logout?{query}")),
        ]
    };
    for ask in leaky(&session).into_iter().chain(leaky(&other)) {
        gateway.ask(ask).await;
    }
    gateway.ask(Ask::login("100@example.org", "a-wrong-Password-77")).await;
    gateway.try_raw(format!("GET /me/x?{} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", session.query())).await;
    assert_eq!(gateway.terminate().await, 0);
    let text = collector.text();
    assert!(collector.spans().len() > 60, "{}", collector.spans().len());
    let signature = session.token.rsplit('.').next().unwrap();
    let secrets = [&session.key, &session.token, &other.key, &other.token, PASSWORD, "a-wrong-Password-77"];
    for secret in secrets.into_iter().chain([signature, "123456", "x_key", "access_token", "100@", "200@"]) {
        assert!(!text.contains(secret), "{secret} was exported");
    }
}

#[tokio::test]
async fn all_that_is_recorded_is_sent_before_the_end() {
    let (collector, _upstream, mut gateway) = traced().await;
    let mut client = gateway.client().await;
    for number in 0..300 {
        client.ask(&Ask::get(format!("/public/{number}"))).await.assert_ok();
    }
    drop(client);
    assert_eq!(gateway.terminate().await, 0);
    assert_eq!(collector.spans().len(), 900);
    for number in [0, 299] {
        assert_eq!(collector.spans_of(&format!("/public/{number}")).len(), 3);
    }
}

#[tokio::test]
async fn a_collector_that_is_away_costs_spans_and_nothing_else() {
    let port = Port::claim();
    let endpoint = format!("'http://{}'", port.addr());
    let (_upstream, mut gateway) =
        configured(|settings| settings.set("telemetry.otlp_endpoint", &endpoint)).await;
    let mut client = gateway.client().await;
    for number in 0..50 {
        client.ask(&Ask::get(format!("/public/{number}"))).await.assert_ok();
    }
    until_async("spans to be lost", || async {
        gateway.metric("postern_spans_dropped_total", &[]).await > 0.0
    })
    .await;
    client.ask(&Ask::get("/public/still")).await.assert_ok();
    until("the complaint", || gateway.output().contains("traces were lost").then_some(())).await;
    assert_eq!(gateway.output().matches("traces were lost").count(), 1, "{}", gateway.output());

    // It comes, and is sent what is recorded from then on.
    let collector = Collector::at(port.addr()).await;
    within("spans to be taken", async {
        while collector.spans_of("/public/again").is_empty() {
            client.ask(&Ask::get("/public/again")).await.assert_ok();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    // Counted once the collector's answer is there.
    until_async("spans to be counted", || async {
        gateway.metric("postern_spans_exported_total", &[]).await > 0.0
    })
    .await;
    drop(collector);
    client.ask(&Ask::get("/public/last")).await.assert_ok();
    drop(client);
    let began = Instant::now();
    assert_eq!(gateway.terminate().await, 0);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_collector_that_never_answers_is_not_waited_for_long() {
    let silent = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let endpoint = format!("'http://{}'", silent.local_addr().unwrap());
    let (_upstream, mut gateway) =
        configured(|settings| settings.set("telemetry.otlp_endpoint", &endpoint)).await;
    gateway.ask(Ask::get("/public/x")).await.assert_ok();
    let began = Instant::now();
    assert_eq!(gateway.terminate().await, 0);
    let took = began.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(8)).contains(&took), "{took:?}");
    assert!(gateway.output().contains("too slow for the last traces"), "{}", gateway.output());
}

#[tokio::test]
async fn a_collector_may_speak_tls() {
    let upstream = TestUpstream::start().await;
    let url = upstream.url();
    let mut prepared = Prepared::new(|settings| {
        settings.set("upstreams.engine.servers", &format!("['{url}']"));
    });
    let collector = Collector::tls(&prepared.authority.server(&["127.0.0.1"])).await;
    prepared.settings.set("telemetry.otlp_endpoint", &collector.endpoint());
    prepared.settings.file("roots.pem", prepared.authority.pem.as_bytes());
    prepared.settings.write(prepared.folder.path());
    // How the roots of a system are named to those who look for them.
    let roots = prepared.folder.path().join("roots.pem").to_str().unwrap().to_owned();
    prepared.env.push(("SSL_CERT_FILE".to_owned(), roots));
    let gateway = TestGateway::run(prepared).await;
    gateway.ask(Ask::get("/public/secretly")).await.assert_ok();
    assert_eq!(collector.request("/public/secretly").await.len(), 3);
}

#[tokio::test]
async fn another_collector_acts_at_the_next_start() {
    let (collector, _upstream, mut gateway) = traced().await;
    let answer = gateway.reload_with(|s| s.set("telemetry.otlp_endpoint", "'http://127.0.0.1:9'")).await;
    let warnings = answer.json()["warnings"].to_string();
    assert!(warnings.contains("telemetry has changed; that acts at the next start"), "{}", answer.text());
    gateway.ask(Ask::get("/public/x")).await.assert_ok();
    assert_eq!(collector.request("/public/x").await.len(), 3);
    let shown = gateway.admin_ask(Ask::get("/config")).await.text();
    assert!(shown.contains("http://127.0.0.1:9"), "{shown}");
}
