//! The configuration is changed while the gateway runs (contract section 2, Reload).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;

use crate::support::tls::Offer;
use crate::support::wait::{until, until_async};
use crate::support::{Ask, DOMAIN, PASSWORD, Session, TestGateway, TestUpstream, usual};

async fn status(gateway: &TestGateway, path: &str, session: &Session) -> u16 {
    gateway.ask(Ask::get(path).with(session)).await.status
}

async fn reaches(gateway: &TestGateway, generation: u64) {
    until_async("the next generation", || async { gateway.generation().await >= generation }).await;
}

#[tokio::test]
async fn a_changed_role_acts_at_once_on_sessions_that_are_open() {
    let (_upstream, mut gateway) = usual().await;
    let session = gateway.login("100").await;
    assert_eq!(status(&gateway, "/api/v2/cdr/1", &session).await, 200);
    let answer = gateway.reload_with(|s| s.role("user", "allow = { vault = ['r'] }")).await;
    assert_eq!(answer.assert_ok().json()["generation"], 2);
    assert_eq!(status(&gateway, "/api/v2/cdr/1", &session).await, 403);
    assert_eq!(status(&gateway, "/api/v2/vault/1", &session).await, 200);
    gateway.reload_with(|s| s.user(&format!("100@{DOMAIN}"), "admin")).await.assert_ok();
    assert_eq!(status(&gateway, "/up/echo", &session).await, 200, "another role in the user file");
}

#[tokio::test]
async fn sessions_of_a_user_who_left_the_file_end_and_stay_ended() {
    let (_upstream, mut gateway) = usual().await;
    let (left, stays) = (gateway.login("100").await, gateway.login("200").await);
    gateway.reload_with(|s| s.remove_user(&format!("100@{DOMAIN}"))).await.assert_ok();
    assert!(!gateway.knows(&left).await && gateway.knows(&stays).await);
    gateway.ask(Ask::login(&format!("100@{DOMAIN}"), PASSWORD)).await.assert_error(404);
    gateway.reload_with(|s| s.user(&format!("100@{DOMAIN}"), "user")).await.assert_ok();
    assert!(!gateway.knows(&left).await, "an ended session came back");
    gateway.restart().await;
    assert!(!gateway.knows(&left).await && gateway.knows(&stays).await);
}

#[tokio::test]
async fn sighup_and_a_changed_file_reload_too() {
    let (_upstream, mut gateway) = usual().await;
    gateway.signal(Signal::HUP);
    reaches(&gateway, 2).await;
    gateway.change(|s| s.role("user", "allow = {}"));
    reaches(&gateway, 3).await;
    let session = gateway.login("100").await;
    assert_eq!(status(&gateway, "/api/v2/cdr/1", &session).await, 403);
}

#[tokio::test]
async fn a_fault_leaves_the_running_one_in_place_and_is_told_everywhere() {
    let (_upstream, mut gateway) = usual().await;
    let session = gateway.login("100").await;
    let answer = gateway
        .reload_with(|s| {
            s.set("limits.max_conections", "1");
            s.set("upstreams.engine.balance", "'fair'");
        })
        .await;
    assert_eq!(answer.status, 409);
    let faults = answer.json()["faults"].as_array().unwrap().clone();
    assert!(
        faults.len() == 2 && faults.iter().all(|f| f.as_str().unwrap().contains("postern.toml:")),
        "{faults:?}"
    );
    assert_eq!(gateway.generation().await, 1);
    assert_eq!(status(&gateway, "/api/v2/cdr/1", &session).await, 200);
    let output = gateway.output();
    assert!(output.contains("max_conections") && output.contains("balance"), "{output}");
    assert!(gateway.metric("postern_config_reloads_total", &["refused"]).await >= 1.0);
    gateway
        .reload_with(|s| {
            s.unset("limits.max_conections");
            s.unset("upstreams.engine.balance");
        })
        .await
        .assert_ok();
    assert_eq!(gateway.metric("postern_config_generation", &[]).await, 2.0);
}

#[tokio::test]
async fn what_cannot_change_while_it_runs_is_named() {
    let (_upstream, mut gateway) = usual().await;
    let answer = gateway.reload_with(|s| s.set("sessions.file", "'other.db'")).await;
    let warnings = answer.assert_ok().json()["warnings"].to_string();
    assert!(warnings.contains("sessions.file") && warnings.contains("next start"), "{warnings}");
}

/// A file that is replaced by removing it first, as some scripts do.
#[tokio::test]
async fn a_file_that_was_away_is_taken_up_when_it_is_there_again() {
    let (_upstream, gateway) = usual().await;
    let path = gateway.folder().join("gateway.crt");
    let certificate = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    until_async("the refusal", || async {
        gateway.metric("postern_config_reloads_total", &["refused"]).await >= 1.0
    })
    .await;
    std::fs::write(&path, certificate).unwrap();
    reaches(&gateway, 2).await;
}

