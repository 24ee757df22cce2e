//! What `deploy/` and `config/` hold is good as it is, and does what its documentation says.

use std::path::{Path, PathBuf};

use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::process::run_to_end;
use crate::support::tls::Authority;
use crate::support::wait::within;
use crate::support::{Ask, Engine, PASSWORD, Session, TestUpstream};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap).filter(|e| e.path().is_file()) {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// As the page about the deployment says: two folders copied, certificate and key put beside them.
fn installed() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    copy(&repository().join("deploy/webitel"), folder.path());
    copy(&repository().join("config/webitel"), &folder.path().join("webitel"));
    let leaf = Authority::new().server(&["webitel.example.com"]);
    for name in ["tls", "data"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("tls/fullchain.pem"), leaf.certificate).unwrap();
    std::fs::write(folder.path().join("tls/privkey.pem"), leaf.key).unwrap();
    std::fs::write(folder.path().join("token.key"), [b'k'; 64]).unwrap();
    let config = folder.path().join("postern.toml");
    (folder, config)
}

#[test]
fn the_webitel_deployment_passes_check_with_either_policy() {
    let (_folder, config) = installed();
    for policy in ["hardened", "parity"] {
        let text = std::fs::read_to_string(&config).unwrap();
        let other = if policy == "hardened" { "parity" } else { "hardened" };
        std::fs::write(
            &config,
            text.replace(&format!("webitel/{other}.toml"), &format!("webitel/{policy}.toml")),
        )
        .unwrap();
        let checked = run_to_end(&["check", "--config", config.to_str().unwrap()], &[]);
        let said =
            String::from_utf8_lossy(&checked.stdout).into_owned() + &String::from_utf8_lossy(&checked.stderr);
        assert_eq!(checked.status.code(), Some(0), "{policy}: {said}");
        assert!(said.contains("ok: ") && !said.contains("not supported"), "{policy}: {said}");
    }
}

#[test]
fn explain_tells_why_a_hardened_route_refuses() {
    let (_folder, config) = installed();
    let explain = |role: &str, method: &str, path: &str| {
        let args = ["explain", "--config", config.to_str().unwrap(), "--role", role, method, path];
        String::from_utf8_lossy(&run_to_end(&args, &[]).stdout).into_owned()
    };
    let refused = explain("user", "POST", "/engine/api/v2/accounts/101/spy");
    assert!(
        refused.contains("denied") && refused.contains("hardened.toml:") && refused.contains("account"),
        "{refused}"
    );
    let allowed = explain("admin", "POST", "/engine/api/v2/accounts/101/spy");
    assert!(allowed.contains("allowed"), "{allowed}");
}

#[tokio::test]
async fn the_web_client_finds_everything_below_its_prefixes() {
    let (engine, client) = (Engine::start().await, TestUpstream::start().await);
    let gateway = engine
        .gateway("hardened", |settings| {
            settings.webitel_below("hardened", &["", "/engine", "/cdr"]);
            settings.set("login.below", "['/engine', '/cdr']");
            settings.set("upstreams.client.servers", &format!("['{}']", client.url()));
            settings.set("upstreams.client.forward_credentials", "false");
            settings.route("path = '/'\nmethods = ['GET']\naccess = 'public'\nupstream = 'client'");
        })
        .await;
    let login = json!({"username": "admin@example.org", "password": PASSWORD});
    let answer = gateway.ask(Ask::post("/Engine/login").json(&login)).await;
    answer.assert_ok();
    let session = Session::of(answer.json());
    for (path, at) in [
        ("/engine/api/v2/accounts?x=1", "/api/v2/accounts?x=1"),
        ("/api/v2/accounts", "/api/v2/accounts"),
        ("/cdr/api/v2/files/7", "/api/v2/files/7"),
        ("/engine/api/v2/cdr/uuid", "/api/v2/cdr/uuid"),
        ("/engine//api/v2/Hooks/", "/api/v2/Hooks/"),
    ] {
        gateway.ask(Ask::get(path).with(&session)).await.assert_ok();
        assert_eq!(engine.forwarded().pop().unwrap().target, at);
    }
    let reached = engine.forwarded().len();
    gateway.ask(Ask::get("/engine/api/v2/accounts")).await.assert_refusal(401, "Invalid token");
    gateway
        .ask(Ask::get("/engine/api/v1/status").with(&session))
        .await
        .assert_refusal(403, "Permission denied!");
    for page in ["/", "/index.html", "/js/app.js?v=1"] {
        gateway.ask(Ask::get(page).with(&session)).await.assert_ok();
        let seen = client.last();
        assert_eq!(seen.target, page);
        assert!(seen.header("x-key").is_none(), "the client's server is no one's to tell a key");
    }
    assert_eq!(engine.forwarded().len(), reached);

    let request = "ws://localhost/engine".into_client_request().unwrap();
    let stream = tokio::net::TcpStream::connect(gateway.http()).await.unwrap();
    let mut socket = within("the handshake", client_async(request, stream)).await.unwrap().0;
    let auth = json!({"exec-uuid": "1", "exec-func": "auth", "exec-args": {"key": session.key, "token": session.token}});
    socket.send(Message::text(auth.to_string())).await.unwrap();
    let told = within("the answer", async {
        loop {
            let text = socket.next().await.unwrap().unwrap().into_text().unwrap();
            if text.contains("exec-complete") {
                return text;
            }
        }
    })
    .await;
    assert!(told.contains("+OK"), "{told}");

    gateway.ask(Ask::post("/engine/logout").with(&session)).await.assert_ok();
    assert!(!engine.knows(&session));
}
