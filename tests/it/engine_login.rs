//! `directory.webitel`, `[login] answers` and `answer = "whoami"` (contract sections 2 and 3): logins that an engine
//! judges, their sessions here and there.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::support::wait::until;
use crate::support::{Ask, Engine, PASSWORD, configured};

#[tokio::test]
async fn a_login_is_the_engines_and_its_session_works_on_both_sides() {
    let engine = Engine::start().await;
    let gateway = engine.gateway("parity", |_| {}).await;
    let answer = gateway.ask(Ask::login("user@example.org", PASSWORD)).await;
    answer.assert_ok();
    let body = answer.json();
    assert_eq!(body["verto"], "wss://engine/verto", "the engine's answer goes on as it is: {body}");
    assert_eq!((&body["roleName"], &body["domain"]), (&json!("user"), &json!("example.org")));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let session = gateway.login("user@example.org").await;
    assert!(engine.knows(&session));
    gateway.ask(Ask::get("/api/v2/accounts").with(&session)).await.assert_ok();
    gateway.ask(Ask::get("/api/v2/gateway").with(&session)).await.assert_refusal(403, "Permission denied!");
    let seen = engine.forwarded().pop().unwrap();
    assert_eq!(seen.caller.as_deref(), Some("user@example.org"));
    assert_eq!(seen.head.one("x-webitel-role"), Some("user"));
    assert_eq!(engine.whoamis(), 0, "a session that was logged in for is not asked for");
}

#[tokio::test]
async fn refusals_of_the_engine_go_on_as_they_are_and_the_second_factor_passes() {
    let engine = Engine::start().await;
    engine.state.users.lock().unwrap().get_mut("root").unwrap().code = Some("123456".into());
    let gateway = engine.gateway("parity", |_| {}).await;
    let mut client = gateway.client().await;
    for (ask, status, info) in [
        (Ask::login("user@example.org", "wrong"), 401, "secret incorrect"),
        (Ask::login("nobody@example.org", PASSWORD), 401, "secret incorrect"),
        (Ask::login("root", PASSWORD), 301, "Set security code"),
        (code("root", "000000"), 401, "code incorrect"),
    ] {
        let answer = client.ask(&ask).await;
        assert_eq!((answer.status, answer.info().as_str()), (status, info));
        assert!(answer.header("location").is_none());
        assert_eq!(answer.header("cache-control"), (status == 301).then_some("no-store"));
    }
    client.ask(&code("root", "123456")).await.assert_ok();
    assert_eq!(engine.state.sessions.lock().unwrap().len(), 1);
}

fn code(user: &str, code: &str) -> Ask {
    let body = json!({"username": user, "password": PASSWORD});
    Ask::post(format!("/login?code={code}")).json(&body)
}

#[tokio::test]
async fn what_would_crash_the_engine_does_not_reach_it() {
    let engine = Engine::start().await;
    let gateway = engine.gateway("parity", |_| {}).await;
    for body in [
        json!({"username": ["root"]}),
        json!({"username": {"$ne": 1}, "password": "x"}),
        json!({"username": 1}),
    ] {
        gateway.ask(Ask::post("/login").json(&body)).await.assert_error(400);
    }
    gateway.ask(Ask::post("/login").json(&json!({"username": ""}))).await.assert_error(400);
    assert_eq!(engine.state.logins.load(Ordering::SeqCst), 0);
    assert!(!engine.state.crashed.load(Ordering::SeqCst));
}

#[tokio::test]
async fn failures_that_the_engine_tells_are_counted() {
    let engine = Engine::start().await;
    let gateway = engine.gateway("parity", |settings| settings.set("login.max_failures", "3")).await;
    for _ in 0..3 {
        assert_eq!(gateway.ask(Ask::login("user@example.org", "wrong")).await.status, 401);
    }
    let answer = gateway.ask(Ask::login("user@example.org", PASSWORD)).await;
    answer.assert_error(429);
    assert!(answer.header("retry-after").is_some());
    assert_eq!(engine.state.logins.load(Ordering::SeqCst), 3, "the engine is not asked any more");
}

#[tokio::test]
async fn an_engine_that_is_away_is_503_and_creates_nothing() {
    let engine = Engine::start().await;
    let gateway = engine.gateway("parity", |_| {}).await;
    engine.set_away(true);
    let answer = gateway.ask(Ask::login("user@example.org", PASSWORD)).await;
    answer.assert_error(503);
    assert!(answer.header("retry-after").is_some());
    engine.set_away(false);
    gateway.login("user@example.org").await;
    assert!(
        gateway.metric("postern_engine_requests_total", &["call=\"login\"", "result=\"failed\""]).await
            >= 1.0
    );
}

#[tokio::test]
async fn a_logout_ends_the_session_on_both_sides() {
    let engine = Engine::start().await;
    let gateway = engine.gateway("parity", |_| {}).await;
    let session = gateway.login("user@example.org").await;
    gateway.ask(Ask::post("/logout").with(&session)).await.assert_ok();
    assert!(!engine.knows(&session), "told before the answer");
    gateway.ask(Ask::get("/api/v2/accounts").with(&session)).await.assert_refusal(401, "Invalid User");
    gateway.ask(Ask::post("/logout").with(&session)).await.assert_refusal(401, "Bad caller");
}

