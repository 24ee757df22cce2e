//! The decision as a whole: its order, and what a permit hands on.

use http::{HeaderName, HeaderValue};
use std::time::Duration;

use super::samples::route;
use super::*;
use crate::clock::Clock;
use crate::identity::UserName;
use crate::secret::{KeyHash, SecretSlice, TokenHash};
use crate::session::store;
use crate::session::token::{DomainToken, TokenSettings};
use crate::session::{SessionRecord, SessionSettings};
use permit::Scope;
use routes::Own;

const NOW: UnixMillis = UnixMillis(1_000_000);
const CLIENT: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// An `Access` with two sessions, `k` and `old` (expired), each with its key as its token's text, and a domain token.
struct Scene {
    access: Access,
    domain_token: String,
}

impl Scene {
    async fn new() -> Self {
        let sessions = Sessions::open(store::open(&SessionSettings::default()).unwrap(), &Clock::manual(NOW))
            .await
            .unwrap();
        for (key, expires) in [("k", 2_000_000), ("old", 1_000_000)] {
            let record = SessionRecord {
                id: KeyHash::of(key),
                token: TokenHash::of(key),
                user: UserName::new("100@d.test"),
                role: RoleName::new("user"),
                created: UnixMillis(1),
                expires: UnixMillis(expires),
                client: std::net::IpAddr::from([127, 0, 0, 1]),
                last_used: UnixMillis(1),
                adopted: None,
            };
            sessions.create(record, 0).await.unwrap();
        }
        let record = DomainToken {
            id: "id".into(),
            domain: "d.test".into(),
            role: RoleName::new("user"),
            expires: UnixMillis(2_000_000),
            enabled: true,
        };
        sessions.domain_tokens().configure(&[record]);
        let tokens = Tokens::new(&TokenSettings {
            secret: SecretSlice::from(b"secret".to_vec()),
            previous: Vec::new(),
            ttl: Duration::from_secs(1),
            claims: Vec::new(),
        });
        let domain_token = tokens.sign_domain("id", UnixMillis(2_000_000), "d.test").unwrap();
        let access = Access::new(
            settings(),
            Callers { sessions: Arc::new(sessions), tokens: Arc::new(tokens), adopter: None },
        );
        Self { access, domain_token }
    }

