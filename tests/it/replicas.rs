//! `[sessions.redis]`: several gateways are one (contract sections 2, 3 and 6).

use serde_json::json;

use crate::support::answer::status_of;
use crate::support::process::binary;
use crate::support::settings::Settings;
use crate::support::wait::{until, until_async};
use crate::support::{Ask, PASSWORD, Redis, Session, TestGateway, TestUpstream};

/// Two gateways over one Redis.
pub struct Pair {
    _upstream: TestUpstream,
    pub redis: Redis,
    pub a: TestGateway,
    pub b: TestGateway,
}

pub async fn pair(change: impl Fn(&mut Settings)) -> Option<Pair> {
    pair_over(Redis::start().await?, change).await
}

pub async fn pair_over(redis: Redis, change: impl Fn(&mut Settings)) -> Option<Pair> {
    let upstream = TestUpstream::start().await;
    let configured = |settings: &mut Settings| {
        redis.in_use(settings);
        change(settings);
    };
    let a = TestGateway::configured(&upstream, configured).await;
    let b = TestGateway::configured(&upstream, configured).await;
    Some(Pair { _upstream: upstream, redis, a, b })
}

pub async fn status(gateway: &TestGateway, session: &Session) -> u16 {
    gateway.ask(Ask::get("/me/x").with(session)).await.status
}

/// Waits until it is refused, and sees that it stays so.
pub async fn refused_for_good(gateway: &TestGateway, session: &Session) {
    until_async("the refusal", || async { status(gateway, session).await == 401 }).await;
    for _ in 0..20 {
        assert_eq!(status(gateway, session).await, 401, "granted after it was refused");
    }
}

#[tokio::test]
async fn a_login_on_one_is_good_on_the_other_at_once_and_so_is_its_end() {
    let Some(pair) = pair(|_| {}).await else { return };
    for _ in 0..20 {
        let session = pair.a.login("100").await;
        assert_eq!(status(&pair.b, &session).await, 200);
        pair.a.ask(Ask::post("/logout").with(&session)).await.assert_ok();
        assert_eq!(status(&pair.a, &session).await, 401);
        refused_for_good(&pair.b, &session).await;
    }
    // Logged in on one, out on the other, which had never seen it.
    let session = pair.a.login("100").await;
    pair.b.ask(Ask::post("/logout").with(&session)).await.assert_ok();
    refused_for_good(&pair.a, &session).await;
    pair.b.ask(Ask::post("/logout").with(&session)).await.assert_refusal(401, "Bad caller");
}

#[tokio::test]
async fn keys_and_tokens_of_different_sessions_do_not_go_together_anywhere() {
    let Some(pair) = pair(|_| {}).await else { return };
    let (one, other) = (pair.a.login("100").await, pair.a.login("100").await);
    assert_ne!(one.token, other.token, "no two sessions share a token");
    let mixed = Session { token: other.token.clone(), ..one.clone() };
    pair.b.ask(Ask::get("/me/x").with(&mixed)).await.assert_refusal(401, "Invalid User");
    assert_eq!(status(&pair.b, &one).await, 200);
    pair.b.ask(Ask::get("/me/x").with(&mixed)).await.assert_refusal(401, "Invalid User");
    let forged = Session { key: "11111111-1111-4111-8111-111111111111".to_owned(), ..one };
    pair.b.ask(Ask::get("/me/x").with(&forged)).await.assert_refusal(401, "Invalid User");
}

#[tokio::test]
async fn logins_at_once_on_both_share_no_token() {
    let Some(pair) = pair(|_| {}).await else { return };
    let logins = (0..30).map(|n| if n % 2 == 0 { pair.a.login("100") } else { pair.b.login("100") });
    let sessions = futures_util::future::join_all(logins).await;
    let tokens: std::collections::HashSet<_> = sessions.iter().map(|session| &session.token).collect();
    assert_eq!(tokens.len(), sessions.len());
}

