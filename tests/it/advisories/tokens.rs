//! Tokens that are forged, bent, swapped or used again.

use aws_lc_rs::hmac;
use serde_json::json;

use crate::support::jwt::{HEADER, domain_token, encode, now, sign, sign_with};
use crate::support::settings::Settings;
use crate::support::{Answer, Ask, SECRET, Session, TestGateway, TestUpstream, configured, usual};

const ID: &str = "2c6f6f6e-9b7b-4f5e-8c58-6a0d3f9f6a11";
const ATTACKERS: &[u8] = b"a key that the attacker chose";

fn scene(settings: &mut Settings) {
    let lines = "domain = 'example.org'\nrole = 'admin'\nexpires = 2099-01-01T00:00:00Z\nenabled = true";
    settings.table(&format!("domain_tokens.\"{ID}\""), lines);
}

fn tomorrow() -> u64 {
    now() + 24 * 60 * 60 * 1000
}

fn claims() -> String {
    json!({"id": ID, "exp": tomorrow(), "d": "example.org", "t": "domain", "v": 2}).to_string()
}

async fn with_token(gateway: &TestGateway, token: &str) -> Answer {
    gateway.ask(Ask::get("/me/x").header("X-Access-Token", token)).await
}

async fn all_are_refused(gateway: &TestGateway, upstream: &TestUpstream, tokens: &[String]) {
    for token in tokens {
        let answer = with_token(gateway, token).await;
        assert_eq!(answer.status, 401, "{token}: {}", answer.brief());
        let again = gateway.ask(Ask::get("/me/x").header("X-Access-Token", token).header("X-Key", ID)).await;
        assert_eq!(again.status, 401, "{token} with a key: {}", again.brief());
    }
    upstream.assert_untouched();
}

