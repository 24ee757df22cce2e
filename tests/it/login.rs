//! `POST /login` (contract section 3), but for the second factor and the throttle.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use serde_json::{Value, json};

use crate::support::{Answer, Ask, DOMAIN, PASSWORD, TestGateway, configured, h2, jwt, usual};

const HUNDRED_DAYS: u64 = 100 * 24 * 60 * 60 * 1000;

fn argon2id(password: &str) -> String {
    Argon2::default().hash_password(password.as_bytes()).unwrap().to_string()
}

async fn post(gateway: &TestGateway, body: impl AsRef<[u8]>) -> Answer {
    gateway.ask(Ask::post("/login").header("Content-Type", "application/json").body(body)).await
}

fn sorted(list: &Value) -> BTreeSet<&str> {
    list.as_array().expect("a list").iter().map(|text| text.as_str().expect("text")).collect()
}

#[tokio::test]
async fn a_good_login_answers_exactly_the_documented_fields() {
    let (upstream, gateway) = usual().await;
    let answer = gateway.ask(Ask::login("100@example.org", PASSWORD)).await;
    answer.assert_ok();
    assert!(answer.header("content-type").unwrap().starts_with("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));

    let body = answer.json();
    let fields: Vec<&str> = body.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(fields, ["acl", "cdr", "domain", "expires", "key", "role", "roleName", "token", "username"]);
    let key = uuid::Uuid::parse_str(body["key"].as_str().unwrap()).expect("a UUID");
    assert_eq!(key.get_version_num(), 4);
    assert_eq!(key.to_string(), body["key"].as_str().unwrap(), "lower case, with hyphens");
    assert!(["100", "100@example.org"].contains(&body["username"].as_str().unwrap()));
    assert_eq!(body["domain"], DOMAIN);
    assert_eq!(body["role"], 0);
    assert_eq!(body["roleName"], "user");
    assert_eq!(body["acl"], json!({"cdr": ["r"], "cdr/media": ["r"], "account": ["r", "uo"]}));
    assert_eq!(body["cdr"], json!({"host": "http://cdr:10023", "useProxy": "true"}));
    let lasts = body["expires"].as_u64().expect("an integer") - jwt::now();
    assert!(lasts.abs_diff(HUNDRED_DAYS) < 60_000, "expires in {lasts} ms");
    upstream.assert_untouched();
}

#[tokio::test]
async fn the_acl_holds_what_the_role_inherits() {
    let (_upstream, gateway) = usual().await;
    let session = gateway.login("admin").await;
    let acl = &session.answer["acl"];
    assert_eq!(session.answer["role"], 1);
    assert!(sorted(&acl["cdr"]).contains("*"));
    assert_eq!(sorted(&acl["cdr/media"]), BTreeSet::from(["r"]));
    assert_eq!(sorted(&acl["account"]), BTreeSet::from(["r", "uo"]));
    assert_eq!(sorted(&acl["vault"]), BTreeSet::from(["*"]));
}

#[tokio::test]
async fn a_role_without_a_number_answers_minus_one_and_an_empty_role_an_empty_acl() {
    let (_upstream, gateway) = usual().await;
    assert_eq!(gateway.login("odd").await.answer["role"], -1);
    let idle = gateway.login("idle").await;
    assert_eq!((&idle.answer["role"], &idle.answer["acl"]), (&json!(13), &json!({})));
}

#[tokio::test]
async fn a_user_without_a_domain_answers_no_domain() {
    let (upstream, gateway) =
        configured(|settings| settings.user_with("root", "admin", "password", &argon2id(PASSWORD))).await;
    let answer = gateway.ask(Ask::login("root", PASSWORD)).await;
    answer.assert_ok();
    assert!(answer.json().get("domain").is_none(), "{}", answer.brief());

    let session = crate::support::Session::of(answer.json());
    gateway.ask(Ask::get("/me/x").with(&session)).await.assert_ok();
    let seen = upstream.only();
    assert_eq!(seen.header("x-webitel-user"), Some("root"));
    assert_eq!(seen.header("x-webitel-domain").unwrap_or_default(), "");
}

#[tokio::test]
async fn argon2id_bcrypt_and_a1_passwords_are_checked_to_the_last_letter() {
    let (_upstream, gateway) = configured(|settings| {
        let bcrypt = bcrypt::hash(PASSWORD, 4).unwrap().replacen("$2b$", "$2y$", 1);
        settings.user_with("argon@example.org", "user", "password", &argon2id(PASSWORD));
        settings.user_with("bcrypt@example.org", "user", "password", &bcrypt);
    })
    .await;
    for user in ["argon@example.org", "bcrypt@example.org", "100@example.org"] {
        gateway.ask(Ask::login(user, PASSWORD)).await.assert_ok();
        let short = &PASSWORD[..PASSWORD.len() - 1];
        for wrong in [&format!("{PASSWORD}x"), short, &PASSWORD.to_uppercase(), &format!(" {PASSWORD}"), "\0"]
        {
            let answer = gateway.ask(Ask::login(user, wrong)).await;
            answer.assert_refusal(401, "Invalid credentials");
        }
    }
}

#[tokio::test]
async fn unicode_names_log_in_escaped_and_raw() {
    let user = "юзер@example.org";
    let (upstream, gateway) = configured(|settings| settings.user(user, "user")).await;
    post(&gateway, format!(r#"{{"username":"{user}","password":"{PASSWORD}"}}"#)).await.assert_ok();
    let escaped: String = user.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    post(&gateway, format!(r#"{{"username":"{escaped}","password":"{PASSWORD}"}}"#)).await.assert_ok();

    let session = gateway.login(user).await;
    gateway.ask(Ask::get("/me/x").with(&session)).await.assert_ok();
    assert_eq!(upstream.only().header("x-webitel-user"), Some("%D1%8E%D0%B7%D0%B5%D1%80@example.org"));
}

#[tokio::test]
async fn a_name_is_not_folded_into_another() {
    let (_upstream, gateway) = usual().await;
    for name in [
        "100@EXAMPLE.ORG",
        " 100@example.org",
        "100@example.org ",
        "100",
        "100@example.org.",
        "100@example.org\0",
    ] {
        let answer = gateway.ask(Ask::login(name, PASSWORD)).await;
        assert!(matches!(answer.status, 400 | 401 | 404), "{name:?}: {}", answer.brief());
    }
}

#[tokio::test]
async fn a_wrong_or_missing_password_is_401() {
    let (_upstream, gateway) = usual().await;
    for body in [
        json!({"username": "100@example.org", "password": "wrong"}),
        json!({"username": "100@example.org", "password": ""}),
        json!({"username": "100@example.org"}),
    ] {
        post(&gateway, body.to_string()).await.assert_refusal(401, "Invalid credentials");
    }
}

#[tokio::test]
async fn an_unknown_user_is_404() {
    let (_upstream, gateway) = usual().await;
    gateway.ask(Ask::login("nobody@example.org", PASSWORD)).await.assert_refusal(404, "User not found");
}

#[tokio::test]
async fn an_unknown_user_can_be_hidden_behind_401() {
    let (_upstream, gateway) =
        configured(|settings| settings.set("login.unknown_user", "'invalid_credentials'")).await;
    gateway.ask(Ask::login("nobody@example.org", PASSWORD)).await.assert_refusal(401, "Invalid credentials");
}

#[tokio::test]
async fn an_unknown_user_takes_as_long_as_a_wrong_password() {
    let (_upstream, gateway) = configured(|settings| {
        settings.set("login.unknown_user", "'invalid_credentials'");
        settings.user_with("argon@example.org", "user", "password", &argon2id(PASSWORD));
    })
    .await;
    let (mut known, mut unknown) = (Duration::MAX, Duration::MAX);
    for _ in 0..6 {
        for (name, best) in [("argon@example.org", &mut known), ("nobody@example.org", &mut unknown)] {
            let start = Instant::now();
            gateway.ask(Ask::login(name, "wrong")).await.assert_error(401);
            *best = (*best).min(start.elapsed());
        }
    }
    assert!(unknown * 3 > known && known * 3 > unknown, "known user {known:?}, unknown {unknown:?}");
}

#[tokio::test]
async fn no_or_an_empty_username_is_400_in_the_documented_words() {
    let (_upstream, gateway) = usual().await;
    for body in [r"{}", r#"{"password":"x"}"#, r#"{"username":""}"#, r#"{"username":"","password":"x"}"#] {
        post(&gateway, body).await.assert_refusal(400, "User name is required");
    }
    post(&gateway, r#"{"username":null,"password":"x"}"#).await.assert_error(400);
}

#[tokio::test]
async fn a_body_that_is_no_object_of_strings_is_400() {
    let (_upstream, gateway) = usual().await;
    let bodies: &[&[u8]] = &[
        b"",
        b"username=100",
        b"[]",
        b"null",
        b"17",
        b"\"100@example.org\"",
        b"{\"username\":\"100@example.org\",\"pass",
        b"{\"username\":\"a\",\"password\":\"b\",}",
        b"{\"username\":\"a\",\"password\":\"b\"} x",
        b"{\"username\":\"a\",\"password\":\"b\"}{}",
        b"{'username':'a','password':'b'}",
        b"{\"username\":\"\xff\xfe\",\"password\":\"b\"}",
        b"{\"username\":\"a\n\",\"password\":\"b\"}",
        b"{\"x\":\"\xff\",\"username\":\"a\",\"password\":\"b\"}",
        b"{\"username\":\"a\",\"password\":\"b\",\"x\":{\"y\":[\"\xc3\"]}}",
        b"{\"username\":\"\\ud800\",\"password\":\"b\"}",
        b"{\"username\":5,\"password\":\"b\"}",
        b"{\"username\":[\"100@example.org\"],\"password\":\"b\"}",
        b"{\"username\":{\"$gt\":\"\"},\"password\":{\"$gt\":\"\"}}",
        b"{\"username\":true,\"password\":\"b\"}",
        b"{\"username\":\"100@example.org\",\"password\":17}",
        b"{\"username\":\"100@example.org\",\"password\":{\"$ne\":1}}",
        b"{\"username\":\"100@example.org\",\"password\":[\"x\"]}",
    ];
    for body in bodies {
        let answer = post(&gateway, body).await;
        assert_eq!(answer.status, 400, "{}: {}", String::from_utf8_lossy(body), answer.brief());
        answer.assert_error(400);
    }
}

#[tokio::test]
async fn a_field_given_twice_is_400_however_it_is_spelled() {
    let (_upstream, gateway) = usual().await;
    for body in [
        format!(r#"{{"username":"admin@{DOMAIN}","username":"100@{DOMAIN}","password":"{PASSWORD}"}}"#),
        format!(r#"{{"username":"100@{DOMAIN}","\u0075sername":"100@{DOMAIN}","password":"{PASSWORD}"}}"#),
        format!(r#"{{"username":"100@{DOMAIN}","password":"x","password":"{PASSWORD}"}}"#),
    ] {
        post(&gateway, body).await.assert_error(400);
    }
}

#[tokio::test]
async fn unknown_fields_change_nothing() {
    let (_upstream, gateway) = usual().await;
    let body = json!({"username": "100@example.org", "password": PASSWORD, "role": "admin", "acl": {"vault": ["*"]}});
    let answer = post(&gateway, body.to_string()).await;
    assert_eq!(answer.assert_ok().json()["roleName"], "user");
}

#[tokio::test]
async fn deep_json_is_refused_and_the_gateway_lives() {
    let (_upstream, gateway) = usual().await;
    for body in
        ["[".repeat(16_000), "{\"a\":".repeat(3_000), format!("{{\"username\":{}", "[".repeat(16_000))]
    {
        post(&gateway, body).await.assert_error(400);
    }
    gateway.login("100").await;
}

#[tokio::test]
async fn a_refusal_does_not_repeat_the_password() {
    let (_upstream, gateway) = usual().await;
    let answer = post(&gateway, r#"{"username":"a","password":"Tell-nobody-88" x}"#).await;
    answer.assert_error(400);
    assert!(!answer.text().contains("Tell-nobody-88"), "{}", answer.brief());
}

#[tokio::test]
async fn a_body_of_16_kib_is_read_and_one_byte_more_is_413() {
    let (_upstream, gateway) = usual().await;
    let start = format!(r#"{{"username":"100@{DOMAIN}","password":"{PASSWORD}","pad":""#);
    let fits = format!("{start}{}\"}}", "x".repeat(16 * 1024 - start.len() - 2));
    assert_eq!(fits.len(), 16 * 1024);
    post(&gateway, &fits).await.assert_ok();
    post(&gateway, fits.replacen("\"pad\":\"", "\"pad\":\"x", 1)).await.assert_error(413);
}

#[tokio::test]
async fn a_large_body_is_413_before_it_has_come() {
    let (_upstream, gateway) = usual().await;
    let head = "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let mut client = gateway.client().await;
    client.send(format!("{head}Content-Length: 1073741824\r\n\r\n{{")).await;
    client.answer().await.assert_error(413);
}

#[tokio::test]
async fn a_chunked_body_is_413_once_it_is_too_large() {
    let (_upstream, gateway) = usual().await;
    let head = "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
    let mut client = gateway.client().await;
    client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n")).await;
    for _ in 0..20 {
        client.send(format!("400\r\n{}\r\n", " ".repeat(1024))).await;
    }
    client.send("0\r\n\r\n").await;
    client.answer().await.assert_error(413);
}

#[tokio::test]
async fn another_content_type_or_none_is_415_and_says_what_to_send() {
    let (_upstream, gateway) = usual().await;
    let body = json!({"username": "100@example.org", "password": PASSWORD}).to_string();
    for media_type in
        ["text/plain", "application/x-www-form-urlencoded", "text/json", "application/jsonx", "json", ""]
    {
        let answer = gateway.ask(Ask::post("/login").header("Content-Type", media_type).body(&body)).await;
        answer.assert_error(415);
        assert!(answer.info().contains("application/json"), "{}", answer.info());
    }
    gateway.ask(Ask::post("/login").body(&body)).await.assert_error(415);
    for media_type in ["application/json", "Application/JSON", "application/json; charset=utf-8"] {
        gateway.ask(Ask::post("/login").header("Content-Type", media_type).body(&body)).await.assert_ok();
    }
}

#[tokio::test]
async fn any_other_method_is_405_with_allow() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("admin").await;
    for path in ["/login", "/logout"] {
        for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "post", "FOO"] {
            let answer = gateway.ask(Ask::new(method, path).with(&session)).await;
            answer.assert_error(405);
            assert_eq!(answer.header("allow"), Some("POST"), "{method} {path}");
        }
    }
    upstream.assert_untouched();
    assert!(gateway.knows(&session).await);
}

#[tokio::test]
async fn login_and_logout_are_matched_like_every_path_and_never_forwarded() {
    let (upstream, gateway) =
        configured(|settings| settings.route("path = '/'\naccess = 'public'\nupstream = 'engine'")).await;
    for path in
        ["/login", "/LOGIN", "/login/", "//login", "/./login", "/x/../login", "/%6cogin", "/Login?x=1"]
    {
        let ask = Ask::post(path).json(&json!({"username": "nobody@example.org", "password": "x"}));
        gateway.ask(ask).await.assert_refusal(404, "User not found");
    }
    for path in ["/logout", "/LogOut", "//logout/", "/%6cogout"] {
        gateway.ask(Ask::post(path)).await.assert_refusal(401, "Bad caller");
    }
    upstream.assert_untouched();
    gateway.ask(Ask::post("/loginx")).await.assert_ok();
    gateway.ask(Ask::post("/login/x")).await.assert_ok();
}

#[tokio::test]
async fn credentials_sent_along_with_a_login_are_ignored_and_the_key_is_new() {
    let (_upstream, gateway) = usual().await;
    let old = gateway.login("100").await;
    let wished = uuid::Uuid::new_v4().to_string();
    let body = json!({"username": "200@example.org", "password": PASSWORD, "key": wished, "x_key": wished});
    for target in
        ["/login", &format!("/login?{}", old.query()), &format!("/login?x_key={wished}&x_key[$in]=a")]
    {
        let answer = gateway.ask(Ask::post(target).with(&old).with(&old).json(&body)).await;
        let fresh = answer.assert_ok().json();
        assert_ne!(fresh["key"], wished.as_str());
        assert_ne!(fresh["key"], old.key.as_str());
        assert_ne!(fresh["token"], old.token.as_str());
    }
    assert!(gateway.knows(&old).await);
}

#[tokio::test]
async fn no_two_logins_share_a_key_a_token_or_an_expiry() {
    let (_upstream, gateway) = usual().await;
    let logins = (0..32).map(|_| gateway.login("100"));
    let sessions = futures_util::future::join_all(logins).await;
    let different =
        |field: &str| sessions.iter().map(|s| s.answer[field].to_string()).collect::<BTreeSet<_>>().len();
    assert_eq!([different("key"), different("token"), different("expires")], [32, 32, 32]);
}

#[tokio::test]
async fn a_user_may_have_a_number_of_sessions_and_the_oldest_ends() {
    let (_upstream, gateway) = configured(|settings| settings.set("login.max_sessions_per_user", "2")).await;
    let first = gateway.login("100").await;
    let second = gateway.login("100").await;
    let other = gateway.login("200").await;
    let third = gateway.login("100").await;
    assert!(!gateway.knows(&first).await);
    for session in [&second, &other, &third] {
        assert!(gateway.knows(session).await);
    }
}

#[tokio::test]
async fn it_works_over_tls_and_http2_and_with_expect_continue() {
    let (_upstream, gateway) = usual().await;
    gateway.tls_client().await.ask(&Ask::login("100@example.org", PASSWORD)).await.assert_ok();

    let body = json!({"username": "100@example.org", "password": PASSWORD}).to_string();
    let mut client = h2::H2Client::connect(&gateway).await;
    let mut request = h2::request("POST", "/login", None, h2::Frames::full(body.clone()));
    request.headers_mut().insert("content-type", "application/json".parse().unwrap());
    let answer = client.ask(request).await;
    assert_eq!((answer.status, &answer.json()["roleName"]), (200, &json!("user")));

    let mut client = gateway.client().await;
    let head = "POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\n";
    client.send(format!("{head}Content-Length: {}\r\n\r\n", body.len())).await;
    assert_eq!(client.answer_head().await.start, "HTTP/1.1 100 Continue");
    client.send(body).await;
    client.answer().await.assert_ok();
}
