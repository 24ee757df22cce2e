//! The access log: one JSON line a request, and no secret in anything that is written (contract section 7).

use serde_json::{Value, json};

use crate::support::wait::until;
use crate::support::{Ask, PASSWORD, configured, usual};

const FIELDS: &[&str] = &[
    "time",
    "request_id",
    "trace_id",
    "client",
    "method",
    "path",
    "query",
    "route",
    "status",
    "bytes_in",
    "bytes_out",
    "duration_ms",
    "upstream",
    "upstream_ms",
    "user",
    "domain",
    "role",
    "resource",
    "permission",
    "decision",
    "reason",
];

#[track_caller]
fn assert_holds(line: &Value, fields: &[(&str, Value)]) {
    for (name, value) in fields {
        assert_eq!(&line[name], value, "{name} in {line}");
    }
}

#[tokio::test]
async fn a_forwarded_request_is_told_with_all_that_decided() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("admin").await;
    let answer = gateway.ask(Ask::post("/up/echo?a=1&b").with(&session).body("hello")).await;
    answer.assert_ok();
    let line = gateway.access_line("/up/echo").await;
    for name in FIELDS {
        assert!(
            line.get(name).is_some_and(|value| !value.is_null()) || *name == "reason",
            "{name} in {line}"
        );
    }
    assert_holds(
        &line,
        &[
            ("client", json!("127.0.0.1")),
            ("method", json!("POST")),
            ("query", json!("a=1&b")),
            ("status", json!(200)),
            ("bytes_in", json!(5)),
            ("bytes_out", json!(answer.body.len())),
            ("domain", json!("example.org")),
            ("role", json!("admin")),
            ("resource", json!("up")),
            ("permission", json!("c")),
        ],
    );
    assert!(line["user"].as_str().unwrap().starts_with("admin"), "{line}");
    assert!(line["route"].as_str().unwrap().contains("/up"), "{line}");
    assert!(line["upstream"].as_str().unwrap().contains(&upstream.addr.to_string()), "{line}");
    assert!(line["duration_ms"].as_f64().is_some_and(|ms| (0.0..20_000.0).contains(&ms)), "{line}");
    assert!(line["upstream_ms"].as_f64().unwrap() <= line["duration_ms"].as_f64().unwrap() + 1.0, "{line}");
    assert!(line["time"].as_str().unwrap().contains('T'), "{line}");
    assert_eq!(line["request_id"], upstream.only().header("x-request-id").unwrap());
    let trace = upstream.only().header("traceparent").unwrap().split('-').nth(1).unwrap().to_owned();
    assert_eq!(line["trace_id"], trace.as_str());
}

