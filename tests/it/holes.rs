//! The holes of the Webitel backends: each is shown open at the stand-in and shut through the hardened gateway. Those of
//! WebSockets, bodies and roles have scenes of their own.

use serde_json::json;

use crate::support::{Answer, Ask, Engine, Session, TestClient, TestGateway};

struct Scene {
    engine: Engine,
    gateway: TestGateway,
}

impl Scene {
    async fn new() -> Self {
        let engine = Engine::start().await;
        let gateway = engine.gateway("hardened", |_| {}).await;
        Self { engine, gateway }
    }

    async fn direct(&self, ask: &Ask) -> Answer {
        TestClient::connect(self.engine.engine.addr).await.ask(ask).await
    }

    async fn direct_cdr(&self, ask: &Ask) -> Answer {
        TestClient::connect(self.engine.cdr.addr).await.ask(ask).await
    }

    /// Open at the backend, shut through the gateway, which asks the backend nothing.
    async fn is_shut(&self, ask: Ask, session: &Session) {
        let ask = ask.with(session);
        let is_cdr = ["/api/v2/cdr", "/api/v2/files"]
            .iter()
            .any(|p| ask.bytes().windows(p.len()).any(|w| w == p.as_bytes()));
        let direct = if is_cdr { self.direct_cdr(&ask).await } else { self.direct(&ask).await };
        let what = String::from_utf8_lossy(&ask.bytes()).lines().next().unwrap_or_default().to_owned();
        assert_eq!(direct.status, 200, "the hole is not there: {what}");
        let before = self.engine.forwarded().len();
        let through = self.gateway.ask(ask).await;
        assert!(matches!(through.status, 400 | 401 | 403 | 415), "{what}: {}", through.brief());
        assert_eq!(self.engine.forwarded().len(), before, "{what} reached a backend");
    }
}

#[tokio::test]
async fn what_asked_for_no_permission_asks_for_one() {
    let scene = Scene::new().await;
    // Holds no more than hook, calendar, book, vmail, callback/members, cdr r and license do.
    let op = scene.gateway.login("op@example.org").await;
    for ask in [
        Ask::get("/api/v2/channels"),
        Ask::get("/api/v2/channels/100"),
        Ask::post("/api/v2/channels"),
        Ask::post("/api/v2/channels/fake"),
        Ask::new("DELETE", "/api/v2/channels/uuid"),
        Ask::new("PUT", "/api/v2/channels/uuid"),
        Ask::new("DELETE", "/api/v2/channels/domain/other.org"),
        Ask::get("/api/v2/calls"),
        Ask::get("/api/v2/email/settings"),
        Ask::new("PUT", "/api/v2/email/settings"),
        Ask::post("/api/v2/email/settings/test/a@b.c"),
        Ask::get("/api/v2/status"),
        Ask::new("PUT", "/api/v2/dialer/d/members/m/status"),
        Ask::get("/api/v2/files/1"),
        Ask::new("DELETE", "/api/v2/files/1"),
        Ask::post("/api/v2/cdr/uuid/post"),
    ] {
        scene.is_shut(ask, &op).await;
    }
    let user = scene.gateway.login("user@example.org").await;
    for ask in [
        Ask::post("/api/v2/accounts/200/spy"),
        Ask::post("/api/v2/channels/uuid/eavesdrop"),
        Ask::get("/api/v2/contacts/yealink?domain=other.org"),
        Ask::get("/api/v2/status"),
        Ask::new("DELETE", "/api/v2/files/1"),
        // As other spellings of the same.
        Ask::post("/API/V2/Accounts/200/SPY/"),
        Ask::get("/api/v2/Status/"),
    ] {
        scene.is_shut(ask, &user).await;
    }
    let root = scene.gateway.login("root").await;
    scene.gateway.ask(Ask::get("/api/v2/status").with(&root)).await.assert_ok();
    let admin = scene.gateway.login("admin@example.org").await;
    for ask in [
        Ask::get("/api/v2/email/settings"),
        Ask::post("/api/v2/accounts/200/spy"),
        Ask::get("/api/v2/files/1"),
    ] {
        scene.gateway.ask(ask.with(&admin)).await.assert_ok();
    }
}

#[tokio::test]
async fn nothing_passes_to_the_cdr_server_or_tells_of_it_without_credentials() {
    let scene = Scene::new().await;
    assert_eq!(scene.direct(&Ask::get("/api/v2/r/cdr/text")).await.status, 200, "the hole");
    for path in
        ["/api/v2/r/cdr/text", "/api/v2/cdr/uuid", "/api/v2/files/1", "/api/v2/cdrfoo", "/api/v2/statistic/x"]
    {
        scene.gateway.ask(Ask::get(path)).await.assert_refusal(401, "Invalid token");
    }
    assert!(scene.engine.forwarded().is_empty());
}

