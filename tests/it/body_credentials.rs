//! `body_credentials = "reject"` and `body` (contract section 2): what a JSON body may not hold.

use serde_json::json;

use crate::support::answer::status_of;
use crate::support::h2::{self, Frames, H2Client};
use crate::support::jwt;
use crate::support::wait::within;
use crate::support::{Ask, Engine, Session, TestGateway, TestUpstream, configured};

async fn rejecting() -> (TestUpstream, TestGateway, Session) {
    let (upstream, gateway) = configured(|settings| {
        settings.route(
            "path = '/in'\naccess = 'authenticated'\nbody_credentials = 'reject'\nupstream = 'engine'",
        );
        settings.route("path = '/open'\naccess = 'public'\nbody_credentials = 'reject'\nupstream = 'engine'");
    })
    .await;
    let session = gateway.login("admin").await;
    (upstream, gateway, session)
}

fn json(body: impl AsRef<[u8]>) -> Ask {
    Ask::post("/in/x").header("Content-Type", "application/json").body(body)
}

#[tokio::test]
async fn credentials_in_a_body_never_reach_the_upstream() {
    let (upstream, gateway, session) = rejecting().await;
    for body in [
        r#"{"access_token":"x"}"#,
        r#"{"x_key":{"$in":["a"]}}"#,
        r#"{"a":1,"x_\u006bey":null}"#,
        r#"{"x_key":"1","x_key":"2"}"#,
    ] {
        gateway.ask(json(body).with(&session)).await.assert_refusal(400, "Ambiguous credentials");
        let chunked = Ask::post("/in/x").header("Content-Type", "application/json").chunked(body);
        gateway.ask(chunked.with(&session)).await.assert_refusal(400, "Ambiguous credentials");
    }
    let get = Ask::get("/in/x").header("Content-Type", "Application/JSON; x=y").body(r#"{"x_key":1}"#);
    gateway.ask(get.with(&session)).await.assert_refusal(400, "Ambiguous credentials");
    let public = Ask::post("/open/x").header("Content-Type", "application/json").body(r#"{"x_key":1}"#);
    gateway.ask(public).await.assert_refusal(400, "Ambiguous credentials");
    upstream.assert_untouched();
}

#[tokio::test]
async fn other_bodies_pass_byte_for_byte() {
    let (upstream, gateway, session) = rejecting().await;
    let long = format!(r#"{{"text":"{}","nested":{{"x_key":"mine"}}}}"#, "\u{44e}".repeat(700_000));
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(5000), "]".repeat(5000));
    for body in [" {\"a\" : 1e999}\n", "[{\"x_key\":1}]", "\"x_key\"", &long, &deep] {
        gateway.ask(json(body).with(&session)).await.assert_ok();
        assert_eq!(upstream.last().body.bytes, body.as_bytes());
    }
    gateway.ask(json("").with(&session)).await.assert_ok();
    let form = Ask::post("/in/x").header("Content-Type", "application/x-www-form-urlencoded").body("x_key=1");
    gateway.ask(form.with(&session)).await.assert_ok();
    assert_eq!(upstream.last().body.bytes, b"x_key=1");
    // On a route that does not ask, nothing is read.
    let other = Ask::post("/me/x").header("Content-Type", "application/json").body(r#"{"x_key":1}"#);
    gateway.ask(other.with(&session)).await.assert_ok();
}

#[tokio::test]
async fn what_cannot_be_read_is_refused() {
    let (upstream, gateway, session) = rejecting().await;
    let typed =
        |value: &str, body: &[u8]| Ask::post("/in/x").header("Content-Type", value).body(body).with(&session);
    for (ask, status) in [
        (json("{\"a\":1,}").with(&session), 400),
        (json("{\"x\":\"\u{1}\"}").with(&session), 400),
        (json("\u{feff}{}").with(&session), 400),
        (json(b"{\"a\":\"\xff\"}").with(&session), 415),
        (typed("application/json; charset=utf-16", b"{}"), 415),
        (typed("application/vnd.api+json", br#"{"x_key":1}"#), 400),
        (json("{}").header("Content-Encoding", "gzip").with(&session), 415),
        (json(vec![b' '; 5 * 1024 * 1024 + 1]).with(&session), 413),
    ] {
        let answer = gateway.ask(ask).await;
        answer.assert_error(status);
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_body_of_the_largest_size_passes_and_too_many_at_once_do_not() {
    let (upstream, gateway, session) = rejecting().await;
    let mut body = b"{\"a\":\"".to_vec();
    body.resize(5 * 1024 * 1024 - 2, b'x');
    body.extend(b"\"}");
    gateway.ask(json(&body).with(&session)).await.assert_ok();
    assert_eq!(upstream.last().body.bytes.len(), body.len());

    // Those that are begun and not ended hold their memory: the next ones are told to come again.
    let mut open = Vec::new();
    for _ in 0..12 {
        let mut client = gateway.client().await;
        let mut head = json(&body).with(&session).bytes();
        head.truncate(head.len() - 10);
        client.send(head).await;
        open.push(client);
    }
    let busy = within("memory to be used up", async {
        loop {
            let answer = gateway.ask(json(&body).with(&session)).await;
            if answer.status == 503 {
                return answer;
            }
        }
    })
    .await;
    assert!(busy.header("retry-after").is_some());
    gateway.ask(json("{}").with(&session)).await.assert_ok();
    for mut client in open {
        client.send(b"xxxxxxxx\"}").await;
        client.answer().await.assert_ok();
    }
    gateway.ask(json(&body).with(&session)).await.assert_ok();
}

#[tokio::test]
async fn what_is_only_announced_takes_no_memory() {
    let (_upstream, gateway, session) = rejecting().await;
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut client = gateway.client().await;
        let head =
            Ask::post("/in/x").header("Content-Type", "application/json").header("Content-Length", "5242880");
        client.send(head.header("Expect", "100-continue").with(&session).bytes()).await;
        // Its body is waited for now.
        assert_eq!(status_of(&client.answer_head().await), 100);
        open.push(client);
    }
    gateway.ask(json("{}").with(&session)).await.assert_ok();
}

#[tokio::test]
async fn http2_and_expectations_are_read_too() {
    let (upstream, gateway, session) = rejecting().await;
    let mut h2 = H2Client::connect(&gateway).await;
    let post = |body: Frames| {
        let mut request = h2::request("POST", "/in/h2", Some(&session), body);
        request.headers_mut().insert("content-type", "application/json".parse().unwrap());
        request
    };
    let refused = h2.ask(post(Frames::full(r#"{"x_key":1}"#))).await;
    assert_eq!((refused.status, refused.json()["info"].as_str()), (400, Some("Ambiguous credentials")));
    upstream.assert_untouched();
    assert_eq!(h2.ask(post(Frames::full(r#"{"a":1}"#))).await.status, 200);
    assert_eq!(upstream.last().body.bytes, br#"{"a":1}"#);
    let mut client = gateway.client().await;
    let ask = json("{\"a\":1}").header("Expect", "100-continue").with(&session);
    let answer = client.ask(&ask).await;
    answer.assert_ok();
    assert_eq!(answer.interim, [100]);
    assert_eq!(upstream.last().body.bytes, b"{\"a\":1}");
}

#[tokio::test]
async fn nobody_gives_another_a_role_above_his_own() {
    let engine = Engine::start().await;
    let gateway = engine
        .gateway("hardened", |settings| {
            settings.role("op", "allow = { hook = ['*'], vmail = ['uo'] }");
        })
        .await;
    let path = "/api/v2/domains/example.org/settings/token";
    let mint = |session: &Session, body: serde_json::Value| {
        let ask = Ask::post(path).json(&body).with(session);
        gateway.ask(ask)
    };
    let (root, admin) = (gateway.login("root").await, gateway.login("admin@example.org").await);
    let expire = jwt::now() + 1_000_000;
    for role in ["user", "admin"] {
        mint(&admin, json!({"role": role, "expire": expire})).await.assert_ok();
    }
    let before = engine.forwarded().len();
    for role in [json!("root"), json!("ghost"), json!(["admin"]), json!({"$ne": 1}), json!(null)] {
        mint(&admin, json!({"role": role, "expire": expire})).await.assert_refusal(403, "Permission denied!");
    }
    let twice =
        Ask::post(path).header("Content-Type", "application/json").body(r#"{"role":"user","role":"root"}"#);
    gateway.ask(twice.with(&admin)).await.assert_refusal(403, "Permission denied!");
    let form = Ask::post(path).header("Content-Type", "application/x-www-form-urlencoded").body("role=root");
    gateway.ask(form.with(&admin)).await.assert_error(415);
    assert_eq!(engine.forwarded().len(), before);
    for role in ["root", "admin", "user", "op"] {
        mint(&root, json!({"role": role, "expire": expire})).await.assert_ok();
    }
}

/// A byte now and then would hold its memory for days, and with a dozen like it all of it.
#[tokio::test]
async fn a_body_that_is_read_whole_comes_within_its_time() {
    let (upstream, gateway) = configured(|settings| {
        settings.route("path = '/open'\naccess = 'public'\nbody_credentials = 'reject'\nupstream = 'engine'");
        settings.set("limits.body_timeout", "'400ms'");
    })
    .await;
    let mut client = gateway.client().await;
    let ask =
        Ask::post("/open/x").header("Content-Type", "application/json").header("Content-Length", "10000");
    client.send(ask.raw_body("{").bytes()).await;
    let dripping = async {
        while client.wire.send(" ").await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("a dripping body to be given up", dripping).await;
    assert_eq!(gateway.access_line("/open/x").await["status"], 408);
    upstream.assert_untouched();
}
