//! Methods, roles and own variants (contract section 4, Permission). Which route a path takes is `routes`.

use crate::support::settings::Settings;
use crate::support::{Ask, Session, TestGateway, TestUpstream, configured};

/// One user for every permission, and the routes that ask for them.
fn scene(settings: &mut Settings) {
    for (name, lines) in [
        ("create", "allow = { item = ['c'] }"),
        ("read", "allow = { item = ['r'] }"),
        ("update", "allow = { item = ['u'] }"),
        ("delete", "allow = { item = ['d'] }"),
        ("star", "allow = { item = ['*'] }"),
        ("own-read", "allow = { item = ['ro'] }"),
        ("nothing", "allow = {}"),
        ("child", "inherits = ['read']\nallow = { item = ['c'] }"),
        ("grandchild", "inherits = ['child']\nallow = { other = ['r'] }"),
        ("own", "allow = { account = ['ro', 'uo'], item = ['ro', 'do'] }"),
        ("plain", "allow = { account = ['r', 'u'], item = ['r'] }"),
    ] {
        settings.role(name, lines);
        settings.user(&format!("{name}@example.org"), name);
    }
    for user in ["ann@example.org", "bob@example.org", "ann@other.test"] {
        settings.user(user, "own");
    }
    for (path, resource, rest) in [
        ("/items", "item", ""),
        ("/search", "item", "permission = 'r'"),
        ("/accounts", "account", ""),
        ("/accounts/{user}", "account", "own = 'user@caller'"),
        ("/profiles/{user}", "account", "own = 'user@query'"),
        ("/domain", "item", "own = 'domain'"),
        ("/fallback", "item", "own = 'fallback'"),
    ] {
        settings.route(&format!("path = '{path}'\nresource = '{resource}'\nupstream = 'engine'\n{rest}"));
    }
}

async fn asked(gateway: &TestGateway, session: &Session, method: &str, path: &str) -> u16 {
    let answer = gateway.ask(Ask::new(method, path).with(session)).await;
    if answer.status != 200 && method != "HEAD" {
        answer.assert_refusal(403, "Permission denied!");
    }
    answer.status
}

/// Granted, and the upstream was told this scope, once.
async fn assert_scope(
    scene: (&TestGateway, &TestUpstream),
    session: &Session,
    ask: (&str, &str),
    scope: &str,
) {
    let ((gateway, upstream), (method, path)) = (scene, ask);
    assert_eq!(asked(gateway, session, method, path).await, 200, "{method} {path}");
    assert_eq!(upstream.last().header("x-postern-scope"), Some(scope), "{method} {path}");
}

#[tokio::test]
async fn every_method_asks_its_letter_and_any_other_method_asks_star() {
    let (upstream, gateway) = configured(scene).await;
    let needs = "GET:r HEAD:r POST:c PUT:u PATCH:u DELETE:d OPTIONS:* PROPFIND:* QUERY:* get:* Post:* GETX:* M-SEARCH:*";
    let holders = "create:c read:r update:u delete:d star:* nothing: own-read: child:rc";
    for (user, held) in holders.split(' ').map(|pair| pair.split_once(':').unwrap()) {
        let session = gateway.login(user).await;
        for (method, needed) in needs.split(' ').map(|pair| pair.split_once(':').unwrap()) {
            let before = upstream.requests().len();
            let granted = held == "*" || held.contains(needed);
            let status = asked(&gateway, &session, method, "/items/7").await;
            assert_eq!(status, if granted { 200 } else { 403 }, "{method} as {user}");
            assert_eq!(upstream.requests().len() - before, usize::from(granted), "{method} as {user}");
            if granted {
                assert_eq!(upstream.last().method, method);
            }
        }
    }
}

#[tokio::test]
async fn a_route_may_ask_another_permission() {
    let (_upstream, gateway) = configured(scene).await;
    let (reader, creator) = (gateway.login("read").await, gateway.login("create").await);
    assert_eq!(asked(&gateway, &reader, "POST", "/search").await, 200);
    assert_eq!(asked(&gateway, &creator, "POST", "/search").await, 403);
    assert_eq!(asked(&gateway, &reader, "PROPFIND", "/search").await, 200);
}

