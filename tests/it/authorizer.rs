//! The external authorizer over HTTP (contract section 5), asked as ingresses ask.

use crate::support::{Answer, Ask, Session, TestClient, TestGateway, TestUpstream, configured, usual};

/// As nginx asks.
fn nginx(method: &str, target: &str) -> Ask {
    Ask::get("/auth").header("X-Original-URI", target).header("X-Original-Method", method)
}

/// As Traefik and Caddy ask.
fn forwarded(method: &str, target: &str) -> Ask {
    Ask::get("/auth")
        .header("X-Forwarded-Uri", target)
        .header("X-Forwarded-Method", method)
        .header("X-Forwarded-Host", "api.example.org")
}

/// As Envoy asks over HTTP.
fn envoy(method: &str, target: &str) -> Ask {
    Ask::new(method, format!("/auth{target}"))
}

const CONVENTIONS: [fn(&str, &str) -> Ask; 3] = [nginx, forwarded, envoy];

async fn asked(gateway: &TestGateway, ask: Ask) -> Answer {
    TestClient::connect(gateway.authz()).await.ask(&ask).await
}

async fn started() -> (TestUpstream, TestGateway, Session, Session) {
    let (upstream, gateway) = usual().await;
    let (admin, user) = (gateway.login("admin").await, gateway.login("100").await);
    (upstream, gateway, admin, user)
}

