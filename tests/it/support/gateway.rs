//! The real binary with a configuration of its own, in a folder of its own, on ports of its own.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Output;

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::answer::Answer;
use super::ask::Ask;
use super::client::TestClient;
use super::ports::{Port, connected};
use super::process::{Lines, Process, run_to_end};
use super::session::Session;
use super::settings::{DOMAIN, PASSWORD, Settings};
use super::tls::{Authority, Offer};
use super::upstream::TestUpstream;
use super::wait::{until, within};

/// In the order of the ports.
const LISTENERS: [&str; 5] = ["http", "https", "admin", "authz", "ext_authz"];

/// A configuration written to a folder, not running yet.
pub struct Prepared {
    pub folder: TempDir,
    pub settings: Settings,
    pub authority: Authority,
    pub env: Vec<(String, String)>,
    /// What a shell does before it becomes the gateway.
    pub before: Option<&'static str>,
    ports: [Port; 5],
}

/// A running gateway; killed when the test ends.
pub struct TestGateway {
    prepared: Prepared,
    process: Process,
    lines: Lines,
}

impl Prepared {
    /// The usual configuration, changed by the test.
    pub fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let authority = Authority::new();
        let leaf = authority.server(&["localhost", DOMAIN, "127.0.0.1"]);
        let mut settings = Settings::default();
        settings.file("gateway.crt", leaf.certificate.as_bytes());
        settings.file("gateway.key", leaf.key.as_bytes());
        settings.set("upstreams.engine.servers", "['http://127.0.0.1:1']");
        let mut prepared = Self {
            folder: TempDir::new().unwrap(),
            settings,
            authority,
            env: Vec::new(),
            before: None,
            ports: std::array::from_fn(|_| Port::claim()),
        };
        prepared.set_ports();
        change(&mut prepared.settings);
        prepared.settings.write(prepared.folder.path());
        prepared
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("postern.toml")
    }

    /// Runs `postern COMMAND --config FILE` to its end.
    pub fn call(&self, command: &str) -> Output {
        let config = self.config();
        run_to_end(&[command, "--config", config.to_str().unwrap()], &self.env)
    }

    fn start(&self, lines: &Lines) -> Process {
        Process::run_after(self.before, &self.config(), &self.env, lines)
    }

    fn set_ports(&mut self) {
        for (listener, port) in LISTENERS.iter().zip(&self.ports) {
            self.settings.set(&format!("listen.{listener}"), &format!("'{}'", port.addr()));
        }
    }

    /// To ports of their own again; what the test has made of the listeners besides stays.
    fn move_ports(&mut self) {
        self.ports = std::array::from_fn(|_| Port::claim());
        for (listener, port) in LISTENERS.iter().zip(&self.ports) {
            let key = format!("listen.{listener}");
            if let Some(set) = self.settings.address_of(&key) {
                let moved = std::net::SocketAddr::new(set.ip(), port.addr().port());
                self.settings.set(&key, &format!("'{moved}'"));
            }
        }
    }
}

impl TestGateway {
    /// The usual configuration in front of this upstream.
    pub async fn start(upstream: &TestUpstream) -> Self {
        Self::configured(upstream, |_| {}).await
    }

    /// The usual configuration in front of this upstream, changed by the test.
    pub async fn configured(upstream: &TestUpstream, change: impl FnOnce(&mut Settings)) -> Self {
        let url = upstream.url();
        Self::run(Prepared::new(|settings| {
            settings.set("upstreams.engine.servers", &format!("['{url}']"));
            change(settings);
        }))
        .await
    }

    /// Starts what was prepared and waits for no more than the operator's listener.
    pub async fn run_unready(prepared: Prepared) -> Self {
        let lines = Lines::default();
        let process = prepared.start(&lines);
        let admin = prepared.ports[2].addr();
        super::wait::until_async("the operator's listener", || async move { connected(admin).await.is_ok() })
            .await;
        Self { prepared, process, lines }
    }