#[tokio::test]
async fn a_logout_while_the_engine_is_away_holds_and_is_told_later() {
    let engine = Engine::start().await;
    let mut gateway = engine.gateway("parity", |_| {}).await;
    let (session, other) = (gateway.login("user@example.org").await, gateway.login("user@example.org").await);
    engine.set_away(true);
    gateway.ask(Ask::post("/logout").with(&session)).await.assert_ok();
    assert_eq!(gateway.metric("postern_engine_logouts_pending", &[]).await, 1.0);
    gateway.ask(Ask::post("/logout").with(&other)).await.assert_ok();
    engine.set_away(false);
    // The engine still says yes; what was ended here stays ended.
    if engine.knows(&session) {
        gateway.ask(Ask::get("/api/v2/accounts").with(&session)).await.assert_refusal(401, "Invalid User");
    }
    until("the engine to be told", || (!engine.knows(&session) && !engine.knows(&other)).then_some(())).await;
    let third = engine.session("user@example.org");
    gateway.ask(Ask::get("/api/v2/accounts").with(&third)).await.assert_ok();
    engine.set_away(true);
    gateway.ask(Ask::post("/logout").with(&third)).await.assert_ok();
    gateway.restart().await;
    engine.set_away(false);
    assert!(engine.knows(&third), "a restart forgets whom it had to tell");
    gateway.ask(Ask::get("/api/v2/accounts").with(&third)).await.assert_refusal(401, "Invalid User");
}

#[tokio::test]
async fn the_user_file_and_the_engine_stand_side_by_side_in_the_order_written() {
    for (first, second) in [("file", "webitel"), ("webitel", "file")] {
        let engine = Engine::start().await;
        let url = engine.url();
        let (_upstream, gateway) = configured(|settings| {
            settings.unset("directory.file");
            for kind in [first, second] {
                match kind {
                    "file" => settings.set("directory.file", "'users.toml'"),
                    _ => settings.set("directory.webitel", &format!("{{ url = '{url}' }}")),
                }
            }
            settings.user("admin@example.org", "idle");
        })
        .await;
        let of_both = gateway.ask(Ask::login("admin@example.org", PASSWORD)).await.json();
        let expected = if first == "file" { "idle" } else { "admin" };
        assert_eq!(of_both["roleName"], expected, "{first} before {second}");
        let of_file = gateway.ask(Ask::login("100@example.org", PASSWORD)).await.json();
        assert_eq!(of_file["roleName"], "user", "{first} before {second}");
        let of_engine = gateway.ask(Ask::login("op@example.org", PASSWORD)).await.json();
        assert_eq!(of_engine["roleName"], "op", "{first} before {second}");
        // A reload keeps sessions of users whom the user file never knew.
        let session = gateway.login("sub@example.org").await;
        gateway.admin_ask(Ask::post("/reload")).await;
        assert!(gateway.knows(&session).await);
    }
}

#[tokio::test]
async fn the_cdr_block_of_the_configuration_takes_the_place_of_the_engines() {
    let engine = Engine::start().await;
    let gateway = engine
        .gateway("parity", |s| s.set("login.cdr", "{ host = 'https://api/cdr', useProxy = 'true' }"))
        .await;
    let body = gateway.ask(Ask::login("user@example.org", PASSWORD)).await.json();
    assert_eq!(body["cdr"], json!({"host": "https://api/cdr", "useProxy": "true"}));
    assert_eq!(body["verto"], "wss://engine/verto");
}

#[tokio::test]
async fn refusals_are_told_as_the_engine_would_where_it_is_asked_for() {
    let (_upstream, gateway) = configured(|settings| settings.set("login.answers", "'engine'")).await;
    let no_user = json!({"status": 401, "message": "Invalid credentials"});
    let wrong = json!({"status": "error", "info": "secret incorrect"});
    for (ask, status, body) in [
        (Ask::post("/login").json(&json!({})), 401, &no_user),
        (Ask::post("/login").header("Content-Type", "text/plain").body("x"), 401, &no_user),
        (Ask::login("100@example.org", "wrong"), 401, &wrong),
        (Ask::login("nobody@example.org", "wrong"), 401, &wrong),
        (Ask::get("/login"), 404, &json!({"status": "error", "info": "/login not found."})),
    ] {
        let answer = gateway.ask(ask).await;
        assert_eq!((answer.status, &answer.json()), (status, body));
    }
    let broken = Ask::post("/login").header("Content-Type", "application/json").body("{");
    assert_eq!(gateway.ask(broken).await.status, 400);
    gateway.login("100@example.org").await;
}

#[tokio::test]
async fn whoami_is_answered_here_where_the_route_says_so() {
    let (upstream, gateway) = configured(|settings| {
        settings.route("path = '/api/v2/whoami'\naccess = 'authenticated'\nanswer = 'whoami'");
    })
    .await;
    let session = gateway.login("100").await;
    let answer = gateway.ask(Ask::get("/api/v2/whoami").with(&session)).await;
    answer.assert_ok();
    let expected = json!({
        "acl": {"account": ["r", "uo"], "cdr": ["r"], "cdr/media": ["r"]},
        "id": "100@example.org", "domain": "example.org", "roleName": "user",
        "expires": session.answer["expires"], "cdr": {"host": "http://cdr:10023", "useProxy": "true"}
    });
    assert_eq!(answer.json(), expected);
    gateway.ask(Ask::get("/api/v2/whoami")).await.assert_refusal(401, "Invalid token");
    let head = gateway.client().await.ask(&Ask::new("HEAD", "/api/v2/whoami").with(&session)).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    upstream.assert_untouched();
}

#[tokio::test]
async fn an_engines_rights_are_what_it_told() {
    let engine = Engine::start().await;
    let gateway = engine
        .gateway("parity", |settings| {
            settings.route("path = '/me/whoami'\naccess = 'authenticated'\nanswer = 'whoami'");
        })
        .await;
    let session = gateway.login("sub@example.org").await;
    let told: Value = gateway.ask(Ask::get("/me/whoami").with(&session)).await.json();
    assert_eq!(told["acl"]["cdr/media"], json!(["c", "r"]));
    assert_eq!(told["acl"]["account"], json!(["r", "u", "uo"]), "its parent's too");
}
