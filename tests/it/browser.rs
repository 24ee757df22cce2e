//! A real browser, headless Chromium from Debian's package, on a page that opens `wss://` through the gateway. Left out,
//! with a line that says so, where it is not installed.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::support::Engine;
use crate::support::wait::until;

struct Browser {
    child: Child,
    _profile: TempDir,
}

impl Browser {
    /// Opens a page; None when there is no browser.
    fn open(page: &Path) -> Option<Self> {
        let Some(program) = program() else {
            println!("chromium is not installed: this scene was left out");
            return None;
        };
        let profile = TempDir::new().unwrap();
        let child = Command::new(program)
            .args([
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
            ])
            // The certificate is of an authority that only the tests know.
            .args(["--ignore-certificate-errors", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("file://{}", page.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromium starts");
        Some(Self { child, _profile: profile })
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<PathBuf> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let folders = ["/usr/bin", "/usr/local/bin"].iter();
    folders.flat_map(|folder| names.map(|name| Path::new(folder).join(name))).find(|path| path.exists())
}

/// Reports what came of it by asking for pictures below `/public`.
const PAGE: &str = r#"<!doctype html><meta charset="utf-8"><script>
const report = (name, value) => { new Image().src = `https://BASE/public/report?${name}=${encodeURIComponent(value)}`; };
const open = (name, first) => {
  const socket = new WebSocket("wss://BASE/engine");
  socket.onopen = () => socket.send(JSON.stringify(first));
  socket.onmessage = message => {
    const told = JSON.parse(message.data);
    if (told["exec-complete"]) report(name, told["exec-complete"] + " " + told["exec-response"].login);
  };
  socket.onclose = event => report(name, "closed " + event.code);
};
open("auth", {"exec-uuid": "1", "exec-func": "auth", "exec-args": {"key": "KEY", "token": "TOKEN"}});
open("command", {"exec-uuid": "2", "exec-func": "hangup", "exec-args": {"uuid": "x"}});
</script>"#;

#[tokio::test]
async fn a_page_that_sends_the_auth_frame_gets_its_answer_and_one_that_does_not_is_closed() {
    let engine = Engine::start().await;
    let gateway = engine.gateway("hardened", |_| {}).await;
    let session = engine.session("user@example.org");
    let base = format!("localhost:{}", gateway.https().port());
    let page = PAGE.replace("BASE", &base).replace("KEY", &session.key).replace("TOKEN", &session.token);
    let file = gateway.folder().join("page.html");
    std::fs::write(&file, page).unwrap();
    let Some(_browser) = Browser::open(&file) else { return };
    let reported = |what: &str| {
        let target = format!("/public/report?{what}");
        engine.seen().iter().any(|seen| seen.target == target).then_some(())
    };
    until("the page to be let in", || reported("auth=%2BOK%20user%40example.org")).await;
    until("the page to be closed", || reported("command=closed%201008")).await;
    assert!(engine.state.commands.lock().unwrap().is_empty(), "the engine saw no command");
}
