//! What the process still holds of passwords when it is done with them, by a look into its memory.

use argon2::Argon2;
use argon2::password_hash::PasswordHasher;
use futures_util::{SinkExt, StreamExt};
use serde_json::json;
use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::support::h2::{Frames, H2Client, request};
use crate::support::wait::{until, within};
use crate::support::{Ask, TestGateway, configured};

/// Passwords begin so.
const CANARY: &str = "mem0ry-canary-";
/// A user, who stays.
const KNOWN: &str = "mem0ry-canary-known";

/// How often each text that begins with the canary is in the process's memory. Nobody but root may look (`hide_memory`).
fn canaries(gateway: &TestGateway) -> BTreeMap<String, usize> {
    let memory = File::open(format!("/proc/{}/mem", gateway.pid())).expect("to be root");
    let pages = File::open(format!("/proc/{}/pagemap", gateway.pid())).unwrap();
    let mut found = BTreeMap::new();
    for line in gateway.proc_file("maps").lines().filter(|line| line.contains(" rw")) {
        let (start, end) = line.split_whitespace().next().unwrap().split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        for run in present(&pages, start, end) {
            let mut bytes = vec![0; usize::try_from(run.end - run.start).unwrap()];
            // A mapping may have gone since.
            let Ok(read) = memory.read_at(&mut bytes, run.start) else { continue };
            for at in memchr::memmem::find_iter(&bytes[..read], CANARY) {
                let rest = &bytes[at..read];
                let of_it = |b: &&u8| b.is_ascii_alphanumeric() || **b == b'-';
                let text: Vec<u8> = rest.iter().take_while(of_it).copied().collect();
                *found.entry(String::from_utf8(text).unwrap()).or_default() += 1;
            }
        }
    }
    found
}

/// Runs of pages that are in memory or in swap: all others hold nothing, and may be many.
fn present(pages: &File, start: u64, end: u64) -> Vec<Range<u64>> {
    const PAGE: u64 = 4096;
    let mut entries = vec![0; usize::try_from((end - start) / PAGE * 8).unwrap()];
    let read = pages.read_at(&mut entries, start / PAGE * 8).unwrap_or(0);
    let mut runs: Vec<Range<u64>> = Vec::new();
    for (at, entry) in (start..end).step_by(4096).zip(entries[..read].chunks_exact(8)) {
        if entry[7] & 0b1100_0000 == 0 {
            continue;
        }
        match runs.last_mut() {
            Some(run) if run.end == at => run.end += PAGE,
            _ => runs.push(at..at + PAGE),
        }
    }
    runs
}

async fn clean(gateway: &TestGateway, after: &str) {
    until(&format!("passwords to be gone after {after}"), || {
        canaries(gateway).keys().all(|text| text == KNOWN).then_some(())
    })
    .await;
}

/// tests/deploy/image runs it: `POSTERN_TEST_BIN` is the image's program.
#[tokio::test]
#[ignore = "of a program that was built with the feature `wipe`"]
async fn no_password_stays_in_memory() {
    let (_upstream, gateway) = configured(|s| {
        s.user(KNOWN, "user");
        s.user_with(
            "argon2id",
            "user",
            "password",
            &Argon2::default().hash_password(b"x").unwrap().to_string(),
        );
        s.user_with("bcrypt", "user", "password", &bcrypt::hash("x", 4).unwrap());
        s.route("path = '/up/ws'\naccess = 'authenticated'\nupstream = 'engine'\nwebsocket = 'first_frame'");
    })
    .await;
    let before = canaries(&gateway);
    assert!(before.contains_key(KNOWN), "a look finds what is there: {before:?}");

    for user in [KNOWN, "argon2id", "bcrypt", "nobody"] {
        let body = |door: &str| json!({"username": user, "password": format!("{CANARY}{door}-{user}")});
        let refused = |status: u16| assert!(matches!(status, 401 | 404), "{status}");

        refused(gateway.ask(Ask::post("/login").json(&body("plain"))).await.status);
        clean(&gateway, "a login").await;

        let chunked = Ask::post("/login").header("Content-Type", "application/json");
        refused(gateway.ask(chunked.chunked(body("chunked").to_string())).await.status);
        clean(&gateway, "a login in chunks").await;

        refused(gateway.tls_client().await.ask(&Ask::post("/login").json(&body("tls"))).await.status);
        clean(&gateway, "a login over TLS").await;

        let mut open = gateway.client().await;
        refused(open.ask(&Ask::post("/login").json(&body("open"))).await.status);
        clean(&gateway, "a login on a connection that stays open").await;

        let mut client = H2Client::connect(&gateway).await;
        let mut login = request("POST", "/login", None, Frames::full(body("h2").to_string()));
        login.headers_mut().insert("content-type", "application/json".parse().unwrap());
        refused(client.ask(login).await.status);
        client.closed().await;
        clean(&gateway, "a login over HTTP/2").await;

        let stream = TcpStream::connect(gateway.http()).await.unwrap();
        let asked = "ws://localhost/up/ws".into_client_request().unwrap();
        let (mut socket, _) = within("the handshake", client_async(asked, stream)).await.unwrap();
        let args = json!({"account": user, "secret": format!("{CANARY}frame-{user}")});
        let login = json!({"exec-func": "auth", "exec-args": args});
        socket.send(Message::text(login.to_string())).await.unwrap();
        while let Some(Ok(_)) = within("the close", socket.next()).await {}
        clean(&gateway, "a first frame").await;
    }
}
