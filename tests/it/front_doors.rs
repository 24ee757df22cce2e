//! One corpus through five front doors: postern itself, and nginx, Caddy and Envoy (over HTTP and over gRPC) that ask it,
//! configured by the files of `deploy/ingress`. Verdicts and identities are the same through all.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use crate::support::{Answer, Ask, Peer, Session, TestClient, TestGateway, TestUpstream};

/// What became of a request, as far as it can be the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    /// It reached the backend, which was told this of the caller.
    Allowed(BTreeMap<String, String>),
    Unauthenticated,
    /// 400 of a server that reads the path itself, else 403.
    Refused,
}

impl Verdict {
    fn of(answer: &Answer, method: &str) -> Self {
        match answer.status {
            200 if method == "HEAD" => Self::Allowed(BTreeMap::new()),
            200 => Self::Allowed(identity(answer)),
            401 => Self::Unauthenticated,
            400 | 403 => Self::Refused,
            _ => panic!("{}", answer.brief()),
        }
    }
}

/// The fields by which the backend was told who calls. An empty one is none.
fn identity(answer: &Answer) -> BTreeMap<String, String> {
    let seen = answer.json();
    let fields = seen["fields"].as_array().expect("the backend's echo");
    let pair = |field: &serde_json::Value| {
        let text = |at: usize| field[at].as_str().map(str::to_lowercase);
        Some((text(0)?.replace('_', "-"), text(1)?))
    };
    let fields = fields.iter().filter_map(pair).filter(|(_, value)| !value.is_empty());
    fields.filter(|(name, _)| name.starts_with("x-webitel-") || name.starts_with("x-postern-")).collect()
}

/// A file of `deploy/ingress` with this scene's addresses in place of its own.
fn deployed(file: &str, own: SocketAddr, gateway: &TestGateway, backend: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/ingress");
    let mut text = std::fs::read_to_string(folder.join(file)).unwrap();
    let places = [
        (8000, own.to_string()),
        (8080, gateway.http().to_string()),
        (8081, gateway.authz().to_string()),
        (8082, gateway.ext_authz().to_string()),
        (10022, backend.to_owned()),
    ];
    for (port, place) in places {
        let port_there = place.rsplit(':').next().unwrap();
        text = text.replace(&format!("127.0.0.1:{port}"), &place);
        text = text.replace(&format!("http://:{port}"), &format!("http://:{port_there}"));
        text = text.replace(&format!("port_value: {port}}}"), &format!("port_value: {port_there}}}"));
    }
    text
}

async fn nginx(gateway: &TestGateway, backend: &str) -> Option<Peer> {
    Peer::start("nginx", |folder, own| {
        let server = deployed("nginx.conf", own, gateway, backend);
        let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temp: String = temp.iter().map(|kind| format!("{kind}_temp_path {kind};\n")).collect();
        let whole = format!(
            "daemon off;\nmaster_process off;\npid nginx.pid;\nevents {{}}\nhttp {{\naccess_log off;\n{temp}{server}}}\n"
        );
        std::fs::write(folder.join("nginx.conf"), whole).unwrap();
        ["-p", folder.to_str().unwrap(), "-c", "nginx.conf", "-e", "error.log"].map(str::to_owned).to_vec()
    })
    .await
}

async fn caddy(gateway: &TestGateway, backend: &str) -> Option<Peer> {
    Peer::start("caddy", |folder, own| {
        std::fs::write(folder.join("Caddyfile"), deployed("Caddyfile", own, gateway, backend)).unwrap();
        ["run", "--config", "Caddyfile", "--adapter", "caddyfile"].map(str::to_owned).to_vec()
    })
    .await
}

async fn envoy(file: &str, gateway: &TestGateway, backend: &str) -> Option<Peer> {
    Peer::start("envoy", |folder, own| {
        std::fs::write(folder.join("envoy.yaml"), deployed(file, own, gateway, backend)).unwrap();
        let args = ["-c", "envoy.yaml", "--concurrency", "1", "--disable-hot-restart", "-l", "error"];
        args.map(str::to_owned).to_vec()
    })
    .await
}

/// The five, by name. Those whose program is not installed are left out.
async fn doors(gateway: &TestGateway, backend: &str) -> Vec<(&'static str, SocketAddr, Option<Peer>)> {
    let (nginx, caddy, http, grpc) = tokio::join!(
        nginx(gateway, backend),
        caddy(gateway, backend),
        envoy("envoy-http.yaml", gateway, backend),
        envoy("envoy-grpc.yaml", gateway, backend)
    );
    let asking = [("nginx", nginx), ("Caddy", caddy), ("Envoy over HTTP", http), ("Envoy over gRPC", grpc)];
    let asking = asking.into_iter().filter_map(|(name, peer)| {
        let peer = peer?;
        Some((name, peer.addr(), Some(peer)))
    });
    [("postern", gateway.http(), None)].into_iter().chain(asking).collect()
}

