//! `postern demo`: the gateway with a certificate, users and a backend of its own, in a folder that is removed at
//! the end, and the curl calls that show it at work. Nothing to prepare, nothing left behind.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::app;
use crate::config::{self, Source};
use crate::directory::password;
use crate::secret::SecretString;
use crate::server::inherited::Inherited;

/// Listens here when the ports are free, else on ports that are.
const HTTPS: u16 = 8443;
const ADMIN: u16 = 9900;

/// Runs the demo until SIGINT or SIGTERM.
pub fn run() -> ExitCode {
    let folder = Folder::new();
    let prepared = folder.and_then(|folder| prepare(&folder).map(|demo| (folder, demo)));
    let (folder, demo) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            eprintln!("postern demo: {error}");
            return ExitCode::FAILURE;
        }
    };
    let source = Source { file: folder.0.join("postern.toml"), env: Vec::new() };
    match config::load(&source) {
        Ok(loaded) => app::run_then(source, loaded, Inherited::default(), || print_calls(&demo)),
        Err(refused) => {
            refused.faults.iter().for_each(|fault| eprintln!("{fault}"));
            ExitCode::FAILURE
        }
    }
}

/// A temporary folder of this process; removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> io::Result<Self> {
        let path = std::env::temp_dir().join(format!("postern-demo-{}", uuid::Uuid::new_v4().simple()));
        // Fails where anything has the name: what is behind a symlink is not written to.
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing of value is in it: should it stay, the system's own clean-up takes it.
        let _: io::Result<()> = fs::remove_dir_all(&self.0);
    }
}

struct Demo {
    https: SocketAddr,
    admin: SocketAddr,
}

fn prepare(folder: &Folder) -> io::Result<Demo> {
    let path = &folder.0;
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])
        .map_err(io::Error::other)?;
    write(path, "gateway.crt", &certified.cert.pem())?;
    write(path, "gateway.key", &certified.signing_key.serialize_pem())?;
    write(path, "token.key", &format!("{}{}", uuid::Uuid::new_v4(), uuid::Uuid::new_v4()))?;
    write(path, "users.toml", &users()?)?;
    let demo = Demo { https: free(HTTPS)?, admin: free(ADMIN)? };
    let backend = start_backend()?;
    write(path, "postern.toml", &configuration(&demo, backend))?;
    Ok(demo)
}

fn write(folder: &Path, name: &str, text: &str) -> io::Result<()> {
    let path = folder.join(name);
    fs::write(&path, text)?;
    restrict(&path, 0o600)
}

fn restrict(path: &Path, mode: u32) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// The wanted port on loopback, or any other that is free.
fn free(wanted: u16) -> io::Result<SocketAddr> {
    let at = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    at(wanted).or_else(|_| at(0))?.local_addr()
}

fn users() -> io::Result<String> {
    let hash = password::hash(&SecretString::from("secret")).map_err(io::Error::other)?;
    let user = |name, role| format!("[users.\"{name}\"]\npassword = \"{hash}\"\nrole = \"{role}\"\n\n");
    Ok(user("100@mydomain.com", "user") + &user("root", "root"))
}

fn configuration(demo: &Demo, backend: SocketAddr) -> String {
    let Demo { https, admin } = demo;
    format!(
        r#"[listen]
https = "{https}"
admin = "{admin}"

[tls]
cert_file = "gateway.crt"
key_file = "gateway.key"

[token]
secret_file = "token.key"
claims = ["cdr", "cdr/files", "cdr/media"]

[login]
cdr = {{ host = "http://cdr:10023", useProxy = "true" }}

[directory]
file = "users.toml"

[sessions]
file = "sessions.db"

[upstreams.engine]
servers = ["http://{backend}"]

[[routes]]
path = "/api/v2/cdr"
resource = "cdr"
upstream = "engine"

[[routes]]
path = "/api/v2/dialer"
resource = "dialer"
upstream = "engine"

[[routes]]
path = "/api/v2/whoami"
access = "authenticated"
upstream = "engine"

[roles.user]
number = 0
allow = {{ "cdr" = ["r"] }}

[roles.root]
number = 2
inherits = ["user"]
allow = {{ "cdr" = ["*"], "cdr/files" = ["*"], "cdr/media" = ["*"], "dialer" = ["*"] }}

[log]
level = "warn"
access = false
"#
    )
}

/// A backend that answers every request with what it was sent, on a thread that ends with the process.
fn start_backend() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::Builder::new().name("demo-backend".into()).spawn(move || {
        runtime.block_on(async move {
            match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => serve_backend(listener).await,
                Err(error) => tracing::error!(%error, "the demo's backend cannot listen"),
            }
        });
    })?;
    Ok(addr)
}

async fn serve_backend(listener: tokio::net::TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let serving = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service_fn(echo));
        tokio::spawn(serving);
    }
}

async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let seen = serde_json::json!({
        "backend": "the demo's own",
        "method": request.method().as_str(),
        "path": request.uri().path(),
        "user": header("x-webitel-user"),
        "domain": header("x-webitel-domain"),
        "role": header("x-webitel-role"),
        "scope": header("x-postern-scope"),
    });
    let mut answer = Response::new(Full::from(format!("{seen}\n")));
    answer.headers_mut().insert("content-type", http::HeaderValue::from_static("application/json"));
    Ok(answer)
}

fn print_calls(demo: &Demo) {
    let (https, admin) = (demo.https.port(), demo.admin.port());
    let text = format!(
        r#"postern demo: TLS on https://localhost:{https}, admin on http://127.0.0.1:{admin}; Ctrl-C ends it.
Users: 100@mydomain.com (role user) and root (role root), both with the password "secret".

# log in
LOGIN=$(curl -sk -X POST -H 'Content-Type: application/json' -d '{{"username":"100@mydomain.com","password":"secret"}}' https://localhost:{https}/login)
echo "$LOGIN"
KEY=$(echo "$LOGIN" | sed 's/.*"key":"\([^"]*\)".*/\1/'); TOKEN=$(echo "$LOGIN" | sed 's/.*"token":"\([^"]*\)".*/\1/')

# a call that is let through: 200, and the backend is told who calls
curl -sk -w '%{{http_code}}\n' -H "X-Access-Token: $TOKEN" -H "X-Key: $KEY" https://localhost:{https}/api/v2/cdr/text

# one that the role does not allow: 403, the backend sees nothing
curl -sk -w '\n%{{http_code}}\n' -X DELETE -H "X-Access-Token: $TOKEN" -H "X-Key: $KEY" https://localhost:{https}/api/v2/cdr/7

# log out: 200, and from now on: 401
curl -sk -w '\n%{{http_code}}\n' -X POST -H "X-Access-Token: $TOKEN" -H "X-Key: $KEY" https://localhost:{https}/logout
curl -sk -w '\n%{{http_code}}\n' -H "X-Access-Token: $TOKEN" -H "X-Key: $KEY" https://localhost:{https}/api/v2/cdr/text

# is it ready?
curl -s http://127.0.0.1:{admin}/readyz
"#
    );
    // A closed standard output does not keep the demo from running.
    let _: io::Result<()> = io::stdout().write_all(text.as_bytes());
}