    async fn decide(&self, target: &str, headers: &[(&'static str, &str)]) -> Result<Permit, Denied> {
        let uri: http::Uri = target.parse().unwrap();
        let headers = map(headers);
        let path = CanonicalPath::of(&uri).map_err(|_| Denied::new(Reason::BadPath, None))?;
        let request = AccessRequest {
            path,
            method: &Method::GET,
            headers: &headers,
            query: uri.query(),
            client: CLIENT,
        };
        self.access.decide(request, NOW).await
    }

    async fn reason(&self, target: &str, headers: &[(&'static str, &str)]) -> Option<Reason> {
        self.decide(target, headers).await.err().map(|denied| denied.reason)
    }
}

fn map(headers: &[(&'static str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    map
}

fn settings() -> AccessSettings {
    let rule = |path: &str, rule| RouteSettings { rule, ..route(path) };
    let on = |own| Rule::Resource { name: "cdr".into(), permission: None, own };
    AccessSettings {
        routes: vec![
            RouteSettings { strip_prefix: "/engine".into(), ..rule("/engine/cdr", on(Own::Never)) },
            rule("/own/{user}", on(Own::UserCaller)),
            rule("/public", Rule::Public),
            rule("/closed", Rule::Deny),
            rule("/me", Rule::Authenticated),
        ],
        roles: vec![RoleSettings {
            name: RoleName::new("user"),
            number: Some(0),
            inherits: Vec::new(),
            allow: vec![("cdr".into(), vec![Permission::Read, Permission::ReadOwn])],
        }],
        names: CredentialNames::default(),
        case_sensitive: false,
        own_below: Vec::new(),
    }
}

const GOOD: &[(&str, &str)] = &[("x-access-token", "k"), ("x-key", "k")];

#[tokio::test]
async fn the_order_is_path_ambiguity_open_routes_caller_route_permission() {
    let scene = Scene::new().await;
    let twice = &[("x-key", "a"), ("x-key", "a")][..];
    let unknown = &[("x-access-token", "a"), ("x-key", "a")][..];
    for (target, headers, reason) in [
        ("/closed/a%2Fb", twice, Some(Reason::BadPath)),
        ("/nothing%2fx", &[], Some(Reason::BadPath)),
        ("/closed", twice, Some(Reason::AmbiguousCredentials)),
        ("/public", twice, Some(Reason::AmbiguousCredentials)),
        ("/public?x_key[$in]=a", &[], Some(Reason::AmbiguousCredentials)),
        ("/closed", &[], Some(Reason::DenyRoute)),
        ("/closed", GOOD, Some(Reason::DenyRoute)),
        ("/public", &[], None),
        ("/public", unknown, None),
        ("/me", &[], Some(Reason::NoToken)),
        ("/nothing", &[], Some(Reason::NoToken)),
        ("/nothing", unknown, Some(Reason::UnknownKey)),
        ("/nothing", GOOD, Some(Reason::NoRoute)),
        ("/me", GOOD, None),
        ("/engine/cdr", GOOD, None),
    ] {
        assert_eq!(scene.reason(target, headers).await, reason, "{target} {headers:?}");
    }
}

#[tokio::test]
async fn credentials_are_judged_by_the_contracts_table() {
    let scene = Scene::new().await;
    let domain = scene.domain_token.as_str();
    let forged = format!("{domain}x");
    for (token, key, reason) in [
        ("", "k", Some(Reason::NoToken)),
        ("k", "", Some(Reason::NoKey)),
        ("k", "K", Some(Reason::UnknownKey)),
        ("old", "k", Some(Reason::TokenMismatch)),
        ("K", "k", Some(Reason::TokenMismatch)),
        ("k k", "k", Some(Reason::TokenMismatch)),
        ("old", "old", Some(Reason::Expired)),
        (domain, "", None),
        (domain, "nonsense", None),
        (domain, "k", None),
        (&forged, "", Some(Reason::DomainTokenInvalid)),
    ] {
        let headers = [("x-access-token", token), ("x-key", key)];
        assert_eq!(scene.reason("/me", &headers).await, reason, "{token} {key}");
    }
}

#[tokio::test]
async fn a_permit_hands_on_what_was_judged() {
    let scene = Scene::new().await;
    let permit = scene.decide("/engine//%63DR/x/?a=%2e&x_key=%6B&access_token=k&b", &[]).await.ok().unwrap();
    assert_eq!((permit.path(), permit.query()), ("/cDR/x/", Some("a=%2e&b")));
    assert_eq!((permit.scope(), permit.asked()), (Some(Scope::All), Some(Permission::Read)));
    assert_eq!(permit.principal().map(|p| p.user().as_str()), Some("100@d.test"));
    let judged = permit.credentials().unwrap();
    assert!(judged.token == "k" && judged.token.is_sensitive());
    assert!(judged.key.as_ref().is_some_and(|key| key == "k" && key.is_sensitive()));

    let own = scene.decide("/own/100?x_key=k&access_token=k", &[]).await.ok().unwrap();
    assert_eq!((own.scope(), own.query()), (Some(Scope::Own), None));
    let me = scene.decide("/me?a=1", GOOD).await.ok().unwrap();
    assert_eq!((me.scope(), me.asked(), me.query()), (None, None, Some("a=1")));
    assert_eq!(scene.decide("/engine/cdr", GOOD).await.ok().unwrap().path(), "/cdr");
}

#[tokio::test]
async fn a_domain_tokens_key_does_not_go_on() {
    let scene = Scene::new().await;
    let headers = [("x-access-token", scene.domain_token.as_str()), ("x-key", "k")];
    let permit = scene.decide("/me", &headers).await.ok().unwrap();
    assert_eq!(permit.principal().map(|p| p.user().as_str()), Some("id@d.test"));
    assert!(permit.credentials().is_some_and(|judged| judged.key.is_none()));
}

#[tokio::test]
async fn on_a_public_route_everything_passes_as_it_came_and_nobody_is_named() {
    let scene = Scene::new().await;
    let permit = scene.decide("/public?a&x_key=k&access_token=k", &[]).await.ok().unwrap();
    assert_eq!(permit.query(), Some("a&x_key=k&access_token=k"));
    assert!(permit.principal().is_none() && permit.credentials().is_none() && permit.scope().is_none());
}

#[tokio::test]
async fn a_denial_names_what_is_known_for_the_log() {
    let scene = Scene::new().await;
    let uri: http::Uri = "/own/100".parse().unwrap();
    let (path, headers) = (CanonicalPath::of(&uri).unwrap(), map(GOOD));
    let request =
        AccessRequest { path, method: &Method::DELETE, headers: &headers, query: None, client: CLIENT };
    let denied = scene.access.decide(request, NOW).await.err().unwrap();
    assert_eq!((denied.reason, denied.asked), (Reason::NoPermission, Some(Permission::DeleteOwn)));
    assert_eq!(denied.route.map(|r| r.label.to_string()).as_deref(), Some("/own/{user}"));
    assert_eq!(denied.principal.map(|p| p.user().to_string()).as_deref(), Some("100@d.test"));
}

#[tokio::test]
async fn a_session_logs_out_and_a_domain_token_does_not() {
    let scene = Scene::new().await;
    let session_of = async |headers: &[(&'static str, &str)], query| {
        scene.access.session_of(&map(headers), query, CLIENT, NOW).await.map(|(session, _)| session.id)
    };
    assert_eq!(session_of(GOOD, None).await, Ok(KeyHash::of("k")));
    assert_eq!(session_of(&[], Some("x_key=k&access_token=k")).await, Ok(KeyHash::of("k")));
    assert_eq!(session_of(GOOD, Some("x_key=k")).await, Err(Reason::AmbiguousCredentials));
    assert_eq!(session_of(&[], None).await, Err(Reason::NoToken));
    assert_eq!(session_of(&[("x-access-token", &scene.domain_token)], None).await, Err(Reason::NoKey));
}