#[tokio::test]
async fn what_a_role_inherits_is_granted_over_every_step() {
    let (_upstream, gateway) = configured(scene).await;
    let session = gateway.login("grandchild").await;
    for (method, status) in [("GET", 200), ("POST", 200), ("DELETE", 403)] {
        assert_eq!(asked(&gateway, &session, method, "/items").await, status, "{method}");
    }
}

#[tokio::test]
async fn the_method_cannot_be_overridden_and_the_attempt_is_not_forwarded() {
    let (upstream, gateway) = configured(scene).await;
    let reader = gateway.login("read").await;
    for name in [
        "X-HTTP-Method-Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X_HTTP_METHOD_OVERRIDE",
        "x-http_method-override",
        "X.HTTP.Method.Override",
        "x~method!override",
    ] {
        let refused = gateway.ask(Ask::new("DELETE", "/items/7").with(&reader).header(name, "GET")).await;
        refused.assert_refusal(403, "Permission denied!");
        gateway.ask(Ask::get("/items/7").with(&reader).header(name, "DELETE")).await.assert_ok();
        assert!(!upstream.last().head.text().contains("DELETE"), "{name}: {}", upstream.last().head.text());
    }
    let refused = gateway.ask(Ask::post("/items/7?_method=GET").with(&reader).body("_method=GET")).await;
    refused.assert_refusal(403, "Permission denied!");
}

#[tokio::test]
async fn user_at_caller_asks_the_own_variant_of_the_callers_record_alone() {
    let (upstream, gateway) = configured(scene).await;
    let ann = gateway.login("ann").await;
    for ask in [
        ("GET", "/accounts/ann"),
        ("HEAD", "/accounts/ann"),
        ("PUT", "/accounts/ann"),
        ("PATCH", "/accounts/ann/settings"),
        ("GET", "/accounts/%61nn/"),
        ("GET", "/Accounts/x/../ann?domain=other.test"),
    ] {
        assert_scope((&gateway, &upstream), &ann, ask, "own").await;
    }
    let others = "bob ANN ann@example.org annx an ann,bob ann%20 bob/ann * ann/../bob {user} bob?user=ann";
    for other in others.split(' ') {
        assert_eq!(asked(&gateway, &ann, "GET", &format!("/accounts/{other}")).await, 403, "{other}");
    }
    for (method, path) in [("GET", "/accounts"), ("DELETE", "/accounts/ann"), ("POST", "/accounts/ann")] {
        assert_eq!(asked(&gateway, &ann, method, path).await, 403, "{method} {path}");
    }
}

#[tokio::test]
async fn the_same_name_in_another_domain_owns_another_record() {
    let (upstream, gateway) = configured(scene).await;
    let other = gateway.login("ann@other.test").await;
    assert_scope((&gateway, &upstream), &other, ("GET", "/accounts/ann"), "own").await;
    assert_eq!(upstream.last().header("x-webitel-domain"), Some("other.test"));
    assert_eq!(asked(&gateway, &other, "GET", "/profiles/ann?domain=example.org").await, 403);
    assert_scope((&gateway, &upstream), &other, ("GET", "/profiles/ann?domain=other.test"), "own").await;
}

#[tokio::test]
async fn the_own_variant_is_asked_instead_of_the_plain_one() {
    let (upstream, gateway) = configured(scene).await;
    let plain = gateway.login("plain").await;
    assert_scope((&gateway, &upstream), &plain, ("GET", "/accounts/ann"), "all").await;
    assert_eq!(asked(&gateway, &plain, "GET", "/accounts/plain").await, 403, "r is not ro");
    assert_eq!(asked(&gateway, &plain, "PUT", "/accounts/plain").await, 403, "u is not uo");
}

#[tokio::test]
async fn user_at_query_needs_the_callers_domain_once_in_the_query() {
    let (upstream, gateway) = configured(scene).await;
    let ann = gateway.login("ann").await;
    for path in ["/profiles/ann?domain=example.org", "/profiles/ann?a=1&domain=example%2Eorg&b=2"] {
        assert_scope((&gateway, &upstream), &ann, ("PUT", path), "own").await;
    }
    for target in [
        "ann",
        "ann?domain=",
        "ann?domain=other.test",
        "bob?domain=example.org",
        "ann?Domain=example.org",
        "ann?domain=EXAMPLE.ORG",
        "ANN?domain=example.org",
        "ann?domain=example.org&domain=other.test",
        "ann?domain=example.org&domain=example.org",
        "ann?domain[]=example.org",
        "ann@example.org",
        "ann#?domain=example.org",
    ] {
        assert_eq!(asked(&gateway, &ann, "PUT", &format!("/profiles/{target}")).await, 403, "{target}");
    }
}

