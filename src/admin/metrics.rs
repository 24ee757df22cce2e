//! `GET /metrics` (contract section 7). Everything is read where it is counted; a scrape costs no request anything but
//! a lock for the time of copying a thread's counters.

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::HeaderMap;
use http::header::{ACCEPT, CONTENT_TYPE};
use std::collections::BTreeMap;

use super::control::{Control, ControlCell};
use super::exposition::{Exposition, Format};
use super::frame::Refusal;
use crate::gateway::live::Live;
use crate::peer::ListenerKind;
use crate::telemetry::histogram::Histogram;
use crate::telemetry::metrics::Totals;

pub(super) fn routes(control: ControlCell) -> Router {
    Router::new().route("/metrics", get(scrape)).with_state(control)
}

async fn scrape(State(control): State<ControlCell>, headers: HeaderMap) -> Result<Response, Refusal> {
    let format = if asks_for_open_metrics(&headers) { Format::OpenMetrics } else { Format::Prometheus };
    let text = text(control.get()?, format);
    Ok(([(CONTENT_TYPE, format.content_type())], text).into_response())
}

fn asks_for_open_metrics(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|media| {
        media.split(';').next().is_some_and(|media| media.trim() == "application/openmetrics-text")
    })
}

fn text(control: &Control, format: Format) -> String {
    let mut out = Exposition::new(format);
    let (totals, live) = (control.metrics.totals(), control.live.load());
    requests(&mut out, &totals);
    upstreams(&mut out, &totals, &live);
    ejections_and_retries(&mut out, &totals, &live);
    sessions(&mut out, control);
    engine(&mut out, control, &live);
    connections(&mut out, control);
    program(&mut out, control);
    out.end()
}

fn requests(out: &mut Exposition, totals: &Totals) {
    let mut requests = out.counter("postern_requests_total", "Requests answered.");
    for (route, counts) in &totals.routes {
        for ((method, status), n) in counts.requests.iter() {
            requests.add(&[("route", route), ("method", method), ("status", &status.to_string())], n);
        }
    }
    let mut durations = out.histogram(
        "postern_request_duration_seconds",
        "From a request's head to the last byte of its answer.",
    );
    for (route, counts) in &totals.routes {
        durations.add(&[("route", route)], &counts.durations);
    }
    let mut decisions = out.counter("postern_decisions_total", "Decisions on requests, and why not.");
    for (route, counts) in &totals.routes {
        for ((decision, reason), n) in counts.decisions.iter() {
            decisions.add(&[("route", route), ("decision", decision), ("reason", reason)], n);
        }
    }
}

/// The upstream and the server of a server's label.
fn split(label: &str) -> (String, String) {
    let (upstream, server) = label.rsplit_once('/').unwrap_or((label, ""));
    (upstream.to_owned(), server.to_owned())
}

fn upstreams(out: &mut Exposition, totals: &Totals, live: &Live) {
    let mut requests =
        out.counter("postern_upstream_requests_total", "What servers were asked and how it went.");
    for (label, counts) in &totals.servers {
        let (upstream, server) = split(label);
        for (result, n) in counts.results.iter() {
            requests.add(&[("upstream", &upstream), ("server", &server), ("result", result)], n);
        }
    }
    let mut latencies = BTreeMap::<String, Histogram>::new();
    for (label, counts) in &totals.servers {
        latencies.entry(split(label).0).or_default().merge(&counts.latency);
    }
    let mut latency = out.histogram(
        "postern_upstream_latency_seconds",
        "From the end of a request to the head of the server's answer.",
    );
    for (upstream, histogram) in &latencies {
        latency.add(&[("upstream", upstream)], histogram);
    }
    let mut healthy =
        out.gauge("postern_upstream_healthy", "1 while a server is asked, 0 while it is left out.");
    // Two URLs may lead to one address.
    let servers: BTreeMap<_, _> = live
        .upstreams
        .servers()
        .into_iter()
        .map(|(name, addr, good)| ((name, addr.to_string()), good))
        .collect();
    for ((upstream, server), good) in &servers {
        healthy.add(&[("upstream", upstream), ("server", server)], u8::from(*good));
    }
}

