//! Paths that one server reads as one thing and the next as another.

use std::collections::BTreeMap;

use super::Dice;
use super::readings::READINGS;
use crate::support::settings::Settings;
use crate::support::{Ask, Session, TestClient, TestGateway, TestUpstream, configured};

/// Beside the usual routes: one with encoded slashes, one whose prefix is not forwarded, one with a placeholder.
fn scene(settings: &mut Settings) {
    let of_cdr = "resource = 'cdr'\nupstream = 'engine'";
    settings.route(&format!("path = '/enc'\n{of_cdr}\nencoded_slash = true"));
    settings.route(&format!("path = '/engine/api/v2/cdr'\n{of_cdr}\nstrip_prefix = '/engine'"));
    settings.route("path = '/api/v2/{any}/vault'\nresource = 'vault'\nupstream = 'engine'");
}

/// By whatever name: the advisory, how it was exploited, and what must become of it. The caller may read `cdr` and not
/// `vault`.
const PUBLISHED: &[(&str, &str)] = &[
    ("CVE-2019-9901 (Envoy: dot segments)", "/api/v2/cdr/../vault"),
    ("CVE-2021-29492 (Envoy: escaped slashes)", "/api/v2/cdr%2f..%2fvault"),
    ("CVE-2021-29492 (Envoy: escaped backslashes)", "/api/v2/cdr%5c..%5cvault"),
    ("CVE-2021-31920 (Istio: repeated slashes)", "//api//v2//vault"),
    ("CVE-2021-32779 (Envoy: a fragment)", "/api/v2/vault#/../cdr"),
    ("CVE-2023-45539 (HAProxy: a fragment)", "/api/v2/vault#.png"),
    ("CVE-2025-32431 (Traefik: /../)", "/public/../api/v2/vault"),
    ("CVE-2025-47952 (Traefik: %2e)", "/public/%2e%2e/api/v2/vault"),
    ("CVE-2025-66490 (Traefik: encoded reserved characters)", "/public%2f..%2fapi/v2/vault"),
    ("CVE-2025-66490", "/api/v2%2fvault"),
    ("CVE-2026-40912 (Traefik: an escape in a stripped prefix)", "/engine%2e/api/v2/vault"),
    ("CVE-2026-48020 (Traefik: dots behind a stripped prefix)", "/engine../api/v2/vault"),
    ("CVE-2026-48020", "/engine/api/v2/cdr%2e%2e/vault"),
    ("CVE-2026-48020", "/engine/api/v2/cdr/%2e%2e/vault"),
    ("CVE-2026-42274 (heimdall: rules over the raw path)", "/public/../api/v2/vault"),
    ("CVE-2026-42274", "/public/%2e%2e%2fapi/v2/vault"),
    ("CVE-2026-26205 (OPA for Envoy: // as an authority)", "//api/v2/vault"),
    ("CVE-2026-27587 (Caddy: case of escaped paths)", "/API/V2/V%41ULT"),
    ("GHSA-qrp7-cvwr-j2c6 (Caddy: a backslash)", "/api/v2%5cvault"),
    ("CVE-2025-54576 (oauth2-proxy: a rule matched by the query)", "/api/v2/vault?/public/x"),
    ("CVE-2026-32811 (heimdall: the query taken for a path)", "/api/v2/vault?foo=bar"),
    ("CVE-2013-4547 (nginx: a space)", "/api/v2/cdr /../vault"),
];

#[tokio::test]
async fn no_published_path_confusion_reaches_what_is_not_permitted() {
    let (upstream, gateway) = configured(scene).await;
    let session = gateway.login("100").await;
    for (advisory, path) in PUBLISHED {
        for target in [
            (*path).to_owned(),
            format!("http://localhost{path}"),
            format!("{path}/"),
            format!("{path}?a=/public"),
        ] {
            if let Some(answer) = gateway.try_raw(Ask::get(&target).with(&session).bytes()).await {
                assert!(matches!(answer.status, 400 | 403), "{advisory}: {target}: {}", answer.brief());
            }
        }
    }
    upstream.assert_untouched();
    gateway.ask(Ask::get("/api/v2/cdr/x").with(&session)).await.assert_ok();
}

/// Where a caller without `vault` and `up` may come out, by the path that a server behind the gateway has read.
fn is_permitted(segments: &[String], known: bool) -> bool {
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match segments.as_slice() {
        ["public", ..] => true,
        ["api", "v2", "cdr", ..] | ["enc" | "me", ..] => known,
        _ => false,
    }
}

const SEGMENTS: &[&str] = &[
    "api", "api", "v2", "v2", "cdr", "cdr", "vault", "vault", "public", "me", "enc", "engine", "up",
    "closed", "x", "a.b", "100%25", "r\u{e9}", "%C3%A9", "...", "a..",
];

const BETWEEN: &[&str] = &[
    "/",
    "/",
    "/",
    "/",
    "/",
    "/",
    "/",
    "/",
    "//",
    "/./",
    "/../",
    "/x/../",
    "%2f",
    "%2F",
    "%5c",
    "\\",
    "/%2e/",
    "/%2e%2e/",
    "/.%2e/",
    "/..%2f",
    "%2f..%2f",
    "/..;/",
    "/..;a=1/",
    ";x=1/",
    ";/",
    "%3b/",
    "/%252e%252e/",
    "%252f",
    "%25252f",
    "/%c0%ae%c0%ae/",
    "%c0%af",
    "%e0%80%af",
    "%f0%80%80%af",
    "%u002f",
    "%ef%bc%8f",
    "/%00/",
    "%00",
    "%0a",
    "%0d%0a",
    "%09/",
    "%20/",
    "/%20",
    "#/",
    "#",
    "%23/",
    "%3f/",
    "?/",
    "/\t",
    "/.\\",
    "%2e%2e/",
    "..",
    "/%",
    "%zz/",
    "/%2",
    "%%32%66",
    "%2%66",
    "/~/",
    "|",
    "+",
    "%7f",
];

