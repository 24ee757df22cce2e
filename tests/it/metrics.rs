//! `GET /metrics`, read by a parser that is not ours, in both formats (contract section 7).

use openmetrics_parser::{openmetrics, prometheus};

use crate::support::{Ask, DOMAIN, PASSWORD, TestGateway, usual};

/// Something of everything.
async fn exercised() -> (crate::support::TestUpstream, TestGateway) {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    gateway.tls_client().await.ask(&Ask::get("/api/v2/cdr/1").with(&session)).await.assert_ok();
    gateway.ask(Ask::get("/api/v2/vault/1").with(&session)).await.assert_error(403);
    gateway.ask(Ask::get("/api/v2/cdr/1")).await.assert_error(401);
    gateway.ask(Ask::new("MADE-UP", "/public/x")).await.assert_ok();
    gateway.ask(Ask::login(&format!("100@{DOMAIN}"), "wrong")).await.assert_error(401);
    gateway.ask(Ask::post("/logout").with(&session)).await.assert_ok();
    (upstream, gateway)
}

#[tokio::test]
async fn both_formats_are_taken_by_a_parser() {
    let (_upstream, gateway) = exercised().await;
    let plain = gateway.admin_ask(Ask::get("/metrics")).await;
    assert!(plain.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    let families = prometheus::parse_prometheus(&plain.text()).expect("Prometheus text").families;
    assert!(families.len() >= 15, "{}", families.len());
    let accept = "application/openmetrics-text; version=1.0.0,text/plain;q=0.5";
    let open = gateway.admin_ask(Ask::get("/metrics").header("Accept", accept)).await;
    assert!(open.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    openmetrics::parse_openmetrics(&open.text()).expect("OpenMetrics text");
}

#[tokio::test]
async fn what_happened_is_counted() {
    let (upstream, gateway) = exercised().await;
    let server = upstream.addr.to_string();
    for (name, labels, count) in [
        ("postern_requests_total", &["route=\"/api/v2/cdr\"", "method=\"GET\"", "status=\"200\""][..], 1.0),
        ("postern_requests_total", &["route=\"/public\"", "method=\"other\""], 1.0),
        ("postern_requests_total", &["route=\"/login\"", "status=\"401\""], 1.0),
        (
            "postern_decisions_total",
            &["route=\"/api/v2/vault\"", "decision=\"deny\"", "reason=\"no_permission\""],
            1.0,
        ),
        ("postern_decisions_total", &["reason=\"no_token\""], 1.0),
        ("postern_logins_total", &["result=\"ok\""], 1.0),
        ("postern_logins_total", &["result=\"invalid_credentials\""], 1.0),
        ("postern_revocations_total", &["cause=\"logout\""], 1.0),
        ("postern_revocation_propagation_seconds_count", &[], 1.0),
        ("postern_sessions", &[], 0.0),
        ("postern_tls_handshakes_total", &["version=\"1.3\"", "result=\"ok\""], 1.0),
        ("postern_upstream_requests_total", &["upstream=\"engine\"", &server, "result=\"ok\""], 2.0),
        ("postern_upstream_healthy", &["upstream=\"engine\""], 1.0),
        ("postern_upstream_ejections_total", &["upstream=\"engine\"", &server], 0.0),
        ("postern_upstream_retries_total", &["upstream=\"engine\"", "result=\"over_budget\""], 0.0),
        ("postern_request_duration_seconds_count", &["route=\"/api/v2/cdr\""], 2.0),
        ("postern_upstream_latency_seconds_count", &["upstream=\"engine\""], 2.0),
        ("postern_store_operations_total", &["store=\"file\"", "operation=\"put\"", "result=\"ok\""], 1.0),
        ("postern_config_generation", &[], 1.0),
        ("postern_access_log_dropped_total", &[], 0.0),
    ] {
        crate::support::wait::until_async(name, || async { gateway.metric(name, labels).await == count })
            .await;
    }
}

#[tokio::test]
async fn labels_hold_nothing_that_a_client_sent() {
    let (_upstream, gateway) = exercised().await;
    let session = gateway.login("admin").await;
    let before = gateway.admin_ask(Ask::get("/metrics")).await.text().lines().count();
    for n in 0..30 {
        let mark = format!("canary{n}");
        gateway.ask(Ask::new(&mark, format!("/up/echo/{mark}")).with(&session)).await;
        gateway.ask(Ask::get(format!("/{mark}")).header("X-Key", &mark).header("Host", &mark)).await;
        gateway.ask(Ask::login(&mark, PASSWORD)).await;
    }
    let text = gateway.admin_ask(Ask::get("/metrics")).await.text();
    assert!(!text.contains("canary"), "{text}");
    assert!(text.lines().count() < before + 80, "{text}");
}

#[tokio::test]
async fn counters_go_on_over_a_reload() {
    let (_upstream, mut gateway) = exercised().await;
    let labels = ["route=\"/public\""];
    let before = gateway.metric("postern_requests_total", &labels).await;
    gateway.reload_with(|s| s.set("limits.max_requests", "1234")).await.assert_ok();
    gateway.ask(Ask::get("/public/x")).await.assert_ok();
    crate::support::wait::until_async("one more", || async {
        gateway.metric("postern_requests_total", &labels).await == before + 1.0
    })
    .await;
}