#[tokio::test]
async fn a_refusal_is_told_with_its_reason() {
    let (_upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    for (ask, path, status) in [
        (Ask::get("/api/v2/vault/1").with(&session), "/api/v2/vault/1", 403),
        (Ask::get("/me/anonymous"), "/me/anonymous", 401),
        (Ask::get("/closed/1"), "/closed/1", 403),
        (Ask::get("/no/route").with(&session), "/no/route", 403),
    ] {
        assert_eq!(gateway.ask(ask).await.status, status);
        let line = gateway.access_line(path).await;
        assert_eq!(line["status"], status, "{line}");
        assert!(line["reason"].as_str().is_some_and(|reason| !reason.is_empty()), "{line}");
        let granted = ["allow", "allowed", "permit"].contains(&line["decision"].as_str().unwrap());
        assert!(!granted, "{line}");
    }
    let line = gateway.access_line("/api/v2/vault/1").await;
    assert_holds(&line, &[("role", json!("user")), ("resource", json!("vault")), ("permission", json!("r"))]);
}

#[tokio::test]
async fn one_request_is_one_line_and_every_request_has_one() {
    let (_upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    let mut client = gateway.client().await;
    for number in 0..50 {
        client.ask(&Ask::get(format!("/me/{number}")).with(&session)).await.assert_ok();
    }
    gateway.ask(Ask::post("/logout").with(&session)).await.assert_ok();
    // Each thread writes by itself, in order.
    gateway.access_line("/login").await;
    gateway.access_line("/me/49").await;
    gateway.access_line("/logout").await;
    let lines = gateway.access_lines();
    for number in 0..50 {
        let path = format!("/me/{number}");
        assert_eq!(lines.iter().filter(|line| line["path"] == path.as_str()).count(), 1, "{path}");
    }
    assert_eq!(lines.iter().filter(|line| line["path"] == "/login").count(), 1);
}

#[tokio::test]
async fn a_line_break_or_a_quote_in_a_request_stays_inside_its_line() {
    let (_upstream, gateway) = usual().await;
    gateway.ask(Ask::get("/public/a\"b?x=\"}{\"status\":1,&y=%0a").header("User-Agent", "\"}\t{")).await;
    gateway.ask(Ask::get("/public/after")).await.assert_ok();
    gateway.access_line("/public/after").await;
    for line in gateway.output().lines().filter(|line| line.starts_with('{')) {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "no JSON: {line}");
    }
}

/// Everything that could leak, then everything that was written.
#[tokio::test]
async fn nothing_that_is_written_holds_a_secret() {
    let (_upstream, mut gateway) = configured(|settings| settings.set("log.level", "'trace'")).await;
    let session = gateway.login("100").await;
    let other = gateway.login("200").await;
    let asks = [
        Ask::get("/me/x").with(&session),
        Ask::get(format!("/me/x?a=1&{}&b=2", session.query())),
        Ask::get(format!("/me/x?%61ccess_token={}&x%5Fkey={}", session.token, session.key)),
        Ask::get(format!("/public/x?{}", session.query())),
        Ask::get(format!("/me/x?{}&{}", session.query(), other.query())),
        Ask::get(format!("/me/x?x_key[]={}", session.key)).with(&session),
        Ask::get(format!("/a%2fb?{}", session.query())),
        Ask::get(format!("/nothing?{}", session.query())),
        Ask::get(format!("/me/x?{}", session.query()))
            .header("Referer", format!("https://a/?{}", session.query())),
        Ask::login("100@example.org", "a-wrong-Password-77"),
        Ask::login("nobody@example.org", "a-wrong-Password-77"),
        Ask::post("/login")
            .header("Content-Type", "application/json")
            .body(r#"{"password":"a-wrong-Password-77" x"#),
        Ask::post(format!("/login?{}", session.query()))
            .header("Content-Type", "text/plain")
            .body("a-wrong-Password-77"),
        Ask::post(format!("/logout?{}", other.query())),
        Ask::post("/logout").with(&session),
        Ask::get("/me/x").with(&session),
    ];
    for ask in asks {
        gateway.ask(ask).await;
    }
    gateway.try_raw(format!("GET /me/x?{} HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", session.query())).await;
    assert_eq!(gateway.terminate().await, 0);
    let output = gateway.output();
    for secret in [&session.key, &session.token, &other.key, &other.token, PASSWORD, "a-wrong-Password-77"] {
        assert!(!output.contains(secret), "{secret} was written:\n{}", line_of(&output, secret));
    }
    let signature = session.token.rsplit('.').next().unwrap();
    assert!(!output.contains(signature), "a token's signature was written:\n{}", line_of(&output, signature));
    assert!(
        gateway.access_lines().iter().any(|line| line["query"] == "a=1&b=2"),
        "the rest of the query is kept"
    );
}

fn line_of<'a>(output: &'a str, secret: &str) -> &'a str {
    output.lines().find(|line| line.contains(secret)).unwrap_or_default()
}

#[tokio::test]
async fn it_can_be_turned_off() {
    let (_upstream, mut gateway) = configured(|settings| settings.set("log.access", "false")).await;
    gateway.ask(Ask::get("/public/x")).await.assert_ok();
    assert_eq!(gateway.terminate().await, 0);
    assert!(gateway.access_lines().is_empty(), "{:?}", gateway.access_lines());
}

#[tokio::test]
async fn logins_and_logouts_are_in_the_audit_log() {
    let (_upstream, mut gateway) = usual().await;
    let session = gateway.login("100").await;
    gateway.ask(Ask::login("100@example.org", "wrong")).await.assert_error(401);
    gateway.ask(Ask::post("/logout").with(&session)).await.assert_ok();
    assert_eq!(gateway.terminate().await, 0);
    let audit: Vec<String> =
        gateway.output().lines().filter(|line| line.contains("\"audit\"")).map(str::to_owned).collect();
    assert!(audit.len() >= 3, "{audit:?}");
    assert!(
        audit.iter().all(|line| line.contains("100@example.org") || !line.contains("login")),
        "{audit:?}"
    );
}

/// Which server it was is what an operator asks first.
#[tokio::test]
async fn a_server_that_does_not_answer_is_named() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("admin").await;
    gateway.ask(Ask::get("/up/cut-head").with(&session)).await.assert_error(502);
    let line = gateway.access_line("/up/cut-head").await;
    assert!(line["upstream"].as_str().unwrap().contains(&upstream.addr.to_string()), "{line}");
    let dead = upstream.addr;
    upstream.stop();
    until("the upstream to be gone", || std::net::TcpStream::connect(dead).is_err().then_some(())).await;
    gateway.ask(Ask::get("/up/gone").with(&session)).await.assert_error(502);
    let line = gateway.access_line("/up/gone").await;
    assert!(line["upstream"].as_str().unwrap().contains(&dead.to_string()), "{line}");
}