#[tokio::test]
async fn each_convention_has_the_identity_of_who_may() {
    let (upstream, gateway, admin, user) = started().await;
    for ask in CONVENTIONS {
        let answer = asked(&gateway, ask("DELETE", "/api/v2/cdr/1?x=%2f").with(&admin)).await;
        answer.assert_ok();
        assert_eq!(answer.header("x-webitel-user"), Some("admin@example.org"));
        assert_eq!(answer.header("x-webitel-domain"), Some("example.org"));
        assert_eq!(answer.header("x-webitel-role"), Some("admin"));
        assert_eq!(answer.header("x-postern-scope"), Some("all"));
        assert!(answer.header("x-request-id").is_some() && answer.body.is_empty());

        asked(&gateway, ask("GET", "/api/v2/cdr").with(&user)).await.assert_ok();
        let denied = asked(&gateway, ask("DELETE", "/api/v2/cdr/1").with(&user)).await;
        denied.assert_refusal(403, "Permission denied!");
        assert_eq!(denied.header("x-webitel-user"), None);
        asked(&gateway, ask("GET", "/me")).await.assert_refusal(401, "Invalid token");
        asked(&gateway, ask("GET", "/nowhere").with(&admin)).await.assert_refusal(403, "Permission denied!");
        asked(&gateway, ask("GET", "/nowhere")).await.assert_refusal(401, "Invalid token");
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_public_route_and_the_gateways_own_paths_pass_without_an_identity() {
    let (_upstream, gateway, admin, _) = started().await;
    for ask in CONVENTIONS {
        for (method, target) in [
            ("GET", "/public/x"),
            ("POST", "/login"),
            ("GET", "/LOGIN/"),
            ("POST", "/logout?x"),
            ("PUT", "/login"),
        ] {
            for credentials in [false, true] {
                let ask = ask(method, target);
                let ask = if credentials { ask.with(&admin) } else { ask };
                let answer = asked(&gateway, ask.header("X-Webitel-User", "root")).await;
                answer.assert_ok();
                for name in ["x-webitel-user", "x-webitel-domain", "x-webitel-role", "x-postern-scope"] {
                    assert_eq!(answer.header(name), None, "{method} {target}");
                }
            }
        }
        asked(&gateway, ask("GET", "/closed").with(&admin)).await.assert_refusal(403, "Permission denied!");
    }
    assert!(gateway.knows(&admin).await, "a question about /logout is none");
}

#[tokio::test]
async fn an_own_path_in_another_spelling_passes_only_where_the_ingress_reads_it_so_too() {
    let (_upstream, gateway, _, _) = started().await;
    for target in ["/%6cogin", "/x/../login?code=1", "//logout"] {
        asked(&gateway, nginx("POST", target)).await.assert_ok();
        asked(&gateway, forwarded("POST", target)).await.assert_ok();
        asked(&gateway, envoy("POST", target)).await.assert_refusal(403, "Bad path");
    }
}

#[tokio::test]
async fn what_is_400_in_the_proxy_is_403_here() {
    let (_upstream, gateway, admin, _) = started().await;
    for ask in CONVENTIONS {
        for target in [
            "/api/v2/cdr%2f1",
            "/api/v2/cdr;x",
            "/..",
            "/api/v2/%2e%2e/vault",
            "/a%00",
            "/%zz",
            "/a%255c",
            "/a\\b",
        ] {
            asked(&gateway, ask("GET", target).with(&admin)).await.assert_refusal(403, "Bad path");
        }
        let twice = ask("GET", "/me").with(&admin).header("X-Key", &admin.key);
        asked(&gateway, twice).await.assert_refusal(403, "Ambiguous credentials");
        let both = ask("GET", &format!("/me?x_key={}", admin.key)).with(&admin);
        asked(&gateway, both).await.assert_refusal(403, "Ambiguous credentials");
    }
}

#[tokio::test]
async fn credentials_are_read_from_the_original_query() {
    let (_upstream, gateway, admin, _) = started().await;
    let query = format!("access_token={}&x_key={}", admin.token, admin.key);
    for ask in CONVENTIONS {
        asked(&gateway, ask("GET", &format!("/me/q?a=1&{query}"))).await.assert_ok();
    }
    // The authorizer's own query is the ingress'.
    let ask =
        Ask::get(format!("/auth?{query}")).header("X-Original-URI", "/me").header("X-Original-Method", "GET");
    asked(&gateway, ask).await.assert_refusal(401, "Invalid token");
    assert!(!gateway.output().contains(&admin.key) && !gateway.output().contains(&admin.token));
}

#[tokio::test]
async fn what_is_not_told_is_not_guessed() {
    let (_upstream, gateway, admin, _) = started().await;
    let own = |ask: Ask| ask.with(&admin);
    for ask in [
        Ask::get("/auth"),
        Ask::get("/auth").header("X-Original-URI", "/me"),
        Ask::get("/auth").header("X-Original-Method", "GET"),
        Ask::get("/auth").header("X-Original-URI", "/me").header("X-Forwarded-Method", "GET"),
        Ask::get("/auth").header("X-Forwarded-Uri", "/me").header("X-Original-Method", "GET"),
        nginx("GET", "/me").header("X-Original-URI", "/me"),
        nginx("GET", "/me").header("X-Original-Method", "GET"),
        nginx("GET", "/me").header("X-Original-URL", "http://h/public"),
        nginx("GET", "/me").header("X-Forwarded-Uri", "/public"),
        nginx("DELETE", "/me").header("X-Forwarded-Method", "GET"),
        forwarded("GET", "/me").header("X-Forwarded-Host", "other"),
        forwarded("GET", "/me").header("X-Original-URI", "/public"),
        envoy("GET", "/me").header("X-Original-URI", "/public"),
        envoy("GET", "/me").header("X-Forwarded-Method", "POST"),
        nginx("G ET", "/me"),
        nginx("", "/me"),
        nginx("GET", ""),
        nginx("GET", "me"),
        nginx("GET", "*"),
        Ask::get("/auth").header("X-Original-URL", "http://h?/me").header("X-Original-Method", "GET"),
        Ask::get("/auth").header("X-Original-URL", "http://u:p@h/me").header("X-Original-Method", "GET"),
        Ask::get("/auth").header("X-Original-URL", "http:///me").header("X-Original-Method", "GET"),
        Ask::get("/auth").header("X-Original-URL", "//h/me?x").header("X-Original-Method", "GET"),
        nginx("GET", "http://h#/me"),
        nginx("GET", "/me/\u{fc}"),
        nginx("GET", "/api/v2/cdr%2F..%2Fvault"),
        nginx("GET", "/me, /public"),
        nginx("GET, GET", "/me"),
        Ask::get("/auth").header("X_Original_URI", "/me").header("X_Original_Method", "GET"),
        Ask::get("/auth").header("X-Forwarded-URI", "/me").header("X_Forwarded_Method", "GET"),
        Ask::get("/authorize").header("X-Original-URI", "/me").header("X-Original-Method", "GET"),
        Ask::get("/").header("X-Original-URI", "/me").header("X-Original-Method", "GET"),
    ] {
        let answer = asked(&gateway, own(ask.clone())).await;
        assert_eq!(answer.status, 403, "{ask:?}");
        answer.assert_error(403);
    }
    let agreed =
        own(nginx("GET", "/me")).header("X-Original-URL", "https://h/me").header("X-Forwarded-Uri", "/me");
    asked(&gateway, agreed).await.assert_ok();
    // A fragment is cut off, as in the proxy, and a long path is one.
    asked(&gateway, own(nginx("GET", "/me#there"))).await.assert_ok();
    asked(&gateway, own(nginx("GET", &format!("/me/{}", "a".repeat(8000))))).await.assert_ok();
    asked(&gateway, own(nginx("GET", "/me").host(""))).await.assert_error(400);
}

/// An ingress that only asks sends the path on as it came: the backend may not find another route in it.
#[tokio::test]
async fn what_the_backend_could_read_otherwise_is_refused() {
    let (_upstream, gateway, admin, _) = started().await;
    for ask in CONVENTIONS {
        for target in [
            "/closed/../public",
            "/api/v2/vault/7/../../../../public",
            "/public/../api/v2/vault",
            "/x/../me",
            "/./me",
        ] {
            asked(&gateway, ask("GET", target).with(&admin)).await.assert_refusal(403, "Bad path");
        }
        for target in ["/me/./x", "/me/x/../y", "/api/v2/cdr/1/../2", "//me//x"] {
            asked(&gateway, ask("GET", target).with(&admin)).await.assert_ok();
        }
        asked(&gateway, ask("GET", "/closed/../public")).await.assert_refusal(403, "Bad path");
    }
    for fragment in
        ["#/../api/v2/vault", "#%2e%2e", "#?x", "#;a", "#\\", "#&x", "#x=1", "?a=1#&x_key=K", "?a#b"]
    {
        let asked = asked(&gateway, nginx("GET", &format!("/me{fragment}")).with(&admin)).await;
        asked.assert_refusal(403, "Bad path");
    }
}

/// Nothing can be taken out of a query that the ingress sends on, and an engine reads its own names in it first.
#[tokio::test]
async fn a_second_set_under_names_that_are_not_configured_is_refused() {
    let (_upstream, gateway) = configured(|settings| {
        settings.set("credentials.token_query", "[]");
        settings.set("credentials.key_query", "['k']");
    })
    .await;
    let admin = gateway.login("admin").await;
    for ask in CONVENTIONS {
        for query in ["access_token=T&x_key=K", "a=1&x_key[]=K", "access%5Ftoken=T"] {
            let answer = asked(&gateway, ask("GET", &format!("/me?{query}")).with(&admin)).await;
            answer.assert_refusal(403, "Ambiguous credentials");
        }
        asked(&gateway, ask("GET", "/me?a=1&token=T").with(&admin)).await.assert_ok();
    }
}

#[tokio::test]
async fn a_chosen_convention_reads_no_other() {
    let (_upstream, gateway) = configured(|s| s.set("authz.convention", "'nginx'")).await;
    let admin = gateway.login("admin").await;
    let spoofed =
        nginx("GET", "/me").with(&admin).header("X-Forwarded-Uri", "/x").header("X-Forwarded-Method", "PUT");
    asked(&gateway, spoofed).await.assert_ok();
    asked(&gateway, forwarded("GET", "/me").with(&admin)).await.assert_error(403);
    asked(&gateway, envoy("GET", "/me").with(&admin)).await.assert_error(403);
}

#[tokio::test]
async fn only_loopback_and_trusted_proxies_may_ask() {
    let (_upstream, gateway, admin, _) = started().await;
    // Every address of 127/8 is loopback, so a stranger can be shown only where the machine has another address.
    let Some(address) = own_address() else {
        println!("this machine has no address but loopback: left out");
        return;
    };
    let upstream = TestUpstream::start().await;
    let ask_there = async |trusted: &str| {
        let gateway = TestGateway::configured(&upstream, |s| {
            let port = s.port_of("listen.authz");
            s.set("listen.authz", &format!("'0.0.0.0:{port}'"));
            s.set("listen.trusted_proxies", trusted);
        })
        .await;
        let admin = gateway.login("admin").await;
        let there = std::net::SocketAddr::new(address, gateway.authz().port());
        let mut client = TestClient::connect_from(address, there).await;
        client.ask(&nginx("GET", "/me").with(&admin)).await
    };
    ask_there("[]").await.assert_error(403);
    ask_there(&format!("['{address}']")).await.assert_ok();
    asked(&gateway, nginx("GET", "/me").with(&admin)).await.assert_ok();
}

/// An address of this machine that is not loopback; no packet is sent to find it.
pub fn own_address() -> Option<std::net::IpAddr> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[tokio::test]
async fn envoy_is_told_to_take_out_what_a_client_may_have_forged() {
    let (_upstream, gateway, admin, _) = started().await;
    let name = "x-envoy-auth-headers-to-remove";
    let public = asked(&gateway, envoy("GET", "/public")).await;
    let all = "x-webitel-user,x-webitel-domain,x-webitel-role,x-postern-scope";
    assert_eq!(public.assert_ok().header(name), Some(all));
    let known = asked(&gateway, envoy("GET", "/me").with(&admin)).await;
    assert_eq!(known.assert_ok().header(name), Some("x-postern-scope"));
    assert_eq!(asked(&gateway, nginx("GET", "/public")).await.header(name), None);
}

#[tokio::test]
async fn a_route_whose_bodies_are_judged_is_refused() {
    let (_upstream, gateway) = configured(|s| {
        s.route(
            "path = '/api/v2/cdr/search'\nresource = 'cdr'\nupstream = 'engine'\nbody_credentials = 'reject'",
        );
    })
    .await;
    let admin = gateway.login("admin").await;
    let answer = asked(&gateway, nginx("POST", "/api/v2/cdr/search").with(&admin)).await;
    answer.assert_refusal(403, "This route's rules for bodies cannot be kept by an authorizer");
    asked(&gateway, nginx("POST", "/api/v2/cdr/other").with(&admin)).await.assert_ok();
}

#[tokio::test]
async fn upgrades_need_credentials_whatever_the_route_says_of_first_frames() {
    let (_upstream, gateway) = configured(|s| {
        s.route(
            "path = '/ws/first'\naccess = 'authenticated'\nupstream = 'engine'\nwebsocket = 'first_frame'",
        );
        s.route("path = '/ws/none'\naccess = 'authenticated'\nupstream = 'engine'\nwebsocket = 'deny'");
    })
    .await;
    let admin = gateway.login("admin").await;
    let upgrade = |ask: Ask| ask.header("Connection", "upgrade").header("Upgrade", "websocket");
    asked(&gateway, upgrade(nginx("GET", "/ws/first"))).await.assert_refusal(401, "Invalid token");
    asked(&gateway, upgrade(nginx("GET", "/ws/first").with(&admin))).await.assert_ok();
    asked(&gateway, upgrade(nginx("GET", "/ws/none").with(&admin)))
        .await
        .assert_refusal(403, "Permission denied!");
    asked(&gateway, nginx("GET", "/ws/none").with(&admin)).await.assert_ok();
}

#[tokio::test]
async fn a_preflight_is_no_exception_here() {
    let (_upstream, gateway) = configured(|s| s.set("cors.allow_origins", "['*']")).await;
    let ask = nginx("OPTIONS", "/me").header("Origin", "https://a.example.org");
    asked(&gateway, ask).await.assert_refusal(401, "Invalid token");
}

#[tokio::test]
async fn an_ended_session_is_refused_at_once() {
    let (_upstream, gateway, admin, user) = started().await;
    let mut client = TestClient::connect(gateway.authz()).await;
    client.ask(&nginx("GET", "/me").with(&user)).await.assert_ok();
    gateway.ask(Ask::post("/logout").with(&user)).await.assert_ok();
    client.ask(&nginx("GET", "/me").with(&user)).await.assert_refusal(401, "Invalid User");
    client.ask(&nginx("GET", "/me").with(&admin)).await.assert_ok();
}

#[tokio::test]
async fn a_question_is_logged_and_counted_as_what_it_is_about() {
    let (_upstream, gateway, _, user) = started().await;
    asked(&gateway, nginx("DELETE", "/api/v2/cdr/7?a=1&x_key=k").header("X-Access-Token", "t")).await;
    asked(&gateway, forwarded("DELETE", "/api/v2/cdr/8").with(&user)).await.assert_error(403);
    let line = gateway.access_line("/api/v2/cdr/8").await;
    assert_eq!((&line["method"], &line["status"]), (&"DELETE".into(), &403.into()));
    assert_eq!((&line["decision"], &line["reason"]), (&"deny".into(), &"no_permission".into()));
    assert_eq!((&line["user"], &line["resource"]), (&"100@example.org".into(), &"cdr".into()));
    assert_eq!(gateway.access_line("/api/v2/cdr/7").await["query"], "a=1");
    assert!(gateway.metric("postern_connections", &["listener=\"authz\""]).await >= 0.0);
    let denied = ["decision=\"deny\"", "reason=\"no_permission\""];
    assert_eq!(gateway.metric("postern_decisions_total", &denied).await, 1.0);
}

#[tokio::test]
async fn a_misframed_question_closes_the_connection() {
    let (_upstream, gateway, admin, _) = started().await;
    let mut client = TestClient::connect(gateway.authz()).await;
    let ask =
        nginx("GET", "/me").with(&admin).header("Content-Length", "5").header("Transfer-Encoding", "chunked");
    client.send(ask.bytes()).await;
    client.answer().await.assert_error(400);
    assert_eq!(client.closed().await, b"");
}

#[tokio::test]
async fn a_busy_gateway_refuses_with_the_reason() {
    let (upstream, gateway) = configured(|s| s.set("limits.max_requests", "1")).await;
    let admin = gateway.login("admin").await;
    let holders = std::cell::RefCell::new(Vec::new());
    crate::support::wait::until_async("the place to be taken", || async {
        // One that comes before the login has left its place is refused.
        let mut holder = gateway.client().await;
        holder.send(Ask::get("/up/hold").with(&admin).bytes()).await;
        holders.borrow_mut().push(holder);
        !upstream.requests().is_empty()
    })
    .await;
    let answer = asked(&gateway, nginx("GET", "/me").with(&admin)).await;
    answer.assert_refusal(403, "Too many requests");
    assert_eq!(answer.header("retry-after"), Some("1"));
}
