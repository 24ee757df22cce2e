//! The token of a login, read by another implementation than the gateway's (contract section 3).

use serde_json::{Value, json};

use crate::support::{SECRET, configured, jwt, usual};

#[test]
fn the_tests_own_implementation_reads_the_example_of_rfc_7515() {
    let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let (_, claims) = jwt::verify(token, &jwt::decode(key).unwrap()).expect("a good signature");
    assert_eq!(claims["iss"], "joe");
    for bytes in [&b""[..], b"f", b"fo", b"foo", b"foob", b"\xff\xfe\xfd\x00"] {
        assert_eq!(jwt::decode(&jwt::encode(bytes)).unwrap(), bytes);
    }
}

#[tokio::test]
async fn it_is_hs256_over_the_bytes_of_the_secret_file_as_they_are() {
    let (_upstream, gateway) = usual().await;
    let session = gateway.login("100").await;
    let (header, claims) = jwt::verify(&session.token, SECRET).expect("a good signature");
    assert_eq!(header, br#"{"typ":"JWT","alg":"HS256"}"#);
    assert_eq!(session.token.split('.').next(), Some("eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9"));
    assert_eq!(claims["exp"], session.answer["expires"]);
    assert!(claims["exp"].as_u64().expect("an integer") > 1_000_000_000_000, "milliseconds");
    assert!(jwt::verify(&session.token, SECRET.trim_ascii_end()).is_none(), "the newline is part of the key");
}

#[tokio::test]
async fn its_acl_is_what_the_role_holds_of_the_claimed_resources() {
    let (_upstream, gateway) =
        configured(|settings| settings.set("token.claims", "['cdr', 'cdr/files', 'ghost']")).await;
    let claims = |token: &str| -> Value { jwt::verify(token, SECRET).expect("a good signature").1 };
    assert_eq!(claims(&gateway.login("100").await.token)["acl"], json!({"cdr": ["r"]}));
    assert_eq!(claims(&gateway.login("idle").await.token)["acl"], json!({}));
    let admin = claims(&gateway.login("admin").await.token);
    let resources: Vec<&String> = admin["acl"].as_object().unwrap().keys().collect();
    assert_eq!(resources, ["cdr", "cdr/files"]);
    assert!(admin["acl"]["cdr"].as_array().unwrap().contains(&json!("*")));
}

#[tokio::test]
async fn its_life_is_the_configured_one() {
    let (_upstream, gateway) = configured(|settings| settings.set("token.ttl", "'90m'")).await;
    let expires = gateway.login("100").await.answer["expires"].as_u64().unwrap();
    assert!((expires - jwt::now()).abs_diff(90 * 60 * 1000) < 60_000);
}