#[tokio::test]
async fn domain_asks_the_own_variant_of_everyone_who_has_one() {
    let (upstream, gateway) = configured(scene).await;
    let (ann, plain) = (gateway.login("ann").await, gateway.login("plain").await);
    assert_scope((&gateway, &upstream), &ann, ("GET", "/domain/x"), "own").await;
    assert_eq!(asked(&gateway, &plain, "GET", "/domain/x").await, 403);
    assert_eq!(asked(&gateway, &ann, "PUT", "/domain/x").await, 403);
}

#[tokio::test]
async fn fallback_asks_the_plain_one_first_and_then_the_own_one() {
    let (upstream, gateway) = configured(scene).await;
    let (ann, plain) = (gateway.login("ann").await, gateway.login("plain").await);
    assert_scope((&gateway, &upstream), &plain, ("GET", "/fallback"), "all").await;
    assert_scope((&gateway, &upstream), &ann, ("GET", "/fallback"), "own").await;
    assert_scope((&gateway, &upstream), &ann, ("DELETE", "/fallback"), "own").await;
    assert_eq!(asked(&gateway, &ann, "PUT", "/fallback").await, 403);
    assert_eq!(asked(&gateway, &plain, "DELETE", "/fallback").await, 403);
}

#[tokio::test]
async fn without_own_the_own_variants_grant_nothing() {
    let (_upstream, gateway) = configured(scene).await;
    for (user, method) in [("ann", "GET"), ("ann", "DELETE"), ("own-read", "GET")] {
        let session = gateway.login(user).await;
        assert_eq!(asked(&gateway, &session, method, "/items").await, 403, "{method} as {user}");
    }
}

#[tokio::test]
async fn the_scope_is_the_gateways_word_alone() {
    let (upstream, gateway) = configured(scene).await;
    let ann = gateway.login("ann").await;
    for (name, value) in [
        ("X-Postern-Scope", "all"),
        ("x-postern-scope", ""),
        ("X_Postern_Scope", "all"),
        ("X.Postern.Scope", "all"),
        ("Connection", "X-Postern-Scope"),
        ("Connection", "close, x-postern-scope, X-Webitel-User"),
    ] {
        gateway.ask(Ask::get("/fallback").with(&ann).header(name, value)).await.assert_ok();
        let seen = upstream.last();
        let is_scope = |name: &str| {
            name.to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-") == "x-postern-scope"
        };
        let scopes: Vec<&String> =
            seen.head.fields.iter().filter(|(name, _)| is_scope(name)).map(|(_, value)| value).collect();
        assert_eq!(scopes, ["own"], "{name}: {value}");
        assert_eq!(seen.header("x-webitel-user"), Some("ann@example.org"), "{name}: {value}");
    }
}

#[tokio::test]
async fn routes_without_a_resource_tell_no_scope() {
    let (upstream, gateway) = configured(scene).await;
    let ann = gateway.login("ann").await;
    gateway.ask(Ask::get("/me/x").with(&ann).header("X-Postern-Scope", "all")).await.assert_ok();
    gateway.ask(Ask::get("/public/x").header("X-Postern-Scope", "all")).await.assert_ok();
    assert_eq!(upstream.requests().len(), 2);
    for seen in upstream.requests() {
        assert!(!seen.head.has("x-postern-scope"), "{}", seen.head.text());
    }
}

#[tokio::test]
async fn the_framing_of_a_body_changes_no_decision() {
    let (upstream, gateway) = configured(scene).await;
    let (reader, creator) = (gateway.login("read").await, gateway.login("create").await);
    let asks = [
        Ask::post("/items").body(""),
        Ask::post("/items").body("x".repeat(100_000)),
        Ask::post("/items").chunked("hello"),
    ];
    for ask in asks {
        gateway.ask(ask.clone().with(&reader)).await.assert_refusal(403, "Permission denied!");
        gateway.ask(ask.with(&creator)).await.assert_ok();
    }
    assert_eq!(upstream.requests().len(), 3);
}
