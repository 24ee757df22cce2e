//! Other servers of the trade (nginx, Caddy, HAProxy, Traefik, Envoy), the real programs: left out, with a line that says
//! so, where one is not installed; `POSTERN_REQUIRE_PEERS=1` makes that a failure.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::ports::{Port, connected};
use super::wait::until_async;

/// A running server with a folder of its own; killed when the test ends.
pub struct Peer {
    child: Child,
    port: Port,
    folder: TempDir,
}

impl Peer {
    /// Starts `name` with what `configure` writes into its folder for its address, and waits until it listens. None when
    /// there is no such program.
    pub async fn start(name: &str, configure: impl FnOnce(&Path, SocketAddr) -> Vec<String>) -> Option<Self> {
        let program = installed(name)?;
        let (folder, port) = (TempDir::new().unwrap(), Port::claim());
        let args = configure(folder.path(), port.addr());
        let log = std::fs::File::create(folder.path().join("output.log")).unwrap();
        let child = Command::new(program)
            .args(args)
            .current_dir(folder.path())
            // Caddy keeps what it writes below its home.
            .env("HOME", folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        let mut peer = Self { child, port, folder };
        until_async(&format!("{name} to listen"), || {
            let ended = peer.child.try_wait().unwrap();
            assert!(ended.is_none(), "{name} ended: {}", peer.output());
            let addr = peer.port.addr();
            async move { connected(addr).await.is_ok() }
        })
        .await;
        Some(peer)
    }

    pub fn addr(&self) -> SocketAddr {
        self.port.addr()
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What it wrote to standard output and error.
    pub fn output(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("output.log")).unwrap_or_default()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a program is. None, and a line about it, when it is not installed.
pub fn installed(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let program = folders.map(|folder| folder.join(name)).find(|program| program.is_file());
    if program.is_none() {
        assert!(std::env::var_os("POSTERN_REQUIRE_PEERS").is_none(), "{name} is required and not installed");
        println!("{name} is not installed: this scene was left out");
    }
    program
}
