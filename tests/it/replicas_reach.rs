//! How Redis is reached: by TLS, and with a password that changes while the gateway runs (contract section 2,
//! `[sessions.redis]`).

use crate::replicas::{pair_over, refused_for_good, status};
use crate::support::settings::Settings;
use crate::support::tls::Authority;
use crate::support::wait::{until, until_async};
use crate::support::{Ask, PASSWORD, Prepared, Redis, TestGateway, TestUpstream};

/// A login on one is good on the other and listed there, and so is its end.
async fn is_shared(redis: Redis) {
    let Some(pair) = pair_over(redis, |_| {}).await else { return };
    let session = pair.a.login("100").await;
    assert_eq!(status(&pair.b, &session).await, 200);
    let listed = pair.b.admin_ask(Ask::get("/sessions")).await;
    listed.assert_ok();
    assert_eq!(listed.json()["sessions"].as_array().map(Vec::len), Some(1), "{}", listed.brief());
    pair.a.ask(Ask::post("/logout").with(&session)).await.assert_ok();
    refused_for_good(&pair.b, &session).await;
}

#[tokio::test]
async fn by_tls() {
    let Some(redis) = Redis::tls(&Authority::new()).await else { return };
    is_shared(redis).await;
}

#[tokio::test]
async fn a_cluster_by_tls() {
    let Some(redis) = Redis::tls_cluster(&Authority::new()).await else { return };
    is_shared(redis).await;
}

async fn login(gateway: &TestGateway) -> u16 {
    gateway.ask(Ask::login("100@example.org", PASSWORD)).await.status
}

/// A gateway that cannot use its Redis yet.
async fn unready(redis: &Redis, change: impl FnOnce(&mut Settings)) -> (TestUpstream, TestGateway) {
    let upstream = TestUpstream::start().await;
    let url = upstream.url();
    let prepared = Prepared::new(|settings| {
        settings.set("upstreams.engine.servers", &format!("['{url}']"));
        redis.in_use(settings);
        change(settings);
    });
    (upstream, TestGateway::run_unready(prepared).await)
}

#[tokio::test]
async fn a_server_of_another_authority_is_told_no_session() {
    let Some(redis) = Redis::tls(&Authority::new()).await else { return };
    let other = Authority::new();
    let (_upstream, gateway) =
        unready(&redis, |settings| settings.file("redis.ca", other.pem.as_bytes())).await;
    until("the fault to be told", || gateway.output().contains("Redis is away").then_some(())).await;
    assert!(gateway.output().to_lowercase().contains("certificate"), "{}", gateway.output());
    assert_eq!(login(&gateway).await, 503);
    assert_eq!(redis.cli(&["DBSIZE"]), "0");
}

const PASSWORDS: [&str; 2] = ["first-of-redis", "second-of-redis"];

async fn gives_password(redis: &Redis, password: &str) {
    redis.cli(&["ACL", "SETUSER", "postern", "resetpass", &format!(">{password}")]);
    redis.cli(&["CLIENT", "KILL", "USER", "postern"]);
}

#[tokio::test]
async fn a_password_that_changes_is_used_without_a_restart() {
    let Some(redis) = Redis::start().await else { return };
    redis.cli(&["ACL", "SETUSER", "postern", "on", "~*", "&*", "+@all"]);
    gives_password(&redis, PASSWORDS[0]).await;
    let (_upstream, mut gateway) = unready(&redis, |settings| {
        settings.set("sessions.redis.username", "'postern'");
        settings.set("sessions.redis.password_file", "'redis.password'");
        settings.file("redis.password", PASSWORDS[0].as_bytes());
    })
    .await;
    until_async("a login", || async { login(&gateway).await == 200 }).await;
    let session = gateway.login("100").await;
    gives_password(&redis, PASSWORDS[1]).await;
    until_async("the password to be wrong", || async { login(&gateway).await == 503 }).await;
    let reloaded =
        gateway.reload_with(|settings| settings.file("redis.password", PASSWORDS[1].as_bytes())).await;
    reloaded.assert_ok();
    assert!(!reloaded.text().contains("next start"), "{}", reloaded.text());
    until_async("the new password to be used", || async { login(&gateway).await == 200 }).await;
    assert_eq!(status(&gateway, &session).await, 200);
    for password in PASSWORDS {
        assert!(!gateway.output().contains(password));
    }
}

#[tokio::test]
async fn what_an_outage_means_can_be_changed_without_a_restart() {
    let Some(redis) = Redis::start().await else { return };
    let (_upstream, mut gateway) = unready(&redis, |_| {}).await;
    until_async("a login", || async { login(&gateway).await == 200 }).await;
    redis.freeze();
    until_async("the outage to be noticed", || async { login(&gateway).await == 503 }).await;
    gateway.reload_with(|settings| settings.set("sessions.redis.local_logins", "true")).await.assert_ok();
    assert_eq!(login(&gateway).await, 200);
    gateway.reload_with(|settings| settings.set("sessions.redis.max_stale", "'0s'")).await.assert_ok();
    until("it to be stale", || gateway.output().contains("longer than max_stale").then_some(())).await;
}
