//! Which route a request takes, and what the kinds of access mean (contract sections 2 and 4).

use crate::support::settings::Settings;
use crate::support::{Ask, Session, TestGateway, TestUpstream, configured, usual};

const RED: &str = "red@example.org";
const BLUE: &str = "blue@example.org";

/// Two users, of which one may do everything on `red` and the other on `blue`: who is let in tells the route taken.
fn scene(settings: &mut Settings) {
    for (user, role) in [(RED, "red"), (BLUE, "blue")] {
        settings.role(role, &format!("allow = {{ {role} = ['*'] }}"));
        settings.user(user, role);
    }
    for (path, resource, rest) in [
        ("/api/cdr", "red", ""),
        ("/api/cdr/secret", "blue", ""),
        ("/api/cdr/*/media", "blue", ""),
        ("/api/cdr/special/media", "red", ""),
        ("/api/dialer/{id}/members", "red", ""),
        ("/api/dialer/*/members/aggregate", "blue", "methods = ['POST']"),
        ("/api/list", "red", ""),
        ("/api/list", "blue", "query = { view = ['overdue', 'scheduled'] }"),
        ("/api/put", "red", ""),
        ("/api/put", "blue", "methods = ['PUT', 'GET']"),
        ("/api/only", "red", "methods = ['GET']"),
        ("/public/hidden", "red", ""),
    ] {
        settings.route(&format!("path = '{path}'\nresource = '{resource}'\nupstream = 'engine'\n{rest}"));
    }
    settings.route("path = '/me/closed'\naccess = 'deny'");
}

struct Scene {
    upstream: TestUpstream,
    gateway: TestGateway,
    red: Session,
    blue: Session,
}

impl Scene {
    async fn new() -> Self {
        let (upstream, gateway) = configured(scene).await;
        let (red, blue) = (gateway.login(RED).await, gateway.login(BLUE).await);
        Self { upstream, gateway, red, blue }
    }