    /// Starts what was prepared; on ports of the next attempt when another program was faster.
    pub async fn run(mut prepared: Prepared) -> Self {
        let lines = Lines::default();
        for _ in 0..5 {
            let mut process = prepared.start(&lines);
            if ready(&mut process, prepared.ports[2].addr()).await {
                return Self { prepared, process, lines };
            }
            let output = output(&lines);
            assert!(output.to_lowercase().contains("in use"), "the gateway did not start:\n{output}");
            prepared.move_ports();
            prepared.settings.write(prepared.folder.path());
        }
        panic!("no free ports in five attempts");
    }

    pub fn http(&self) -> SocketAddr {
        self.prepared.ports[0].addr()
    }

    pub fn https(&self) -> SocketAddr {
        self.prepared.ports[1].addr()
    }

    pub fn admin(&self) -> SocketAddr {
        self.prepared.ports[2].addr()
    }

    pub fn authz(&self) -> SocketAddr {
        self.prepared.ports[3].addr()
    }

    pub fn ext_authz(&self) -> SocketAddr {
        self.prepared.ports[4].addr()
    }

    pub fn authority(&self) -> &Authority {
        &self.prepared.authority
    }

    pub fn settings(&self) -> &Settings {
        &self.prepared.settings
    }

    pub fn folder(&self) -> &std::path::Path {
        self.prepared.folder.path()
    }

    /// A new connection to the plain listener.
    pub async fn client(&self) -> TestClient {
        TestClient::connect(self.http()).await
    }

    /// A new HTTP/1.1 connection to the TLS listener.
    pub async fn tls_client(&self) -> TestClient {
        let offer = Offer { alpn: &["http/1.1"], ..Offer::default() };
        TestClient::over(self.authority().connect(self.https(), &offer).await.expect("a handshake"))
    }

    /// One request on a connection of its own.
    pub async fn ask(&self, ask: Ask) -> Answer {
        self.client().await.ask(&ask).await
    }

    /// One request from another address of the loopback network.
    pub async fn ask_from(&self, source: [u8; 4], ask: Ask) -> Answer {
        TestClient::connect_from(source.into(), self.http()).await.ask(&ask).await
    }

    /// One request on a connection of its own that may be closed without an answer.
    pub async fn try_raw(&self, bytes: impl AsRef<[u8]>) -> Option<Answer> {
        let mut client = self.client().await;
        client.send(bytes).await;
        client.try_answer().await
    }

    /// On the operator's listener.
    pub async fn admin_ask(&self, ask: Ask) -> Answer {
        TestClient::connect(self.admin()).await.ask(&ask).await
    }

    /// Logs a user of [`DOMAIN`] in; a name with `@` is taken as it is.
    pub async fn login(&self, user: &str) -> Session {
        let answer = self.ask(Ask::login(&full_name(user), PASSWORD)).await;
        assert_eq!(answer.status, 200, "login of {user}: {}", answer.brief());
        Session::of(answer.json())
    }

    /// Asserts that the session is good for `authenticated` routes, or is not.
    pub async fn knows(&self, session: &Session) -> bool {
        let answer = self.ask(Ask::get("/me/known").with(session)).await;
        match answer.status {
            200 => true,
            401 => {
                answer.assert_refusal(401, "Invalid User");
                false
            }
            _ => panic!("neither known nor unknown: {}", answer.brief()),
        }
    }

    /// Everything it has written so far, of every run.
    pub fn output(&self) -> String {
        output(&self.lines)
    }

    /// The access-log line of the only request for this path.
    pub async fn access_line(&self, path: &str) -> Value {
        self.access_line_where("the access line of a request", |line| line["path"] == path).await
    }

    /// The first access-log line that fits.
    pub async fn access_line_where(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        until(what, || self.access_lines().into_iter().find(|line| fits(line))).await
    }

