//! One corpus through seven front doors: postern itself, and nginx, ingress-nginx' configuration, Caddy, Traefik and Envoy
//! (over HTTP and over gRPC) that ask it, told to by the files of `deploy`. Verdicts and identities are the same through
//! all.

mod corpus;
mod doors;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::support::{Answer, Ask, Session, TestClient, TestGateway, TestUpstream};
use corpus::{Callers, corpus};
use doors::Door;

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

async fn ask_all(door: SocketAddr, corpus: &[Ask]) -> Vec<Verdict> {
    let mut verdicts = Vec::with_capacity(corpus.len());
    for ask in corpus {
        // A connection each: a server that refuses a request itself may close it.
        let answer = TestClient::connect(door).await.ask(ask).await;
        verdicts.push(Verdict::of(&answer, &ask.method));
    }
    verdicts
}

/// What these doors forward as it was sent: a path with dot segments that is another route's to a server which does not
/// resolve them is refused there. postern itself forwards what it judged, and so does Envoy where it asks over gRPC.
fn may_be_refused(door: &Door, ask: &Ask) -> bool {
    const ELSEWHERE: [&str; 5] =
        ["/x/../me", "/me/..", "/public/../me", "/PUBLIC/../api/v2/vault", "/api/v2/cdr/../vault"];
    door.name != "Envoy over gRPC"
        && ELSEWHERE.iter().any(|path| ask.target.split(|b| *b == b'?').next() == Some(path.as_bytes()))
}

/// Where the others answer differently than postern, the first door.
async fn differences(doors: &[Door], corpus: &[Ask]) -> Vec<String> {
    let asked = doors.iter().map(|door| ask_all(door.addr, corpus));
    let verdicts = futures_util::future::join_all(asked).await;
    let mut differ = Vec::new();
    for (door, theirs) in doors.iter().zip(&verdicts).skip(1) {
        for ((ask, ours), theirs) in corpus.iter().zip(&verdicts[0]).zip(theirs) {
            // Traefik resolves this itself: what it asks about, and forwards, is /public.
            let resolved = door.name == "Traefik" && ask.bytes().starts_with(b"GET /me/%2e%2e/public ");
            let refused = *theirs == Verdict::Refused && may_be_refused(door, ask);
            if ours != theirs && !refused && !(resolved && *theirs == Verdict::Allowed(BTreeMap::new())) {
                let ask = String::from_utf8_lossy(&ask.bytes()).replace("\r\n", " | ");
                differ.push(format!("{}: {theirs:?}, postern: {ours:?}\n  {ask}", door.name));
            }
        }
    }
    for all in [Verdict::Unauthenticated, Verdict::Refused] {
        let count = verdicts[0].iter().filter(|verdict| **verdict == all).count();
        assert!(count >= 20, "{count} of {all:?} alone: the corpus shows too little");
    }
    println!("{} requests through {} doors", corpus.len(), doors.len());
    differ
}

#[tokio::test]
async fn verdicts_and_identities_are_the_same_through_all() {
    let upstream = TestUpstream::start().await;
    let gateway = TestGateway::start(&upstream).await;
    let callers = Callers::of(&gateway).await;
    let corpus = corpus(&callers);
    assert!(corpus.len() >= 300, "{} requests", corpus.len());
    let url = upstream.url();
    let doors = doors::all(&gateway, url.trim_start_matches("http://")).await;
    let differ = differences(&doors, &corpus).await;
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
}

#[tokio::test]
async fn they_are_the_same_through_what_ingress_nginx_makes_of_the_overlay() {
    let upstream = TestUpstream::start().await;
    let gateway = TestGateway::configured(&upstream, |s| s.set("authz.convention", "'nginx'")).await;
    let callers = Callers::of(&gateway).await;
    let url = upstream.url();
    let doors = doors::of_the_controller(&gateway, url.trim_start_matches("http://")).await;
    let differ = differences(&doors, &corpus(&callers)).await;
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
}

/// The ways to write a path that the gateway answers itself.
const LOGINS: [&str; 6] = ["/login", "/Login/", "//login", "/%6cogin", "/x/../login", "/./login"];

/// Those that every server takes for what they are.
const PLAIN_LOGINS: [&str; 3] = ["/login", "/Login/", "//login"];

async fn logs_in_and_out(door: &Door, path: &str) {
    let credentials =
        serde_json::json!({"username": "100@example.org", "password": crate::support::PASSWORD});
    let answer = TestClient::connect(door.addr).await.ask(&Ask::post(path).json(&credentials)).await;
    if door.name == "Envoy over HTTP" && answer.status == 403 {
        assert!(!PLAIN_LOGINS.contains(&path), "{path}");
        return;
    }
    assert_eq!(answer.status, 200, "{} {path}: {}", door.name, answer.brief());
    let session = Session::of(answer.json());
    let mut client = TestClient::connect(door.addr).await;
    client.ask(&Ask::get("/me").with(&session)).await.assert_ok();
    client.ask(&Ask::post("/logout").with(&session)).await.assert_ok();
    assert_eq!(client.ask(&Ask::get("/me").with(&session)).await.status, 401, "{}", door.name);
}

#[tokio::test]
async fn logins_pass_by_the_ingress_to_postern() {
    let upstream = TestUpstream::start().await;
    let gateway = TestGateway::start(&upstream).await;
    let url = upstream.url();
    let backend = url.trim_start_matches("http://");
    for door in doors::all(&gateway, backend).await {
        for path in LOGINS {
            logs_in_and_out(&door, path).await;
        }
    }
    for door in doors::of_the_controller(&gateway, backend).await {
        for path in LOGINS {
            logs_in_and_out(&door, path).await;
        }
    }
    let reached: Vec<_> = upstream.requests().into_iter().map(|request| request.target).collect();
    // Besides, Traefik was asked whether it is there.
    assert!(
        reached.iter().all(|target| target == "/me" || target == "/public"),
        "the backend saw {reached:?}"
    );
}
