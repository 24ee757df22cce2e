//! `[sessions] file`: what was answered 200 survives `kill -9` (contract sections 2 and 3).

use futures_util::future::join_all;

use crate::support::settings::Settings;
use crate::support::{Ask, PASSWORD, Session, TestClient, TestGateway, TestUpstream, configured};

/// Two hundred sessions, half of them ended, and a kill in the midst of more of both.
#[tokio::test]
async fn no_acknowledged_login_or_logout_is_lost_by_kill_9() {
    let (_upstream, mut gateway) = configured(|_| {}).await;
    let mut alive = Vec::new();
    let mut ended = Vec::new();
    for _ in 0..10 {
        let sessions = join_all((0..20).map(|_| gateway.login("100"))).await;
        let (keep, end) = sessions.split_at(10);
        for answer in
            join_all(end.iter().map(|session| gateway.ask(Ask::post("/logout").with(session)))).await
        {
            answer.assert_ok();
        }
        alive.extend_from_slice(keep);
        ended.extend_from_slice(end);
    }
    let (more_alive, more_ended, unsure) = killed_under_load(&mut gateway, alive.split_off(60)).await;
    alive.extend(more_alive);
    ended.extend(more_ended);

    gateway.restart().await;
    for session in &alive {
        assert!(gateway.knows(session).await, "an acknowledged login was lost");
    }
    for session in &ended {
        assert!(!gateway.knows(session).await, "an acknowledged logout was lost");
    }
    // Asked and not answered: either is right, but it is one of the two.
    for session in &unsure {
        gateway.knows(session).await;
    }
}

/// Logs in and out at once and kills it after the first answers. Answers the sessions that an answered login made,
/// those that an answered logout ended, and those whose logout was asked and not answered.
async fn killed_under_load(
    gateway: &mut TestGateway,
    to_end: Vec<Session>,
) -> (Vec<Session>, Vec<Session>, Vec<Session>) {
    let addr = gateway.http();
    let logins = (0..60).map(|_| tokio::spawn(try_ask(addr, Ask::login("200@example.org", PASSWORD), None)));
    let logouts = to_end
        .into_iter()
        .map(|session| tokio::spawn(try_ask(addr, Ask::post("/logout").with(&session), Some(session))));
    let tasks: Vec<_> = logins.chain(logouts).collect();
    let answered = || tasks.iter().filter(|task| task.is_finished()).count();
    crate::support::wait::until("the first answers", || (answered() >= 15).then_some(())).await;
    gateway.kill9();

    let (mut alive, mut ended, mut unsure) = (Vec::new(), Vec::new(), Vec::new());
    for result in join_all(tasks).await {
        match result.unwrap() {
            (Some(body), None) => alive.push(Session::of(body)),
            (Some(_), Some(session)) => ended.push(session),
            (None, Some(session)) => unsure.push(session),
            (None, None) => {}
        }
    }
    (alive, ended, unsure)
}

/// The body of a 200 that came whole.
async fn try_ask(
    addr: std::net::SocketAddr,
    ask: Ask,
    session: Option<Session>,
) -> (Option<serde_json::Value>, Option<Session>) {
    let Ok(stream) = tokio::net::TcpStream::connect(addr).await else { return (None, session) };
    let mut client = TestClient::over(stream);
    client.send(ask.bytes()).await;
    let answer = client.try_answer().await.filter(|answer| answer.status == 200 && answer.complete);
    (answer.map(|answer| answer.json()), session)
}

#[tokio::test]
async fn a_session_survives_a_restart_with_all_that_is_known_of_it() {
    let (upstream, mut gateway) = configured(|_| {}).await;
    let session = gateway.login("100").await;
    assert_eq!(gateway.terminate().await, 0);
    gateway.restart().await;
    gateway.ask(Ask::get("/api/v2/cdr/x").with(&session)).await.assert_ok();
    let seen = upstream.only();
    assert_eq!(
        (seen.header("x-webitel-user"), seen.header("x-webitel-role")),
        (Some("100@example.org"), Some("user"))
    );
    gateway.ask(Ask::post("/logout").with(&session)).await.assert_ok();
    gateway.restart().await;
    assert!(!gateway.knows(&session).await);
}