#[tokio::test]
async fn an_operator_sees_and_ends_sessions_of_all_replicas_on_any() {
    let Some(pair) = pair(|_| {}).await else { return };
    let (one, two, three) = (pair.a.login("100").await, pair.b.login("100").await, pair.b.login("200").await);
    let listed = pair.a.admin_ask(Ask::get("/sessions?user=100@example.org")).await.json();
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 2, "{listed}");
    let all = pair.a.admin_ask(Ask::get("/sessions")).await.json();
    assert_eq!(all["sessions"].as_array().unwrap().len(), 3, "{all}");
    let ended = pair.a.admin_ask(Ask::new("DELETE", "/sessions?user=100@example.org")).await;
    assert_eq!(ended.status, 204);
    refused_for_good(&pair.a, &one).await;
    refused_for_good(&pair.b, &two).await;
    assert_eq!(status(&pair.a, &three).await, 200);
    let id = pair.a.admin_ask(Ask::get("/sessions")).await.json()["sessions"][0]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    // By its id, on the replica that made it and on one that never saw it.
    let four = pair.b.login("idle").await;
    assert_eq!(pair.b.admin_ask(Ask::new("DELETE", format!("/sessions/{id}"))).await.status, 204);
    refused_for_good(&pair.a, &three).await;
    assert_eq!(
        pair.a.admin_ask(Ask::new("DELETE", "/sessions?before=2100-01-01T00:00:00Z")).await.status,
        204
    );
    refused_for_good(&pair.b, &four).await;
}

pub fn upgrade_of(session: &Session) -> Ask {
    Ask::get("/up/ws")
        .with(session)
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
}

#[tokio::test]
async fn a_stream_that_is_open_on_one_ends_with_its_session_on_the_other() {
    let Some(pair) = pair(|_| {}).await else { return };
    let session = pair.a.login("admin").await;
    let mut socket = pair.b.client().await;
    socket.send(upgrade_of(&session).bytes()).await;
    assert_eq!(status_of(&socket.answer_head().await), 101);
    pair.a.ask(Ask::post("/logout").with(&session)).await.assert_ok();
    socket.closed().await;
}

#[tokio::test]
async fn domain_tokens_are_minted_turned_off_and_removed_for_all() {
    let Some(pair) = pair(|_| {}).await else { return };
    let body = json!({ "role": "user", "expires": "2035-01-01T00:00:00Z" });
    let minted = pair.a.admin_ask(Ask::post("/domains/example.org/tokens").json(&body)).await.json();
    let (id, token) =
        (minted["id"].as_str().unwrap().to_owned(), minted["token"].as_str().unwrap().to_owned());
    let with_token = async |gateway: &TestGateway| {
        gateway.ask(Ask::get("/me/x").header("X-Access-Token", &token)).await.status
    };
    assert_eq!(with_token(&pair.b).await, 200);
    let path = format!("/domains/example.org/tokens/{id}");
    assert_eq!(
        pair.b.admin_ask(Ask::new("PATCH", &path).json(&json!({ "enabled": false }))).await.status / 100,
        2
    );
    until_async("the refusal on a", || async { with_token(&pair.a).await == 401 }).await;
    assert_eq!(
        pair.a.admin_ask(Ask::new("PATCH", &path).json(&json!({ "enabled": true }))).await.status / 100,
        2
    );
    until_async("b to take it again", || async { with_token(&pair.b).await == 200 }).await;
    assert_eq!(pair.a.admin_ask(Ask::new("DELETE", &path)).await.status, 204);
    until_async("the refusal on b", || async { with_token(&pair.b).await == 401 }).await;
}

#[tokio::test]
async fn failures_are_counted_together() {
    let Some(pair) = pair(|settings| settings.set("login.max_failures", "4")).await else { return };
    let login = async |gateway: &TestGateway, password| {
        gateway.ask(Ask::login("100@example.org", password)).await.status
    };
    for n in 0..4 {
        let gateway = if n % 2 == 0 { &pair.a } else { &pair.b };
        assert_eq!(login(gateway, "wrong").await, 401, "failure {n}");
    }
    assert_eq!(login(&pair.a, PASSWORD).await, 429);
    assert_eq!(login(&pair.b, PASSWORD).await, 429);
}

