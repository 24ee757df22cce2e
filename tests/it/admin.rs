//! The operator's listener (contract section 6): who is logged in, domain tokens, the program itself.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::wait::{until_async, within};
use crate::support::{Ask, DOMAIN, TestGateway, configured, h2, usual};

async fn sessions(gateway: &TestGateway, query: &str) -> Vec<Value> {
    let answer = gateway.admin_ask(Ask::get(format!("/sessions{query}"))).await;
    answer.assert_ok().json()["sessions"].as_array().unwrap().clone()
}

async fn status(gateway: &TestGateway, method: &str, target: &str) -> u16 {
    gateway.admin_ask(Ask::new(method, target)).await.status
}

async fn with_token(gateway: &TestGateway, path: &str, token: &str) -> u16 {
    gateway.ask(Ask::get(path).header("X-Access-Token", token)).await.status
}

#[tokio::test]
async fn pages_hold_every_session_once() {
    let (_upstream, gateway) = usual().await;
    for _ in 0..7 {
        gateway.login("100").await;
    }
    gateway.login("200").await;
    let (mut seen, mut query) = (Vec::new(), format!("?user=100@{DOMAIN}&limit=3"));
    loop {
        let page = gateway.admin_ask(Ask::get(format!("/sessions{query}"))).await.json();
        seen.extend(page["sessions"].as_array().unwrap().iter().map(|s| s["id"].to_string()));
        let Some(next) = page["next"].as_str() else { break };
        query = format!("?user=100@{DOMAIN}&limit=3&after={next}");
    }
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), 7);
    assert_eq!(sessions(&gateway, &format!("?domain={DOMAIN}")).await.len(), 8);
    for bad in ["?limit=0", "?limit=x", "?after=x", "?users=a", "?user=a&user=b", "?user=%ff"] {
        assert_eq!(status(&gateway, "GET", &format!("/sessions{bad}")).await, 400, "{bad}");
    }
}