    /// Which of the two is let in.
    async fn taken(&self, method: &str, path: &str) -> &'static str {
        let mut statuses = Vec::new();
        for session in [&self.red, &self.blue] {
            let answer = self.gateway.ask(Ask::new(method, path).with(session)).await;
            if answer.status != 200 {
                answer.assert_refusal(403, "Permission denied!");
            }
            statuses.push(answer.status);
        }
        match statuses[..] {
            [200, 403] => "red",
            [403, 200] => "blue",
            [403, 403] => "none",
            _ => panic!("{method} {path}: {statuses:?}"),
        }
    }

    /// `expected` is `red`, `blue` or `none`, for every path of the list.
    async fn assert_taken(&self, method: &str, expected: &str, paths: &str) {
        for path in paths.split_ascii_whitespace() {
            assert_eq!(self.taken(method, path).await, expected, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_prefix_ends_on_a_segment() {
    let scene = Scene::new().await;
    scene.assert_taken("GET", "red", "/api/cdr /api/cdr/ /api/cdr/a/b/c /api/cdr?x=/secret /API/Cdr/x").await;
    let beside = "/api/cdrx /api/cdr.json /api/cd /api / /xapi/cdr /api/cdr%41 /api.cdr";
    scene.assert_taken("GET", "none", beside).await;
}

#[tokio::test]
async fn the_longer_route_wins() {
    let scene = Scene::new().await;
    let secret = "/api/cdr/secret /api/cdr/secret/x/y /api/cdr/SECRET/x /api/cdr/s%65cret";
    scene.assert_taken("GET", "blue", secret).await;
    scene.assert_taken("GET", "red", "/api/cdr/secretx /api/cdr/x/secret").await;
}

#[tokio::test]
async fn segment_by_segment_a_literal_beats_a_star() {
    let scene = Scene::new().await;
    scene.assert_taken("GET", "blue", "/api/cdr/5/media /api/cdr/5/media/x").await;
    scene.assert_taken("GET", "red", "/api/cdr/5/medium /api/cdr/special/media /api/cdr/special/x").await;
    // `secret` differs from `*` before `media` is looked at.
    scene.assert_taken("GET", "blue", "/api/cdr/secret/media /api/cdr/secret/media/x").await;
}

#[tokio::test]
async fn a_star_or_a_name_stands_for_exactly_one_segment() {
    let scene = Scene::new().await;
    scene.assert_taken("GET", "red", "/api/dialer/5/members /api/dialer/a.b-c/members/1").await;
    let others =
        "/api/dialer/members /api/dialer//members /api/dialer/1/2/members /api/dialer/1/membersx /api/dialer";
    scene.assert_taken("GET", "none", others).await;
}

#[tokio::test]
async fn the_route_with_methods_wins_for_them_and_get_covers_head() {
    let scene = Scene::new().await;
    for (method, expected) in
        [("PUT", "blue"), ("GET", "blue"), ("PATCH", "red"), ("DELETE", "red"), ("put", "red")]
    {
        scene.assert_taken(method, expected, "/api/put /api/put/x").await;
    }
    for (method, expected) in [("GET", "red"), ("POST", "none"), ("OPTIONS", "none")] {
        scene.assert_taken(method, expected, "/api/only").await;
    }
    for (path, session) in [("/api/only", &scene.red), ("/api/put", &scene.blue)] {
        let head = scene.gateway.ask(Ask::new("HEAD", path).with(session)).await;
        assert_eq!(head.status, 200, "HEAD {path}");
    }
}

#[tokio::test]
async fn a_deeper_route_with_methods_leaves_the_rest_alone() {
    let scene = Scene::new().await;
    let aggregate = "/api/dialer/7/members/aggregate /api/dialer/7/members/AGGREGATE/";
    scene.assert_taken("POST", "blue", aggregate).await;
    scene.assert_taken("POST", "red", "/api/dialer/7/members /api/dialer/7/members/x").await;
    scene.assert_taken("PUT", "red", aggregate).await;
}

#[tokio::test]
async fn a_route_with_a_query_wins_for_requests_with_one_of_the_values() {
    let scene = Scene::new().await;
    let meant = "/api/list?view=overdue /api/list/x?a=1&view=scheduled&b /api/list?v%69ew=%6fverdue";
    scene.assert_taken("GET", "blue", meant).await;
    let others = "/api/list /api/list? /api/list?view= /api/list?view=all /api/list?view=Overdue /api/list?views=overdue \
        /api/list?view=overdue,scheduled /api/list?a=view=overdue";
    scene.assert_taken("GET", "red", others).await;
}

#[tokio::test]
async fn no_route_is_403_and_without_credentials_401_like_any_other() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("admin").await;
    for path in ["/", "/nothing", "/metrics", "/healthz", "/readyz", "/sessions", "/favicon.ico", "/auth"] {
        gateway.ask(Ask::get(path).with(&session)).await.assert_refusal(403, "Permission denied!");
        gateway.ask(Ask::get(path)).await.assert_refusal(401, "Invalid token");
        let stranger = Ask::get(path).header("X-Access-Token", &session.token).header("X-Key", "unknown");
        gateway.ask(stranger).await.assert_refusal(401, "Invalid User");
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn authenticated_needs_a_session_and_no_permission() {
    let (upstream, gateway) = usual().await;
    let session = gateway.login("idle").await;
    for method in ["GET", "POST", "DELETE", "OPTIONS", "FOO"] {
        gateway.ask(Ask::new(method, "/me/x").with(&session)).await.assert_ok();
        assert_eq!(upstream.last().header("x-webitel-role"), Some("idle"));
        gateway.ask(Ask::new(method, "/me/x")).await.assert_refusal(401, "Invalid token");
    }
    gateway.ask(Ask::get("/api/v2/cdr").with(&session)).await.assert_refusal(403, "Permission denied!");
}

#[tokio::test]
async fn deny_is_403_for_everyone() {
    let scene = Scene::new().await;
    for path in ["/closed", "/closed/x", "/CLOSED/", "/me/closed"] {
        for ask in [
            Ask::get(path),
            Ask::post(path),
            Ask::get(path).header("X-Access-Token", "x").header("X-Key", "y"),
            Ask::get(path).with(&scene.red),
        ] {
            scene.gateway.ask(ask).await.assert_refusal(403, "Permission denied!");
        }
    }
    scene.upstream.assert_untouched();
}

#[tokio::test]
async fn a_public_route_passes_what_came_unjudged_and_without_identity() {
    let scene = Scene::new().await;
    let junk = |ask: Ask| ask.header("X-Access-Token", "junk").header("X-Key", "junk");
    for (ask, query) in [
        (Ask::get("/public/x"), None),
        (Ask::get("/public/x").with(&scene.red), None),
        (Ask::get("/public/x?a=1&access_token=junk&b=%2e"), Some("a=1&access_token=junk&b=%2e")),
        (Ask::get("/public/x?x_key=junk").header("X-Access-Token", "junk"), Some("x_key=junk")),
        (junk(Ask::get("/public/x")), None),
    ] {
        let ask = ask.header("X-Webitel-User", "forged").header("X-Webitel-Role", "forged");
        scene.gateway.ask(ask).await.assert_ok();
        let seen = scene.upstream.last();
        for name in ["x-webitel-user", "x-webitel-domain", "x-webitel-role"] {
            assert!(!seen.head.has(name), "{}", seen.head.text());
        }
        assert_eq!(seen.query(), query);
    }
    let seen = scene.upstream.last();
    assert_eq!((seen.header("x-access-token"), seen.header("x-key")), (Some("junk"), Some("junk")));
}

#[tokio::test]
async fn a_protected_route_below_a_public_one_is_protected() {
    let scene = Scene::new().await;
    scene.gateway.ask(Ask::get("/public/hidden/x")).await.assert_refusal(401, "Invalid token");
    scene.assert_taken("GET", "red", "/public/hidden/x /public/HIDDEN").await;
    scene.gateway.ask(Ask::get("/public/hiddenx")).await.assert_ok();
}

#[tokio::test]
async fn no_request_header_chooses_another_path() {
    let scene = Scene::new().await;
    for name in [
        "X-Original-URL",
        "X-Original-URI",
        "X-Rewrite-URL",
        "X-Original-Method",
        "X_Original_URL",
        "x.rewrite.url",
    ] {
        let ask = Ask::get("/api/cdr/secret").with(&scene.red).header(name, "/api/cdr/x");
        scene.gateway.ask(ask).await.assert_refusal(403, "Permission denied!");
        scene
            .gateway
            .ask(Ask::get("/api/cdr/x").with(&scene.red).header(name, "/api/cdr/secret"))
            .await
            .assert_ok();
        let text = scene.upstream.last().head.text();
        assert!(!text.contains("/api/cdr/secret"), "{name} was forwarded: {text}");
    }
}

#[tokio::test]
async fn the_host_changes_no_decision() {
    let scene = Scene::new().await;
    for host in ["LOCALHOST", "localhost.", "localhost:443", "127.0.0.1", "other.example", "[::1]:80"] {
        let answer = scene.gateway.ask(Ask::get("/api/cdr/secret").with(&scene.red).host(host)).await;
        answer.assert_refusal(403, "Permission denied!");
    }
    scene.upstream.assert_untouched();
}