#[tokio::test]
async fn routes_limits_and_upstreams_are_exchanged() {
    let (_first, mut gateway) = usual().await;
    let second = TestUpstream::named("second").await;
    let url = second.url();
    let session = gateway.login("admin").await;
    gateway
        .reload_with(|s| {
            s.set("upstreams.engine.servers", &format!("['{url}']"));
            s.route("path = '/fresh'\naccess = 'public'\nupstream = 'engine'");
            s.set("limits.max_header_bytes", "'8KiB'");
        })
        .await
        .assert_ok();
    assert_eq!(gateway.ask(Ask::get("/up/echo").with(&session)).await.json()["server"], "second");
    assert_eq!(gateway.ask(Ask::get("/fresh/x")).await.status, 200);
    let long = Ask::get("/public/x").header("X-Long", "l".repeat(10_000));
    assert_eq!(gateway.ask(long).await.status, 431);
}

#[tokio::test]
async fn the_log_level_changes() {
    let (_upstream, mut gateway) = usual().await;
    gateway.ask(Ask::get("/closed/a")).await;
    assert!(!gateway.output().contains("\"refused\""));
    gateway.reload_with(|s| s.set("log.level", "'debug'")).await.assert_ok();
    gateway.ask(Ask::get("/closed/b")).await;
    until("a line of the new level", || gateway.output().contains("\"refused\"").then_some(())).await;
}

#[tokio::test]
async fn a_new_certificate_is_shown_and_open_connections_go_on() {
    let (_upstream, mut gateway) = usual().await;
    let session = gateway.login("admin").await;
    let mut client = gateway.tls_client().await;
    client.ask(&Ask::get("/up/echo").with(&session)).await.assert_ok();
    let serial = async |gateway: &TestGateway| {
        let offer = Offer { alpn: &["http/1.1"], ..Offer::default() };
        let stream = gateway.authority().connect(gateway.https(), &offer).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let before = serial(&gateway).await;
    let leaf = gateway.authority().server(&["localhost", DOMAIN, "127.0.0.1"]);
    gateway
        .reload_with(|s| {
            s.file("gateway.crt", leaf.certificate.as_bytes());
            s.file("gateway.key", leaf.key.as_bytes());
        })
        .await
        .assert_ok();
    assert_ne!(serial(&gateway).await, before);
    client.ask(&Ask::get("/up/echo").with(&session)).await.assert_ok();
}

/// Half a certificate exchange: the chain is new, the key is not yet.
#[tokio::test]
async fn a_key_that_does_not_fit_its_certificate_changes_nothing() {
    let (_upstream, mut gateway) = usual().await;
    let leaf = gateway.authority().server(&["localhost"]);
    let answer = gateway.reload_with(|s| s.file("gateway.crt", leaf.certificate.as_bytes())).await;
    assert_eq!(answer.status, 409);
    gateway.tls_client().await.ask(&Ask::get("/public/x")).await.assert_ok();
}

/// Requests on many connections without a pause, while the configuration is exchanged a hundred times, twenty times
/// with another certificate: none fails.
#[tokio::test]
async fn a_hundred_reloads_under_load_fail_no_request() {
    let (_upstream, mut gateway) = usual().await;
    let session = Arc::new(gateway.login("admin").await);
    let (stop, good) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = Vec::new();
    for n in 0..8 {
        let mut client = if n % 2 == 0 { gateway.client().await } else { gateway.tls_client().await };
        let (stop, good, session) = (Arc::clone(&stop), Arc::clone(&good), Arc::clone(&session));
        clients.push(tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                client.ask(&Ask::get("/up/echo").with(&session)).await.assert_ok();
                good.fetch_add(1, Ordering::Relaxed);
            }
        }));
    }
    for n in 0..100 {
        let leaf = (n % 5 == 0).then(|| gateway.authority().server(&["localhost", DOMAIN, "127.0.0.1"]));
        let answer = gateway
            .reload_with(|s| {
                s.set("limits.max_requests", &(1000 + n).to_string());
                if let Some(leaf) = leaf {
                    s.file("gateway.crt", leaf.certificate.as_bytes());
                    s.file("gateway.key", leaf.key.as_bytes());
                }
            })
            .await;
        // The watch may come in between two files and be refused; what is asked for here is whole.
        answer.assert_ok();
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("every request was answered 200");
    }
    assert!(good.load(Ordering::Relaxed) > 100 && gateway.generation().await >= 101);
}
