//! Domain tokens: long-lived, without a key (contract sections 2 and 4).

use aws_lc_rs::hmac;
use serde_json::json;

use crate::support::jwt::{HEADER, domain_token, encode, now, sign, sign_with};
use crate::support::settings::Settings;
use crate::support::{Answer, Ask, SECRET, TestGateway, configured, jwt};

const ID: &str = "2c6f6f6e-9b7b-4f5e-8c58-6a0d3f9f6a11";
const DISABLED: &str = "0a3c8f52-5b0e-4a61-9a0f-0d5f0f1c2b3d";
const PAST: &str = "77b0b0aa-51ab-4a5d-a9d0-2f6f5b1f7f10";
const OLD_SECRET: &[u8] = b"the key of last year\n";

fn tomorrow() -> u64 {
    now() + 24 * 60 * 60 * 1000
}

fn scene(settings: &mut Settings) {
    for (id, expires, enabled) in [
        (ID, "2099-01-01T00:00:00Z", true),
        (DISABLED, "2099-01-01T00:00:00Z", false),
        (PAST, "2020-01-01T00:00:00Z", true),
    ] {
        let lines =
            format!("domain = 'example.org'\nrole = 'user'\nexpires = {expires}\nenabled = {enabled}");
        settings.table(&format!("domain_tokens.\"{id}\""), &lines);
    }
}

fn good() -> String {
    domain_token(ID, "example.org", tomorrow(), SECRET)
}

async fn with_token(gateway: &TestGateway, token: &str) -> Answer {
    gateway.ask(Ask::get("/api/v2/cdr/x").header("X-Access-Token", token)).await
}

#[tokio::test]
async fn a_good_one_needs_no_key_and_is_checked_as_its_role() {
    let (upstream, gateway) = configured(scene).await;
    let token = good();
    with_token(&gateway, &token).await.assert_ok();
    let seen = upstream.only();
    assert_eq!(seen.header("x-webitel-user"), Some(format!("{ID}@example.org").as_str()));
    assert_eq!(seen.header("x-webitel-domain"), Some("example.org"));
    assert_eq!(seen.header("x-webitel-role"), Some("user"));
    assert_eq!(seen.head.all("x-access-token"), [token.as_str()]);

    let refused = gateway.ask(Ask::new("DELETE", "/api/v2/cdr/x").header("X-Access-Token", &token)).await;
    refused.assert_refusal(403, "Permission denied!");
}

#[tokio::test]
async fn it_may_come_in_the_query() {
    let (upstream, gateway) = configured(scene).await;
    let token = good();
    gateway.ask(Ask::get(format!("/me/x?access_token={token}&a=1"))).await.assert_ok();
    let seen = upstream.only();
    assert_eq!((seen.header("x-access-token"), seen.query()), (Some(token.as_str()), Some("a=1")));
}

#[tokio::test]
async fn a_key_given_with_it_is_ignored_and_not_forwarded() {
    let (upstream, gateway) = configured(scene).await;
    let session = gateway.login("100").await;
    let token = good();
    for key in ["nonsense", &session.key] {
        gateway
            .ask(Ask::get("/me/x").header("X-Access-Token", &token).header("X-Key", key))
            .await
            .assert_ok();
        let seen = upstream.last();
        assert_eq!(seen.header("x-webitel-user"), Some(format!("{ID}@example.org").as_str()));
        assert!(!seen.head.text().contains(key), "{}", seen.head.text());
    }
}

