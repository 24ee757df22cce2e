//! `login.max_failures` and `login.window`: the brake on guessed passwords (contract sections 2 and 3).

use serde_json::json;

use crate::support::wait::until_async;
use crate::support::{Ask, PASSWORD, TestGateway, configured};

const HERE: [u8; 4] = [127, 0, 0, 1];
const THERE: [u8; 4] = [127, 0, 0, 8];

async fn login_from(gateway: &TestGateway, source: [u8; 4], user: &str, password: &str) -> u16 {
    gateway.ask_from(source, Ask::login(user, password)).await.status
}

async fn failures(gateway: &TestGateway, source: [u8; 4], user: &str, count: usize) -> Vec<u16> {
    let mut statuses = Vec::new();
    for attempt in 0..count {
        statuses.push(login_from(gateway, source, user, &format!("wrong {attempt}")).await);
    }
    statuses
}

#[tokio::test]
async fn after_max_failures_even_the_right_password_is_429() {
    let (_upstream, gateway) = configured(|settings| settings.set("login.max_failures", "3")).await;
    assert_eq!(failures(&gateway, HERE, "100@example.org", 3).await, [401, 401, 401]);
    let answer = gateway.ask(Ask::login("100@example.org", PASSWORD)).await;
    answer.assert_error(429);
    let seconds: u64 = answer.header("retry-after").expect("Retry-After").parse().expect("seconds");
    assert!((1..=300).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn another_address_and_another_user_are_not_braked() {
    let (_upstream, gateway) = configured(|settings| settings.set("login.max_failures", "2")).await;
    assert_eq!(failures(&gateway, HERE, "100@example.org", 3).await, [401, 401, 429]);
    assert_eq!(login_from(&gateway, THERE, "100@example.org", PASSWORD).await, 200);
    assert_eq!(login_from(&gateway, HERE, "200@example.org", PASSWORD).await, 200);
}

#[tokio::test]
async fn unknown_users_are_braked_alike() {
    let (_upstream, gateway) = configured(|settings| settings.set("login.max_failures", "2")).await;
    assert_eq!(failures(&gateway, HERE, "ghost@example.org", 4).await, [404, 404, 429, 429]);
}

#[tokio::test]
async fn an_address_is_braked_after_ten_times_as_many_over_all_users() {
    let (_upstream, gateway) = configured(|settings| settings.set("login.max_failures", "2")).await;
    for user in 0..20 {
        assert_eq!(
            login_from(&gateway, HERE, &format!("u{user}@example.org"), "x").await,
            404,
            "user {user}"
        );
    }
    assert_eq!(login_from(&gateway, HERE, "100@example.org", PASSWORD).await, 429);
    assert_eq!(login_from(&gateway, THERE, "100@example.org", PASSWORD).await, 200);
}

#[tokio::test]
async fn the_window_ends() {
    let (_upstream, gateway) = configured(|settings| {
        settings.set("login.max_failures", "1");
        settings.set("login.window", "'1s'");
    })
    .await;
    assert_eq!(failures(&gateway, HERE, "100@example.org", 1).await, [401]);
    until_async("the window to end", || async {
        login_from(&gateway, HERE, "100@example.org", PASSWORD).await == 200
    })
    .await;
}

#[tokio::test]
async fn spelling_the_request_otherwise_does_not_evade_it() {
    let (_upstream, gateway) = configured(|settings| settings.set("login.max_failures", "3")).await;
    let mut statuses = Vec::new();
    for (attempt, path) in
        ["/login", "/login/", "/Login", "/login?x=1", "//login", "/%6cogin"].iter().enumerate()
    {
        let ask = Ask::post(path)
            .header("X-Forwarded-For", format!("10.0.0.{attempt}"))
            .json(&json!({"username": "100@example.org", "password": format!("wrong {attempt}")}));
        statuses.push(gateway.ask(ask).await.status);
    }
    assert_eq!(statuses, [401, 401, 401, 429, 429, 429]);
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_client_it_names_counts() {
    let (_upstream, gateway) = configured(|settings| {
        settings.set("login.max_failures", "1");
        settings.set("listen.trusted_proxies", "['127.0.0.2/32']");
    })
    .await;
    let mut statuses = Vec::new();
    for client in ["203.0.113.1", "203.0.113.1", "203.0.113.2"] {
        let ask = Ask::login("100@example.org", "wrong").header("X-Forwarded-For", client);
        statuses.push(gateway.ask_from([127, 0, 0, 2], ask).await.status);
    }
    assert_eq!(statuses, [401, 429, 401]);
}
