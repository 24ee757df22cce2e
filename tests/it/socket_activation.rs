//! Sockets that the service manager has bound and keeps: systemd's protocol, spoken by a shell in its place.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;

use crate::support::process::{Process, postern};
use crate::support::settings::Settings;
use crate::support::wait::{until, until_async};
use crate::support::{Ask, PASSWORD, Prepared, Session, TestClient, TestUpstream};

/// What systemd does: sockets that are open whether the gateway runs or not. A shell puts them where the protocol
/// wants them (its standard input and output become 3 and 4) and says whose they are before it becomes the gateway.
struct Manager {
    prepared: Prepared,
    http: TcpListener,
    admin: TcpListener,
}

impl Manager {
    fn new(prepare: impl FnOnce(&mut Settings)) -> Self {
        let bind = || TcpListener::bind("127.0.0.1:0").unwrap();
        let (http, admin) = (bind(), bind());
        let address = |socket: &TcpListener| format!("'{}'", socket.local_addr().unwrap());
        let prepared = Prepared::new(|settings| {
            settings.unset("listen.https");
            settings.unset("tls.cert_file");
            settings.unset("tls.key_file");
            settings.set("listen.http", &address(&http));
            settings.set("listen.admin", &address(&admin));
            prepare(settings);
        });
        Self { prepared, http, admin }
    }

    fn start(&self, names: &str) -> Process {
        self.start_as(names, "$$")
    }

    /// `pid` as the shell reads it; `$$` stays its own when it becomes the gateway.
    fn start_as(&self, names: &str, pid: &str) -> Process {
        let fd = |socket: &TcpListener| Stdio::from(OwnedFd::from(socket.try_clone().unwrap()));
        let log = File::create(self.log()).unwrap();
        let gateway = postern(&self.prepared.env);
        let script = format!(
            "exec 3<&0 4<&1 0</dev/null 1>&2; LISTEN_PID={pid} LISTEN_FDS=2 LISTEN_FDNAMES={names} exec \"$0\" run --config \"$1\""
        );
        let mut command = Command::new("sh");
        for (name, value) in gateway.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        command.arg("-c").arg(script).arg(gateway.get_program()).arg(self.prepared.config());
        command.stdin(fd(&self.http)).stdout(fd(&self.admin)).stderr(Stdio::from(log));
        Process::of(command.spawn().unwrap())
    }

    fn log(&self) -> PathBuf {
        self.prepared.folder.path().join("gateway.log")
    }

    async fn start_until_ready(&self) -> Process {
        let process = self.start("http:admin");
        until_async("readiness", || self.is_ready()).await;
        process
    }

    /// Starts it with these names, waits for its end and says how it ended.
    async fn refused(&self, names: &str) -> (i32, String) {
        let code = self.start(names).exit_code().await;
        (code, self.said())
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    fn http(&self) -> SocketAddr {
        self.http.local_addr().unwrap()
    }

    async fn is_ready(&self) -> bool {
        let mut client = TestClient::connect(self.admin.local_addr().unwrap()).await;
        client.send(Ask::get("/readyz").bytes()).await;
        client.try_answer().await.is_some_and(|answer| answer.status == 200)
    }
}

async fn behind_a_manager() -> (TestUpstream, Manager) {
    let upstream = TestUpstream::start().await;
    let url = format!("['{}']", upstream.url());
    let manager = Manager::new(|settings| settings.set("upstreams.engine.servers", &url));
    (upstream, manager)
}

#[tokio::test]
async fn requests_are_served_on_the_sockets_that_were_handed_over() {
    let (upstream, manager) = behind_a_manager().await;
    let mut process = manager.start_until_ready().await;
    TestClient::connect(manager.http()).await.ask(&Ask::get("/public/x")).await.assert_ok();
    assert_eq!(upstream.only().target, "/public/x");
    assert!(manager.said().contains("service manager's sockets are used"), "{}", manager.said());
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code().await, 0);
    // The manager's are open still.
    std::net::TcpStream::connect(manager.http()).unwrap();
}

#[tokio::test]
async fn a_socket_that_is_not_wanted_is_refused_with_what_would_be_right() {
    let (_upstream, manager) = behind_a_manager().await;
    for (names, code, told) in [
        ("postern.socket:admin", 1, "FileDescriptorName="),
        ("https:admin", 1, "there is no listen.https"),
        ("admin:http", 1, "write the same address in both places"),
        ("http", 2, "2 sockets were handed over and 1 names"),
    ] {
        let (ended, said) = manager.refused(names).await;
        assert!(ended == code && said.contains(told), "{names}: {ended} {said}");
    }
}

