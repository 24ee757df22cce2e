//! The pure parts of a decision: what every request pays before its session is looked up. A look-up must cost the same
//! among 10 routes and among 10,000.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Uri};
use postern::access::body::BodyRules;
use postern::access::credentials::{CredentialNames, Presented, without};
use postern::access::path::CanonicalPath;
use postern::access::route_tree::RouteTree;
use postern::access::routes::{Place, RouteSettings, Rule, Target, UpstreamId, WebSocketMode};
use std::hint::black_box;
use std::sync::Arc;

fn paths(c: &mut Criterion) {
    let mut group = c.benchmark_group("canonical path");
    for (name, target) in [
        ("as sent", "/api/v2/accounts/100/settings?domain=mydomain.com"),
        ("escapes kept", "/api/v2/routes/extensions/caf%C3%A9%20bar"),
        ("rewritten", "/api/v2//x/../%61ccounts/./100/"),
        ("refused", "/api/v2/accounts/%2e%2e/admin"),
    ] {
        let uri = Uri::from_static(target);
        group.bench_function(name, |b| b.iter(|| CanonicalPath::of(black_box(&uri)).is_ok()));
    }
}

/// Routes as Webitel's: a few families, most of them with a wildcard, spread over `count`.
fn table(count: usize) -> RouteTree {
    let route = |n: usize| RouteSettings {
        path: match n % 3 {
            0 => format!("/api/v2/resource{n}"),
            1 => format!("/api/v2/resource{n}/{{id}}/members"),
            _ => format!("/api/v2/{{domain}}/resource{n}"),
        },
        methods: None,
        query: Vec::new(),
        rule: Rule::Authenticated,
        strip_prefix: String::new(),
        websocket: WebSocketMode::Credentials,
        encoded_slash: false,
        body: BodyRules::default(),
        target: Target::Upstream(UpstreamId(0)),
        place: Place { file: Arc::from("routes.toml"), line: n },
    };
    let routes: Vec<_> = (0..count).map(route).collect();
    RouteTree::new(&routes, false)
}

fn routes(c: &mut Criterion) {
    let mut group = c.benchmark_group("route");
    for count in [10, 10_000] {
        let table = table(count);
        for (name, target) in [
            ("literal", "/api/v2/Resource3/x/y"),
            ("wildcard", "/api/v2/resource4/100/members/7"),
            ("second choice", "/api/v2/resource0x/resource5"),
            ("none", "/api/v3/nothing"),
        ] {
            let Ok(path) = CanonicalPath::of(&Uri::from_static(target)) else { continue };
            group.bench_with_input(BenchmarkId::new(name, count), &path, |b, path| {
                b.iter(|| table.find(black_box(path), &Method::GET, None).is_some());
            });
        }
    }
}

fn credentials(c: &mut Criterion) {
    let names = CredentialNames::default();
    let mut in_headers = HeaderMap::new();
    for (name, value) in [
        ("host", "api.example.com"),
        ("user-agent", "Mozilla/5.0"),
        ("accept", "application/json"),
        (
            "x-access-token",
            "eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9.eyJleHAiOjE0NjQ1ODcxNzY5MTB9.VuQ4Ql7Yq8112E63l3vAnS",
        ),
        ("x-key", "7db2665d-1e59-4f80-b65c-2372f32d678d"),
    ] {
        in_headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    let none = HeaderMap::new();
    let plain = "columns=id,name&filter=%7B%22a%22%3A1%7D&limit=40&page=1";
    let with = "access_token=a.b.c&x_key=7db2665d-1e59-4f80-b65c-2372f32d678d&columns=id";
    let mut group = c.benchmark_group("credentials");
    for (name, headers, query) in [
        ("headers", &in_headers, None),
        ("headers beside a query", &in_headers, Some(plain)),
        ("query", &none, Some(with)),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| Presented::read(black_box(headers), black_box(query), &names).is_ok());
        });
    }
    group.bench_function("nothing to take out", |b| b.iter(|| without(black_box(plain), &names).len()));
    group.bench_function("taken out", |b| b.iter(|| without(black_box(with), &names).len()));
}

criterion_group!(benches, paths, routes, credentials);
criterion_main!(benches);
