//! Contract section 3: `POST /login`, `POST /logout`.

use super::support::gateway::PASSWORD;
use super::support::{TestGateway, TestUpstream};

#[test]
fn a_login_answers_what_the_documentation_shows() {
    let gateway = TestGateway::start(&TestUpstream::start());
    let answer = gateway.login_raw(&format!(r#"{{"username":"root","password":"{PASSWORD}"}}"#));
    assert_eq!((answer.status, answer.header("cache-control")), (200, Some("no-store")));
    let json = answer.json();
    let mut fields: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        ["acl", "cdr", "expires", "key", "role", "roleName", "token", "username"],
        "no domain for root"
    );
    assert_eq!((&json["role"], &json["roleName"]), (&2.into(), &"root".into()));
    assert_eq!(json["acl"]["cdr"], serde_json::json!(["*", "r"]));
    assert!(json["token"].as_str().unwrap().starts_with("eyJ0eXAiOiJKV1QiLCJhbGciOiJIUzI1NiJ9."));
}

#[test]
fn each_refusal_has_its_status_and_text() {
    let gateway = TestGateway::start(&TestUpstream::start());
    for (body, status, info) in [
        (r#"{"password":"x"}"#, 400, "User name is required"),
        (r#"{"username":"reader@d","password":"wrong"}"#, 401, "Invalid credentials"),
        (r#"{"username":"reader@d"}"#, 401, "Invalid credentials"),
        (r#"{"username":"nobody@d","password":"x"}"#, 404, "User not found"),
    ] {
        let answer = gateway.login_raw(body);
        assert_eq!((answer.status, answer.info().as_str()), (status, info), "{body}");
    }
    for (body, status) in
        [("{", 400), (r#"{"username":"a","username":"b"}"#, 400), (&"x".repeat(20_000), 413)]
    {
        assert_eq!(gateway.login_raw(body).status, status);
    }
    assert_eq!(gateway.send("POST", "/login", &[("Content-Type", "text/plain")]).status, 415);
    let not_post = gateway.send("GET", "/Login/", &[]);
    assert_eq!((not_post.status, not_post.header("allow")), (405, Some("POST")));
}

#[test]
fn too_many_failures_are_429_whatever_the_password_is_then() {
    let gateway =
        TestGateway::start_with(&TestUpstream::start(), "[login]\nmax_failures = 2\nwindow = \"1h\"\n");
    let statuses = ["wrong", "wrong", "wrong", PASSWORD].map(|password| {
        gateway.login_raw(&format!(r#"{{"username":"reader@d","password":"{password}"}}"#)).status
    });
    assert_eq!(statuses, [401, 401, 429, 429]);
}

#[test]
fn a_logout_ends_its_session_and_no_other() {
    let gateway = TestGateway::start(&TestUpstream::start());
    let (a, b) = (gateway.login("reader@d"), gateway.login("reader@d"));
    let answer = gateway.send("POST", "/logout", &a.headers());
    assert_eq!((answer.status, answer.info().as_str()), (200, "Successful logout."));
    let gone = gateway.send("GET", "/cdr", &a.headers());
    assert_eq!((gone.status, gone.info().as_str()), (401, "Invalid User"));
    assert_eq!(gateway.send("GET", "/cdr", &b.headers()).status, 200);
    let again = gateway.send("POST", "/logout", &a.headers());
    assert_eq!((again.status, again.info().as_str()), (401, "Bad caller"));
}