#[tokio::test]
async fn a_second_set_of_credentials_makes_nobody_another() {
    let scene = Scene::new().await;
    let (user, root) = (scene.gateway.login("user@example.org").await, scene.gateway.login("root").await);
    let other_in_query = Ask::get(format!("/api/v2/whoami?{}", root.query())).with(&user);
    assert_eq!(scene.direct(&other_in_query).await.json()["id"], "root", "the hole");
    scene.gateway.ask(other_in_query).await.assert_refusal(400, "Ambiguous credentials");

    let other_in_body = |method: &str| {
        Ask::new(method, "/api/v2/accounts")
            .json(&json!({"access_token": root.token, "x_key": root.key}))
            .with(&user)
    };
    assert_eq!(scene.direct(&other_in_body("GET")).await.json()["caller"], "root", "the hole");
    scene.gateway.ask(other_in_body("GET")).await.assert_refusal(400, "Ambiguous credentials");

    // An operator of the database finds the session of a token whose key is not known.
    let operator = Ask::get("/api/v2/accounts")
        .header("X-Access-Token", &user.token)
        .json(&json!({"x_key": {"$ne": ""}}));
    assert_eq!(scene.direct(&operator).await.status, 200, "the hole");
    scene.gateway.ask(operator).await.assert_error(401);
    for query in ["x_key[$in]=a", "x_key[]=a", "x_key%5B%24ne%5D=a", "[x_key]=a"] {
        let ask = Ask::get(format!("/api/v2/accounts?{query}")).with(&user);
        scene.gateway.ask(ask).await.assert_refusal(400, "Ambiguous credentials");
    }
    let callers: Vec<_> =
        scene.engine.forwarded().into_iter().filter(|seen| seen.head.has("x-request-id")).collect();
    assert!(callers.is_empty(), "{callers:?}");
}

#[tokio::test]
async fn the_basic_door_is_shut_and_so_is_the_second_factor_s_secret() {
    let scene = Scene::new().await;
    let root = scene.gateway.login("root").await;
    assert_eq!(
        scene.direct(&Ask::get("/api/v1/status")).await.status,
        401,
        "it asks for a password alone: the hole"
    );
    for path in ["/api/v1/status", "/API/v1/domains", "/api/./v1/reloadxml", "/api//v1/status"] {
        let ask = Ask::get(path).header("Authorization", "Basic cm9vdDpyb290").with(&root);
        scene.gateway.ask(ask).await.assert_refusal(403, "Permission denied!");
    }
    for ask in [
        Ask::get("/api/v2/metadata/security_settings?domain=root"),
        Ask::post("/api/v2/metadata/Security_Settings?domain=root"),
        Ask::get("/api/v2/metadata/%73ecurity_settings?domain=root"),
    ] {
        let shown = ask.with(&root);
        let direct = scene.direct(&shown).await;
        assert_eq!(direct.status, 200, "the hole");
        scene.gateway.ask(shown).await.assert_refusal(403, "Permission denied!");
    }
    scene.gateway.ask(Ask::get("/api/v2/metadata/other").with(&root)).await.assert_ok();
}

#[tokio::test]
async fn built_in_roles_are_not_made_again_and_tokens_not_written_past_their_route() {
    let scene = Scene::new().await;
    let (root, admin) = (scene.gateway.login("root").await, scene.gateway.login("admin@example.org").await);
    for name in ["user", "Admin", "ROOT"] {
        scene
            .is_shut(Ask::post("/api/v2/acl/roles").json(&json!({"roles": name, "parents": "root"})), &root)
            .await;
    }
    for (method, name) in [("PUT", "user"), ("DELETE", "admin"), ("PUT", "ROOT")] {
        let ask = Ask::new(method, format!("/api/v2/acl/roles/{name}")).json(&json!({"cdr": ["*"]}));
        scene.is_shut(ask, &root).await;
    }
    let made = Ask::post("/api/v2/acl/roles").json(&json!({"roles": "night-shift", "parents": "user"}));
    scene.gateway.ask(made.with(&root)).await.assert_ok();
    scene.gateway.ask(Ask::get("/api/v2/acl/roles/user").with(&root)).await.assert_ok();
    for body in [
        json!({"tokens": [{"roleName": "root"}]}),
        json!({"tokens.0.roleName": "root"}),
        json!({"auth": {"enable": true}}),
    ] {
        scene.is_shut(Ask::new("PUT", "/api/v2/domains/example.org/settings").json(&body), &admin).await;
    }
    let plain = Ask::new("PUT", "/api/v2/domains/example.org/settings").json(&json!({"note": "x"}));
    scene.gateway.ask(plain.with(&admin)).await.assert_ok();
}

#[tokio::test]
async fn the_engine_believes_no_address_that_a_client_made_up() {
    let scene = Scene::new().await;
    let user = scene.gateway.login("user@example.org").await;
    let ask =
        Ask::get("/api/v2/accounts").header("X-Forwarded-For", "10.0.0.1").header("X-Webitel-Role", "root");
    scene.gateway.ask(ask.with(&user)).await.assert_ok();
    let seen = scene.engine.forwarded().pop().unwrap();
    assert_eq!(seen.head.one("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.head.one("x-webitel-role"), Some("user"));
}
