//! `totp_secret_file` and `POST /login?code=` (contract sections 2 and 3, RFC 6238).

use std::time::Duration;

use aws_lc_rs::hmac;
use serde_json::json;

use crate::support::settings::Settings;
use crate::support::{Answer, Ask, PASSWORD, TestGateway, configured, jwt};

/// `12345678901234567890` in base32, the key of RFC 6238's own examples.
const SECRET: &str = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ";
const KEY: &[u8] = b"12345678901234567890";
const USER: &str = "totp@example.org";
const STEP: u64 = 30_000;

fn with_second_factor(settings: &mut Settings) {
    settings.user(USER, "user");
    settings.user_key(USER, "totp_secret_file", "'totp.key'");
    settings.file("totp.key", format!("{SECRET}\n").as_bytes());
}

/// The code of the step that holds this moment, in ms since 1970.
fn code_at(millis: u64) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, KEY);
    let tag = hmac::sign(&key, &(millis / STEP).to_be_bytes());
    let tag = tag.as_ref();
    let at = usize::from(tag[19] & 15);
    let number = u32::from_be_bytes(tag[at..at + 4].try_into().unwrap()) & 0x7fff_ffff;
    format!("{:06}", number % 1_000_000)
}

/// Now, early enough in its step that the code does not change under the test.
async fn early_in_a_step() -> u64 {
    loop {
        let now = jwt::now();
        if now % STEP < STEP - 5_000 {
            return now;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn login_with(gateway: &TestGateway, query: &str, password: &str) -> Answer {
    let body = json!({"username": USER, "password": password});
    gateway.ask(Ask::post(format!("/login{query}")).json(&body)).await
}

#[test]
fn codes_are_those_of_the_rfc() {
    assert_eq!(code_at(59_000), "287082");
    assert_eq!(code_at(1_111_111_109_000), "081804");
}

#[tokio::test]
async fn no_code_is_301_without_a_place_to_go() {
    let (_upstream, gateway) = configured(with_second_factor).await;
    let answer = login_with(&gateway, "", PASSWORD).await;
    assert_eq!(answer.status, 301, "{}", answer.brief());
    assert!(answer.text().contains("Set security code"), "{}", answer.brief());
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("location"), None);
}

#[tokio::test]
async fn a_wrong_password_does_not_tell_of_the_second_factor() {
    let (_upstream, gateway) = configured(with_second_factor).await;
    login_with(&gateway, "", "wrong").await.assert_refusal(401, "Invalid credentials");
    let code = code_at(early_in_a_step().await);
    login_with(&gateway, &format!("?code={code}"), "wrong").await.assert_refusal(401, "Invalid credentials");
}

#[tokio::test]
async fn the_right_code_logs_in_once() {
    let (_upstream, gateway) = configured(with_second_factor).await;
    let query = format!("?code={}", code_at(early_in_a_step().await));
    login_with(&gateway, &query, PASSWORD).await.assert_ok();
    login_with(&gateway, &query, PASSWORD).await.assert_refusal(401, "Invalid credentials");
}

#[tokio::test]
async fn of_many_uses_of_a_code_at_once_one_is_good() {
    let (_upstream, gateway) = configured(with_second_factor).await;
    let query = format!("?code={}", code_at(early_in_a_step().await));
    let logins = (0..8).map(|_| login_with(&gateway, &query, PASSWORD));
    let statuses: Vec<u16> =
        futures_util::future::join_all(logins).await.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
}

#[tokio::test]
async fn one_step_of_clock_error_is_good_and_two_are_not() {
    let (_upstream, gateway) = configured(with_second_factor).await;
    let now = early_in_a_step().await;
    let query = |millis| format!("?code={}", code_at(millis));
    login_with(&gateway, &query(now - 3 * STEP), PASSWORD).await.assert_refusal(401, "Invalid credentials");
    login_with(&gateway, &query(now + 3 * STEP), PASSWORD).await.assert_refusal(401, "Invalid credentials");
    login_with(&gateway, &query(now - STEP), PASSWORD).await.assert_ok();
    login_with(&gateway, &query(now + STEP), PASSWORD).await.assert_ok();
}

#[tokio::test]
async fn a_code_that_is_none_does_not_log_in() {
    let (_upstream, gateway) = configured(with_second_factor).await;
    let good = code_at(early_in_a_step().await);
    for code in ["", "0", "abcdef", "12345", "1234567", &format!("{good}0"), &format!("%20{good}")] {
        let answer = login_with(&gateway, &format!("?code={code}"), PASSWORD).await;
        assert!(matches!(answer.status, 301 | 400 | 401), "{code:?}: {}", answer.brief());
    }
}

#[tokio::test]
async fn the_code_counts_in_the_query_alone() {
    let (_upstream, gateway) = configured(with_second_factor).await;
    let code = code_at(early_in_a_step().await);
    let body = json!({"username": USER, "password": PASSWORD, "code": code});
    let answer = gateway.ask(Ask::post("/login").header("X-Code", &code).json(&body)).await;
    assert_eq!(answer.status, 301, "{}", answer.brief());
}