const PATHS: [&str; 34] = [
    "/me",
    "/ME/",
    "/me/x?a=%2F&b",
    "/%6de",
    "/me//x",
    "/me/./x",
    "/x/../me",
    "/me/..",
    "/me/../nowhere",
    "/me/%2e%2e/public",
    "/me%2fx",
    "/me%5cx",
    "/me;x=1/y",
    "/me%3bx",
    "/me%00",
    "/me%0a",
    "/me%252fx",
    "/me%25z",
    "/me/%C3%BC",
    "/me/%c0%af",
    "/public",
    "/public/../me",
    "/PUBLIC/../api/v2/vault",
    "/publicly",
    "/closed",
    "/closed/x",
    "/nowhere",
    "/api/v2/cdr",
    "/API/v2/Cdr/1/",
    "/api/v2//cdr/1",
    "/api/v2/cdrs",
    "/api/v2/vault/1",
    "/api/v2/cdr/../vault",
    "/",
];

/// Paths for which all methods are tried.
const ROUTES: [&str; 4] = ["/me", "/public", "/api/v2/cdr/1", "/api/v2/vault"];

const METHODS: [&str; 7] = ["HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PURGE"];

/// Callers: what they present, by name.
struct Callers {
    admin: Session,
    user: Session,
    idle: Session,
    ended: Session,
    domain_token: String,
}

impl Callers {
    async fn of(gateway: &TestGateway) -> Self {
        let mint = Ask::post("/domains/example.org/tokens")
            .json(&serde_json::json!({"role": "user", "expires": "2100-01-01T00:00:00Z"}));
        let minted = gateway.admin_ask(mint).await.json();
        let callers = Self {
            admin: gateway.login("admin").await,
            user: gateway.login("100").await,
            idle: gateway.login("idle").await,
            ended: gateway.login("200").await,
            domain_token: minted["token"].as_str().unwrap().to_owned(),
        };
        gateway.ask(Ask::post("/logout").with(&callers.ended)).await.assert_ok();
        callers
    }

    fn usual(&self) -> Vec<Vec<(&'static str, String)>> {
        let both =
            |token: &str, key: &str| vec![("X-Access-Token", token.to_owned()), ("X-Key", key.to_owned())];
        vec![
            vec![],
            both(&self.admin.token, &self.admin.key),
            both(&self.user.token, &self.user.key),
            both(&self.idle.token, &self.idle.key),
            vec![("X-Access-Token", self.domain_token.clone())],
        ]
    }

    /// What is presented wrongly, in doubt, or twice.
    fn odd(&self) -> Vec<Vec<(&'static str, String)>> {
        let (admin, user) = (&self.admin, &self.user);
        let token = |token: &str| ("X-Access-Token", token.to_owned());
        let key = |key: &str| ("X-Key", key.to_owned());
        vec![
            vec![token(&admin.token)],
            vec![key(&admin.key)],
            vec![token(&admin.token), key(&user.key)],
            vec![token(&self.ended.token), key(&self.ended.key)],
            vec![token("x.y.z"), key(&admin.key)],
            vec![token(&admin.token), key("00000000-0000-4000-8000-000000000000")],
            vec![token(&admin.token), key(&admin.key), key(&admin.key)],
            vec![token(&admin.token), token(&user.token), key(&user.key)],
            vec![token(&self.domain_token), key(&admin.key)],
            vec![token(&format!("{}x", self.domain_token))],
            vec![token(""), key("")],
            vec![token(&admin.token.to_uppercase()), key(&admin.key)],
            vec![("X_Access_Token", admin.token.clone()), ("X_Key", admin.key.clone())],
            vec![token(&user.token), key(&user.key), ("X-Original-URI", "/public".to_owned())],
            vec![token(&user.token), key(&user.key), ("X-Forwarded-Uri", "/public".to_owned())],
            vec![token(&user.token), key(&user.key), ("X-HTTP-Method-Override", "DELETE".to_owned())],
            vec![token(&user.token), key(&user.key), ("X-Webitel-User", "admin@example.org".to_owned())],
        ]
    }

