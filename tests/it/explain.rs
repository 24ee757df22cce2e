//! What `explain` says and what the gateway does are the same (contract section 1).

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::support::{Ask, DOMAIN, configured};

const ROLES: [&str; 4] = ["admin", "user", "idle", "unnumbered"];

fn path() -> impl Strategy<Value = String> {
    let segment = prop::sample::select(vec![
        "api", "API", "v2", "cdr", "vault", "up", "me", "public", "closed", "own", "100", "101", "list", ".",
        "..", "", "x", "%63dr", "%2e%2e", "a%2fb", "%c3%a9", "a;b", "login", "%25", "%", "cdr%20x",
    ]);
    let query =
        prop::sample::select(vec!["", "", "?view=due", "?view=x", "?a=1&view=due", "?domain=example.org"]);
    (prop::collection::vec(segment, 0..6), query)
        .prop_map(|(parts, query)| format!("/{}{query}", parts.join("/")))
}

fn request() -> impl Strategy<Value = (&'static str, String, &'static str)> {
    let known = prop::sample::select(vec![
        "/api/v2/cdr/1",
        "/api/v2/cdr",
        "/API/v2//cdr/./x",
        "/api/v2/vault/7",
        "/up/echo",
        "/me/x",
        "/closed/x",
        "/public/x",
        "/own/100",
        "/own/101",
        "/api/v2/list?view=due",
        "/api/v2/list?view=none",
        "/put/x",
    ]);
    let target = prop_oneof![known.prop_map(str::to_owned), path()];
    let method = prop::sample::select(vec!["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "FOO", "get"]);
    (method, target, prop::sample::select(ROLES.to_vec()))
}

/// 10,000 random requests, asked of the gateway and of `GET /explain`; some of them of the command line too, which
/// calls the same function.
#[tokio::test]
async fn explain_and_the_gateway_agree_on_every_request() {
    let (_upstream, gateway) = configured(|s| {
        s.route("path = '/own/{user}'\nresource = 'account'\nown = 'user@caller'\nupstream = 'engine'");
        s.route("path = '/api/v2/list'\nresource = 'vault'\nupstream = 'engine'");
        s.route("path = '/api/v2/list'\nquery = { view = ['due'] }\nresource = 'cdr'\nupstream = 'engine'");
        s.route("path = '/put'\nmethods = ['PUT']\nresource = 'cdr'\npermission = 'r'\nupstream = 'engine'");
        s.set("log.access", "false");
    })
    .await;
    let names = ["admin", "100", "idle", "odd"];
    let mut sessions = Vec::new();
    for name in names {
        sessions.push(gateway.login(name).await);
    }
    let (mut client, mut admin) =
        (gateway.client().await, crate::support::TestClient::connect(gateway.admin()).await);
    let (mut runner, requests) = (TestRunner::deterministic(), request());
    let (mut allowed, mut denied) = (0, 0);
    for n in 0..10_000 {
        let (method, target, role) = requests.new_tree(&mut runner).unwrap().current();
        let at = ROLES.iter().position(|known| *known == role).unwrap();
        let user = format!("{}@{DOMAIN}", names[at]);
        let encoded = percent(&target);
        let ask = Ask::get(format!("/explain?role={role}&user={user}&method={method}&path={encoded}"));
        let told = admin.ask(&ask).await.assert_ok().json();
        let decision = told["decision"].as_str().unwrap().to_owned();
        if decision == "own" {
            continue;
        }
        let status = client.ask(&Ask::new(method, &target).with(&sessions[at])).await.status;
        let agrees = matches!((decision.as_str(), status), ("allow", 200) | ("deny", 400 | 401 | 403));
        assert!(agrees, "{method} {target} of {role}: {status}, but {told}");
        if decision == "allow" {
            allowed += 1
        } else {
            denied += 1
        }
        if n % 200 == 0 {
            let args = ["explain", "--role", role, "--user", &user, "--json", method, &target];
            let output = gateway.call(&args);
            let by_hand: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(by_hand, told);
        }
    }
    assert!(allowed > 1000 && denied > 1000, "{allowed} {denied}");
}

fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |out, byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => out + &char::from(byte).to_string(),
        _ => out + &format!("%{byte:02x}"),
    })
}

#[tokio::test]
async fn faults_in_the_question_are_told() {
    let (_upstream, gateway) = configured(|_| {}).await;
    for bad in [
        "",
        "?role=user&method=GET",
        "?role=ghost&method=GET&path=/x",
        "?role=user&method=G%20T&path=/x",
        "?role=user&method=GET&path=x",
        "?role=user&method=GET&path=/x&more=1",
    ] {
        gateway.admin_ask(Ask::get(format!("/explain{bad}"))).await.assert_error(400);
    }
    for args in [
        &["explain", "--role", "ghost", "GET", "/x"][..],
        &["explain", "--role", "user", "GET", "x"],
        &["explain", "--role", "user", "GET"],
    ] {
        assert_eq!(gateway.call(args).status.code(), Some(2), "{args:?}");
    }
    let output = gateway.call(&["explain", "--role", "user", "POST", "/api/v2/cdr/1"]);
    let text = String::from_utf8(output.stdout).unwrap();
    for told in ["denied", "no_permission", "/api/v2/cdr", "routes.toml:", "c or * on cdr", "user"] {
        assert!(text.contains(told), "{told} in\n{text}");
    }
}