/// A variable that came down from some other program's environment says nothing about our descriptors.
#[tokio::test]
async fn sockets_of_another_process_are_not_taken() {
    let (_upstream, manager) = behind_a_manager().await;
    let ended = manager.start_as("http:admin", "1").exit_code().await;
    assert_eq!(ended, 1);
    assert!(manager.said().contains("in use"), "it binds by itself: {}", manager.said());
}

#[tokio::test]
async fn who_connects_while_no_gateway_runs_is_answered_by_the_next() {
    let (_upstream, manager) = behind_a_manager().await;
    let mut early = TestClient::connect(manager.http()).await;
    early.send(Ask::get("/public/early").bytes()).await;
    let mut process = manager.start_until_ready().await;
    early.answer().await.assert_ok();
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code().await, 0);
    let mut between = TestClient::connect(manager.http()).await;
    between.send(Ask::get("/public/between").bytes()).await;
    let _process = manager.start_until_ready().await;
    between.answer().await.assert_ok();
}

#[tokio::test]
async fn no_connection_is_lost_over_restarts() {
    const CLIENTS: usize = 4;
    let (_upstream, manager) = behind_a_manager().await;
    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut process = manager.start_until_ready().await;
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (stop, answered, addr) = (Arc::clone(&stop), Arc::clone(&answered), manager.http());
            tokio::spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    TestClient::connect(addr).await.ask(&Ask::get("/public/x")).await.assert_ok();
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    for _ in 0..5 {
        let before = answered.load(Ordering::SeqCst);
        until("answers", || (answered.load(Ordering::SeqCst) > before + 10 * CLIENTS).then_some(())).await;
        process.signal(Signal::TERM);
        assert_eq!(process.exit_code().await, 0, "{}", manager.said());
        process = manager.start_until_ready().await;
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.unwrap();
    }
}

/// An upgrade by hand: the new process is started first, on the same sockets and the same sessions file.
#[tokio::test]
async fn one_that_is_started_beside_the_old_one_waits_for_its_turn_and_loses_no_session() {
    let upstream = TestUpstream::start().await;
    let url = format!("['{}']", upstream.url());
    let manager = Manager::new(|settings| {
        settings.set("upstreams.engine.servers", &url);
        // Listeners of its own the two could not share.
        settings.unset("listen.authz");
        settings.unset("listen.ext_authz");
    });
    let ask = async |ask: Ask| TestClient::connect(manager.http()).await.ask(&ask).await;
    let login = async || Session::of(ask(Ask::login("100@example.org", PASSWORD)).await.assert_ok().json());
    let mut old = manager.start_until_ready().await;
    for _ in 0..3 {
        let mut new = manager.start("http:admin");
        let mut waits = || manager.said().contains("waiting for its end") || new.exited().is_some();
        until("the new one to wait", || waits().then_some(())).await;
        assert!(new.exited().is_none(), "{}", manager.said());
        let (kept, ended) = (login().await, login().await);
        ask(Ask::post("/logout").with(&ended)).await.assert_ok();
        old.signal(Signal::TERM);
        // These are answered by whichever of the two has the file.
        let later = login().await;
        assert_eq!(old.exit_code().await, 0);
        for (session, status) in [(&kept, 200), (&ended, 401), (&later, 200)] {
            assert_eq!(ask(Ask::get("/me/x").with(session)).await.status, status, "{}", manager.said());
        }
        old = new;
    }
}

/// One that waits for the sessions file of the process before it.
async fn starting() -> (TestUpstream, Manager, Process, File) {
    let (upstream, manager) = behind_a_manager().await;
    let lock = File::create(manager.prepared.folder.path().join("sessions.db.lock")).unwrap();
    lock.lock().unwrap();
    let process = manager.start("http:admin");
    until("it to wait", || manager.said().contains("waiting for its end").then_some(())).await;
    (upstream, manager, process, lock)
}

#[tokio::test]
async fn signals_that_come_while_it_starts_neither_kill_it_nor_are_lost() {
    let (_upstream, manager, process, lock) = starting().await;
    process.signal(Signal::HUP);
    process.signal(Signal::USR1);
    drop(lock);
    until_async("readiness", || manager.is_ready()).await;
    until("the reload", || manager.said().contains("the configuration was reloaded").then_some(())).await;
}

#[tokio::test]
async fn one_that_is_told_to_end_while_it_starts_does() {
    for signal in [Signal::TERM, Signal::INT] {
        let (_upstream, _manager, mut process, _lock) = starting().await;
        process.signal(signal);
        assert_eq!(process.exit_code().await, 0);
    }
}