#[tokio::test]
async fn sessions_follow_a_user_file_that_changed_while_nothing_ran() {
    let (_upstream, mut gateway) = configured(|settings| settings.user("gone@example.org", "user")).await;
    let (promoted, gone) = (gateway.login("100").await, gateway.login("gone").await);
    gateway.ask(Ask::get("/api/v2/vault").with(&promoted)).await.assert_refusal(403, "Permission denied!");
    gateway
        .restart_with(|settings| {
            settings.user("100@example.org", "admin");
            settings.remove_user("gone@example.org");
        })
        .await;
    gateway.ask(Ask::get("/api/v2/vault").with(&promoted)).await.assert_ok();
    gateway.ask(Ask::get("/me/x").with(&gone)).await.assert_error(401);
}

#[tokio::test]
async fn an_expired_session_does_not_come_back_with_a_restart() {
    let (_upstream, mut gateway) = configured(|settings| settings.set("token.ttl", "'1s'")).await;
    let session = gateway.login("100").await;
    crate::support::wait::until_async("the session to expire", || async {
        gateway.ask(Ask::get("/me/x").with(&session)).await.status == 401
    })
    .await;
    gateway.restart().await;
    gateway.ask(Ask::get("/me/x").with(&session)).await.assert_error(401);
}

#[tokio::test]
async fn logins_after_a_restart_share_no_expiry_with_those_before() {
    let (_upstream, mut gateway) = configured(|_| {}).await;
    let before = gateway.login("100").await;
    gateway.kill9();
    gateway.restart().await;
    let after = gateway.login("100").await;
    assert_ne!(before.answer["expires"], after.answer["expires"]);
    assert_ne!(before.token, after.token);
}

fn in_memory(settings: &mut Settings) {
    settings.set("sessions.file", "''");
}

#[tokio::test]
async fn sessions_in_memory_alone_end_with_the_process_and_leave_no_file() {
    let upstream = TestUpstream::start().await;
    let mut gateway = TestGateway::configured(&upstream, in_memory).await;
    let session = gateway.login("100").await;
    assert!(gateway.knows(&session).await);
    assert!(!gateway.folder().join("sessions.db").exists());
    gateway.restart().await;
    assert!(!gateway.knows(&session).await);
}

/// What is on disk is of no use to a thief (contract section 4: keys and tokens are kept as hashes).
#[tokio::test]
async fn no_file_holds_a_key_a_token_or_a_password() {
    let (_upstream, mut gateway) = configured(|_| {}).await;
    let session = gateway.login("100").await;
    gateway.ask(Ask::get("/me/x").with(&session)).await.assert_ok();
    assert_eq!(gateway.terminate().await, 0);
    let signature = session.token.rsplit('.').next().unwrap();
    let mut read = 0;
    for entry in std::fs::read_dir(gateway.folder()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        for secret in [session.key.as_str(), signature, PASSWORD] {
            let found = crate::support::wire::find(&bytes, secret.as_bytes());
            assert!(found.is_none(), "{} holds a secret", path.display());
        }
        read += 1;
    }
    assert!(read > 4, "the folder was not read");
}

/// Sessions follow the user file (contract section 2), also one that changed while nothing ran.
#[tokio::test]
async fn a_user_who_left_the_file_has_no_session() {
    let (_upstream, mut gateway) = configured(|_| {}).await;
    let (leaver, stayer) = (gateway.login("100").await, gateway.login("200").await);
    assert!(gateway.knows(&leaver).await && gateway.knows(&stayer).await);
    gateway.restart_with(|settings| settings.remove_user("100@example.org")).await;
    assert!(!gateway.knows(&leaver).await, "who left the file is still known");
    assert!(gateway.knows(&stayer).await);
}
