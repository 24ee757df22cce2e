//! Nothing that was secret in a run is found in anything that the run left or showed.

use serde_json::json;

use crate::support::{Ask, DOMAIN, PASSWORD, SECRET, configured};

/// Logs in and out, fails, is refused, mints, reloads, all at the most talkative level; then looks for every secret in
/// the logs, the answers of the admin listener and every file of the store.
#[tokio::test]
async fn no_secret_of_a_run_is_in_logs_metrics_admin_answers_or_the_store() {
    let totp = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
    let (_upstream, mut gateway) = configured(|s| {
        s.set("log.level", "'trace'");
        s.file("totp.secret", totp.as_bytes());
        s.user_key(&format!("200@{DOMAIN}"), "totp_secret_file", "'totp.secret'");
        s.file("admin.token", b"admin-canary-4711\n");
        s.set("admin.token_file", "'admin.token'");
    })
    .await;
    let admin = |ask: Ask| ask.header("Authorization", "Bearer admin-canary-4711");
    let session = gateway.login("100").await;
    let ended = gateway.login("100").await;
    gateway.ask(Ask::get("/api/v2/cdr/1").with(&session)).await.assert_ok();
    gateway.ask(Ask::get(format!("/api/v2/cdr/1?{}", session.query()))).await.assert_ok();
    gateway.ask(Ask::get(format!("/api/v2/vault/1?{}", session.query()))).await.assert_error(403);
    gateway
        .ask(Ask::get(format!("/api/v2/cdr/1?{}", session.query())).with(&session))
        .await
        .assert_error(400);
    gateway.ask(Ask::post("/logout").with(&ended)).await.assert_ok();
    gateway.ask(Ask::get("/me/x").with(&ended)).await.assert_error(401);
    gateway.ask(Ask::login(&format!("100@{DOMAIN}"), "wrong-canary-4712")).await.assert_error(401);
    // A password that was typed into the wrong field.
    gateway.ask(Ask::login("name-canary-4713", "x")).await.assert_error(404);
    gateway.ask(Ask::login(&format!("200@{DOMAIN}"), PASSWORD)).await;
    let code = Ask::post("/login?code=987654")
        .json(&json!({"username": format!("200@{DOMAIN}"), "password": PASSWORD}));
    gateway.ask(code).await.assert_error(401);
    let wanted = json!({ "role": "user", "expires": "2100-01-01T00:00:00Z" });
    let minted = gateway.admin_ask(admin(Ask::post("/domains/d/tokens").json(&wanted))).await;
    let token = minted.json()["token"].as_str().unwrap().to_owned();
    gateway.ask(Ask::get("/api/v2/cdr/1").header("X-Access-Token", &token)).await.assert_ok();
    gateway.admin_ask(admin(Ask::post("/reload"))).await.assert_ok();
    gateway.admin_ask(admin(Ask::new("DELETE", format!("/sessions/{}", session.key)))).await;
    gateway.admin_ask(admin(Ask::new("DELETE", format!("/domains/d/tokens/{token}")))).await;

    let mut found = Vec::new();
    for path in [
        "/sessions",
        "/config",
        "/metrics",
        "/domains/d/tokens",
        "/explain?role=user&method=GET&path=/x",
        "/readyz",
        "/",
    ] {
        found.push((path.to_owned(), gateway.admin_ask(admin(Ask::get(path))).await.text().into_bytes()));
    }
    gateway.terminate().await;
    found.push(("the logs".to_owned(), gateway.output().into_bytes()));
    let store = std::fs::read_dir(gateway.folder()).unwrap().map(|entry| entry.unwrap().path());
    for file in store.filter(|path| path.to_string_lossy().contains("sessions.db")) {
        found.push((file.display().to_string(), std::fs::read(&file).unwrap()));
    }
    assert!(found.iter().any(|(name, bytes)| name.ends_with("sessions.db") && !bytes.is_empty()));
    let signature = |token: &str| token.rsplit('.').next().unwrap().to_owned();
    let secrets = [
        session.key.clone(),
        session.token.clone(),
        signature(&session.token),
        ended.key.clone(),
        signature(&ended.token),
        token.clone(),
        signature(&token),
        PASSWORD.to_owned(),
        "wrong-canary-4712".to_owned(),
        "name-canary-4713".to_owned(),
        "987654".to_owned(),
        totp.to_owned(),
        "admin-canary-4711".to_owned(),
    ];
    for (name, bytes) in &found {
        let has = |needle: &[u8]| bytes.windows(needle.len()).any(|window| window == needle);
        for secret in &secrets {
            assert!(!has(secret.as_bytes()), "{secret} is in {name}");
        }
        assert!(!has(&SECRET[..20]), "the signing key is in {name}");
    }
    assert!(gateway.output().contains("\"target\":\"audit\""), "{}", gateway.output());
}