#[tokio::test]
async fn unknown_and_disabled_ones_are_not_found() {
    let (upstream, gateway) = configured(scene).await;
    for id in [uuid::Uuid::new_v4().to_string().as_str(), DISABLED, &ID.to_uppercase()] {
        let token = domain_token(id, "example.org", tomorrow(), SECRET);
        with_token(&gateway, &token).await.assert_refusal(401, "Not found token");
    }
    for id in ["", "../x"] {
        let token = domain_token(id, "example.org", tomorrow(), SECRET);
        with_token(&gateway, &token).await.assert_error(401);
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn one_of_another_domain_than_its_records_does_not_pass() {
    let (upstream, gateway) = configured(scene).await;
    with_token(&gateway, &domain_token(ID, "other.test", tomorrow(), SECRET)).await.assert_error(401);
    upstream.assert_untouched();
}

#[tokio::test]
async fn one_whose_time_or_whose_records_time_has_passed_does_not_pass() {
    let (upstream, gateway) = configured(scene).await;
    let past = domain_token(ID, "example.org", now() - 1_000, SECRET);
    with_token(&gateway, &past).await.assert_refusal(401, "Token Expired");
    // Seconds where milliseconds are meant: long past.
    let seconds = domain_token(ID, "example.org", tomorrow() / 1000, SECRET);
    with_token(&gateway, &seconds).await.assert_refusal(401, "Token Expired");
    with_token(&gateway, &domain_token(PAST, "example.org", tomorrow(), SECRET)).await.assert_error(401);
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_bad_signature_is_an_invalid_token() {
    let (upstream, gateway) = configured(scene).await;
    let token = good();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    for token in [
        domain_token(ID, "example.org", tomorrow(), b"another key"),
        domain_token(ID, "example.org", tomorrow(), SECRET.trim_ascii_end()),
        format!("{signed}."),
        format!("{signed}.{}", encode(&[0; 32])),
        format!("{signed}.{}", &signature[..signature.len() - 2]),
    ] {
        with_token(&gateway, &token).await.assert_refusal(401, "Invalid token");
    }
    for token in [signed.to_owned(), format!("{token}."), format!("{token}.x"), format!("{token}=")] {
        with_token(&gateway, &token).await.assert_error(401);
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn another_algorithm_crit_or_a_missing_expiry_is_refused_though_the_signature_is_good() {
    let (upstream, gateway) = configured(scene).await;
    let claims = json!({"id": ID, "exp": tomorrow(), "d": "example.org", "t": "domain", "v": 2}).to_string();
    let signed = |header: &str| sign(header, &claims, SECRET);
    let claiming = |exp: serde_json::Value| {
        let claims = json!({"id": ID, "exp": exp, "d": "example.org", "t": "domain", "v": 2});
        sign(HEADER, &claims.to_string(), SECRET)
    };
    for token in [
        format!("{}.{}.", encode(br#"{"typ":"JWT","alg":"none"}"#), encode(claims.as_bytes())),
        signed(r#"{"typ":"JWT","alg":"none"}"#),
        signed(r#"{"typ":"JWT","alg":"hs256"}"#),
        signed(r#"{"typ":"JWT","alg":"RS256"}"#),
        signed(r#"{"typ":"JWT"}"#),
        signed(r#"{"typ":"JWT","alg":"HS256","crit":["exp"]}"#),
        signed(r#"{"typ":"JWT","alg":"HS256","crit":[]}"#),
        sign_with(hmac::HMAC_SHA384, r#"{"typ":"JWT","alg":"HS384"}"#, &claims, SECRET),
        sign_with(hmac::HMAC_SHA512, r#"{"typ":"JWT","alg":"HS512"}"#, &claims, SECRET),
        sign(HEADER, &json!({"id": ID, "d": "example.org", "t": "domain", "v": 2}).to_string(), SECRET),
        claiming(json!(null)),
        claiming(json!(tomorrow().to_string())),
        claiming(json!(-1)),
        claiming(json!(1e300)),
    ] {
        let answer = with_token(&gateway, &token).await;
        answer.assert_error(401);
        assert!(
            ["Invalid token", "Invalid Token or Key"].contains(&answer.info().as_str()),
            "{}",
            answer.brief()
        );
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_session_token_is_no_domain_token_whatever_is_done_to_it() {
    let (upstream, gateway) = configured(scene).await;
    let session = gateway.login("100").await;
    with_token(&gateway, &session.token).await.assert_refusal(401, "Invalid Token or Key");
    let claims = json!({"id": ID, "exp": tomorrow(), "d": "example.org", "t": "user", "v": 2}).to_string();
    with_token(&gateway, &sign(HEADER, &claims, SECRET)).await.assert_error(401);
    upstream.assert_untouched();
}

#[tokio::test]
async fn previous_secrets_are_accepted_for_domain_tokens_and_never_sign() {
    let (_upstream, gateway) = configured(|settings| {
        scene(settings);
        settings.file("old.key", OLD_SECRET);
        settings.set("token.previous_secret_files", "['old.key']");
    })
    .await;
    with_token(&gateway, &domain_token(ID, "example.org", tomorrow(), OLD_SECRET)).await.assert_ok();
    with_token(&gateway, &good()).await.assert_ok();
    let session = gateway.login("100").await;
    assert!(jwt::verify(&session.token, SECRET).is_some(), "signed with the secret of today");
}

#[tokio::test]
async fn it_cannot_log_out() {
    let (_upstream, gateway) = configured(scene).await;
    gateway
        .ask(Ask::post("/logout").header("X-Access-Token", good()))
        .await
        .assert_refusal(401, "Bad caller");
    with_token(&gateway, &good()).await.assert_ok();
}
