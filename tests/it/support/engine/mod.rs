//! A stand-in for the Webitel engine and its CDR/storage server, written from the facts known of them, holes included:
//! it reads credentials from a body before a query before headers, matches paths as Express does, runs WebSocket
//! commands before anyone has logged in, and asks of each route what the real one asks. It shares no code and no rule
//! with the gateway.

mod acl;
mod pages;
mod routes;
mod sockets;

pub use routes::{Row, rows};

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::gateway::{Prepared, TestGateway};
use super::jwt;
use super::session::Session;
use super::settings::{PASSWORD, SECRET, Settings};
use super::wire::{Body, Head, Wire};

/// Both servers, on one state as the real ones are on one database.
pub struct Engine {
    pub engine: Server,
    pub cdr: Server,
    pub state: Arc<State>,
}

pub struct Server {
    pub addr: SocketAddr,
    task: JoinHandle<()>,
}

/// What the engine knows and has seen.
#[derive(Default)]
pub struct State {
    pub users: Mutex<HashMap<String, User>>,
    pub roles: Mutex<HashMap<String, Role>>,
    pub sessions: Mutex<HashMap<String, Known>>,
    pub tokens: Mutex<HashMap<String, Token>>,
    pub seen: Mutex<Vec<Seen>>,
    /// Commands that came over WebSockets, and who was logged in there.
    pub commands: Mutex<Vec<(String, Option<String>)>>,
    /// How many of `seen` a gateway passed on.
    pub forwarded: AtomicUsize,
    pub whoamis: AtomicUsize,
    /// Keys about which no question is taken, and the status instead.
    pub refused: Mutex<HashMap<String, u16>>,
    pub logins: AtomicUsize,
    /// Connections are dropped without an answer.
    pub away: AtomicBool,
    /// A field that was no string brought the process down.
    pub crashed: AtomicBool,
    next: AtomicUsize,
}

#[derive(Clone)]
pub struct User {
    pub role: String,
    /// Asked for as `?code=`.
    pub code: Option<String>,
}

#[derive(Clone, Default)]
pub struct Role {
    pub parent: Option<String>,
    pub allow: BTreeMap<String, Vec<String>>,
}

#[derive(Clone)]
pub struct Known {
    pub token: String,
    pub user: String,
    pub role: String,
    pub expires: u64,
}

#[derive(Clone)]
pub struct Token {
    pub domain: String,
    pub role: String,
}

/// One request as it came, and who the engine took its sender for.
#[derive(Clone, Debug)]
pub struct Seen {
    pub target: String,
    pub head: Head,
    pub caller: Option<String>,
}

impl Engine {
    /// With the built-in roles, two of an operator's own, and a user for each: `root`, and `admin`, `user`, `op` and
    /// `sub` of `example.org`.
    pub async fn start() -> Self {
        let state = Arc::new(State::default());
        *state.roles.lock().unwrap() = acl::roles();
        for name in ["root", "admin@example.org", "user@example.org", "op@example.org", "sub@example.org"] {
            let role = name.split('@').next().unwrap().to_owned();
            state.users.lock().unwrap().insert(name.to_owned(), User { role, code: None });
        }
        let engine = Server::start(&state, false).await;
        let cdr = Server::start(&state, true).await;
        Self { engine, cdr, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.engine.addr)
    }

    /// A gateway in front of both, with the shipped routes of this name: logins are the engine's, its sessions adopted.
    pub async fn gateway(&self, policy: &str, change: impl FnOnce(&mut Settings)) -> TestGateway {
        let prepared = Prepared::new(|settings| {
            settings.webitel(policy);
            settings.set("upstreams.engine.servers", &format!("['http://{}']", self.engine.addr));
            settings.set("upstreams.cdr.servers", &format!("['http://{}']", self.cdr.addr));
            settings.unset("directory.file");
            settings.unset("login.cdr");
            settings.set("directory.webitel", &format!("{{ url = '{}' }}", self.url()));
            settings.set("sessions.adopt.url", &format!("'{}'", self.url()));
            settings.set("sessions.adopt.max_lookups_per_second", "100000");
            settings.set("cors.allow_origins", "['*']");
            change(settings);
        });
        TestGateway::run(prepared).await
    }

    /// A session that nobody logged in for through a gateway.
    pub fn session(&self, user: &str) -> Session {
        let role = self.state.users.lock().unwrap()[user].role.clone();
        let answer = self.state.make_session(user, &role);
        Session::of(answer)
    }

