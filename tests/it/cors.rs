//! `[cors]` (contract sections 2 and 3).

use crate::support::settings::Settings;
use crate::support::{Answer, Ask, PASSWORD, configured, usual};

const ORIGIN: &str = "https://app.example";

fn any_origin(settings: &mut Settings) {
    settings.table(
        "cors",
        "allow_origins = ['*']\nallow_methods = ['GET', 'PUT', 'OPTIONS']\nallow_headers = ['Content-type', 'X-Key']\nmax_age = '24h'",
    );
}

fn listed(settings: &mut Settings) {
    any_origin(settings);
    settings.set("cors.allow_origins", &format!("['{ORIGIN}', 'https://other.example']"));
}

#[track_caller]
fn assert_allowed(answer: &Answer) {
    assert_eq!(answer.header("access-control-allow-origin"), Some(ORIGIN), "{}", answer.head.text());
    assert!(varies(answer).contains(&"origin".to_owned()), "{}", answer.head.text());
}

/// The names in `Vary`, in lower case.
fn varies(answer: &Answer) -> Vec<String> {
    answer.head.all("vary").join(",").to_lowercase().split(',').map(|name| name.trim().to_owned()).collect()
}

#[tokio::test]
async fn options_on_any_path_is_200_before_authentication() {
    let (upstream, gateway) = configured(any_origin).await;
    for path in ["/", "/me/x", "/closed", "/nothing", "/login", "/logout", "/api/v2/cdr"] {
        let ask =
            Ask::new("OPTIONS", path).header("Origin", ORIGIN).header("Access-Control-Request-Method", "PUT");
        let answer = gateway.ask(ask).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.brief());
        assert_allowed(&answer);
        let listed = |name: &str| answer.header(name).unwrap_or_default().replace(' ', "").to_lowercase();
        assert_eq!(listed("access-control-allow-methods"), "get,put,options");
        assert_eq!(listed("access-control-allow-headers"), "content-type,x-key");
        assert_eq!(answer.header("access-control-max-age"), Some("86400"));
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn every_answer_carries_the_headers_errors_too() {
    let (_upstream, gateway) = configured(listed).await;
    let session = gateway.login("100").await;
    for (status, ask) in [
        (200, Ask::get("/me/x").with(&session)),
        (401, Ask::get("/me/x")),
        (403, Ask::get("/closed")),
        (400, Ask::get("/me/a%2fb")),
        (405, Ask::get("/login")),
        (401, Ask::post("/logout")),
        (404, Ask::login("nobody@example.org", "x")),
        (200, Ask::login("100@example.org", PASSWORD)),
        (200, Ask::get("/public/x")),
    ] {
        let answer = gateway.ask(ask.header("Origin", ORIGIN)).await;
        assert_eq!(answer.status, status, "{}", answer.brief());
        assert_allowed(&answer);
    }
}

/// What hyper refuses by itself too: a browser would show no status of a 431 without them.
#[tokio::test]
async fn a_request_that_cannot_be_read_is_answered_with_them_as_well() {
    let (_upstream, gateway) = configured(any_origin).await;
    let head = format!("GET /me/x HTTP/1.1\r\nHost: localhost\r\nOrigin: {ORIGIN}\r\n");
    for (status, rest) in [(431, format!("A: {}\r\n", "b".repeat(40_000))), (400, "B : c\r\n".to_owned())] {
        let answer = gateway.try_raw(format!("{head}{rest}\r\n")).await.unwrap();
        answer.assert_error(status);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"), "{}", answer.head.text());
        assert!(varies(&answer).contains(&"origin".to_owned()), "{}", answer.head.text());
    }
    let (_upstream, gateway) = usual().await;
    let answer = gateway.try_raw(format!("{head}B : c\r\n\r\n")).await.unwrap();
    assert!(!answer.assert_error(400).head.text().contains("access-control"), "{}", answer.head.text());
}

#[tokio::test]
async fn an_upstreams_own_headers_are_replaced_and_its_vary_is_kept() {
    let (_upstream, gateway) = configured(|settings| {
        listed(settings);
        settings.route("path = '/up/own-cors'\naccess = 'public'\nupstream = 'engine'");
    })
    .await;
    let answer = gateway.ask(Ask::get("/up/own-cors").header("Origin", ORIGIN)).await;
    answer.assert_ok();
    assert_allowed(&answer);
    assert_eq!(answer.header("access-control-allow-credentials"), None);
    assert_ne!(answer.header("access-control-max-age"), Some("1"));
    assert!(varies(&answer).contains(&"accept".to_owned()), "{:?}", varies(&answer));
}

#[tokio::test]
async fn an_origin_that_is_not_listed_is_not_allowed() {
    let (_upstream, gateway) = configured(listed).await;
    for origin in [
        "https://evil.example",
        "http://app.example",
        "https://app.example.evil",
        "null",
        "https://app.example:444",
    ] {
        let answer = gateway.ask(Ask::get("/public/x").header("Origin", origin)).await;
        let allowed = answer.header("access-control-allow-origin");
        assert!(allowed.is_none() || allowed == Some(ORIGIN), "{origin}: {allowed:?}");
    }
}

#[tokio::test]
async fn without_cors_options_is_a_request_like_any_other_and_there_are_no_headers() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("idle").await;
    let preflight = |path: &str| {
        Ask::new("OPTIONS", path).header("Origin", ORIGIN).header("Access-Control-Request-Method", "GET")
    };
    for (status, ask) in [
        (401, preflight("/me/x")),
        (200, preflight("/me/x").with(&session)),
        (200, Ask::get("/public/x").header("Origin", ORIGIN)),
        (405, preflight("/login")),
    ] {
        let answer = gateway.ask(ask).await;
        assert_eq!(answer.status, status, "{}", answer.brief());
        assert!(!answer.head.text().to_lowercase().contains("access-control"), "{}", answer.head.text());
    }
    assert_eq!(upstream.requests().len(), 2);
}
