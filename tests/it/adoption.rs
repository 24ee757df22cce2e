//! `[sessions.adopt]` (contract section 2): sessions and domain tokens that an engine made are used with no login here.

use crate::support::jwt;
use crate::support::wait::until_async;
use crate::support::{Ask, Engine, SECRET, Session, TestClient, TestGateway};

const ROUTE: &str = "/api/v2/accounts";

async fn status(gateway: &TestGateway, session: &Session) -> u16 {
    gateway.ask(Ask::get(ROUTE).with(session)).await.status
}

#[tokio::test]
async fn a_thousand_sessions_of_the_engine_are_each_asked_for_once() {
    let engine = Engine::start().await;
    let gateway = engine.gateway("parity", |_| {}).await;
    let users = ["admin@example.org", "user@example.org", "op@example.org", "sub@example.org"];
    let sessions: Vec<_> = (0..1000).map(|n| engine.session(users[n % users.len()])).collect();
    for _ in 0..2 {
        let mut clients: Vec<TestClient> = Vec::new();
        for _ in 0..8 {
            clients.push(gateway.client().await);
        }
        for chunk in sessions.chunks(8) {
            let asks = chunk.iter().zip(&mut clients).map(|(session, client)| async move {
                client.ask(&Ask::get("/api/v2/status").with(session)).await.status
            });
            let statuses = futures_util::future::join_all(asks).await;
            assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
        }
    }
    assert_eq!(engine.whoamis(), 1000);
    assert_eq!(engine.forwarded().len(), 2000);
    assert_eq!(engine.state.logins.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[tokio::test]
async fn requests_at_once_ask_once() {
    let engine = Engine::start().await;
    let gateway = engine.gateway("parity", |_| {}).await;
    let session = engine.session("user@example.org");
    let asks = (0..40).map(|_| gateway.ask(Ask::get(ROUTE).with(&session)));
    let answers = futures_util::future::join_all(asks).await;
    assert!(answers.iter().all(|answer| answer.status == 200));
    assert_eq!(engine.whoamis(), 1);
}

#[tokio::test]
async fn ten_thousand_forged_tokens_ask_nothing() {
    let engine = Engine::start().await;
    let gateway = engine.gateway("parity", |_| {}).await;
    let real = engine.session("user@example.org");
    let expires = jwt::now() + 1_000_000;
    let claims = format!(r#"{{"exp":{expires},"acl":{{}}}}"#);
    let domain = format!(r#"{{"id":"i","exp":{expires},"d":"example.org","t":"domain","v":2}}"#);
    let expired = r#"{"exp":1000,"acl":{}}"#;
    let forged = [
        jwt::sign(jwt::HEADER, &claims, b"another key of thirty-two bytes!!"),
        jwt::sign(r#"{"typ":"JWT","alg":"none"}"#, &claims, SECRET),
        jwt::sign(r#"{"typ":"JWT","alg":"HS512"}"#, &claims, SECRET),
        jwt::sign(r#"{"typ":"JWT","alg":"HS256","crit":["exp"]}"#, &claims, SECRET),
        jwt::sign(jwt::HEADER, r#"{"acl":{}}"#, SECRET),
        jwt::sign(jwt::HEADER, r#"{"exp":"9999999999999"}"#, SECRET),
        jwt::sign(jwt::HEADER, expired, SECRET),
        jwt::sign(jwt::HEADER, &domain, b"another key of thirty-two bytes!!"),
        format!("{}x", real.token),
        "x".repeat(5000),
    ];
    let mut client = gateway.client().await;
    for n in 0..10_000 {
        let session = Session {
            token: forged[n % forged.len()].clone(),
            key: format!("{}{n}", real.key),
            answer: Default::default(),
        };
        let answer = client.ask(&Ask::get(ROUTE).with(&session)).await;
        assert_eq!(answer.status, 401, "{}", answer.brief());
    }
    assert_eq!(engine.whoamis(), 0);
    assert!(engine.forwarded().is_empty());
}

#[tokio::test]
async fn a_no_of_the_engine_is_remembered_for_a_moment() {
    let engine = Engine::start().await;
    let gateway =
        engine.gateway("parity", |settings| settings.set("sessions.adopt.negative_ttl", "'1s'")).await;
    let session = engine.session("user@example.org");
    let known = engine.state.sessions.lock().unwrap().remove(&session.key).unwrap();
    for _ in 0..5 {
        gateway.ask(Ask::get(ROUTE).with(&session)).await.assert_refusal(401, "Invalid User");
    }
    assert_eq!(engine.whoamis(), 1);
    engine.state.sessions.lock().unwrap().insert(session.key.clone(), known);
    until_async("the no to be forgotten", || async { status(&gateway, &session).await == 200 }).await;
}

#[tokio::test]
async fn a_session_is_asked_about_again_and_ends_when_the_engine_does_not_know_it() {
    let engine = Engine::start().await;
    let gateway =
        engine.gateway("parity", |settings| settings.set("sessions.adopt.revalidate", "'1s'")).await;
    let (kept, ended) = (engine.session("user@example.org"), engine.session("user@example.org"));
    assert_eq!((status(&gateway, &kept).await, status(&gateway, &ended).await), (200, 200));
    engine.state.sessions.lock().unwrap().remove(&ended.key);
    until_async("the end to be seen", || async {
        let answer = gateway.ask(Ask::get(ROUTE).with(&ended)).await;
        // The engine refuses at once, the gateway once it has asked.
        answer.status == 401 && answer.header("x-request-id").is_some()
    })
    .await;
    assert_eq!(status(&gateway, &kept).await, 200);
    assert_eq!(gateway.metric("postern_revocations_total", &["cause=\"engine_ended\""]).await, 1.0);
    let asked = engine.whoamis();
    assert!((3..=12).contains(&asked), "{asked} questions");
}

#[tokio::test]
async fn a_changed_role_acts_once_the_engine_was_asked_again() {
    let engine = Engine::start().await;
    let gateway =
        engine.gateway("parity", |settings| settings.set("sessions.adopt.revalidate", "'1s'")).await;
    let session = engine.session("admin@example.org");
    gateway.ask(Ask::get("/api/v2/gateway").with(&session)).await.assert_ok();
    engine.state.sessions.lock().unwrap().get_mut(&session.key).unwrap().role = "user".into();
    until_async("the role to change", || async {
        gateway.ask(Ask::get("/api/v2/gateway").with(&session)).await.status == 403
    })
    .await;
    assert_eq!(status(&gateway, &session).await, 200, "the session lives on");
}

#[tokio::test]
async fn while_the_engine_is_away_known_sessions_go_on_and_unknown_ones_are_503() {
    let engine = Engine::start().await;
    let mut gateway =
        engine.gateway("parity", |settings| settings.set("sessions.adopt.revalidate", "'1s'")).await;
    let (known, unknown) = (engine.session("user@example.org"), engine.session("user@example.org"));
    assert_eq!(status(&gateway, &known).await, 200);
    let token = engine.domain_token("t1", "example.org", "user");
    gateway.ask(Ask::get(ROUTE).header("X-Access-Token", &token)).await.assert_ok();
    // The upstream answers on: only what postern itself asks is refused.
    let other = Engine::start().await;
    gateway
        .reload_with(|settings| {
            settings.set("upstreams.engine.servers", &format!("['http://{}']", other.engine.addr));
        })
        .await
        .assert_ok();
    engine.set_away(true);
    until_async("the engine to be asked again", || async {
        gateway.ask(Ask::get(ROUTE).with(&known)).await;
        gateway.metric("postern_engine_requests_total", &["whoami", "failed"]).await >= 1.0
    })
    .await;
    for _ in 0..3 {
        // The other engine has no session of this key: its 401 shows that the request was let through to it.
        let answer = gateway.ask(Ask::get(ROUTE).with(&known)).await;
        assert_eq!((answer.status, !other.forwarded().is_empty()), (401, true));
        let answer = gateway.ask(Ask::get(ROUTE).with(&unknown)).await;
        answer.assert_error(503);
        assert!(answer.header("retry-after").is_some());
    }
    let reached = other.forwarded().len();
    gateway.ask(Ask::get(ROUTE).header("X-Access-Token", &token)).await;
    assert_eq!(other.forwarded().len(), reached + 1, "so does a domain token that is known");
    engine.set_away(false);
    until_async("the engine to be asked again", || async { status(&gateway, &unknown).await != 503 }).await;
}

#[tokio::test]
async fn more_questions_than_are_allowed_are_503() {
    let engine = Engine::start().await;
    let gateway =
        engine.gateway("parity", |settings| settings.set("sessions.adopt.max_lookups_per_second", "5")).await;
    let mut statuses = Vec::new();
    for _ in 0..20 {
        statuses.push(status(&gateway, &engine.session("user@example.org")).await);
    }
    assert!(statuses.contains(&200) && statuses.contains(&503), "{statuses:?}");
    assert!(engine.whoamis() < 20 && statuses.iter().all(|s| matches!(s, 200 | 503)), "{statuses:?}");
}

#[tokio::test]
async fn a_domain_token_of_the_engine_is_adopted_and_ends_with_it() {
    let engine = Engine::start().await;
    let gateway =
        engine.gateway("parity", |settings| settings.set("sessions.adopt.revalidate", "'1s'")).await;
    let token = engine.domain_token("2c6f", "example.org", "op");
    let ask =
        || gateway.ask(Ask::get("/api/v2/hooks").header("X-Access-Token", &token).header("X-Key", "ignored"));
    ask().await.assert_ok();
    let seen = engine.forwarded().pop().unwrap();
    assert_eq!(seen.head.one("x-webitel-user"), Some("2c6f@example.org"));
    assert!(!seen.head.has("x-key"));
    gateway.ask(Ask::get("/api/v2/gateway").header("X-Access-Token", &token)).await.assert_error(403);
    assert_eq!(engine.whoamis(), 1);
    // A token of the same id that claims another domain is another's.
    let other = jwt::domain_token("2c6f", "other.org", jwt::now() + 100_000, SECRET);
    gateway
        .ask(Ask::get("/api/v2/hooks").header("X-Access-Token", &other))
        .await
        .assert_refusal(401, "Not found token");
    engine.state.tokens.lock().unwrap().clear();
    until_async("the end to be seen", || async { ask().await.header("x-request-id").is_some() }).await;
    ask().await.assert_refusal(401, "Not found token");
}

#[tokio::test]
async fn an_adopted_session_survives_a_restart_and_an_operators_end_holds() {
    let engine = Engine::start().await;
    let mut gateway = engine.gateway("parity", |_| {}).await;
    let (session, revoked) = (engine.session("user@example.org"), engine.session("admin@example.org"));
    assert_eq!((status(&gateway, &session).await, status(&gateway, &revoked).await), (200, 200));
    let answer = gateway.admin_ask(Ask::new("DELETE", "/sessions?user=admin@example.org")).await;
    assert_eq!(answer.status, 204, "{}", answer.brief());
    assert!(engine.knows(&revoked), "the engine was not told");
    gateway.ask(Ask::get(ROUTE).with(&revoked)).await.assert_refusal(401, "Invalid User");
    gateway.restart().await;
    gateway.ask(Ask::get(ROUTE).with(&revoked)).await.assert_refusal(401, "Invalid User");
    engine.set_away(true);
    let listed = gateway.admin_ask(Ask::get("/sessions?user=user@example.org")).await.json();
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 1, "{listed}");
    let answer = gateway.ask(Ask::get("/api/v2/hooks").with(&session)).await;
    answer.assert_refusal(403, "Permission denied!");
}

#[tokio::test]
async fn a_recording_link_that_the_engine_made_works_in_a_browser() {
    let engine = Engine::start().await;
    let gateway = engine.gateway("hardened", |_| {}).await;
    let link = engine.session("admin@example.org");
    let answer = gateway.ask(Ask::get(format!("/api/v2/files/7?name=a&{}", link.query()))).await;
    answer.assert_ok();
    let seen = engine.forwarded().pop().unwrap();
    assert_eq!(seen.target, "/api/v2/files/7?name=a", "the credentials go on as headers alone");
    assert_eq!(seen.head.all("x-access-token"), [link.token.as_str()]);
    assert_eq!(seen.head.all("x-key"), [link.key.as_str()]);
    assert!(!gateway.output().contains(&link.key) && !gateway.output().contains(&link.token));
}

#[tokio::test]
async fn a_logout_ends_a_session_that_was_never_seen_here() {
    let engine = Engine::start().await;
    let gateway = engine.gateway("parity", |_| {}).await;
    let session = engine.session("user@example.org");
    gateway.ask(Ask::post("/logout").with(&session)).await.assert_ok();
    assert!(!engine.knows(&session));
    gateway.ask(Ask::get(ROUTE).with(&session)).await.assert_refusal(401, "Invalid User");
}

/// What nobody else's question has to do with: an engine of Node takes no head above 16 KiB, and answers 431.
#[tokio::test]
async fn a_question_that_the_engine_does_not_take_keeps_nobody_from_being_asked_about() {
    let engine = Engine::start().await;
    let gateway =
        engine.gateway("parity", |settings| settings.set("sessions.adopt.revalidate", "'1s'")).await;
    let (ended, odd) = (engine.session("user@example.org"), engine.session("op@example.org"));
    assert_eq!(status(&gateway, &ended).await, 200);
    engine.state.refused.lock().unwrap().insert(odd.key.clone(), 431);
    engine.state.sessions.lock().unwrap().remove(&ended.key);
    until_async("the end to be seen", || async {
        assert_eq!(status(&gateway, &odd).await, 503);
        let unseen = engine.session("user@example.org");
        assert_eq!(status(&gateway, &unseen).await, 200);
        let answer = gateway.ask(Ask::get(ROUTE).with(&ended)).await;
        answer.status == 401 && answer.header("x-request-id").is_some()
    })
    .await;
    let asked = engine.whoamis();
    let long = Session { key: "k".repeat(300), ..odd };
    assert_eq!(status(&gateway, &long).await, 401);
    assert_eq!(engine.whoamis(), asked, "no engine makes such a key");
}