    /// A domain token of the engine's own.
    pub fn domain_token(&self, id: &str, domain: &str, role: &str) -> String {
        let token = Token { domain: domain.to_owned(), role: role.to_owned() };
        self.state.tokens.lock().unwrap().insert(id.to_owned(), token);
        jwt::domain_token(id, domain, jwt::now() + 3_600_000, SECRET)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Requests that a gateway passed on: those that it makes by itself carry no id.
    pub fn forwarded(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.head.has("x-request-id")).collect()
    }

    pub fn whoamis(&self) -> usize {
        self.state.whoamis.load(Ordering::SeqCst)
    }

    pub fn knows(&self, session: &Session) -> bool {
        self.state.sessions.lock().unwrap().contains_key(&session.key)
    }

    pub fn set_away(&self, away: bool) {
        self.state.away.store(away, Ordering::SeqCst);
    }
}

impl State {
    fn note(&self, seen: Seen) {
        self.forwarded.fetch_add(usize::from(seen.head.has("x-request-id")), Ordering::SeqCst);
        self.seen.lock().unwrap().push(seen);
    }

    /// The whole login answer.
    fn make_session(&self, user: &str, role: &str) -> Value {
        let number = self.next.fetch_add(1, Ordering::SeqCst);
        let key = format!("00000000-0000-4000-8000-{number:012}");
        let acl = acl::merged(&self.roles.lock().unwrap(), role);
        let expires = jwt::now() + 8_640_000_000;
        let claimed: BTreeMap<_, _> = acl.iter().filter(|(name, _)| name.starts_with("cdr")).collect();
        let token = jwt::sign(jwt::HEADER, &json!({"exp": expires, "acl": claimed}).to_string(), SECRET);
        let known = Known { token: token.clone(), user: user.to_owned(), role: role.to_owned(), expires };
        self.sessions.lock().unwrap().insert(key.clone(), known);
        let mut answer = json!({
            "key": key, "username": user, "expires": expires, "token": token, "role": acl::number(role),
            "roleName": role, "acl": acl, "cdr": {"host": "http://storage:10023", "useProxy": "true"},
            "verto": "wss://engine/verto"
        });
        if let Some((_, domain)) = user.split_once('@') {
            answer["domain"] = domain.into();
        }
        answer
    }
}

impl Server {
    async fn start(state: &Arc<State>, is_cdr: bool) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::clone(state);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&state), is_cdr));
            }
        });
        Self { addr, task }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request and what the body parser made of its body.
struct Request {
    method: String,
    target: String,
    head: Head,
    json: Value,
}

impl Request {
    fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A parameter of the query, its escapes read; the last of several.
    fn query(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let decode = |text: &str| percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned();
        let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(|(n, _)| decode(n) == name).map(|(_, value)| decode(value)).next_back()
    }

    /// Body, then query, then header: each credential by itself.
    fn credential(&self, name: &str, header: &str) -> Value {
        let body = &self.json[name];
        if !body.is_null() {
            return body.clone();
        }
        let other = self.query(name).or_else(|| self.head.all(header).first().map(|v| (*v).to_owned()));
        other.map_or(Value::Null, Value::String)
    }
}

async fn serve(stream: TcpStream, state: Arc<State>, is_cdr: bool) {
    let mut wire = Wire::new(stream);
    while let Ok(Some(head)) = wire.head().await {
        if state.away.load(Ordering::SeqCst) {
            return;
        }
        let mut words = head.start.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if head.one("upgrade").is_some_and(|protocol| protocol.eq_ignore_ascii_case("websocket")) {
            sockets::serve(&mut wire, &head, &target, &state).await;
            return;
        }
        let mut body = Body::default();
        if wire.body(head.framing().0, &mut body).await.is_err() {
            return;
        }
        let is_json =
            head.one("content-type").is_some_and(|t| t.to_lowercase().starts_with("application/json"));
        let (parsed, broken) = match serde_json::from_slice::<Value>(&body.bytes) {
            Ok(value) if is_json => (value, false),
            Err(_) if is_json && !body.bytes.is_empty() => (Value::Null, true),
            _ => (Value::Null, false),
        };
        let request = Request { method, target, head, json: parsed };
        let page = if broken {
            pages::Page::new(400, json!({"status": "error", "info": "Unexpected token"}))
        } else {
            pages::page(&request, &state, is_cdr)
        };
        let Some(page) = page.known() else { return };
        state.note(Seen { target: request.target.clone(), head: request.head.clone(), caller: page.caller });
        let text = page.body.to_string();
        let answer = format!(
            "HTTP/1.1 {} Engine\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{}",
            page.status,
            text.len(),
            if request.method == "HEAD" { "" } else { &text }
        );
        if wire.send(answer).await.is_err() {
            return;
        }
    }
}

fn is_password(given: &Value) -> bool {
    given.as_str() == Some(PASSWORD)
}
