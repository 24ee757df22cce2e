//! `postern replay`: what another configuration would decide otherwise (contract section 1).

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::{Ask, Prepared, usual};

/// The real access log of real requests, replayed under a configuration with a known number of changes.
#[tokio::test]
async fn a_changed_acl_is_reported_with_exactly_its_flips() {
    let (_upstream, mut gateway) = usual().await;
    let (low, high) = (gateway.login("100").await, gateway.login("admin").await);
    let mut client = gateway.client().await;
    for n in 0..7 {
        client.ask(&Ask::get(format!("/api/v2/cdr/{n}?a=1")).with(&low)).await.assert_ok();
    }
    for n in 0..5 {
        client.ask(&Ask::get(format!("/api/v2/vault/{n}")).with(&low)).await.assert_error(403);
    }
    for _ in 0..3 {
        client.ask(&Ask::get("/up/echo").with(&high)).await.assert_ok();
        client.ask(&Ask::get("/api/v2/cdr/1")).await.assert_error(401);
        client.ask(&Ask::get("/public/x")).await.assert_ok();
    }
    gateway.access_line_where("the last line", |line| line["path"] == "/public/x").await;
    crate::support::wait::until("all lines", || (gateway.access_lines().len() >= 21 + 2).then_some(())).await;
    let lines: String = gateway.access_lines().iter().map(|line| format!("{line}\n")).collect();
    let log = gateway.folder().join("access.log");
    std::fs::write(&log, &lines).unwrap();
    let packed = gzip(&lines);
    let gz = gateway.folder().join("access.log.1.gz");
    std::fs::write(&gz, packed).unwrap();

    let (log, gz) = (log.to_str().unwrap().to_owned(), gz.to_str().unwrap().to_owned());
    let same = gateway.call(&["replay", "--fail-on-change", &log, &gz]);
    let text = String::from_utf8(same.stdout).unwrap();
    assert!(same.status.success() && text.contains("no decision changes"), "{text}");
    assert!(text.starts_with("42 decisions"), "{text}");

    gateway.change(|s| s.role("user", "number = 0\nallow = { vault = ['r'] }"));
    let other = gateway.call(&["replay", &log]);
    let text = String::from_utf8(other.stdout).unwrap();
    assert!(other.status.success(), "{text}");
    assert!(text.contains("12 would change: 7 newly denied, 5 newly allowed"), "{text}");
    assert!(text.contains("7  allow -> deny  role user  route /api/v2/cdr"), "{text}");
    assert_eq!(gateway.call(&["replay", "--fail-on-change", &log]).status.code(), Some(1));
}

#[test]
fn a_log_that_is_not_there_is_an_error() {
    let prepared = Prepared::new(|_| {});
    let config = prepared.config();
    let args = ["replay", "--config", config.to_str().unwrap(), "/no/such.log"];
    let output = crate::support::process::run_to_end(&args, &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("/no/such.log"));
}

fn gzip(text: &str) -> Vec<u8> {
    let mut gzip =
        Command::new("gzip").arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("gzip");
    let mut stdin = gzip.stdin.take().unwrap();
    let text = text.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = gzip.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    output.stdout
}