#[tokio::test]
async fn sessions_end_by_id_user_domain_and_time_and_stay_ended() {
    let (_upstream, mut gateway) = configured(|s| s.user("1@other.test", "user")).await;
    let (a, b) = (gateway.login("100").await, gateway.login("200").await);
    let (c, d) = (gateway.login("1@other.test").await, gateway.login("admin").await);
    let id = sessions(&gateway, &format!("?user=100@{DOMAIN}")).await[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(status(&gateway, "DELETE", &format!("/sessions/{id}")).await, 204);
    assert_eq!(status(&gateway, "DELETE", &format!("/sessions/{id}")).await, 404);
    assert_eq!(status(&gateway, "DELETE", &format!("/sessions?user=200@{DOMAIN}")).await, 204);
    assert_eq!(status(&gateway, "DELETE", "/sessions?domain=other.test").await, 204);
    gateway.restart().await;
    for ended in [&a, &b, &c] {
        assert!(!gateway.knows(ended).await);
    }
    assert!(gateway.knows(&d).await);
    assert_eq!(status(&gateway, "DELETE", "/sessions?before=2001-01-01T00:00:00Z").await, 204);
    assert!(gateway.knows(&d).await);
    assert_eq!(status(&gateway, "DELETE", "/sessions?before=2101-01-01T00:00:00Z").await, 204);
    assert!(!gateway.knows(&d).await);
    for bad in ["", "?user=", "?before=yesterday", "?users=x"] {
        assert_eq!(status(&gateway, "DELETE", &format!("/sessions{bad}")).await, 400, "{bad}");
    }
}

/// What is open under a session when it is ended: a WebSocket, an event stream, a stream of HTTP/2.
#[tokio::test]
async fn open_streams_end_within_a_second_of_their_session() {
    let (_upstream, gateway) = usual().await;
    let session = gateway.login("admin").await;
    let mut request = "ws://localhost/up/ws".into_client_request().unwrap();
    request.headers_mut().insert("x-access-token", session.token.parse().unwrap());
    request.headers_mut().insert("x-key", session.key.parse().unwrap());
    let stream = TcpStream::connect(gateway.http()).await.unwrap();
    let (mut socket, _) = client_async(request, stream).await.unwrap();
    socket.send(Message::text("open")).await.unwrap();
    within("the echo", socket.next()).await.unwrap().unwrap();
    let mut events = gateway.client().await;
    events.send(Ask::get("/up/ticks").with(&session).bytes()).await;
    events.answer_head().await;
    let mut h2 = h2::H2Client::connect(&gateway).await;
    let answer =
        h2.start(h2::request("GET", "/up/ticks", Some(&session), h2::Frames::empty())).await.unwrap();

    assert_eq!(status(&gateway, "DELETE", &format!("/sessions?user=admin@{DOMAIN}")).await, 204);
    let ends = async {
        while let Some(Ok(_)) = socket.next().await {}
        events.closed().await;
        h2::H2Answer::read(answer).await.unwrap_err();
    };
    tokio::time::timeout(std::time::Duration::from_secs(1), ends).await.expect("all of them have ended");
}

#[tokio::test]
async fn a_minted_token_works_is_turned_off_and_on_and_removed_and_outlives_a_kill() {
    let (_upstream, mut gateway) = usual().await;
    let tokens = "/domains/my.test/tokens";
    let wanted = json!({ "role": "user", "expires": "2100-01-01T00:00:00Z" });
    let made = gateway.admin_ask(Ask::post(tokens).json(&wanted)).await;
    assert_eq!(made.status, 201, "{}", made.brief());
    let (token, id) =
        (made.json()["token"].as_str().unwrap().to_owned(), made.json()["id"].as_str().unwrap().to_owned());
    gateway.kill9();
    gateway.restart().await;
    assert_eq!(with_token(&gateway, "/api/v2/cdr/1", &token).await, 200);
    assert_eq!(with_token(&gateway, "/api/v2/vault/1", &token).await, 403);
    let one = format!("{tokens}/{id}");
    for (enabled, status) in [(false, 401), (true, 200)] {
        let change = Ask::new("PATCH", &one).json(&json!({ "enabled": enabled }));
        assert_eq!(gateway.admin_ask(change).await.status, 204);
        assert_eq!(with_token(&gateway, "/api/v2/cdr/1", &token).await, status);
        let listed = gateway.admin_ask(Ask::get(tokens)).await;
        assert_eq!(listed.json()["tokens"][0]["enabled"], enabled);
        assert!(!listed.text().contains(&token));
    }
    assert_eq!(status(&gateway, "DELETE", &format!("/domains/other.test/tokens/{id}")).await, 404);
    assert_eq!(status(&gateway, "DELETE", &one).await, 204);
    assert_eq!(with_token(&gateway, "/api/v2/cdr/1", &token).await, 401);
    assert_eq!(status(&gateway, "DELETE", &one).await, 404);
    for bad in [
        json!({}),
        json!({"role": "ghost", "expires": "2100-01-01T00:00:00Z"}),
        json!({"role": "user", "expires": "2001-01-01T00:00:00Z"}),
        json!({"role": "user", "expires": "2100-01-01T00:00:00Z", "more": 1}),
        json!(["user", "2100-01-01T00:00:00Z"]),
    ] {
        assert_eq!(gateway.admin_ask(Ask::post(tokens).json(&bad)).await.status, 400, "{bad}");
    }
}

#[tokio::test]
async fn a_token_of_the_configuration_is_changed_there() {
    let (_upstream, mut gateway) = configured(|s| {
        s.table("domain_tokens.fixed", "domain = 'my.test'\nrole = 'user'\nexpires = 2100-01-01T00:00:00Z");
    })
    .await;
    assert_eq!(status(&gateway, "DELETE", "/domains/my.test/tokens/fixed").await, 409);
    assert_eq!(gateway.reload_with(|s| s.unset("domain_tokens.fixed.domain")).await.status, 409);
}

#[tokio::test]
async fn token_mint_works_beside_a_running_gateway_and_without_one() {
    let (_upstream, mut gateway) = usual().await;
    let args = ["token", "mint", "--domain", "my.test", "--role", "user", "--expires", "90d"];
    let mint = |gateway: &TestGateway| {
        let output = gateway.call(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let beside = mint(&gateway);
    assert_eq!(with_token(&gateway, "/api/v2/cdr/1", &beside).await, 200);
    gateway.kill9();
    let alone = mint(&gateway);
    gateway.restart().await;
    for token in [beside, alone] {
        assert_eq!(with_token(&gateway, "/api/v2/cdr/1", &token).await, 200);
    }
}

#[tokio::test]
async fn a_drain_that_is_asked_for_ends_the_program_in_good_order() {
    let (_upstream, mut gateway) = usual().await;
    assert_eq!(gateway.admin_ask(Ask::post("/drain")).await.status, 202);
    assert_eq!(gateway.exit_code().await, 0);
}

#[tokio::test]
async fn the_running_configuration_is_shown_without_secrets() {
    let (_upstream, gateway) = usual().await;
    let shown = gateway.admin_ask(Ask::get("/config")).await;
    let config = shown.assert_ok().json();
    assert_eq!(
        (&config["generation"], &config["config"]["token"]["secret_file"]),
        (&json!(1), &json!("token.key"))
    );
    assert!(config["files"].as_array().unwrap().len() >= 5, "{config}");
    assert!(!shown.text().contains("shared key of the tests"));
}

#[tokio::test]
async fn the_admin_token_is_exchanged_by_a_reload() {
    let (_upstream, mut gateway) = usual().await;
    gateway
        .reload_with(|s| {
            s.file("admin.token", b"first\n");
            s.set("admin.token_file", "'admin.token'");
        })
        .await
        .assert_ok();
    let with = |token: &str| Ask::get("/config").header("Authorization", format!("Bearer {token}"));
    assert_eq!(gateway.admin_ask(with("first")).await.status, 200);
    assert_eq!(gateway.admin_ask(Ask::get("/config")).await.status, 401);
    gateway.change(|s| s.file("admin.token", b"second\n"));
    until_async("the new token", || async { gateway.admin_ask(with("second")).await.status == 200 }).await;
    assert_eq!(gateway.admin_ask(with("first")).await.status, 401);
}

#[tokio::test]
async fn the_dashboard_takes_script_and_style_from_itself_alone() {
    let (_upstream, gateway) = usual().await;
    for (path, kind) in
        [("/", "text/html"), ("/dashboard.js", "text/javascript"), ("/dashboard.css", "text/css")]
    {
        let answer = gateway.admin_ask(Ask::get(path)).await;
        assert!(answer.assert_ok().header("content-type").unwrap().starts_with(kind), "{path}");
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_is_refused_in_json() {
    let (_upstream, gateway) = usual().await;
    let body = " ".repeat(100 << 10);
    let ask = Ask::post("/domains/example.org/tokens").header("Content-Type", "application/json").body(body);
    gateway.admin_ask(ask).await.assert_error(413);
}