    /// Queries that carry credentials.
    fn queries(&self) -> Vec<String> {
        let user = &self.user;
        vec![
            format!("?access_token={}&x_key={}", user.token, user.key),
            format!("?a=1&x_key={}&access_token={}&b", user.key, user.token),
            format!("?access_token={}", self.domain_token),
            format!("?access_token={}&x_key[]={}", user.token, user.key),
            format!("?access_token={}&x_key={}&x_key={}", user.token, user.key, user.key),
            format!("?access_token={}&x%5Fkey={}", user.token, user.key),
            "?access_token=&x_key=".to_owned(),
            "?access_token=x".to_owned(),
        ]
    }
}

/// Every request of the corpus. All of them claim to be somebody.
fn corpus(callers: &Callers) -> Vec<Ask> {
    let build = |method: &str, target: &str, fields: &[(&'static str, String)]| {
        let ask = Ask::new(method, target).header("X-Webitel-Role", "root").header("X-Postern-Scope", "all");
        fields.iter().fold(ask, |ask, (name, value)| ask.header(name, value))
    };
    let mut corpus = Vec::new();
    for caller in callers.usual() {
        corpus.extend(PATHS.iter().map(|path| build("GET", path, &caller)));
        for route in ROUTES {
            corpus.extend(METHODS.iter().map(|method| build(method, route, &caller)));
        }
    }
    for odd in callers.odd() {
        corpus.extend(["/me", "/public", "/api/v2/cdr/1"].map(|path| build("GET", path, &odd)));
    }
    for query in callers.queries() {
        corpus.extend(
            ["/me", "/public", "/api/v2/vault"].map(|path| build("GET", &format!("{path}{query}"), &[])),
        );
    }
    corpus
}

async fn ask_all(door: SocketAddr, corpus: &[Ask]) -> Vec<Verdict> {
    let mut verdicts = Vec::with_capacity(corpus.len());
    for ask in corpus {
        // A connection each: a server that refuses a request itself may close it.
        let answer = TestClient::connect(door).await.ask(ask).await;
        verdicts.push(Verdict::of(&answer, &ask.method));
    }
    verdicts
}

#[tokio::test]
async fn verdicts_and_identities_are_the_same_through_all() {
    let upstream = TestUpstream::start().await;
    let gateway = TestGateway::start(&upstream).await;
    let callers = Callers::of(&gateway).await;
    let corpus = corpus(&callers);
    assert!(corpus.len() >= 300, "{} requests", corpus.len());
    let url = upstream.url();
    let doors = doors(&gateway, url.trim_start_matches("http://")).await;

    let asked = doors.iter().map(|(_, door, _)| ask_all(*door, &corpus));
    let verdicts = futures_util::future::join_all(asked).await;
    let mut differ = Vec::new();
    for ((name, _, _), theirs) in doors.iter().zip(&verdicts).skip(1) {
        for ((ask, ours), theirs) in corpus.iter().zip(&verdicts[0]).zip(theirs) {
            if ours != theirs {
                let ask = String::from_utf8_lossy(&ask.bytes()).replace("\r\n", " | ");
                differ.push(format!("{name}: {theirs:?}, postern: {ours:?}\n  {ask}"));
            }
        }
    }
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
    for all in [Verdict::Unauthenticated, Verdict::Refused] {
        let count = verdicts[0].iter().filter(|verdict| **verdict == all).count();
        assert!(count >= 20, "{count} of {all:?} alone: the corpus shows too little");
    }
    println!("{} requests through {} doors", corpus.len(), doors.len());
}

#[tokio::test]
async fn logins_pass_by_the_ingress_to_postern() {
    let upstream = TestUpstream::start().await;
    let gateway = TestGateway::start(&upstream).await;
    let url = upstream.url();
    for (name, door, _peer) in doors(&gateway, url.trim_start_matches("http://")).await {
        for path in ["/login", "/Login/"] {
            let login = Ask::post(path).json(
                &serde_json::json!({"username": "100@example.org", "password": crate::support::PASSWORD}),
            );
            let answer = TestClient::connect(door).await.ask(&login).await;
            assert_eq!(answer.status, 200, "{name}: {}", answer.brief());
            let session = Session::of(answer.json());
            let mut client = TestClient::connect(door).await;
            client.ask(&Ask::get("/me").with(&session)).await.assert_ok();
            client.ask(&Ask::post("/logout").with(&session)).await.assert_ok();
            assert_eq!(client.ask(&Ask::get("/me").with(&session)).await.status, 401, "{name}");
        }
    }
    assert!(upstream.requests().iter().all(|request| request.target == "/me"), "a login reached the backend");
}
