//! The real binary with a configuration of its own, in a folder of its own, on ports of its own.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::TestUpstream;
use super::http::{Answer, request, send};

pub(crate) const PASSWORD: &str = "correct horse";

pub(crate) struct TestGateway {
    folder: tempfile::TempDir,
    child: Child,
    pub(crate) http: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// What a login gave.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) key: String,
    pub(crate) token: String,
}

impl Session {
    pub(crate) fn headers(&self) -> [(&str, &str); 2] {
        [("X-Access-Token", &self.token), ("X-Key", &self.key)]
    }
}

impl TestGateway {
    /// Users `reader@d`, `owner@d` and `root` with [`PASSWORD`], before `upstream`.
    pub(crate) fn start(upstream: &TestUpstream) -> Self {
        Self::start_with(upstream, "")
    }

    /// With `more` at the end of its configuration.
    pub(crate) fn start_with(upstream: &TestUpstream, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (http, admin) = (free(), free());
        write(folder.path(), http, admin, upstream.addr, more);
        let child = spawn(folder.path());
        let mut gateway = Self { folder, child, http, admin };
        gateway.wait_ready();
        gateway
    }

    pub(crate) fn send(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        send(self.http, &request(method, target, headers, ""))
    }

    pub(crate) fn login_raw(&self, body: &str) -> Answer {
        send(self.http, &request("POST", "/login", &[("Content-Type", "application/json")], body))
    }

    pub(crate) fn login(&self, user: &str) -> Session {
        let answer = self.login_raw(&format!(r#"{{"username":"{user}","password":"{PASSWORD}"}}"#));
        assert_eq!(answer.status, 200, "login of {user}");
        let text = |name: &str| answer.json()[name].as_str().unwrap().to_owned();
        Session { key: text("key"), token: text("token") }
    }

    /// Ends it without a warning, as the kernel would, and starts it again.
    pub(crate) fn kill_and_restart(&mut self) {
        self.restart_with(|_| {});
    }

    /// As [`Self::kill_and_restart`], with the user file changed between.
    pub(crate) fn restart_with(&mut self, change: impl FnOnce(&mut String)) {
        let path = self.folder.path().join("users.toml");
        let mut users = std::fs::read_to_string(&path).unwrap();
        change(&mut users);
        std::fs::write(&path, users).unwrap();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.folder.path());
        self.wait_ready();
    }

    /// SIGTERM; its exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }

    fn wait_ready(&mut self) {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("the gateway ended: {status}");
            }
            if std::net::TcpStream::connect(self.admin).is_ok()
                && send(self.admin, &request("GET", "/readyz", &[], "")).status == 200
            {
                return;
            }
            std::thread::yield_now();
        }
        panic!("the gateway is not ready");
    }
}

impl Drop for TestGateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(folder: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_postern"))
        .args(["run", "--config"])
        .arg(folder.join("postern.toml"))
        .env_clear()
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn a1(user: &str) -> String {
    use md5::Digest;
    let (name, domain) = user.split_once('@').unwrap_or((user, ""));
    let digest = md5::Md5::digest(format!("{name}:{domain}:{PASSWORD}"));
    digest.iter().map(|b| format!("{b:02x}")).collect()
}

fn write(folder: &Path, http: SocketAddr, admin: SocketAddr, upstream: SocketAddr, more: &str) {
    let users = [("reader@d", "reader"), ("owner@d", "owner"), ("root", "root")]
        .map(|(name, role)| format!("[users.\"{name}\"]\na1 = \"{}\"\nrole = \"{role}\"\n", a1(name)))
        .concat();
    std::fs::write(folder.join("users.toml"), users).unwrap();
    std::fs::write(folder.join("token.key"), "the key of the tests\n").unwrap();
    let text = format!(
        r#"
listen = {{ http = "{http}", admin = "{admin}" }}
token = {{ secret_file = "token.key", claims = ["cdr"] }}
directory = {{ file = "users.toml" }}
sessions = {{ file = "sessions.db" }}
[upstreams.up]
servers = ["http://{upstream}"]
response_timeout = "2s"
[roles.reader]
number = 5
allow = {{ "cdr" = ["r"] }}
[roles.owner]
allow = {{ "account" = ["ro"] }}
[roles.root]
number = 2
inherits = ["reader"]
allow = {{ "cdr" = ["*"], "account" = ["*"] }}
[[routes]]
path = "/cdr"
resource = "cdr"
upstream = "up"
[[routes]]
path = "/accounts/{{user}}"
resource = "account"
own = "user@caller"
upstream = "up"
[[routes]]
path = "/public"
access = "public"
upstream = "up"
[[routes]]
path = "/closed"
access = "deny"
{more}
"#
    );
    std::fs::write(folder.join("postern.toml"), text).unwrap();
}
