//! A real redis-server, alone: left out like a [`super::Peer`] where it is not installed.

use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::ports::{Port, connected};
use super::settings::Settings;
use super::tls::Authority;
use super::wait::until_async;

pub struct Redis {
    wire: Option<Wire>,
    bus: Option<Port>,
    child: Option<Child>,
    port: Port,
    folder: TempDir,
    args: Vec<String>,
    /// It speaks TLS alone, with a certificate of this authority.
    authority: Option<String>,
}

/// How `redis-server` is told to be a node of a cluster.
const NODE: [&str; 6] = ["--save", "", "--cluster-enabled", "yes", "--cluster-node-timeout", "1000"];

impl Redis {
    /// One that keeps nothing on disk.
    pub async fn start() -> Option<Self> {
        Self::with(&["--save", "", "--appendonly", "no"]).await
    }

    pub async fn with(args: &[&str]) -> Option<Self> {
        Self::made(args, None, None).await
    }

    /// One that speaks TLS alone, and trusts who knows the password.
    pub async fn tls(authority: &Authority) -> Option<Self> {
        Self::made(&["--save", "", "--appendonly", "no"], None, Some(authority)).await
    }

    /// A cluster of one node, by TLS alone.
    pub async fn tls_cluster(authority: &Authority) -> Option<Self> {
        let args = [&NODE[..], &["--tls-cluster", "yes"]].concat();
        let node = Self::made(&args, Some(Port::claim()), Some(authority)).await?;
        node.cli(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
        until_async("the cluster", || async { node.cli(&["CLUSTER", "INFO"]).contains("cluster_state:ok") })
            .await;
        Some(node)
    }

    async fn made(args: &[&str], bus: Option<Port>, authority: Option<&Authority>) -> Option<Self> {
        super::peer::installed("redis-server")?;
        let (port, folder) = (Port::claim(), TempDir::new().unwrap());
        let named = |arg: &&str| arg.replace("FOLDER", folder.path().to_str().unwrap());
        let mut args: Vec<_> = args.iter().map(named).collect();
        if let Some(bus) = &bus {
            args.extend(["--cluster-port".to_owned(), bus.addr().port().to_string()]);
        }
        if let Some(authority) = authority {
            let leaf = authority.server(&["127.0.0.1"]);
            for (name, text) in [("cert", &leaf.certificate), ("key", &leaf.key), ("ca-cert", &authority.pem)]
            {
                let file = folder.path().join(name);
                std::fs::write(&file, text).unwrap();
                args.extend([format!("--tls-{name}-file"), file.to_str().unwrap().to_owned()]);
            }
            args.extend(["--tls-auth-clients", "no"].map(str::to_owned));
        }
        let authority = authority.map(|authority| authority.pem.clone());
        let mut redis = Self { wire: None, bus, child: None, port, folder, args, authority };
        redis.run().await;
        Some(redis)
    }

    /// A Sentinel with this configuration.
    pub async fn sentinel(config: &str) -> Option<Self> {
        super::peer::installed("redis-server")?;
        let (port, folder) = (Port::claim(), TempDir::new().unwrap());
        let file = folder.path().join("sentinel.conf");
        std::fs::write(&file, config).unwrap();
        let args = vec![file.to_str().unwrap().to_owned(), "--sentinel".to_owned()];
        let mut redis = Self { wire: None, bus: None, child: None, port, folder, args, authority: None };
        redis.run().await;
        Some(redis)
    }

    /// A node of a cluster to be.
    pub async fn node() -> Option<Self> {
        Self::made(&NODE, Some(Port::claim()), None).await
    }

    /// Where nodes of a cluster talk to each other.
    pub fn bus(&self) -> u16 {
        self.bus.as_ref().expect("a node of a cluster").addr().port()
    }

    pub fn port(&self) -> u16 {
        self.port.addr().port()
    }

    /// Starts it, again after [`Redis::kill`].
    pub async fn run(&mut self) {
        let port = self.port.addr().port().to_string();
        let log = self.folder.path().join("redis.log");
        let ports = match self.authority {
            Some(_) => ["--port", "0", "--tls-port", &port].to_vec(),
            None => ["--port", &port].to_vec(),
        };
        // A file comes first, if there is one.
        let child = Command::new("redis-server")
            .args(&self.args)
            .args(["--bind", "127.0.0.1"])
            .args(ports)
            .args(["--logfile", log.to_str().unwrap()])
            .current_dir(self.folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts");
        self.child = Some(child);
        let addr = self.port.addr();
        until_async("Redis to listen", || async move { connected(addr).await.is_ok() }).await;
    }

    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Stops it where it stands: its sockets stay open and nothing is answered.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// What `redis-cli` prints.
    pub fn cli(&self, args: &[&str]) -> String {
        let port = self.port.addr().port().to_string();
        let ca = self.folder.path().join("ca-cert");
        let tls = ["--tls", "--cacert", ca.to_str().unwrap()];
        let tls = if self.authority.is_some() { &tls[..] } else { &[] };
        let output =
            Command::new("redis-cli").args(["-p", &port]).args(tls).args(args).output().expect("redis-cli");
        assert!(output.status.success(), "redis-cli {args:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Has a gateway keep its sessions here.
    pub fn in_use(&self, settings: &mut Settings) {
        settings.unset("sessions.file");
        let addr = self.wire.as_ref().map_or(self.port.addr(), |wire| wire.addr);
        match self.bus {
            Some(_) => settings.set("sessions.redis.cluster", &format!("['{addr}']")),
            None => {
                let scheme = if self.authority.is_some() { "rediss" } else { "redis" };
                settings.set("sessions.redis.url", &format!("'{scheme}://{addr}/0'"));
            }
        }
        if let Some(authority) = &self.authority {
            settings.set("sessions.redis.ca_file", "'redis.ca'");
            settings.file("redis.ca", authority.as_bytes());
        }
    }

    /// Gateways reach it by a wire that can be cut.
    pub async fn behind_a_wire(mut self) -> Self {
        self.wire = Some(Wire::to(self.port.addr()).await);
        self
    }

    /// Cuts the wire, or mends it.
    pub fn cut(&self, to_redis: bool, from_redis: bool) {
        self.wire.as_ref().expect("behind a wire").cut(to_redis, from_redis);
    }

    /// A way to it that can be cut while others stand.
    pub async fn wire(&self) -> Wire {
        Wire::to(self.port.addr()).await
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).unwrap();
    }
}

/// Copies bytes both ways, each way until it is cut.
pub struct Wire {
    addr: SocketAddr,
    to: watch::Sender<bool>,
    from: watch::Sender<bool>,
}

impl Wire {
    async fn to(redis: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (to, from) = (watch::Sender::new(false), watch::Sender::new(false));
        let (cut_to, cut_from) = (to.subscribe(), from.subscribe());
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let Ok(far) = TcpStream::connect(redis).await else { continue };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::spawn(copy(near_in, far_out, cut_to.clone()));
                tokio::spawn(copy(far_in, near_out, cut_from.clone()));
            }
        });
        Self { addr, to, from }
    }

    /// Has a gateway go this way.
    pub fn in_use(&self, settings: &mut Settings) {
        settings.unset("sessions.file");
        settings.set("sessions.redis.url", &format!("'redis://{}/0'", self.addr));
    }

    /// Cuts it, or mends it: what is sent stays where it is, and no end is told.
    pub fn cut(&self, to_redis: bool, from_redis: bool) {
        self.to.send_replace(to_redis);
        self.from.send_replace(from_redis);
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut cut: watch::Receiver<bool>) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        if cut.wait_for(|cut| !cut).await.is_err() || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