    pub fn access_lines(&self) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        let values = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        values
            .filter(|line| ["method", "path", "status"].iter().all(|name| line.get(name).is_some()))
            .collect()
    }

    /// Ends it as a power cut would.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again with the same files and ports. While it was away, a connection of another test may have been given
    /// one of the ports; that one is waited for.
    pub async fn restart(&mut self) {
        self.process.kill9();
        let addr = self.admin();
        let started = async {
            loop {
                let told = self.output().len();
                self.process = self.prepared.start(&self.lines);
                if ready(&mut self.process, addr).await {
                    return;
                }
                let said =
                    || self.output().get(told..).filter(|said| said.contains("postern: ")).map(str::to_owned);
                let why = until("why it did not start again", said).await;
                assert!(why.contains("Address already in use"), "it did not start again:\n{why}");
            }
        };
        within("its ports to be free again", started).await;
    }

    /// Ends it, changes its files and starts it again.
    pub async fn restart_with(&mut self, change: impl FnOnce(&mut Settings)) {
        self.process.kill9();
        change(&mut self.prepared.settings);
        self.prepared.settings.write(self.prepared.folder.path());
        self.restart().await;
    }

    /// Changes its files; the gateway is not told.
    pub fn change(&mut self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.prepared.settings);
        self.prepared.settings.write(self.prepared.folder.path());
    }

    /// Changes its files and has it read them.
    pub async fn reload_with(&mut self, change: impl FnOnce(&mut Settings)) -> Answer {
        self.change(change);
        self.admin_ask(Ask::post("/reload")).await
    }

    /// Which configuration runs, counted from 1.
    pub async fn generation(&self) -> u64 {
        self.admin_ask(Ask::get("/config")).await.json()["generation"].as_u64().unwrap()
    }

    /// The sum of a metric's samples that hold all of these.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.admin_ask(Ask::get("/metrics")).await.text();
        let of_name = |line: &&str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']));
        let fits = |line: &&str| labels.iter().all(|label| line.contains(label));
        let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
        text.lines().filter(of_name).filter(fits).filter_map(value).sum()
    }

    /// Runs `postern ARGS... --config FILE` to its end.
    pub fn call(&self, args: &[&str]) -> Output {
        let config = self.prepared.config();
        let args: Vec<_> = args.iter().copied().chain(["--config", config.to_str().unwrap()]).collect();
        run_to_end(&args, &self.prepared.env)
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// What the system tells of the process: a file of its folder below `/proc`.
    pub fn proc_file(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.process.id())).unwrap()
    }

    /// Bytes of its memory that are in use.
    pub fn resident(&self) -> u64 {
        let status = self.proc_file("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    pub fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Starts it again, to end by itself: what it says in vain, and how it ended.
    pub async fn refuses_to_start(&mut self) -> (i32, String) {
        self.process.kill9();
        let lines = Lines::default();
        self.process = self.prepared.start(&lines);
        let code = self.process.exit_code().await;
        until("its last word", || output(&lines).contains("postern: ").then_some(())).await;
        (code, output(&lines))
    }

    pub async fn exit_code(&mut self) -> i32 {
        self.process.exit_code().await
    }

    /// SIGTERM, and the exit code it ends with.
    pub async fn terminate(&mut self) -> i32 {
        self.signal(Signal::TERM);
        self.exit_code().await
    }

    pub fn has_exited(&mut self) -> bool {
        self.process.exited().is_some()
    }
}

/// `100` is `100@example.org`; `root` has no domain.
pub fn full_name(user: &str) -> String {
    if user.contains('@') || user == "root" { user.to_owned() } else { format!("{user}@{DOMAIN}") }
}

/// Whether it answered 200 at `/readyz` before it exited.
async fn ready(process: &mut Process, admin: SocketAddr) -> bool {
    within("the gateway to be ready", async {
        loop {
            if process.exited().is_some() {
                return false;
            }
            if says_ready(admin).await.unwrap_or(false) {
                return true;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
}

/// Another program may have been faster to take the port, and speak whatever it likes.
async fn says_ready(admin: SocketAddr) -> std::io::Result<bool> {
    let mut stream = connected(admin).await?;
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.take(1024).read_to_end(&mut answer).await?;
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
}

fn output(lines: &Lines) -> String {
    lines.lock().unwrap().join("\n")
}