const STARTS: &[&str] = &[
    "/",
    "/",
    "/",
    "/",
    "/",
    "/",
    "/api/v2/",
    "/api/v2/",
    "/api/v2/cdr/",
    "/api/v2/cdr/",
    "/public/",
    "/enc/",
    "/engine/api/v2/cdr/",
    "//",
    "/./",
    "/../",
    "/%2e%2e/",
    "http://localhost/",
    "http://LOCALHOST:80/api/v2/",
    "http://localhost//",
    "//localhost/",
    "http://public/",
    "http://u@localhost/",
    "https://localhost/api/v2/cdr/",
    "*",
    "",
    "localhost:80",
    "\\",
    "/\\",
];

/// A target that somebody who looks for a hole would send.
fn target(dice: &mut Dice) -> String {
    let mut target = if dice.one_in(2) { dice.pick(STARTS) } else { "/api/v2/cdr/" }.to_owned();
    for _ in 0..=dice.below(6) {
        let segment = dice.pick(SEGMENTS);
        // A character outside ASCII stays as it is.
        target += &if segment.is_ascii() && !segment.contains('%') {
            dice.disguise(segment)
        } else {
            segment.to_owned()
        };
        if dice.one_in(40) {
            target += &"/x/..".repeat(200);
        }
        // Mostly harmless, or little would be forwarded.
        target += if dice.one_in(4) { dice.pick(BETWEEN) } else { "/" };
    }
    if dice.one_in(3) {
        target +=
            dice.pick(&["vault", "cdr", "vault/", "%2e%2e", "..", ".", "?a=1", "#vault", "?/api/v2/cdr"]);
    }
    target
}

const TARGETS: usize = 6000;

/// Sends the targets, four at a time on a connection of its own; what was sent is known by its number.
async fn send_all(gateway: &TestGateway, targets: &[String], session: &Session) {
    let lanes = (0..4).map(|lane| async move {
        let mut client: Option<TestClient> = None;
        for (number, target) in targets.iter().enumerate().skip(lane).step_by(4) {
            let ask = Ask::get(target).header("X-Number", number.to_string());
            let ask = if number % 4 == 3 { ask } else { ask.with(session) };
            let mut open = match client.take() {
                Some(open) => open,
                None => gateway.client().await,
            };
            open.send(ask.bytes()).await;
            if let Some(answer) = open.try_answer().await
                && answer.header("connection") != Some("close")
            {
                client = Some(open);
            }
        }
    });
    futures_util::future::join_all(lanes).await;
}

/// Whatever is forwarded of thousands of targets comes out, by each reading of what the upstream got, where the caller
/// may go.
#[tokio::test]
async fn no_reading_of_what_is_forwarded_reaches_what_is_not_permitted() {
    let (upstream, gateway): (TestUpstream, TestGateway) = configured(scene).await;
    let session = gateway.login("100").await;
    let mut dice = Dice::new(0x0070_6f73_7465_726e);
    let targets: Vec<String> = (0..TARGETS).map(|_| target(&mut dice)).collect();
    send_all(&gateway, &targets, &session).await;

    let mut forwarded: BTreeMap<&str, usize> = BTreeMap::new();
    for seen in upstream.requests() {
        let sent = &targets[seen.header("x-number").unwrap().parse::<usize>().unwrap()];
        let known = seen.head.has("x-webitel-user");
        let path = seen.target.split('?').next().unwrap().as_bytes();
        for (name, reading) in READINGS {
            let segments = reading(path);
            assert!(
                is_permitted(&segments, known),
                "{sent:?} was forwarded as {:?}, which a server that {name} reads as {segments:?}",
                seen.target
            );
        }
        assert!(!seen.target.contains('#') && path.is_ascii(), "{:?}", seen.target);
        *forwarded.entry(if known { "known" } else { "public" }).or_default() += 1;
    }
    // Else the scene would show nothing.
    assert!(forwarded["known"] > 200 && forwarded["public"] > 50, "{forwarded:?} of {TARGETS}");
}

/// As long as a head may be: resolved or refused, in no time.
#[tokio::test]
async fn very_long_paths_are_refused_or_mean_what_they_say() {
    let (upstream, gateway) = configured(scene).await;
    let session = gateway.login("100").await;
    for piece in ["/x/..", "/.", "/", "/%2e%2e", "/a", "%61", "..%2f", ";", "%25"] {
        for length in [100, 8_000, 30_000, 70_000] {
            let middle = piece.repeat(length / piece.len());
            let mut targets = vec![format!("/api/v2/vault{middle}")];
            // Where the middle means nothing, what is behind it climbs out of `cdr`.
            if ["/x/..", "/.", "/"].contains(&piece) {
                targets.push(format!("/api/v2/cdr{middle}/../../../api/v2/vault/x"));
            }
            for target in targets {
                let answer = gateway.try_raw(Ask::get(&target).with(&session).bytes()).await;
                let status = answer.map_or(400, |answer| answer.status);
                assert!(matches!(status, 400 | 403 | 414 | 431), "{length} of {piece}: {status}");
            }
        }
    }
    upstream.assert_untouched();
}