/// Told from the start, so that the first fault is a rise.
fn ejections_and_retries(out: &mut Exposition, totals: &Totals, live: &Live) {
    let known = live.upstreams.servers();
    let known = known.iter().map(|(name, addr, _)| ((name.to_string(), addr.to_string()), 0));
    let mut ejected: BTreeMap<_, u64> = known.collect();
    let results =
        live.upstreams.names().flat_map(|name| ["sent", "over_budget"].map(|result| (name, result)));
    let mut retried: BTreeMap<_, u64> =
        results.map(|(name, result)| ((name.to_owned(), result), 0)).collect();
    for (label, counts) in &totals.servers {
        *ejected.entry(split(label)).or_default() += counts.ejections;
        for (result, n) in counts.retries.iter() {
            *retried.entry((split(label).0, result)).or_default() += n;
        }
    }
    let help = "Times that a server was left out for failing requests.";
    let mut ejections = out.counter("postern_upstream_ejections_total", help);
    for ((upstream, server), n) in &ejected {
        ejections.add(&[("upstream", upstream), ("server", server)], n);
    }
    let help = "Requests that a server did not take: sent to another, or given up since too many were.";
    let mut retries = out.counter("postern_upstream_retries_total", help);
    for ((upstream, result), n) in &retried {
        retries.add(&[("upstream", upstream), ("result", result)], n);
    }
}

fn sessions(out: &mut Exposition, control: &Control) {
    let mut logins = out.counter("postern_logins_total", "Logins answered.");
    for (result, n) in control.metrics.logins() {
        logins.add(&[("result", result)], n);
    }
    out.gauge("postern_sessions", "Sessions that live.").add(&[], control.sessions.len());
    let mut ends = out.counter("postern_revocations_total", "Sessions ended before they expired.");
    for (cause, n) in control.sessions.ends().counts() {
        ends.add(&[("cause", cause.as_str())], n);
    }
    out.histogram(
        "postern_revocation_propagation_seconds",
        "From the end of a session here to its end in the store.",
    )
    .add(&[], &control.sessions.ends().propagation());
    let (store, operations) = control.sessions.store_operations();
    let mut counter = out.counter("postern_store_operations_total", "What the session store was asked.");
    for (operation, good, failed) in operations.counts() {
        let labels = |result| [("store", store), ("operation", operation.as_str()), ("result", result)];
        counter.add(&labels("ok"), good).add(&labels("failed"), failed);
    }
}

/// Of an engine whose sessions are taken over; none without one.
fn engine(out: &mut Exposition, control: &Control, live: &Live) {
    if live.engine.is_none() {
        return;
    }
    let mut requests =
        out.counter("postern_engine_requests_total", "What the engine was asked and how it answered.");
    for (call, result, n) in control.engine.counts() {
        requests.add(&[("call", call.as_str()), ("result", result)], n);
    }
    let shed = live.adopter.as_ref().map_or(0, |adopter| adopter.shed());
    out.gauge(
        "postern_engine_lookups_shed",
        "Questions not asked, there being too many, since the last reload.",
    )
    .add(&[], shed);
    out.gauge("postern_engine_logouts_pending", "Ended sessions that the engine has not heard of yet.")
        .add(&[], control.engine_logouts.pending());
}

fn connections(out: &mut Exposition, control: &Control) {
    let mut open = out.gauge("postern_connections", "Connections of clients that are open.");
    for kind in ListenerKind::ALL {
        open.add(&[("listener", kind.as_str())], control.server.open(kind));
    }
    let mut handshakes = out.counter("postern_tls_handshakes_total", "TLS handshakes with clients.");
    for (how, n) in control.server.handshakes() {
        let (version, result) = how.words();
        handshakes.add(&[("version", version), ("result", result)], n);
    }
    let mut headers = out
        .counter("postern_proxy_headers_total", "PROXY protocol headers that trusted proxies had to send.");
    for (what, n) in control.server.proxy_headers() {
        headers.add(&[("result", what.as_str())], n);
    }
}

fn program(out: &mut Exposition, control: &Control) {
    let mut reloads = out.counter("postern_config_reloads_total", "Reloads of the configuration.");
    let tried = control.metrics.reloads();
    for result in ["ok", "refused"] {
        reloads.add(&[("result", result)], tried.get(result).copied().unwrap_or(0));
    }
    out.gauge("postern_config_generation", "1 at start, one more with each reload.")
        .add(&[], control.live.generation());
    out.counter("postern_access_log_dropped_total", "Access lines lost to a slow reader.")
        .add(&[], control.lines_dropped());
    out.counter("postern_spans_exported_total", "Spans of traces that the collector took.")
        .add(&[], control.spans.exported());
    out.counter("postern_spans_dropped_total", "Spans of traces lost to a collector that is slow or away.")
        .add(&[], control.spans.dropped());
    out.gauge("postern_build_info", "Which version runs.").add(&[("version", env!("CARGO_PKG_VERSION"))], 1);
}