/// RFC 8725 sections 2.1 and 3.1; CVE-2015-9235 (none, and another algorithm), CVE-2018-0114 (a key in the header).
#[tokio::test]
async fn no_header_makes_a_forged_signature_good() {
    let (upstream, gateway) = configured(scene).await;
    with_token(&gateway, &sign(HEADER, &claims(), SECRET)).await.assert_ok();
    upstream.forget();
    let oct = encode(ATTACKERS);
    let headers = [
        r#"{"typ":"JWT","alg":"none"}"#.to_owned(),
        r#"{"alg":"None"}"#.to_owned(),
        r#"{"alg":"nOnE"}"#.to_owned(),
        r#"{"alg":"NONE"}"#.to_owned(),
        r#"{"alg":""}"#.to_owned(),
        r#"{"alg":null}"#.to_owned(),
        r#"{"alg":["HS256"]}"#.to_owned(),
        r#"{"alg":0}"#.to_owned(),
        "{}".to_owned(),
        "[]".to_owned(),
        "null".to_owned(),
        String::new(),
        HEADER.to_owned(),
        r#"{"alg":"HS256","alg":"none"}"#.to_owned(),
        r#"{"alg":"none","alg":"HS256"}"#.to_owned(),
        r#"{"typ":"JWT","alg":"HS256","kid":"../../../../dev/null"}"#.to_owned(),
        r#"{"typ":"JWT","alg":"HS256","kid":"token.key"}"#.to_owned(),
        r#"{"typ":"JWT","alg":"HS256","kid":"x' UNION SELECT 'k"}"#.to_owned(),
        r#"{"typ":"JWT","alg":"HS256","kid":"|id"}"#.to_owned(),
        format!(r#"{{"typ":"JWT","alg":"HS256","jwk":{{"kty":"oct","k":"{oct}"}}}}"#),
        r#"{"typ":"JWT","alg":"HS256","jku":"http://127.0.0.1:1/keys"}"#.to_owned(),
        r#"{"typ":"JWT","alg":"HS256","x5u":"http://127.0.0.1:1/cert"}"#.to_owned(),
        r#"{"typ":"JWT","alg":"HS256","x5c":["MIIB"]}"#.to_owned(),
        r#"{"typ":"JWT","alg":"HS256","b64":false,"crit":["b64"]}"#.to_owned(),
        r#"{"typ":"JWT","alg":"HS256","zip":"DEF"}"#.to_owned(),
        r#"{"typ":"JWT","alg":"RS256"}"#.to_owned(),
        r#"{"typ":"JWT","alg":"ES256"}"#.to_owned(),
        r#"{"typ":"JWT","alg":"PS256"}"#.to_owned(),
        r#"{"typ":"JWT","alg":"EdDSA"}"#.to_owned(),
        r#"{"typ":"JWT","alg":"dir","enc":"A128GCM"}"#.to_owned(),
    ];
    let mut tokens = Vec::new();
    for header in &headers {
        for key in [
            ATTACKERS,
            b"",
            b"\0",
            b"secret",
            HEADER.as_bytes(),
            oct.as_bytes(),
            SECRET.trim_ascii_end(),
            &SECRET[..20],
        ] {
            tokens.push(sign(header, &claims(), key));
        }
        let unsigned = format!("{}.{}", encode(header.as_bytes()), encode(claims().as_bytes()));
        tokens.extend(
            ["", ".", ".AA", ".AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"]
                .map(|end| format!("{unsigned}{end}")),
        );
    }
    assert!(tokens.len() > 300);
    all_are_refused(&gateway, &upstream, &tokens).await;
}

/// The key is the right one, what is signed is not a token of ours.
#[tokio::test]
async fn another_algorithm_or_crit_is_refused_though_the_key_is_right() {
    let (upstream, gateway) = configured(scene).await;
    let mut tokens = Vec::new();
    for header in [
        r#"{"alg":"none"}"#,
        r#"{"alg":"hs256"}"#,
        r#"{"alg":"HS256 "}"#,
        r#"{"alg":"HS384"}"#,
        r#"{"alg":"HS512"}"#,
        r#"{"alg":"RS256"}"#,
        r#"{"alg":"ES256"}"#,
        r#"{"typ":"JWT"}"#,
        r#"{"alg":"HS256","crit":["x"]}"#,
        r#"{"alg":"HS256","crit":[]}"#,
        r#"{"alg":"HS256","crit":["exp"],"exp":1}"#,
        r#"{"alg":"HS256","alg":"HS256"}"#,
        r#"{"alg":["HS256"]}"#,
        "{}",
        "[]",
        "\"HS256\"",
    ] {
        tokens.push(sign(header, &claims(), SECRET));
        tokens.push(sign_with(hmac::HMAC_SHA384, header, &claims(), SECRET));
        tokens.push(sign_with(hmac::HMAC_SHA512, header, &claims(), SECRET));
    }
    all_are_refused(&gateway, &upstream, &tokens).await;
}

/// CVE-2026-25537 (jsonwebtoken: a claim of another type counted as absent): an expiry that is none is no expiry.
#[tokio::test]
async fn an_expiry_of_any_other_type_is_refused() {
    let (upstream, gateway) = configured(scene).await;
    let later = tomorrow();
    let mut tokens = Vec::new();
    for exp in [
        "null",
        "true",
        "\"\"",
        "[]",
        "{}",
        "-1",
        "0",
        "1",
        "-0",
        "0.0",
        "1e300",
        "1e13",
        "18446744073709551616",
        "99999999999999999999999999",
        &format!("\"{later}\""),
        &format!("[{later}]"),
        &format!("{{\"$gt\":{later}}}"),
        &format!("{later}.5"),
        &format!("{later}.0"),
        &format!("-{later}"),
        &format!("{}", later / 1000),
        &format!("1,\"exp\":{later}"),
        &format!("{later},\"exp\":{later}"),
        &format!("{later},\"\\u0065xp\":{later}"),
        "NaN",
        "Infinity",
        "0x7fffffffffff",
    ] {
        for t in ["\"domain\"", "\"user\"", "null", "[\"domain\"]"] {
            let claims = format!(r#"{{"id":"{ID}","exp":{exp},"d":"example.org","t":{t},"v":2}}"#);
            tokens.push(sign(HEADER, &claims, SECRET));
        }
    }
    tokens.push(sign(HEADER, &format!(r#"{{"id":"{ID}","d":"example.org","t":"domain","v":2}}"#), SECRET));
    all_are_refused(&gateway, &upstream, &tokens).await;
}

#[tokio::test]
async fn the_same_bytes_in_another_base64_are_another_token() {
    let (upstream, gateway) = configured(scene).await;
    let good = domain_token(ID, "example.org", tomorrow(), SECRET);
    let parts: Vec<&str> = good.split('.').collect();
    let last = parts[2].chars().last().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.find(last).unwrap();
    // The last letter of 32 bytes has two bits that say nothing.
    let mut tokens: Vec<String> = (1..4)
        .map(|bits| {
            let other = alphabet.as_bytes()[at & !3 | (at + bits) & 3];
            format!("{}{}", &good[..good.len() - 1], char::from(other))
        })
        .collect();
    for end in ["=", "==", "%3D", ".", "..", ".x", "\u{e9}", "!", "%00"] {
        tokens.push(format!("{good}{end}"));
        tokens.push(format!("{}{end}.{}.{}", parts[0], parts[1], parts[2]));
        tokens.push(format!("{}.{}{end}.{}", parts[0], parts[1], parts[2]));
    }
    tokens.extend([
        format!("{}.{}", parts[0], parts[1]),
        format!(".{}.{}", parts[1], parts[2]),
        format!("{}..{}", parts[0], parts[2]),
    ]);
    tokens.extend([
        good.to_uppercase(),
        good.to_lowercase(),
        format!("Bearer {good}"),
        format!("\"{good}\""),
        format!("{good},{good}"),
    ]);
    for token in tokens {
        let answer = with_token(&gateway, &token).await;
        assert!(matches!(answer.status, 400 | 401), "{token}: {}", answer.brief());
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn huge_and_dotted_tokens_are_refused_in_no_time() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    for unit in [".", "a", "a.", "eyJhbGciOiJIUzI1NiJ9.", "%2e", "=", "-"] {
        for length in [10, 1_000, 8_191, 8_193, 20_000, 60_000] {
            let token = unit.repeat(length / unit.len() + 1);
            for ask in [
                Ask::get("/me/x").header("X-Access-Token", &token).header("X-Key", &session.key),
                Ask::get("/me/x").header("X-Access-Token", &token),
                Ask::get(format!("/me/x?access_token={token}&x_key={}", session.key)),
                Ask::get("/me/x").header("X-Access-Token", &session.token).header("X-Key", &token),
            ] {
                let status = gateway.try_raw(ask.bytes()).await.map_or(431, |answer| answer.status);
                assert!(matches!(status, 400 | 401 | 414 | 431), "{length} of {unit}: {status}");
            }
        }
    }
    upstream.assert_untouched();
    assert!(gateway.knows(&session).await);
}

/// A key and a token are one pair, of one session.
#[tokio::test]
async fn keys_and_tokens_of_two_sessions_do_not_mix() {
    let (upstream, gateway) = configured(scene).await;
    let (one, two, admin) =
        (gateway.login("100").await, gateway.login("100").await, gateway.login("admin").await);
    let domain = domain_token(ID, "example.org", tomorrow(), b"another key");
    let mut pairs = Vec::new();
    for key in [&one.key, &two.key, &admin.key] {
        for token in [&one.token, &two.token, &admin.token, &domain] {
            let of_one =
                [&one, &two, &admin].iter().any(|session| (&session.key, &session.token) == (key, token));
            if !of_one {
                pairs.push((key.clone(), token.clone()));
            }
        }
    }
    for bent in [
        one.key.to_uppercase(),
        one.key.replace('-', ""),
        format!("{}0", one.key),
        one.key[..35].to_owned(),
        format!("{{{}}}", one.key),
        "*".to_owned(),
        "0".to_owned(),
    ] {
        pairs.push((bent, one.token.clone()));
    }
    for bent in [
        one.token.to_lowercase(),
        format!("{}=", one.token),
        format!("{}.", one.token),
        one.token[..one.token.len() - 1].to_owned(),
        one.key.clone(),
        "*".to_owned(),
    ] {
        pairs.push((one.key.clone(), bent));
    }
    pairs.push((one.token.clone(), one.key.clone()));
    for (key, token) in pairs {
        let answer =
            gateway.ask(Ask::get("/me/x").header("X-Access-Token", &token).header("X-Key", &key)).await;
        assert_eq!(answer.status, 401, "{key} {token}: {}", answer.brief());
    }
    upstream.assert_untouched();
    for session in [&one, &two, &admin] {
        assert!(gateway.knows(session).await);
    }
}

async fn is_dead(gateway: &TestGateway, session: &Session) {
    for ask in [
        Ask::get("/me/x").with(session),
        Ask::get(format!("/me/x?{}", session.query())),
        Ask::post("/logout").with(session),
        Ask::get("/me/x").header("X-Access-Token", &session.token),
    ] {
        gateway.ask(ask).await.assert_error(401);
    }
}

/// What was ended stays so: after a logout, after the operator's call, after the process was killed and came back.
#[tokio::test]
async fn an_ended_session_is_not_good_again() {
    let (_upstream, mut gateway) = usual().await;
    let (out, revoked, alive) =
        (gateway.login("100").await, gateway.login("200").await, gateway.login("admin").await);
    gateway.ask(Ask::post("/logout").with(&out)).await.assert_ok();
    assert_eq!(gateway.admin_ask(Ask::new("DELETE", "/sessions?user=200@example.org")).await.status, 204);
    for _ in 0..2 {
        for session in [&out, &revoked] {
            is_dead(&gateway, session).await;
        }
        assert!(gateway.knows(&alive).await);
        gateway.restart().await;
    }
    let again = gateway.login("100").await;
    is_dead(&gateway, &out).await;
    let mixed = Ask::get("/me/x").header("X-Access-Token", &out.token).header("X-Key", &again.key);
    gateway.ask(mixed).await.assert_error(401);
}
