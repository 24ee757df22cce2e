//! What the process asks of the system: no copy of its memory on disk, descriptors enough.

use std::os::unix::fs::{MetadataExt, chown};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::process::{Signal, geteuid};

use crate::support::ports::connected;
use crate::support::process::{Lines, Process, binary, postern};
use crate::support::wait::{until, until_async};
use crate::support::{Ask, DOMAIN, PASSWORD, Prepared, TestClient, TestUpstream, usual};

const NOBODY: u32 = 65_534;

/// The soft and the hard limit.
fn limit(limits: &str, name: &str) -> (String, String) {
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).expect("a limit");
    let mut words = line.split_whitespace().map(str::to_owned);
    (words.next().unwrap(), words.next().unwrap())
}

#[tokio::test]
async fn it_writes_no_core_file_and_takes_all_descriptors_that_it_may() {
    let (_upstream, gateway) = usual().await;
    let limits = gateway.proc_file("limits");
    assert_eq!(limit(&limits, "Max core file size"), ("0".to_owned(), "0".to_owned()));
    let (soft, hard) = limit(&limits, "Max open files");
    assert_eq!(soft, hard);
}

#[tokio::test]
async fn its_memory_is_roots_even_where_it_runs_as_somebody_else() {
    if !geteuid().is_root() {
        println!("who is not root cannot become somebody else: this scene was left out");
        return;
    }
    let prepared = Prepared::new(|_| {});
    let folder = prepared.folder.path();
    chown(folder, Some(NOBODY), None).unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        chown(entry.unwrap().path(), Some(NOBODY), None).unwrap();
    }
    let lines = Lines::default();
    let mut command = postern(&prepared.env);
    command.arg("run").arg("--config").arg(prepared.config()).uid(NOBODY).gid(NOBODY);
    let process = Process::spawn(command, &lines);
    started(&lines).await;
    let of = |name: &str| std::fs::metadata(format!("/proc/{}/{name}", process.id())).unwrap().uid();
    assert_eq!((of("mem"), of("environ")), (0, 0));
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap();
    assert!(status.contains(&format!("Uid:\t{NOBODY}")), "{status}");
}

#[tokio::test]
async fn too_few_descriptors_for_max_connections_are_told() {
    for (descriptors, told) in [("1000", true), ("4000", false)] {
        let prepared = Prepared::new(|settings| settings.set("limits.max_connections", "1000"));
        let lines = Lines::default();
        let mut command = Command::new("sh");
        command
            .args(["-c", "ulimit -n $0 && exec \"$1\" run --config \"$2\"", descriptors])
            .arg(binary())
            .arg(prepared.config());
        let _process = Process::spawn(command, &lines);
        started(&lines).await;
        let output = lines.lock().unwrap().join("\n");
        assert_eq!(output.contains("too few open files are allowed"), told, "{output}");
    }
}

async fn started(lines: &Lines) {
    until("the gateway to start", || {
        lines.lock().unwrap().iter().any(|line| line.contains("\"started\"")).then_some(())
    })
    .await;
}

/// Logs to pipes that nobody reads any more: a supervisor that hangs takes neither requests nor the end with it.
#[tokio::test]
async fn who_does_not_read_the_logs_stops_nothing() {
    let upstream = TestUpstream::start().await;
    let prepared = Prepared::new(|settings| {
        settings.set("upstreams.engine.servers", &format!("['{}']", upstream.url()));
        settings.set("log.level", "'trace'");
        settings.set("log.access", "true");
    });
    let http = prepared.settings.address_of("listen.http").unwrap();
    let mut command = postern(&prepared.env);
    command.arg("run").arg("--config").arg(prepared.config()).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (_out, _err) = (child.stdout.take(), child.stderr.take());
    let mut process = Process::of(child);
    until_async("the gateway to listen", || async { connected(http).await.is_ok() }).await;

    let mut client = TestClient::connect(http).await;
    // Several lines each: many times what two pipes hold.
    for _ in 0..3000 {
        client.ask(&Ask::get("/public/x")).await.assert_ok();
    }
    client.ask(&Ask::login(&format!("100@{DOMAIN}"), PASSWORD)).await.assert_ok();
    process.signal(Signal::TERM);
    assert_eq!(process.exit_code().await, 0);
}
