//! What the program tells those who run it, and what it hears from them: start-up lines, SIGUSR1, systemd, probes.

use std::os::unix::net::UnixDatagram;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::process::{postern, run_to_end};
use crate::support::wait::{until, until_async};
use crate::support::{Ask, Prepared, TestGateway, configured, usual};

#[tokio::test]
async fn it_says_what_listens_where_and_what_it_was_made_of() {
    let (_upstream, gateway) = usual().await;
    let output = gateway.output();
    for told in [
        gateway.http().to_string(),
        gateway.https().to_string(),
        gateway.admin().to_string(),
        "users.toml".to_owned(),
        "gateway.crt".to_owned(),
        "\"users\":5".to_owned(),
        "\"routes\":6".to_owned(),
        "\"sessions\":0".to_owned(),
    ] {
        assert!(output.contains(&told), "{told} in\n{output}");
    }
}

#[tokio::test]
async fn a_probe_without_a_shell_is_told_whether_it_is_ready() {
    let (_upstream, mut gateway) = configured(|s| s.set("limits.drain_delay", "'2s'")).await;
    let admin = gateway.admin().to_string();
    let probe = || run_to_end(&["healthcheck", "--admin", &admin], &[]).status.code();
    let live = || run_to_end(&["healthcheck", "--live", "--admin", &admin], &[]).status.code();
    assert_eq!((probe(), live()), (Some(0), Some(0)));
    gateway.signal(Signal::TERM);
    until("the drain", || (probe() == Some(1)).then_some(())).await;
    assert_eq!(live(), Some(0), "it drains, and is not to be restarted");
    assert_eq!(gateway.exit_code().await, 0);
    assert_eq!((probe(), live()), (Some(1), Some(1)));
}

/// As log rotation does it: the files are renamed, and new ones are wanted under the old names.
#[tokio::test]
async fn sigusr1_opens_the_log_files_again() {
    let prepared = Prepared::new(|_| {});
    let file = |name: &str| prepared.folder.path().join(name);
    let open = |name: &str| Stdio::from(std::fs::File::create(file(name)).unwrap());
    let mut command = postern(&prepared.env);
    command.args(["run", "--config"]).arg(prepared.config());
    command.stdout(open("access.log")).stderr(open("postern.log"));
    let mut child = command.spawn().unwrap();
    let read = |name: &str| std::fs::read_to_string(file(name)).unwrap_or_default();
    until("the start", || read("postern.log").contains("\"started\"").then_some(())).await;
    let admin =
        read("postern.log").lines().find(|line| line.contains("\"admin\"")).map(str::to_owned).unwrap();
    let admin: serde_json::Value = serde_json::from_str(&admin).unwrap();
    until_async("readiness", || async {
        run_to_end(&["healthcheck", "--admin", admin["addr"].as_str().unwrap()], &[]).status.success()
    })
    .await;
    std::fs::rename(file("postern.log"), file("postern.log.1")).unwrap();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::USR1).unwrap();
    until("the new file", || read("postern.log").contains("opened again").then_some(())).await;
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    until("the end", || child.try_wait().unwrap()).await;
    assert!(read("postern.log").contains("draining") && !read("postern.log.1").contains("draining"));
}

#[tokio::test]
async fn the_service_manager_is_told_of_the_start_a_reload_and_the_end() {
    let mut prepared = Prepared::new(|_| {});
    let path = prepared.folder.path().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    prepared.env.push(("NOTIFY_SOCKET".to_owned(), path.to_str().unwrap().to_owned()));
    let mut gateway = TestGateway::run(prepared).await;
    let next = || {
        let mut bytes = [0; 256];
        let length = socket.recv(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    assert!(next().contains("READY=1"));
    gateway.admin_ask(Ask::post("/reload")).await.assert_ok();
    let reloading = next();
    assert!(reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert!(next().contains("READY=1"));
    assert_eq!(gateway.terminate().await, 0);
    assert!(next().contains("STOPPING=1"));
}