#[tokio::test]
async fn redis_holds_no_key_no_token_and_no_password() {
    let Some(pair) = pair(|_| {}).await else { return };
    let session = pair.a.login("100").await;
    pair.a.ask(Ask::login("100@example.org", "a-wrong-secret-4711")).await;
    let keys = pair.redis.cli(&["--raw", "KEYS", "*"]);
    assert!(keys.contains("postern:"), "{keys}");
    let mut all = keys.clone();
    for key in ["postern:changes", "postern:epoch", "postern:tokens"] {
        all += &pair.redis.cli(&["--raw", "DUMP", key]);
    }
    all += &pair.redis.cli(&["--raw", "EVAL", "local t={} for _,k in ipairs(redis.call('KEYS','postern:s:*')) do t[#t+1]=redis.call('GET',k) end return t", "0"]);
    assert!(all.contains("100@example.org"), "the values are among them: {all}");
    for secret in [session.key.as_str(), &session.token, PASSWORD, "a-wrong-secret-4711"] {
        assert!(!all.contains(secret), "{secret} is in Redis");
    }
    // Expiry is Redis's own.
    let ttl =
        pair.redis.cli(&["EVAL", "return redis.call('PTTL', redis.call('KEYS','postern:s:*')[1])", "0"]);
    assert!(ttl.parse::<i64>().unwrap() > 99 * 86_400_000, "{ttl}");
}

#[tokio::test]
async fn a_user_of_redis_needs_no_more_than_the_readme_gives_him() {
    let Some(redis) = Redis::start().await else { return };
    redis.cli(&[
        "ACL",
        "SETUSER",
        "postern",
        "on",
        ">s3cret-of-redis",
        "~postern:*",
        "resetchannels",
        "+@read",
        "+@write",
        "+@connection",
        "+wait",
        "+role",
        "+info",
        "-@dangerous",
        "+info",
        "+role",
        "+client|id",
        "+client|kill",
    ]);
    let Some(pair) = pair_over(redis, |settings| {
        settings.set("sessions.redis.username", "'postern'");
        settings.set("sessions.redis.password_file", "'redis.password'");
        settings.file("redis.password", b"s3cret-of-redis\n");
    })
    .await
    else {
        return;
    };
    pair.redis.cli(&["ACL", "SETUSER", "default", "resetkeys"]);
    let session = pair.a.login("100").await;
    assert_eq!(status(&pair.b, &session).await, 200);
    assert_eq!(pair.b.admin_ask(Ask::get("/sessions")).await.status, 200);
    pair.a.ask(Ask::post("/logout").with(&session)).await.assert_ok();
    refused_for_good(&pair.b, &session).await;
    for gateway in [&pair.a, &pair.b] {
        assert!(!gateway.output().contains("NOPERM") && !gateway.output().contains("s3cret-of-redis"));
    }
}

#[tokio::test]
async fn sessions_move_from_a_file_to_redis_and_back() {
    let Some(redis) = Redis::start().await else { return };
    let (_upstream, mut file) = crate::support::usual().await;
    let session = file.login("100").await;
    assert_eq!(file.terminate().await, 0);
    let shared = crate::support::Prepared::new(|settings| redis.in_use(settings));
    let call = |config: &std::path::Path, what: &str, input: &[u8]| {
        use std::io::Write as _;
        let mut child = std::process::Command::new(binary())
            .args(["sessions", what, "--config", config.to_str().unwrap()])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let lines = call(&file.folder().join("postern.toml"), "export", b"");
    assert_eq!(lines.iter().filter(|b| **b == b'\n').count(), 1);
    call(&shared.config(), "import", &lines);
    let gateway = TestGateway::run(shared).await;
    until("the gateway to be current", || gateway.output().contains("sessions are shared").then_some(()))
        .await;
    assert_eq!(status(&gateway, &session).await / 100, 5, "known, and its upstream is not there");
    let back = call(&gateway.folder().join("postern.toml"), "export", b"");
    assert_eq!(back.iter().filter(|b| **b == b'\n').count(), 1);
}

#[tokio::test]
async fn the_metric_tells_how_long_an_end_took_to_the_others() {
    let Some(pair) = pair(|_| {}).await else { return };
    for _ in 0..5 {
        let session = pair.a.login("100").await;
        assert_eq!(status(&pair.b, &session).await, 200);
        pair.a.ask(Ask::post("/logout").with(&session)).await.assert_ok();
        refused_for_good(&pair.b, &session).await;
    }
    let text = pair.b.admin_ask(Ask::get("/metrics")).await.text();
    let count =
        text.lines().find_map(|line| line.strip_prefix("postern_revocation_propagation_seconds_count "));
    assert_eq!(count.map(|n| n.trim().to_owned()).as_deref(), Some("5"), "{text}");
    let ended =
        text.lines().any(|line| line.starts_with("postern_revocations_total{") && line.contains("elsewhere"));
    assert!(ended, "{text}");
}
